"""The dial: how large a lease may be, how long it lasts, and what that costs."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.codec import decode, encode
from aigovtool.errors import InvalidValueError
from aigovtool.ids import digest_of
from aigovtool.ledger.inputs import InputTerms
from aigovtool.ledger.policy import (
    MAX_REQUEST_MS,
    Consequences,
    Dial,
    Level,
    ServingPolicy,
    consequences,
    default_policy,
    lease_cap,
)
from aigovtool.ledger.units import Dimension, UnitVector

DIALS = st.sampled_from(list(Dial))


@pytest.mark.parametrize(
    ("dial", "remaining", "limit", "cap"),
    [
        (Dial.BOUND, 100_000, 100_000, 1),
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


@pytest.mark.parametrize("dial", [Dial.BOUND, Dial.STRICT, Dial.BALANCED])
@pytest.mark.parametrize("ttl_ms", [0, 999, 300_001])
def test_a_connected_dial_refuses_a_ttl_that_it_does_not_mean(dial: Dial, ttl_ms: int) -> None:
    """Only island may go on for hours without its custodian."""
    with pytest.raises(InvalidValueError) as caught:
        default_policy(dial, ttl_ms=ttl_ms)
    assert caught.value.reason == "bad_ttl"
    assert caught.value.fix is not None


@pytest.mark.parametrize(
    ("dial", "ttl_ms"),
    [(Dial.BOUND, 30_000), (Dial.STRICT, 30_000), (Dial.BALANCED, 30_000), (Dial.ISLAND, 14_400_000)],
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
        msgspec.structs.replace(policy, max_run_ms=1),
        msgspec.structs.replace(policy, inputs=InputTerms(finite=True)),
        msgspec.structs.replace(policy, inputs=InputTerms(batch=True)),
        msgspec.structs.replace(policy, inputs=InputTerms(finite=True, batch=True)),
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
        {"max_run_ms": 0},
        {"max_run_ms": MAX_REQUEST_MS + 1},
        {"inputs": {}},
        {"inputs": {"finite": False}},
        {"inputs": {"finite": False, "batch": False}},
        {"inputs": {"finite": True, "small": True}},
    ],
)
def test_a_policy_from_outside_stays_within_its_domain(edit: dict[str, object]) -> None:
    """A dial, ttl, share or level that does not exist is refused, and so is a member nobody knows."""
    policy = msgspec.to_builtins(default_policy(Dial.STRICT))
    assert decode(encode(policy), ServingPolicy) == default_policy(Dial.STRICT)
    with pytest.raises(InvalidValueError):
        decode(encode({**policy, **edit}), ServingPolicy)


# --- Several dimensions --------------------------------------------------------------------------

#: The policies of version 1 in their only encoding, and their digests, as they stand in logs.
OLD_POLICIES = [
    (
        (
            b'{"version":1,"dial":"strict","ttl_ms":30000,"wipe_after_ms":600000,"dimension":"inferences",'
            b'"required":["model"],"max_unclosed_percent_per_instance":25,"max_unclosed_percent_per_borrower":50,'
            b'"max_lease_units":1000000,"max_attestation_age_ms":86400000}'
        ),
        default_policy(Dial.STRICT),
    ),
    (
        (
            b'{"version":7,"dial":"island","ttl_ms":3600000,"wipe_after_ms":7200000,"dimension":"inferences",'
            b'"required":["model"],"max_unclosed_percent_per_instance":25,"max_unclosed_percent_per_borrower":50,'
            b'"max_lease_units":1000000,"max_attestation_age_ms":86400000}'
        ),
        default_policy(Dial.ISLAND, ttl_ms=3_600_000, version=7),
    ),
]


@pytest.mark.parametrize(("text", "policy"), OLD_POLICIES, ids=["strict", "island"])
def test_a_policy_of_one_dimension_keeps_its_bytes_and_its_digest(text: bytes, policy: ServingPolicy) -> None:
    """What logs have named stays what it was: members that came later are not written where they say nothing."""
    assert decode(text, ServingPolicy) == policy
    assert encode(decode(text, ServingPolicy)) == text
    assert policy.digest() == digest_of(text)


def test_what_else_is_metered_changes_the_digest() -> None:
    """A grant under other measures names other terms."""
    policies = [default_policy(Dial.STRICT, compute_ms=compute_ms) for compute_ms in (None, 1, 2)]
    assert len({policy.digest() for policy in policies}) == 3


@pytest.mark.parametrize(
    "edit",
    [
        {"dimension": "compute_ms", "request_max": {"compute_ms": 5}},
        {"dimension": "compute_ms", "also": ["inferences"], "request_max": {"compute_ms": 5}},
        {"also": ["inferences"]},
        {"also": ["input_tokens", "input_tokens"]},
        {"also": ["compute_ms"]},
        {"also": ["output_tokens"]},
        {"also": ["compute_ms", "output_tokens"], "request_max": {"compute_ms": 5}},
        {"dimension": "output_tokens"},
        {"request_max": {"compute_ms": 5}},
        {"request_max": {"inferences": 5}},
        {"also": ["input_tokens"], "request_max": {"input_tokens": 5}},
        {"also": ["compute_ms"], "request_max": {"compute_ms": 5, "output_tokens": 5}},
        {"also": ["compute_ms"], "request_max": {"compute_ms": 60_001}},
        {"also": ["output_tokens"], "request_max": {"output_tokens": 10**9 + 1}},
        {"also": ["everything"]},
    ],
    ids=str,
)
def test_measures_that_make_no_sense_together_are_refused(edit: dict[str, object]) -> None:
    """Compute alone or first, a dimension twice, no bound for what is known afterwards, a bound for anything else."""
    policy = msgspec.to_builtins(default_policy(Dial.STRICT))
    with pytest.raises(InvalidValueError):
        decode(encode({**policy, **edit}), ServingPolicy)


@pytest.mark.parametrize(
    ("edit", "counts", "least"),
    [
        ({}, ["inferences"], UnitVector(inferences=1)),
        (
            {"also": ["compute_ms"], "request_max": {"compute_ms": 5}},
            ["inferences", "compute_ms"],
            UnitVector(inferences=1, compute_ms=5),
        ),
        (
            {"dimension": "input_tokens", "also": ["output_tokens"], "request_max": {"output_tokens": 9}},
            ["input_tokens", "output_tokens"],
            UnitVector(input_tokens=1, output_tokens=9),
        ),
        (
            {"dimension": "output_tokens", "request_max": {"output_tokens": 9}},
            ["output_tokens"],
            UnitVector(output_tokens=9),
        ),
    ],
    ids=["one", "compute", "tokens", "output"],
)
def test_measures_that_make_sense_are_taken(edit: dict[str, object], counts: list[str], least: UnitVector) -> None:
    """The first is what the dial thinks in; the least of a request is one of it, and the most of what is known late."""
    policy = decode(encode({**msgspec.to_builtins(default_policy(Dial.STRICT)), **edit}), ServingPolicy)
    assert list(policy.counts) == counts
    assert policy.least == least
    assert decode(encode(policy), ServingPolicy) == policy


@pytest.mark.parametrize(
    ("compute_ms", "max_run_ms", "limit_ms"),
    [(None, None, 0), (None, 700, 700), (50, None, 50), (50, 700, 50), (700, 50, 50)],
)
def test_a_run_ends_at_the_lesser_limit(compute_ms: int | None, max_run_ms: int | None, limit_ms: int) -> None:
    """Of what is metered, and of what is not; without either at its request's deadline."""
    policy = msgspec.structs.replace(default_policy(Dial.STRICT, compute_ms=compute_ms), max_run_ms=max_run_ms)
    assert policy.run_limit_ms == limit_ms
    assert decode(encode(policy), ServingPolicy) == policy


