"""The transitions of the ledger: `apply(book, event) -> effects`, pure.

The custodian's store loads the rows and leases that an event touches into a `Book`, calls `apply`, and
writes the effects in the same transaction; the simulator keeps a whole ledger in one `Book`. Nothing
here reads a clock: `now_ms` is part of the event.

Invariants (leases spec section 6), for every row and every reachable book:
    posted + pending <= limit at the time of each hold, and a lease's charge (pending, then posted) is at
    least what its holder released.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

import msgspec

from aigovtool.ids import BorrowerId, ConsumerId, Digest, InstanceId, LeaseId, ModelId
from aigovtool.ledger.budget import BudgetRow, RowKey, Window, path, rooms
from aigovtool.ledger.lease import Lease, LeaseEvent, LeaseState, next_state
from aigovtool.ledger.policy import Level, ServingPolicy, lease_cap
from aigovtool.ledger.units import ZERO, Dimension, UnitVector, vector


@dataclass(frozen=True, slots=True)
class Book:
    """The rows and leases that an event may touch."""

    rows: MappingProxyType[RowKey, BudgetRow] = field(default_factory=lambda: MappingProxyType({}))
    leases: MappingProxyType[LeaseId, Lease] = field(default_factory=lambda: MappingProxyType({}))

    def after(self, effects: "Effects") -> "Book":
        """Return the book with `effects` applied."""
        rows = {**self.rows, **{row.key: row for row in effects.rows}}
        leases = {**self.leases, **{lease.lease_id: lease for lease in effects.leases}}
        return Book(rows=MappingProxyType(rows), leases=MappingProxyType(leases))


@dataclass(frozen=True, slots=True)
class Expire:
    """Charge a lease in full because nobody closed it within ttl + grace."""

    lease_id: LeaseId
    now_ms: int


@dataclass(frozen=True, slots=True)
class ReportUsage:
    """A holder's cumulative report on one lease; `digest` is that of the report's bytes."""

    instance: InstanceId
    lease_id: LeaseId
    seq: int
    used: UnitVector
    ok: int
    err: int
    final: bool
    digest: Digest


@dataclass(frozen=True, slots=True)
class Draw:
    """A wish for units. `minimum` is what one waiting request needs; `target` what the rate suggests.

    What is held is that of all unclosed leases of the model. `request` is given where a lease is for one request only.
    """

    lease_id: LeaseId
    instance: InstanceId
    borrower: BorrowerId
    model: ModelId
    manifest: Digest
    consumer: ConsumerId
    minimum: UnitVector
    target: UnitVector
    policy: ServingPolicy
    refundable: bool
    held_by_instance: UnitVector
    held_by_borrower: UnitVector
    ttl_ms: int
    grace_ms: int
    now_ms: int
    request: Digest | None = None


@dataclass(frozen=True, slots=True)
class WriteOff:
    """Give up the holder of an expired lease: it stays charged, and no longer counts as outstanding."""

    lease_id: LeaseId


@dataclass(frozen=True, slots=True)
class Charge:
    """Charge a row for what a restored ledger has forgotten (decided by two operators)."""

    key: RowKey
    units: int


Event = Expire | ReportUsage | Draw | WriteOff | Charge


class Outcome(StrEnum):
    """What an event came to."""

    EXPIRED = "expired"
    WRITTEN_OFF = "written_off"
    CHARGED = "charged"
    RECORDED = "recorded"
    IGNORED = "ignored"
    CLOSED = "closed"
    FORKED = "forked"
    UNKNOWN = "unknown"
    GRANTED = "granted"
    NO_BUDGET_ROW = "no_budget_row"
    EXHAUSTED = "exhausted"
    RESERVED = "reserved"
    CAPPED = "capped"
    INSUFFICIENT = "insufficient"
    BUDGET_ENDED = "budget_ended"


@dataclass(frozen=True, slots=True)
class Effects:
    """Rows and leases to write, and the outcome to answer with."""

    outcome: Outcome
    rows: tuple[BudgetRow, ...] = ()
    leases: tuple[Lease, ...] = ()
    #: Where a draw was denied: what would have been granted.
    available: UnitVector = ZERO
    #: Where a draw was denied: the first dimension of which there is too little.
    short: Dimension | None = None
    #: What can still be granted on the path of a draw, after it, in each dimension that is limited.
    rooms: dict[Dimension, int] = field(default_factory=dict)


def apply(book: Book, event: Event) -> Effects:
    """Return what `event` does to `book`; never changes `book`."""
    if isinstance(event, Expire):
        return _expire(book, event)
    if isinstance(event, ReportUsage):
        return _report(book, event)
    if isinstance(event, WriteOff):
        return _write_off(book, event)
    if isinstance(event, Charge):
        return Effects(Outcome.CHARGED, rows=(book.rows[event.key].charge(event.units),))
    return _draw(book, event)


def _write_off(book: Book, event: WriteOff) -> Effects:
    lease = book.leases[event.lease_id]
    written_off = msgspec.structs.replace(lease, state=next_state(lease.state, LeaseEvent.WRITE_OFF))
    return Effects(Outcome.WRITTEN_OFF, leases=(written_off,))


def _expire(book: Book, event: Expire) -> Effects:
    lease = book.leases[event.lease_id]
    if not lease.overdue(event.now_ms):
        return Effects(Outcome.IGNORED)
    expired = msgspec.structs.replace(lease, state=next_state(lease.state, LeaseEvent.TIME_OVER))
    rows = tuple(row.settle(units, units) for row, units in _debited(book, lease))
    return Effects(Outcome.EXPIRED, rows=rows, leases=(expired,))


def _debited(book: Book, lease: Lease) -> list[tuple[BudgetRow, int]]:
    return [(book.rows[key], lease.units.get(key.dimension)) for key in lease.rows]


def _report(book: Book, event: ReportUsage) -> Effects:
    lease = book.leases.get(event.lease_id)
    if lease is None or lease.instance != event.instance:
        return Effects(Outcome.UNKNOWN)
    if _is_known(lease, event):
        return Effects(Outcome.IGNORED)
    if _contradicts(lease, event):
        return Effects(Outcome.FORKED)
    recorded = msgspec.structs.replace(
        lease, seq=event.seq, seen=event.used, ok=event.ok, err=event.err, report=event.digest
    )
    if not event.final:
        return Effects(Outcome.RECORDED, leases=(recorded,))
    return _close(book, recorded)


def shows_fork(lease: Lease | None, event: ReportUsage) -> bool:
    """Return whether a report would come to `forked`; its rows are not needed to tell."""
    mine = lease is not None and lease.instance == event.instance
    return lease is not None and mine and not _is_known(lease, event) and _contradicts(lease, event)


def _is_known(lease: Lease, event: ReportUsage) -> bool:
    """Return whether a report says nothing new, or nothing that counts any more."""
    if event.seq < lease.seq or (event.seq == lease.seq and event.digest == lease.report):
        return True
    # Charged in full already; that its holder was alive after all accuses nobody and refunds nothing.
    return lease.state is LeaseState.WRITTEN_OFF


def _contradicts(lease: Lease, event: ReportUsage) -> bool:
    """One honest counter cannot report this: two copies of the instance must be alive (a fork)."""
    return (
        event.seq == lease.seq
        or not event.used.covers(lease.seen)
        or not lease.units.covers(event.used)
        or not lease.unclosed()
    )


def _close(book: Book, lease: Lease) -> Effects:
    was = lease.state
    closed = msgspec.structs.replace(lease, state=next_state(was, LeaseEvent.FINAL_REPORT))
    rows: list[BudgetRow] = []
    for row, units in _debited(book, lease):
        used = lease.seen.get(row.key.dimension) if lease.refundable else units
        rows.append(row.settle(units, used) if was is LeaseState.PENDING else row.refund(units - used))
    return Effects(Outcome.CLOSED, rows=tuple(rows), leases=(closed,))


def _draw(book: Book, event: Draw) -> Effects:
    debits = _path_rows(book, event)
    if isinstance(debits, Dimension):
        return Effects(Outcome.NO_BUDGET_ROW, short=debits, rooms=dict.fromkeys(event.policy.counts, 0))
    before = rooms(debits, event.now_ms)
    if any(row.ended(event.now_ms) for row in debits):
        return Effects(Outcome.BUDGET_ENDED, rooms=before)
    unlimited = event.policy.max_lease_units
    counts = event.policy.counts
    minimum = event.minimum.over(counts, least=1)  # a lease without a unit of what is metered serves nobody
    # A row without a limit has room for nearly everything: what is larger than any lease may be is capped below.
    left = {d: min(row.left() for row in debits if row.key.dimension is d) for d in counts}
    room = vector({dimension: min(before.get(dimension, unlimited), left[dimension]) for dimension in counts})
    lacking = [row for row in debits if row.left() < minimum.get(row.key.dimension)]
    if lacking:
        outcome, short = _shortage(lacking, room)
        return Effects(outcome, available=room, short=short, rooms=before)
    allowed = vector({d: _allowed(d, minimum.get(d), debits, event) for d in counts})
    if not allowed.covers(minimum):
        return Effects(Outcome.CAPPED, available=allowed, short=_first_short(counts, minimum, allowed), rooms=before)
    units = vector({d: _size(d, minimum.get(d), room.get(d), debits, event) for d in counts}).lowest(allowed)
    held = tuple(row.hold(units.get(row.key.dimension)) for row in debits)
    lease = _lease(event, units, held)
    return Effects(Outcome.GRANTED, rows=held, leases=(lease,), rooms=rooms(held, event.now_ms))


def _first_short(counts: Iterable[Dimension], minimum: UnitVector, left: UnitVector) -> Dimension:
    return next(dimension for dimension in counts if left.get(dimension) < minimum.get(dimension))


def _size(dimension: Dimension, minimum: int, room: int, debits: list[BudgetRow], event: Draw) -> int:
    limit = _least_limit(dimension, debits, event.policy)
    cap = max(minimum, lease_cap(event.policy, dimension, room, limit))
    return min(max(minimum, min(event.target.get(dimension), cap)), room)


def _allowed(dimension: Dimension, minimum: int, debits: list[BudgetRow], event: Draw) -> int:
    """Return what may be granted beside what this instance, and all of its borrower's, hold already."""
    policy = event.policy
    shared = _least_limit(dimension, filter(_is_shared, debits), policy)
    mine = _allowance(policy.max_unclosed_percent_per_instance, shared, minimum) - event.held_by_instance.get(dimension)
    ours = _allowance(policy.max_unclosed_percent_per_borrower, shared, minimum) - event.held_by_borrower.get(dimension)
    return max(0, min(mine, ours, policy.max_lease_units))


