"""Ledger, enclaves and consumers: books that agree are told so, and each way to disagree is named."""

from typing import Any

import msgspec
import pytest
from tests.ledger.test_entry import COMMAND, KEY, ROW

from aigovtool.attestation.model import TeeType
from aigovtool.ids import BorrowerId, ConsumerId, Digest, InstanceId, LeaseId, ModelId, RequestKey
from aigovtool.ledger.enclave_list import NEVER_REFUNDED
from aigovtool.ledger.entry import (
    Attested,
    Entry,
    EntryBody,
    LeaseClosed,
    LeaseExpired,
    LeaseGranted,
    LeaseWrittenOff,
    ModelAdded,
)
from aigovtool.ledger.receipt import Receipt, chain
from aigovtool.ledger.reconcile import Difference, Reconciler, Reconciliation
from aigovtool.ledger.units import Dimension, of

MODEL, BORROWER, CONSUMER = ModelId("xray"), BorrowerId("north"), ConsumerId("anna")
INSTANCE, OTHER = InstanceId("a" * 64), InstanceId("b" * 64)
FIRST, SECOND = LeaseId("1" * 32), LeaseId("2" * 32)
DIGEST, ANOTHER = Digest("sha256:" + "d" * 64), Digest("sha256:" + "e" * 64)


def units(count: int) -> Any:
    return of(Dimension.INFERENCES, count)


def receipt(sequence: int, count: int = 1, lease: LeaseId = FIRST, **changes: Any) -> Receipt:
    made = Receipt(
        request_key=RequestKey(f"k{sequence}"),
        request=DIGEST,
        response=DIGEST,
        model=MODEL,
        manifest=DIGEST,
        consumer=CONSUMER,
        units=units(count),
        remaining=units(0),
        lease_id=lease,
        sequence=sequence,
        instance=INSTANCE,
        tee="simulated",
        at_ms=1,
    )
    return msgspec.structs.replace(made, **changes)


RECEIPTS = [receipt(1), receipt(2, 3), receipt(3)]


def head(receipts: list[Receipt]) -> str:
    found = ""
    for one in receipts:
        found = chain(found, one)
    return found


def added(manifest: Digest = DIGEST) -> ModelAdded:
    return ModelAdded(
        model=MODEL,
        manifest=manifest,
        package=DIGEST,
        package_bytes=9,
        sealer=KEY,
        policy=DIGEST,
        command=COMMAND,
    )


def attested(instance: InstanceId = INSTANCE, borrower: BorrowerId = BORROWER, tee: str = "simulated") -> Attested:
    return Attested(instance=instance, borrower=borrower, tee=tee, measurement="m", result=DIGEST)


def granted(lease: LeaseId = FIRST, count: int = 10, **changes: Any) -> LeaseGranted:
    made = LeaseGranted(
        lease_id=lease,
        instance=INSTANCE,
        borrower=BORROWER,
        model=MODEL,
        consumer=CONSUMER,
        units=units(count),
        rows=[ROW],
    )
    return msgspec.structs.replace(made, **changes)


def closed(**changes: Any) -> LeaseClosed:
    made = LeaseClosed(
        lease_id=FIRST, late=False, used=units(5), charged=units(5), ok=3, err=0, receipts=head(RECEIPTS)
    )
    return msgspec.structs.replace(made, **changes)


def compared(receipts: list[Receipt], *bodies: EntryBody) -> Reconciliation:
    """Compare receipts with a log that begins with the model, as every log with leases does."""
    log = [Entry(index=index, at_ms=index, generation=0, body=body) for index, body in enumerate([added(), *bodies])]
    return read(log, receipts)


def read(log: list[Entry], receipts: list[Receipt]) -> Reconciliation:
    books = Reconciler(receipts)
    for entry in log:
        books.take(entry)
    return books.result()


def kinds(found: Reconciliation) -> list[Difference]:
    return [finding.kind for finding in found.findings]


#: Ways in which a lease is never closed.
UNCLOSED: dict[str, list[EntryBody]] = {
    "open": [],
    "expired": [LeaseExpired(lease_id=FIRST)],
    "written off": [LeaseExpired(lease_id=FIRST), LeaseWrittenOff(lease_id=FIRST, command=COMMAND)],
}
ENDINGS: dict[str, list[EntryBody]] = {**UNCLOSED, "closed": [closed()]}


def test_books_that_agree_are_told_so() -> None:
    """In any order of receipts, and when one is handed in twice."""
    for receipts in (RECEIPTS, RECEIPTS[::-1], RECEIPTS * 2):
        found = compared(receipts, attested(), granted(), closed())
        assert found.findings == ()
        assert not found.contradicted
        assert (found.leases, found.receipts) == (1, 3)
        assert found.charged == found.reported == found.receipted == units(5)