@pytest.mark.parametrize("compute_ms", [0, -1, MAX_REQUEST_MS + 1])
def test_a_request_that_no_enclave_would_run_bounds_nothing(compute_ms: int) -> None:
    """The longest of a request is from one millisecond to the longest that any request may take."""
    with pytest.raises(InvalidValueError) as caught:
        default_policy(Dial.BALANCED, compute_ms=compute_ms)
    assert caught.value.reason == "bad_compute"


@pytest.mark.parametrize("compute_ms", [1, MAX_REQUEST_MS])
def test_compute_is_metered_beside_inferences(compute_ms: int) -> None:
    """Never alone, and reserved at the most that a request may take."""
    policy = default_policy(Dial.BALANCED, compute_ms=compute_ms)
    assert policy.counts == (Dimension.INFERENCES, Dimension.COMPUTE_MS)
    assert policy.request_max == UnitVector(compute_ms=compute_ms)
    assert decode(encode(policy), ServingPolicy) == policy


def test_a_bound_lease_is_what_one_request_needs() -> None:
    """One unit of what is known before, the most of what is not; no budget makes it larger."""
    policy = default_policy(Dial.BOUND, compute_ms=500)
    assert lease_cap(policy, Dimension.INFERENCES, 10**9, 10**9) == 1
    assert lease_cap(policy, Dimension.COMPUTE_MS, 10**9, 10**9) == 500


@pytest.mark.parametrize(("dimension", "lost"), [(Dimension.INFERENCES, 1), (Dimension.COMPUTE_MS, 500)])
def test_the_consequences_of_bound_are_told_by_the_request(dimension: Dimension, lost: int) -> None:
    """A crash loses what runs, no outage is survived, and a stop that is withheld still ends after the ttl."""
    shown = consequences(default_policy(Dial.BOUND, compute_ms=500), dimension, 10_000, 10_000)
    assert shown == Consequences(
        units_lost_on_crash_max=lost, outage_survived_ms=0, stop_bound_ms=30_015, per_request=True
    )
    assert not consequences(default_policy(Dial.STRICT), Dimension.INFERENCES, 10_000, 10_000).per_request


def test_consequences_in_compute_count_the_most_of_two_requests() -> None:
    """A strict lease of compute serves two requests, and a crash loses two such leases."""
    policy = default_policy(Dial.STRICT, compute_ms=500)
    assert consequences(policy, Dimension.COMPUTE_MS, 10_000, 10_000).units_lost_on_crash_max == 2_000
    assert consequences(policy, Dimension.INFERENCES, 10_000, 10_000).units_lost_on_crash_max == 20
