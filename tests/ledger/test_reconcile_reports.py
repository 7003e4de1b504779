"""What a lease, its report and its receipts say together: gaps, impossible numbers, and a log of many leases."""

import tracemalloc

import pytest
from tests.ledger.test_reconcile import (
    FIRST,
    INSTANCE,
    RECEIPTS,
    UNCLOSED,
    added,
    attested,
    closed,
    compared,
    granted,
    head,
    kinds,
    read,
    receipt,
    units,
)

from aigovtool.ids import BorrowerId, LeaseId
from aigovtool.ledger.entry import Entry, EntryBody, Forked
from aigovtool.ledger.receipt import Receipt
from aigovtool.ledger.reconcile import Difference

SOUTH = BorrowerId("south")


@pytest.mark.parametrize(
    ("kind", "admissions"),
    [
        (Difference.WRONG_HOLDER, [attested(borrower=SOUTH), granted()]),
        (Difference.UNKNOWN_INSTANCE, [granted(), attested()]),
        (Difference.UNKNOWN_INSTANCE, [granted()]),
    ],
    ids=["another borrower's", "later", "never"],
)
@pytest.mark.parametrize("receipts", [RECEIPTS, []], ids=["with receipts", "without"])
def test_a_lease_is_granted_to_an_admitted_enclave_of_its_borrower(
    kind: Difference, admissions: list[EntryBody], receipts: list[Receipt]
) -> None:
    """The log alone shows it, and it is listed once for the lease."""
    found = compared(receipts, *admissions, closed())
    assert kinds(found).count(kind) == 1
    assert found.contradicted


@pytest.mark.parametrize("number", [0, 1])
def test_a_number_beyond_the_report_does_not_hide_what_is_missing(number: int) -> None:
    """Both are listed: what is there and should not be, and what is not there and should be."""
    found = compared([receipt(1), receipt(9)][number:], attested(), granted(), closed())
    assert kinds(found) == [Difference.BEYOND_REPORT, Difference.MISSING]
    missing = found.findings[1].what
    assert f"{2 + number} of 3" in missing
    assert f"number {2 - number}" in missing


@pytest.mark.parametrize("endings", UNCLOSED.values(), ids=UNCLOSED)
def test_a_hole_in_the_numbers_is_missing_without_any_report(endings: list[EntryBody]) -> None:
    """An enclave numbers receipts without gaps, so number 3 proves number 2."""
    found = compared([RECEIPTS[0], RECEIPTS[2]], attested(), granted(), *endings)
    assert kinds(found) == [Difference.UNCLOSED, Difference.MISSING]
    assert "1 of 3" in found.findings[1].what
    assert "number 2" in found.findings[1].what
    assert not found.contradicted


@pytest.mark.parametrize("late", [False, True])
def test_a_lease_that_two_copies_used_is_named_once(late: bool) -> None:  # noqa: FBT001 - a case, not an option
    """The log itself says so, before or after the lease was closed, and perhaps twice."""
    forks: list[EntryBody] = [Forked(instance=INSTANCE, lease_id=FIRST, epoch=epoch) for epoch in (1, 2)]
    bodies = [closed(), *forks] if late else [*forks, closed()]
    found = compared(RECEIPTS, attested(), granted(), *bodies)
    assert kinds(found) == [Difference.FORKED]
    assert found.contradicted


@pytest.mark.parametrize("answers", [6, 10**9, 2**53 - 1])
def test_a_report_of_more_answers_than_units_is_a_contradiction_and_costs_no_memory(answers: int) -> None:
    """An enclave may report any number: it is counted with, and never walked through."""
    tracemalloc.start()
    found = compared(RECEIPTS[:1], attested(), granted(), closed(ok=answers))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kinds(found) == [Difference.UNPAID, Difference.MISSING]
    assert f"{answers - 1} of {answers}" in found.findings[1].what
    assert "number 2" in found.findings[1].what
    assert peak < 100_000


@pytest.mark.parametrize(
    ("receipts", "bodies"),
    [
        ([receipt(1, 4)], [closed()]),
        ([receipt(1, 5)], [closed()]),
        ([receipt(1, 9), receipt(4)], []),
        ([receipt(2**53 - 1)], []),
    ],
    ids=["one unit for two", "none for two", "an open lease", "an absurd number"],
)
def test_missing_answers_cost_something_too(receipts: list[Receipt], bodies: list[EntryBody]) -> None:
    """At least one inference each: where nothing is left for them, somebody's book is wrong."""
    found = compared(receipts, attested(), granted(), *bodies)
    assert {Difference.UNPAID, Difference.MISSING} <= set(kinds(found))
    assert found.contradicted


def test_receipts_of_more_units_than_were_reported_are_one_difference() -> None:
    """That they are more says all: neither is anything missing, nor do the units differ once more."""
    found = compared(RECEIPTS, attested(), granted(), closed(used=units(4), charged=units(4)))
    assert kinds(found) == [Difference.BEYOND_REPORT]


def test_a_report_of_more_answers_than_units_is_a_contradiction_with_all_receipts_there() -> None:
    """Two that charge nothing, and a report that agrees with them: none of the three is right."""
    receipts = [receipt(1), receipt(2, 0), receipt(3, 0)]
    report = closed(used=units(1), charged=units(1), receipts=head(receipts))
    assert kinds(compared(receipts, attested(), granted(), report)) == [Difference.UNPAID] * 3


def test_what_a_verified_log_cannot_say_is_passed_over() -> None:
    """Entries are taken while the log is verified, so the last one may be about a lease that nobody was granted."""
    for body in (closed(), *UNCLOSED["written off"]):
        found = compared([], attested(), body)
        assert (found.leases, found.findings, found.reported) == (0, (), units(0))


def test_a_lease_without_answers_agrees() -> None:
    """Granted, closed, and nothing used."""
    found = compared([], attested(), granted(), closed(used=units(0), charged=units(0), ok=0, receipts=""))
    assert found.findings == ()
    assert (found.leases, found.receipts) == (1, 0)


def test_units_without_an_answer_differ() -> None:
    """A report of use with no receipt to commit to."""
    found = compared([], attested(), granted(), closed(ok=0, receipts=""))
    assert kinds(found) == [Difference.UNITS_DIFFER]


def test_a_lease_that_is_over_is_forgotten() -> None:
    """A log may have millions of them: what stays is what is still open, and what differs."""
    used = {"used": units(0), "charged": units(0), "ok": 0, "receipts": ""}

    def log(leases: int) -> list[Entry]:
        bodies: list[EntryBody] = [added(), attested()]
        for number in range(leases):
            lease = LeaseId(f"{number:032x}")
            bodies += [granted(lease), closed(lease_id=lease, **used)]
        return [Entry(index=index, at_ms=index, generation=0, body=body) for index, body in enumerate(bodies)]

    entries = log(2_000)
    tracemalloc.start()
    found = read(entries, [])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (found.leases, found.findings, found.charged) == (2_000, (), units(0))
    assert peak < 50_000