def test_what_a_host_can_copy_is_refunded_nothing() -> None:
    """What a copy of it used is in nobody's report, so that a report refunds nothing, whatever the log says."""
    receipts = [msgspec.structs.replace(one, tee="tpm") for one in RECEIPTS]
    ending = closed(receipts=head(receipts))
    assert kinds(compared(receipts, attested(tee="tpm"), granted(), ending)) == [Difference.REFUNDED]
    whole = msgspec.structs.replace(ending, charged=units(10))
    assert kinds(compared(receipts, attested(tee="tpm"), granted(), whole)) == [Difference.CHARGED_IN_FULL]
    assert {TeeType.TPM.value} == NEVER_REFUNDED


@pytest.mark.parametrize(
    ("kind", "receipts", "bodies"),
    [
        (Difference.UNKNOWN_LEASE, [*RECEIPTS, receipt(1, lease=SECOND)], [attested(), granted(), closed()]),
        (Difference.UNKNOWN_INSTANCE, RECEIPTS, [granted(), closed()]),
        (Difference.SEQUENCE_TWICE, [*RECEIPTS, receipt(2, 3, at_ms=9)], [attested(), granted(), closed()]),
        (Difference.BEYOND_LEASE, [receipt(1, 11)], [attested(), granted()]),
        (Difference.BEYOND_REPORT, [*RECEIPTS, receipt(4)], [attested(), granted(), closed()]),
        (Difference.BEYOND_REPORT, RECEIPTS, [attested(), granted(), closed(used=units(4))]),
        (Difference.UNITS_DIFFER, RECEIPTS, [attested(), granted(), closed(used=units(6), charged=units(6))]),
        (Difference.CHAIN_DIFFERS, RECEIPTS, [attested(), granted(), closed(receipts=head(RECEIPTS[::-1]))]),
        (Difference.UNDERCHARGED, RECEIPTS, [attested(), granted(), closed(charged=units(4))]),
    ],
)
def test_a_contradiction_is_named(kind: Difference, receipts: list[Receipt], bodies: list[EntryBody]) -> None:
    """Somebody's book is wrong: an answer without a charge, a charge without an answer, or another answer."""
    found = compared(receipts, *bodies)
    assert kind in kinds(found)
    assert found.contradicted


@pytest.mark.parametrize(
    "change",
    [
        {"instance": OTHER, "tee": "sev-snp"},
        {"model": ModelId("other"), "manifest": ANOTHER},
        {"consumer": ConsumerId("bert")},
    ],
    ids=str,
)
def test_a_receipt_is_of_the_holder_of_its_lease(change: dict[str, Any]) -> None:
    """Another enclave, model or consumer cannot have used these units; what else is theirs is not listed as well."""
    admissions = [attested(), attested(OTHER, tee="sev-snp")]
    found = compared([msgspec.structs.replace(RECEIPTS[0], **change)], *admissions, granted())
    assert kinds(found) == [Difference.WRONG_HOLDER, Difference.UNCLOSED]
    assert found.contradicted


@pytest.mark.parametrize("endings", [[], [closed(ok=1, used=units(1), charged=units(1))]], ids=["open", "closed"])
def test_a_receipt_by_an_enclave_that_was_never_admitted_says_so(endings: list[EntryBody]) -> None:
    """Beside that it does not hold the lease; wherever in the log another enclave is admitted."""
    stranger = [receipt(1, instance=OTHER)]
    found = compared(stranger, attested(), granted(), *endings)
    assert {Difference.WRONG_HOLDER, Difference.UNKNOWN_INSTANCE} <= set(kinds(found))
    known = compared(stranger, attested(), granted(), *endings, attested(OTHER))
    assert Difference.UNKNOWN_INSTANCE not in kinds(known)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_receipt_that_was_not_handed_in_is_missing_and_no_contradiction(number: int) -> None:
    """Which number, so that whoever collects can look for it."""
    kept = [one for index, one in enumerate(RECEIPTS) if index != number]
    found = compared(kept, attested(), granted(), closed())
    assert kinds(found) == [Difference.MISSING]
    assert f"number {number + 1}" in found.findings[0].what
    assert not found.contradicted


@pytest.mark.parametrize("endings", UNCLOSED.values(), ids=UNCLOSED)
def test_a_lease_that_nobody_closed_is_charged_in_full(endings: list[EntryBody]) -> None:
    """Its receipts show how much was really used; that is not a contradiction."""
    found = compared(RECEIPTS, attested(), granted(), *endings)
    assert kinds(found) == [Difference.UNCLOSED]
    assert ("still open" in found.findings[0].what) == (not endings)
    assert (found.charged, found.receipted) == (units(10), units(5))
    assert not found.contradicted


