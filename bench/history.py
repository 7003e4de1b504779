"""Years of use, written into a ledger at once: closed leases and their entries in the audit log.

What is written is what the custodian itself writes for a lease that was granted and closed (the store's own
functions), so that indices, roots and subtrees are those of a real ledger of that length. Only the signatures of the
enclaves and the arithmetic of the rows are left out.
"""

import secrets
from typing import Final

from aigovtool.custodian.store import leases, log
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ids import BorrowerId, ConsumerId, Digest, InstanceId, LeaseId, ModelId
from aigovtool.ledger.budget import RowKey, Scope, Window
from aigovtool.ledger.entry import LeaseClosed, LeaseGranted
from aigovtool.ledger.lease import Lease, LeaseState
from aigovtool.ledger.units import Dimension, of

_AT_ONCE: Final = 2_000
_UNITS: Final = of(Dimension.INFERENCES, 1)


def add_closed_leases(
    database: Database, count: int, *, borrower: BorrowerId, model: ModelId, consumer: ConsumerId
) -> None:
    """Write `count` leases of one unit that were granted and closed: two entries of the log each."""
    row = RowKey(scope=Scope(model=model), dimension=Dimension.INFERENCES, window=Window.LIFETIME, bucket_ms=0)

    def job(transaction: Transaction, wanted: int) -> None:
        now_ms = transaction.head.clock_ms
        for _ in range(wanted):
            lease_id, instance = LeaseId(secrets.token_hex(16)), InstanceId(secrets.token_hex(32))
            granted = LeaseGranted(
                lease_id=lease_id,
                instance=instance,
                borrower=borrower,
                model=model,
                consumer=consumer,
                units=_UNITS,
                rows=[row],
            )
            index = log.append(transaction, now_ms, granted)
            closed = LeaseClosed(
                lease_id=lease_id, late=False, used=_UNITS, charged=_UNITS, ok=1, err=0, receipts="0" * 64
            )
            log.append(transaction, now_ms, closed)
            lease = Lease(
                lease_id=lease_id,
                instance=instance,
                borrower=borrower,
                model=model,
                manifest=Digest("sha256:" + "0" * 64),
                consumer=consumer,
                units=_UNITS,
                rows=[row],
                granted_at_ms=now_ms,
                ttl_ms=30_000,
                grace_ms=5_000,
                policy=Digest("sha256:" + "0" * 64),
                refundable=True,
                state=LeaseState.CLOSED,
                seen=_UNITS,
                ok=1,
            )
            leases.add(transaction, lease, entry=index)

    for done in range(0, count, _AT_ONCE):
        wanted = min(_AT_ONCE, count - done)
        database.submit(lambda transaction, wanted=wanted: job(transaction, wanted)).result()  # type: ignore[misc]
