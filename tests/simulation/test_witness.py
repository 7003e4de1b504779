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


@pytest.mark.parametrize(("granted_since", "fits"), [(10, True), (11, False)])
def test_what_was_closed_in_a_lost_part_is_not_counted_in_full_when_it_is_lost_again(
    granted_since: int, *, fits: bool
) -> None:
    """Of 20 units 5 were used and 15 granted again, in what was lost; a ledger that charged all 20 was lost as well."""
    first = lease(1, 20)
    closed = msgspec.structs.replace(first, state=LeaseState.CLOSED, seen=UnitVector(inferences=5))
    in_full = msgspec.structs.replace(closed, refundable=False)
    again = lease(2, 25)
    witness = Witness(Scene(0, Weather()))
    witness.memory.closed = {first.lease_id: closed}
    witness.memory.forgotten = {first.lease_id: in_full, again.lease_id: again}
    newest = lease(3, granted_since)
    writes = Transaction(Ledger(head=Head(), limits=[LIMIT]), 1)
    writes.leases[newest.lease_id] = newest
    if fits:
        witness._not_twice([LIMIT], newest, writes)
    else:
        with pytest.raises(Violation, match="41 units are granted"):
            witness._not_twice([LIMIT], newest, writes)
