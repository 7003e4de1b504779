"""Leases, and the running totals of usage that are derived from them."""

from sqlalchemy import Connection, func, insert, select, text, update
from sqlalchemy.dialects.sqlite import insert as upsert

from aigovtool.codec import decode, encode
from aigovtool.custodian.store.schema import leases, usage
from aigovtool.ids import BorrowerId, InstanceId, LeaseId, ModelId
from aigovtool.ledger.lease import Lease
from aigovtool.ledger.units import Dimension
from aigovtool.protocol.views import UsageView

#: In the very words of the partial indices, not as parameters: otherwise SQLite reads all history.
_UNCLOSED = text("state IN ('pending', 'expired')")


def find(connection: Connection, lease_id: LeaseId) -> Lease | None:
    """Return a lease."""
    body = connection.execute(select(leases.c.body).where(leases.c.lease_id == lease_id)).scalar_one_or_none()
    return None if body is None else decode(body, Lease)


def overdue(connection: Connection, now_ms: int, limit: int) -> list[Lease]:
    """Return up to `limit` pending leases whose holder is too late to close them."""
    statement = (
        select(leases.c.body)
        .where(text("state = 'pending'"), leases.c.deadline_ms < now_ms)
        .order_by(leases.c.deadline_ms)
        .limit(limit)
    )
    return [decode(body, Lease) for body in connection.execute(statement).scalars()]


def held_by_instance(connection: Connection, instance: InstanceId, model: ModelId) -> int:
    """Return the units that an instance holds and could still use."""
    statement = select(func.coalesce(func.sum(leases.c.units), 0)).where(
        leases.c.instance == instance, leases.c.model == model, _UNCLOSED
    )
    return int(connection.execute(statement).scalar_one())


def held_by_borrower(connection: Connection, borrower: BorrowerId, model: ModelId) -> int:
    """Return the units that all instances of a borrower hold, those that crashed included."""
    statement = select(func.coalesce(func.sum(leases.c.units), 0)).where(
        leases.c.borrower == borrower, leases.c.model == model, _UNCLOSED
    )
    return int(connection.execute(statement).scalar_one())


def outstanding(connection: Connection, instance: InstanceId) -> tuple[int, int]:
    """Return units an instance could still use, and until when its newest lease runs (ms, 0 if none)."""
    statement = select(
        func.coalesce(func.sum(leases.c.units), 0), func.coalesce(func.max(leases.c.deadline_ms), 0)
    ).where(leases.c.instance == instance, _UNCLOSED)
    units, deadline_ms = connection.execute(statement).one()
    return int(units), int(deadline_ms)


def add(connection: Connection, lease: Lease, dimension: Dimension) -> None:
    """Insert a granted lease."""
    units = lease.units.get(dimension)
    connection.execute(
        insert(leases).values(
            lease_id=lease.lease_id,
            instance=lease.instance,
            borrower=lease.borrower,
            model=lease.model,
            consumer=lease.consumer,
            state=lease.state.value,
            deadline_ms=lease.granted_at_ms + lease.ttl_ms + lease.grace_ms,
            units=units,
            body=encode(lease),
        )
    )
    _count(connection, lease, granted=units, charged=units, open_leases=1)


def change(connection: Connection, before: Lease, after: Lease, dimension: Dimension, *, charged: int) -> None:
    """Write a lease that a transition changed; `charged` is by how much its charge changed."""
    connection.execute(
        update(leases).where(leases.c.lease_id == after.lease_id).values(state=after.state.value, body=encode(after))
    )
    _count(
        connection,
        after,
        charged=charged,
        used=after.seen.get(dimension) - before.seen.get(dimension),
        ok=after.ok - before.ok,
        err=after.err - before.err,
        open_leases=int(after.unclosed()) - int(before.unclosed()),
    )


def _count(connection: Connection, lease: Lease, **changes: int) -> None:
    names = ("granted", "charged", "used", "ok", "err", "open_leases")
    values = {name: changes.get(name, 0) for name in names}
    statement = upsert(usage).values(model=lease.model, borrower=lease.borrower, consumer=lease.consumer, **values)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["model", "borrower", "consumer"],
            set_={name: usage.c[name] + changes.get(name, 0) for name in names},
        )
    )


def totals(connection: Connection) -> list[UsageView]:
    """Return usage by model, borrower and consumer."""
    statement = select(usage).order_by(usage.c.model, usage.c.borrower, usage.c.consumer)
    return [UsageView(**found._asdict()) for found in connection.execute(statement)]