def _least_limit(dimension: Dimension, debits: Iterable[BudgetRow], policy: ServingPolicy) -> int:
    limits = [row.limit for row in debits if row.limit is not None and row.key.dimension is dimension]
    return min(limits, default=policy.max_lease_units)


def _is_shared(row: BudgetRow) -> bool:
    """Return whether what is held is a share of this budget: not of one consumer's, nor one hour's."""
    return row.key.window is Window.LIFETIME and row.key.scope.level() is not Level.CONSUMER


def _allowance(percent: int, limit: int, minimum: int) -> int:
    """Units that may be outstanding: a share of the limit, but always room for one lease and the next."""
    return max(limit * percent // 100, 2 * minimum)


def _shortage(lacking: list[BudgetRow], room: UnitVector) -> tuple[Outcome, Dimension]:
    """Return what is lacking, and of which dimension: of one that is gone rather than of one that leases hold."""
    gone = [row.key.dimension for row in lacking if not row.is_held()]
    if not gone:
        return Outcome.RESERVED, lacking[0].key.dimension
    for dimension in gone:
        if room.get(dimension) == 0:
            return Outcome.EXHAUSTED, dimension
    return Outcome.INSUFFICIENT, gone[0]


def _path_rows(book: Book, event: Draw) -> list[BudgetRow] | Dimension:
    """Return every row on the path, or the dimension in which one that the policy requires is missing."""
    rows: list[BudgetRow] = []
    for dimension in event.policy.counts:
        rows += [
            row
            for scope in path(event.model, event.borrower, event.consumer)
            for row in book.rows.values()
            if row.key.scope == scope and row.key.dimension is dimension
        ]
    missing = _missing(rows, event.policy)
    return rows if missing is None else missing


def _missing(rows: list[BudgetRow], policy: ServingPolicy) -> Dimension | None:
    """Return the first dimension in which a row that the policy requires is missing on a path."""
    for dimension in policy.counts:
        levels = {row.key.scope.level() for row in rows if row.key.dimension is dimension}
        # A policy that requires no level at all would make an absent budget mean "unlimited".
        if not levels or not levels.issuperset(policy.required):
            return dimension
    return None


def rooms_on(rows: list[BudgetRow], policy: ServingPolicy, now_ms: int) -> dict[Dimension, int]:
    """Return what can still be granted on a path, given its rows, in each dimension that is metered and limited.

    It is nothing of any where a row is missing that a grant requires.
    """
    if _missing(rows, policy) is not None:
        return dict.fromkeys(policy.counts, 0)
    return rooms([row for row in rows if row.key.dimension in policy.counts], now_ms)


def _lease(event: Draw, units: UnitVector, held: tuple[BudgetRow, ...]) -> Lease:
    ends = [row.not_after_ms for row in held if row.not_after_ms is not None]
    return Lease(
        lease_id=event.lease_id,
        instance=event.instance,
        borrower=event.borrower,
        model=event.model,
        manifest=event.manifest,
        consumer=event.consumer,
        units=units,
        rows=[row.key for row in held],
        granted_at_ms=event.now_ms,
        ttl_ms=min([event.ttl_ms, *(end - event.now_ms for end in ends)]),  # no lease outlives its budget
        grace_ms=event.grace_ms,
        policy=event.policy.digest(),
        refundable=event.refundable,
        request=event.request,
    )
