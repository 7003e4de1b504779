"""Rules of the appraisal policy as a document: typed, versioned, and nothing accepted by absence."""

import msgspec
import pytest
from tests.attestation.test_appraisal import WHY, entry, policy

from aigovtool.attestation.model import Label
from aigovtool.attestation.policy import (
    AcceptedTee,
    AppraisalPolicy,
    PolicyMark,
    mark_of,
    policy_digest,
    require_successor,
)
from aigovtool.codec import decode, encode
from aigovtool.errors import AppraisalError, InvalidValueError
from aigovtool.ids import digest_of

#: What an entry may leave out: then no advisory is accepted, and no collateral that is older than 30 days.
DEFAULTED = ("advisories", "max_collateral_age_ms", "label", "trusted_clock_required")


@pytest.mark.parametrize("where", ["policy", "entry"])
@pytest.mark.parametrize("name", ["debug", "allow_debug", "debug_allowed"])
@pytest.mark.attack(5)
@pytest.mark.fault(21)
def test_no_policy_can_allow_debug(where: str, name: str) -> None:
    """A policy file that adds a field for debug is refused as a whole."""
    raw = msgspec.to_builtins(policy())
    (raw if where == "policy" else raw["accepted"][0])[name] = True
    with pytest.raises(InvalidValueError):
        decode(encode(raw), AppraisalPolicy)


@pytest.mark.parametrize("name", [name for name in AcceptedTee.__struct_fields__ if name not in DEFAULTED])
def test_an_entry_that_leaves_a_field_out_is_no_entry(name: str) -> None:
    """Nothing is accepted by absence: what has no refusing default is required."""
    raw = msgspec.to_builtins(policy())
    del raw["accepted"][0][name]
    with pytest.raises(InvalidValueError):
        decode(encode(raw), AppraisalPolicy)


def test_a_policy_of_before_has_the_same_digest() -> None:
    """What may be left out is not written, so that policies, and what is bound to their digests, stay what they are."""
    raw = msgspec.to_builtins(policy())
    assert not set(DEFAULTED) & raw["accepted"][0].keys()
    assert "events" not in raw["accepted"][0]["reference_values"][0]


@pytest.mark.parametrize("name", ["version", "accepted"])
def test_a_policy_needs_version_and_entries(name: str) -> None:
    """A policy without version or entries is refused, and so is an empty list of entries."""
    raw = msgspec.to_builtins(policy())
    with pytest.raises(InvalidValueError):
        decode(encode({key: value for key, value in raw.items() if key != name}), AppraisalPolicy)
    with pytest.raises(InvalidValueError):
        decode(encode(raw | {"accepted": []}), AppraisalPolicy)


def test_switches_that_are_left_out_refuse() -> None:
    """Both switches of a policy stand on the safe side when they are not written."""
    raw = msgspec.to_builtins(policy())
    del raw["memory_encryption_required"]
    del raw["allow_simulated"]
    read = decode(encode(raw), AppraisalPolicy)
    assert read.memory_encryption_required
    assert not read.allow_simulated


@pytest.mark.parametrize(
    ("field", "empty"),
    [("reference_values", []), ("chips", []), ("min_tcb", []), ("facts", [{"name": "vmpl", "allowed": []}])],
)
def test_an_empty_list_is_not_a_way_to_say_anything(field: str, empty: object) -> None:
    """An empty list of allowed values is an error, not "everything"."""
    raw = msgspec.to_builtins(policy())
    raw["accepted"][0][field] = empty
    with pytest.raises(InvalidValueError):
        decode(encode(raw), AppraisalPolicy)


@pytest.mark.parametrize("reason", ["", " \n", "\u00fc", "a" * 201])
def test_leaving_a_check_out_needs_a_reason(reason: str) -> None:
    """`unchecked` without readable words is refused."""
    raw = msgspec.to_builtins(policy())
    raw["accepted"][0]["chips"] = {"unchecked": reason}
    with pytest.raises(InvalidValueError):
        decode(encode(raw), AppraisalPolicy)


def test_two_entries_for_one_tee_are_refused() -> None:
    """Unless labels tell them apart: people must see which one evidence was judged by."""
    milan = Label("milan")
    for labels in ((None, None), (milan, milan)):
        one, other = (entry(label=label) for label in labels)
        with pytest.raises(InvalidValueError) as caught:
            AppraisalPolicy(version=1, accepted=(one, msgspec.structs.replace(other, min_tcb=WHY)))
        assert caught.value.reason == "duplicate_tee"
    told_apart = AppraisalPolicy(
        version=1, accepted=(entry(label=Label("milan")), entry(label=Label("turin")), entry())
    )
    assert decode(encode(told_apart), AppraisalPolicy) == told_apart
    assert b'label":null' not in encode(told_apart)


def test_an_older_policy_cannot_come_back() -> None:
    """A version below the newest seen is a rollback; another policy with the same version is a fork."""
    seen = mark_of(policy(version=5))
    require_successor(policy(version=5), seen)
    require_successor(policy(version=6), seen)
    with pytest.raises(AppraisalError) as rollback:
        require_successor(policy(version=4), seen)
    assert rollback.value.reason == "policy_rollback"
    with pytest.raises(AppraisalError) as fork:
        require_successor(policy(version=5, allow_simulated=True), seen)
    assert fork.value.reason == "policy_fork"
    assert decode(encode(seen), PolicyMark) == seen


def test_policy_digest_is_that_of_its_encoding() -> None:
    """Anybody can compute a policy's digest from the file with a SHA-256 tool."""
    assert policy_digest(policy()) == digest_of(encode(policy()))
    assert policy_digest(policy()) != policy_digest(policy(version=2))
    assert decode(encode(policy()), AppraisalPolicy) == policy()
