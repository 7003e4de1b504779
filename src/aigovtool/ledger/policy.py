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
from aigovtool.ledger.answers import AnswerTerms
from aigovtool.ledger.inputs import InputTerms
from aigovtool.ledger.units import ZERO, Dimension, UnitVector, of, only_zero

#: Share of elapsed time by which a trusted TSC may be off: 500 ppm (leases spec section 7).
CLOCK_RATE_ERROR_PPM: Final = 500
#: How long after the ttl the custodian waits for a final report before it charges a lease in full.
GRACE_MS: Final = 5_000
#: The longest that one request may compute, and the most that it may write.
MAX_REQUEST_MS: Final = 60_000
_MOST_TOKENS: Final = 10**9

TtlMillis = Annotated[int, Meta(ge=1_000, le=86_400_000)]
SilenceMillis = Annotated[int, Meta(ge=1_000, le=7 * 86_400_000)]
RunMillis = Annotated[int, Meta(ge=1, le=MAX_REQUEST_MS)]


class Dial(StrEnum):
    """How much an enclave may do without asking.

    `BOUND` is for one request at a time: a lease names the request for which it was granted, and serves no other.
    """

    BOUND = "bound"
    STRICT = "strict"
    BALANCED = "balanced"
    ISLAND = "island"


class Level(StrEnum):
    """The scopes at which a budget row can stand."""

    MODEL = "model"
    BORROWER = "model_borrower"
    CONSUMER = "model_borrower_consumer"


class ServingPolicy(Message, omit_defaults=True):
    """How leases of one model are cut. Versioned: a change is an epoch, not a re-attestation.

    `required` names the levels at which a budget row must exist, in each dimension that is metered: a missing one
    denies (absent = deny). `dimension` and `also` are what is metered. `request_max` is the most that one request may
    take of a dimension whose use is known only afterwards: it is reserved before, and the work is ended there.
    `max_run_ms` is the longest that the engine may work on one run; without it, until the request's deadline.
    `answers` restricts what leaves; without it, all that the model gives does, as it is. `inputs` says what is taken.

    Raises:
        ValueError: (an `InvalidValueError` where it is decoded) for dimensions that make no sense together.
    """

    version: Units
    dial: Dial
    ttl_ms: TtlMillis
    wipe_after_ms: SilenceMillis
    dimension: Dimension
    required: list[Level]
    max_unclosed_percent_per_instance: Annotated[int, Meta(ge=1, le=100)]
    max_unclosed_percent_per_borrower: Annotated[int, Meta(ge=1, le=100)]
    max_lease_units: Annotated[int, Meta(ge=1, le=10**12)]
    max_attestation_age_ms: Millis
    also: tuple[Dimension, ...] = ()
    request_max: UnitVector = ZERO
    answers: AnswerTerms | None = None
    max_run_ms: RunMillis | None = None
    inputs: InputTerms | None = None

    def __post_init__(self) -> None:
        only_zero(self, "request_max")
        if len(set(self.counts)) != len(self.counts):
            raise ValueError("a dimension is metered once")
        if self.dimension is Dimension.COMPUTE_MS:
            raise ValueError("compute_ms depends on clocks and is never the only measure: it goes among `also`")
        for dimension in self.counts:
            limited = self.request_max.get(dimension) > 0
            if limited is not (dimension in _KNOWN_AFTERWARDS):
                raise ValueError(f"`request_max` must {'not ' if limited else ''}limit {dimension.value}")
        if self.request_max.compute_ms > MAX_REQUEST_MS or self.request_max.output_tokens > _MOST_TOKENS:
            raise ValueError("`request_max` allows more than a request may take")
        if any(dimension not in self.counts for dimension, _ in self.request_max.items()):
            raise ValueError("`request_max` limits what is not metered")

    @property
    def counts(self) -> tuple[Dimension, ...]:
        """What is metered; the first is what the dial's sizes are thought in."""
        return (self.dimension, *self.also)

    @property
    def least(self) -> UnitVector:
        """What any request takes of a lease at least, while it runs."""
        return self.request_max.highest(of(self.dimension, 1))

    @property
    def finite(self) -> bool:
        """Whether inputs that hold what is no number are refused."""
        return self.inputs is not None and self.inputs.finite

    @property
    def batch(self) -> bool:
        """Whether requests that come together may be computed as the rows of one."""
        return self.inputs is not None and self.inputs.batch

    @property
    def run_limit_ms(self) -> int:
        """The longest that the engine may work on one run: whichever limit is less; 0 for none but the deadline."""
        limits = (self.request_max.compute_ms, self.max_run_ms or 0)
        return min((limit for limit in limits if limit), default=0)

    def digest(self) -> Digest:
        """Return the digest that grants name."""
        return digest_of(encode(self))


