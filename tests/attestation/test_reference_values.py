"""A library of reference values: records are added and retired, never changed, and a policy takes those in use."""

import msgspec
import pytest
from tests.attestation.test_appraisal import entry, policy

from aigovtool.attestation.model import Label, MeasurementHex, TeeType
from aigovtool.attestation.policy import ReferenceSet, ReferenceValue
from aigovtool.attestation.reference_values import (
    ReferenceLibrary,
    ReferenceRecord,
    Retirement,
    added,
    retired,
    with_reference_values,
)
from aigovtool.errors import ConflictError, InvalidValueError, NotFoundError

WHY = Retirement(at_ms=9, reason="a flaw in its parser")


def record(label: str, digit: str, tee: TeeType = TeeType.SEV_SNP) -> ReferenceRecord:
    value = ReferenceValue(name=Label("launch"), digest=MeasurementHex(digit * 96))
    return ReferenceRecord(tee=tee, values=ReferenceSet(label=label, values=(value,)), origin="our lab", added_at_ms=1)


def library(*records: ReferenceRecord) -> ReferenceLibrary:
    found = ReferenceLibrary()
    for one in records:
        found = added(found, one)
    return found


def test_every_change_raises_the_version_and_keeps_history() -> None:
    """A retired build is not in use, and its record says since when and why."""
    found = retired(library(record("one", "1"), record("two", "2")), TeeType.SEV_SNP, "one", WHY)
    assert found.version == 3
    (accepted,) = with_reference_values(policy(), found).accepted
    assert [one.label for one in accepted.reference_values] == ["two"]
    assert [one.retired for one in found.records] == [WHY, None]


def test_a_label_is_given_once() -> None:
    """Also after its build was retired: whoever reads an old result must know which build it was about."""
    found = retired(library(record("one", "1")), TeeType.SEV_SNP, "one", WHY)
    with pytest.raises(ConflictError) as caught:
        added(found, record("one", "2"))
    assert caught.value.reason == "label_taken"
    added(found, record("one", "2", TeeType.TDX))


def test_a_build_is_in_use_under_one_label() -> None:
    """Else retiring it would leave it accepted; once retired, it may come back under another label."""
    found = library(record("one", "1"))
    with pytest.raises(ConflictError) as caught:
        added(found, record("copy", "1"))
    assert caught.value.reason == "values_known"
    added(retired(found, TeeType.SEV_SNP, "one", WHY), record("copy", "1"))


def test_what_is_not_there_or_retired_cannot_be_retired() -> None:
    """Each with its reason; the TEE is part of the name."""
    found = library(record("one", "1"))
    for tee, label in ((TeeType.SEV_SNP, "two"), (TeeType.TDX, "one")):
        with pytest.raises(NotFoundError):
            retired(found, tee, label, WHY)
    with pytest.raises(ConflictError) as caught:
        retired(retired(found, TeeType.SEV_SNP, "one", WHY), TeeType.SEV_SNP, "one", WHY)
    assert caught.value.reason == "already_retired"


def test_a_policy_takes_the_builds_in_use() -> None:
    """In the next version, for the TEEs that the library knows; others stay as they are."""
    tdx = msgspec.structs.replace(entry(), tee=TeeType.TDX)
    before = msgspec.structs.replace(policy(), accepted=(entry(), tdx))
    found = library(record("one", "1"), record("two", "2"))
    after = with_reference_values(before, found)
    assert after.version == before.version + 1
    assert after.accepted[0].reference_values == tuple(one.values for one in found.records)
    assert after.accepted[1] == tdx


def test_a_policy_that_would_accept_nothing_is_not_made() -> None:
    """An empty list is not a way to say anything."""
    found = retired(library(record("one", "1")), TeeType.SEV_SNP, "one", WHY)
    with pytest.raises(InvalidValueError) as caught:
        with_reference_values(policy(), found)
    assert caught.value.reason == "no_reference_values"


def test_a_build_goes_to_the_entry_that_it_is_for() -> None:
    """Attack: the lab's build, which only the lab's chip may run, becomes one that any chip may run."""
    lab, prod = (msgspec.structs.replace(entry(), label=Label(name)) for name in ("lab", "prod"))
    before = msgspec.structs.replace(policy(), accepted=(lab, prod))
    found = library(
        msgspec.structs.replace(record("trial", "1"), entry=Label("lab")),
        msgspec.structs.replace(record("release", "2"), entry=Label("prod")),
    )
    after = with_reference_values(before, found)
    labels = [[one.label for one in known.reference_values] for known in after.accepted]
    assert labels == [["trial"], ["release"]]
    for nowhere in (
        library(record("trial", "1")),
        library(msgspec.structs.replace(found.records[0], entry=Label("x"))),
    ):
        with pytest.raises(InvalidValueError) as caught:
            with_reference_values(before, nowhere)
        assert caught.value.reason == "entry_not_named"
    assert with_reference_values(before, library(record("other", "3", TeeType.TDX))).accepted == before.accepted
