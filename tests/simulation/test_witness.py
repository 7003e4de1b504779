"""The witness counts what was granted in truth, however often a ledger was lost: neither less nor more than that."""

import msgspec
import pytest
from tests.simulation.books import Ledger, Transaction
from tests.simulation.scene import MODEL, Scene, Violation, Weather
from tests.simulation.witness import Witness

from aigovtool.custodian.store.transaction import Head
from aigovtool.ids import BorrowerId, ConsumerId, Digest, InstanceId, LeaseId
from aigovtool.ledger.budget import BudgetLimit, RowKey, Scope, Window
from aigovtool.ledger.lease import Lease, LeaseState
from aigovtool.ledger.units import Dimension, UnitVector

LIMIT = BudgetLimit(scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.LIFETIME, limit=40)
ROW = RowKey(scope=LIMIT.scope, dimension=LIMIT.dimension, window=LIMIT.window, bucket_ms=0)


def lease(number: int, units: int) -> Lease:
    """Return a lease that is open."""
    return Lease(
        lease_id=LeaseId(f"{number:032x}"),
        instance=InstanceId(f"{number:064x}"),
        borrower=BorrowerId("north"),
        model=MODEL,
        manifest=Digest("sha256:" + "0" * 64),
        consumer=ConsumerId("anna"),
        units=UnitVector(inferences=units),
        rows=[ROW],
        granted_at_ms=1,
        ttl_ms=1_000,
        grace_ms=1_000,
        policy=Digest("sha256:" + "0" * 64),
        refundable=True,
    )


def transaction(*leases: Lease) -> Transaction:
    """Return a transaction of a ledger that knows these leases."""
    writes = Transaction(Ledger(head=Head(), limits=[LIMIT]), 1)
    writes.leases = {one.lease_id: one for one in leases}
    return writes


FIRST = lease(1, 20)
#: How the first one ended: by a report of what was used, or charged in full; in truth 5 units were used.
REPORTED = msgspec.structs.replace(FIRST, state=LeaseState.CLOSED, seen=UnitVector(inferences=5))
IN_FULL = msgspec.structs.replace(FIRST, state=LeaseState.WRITTEN_OFF, seen=UnitVector(inferences=2))
UNKNOWN = msgspec.structs.replace(REPORTED, refundable=False)

TWICE = pytest.mark.parametrize(
    ("before", "since"),
    [(REPORTED, FIRST), (REPORTED, IN_FULL), (REPORTED, UNKNOWN), (IN_FULL, REPORTED), (UNKNOWN, REPORTED)],
    ids=["open-again", "written-off-since", "unknown-since", "written-off-before", "unknown-before"],
)


def check(witness: Witness, granted: int, *, fits: bool, known: list[Lease]) -> None:
    """Grant so much beside what the ledger knows, and demand that the witness says what is true of it."""
    newest = lease(3, granted)
    writes = transaction(*known, newest)
    if fits:
        witness._not_twice([LIMIT], newest, writes)
    else:
        with pytest.raises(Violation, match="41 units are granted"):
            witness._not_twice([LIMIT], newest, writes)


@TWICE
@pytest.mark.parametrize(("granted", "fits"), [(10, True), (11, False)])
@pytest.mark.parametrize("lost_again", [False, True], ids=["known", "lost-again"])
def test_a_lease_counts_as_the_ledger_closed_it_that_charged_least(
    before: Lease, since: Lease, granted: int, *, fits: bool, lost_again: bool
) -> None:
    """Of 20 units 5 were used, as one ledger was told; what it gave back was granted again. Another charged the 20."""
    again = lease(2, 25)
    witness = Witness(Scene(0, Weather()))
    witness.memory.closed = {FIRST.lease_id: before}
    witness.memory.forgotten = {again.lease_id: again} | ({FIRST.lease_id: since} if lost_again else {})
    check(witness, granted, fits=fits, known=[] if lost_again else [since])


@TWICE
@pytest.mark.parametrize(("granted", "fits"), [(35, True), (36, False)])
def test_two_losses_are_remembered_by_what_was_true_in_either(
    before: Lease, since: Lease, granted: int, *, fits: bool
) -> None:
    """A ledger is put back twice to where the lease was open, and is told less at one time than at the other."""
    old = Ledger(head=Head(), limits=[LIMIT])
    old.leases[FIRST.lease_id] = FIRST
    witness = Witness(Scene(0, Weather()))
    for ended in (before, since):
        witness.leases = {FIRST.lease_id: ended}
        witness.restored(old, watched=True)
    check(witness, granted, fits=fits, known=[FIRST])


@pytest.mark.parametrize("unseen", [0, 7, 15])
def test_what_was_granted_before_anybody_looked_is_the_one_thing_that_is_not_counted(unseen: int) -> None:
    """It may be granted twice, as is said; all else together is no more than the limit, to the unit."""
    lost = lease(2, 25)
    for more, fits in ((0, True), (1, False)):
        witness = Witness(Scene(0, Weather()))
        witness.memory.unnoticed = True
        early = lease(4, unseen)
        witness.memory.granted(early, transaction(early))
        witness.memory.unnoticed = False
        witness.memory.forgotten = {lost.lease_id: lost}
        check(witness, 15 + more, fits=fits, known=[early] if unseen else [])
