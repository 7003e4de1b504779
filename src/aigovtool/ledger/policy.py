"""The serving policy of a model: how strict its leases are, and what that costs.

The dial (leases spec section 8) trades three things against each other: units lost when an enclave
crashes, how long the custodian may be away, and how long a stop can be withheld by a hostile host.
`Consequences` computes the three so that they can be shown wherever the dial is set.
"""

from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta

from aigovtool.codec import Message, encode
from aigovtool.errors import InvalidValueError
from aigovtool.ids import Digest, Millis, Units, digest_of
from aigovtool.ledger.units import Dimension

#: Share of elapsed time by which a trusted TSC may be off: 500 ppm (leases spec section 7).
CLOCK_RATE_ERROR_PPM: Final = 500
#: How long after the ttl the custodian waits for a final report before it charges a lease in full.
GRACE_MS: Final = 5_000


class Dial(StrEnum):
    """How much an enclave may do without asking."""

    STRICT = "strict"
    BALANCED = "balanced"
    ISLAND = "island"


class Level(StrEnum):
    """The scopes at which a budget row can stand."""

    MODEL = "model"
    BORROWER = "model_borrower"
    CONSUMER = "model_borrower_consumer"


class ServingPolicy(Message):
    """How leases of one model are cut. Versioned: a change is an epoch, not a re-attestation.

    `required` names the levels at which a budget row must exist: a missing one denies (absent = deny).
    """

    version: Units
    dial: Dial
    ttl_ms: Annotated[int, Meta(ge=1_000, le=86_400_000)]
    wipe_after_ms: Annotated[int, Meta(ge=1_000, le=7 * 86_400_000)]
    dimension: Dimension
    required: list[Level]
    max_unclosed_percent_per_instance: Annotated[int, Meta(ge=1, le=100)]
    max_unclosed_percent_per_borrower: Annotated[int, Meta(ge=1, le=100)]
    max_lease_units: Annotated[int, Meta(ge=1, le=10**12)]
    max_attestation_age_ms: Millis

    def digest(self) -> Digest:
        """Return the digest that grants name."""
        return digest_of(encode(self))


class Consequences(Message):
    """What a dial setting means, in numbers."""

    units_lost_on_crash_max: Units
    outage_survived_ms: Millis
    stop_bound_ms: Millis


_TTL_MS: Final = {Dial.STRICT: 30_000, Dial.BALANCED: 30_000, Dial.ISLAND: 4 * 3_600_000}


def default_policy(dial: Dial, *, ttl_ms: int | None = None, version: int = 1) -> ServingPolicy:
    """Return the documented defaults of a dial.

    Raises:
        InvalidValueError: for a ttl that the dial does not allow.
    """
    ttl = _TTL_MS[dial] if ttl_ms is None else ttl_ms
    if dial is not Dial.ISLAND and not 1_000 <= ttl <= 300_000:
        raise InvalidValueError(
            f"a ttl of {ttl} ms does not fit the {dial} dial", reason="bad_ttl", fix="use 1 to 300 seconds, or island"
        )
    return ServingPolicy(
        version=version,
        dial=dial,
        ttl_ms=ttl,
        wipe_after_ms=max(600_000, 2 * ttl),
        dimension=Dimension.INFERENCES,
        required=[Level.MODEL],
        max_unclosed_percent_per_instance=25,
        max_unclosed_percent_per_borrower=50,
        max_lease_units=1_000_000,
        max_attestation_age_ms=24 * 3_600_000,
    )


def lease_cap(policy: ServingPolicy, remaining: int, limit: int) -> int:
    """Return the largest lease that the dial allows, in units of the metered dimension; at least 1.

    strict: at most 20 units and 0.1 % of the budget; balanced: at most 1 % of what remains; island: a
    tenth of what remains.
    """
    if policy.dial is Dial.STRICT:
        cap = min(20, limit // 1_000)
    elif policy.dial is Dial.BALANCED:
        cap = remaining // 100
    else:
        cap = remaining // 10
    return max(1, min(cap, policy.max_lease_units))


def consequences(policy: ServingPolicy, remaining: int, limit: int) -> Consequences:
    """Compute what the dial means for a budget with `remaining` of `limit` units.

    A crash loses at most the lease in use and the one drawn ahead.
    """
    return Consequences(
        units_lost_on_crash_max=min(remaining, 2 * lease_cap(policy, remaining, limit)),
        outage_survived_ms=policy.ttl_ms,
        stop_bound_ms=policy.ttl_ms + policy.ttl_ms * CLOCK_RATE_ERROR_PPM // 1_000_000,
    )
