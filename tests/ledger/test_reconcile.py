"""Ledger, enclaves and consumers: books that agree are told so, and each way to disagree is named."""

from typing import Any

import msgspec
import pytest
from tests.ledger.test_entry import COMMAND, ROW

from aigovtool.ids import BorrowerId, ConsumerId, Digest, InstanceId, LeaseId, ModelId, RequestKey
from aigovtool.ledger.entry import Attested, Entry, EntryBody, LeaseClosed, LeaseExpired, LeaseGranted, LeaseWrittenOff
from aigovtool.ledger.receipt import Receipt, chain
from aigovtool.ledger.reconcile import Difference, Reconciliation, reconcile
from aigovtool.ledger.units import Dimension, of

MODEL, BORROWER, CONSUMER = ModelId("xray"), BorrowerId("north"), ConsumerId("anna")
INSTANCE, OTHER = InstanceId("a" * 64), InstanceId("b" * 64)
FIRST, SECOND = LeaseId("1" * 32), LeaseId("2" * 32)
DIGEST = Digest("sha256:" + "d" * 64)


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


def attested(instance: InstanceId = INSTANCE) -> Attested:
    return Attested(instance=instance, borrower=BORROWER, tee="simulated", measurement="m", result=DIGEST)


def granted(lease: LeaseId = FIRST, count: int = 10) -> LeaseGranted:
    return LeaseGranted(
        lease_id=lease,
        instance=INSTANCE,
        borrower=BORROWER,
        model=MODEL,
        consumer=CONSUMER,
        units=units(count),
        rows=[ROW],
    )


def closed(**changes: Any) -> LeaseClosed:
    made = LeaseClosed(
        lease_id=FIRST, late=False, used=units(5), charged=units(5), ok=3, err=0, receipts=head(RECEIPTS)
    )
    return msgspec.structs.replace(made, **changes)


def compared(receipts: list[Receipt], *bodies: EntryBody) -> Reconciliation:
    log = [Entry(index=index, at_ms=index, generation=0, body=body) for index, body in enumerate(bodies)]
    return reconcile(log, receipts)


def kinds(found: Reconciliation) -> list[Difference]:
    return [finding.kind for finding in found.findings]


def test_books_that_agree_are_told_so() -> None:
    """In any order of receipts, and when one is handed in twice."""
    for receipts in (RECEIPTS, RECEIPTS[::-1], RECEIPTS * 2):
        found = compared(receipts, attested(), granted(), closed())
        assert found.findings == ()
        assert not found.contradicted
        assert (found.leases, found.receipts) == (1, 3)
        assert found.charged == found.reported == found.receipted == units(5)


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
    "change", [{"instance": OTHER}, {"model": ModelId("other")}, {"consumer": ConsumerId("bert")}], ids=str
)
def test_a_receipt_is_of_the_holder_of_its_lease(change: dict[str, Any]) -> None:
    """Another enclave, model or consumer cannot have used these units."""
    found = compared([msgspec.structs.replace(RECEIPTS[0], **change)], attested(), attested(OTHER), granted())
    assert Difference.WRONG_HOLDER in kinds(found)
    assert found.contradicted


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_receipt_that_was_not_handed_in_is_missing_and_no_contradiction(number: int) -> None:
    """Which number, so that whoever collects can look for it."""
    kept = [one for index, one in enumerate(RECEIPTS) if index != number]
    found = compared(kept, attested(), granted(), closed())
    assert kinds(found) == [Difference.MISSING]
    assert f"number {number + 1}" in found.findings[0].what
    assert not found.contradicted


@pytest.mark.parametrize(
    "endings",
    [
        [],
        [LeaseExpired(lease_id=FIRST)],
        [LeaseExpired(lease_id=FIRST), LeaseWrittenOff(lease_id=FIRST, command=COMMAND)],
    ],
    ids=["open", "expired", "written off"],
)
def test_a_lease_that_nobody_closed_is_charged_in_full(endings: list[EntryBody]) -> None:
    """Its receipts show how much was really used; that is not a contradiction."""
    found = compared(RECEIPTS, attested(), granted(), *endings)
    assert kinds(found) == [Difference.UNCLOSED]
    assert (found.charged, found.receipted) == (units(10), units(5))
    assert not found.contradicted


def test_a_lease_that_cannot_be_refunded_may_be_charged_more_than_was_used() -> None:
    """TEEs whose memory can be copied are charged in full."""
    assert compared(RECEIPTS, attested(), granted(), closed(charged=units(10))).findings == ()