def test_a_lease_that_cannot_be_refunded_may_be_charged_more_than_was_used() -> None:
    """TEEs whose memory can be copied are charged in full: that is said, and is no contradiction."""
    found = compared(RECEIPTS, attested(), granted(), closed(charged=units(10)))
    assert kinds(found) == [Difference.CHARGED_IN_FULL]
    assert "10 inferences" in found.findings[0].what
    assert not found.contradicted


def test_nothing_is_charged_that_was_not_granted() -> None:
    """More than the whole lease is no charge in full."""
    found = compared(RECEIPTS, attested(), granted(), closed(charged=units(11)))
    assert Difference.BEYOND_LEASE in kinds(found)
    assert found.contradicted


# --- What a receipt says of itself --------------------------------------------------------------------


@pytest.mark.parametrize("endings", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (Difference.WRONG_MANIFEST, {"manifest": ANOTHER}),
        (Difference.WRONG_TEE, {"tee": "sev-snp"}),
        (Difference.WRONG_NUMBER, {"sequence": 0}),
        (Difference.UNPAID, {"units": units(0)}),
    ],
)
def test_a_receipt_says_what_the_log_says(kind: Difference, change: dict[str, Any], endings: list[EntryBody]) -> None:
    """The model as it was added, the TEE as it was admitted, a number from 1, and at least one inference."""
    receipts = [msgspec.structs.replace(RECEIPTS[0], **change), *RECEIPTS[1:]]
    found = compared(receipts, attested(), granted(), *endings)
    assert kind in kinds(found)
    assert found.contradicted


def test_a_receipt_is_measured_by_what_was_in_force_when_its_lease_was_granted() -> None:
    """Adding a model anew, or admitting the enclave anew, does not excuse what was signed before."""
    receipts = [receipt(1, manifest=ANOTHER, tee="sev-snp")]
    found = compared(receipts, attested(), granted(), added(ANOTHER), attested(tee="sev-snp"))
    assert set(kinds(found)) == {Difference.WRONG_MANIFEST, Difference.WRONG_TEE, Difference.UNCLOSED}


def test_the_receipts_of_a_lease_for_one_request_are_of_one_request() -> None:
    """In bound mode; copies of an enclave that both use the first number are found out as well."""
    bound = granted(request=DIGEST)
    assert compared(RECEIPTS, attested(), bound, closed()).findings == ()
    others = [receipt(1), receipt(2, 3, request=ANOTHER), receipt(3)]
    report = closed(receipts=head(others))
    assert kinds(compared(others, attested(), bound, report)) == [Difference.OTHER_REQUEST]
    assert compared(others, attested(), granted(), report).findings == ()
    copies = [receipt(1), receipt(1, request=ANOTHER)]
    assert Difference.OTHER_REQUEST in kinds(compared(copies, attested(), bound))


def test_a_receipt_is_counted_and_listed_once() -> None:
    """However often it is handed in; also one that contradicts another, or is of no lease."""
    twins = [receipt(2, 3, at_ms=9), receipt(1, lease=SECOND)]
    once = compared([*RECEIPTS, *twins], attested(), granted(), closed())
    again = compared([*RECEIPTS, *twins, *twins], attested(), granted(), closed())
    assert kinds(again).count(Difference.SEQUENCE_TWICE) == kinds(again).count(Difference.UNKNOWN_LEASE) == 1
    assert again == once


def test_nobody_can_say_which_of_two_receipts_a_report_commits_to() -> None:
    """Whichever was handed in first: their number is there twice, and the chain is not judged."""
    twin = receipt(2, 3, at_ms=9)
    for receipts in ([*RECEIPTS, twin], [twin, *RECEIPTS]):
        found = compared(receipts, attested(), granted(), closed())
        assert kinds(found) == [Difference.SEQUENCE_TWICE, Difference.BEYOND_REPORT]


def test_what_two_copies_of_an_enclave_answered_adds_up() -> None:
    """Both receipts of one number are the enclave's word: together they are more than the lease had."""
    copies = [receipt(1, 6), receipt(1, 6, at_ms=9)]
    for receipts in (copies, copies[::-1]):
        found = compared(receipts, attested(), granted())
        assert {Difference.SEQUENCE_TWICE, Difference.BEYOND_LEASE} <= set(kinds(found))
        assert (found.receipts, found.receipted) == (2, units(12))