class Consequences(Message, omit_defaults=True):
    """What a dial setting means, in numbers.

    `per_request`: a crash or a stop that is withheld concerns only the requests under way, each with the units of one.
    """

    units_lost_on_crash_max: Units
    outage_survived_ms: Millis
    stop_bound_ms: Millis
    per_request: bool = False


#: Dimensions of which a request's use is not known before it is done.
_KNOWN_AFTERWARDS: Final = frozenset({Dimension.OUTPUT_TOKENS, Dimension.COMPUTE_MS})
_TTL_MS: Final = {Dial.BOUND: 30_000, Dial.STRICT: 30_000, Dial.BALANCED: 30_000, Dial.ISLAND: 4 * 3_600_000}


def default_policy(
    dial: Dial, *, ttl_ms: int | None = None, version: int = 1, compute_ms: int | None = None
) -> ServingPolicy:
    """Return the documented defaults of a dial.

    Args:
        dial: how strict.
        ttl_ms: other than the dial's own.
        version: of the terms.
        compute_ms: meter compute as well, and end a request that takes longer than this many milliseconds.

    Raises:
        InvalidValueError: for a ttl that the dial does not allow (`bad_ttl`), or a time that no request may take
            (`bad_compute`).
    """
    ttl = _TTL_MS[dial] if ttl_ms is None else ttl_ms
    if dial is not Dial.ISLAND and not 1_000 <= ttl <= 300_000:
        raise InvalidValueError(
            f"a ttl of {ttl} ms does not fit the {dial} dial", reason="bad_ttl", fix="use 1 to 300 seconds, or island"
        )
    if compute_ms is not None and not 1 <= compute_ms <= MAX_REQUEST_MS:
        raise InvalidValueError(
            f"a request cannot take {compute_ms} ms", reason="bad_compute", fix=f"use 1 to {MAX_REQUEST_MS:,} ms"
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
        also=() if compute_ms is None else (Dimension.COMPUTE_MS,),
        request_max=ZERO if compute_ms is None else of(Dimension.COMPUTE_MS, compute_ms),
    )


def lease_cap(policy: ServingPolicy, dimension: Dimension, remaining: int, limit: int) -> int:
    """Return the largest lease that the dial allows, in units of one dimension; at least 1.

    bound: what one request needs, so none beyond that. strict: at most 20 inferences and 0.1 % of the budget; balanced:
    at most 1 % of what remains; island: a tenth of what remains.
    """
    most = policy.request_max.get(dimension)
    if policy.dial is Dial.BOUND:
        return max(1, most)
    if policy.dial is Dial.STRICT:
        cap = min(20, limit // 1_000) if dimension is Dimension.INFERENCES else limit // 1_000
    elif policy.dial is Dial.BALANCED:
        cap = remaining // 100
    else:
        cap = remaining // 10
    # What is known only afterwards is reserved at its most: with less than twice that, a lease would serve one request.
    return max(1, 2 * most, min(cap, policy.max_lease_units))


def consequences(policy: ServingPolicy, dimension: Dimension, remaining: int, limit: int) -> Consequences:
    """Compute what the dial means for a budget with `remaining` of `limit` units of a dimension.

    A crash loses at most the lease in use and the one drawn ahead; in bound mode, the leases of requests under way. A
    stop that is withheld ends all releases one ttl later; in bound mode only requests under way can be released at all.
    """
    bound = policy.dial is Dial.BOUND
    return Consequences(
        units_lost_on_crash_max=min(remaining, lease_cap(policy, dimension, remaining, limit) * (1 if bound else 2)),
        outage_survived_ms=0 if bound else policy.ttl_ms,
        stop_bound_ms=policy.ttl_ms + policy.ttl_ms * CLOCK_RATE_ERROR_PPM // 1_000_000,
        per_request=bound,
    )
