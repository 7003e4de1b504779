"""The dial: how large a lease may be, how long it lasts, and what that costs."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.codec import decode, encode
from aigovtool.errors import InvalidValueError
from aigovtool.ledger.policy import Dial, Level, ServingPolicy, consequences, default_policy, lease_cap
from aigovtool.ledger.units import Dimension

DIALS = st.sampled_from(list(Dial))


@pytest.mark.parametrize(
    ("dial", "remaining", "limit", "cap"),
    [
        (Dial.STRICT, 100_000, 100_000, 20),
        (Dial.STRICT, 5, 100_000, 20),
        (Dial.STRICT, 10_000, 10_000, 10),
        (Dial.STRICT, 900, 900, 1),
        (Dial.BALANCED, 100_000, 100_000, 1_000),
        (Dial.BALANCED, 250, 100_000, 2),
        (Dial.BALANCED, 99, 100_000, 1),
        (Dial.ISLAND, 100_000, 100_000, 10_000),
        (Dial.ISLAND, 9, 100_000, 1),
        (Dial.ISLAND, 0, 0, 1),
    ],
)
def test_the_dial_bounds_a_lease(dial: Dial, remaining: int, limit: int, cap: int) -> None:
    """strict: 20 and 0.1 % of the limit; balanced: 1 % of the rest; island: a tenth of it; never less than 1."""
    assert lease_cap(default_policy(dial), Dimension.INFERENCES, remaining, limit) == cap


def test_a_policy_has_the_last_word_on_size() -> None:
    """No dial goes beyond the policy's own largest lease."""
    policy = msgspec.structs.replace(default_policy(Dial.ISLAND), max_lease_units=7)
    assert lease_cap(policy, Dimension.INFERENCES, 10**6, 10**6) == 7


@given(DIALS, st.integers(0, 10**9), st.integers(0, 10**9))
def test_less_budget_never_means_a_larger_lease(dial: Dial, fewer: int, more: int) -> None:
    """The cap grows with what remains, and is at least one unit, so that the last unit is usable."""
    fewer, more = sorted((fewer, more))
    policy = default_policy(dial)
    assert (
        1
        <= lease_cap(policy, Dimension.INFERENCES, fewer, 10**9)
        <= lease_cap(policy, Dimension.INFERENCES, more, 10**9)
    )


def test_consequences_are_computed_from_the_setting() -> None:
    """A crash loses two leases at most, an outage of one ttl is survived, a stop takes ttl and 500 ppm."""
    shown = consequences(default_policy(Dial.BALANCED), Dimension.INFERENCES, 10_000, 10_000)
    assert shown.units_lost_on_crash_max == 200
    assert shown.outage_survived_ms == 30_000
    assert shown.stop_bound_ms == 30_015
    assert consequences(default_policy(Dial.BALANCED), Dimension.INFERENCES, 1, 10_000).units_lost_on_crash_max == 1


@pytest.mark.parametrize("dial", [Dial.STRICT, Dial.BALANCED])
@pytest.mark.parametrize("ttl_ms", [0, 999, 300_001])
def test_a_connected_dial_refuses_a_ttl_that_it_does_not_mean(dial: Dial, ttl_ms: int) -> None:
    """Only island may go on for hours without its custodian."""
    with pytest.raises(InvalidValueError) as caught:
        default_policy(dial, ttl_ms=ttl_ms)
    assert caught.value.reason == "bad_ttl"
    assert caught.value.fix is not None


@pytest.mark.parametrize(
    ("dial", "ttl_ms"), [(Dial.STRICT, 30_000), (Dial.BALANCED, 30_000), (Dial.ISLAND, 14_400_000)]
)
def test_defaults_are_as_documented(dial: Dial, ttl_ms: int) -> None:
    """The ttl of each dial, a required row for the model, and a wipe that comes no sooner than two ttls."""
    policy = default_policy(dial)
    assert policy.ttl_ms == ttl_ms
    assert policy.required == [Level.MODEL]
    assert policy.wipe_after_ms >= max(600_000, 2 * ttl_ms)


def test_every_member_of_a_policy_changes_its_digest() -> None:
    """A grant names its policy by a digest that no edit leaves alone."""
    policy = default_policy(Dial.STRICT)
    edits: list[ServingPolicy] = [
        msgspec.structs.replace(policy, version=2),
        msgspec.structs.replace(policy, dial=Dial.BALANCED),
        msgspec.structs.replace(policy, ttl_ms=policy.ttl_ms + 1),
        msgspec.structs.replace(policy, wipe_after_ms=policy.wipe_after_ms + 1),
        msgspec.structs.replace(policy, required=[]),
        msgspec.structs.replace(policy, max_unclosed_percent_per_instance=26),
        msgspec.structs.replace(policy, max_unclosed_percent_per_borrower=51),
        msgspec.structs.replace(policy, max_lease_units=2),
        msgspec.structs.replace(policy, max_attestation_age_ms=1),
    ]
    assert len({policy.digest(), *(edit.digest() for edit in edits)}) == 1 + len(edits)


@pytest.mark.parametrize(
    "edit",
    [
        {"dial": "relaxed"},
        {"ttl_ms": 999},
        {"ttl_ms": 86_400_001},
        {"max_unclosed_percent_per_instance": 0},
        {"max_unclosed_percent_per_borrower": 101},
        {"max_lease_units": 0},
        {"required": ["everything"]},
        {"unlimited": True},
    ],
)
def test_a_policy_from_outside_stays_within_its_domain(edit: dict[str, object]) -> None:
    """A dial, ttl, share or level that does not exist is refused, and so is a member nobody knows."""
    policy = msgspec.to_builtins(default_policy(Dial.STRICT))
    assert decode(encode(policy), ServingPolicy) == default_policy(Dial.STRICT)
    with pytest.raises(InvalidValueError):
        decode(encode({**policy, **edit}), ServingPolicy)
