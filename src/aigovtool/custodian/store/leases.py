"""Leases, and the running totals of usage that are derived from them."""

from collections import defaultdict
from typing import Any, Final

from sqlalchemy import Integer, Row, Select, bindparam, func, insert, select, update

from aigovtool.codec import encode
from aigovtool.custodian.store.bodies import decoded
from aigovtool.custodian.store.schema import HELD, PENDING, UNCLOSED, leases, usage, usage_units
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ids import BorrowerId, InstanceId, LeaseId, ModelId
from aigovtool.ledger.lease import Lease
from aigovtool.ledger.units import Dimension, UnitVector, vector
from aigovtool.protocol.views import UsageView

_HELD: Final = select(*(func.coalesce(func.sum(leases.c[d.value]), 0).label(d.value) for d in Dimension)).where(
    UNCLOSED
)
_HELD_BY_INSTANCE: Final = _HELD.where(
    leases.c.instance == bindparam("holder"), leases.c.model == bindparam("of_model")
)
#: From the running totals: a borrower may have a hundred thousand open leases, of enclaves that crashed for example.
_HELD_BY_BORROWER: Final = (
    select(usage_units.c.dimension, func.sum(usage_units.c.held))
    .where(usage_units.c.model == bindparam("of_model"), usage_units.c.borrower == bindparam("holder"), HELD)
    .group_by(usage_units.c.dimension)
)
_FIND: Final = select(leases.c.body).where(leases.c.lease_id == bindparam("lease"))
_OVERDUE: Final = (
    select(leases.c.body)
    .where(PENDING, leases.c.deadline_ms < bindparam("now_ms"))
    .order_by(leases.c.deadline_ms)
    .limit(bindparam("at_most", type_=Integer))
)
_OUTSTANDING: Final = _HELD.where(leases.c.instance == bindparam("holder"))
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
    return [decoded(body, Lease) for (body,) in found]  # `scalars` takes as long as the statement


def expired_of(transaction: Transaction, instance: InstanceId) -> list[Lease]:
    """Return the leases that an instance never closed."""
    statement = select(leases.c.body).where(leases.c.instance == instance, UNCLOSED, leases.c.state == "expired")
    return [decoded(body, Lease) for body in transaction.execute(statement).scalars()]


def held_by_instance(transaction: Transaction, instance: InstanceId, model: ModelId) -> UnitVector:
    """Return the units that an instance holds and could still use."""
    return _sums(transaction, _HELD_BY_INSTANCE, {"holder": instance, "of_model": model})


def held_by_borrower(transaction: Transaction, borrower: BorrowerId, model: ModelId) -> UnitVector:
    """Return the units that all instances of a borrower hold, those that crashed included."""
    held = transaction.execute(_HELD_BY_BORROWER, {"holder": borrower, "of_model": model})
    return vector({Dimension(dimension): int(units) for dimension, units in held})


def outstanding(transaction: Transaction, instance: InstanceId) -> UnitVector:
    """Return the units that an instance could still use, of whatever model."""
    return _sums(transaction, _OUTSTANDING, {"holder": instance})


def _sums(transaction: Transaction, statement: Select[Any], values: dict[str, str]) -> UnitVector:
    # PostgreSQL sums whole numbers into decimal ones.
    found = transaction.execute(statement, values).one()
    return UnitVector(**{name: int(units) for name, units in found._asdict().items()})


def entry_of(transaction: Transaction, lease_id: LeaseId) -> int | None:
    """Return where the grant of a lease stands in the audit log."""
    statement = select(leases.c.entry_idx).where(leases.c.lease_id == lease_id)
    return transaction.execute(statement).scalar_one_or_none()


def add(transaction: Transaction, lease: Lease, *, entry: int) -> None:
    """Insert a granted lease, whose grant is at index `entry` of the audit log."""
    row = {
        "lease_id": lease.lease_id,
        "instance": lease.instance,
        "borrower": lease.borrower,
        "model": lease.model,
        "consumer": lease.consumer,
        "state": lease.state.value,
        "deadline_ms": lease.granted_at_ms + lease.ttl_ms + lease.grace_ms,
        **{dimension.value: lease.units.get(dimension) for dimension in Dimension},
        "entry_idx": entry,
        "body": encode(lease),
    }
    transaction.execute(_ADD, row)
    _count(transaction, lease, open_leases=1)
    for dimension, units in lease.units.items():
        _count_units(transaction, lease, dimension, granted=units, charged=units, held=units)


def change(transaction: Transaction, before: Lease, after: Lease, *, refunded: UnitVector) -> None:
    """Write a lease that a transition changed; `refunded` is by how much its charge became less."""
    changed = {"lease": after.lease_id, "new_state": after.state.value, "new_body": encode(after)}
    transaction.execute(_CHANGE, changed)
    opened = int(after.unclosed()) - int(before.unclosed())
    _count(
        transaction,
        after,
        ok=after.ok - before.ok,
        err=after.err - before.err,
        open_leases=opened,
    )
    for dimension in Dimension:
        _count_units(
            transaction,
            after,
            dimension,
            charged=-refunded.get(dimension),
            used=after.seen.get(dimension) - before.seen.get(dimension),
            held=opened * after.units.get(dimension),
        )


def _path(lease: Lease) -> dict[str, str]:
    return {"model": lease.model, "borrower": lease.borrower, "consumer": lease.consumer}


def _count(transaction: Transaction, lease: Lease, **changes: int) -> None:
    names = ("ok", "err", "open_leases")
    transaction.count_up(usage, _path(lease), {name: changes.get(name, 0) for name in names})


def _count_units(transaction: Transaction, lease: Lease, dimension: Dimension, **changes: int) -> None:
    if any(changes.values()):
        key = {**_path(lease), "dimension": dimension.value}
        names = ("granted", "charged", "used", "held")
        transaction.count_up(usage_units, key, {name: changes.get(name, 0) for name in names})


def totals(transaction: Transaction) -> list[UsageView]:
    """Return usage by model, borrower and consumer."""
    counted: defaultdict[tuple[str, ...], list[Row[Any]]] = defaultdict(list)
    for one in transaction.execute(select(usage_units)):
        counted[one.model, one.borrower, one.consumer].append(one)
    statement = select(usage).order_by(usage.c.model, usage.c.borrower, usage.c.consumer)
    return [
        _usage(found, counted[found.model, found.borrower, found.consumer]) for found in transaction.execute(statement)
    ]


def _usage(found: Row[Any], counted: list[Row[Any]]) -> UsageView:
    return UsageView(
        **found._asdict(),
        granted=vector({Dimension(one.dimension): one.granted for one in counted}),
        charged=vector({Dimension(one.dimension): one.charged for one in counted}),
        used=vector({Dimension(one.dimension): one.used for one in counted}),
    )
