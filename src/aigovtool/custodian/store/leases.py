"""Leases, and the running totals of usage that are derived from them."""

from typing import Final

from sqlalchemy import Integer, bindparam, func, insert, select, update

from aigovtool.codec import encode
from aigovtool.custodian.store.bodies import decoded
from aigovtool.custodian.store.schema import PENDING, UNCLOSED, leases, usage
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ids import BorrowerId, InstanceId, LeaseId, ModelId
from aigovtool.ledger.lease import Lease
from aigovtool.ledger.units import Dimension
from aigovtool.protocol.views import UsageView

_HELD: Final = select(func.coalesce(func.sum(leases.c.units), 0)).where(UNCLOSED)
_HELD_BY_INSTANCE: Final = _HELD.where(
    leases.c.instance == bindparam("holder"), leases.c.model == bindparam("of_model")
)
_HELD_BY_BORROWER: Final = _HELD.where(
    leases.c.borrower == bindparam("holder"), leases.c.model == bindparam("of_model")
)
_FIND: Final = select(leases.c.body).where(leases.c.lease_id == bindparam("lease"))
_OVERDUE: Final = (
    select(leases.c.body)
    .where(PENDING, leases.c.deadline_ms < bindparam("now_ms"))
    .order_by(leases.c.deadline_ms)
    .limit(bindparam("at_most", type_=Integer))
)
_ADD: Final = insert(leases)
_CHANGE: Final = (
    update(leases)
    .where(leases.c.lease_id == bindparam("lease"))
    .values(state=bindparam("new_state"), body=bindparam("new_body"))
)


def find(transaction: Transaction, lease_id: LeaseId) -> Lease | None:
    """Return a lease."""
    body = transaction.execute(_FIND, {"lease": lease_id}).scalar_one_or_none()
    return None if body is None else decoded(body, Lease)


def overdue(transaction: Transaction, now_ms: int, limit: int) -> list[Lease]:
    """Return up to `limit` pending leases whose holder is too late to close them."""
    found = transaction.execute(_OVERDUE, {"now_ms": now_ms, "at_most": limit})
    return [decoded(body, Lease) for body in found.scalars()]


def expired_of(transaction: Transaction, instance: InstanceId) -> list[Lease]:
    """Return the leases that an instance never closed."""
    statement = select(leases.c.body).where(leases.c.instance == instance, UNCLOSED, leases.c.state == "expired")
    return [decoded(body, Lease) for body in transaction.execute(statement).scalars()]


def held_by_instance(transaction: Transaction, instance: InstanceId, model: ModelId) -> int:
    """Return the units that an instance holds and could still use."""
    return int(transaction.execute(_HELD_BY_INSTANCE, {"holder": instance, "of_model": model}).scalar_one())


def held_by_borrower(transaction: Transaction, borrower: BorrowerId, model: ModelId) -> int:
    """Return the units that all instances of a borrower hold, those that crashed included."""
    return int(transaction.execute(_HELD_BY_BORROWER, {"holder": borrower, "of_model": model}).scalar_one())


def outstanding(transaction: Transaction, instance: InstanceId) -> int:
    """Return the units that an instance could still use, of whatever model."""
    statement = select(func.coalesce(func.sum(leases.c.units), 0)).where(leases.c.instance == instance, UNCLOSED)
    return int(transaction.execute(statement).scalar_one())


def entry_of(transaction: Transaction, lease_id: LeaseId) -> int | None:
    """Return where the grant of a lease stands in the audit log."""
    statement = select(leases.c.entry_idx).where(leases.c.lease_id == lease_id)
    return transaction.execute(statement).scalar_one_or_none()


def add(transaction: Transaction, lease: Lease, dimension: Dimension, *, entry: int) -> None:
    """Insert a granted lease, whose grant is at index `entry` of the audit log."""
    units = lease.units.get(dimension)
    row = {
        "lease_id": lease.lease_id,
        "instance": lease.instance,
        "borrower": lease.borrower,
        "model": lease.model,
        "consumer": lease.consumer,
        "state": lease.state.value,
        "deadline_ms": lease.granted_at_ms + lease.ttl_ms + lease.grace_ms,
        "units": units,
        "entry_idx": entry,
        "body": encode(lease),
    }
    transaction.execute(_ADD, row)
    _count(transaction, lease, granted=units, charged=units, open_leases=1)


def change(transaction: Transaction, before: Lease, after: Lease, dimension: Dimension, *, charged: int) -> None:
    """Write a lease that a transition changed; `charged` is by how much its charge changed."""
    changed = {"lease": after.lease_id, "new_state": after.state.value, "new_body": encode(after)}
    transaction.execute(_CHANGE, changed)
    _count(
        transaction,
        after,
        charged=charged,
        used=after.seen.get(dimension) - before.seen.get(dimension),
        ok=after.ok - before.ok,
        err=after.err - before.err,
        open_leases=int(after.unclosed()) - int(before.unclosed()),
    )


def _count(transaction: Transaction, lease: Lease, **changes: int) -> None:
    names = ("granted", "charged", "used", "ok", "err", "open_leases")
    key = {"model": lease.model, "borrower": lease.borrower, "consumer": lease.consumer}
    transaction.count_up(usage, key, {name: changes.get(name, 0) for name in names})


def totals(transaction: Transaction) -> list[UsageView]:
    """Return usage by model, borrower and consumer."""
    statement = select(usage).order_by(usage.c.model, usage.c.borrower, usage.c.consumer)
    return [UsageView(**found._asdict()) for found in transaction.execute(statement)]
