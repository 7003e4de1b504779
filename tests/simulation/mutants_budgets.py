"""Budgets, write-offs and replicas with one rule removed."""

from dataclasses import replace
from types import MappingProxyType

import msgspec
from tests.simulation.books import Ledger, Transaction
from tests.simulation.budgets import on_path
from tests.simulation.custodian import Custodian
from tests.simulation.office import Replica
from tests.simulation.scene import MODEL

from aigovtool.ids import BorrowerId, ConsumerId
from aigovtool.ledger import book as ledger
from aigovtool.ledger.book import Book, Draw, Effects, Event, Outcome, ReportUsage, WriteOff
from aigovtool.ledger.budget import BudgetLimit, BudgetRow, RowKey, oldest_bucket_of, rooms, row_now
from aigovtool.ledger.lease import LeaseState
from aigovtool.protocol.messages import PathRoom

# --- Windows and ends --------------------------------------------------------------------------------


class _DebitsOtherwise(Custodian):
    """Takes the rows of a path for something else when it grants, and not when it is asked what is left."""

    def debits(self, writes: Transaction, borrower: BorrowerId, consumer: ConsumerId) -> dict[RowKey, BudgetRow]:
        limits = on_path(self.ledger.limits, borrower, consumer)
        return {row.key: row for row in (self.debit(writes, limit) for limit in limits)}

    def debit(self, writes: Transaction, limit: BudgetLimit) -> BudgetRow:
        return self.row_now(writes, limit)


class IgnoresEarlierBuckets(_DebitsOtherwise):
    """Takes the present bucket of a rolling window for all of it."""

    def debit(self, writes: Transaction, limit: BudgetLimit) -> BudgetRow:
        return msgspec.structs.replace(self.row_now(writes, limit), earlier=0, earlier_pending=0)


class IgnoresOldestBucket(_DebitsOtherwise):
    """Does not count the bucket in which a rolling window begins."""

    def debit(self, writes: Transaction, limit: BudgetLimit) -> BudgetRow:
        oldest_ms, present = oldest_bucket_of(limit.window, writes.now_ms), self.row_now(writes, limit)
        if oldest_ms == present.key.bucket_ms:
            return present
        rows = [row for row in writes.rows_under(limit) if row.key.bucket_ms > oldest_ms]
        return row_now(limit, rows, writes.now_ms)


class IgnoresEnds(_DebitsOtherwise):
    """Grants under a budget whose time is over."""

    def debit(self, writes: Transaction, limit: BudgetLimit) -> BudgetRow:
        return msgspec.structs.replace(self.row_now(writes, limit), not_after_ms=None)


def outlives_ends(book: Book, event: Event) -> Effects:
    """Grant for a whole ttl, whenever the budget ends."""
    effects = ledger.apply(book, event)
    if not isinstance(event, Draw) or effects.outcome is not Outcome.GRANTED:
        return effects
    return replace(effects, leases=(msgspec.structs.replace(effects.leases[0], ttl_ms=event.ttl_ms),))


# --- Write-offs --------------------------------------------------------------------------------------


def refunds_after_write_off(book: Book, event: Event) -> Effects:
    """Refund what the holder of a written-off lease has not used after all."""
    lease = book.leases.get(event.lease_id) if isinstance(event, ReportUsage) else None
    if lease is None or lease.state is not LeaseState.WRITTEN_OFF:
        return ledger.apply(book, event)
    alive = msgspec.structs.replace(lease, state=LeaseState.EXPIRED)
    return ledger.apply(Book(rows=book.rows, leases=MappingProxyType({lease.lease_id: alive})), event)


def alarms_after_write_off(book: Book, event: Event) -> Effects:
    """Take a report on a written-off lease for a fork: its holder was given up."""
    lease = book.leases.get(event.lease_id) if isinstance(event, ReportUsage) else None
    if lease is not None and lease.state is LeaseState.WRITTEN_OFF:
        return Effects(Outcome.FORKED)
    return ledger.apply(book, event)


def refunds_write_offs(book: Book, event: Event) -> Effects:
    """Give back what is not known to be used of a lease that is given up."""
    effects = ledger.apply(book, event)
    if not isinstance(event, WriteOff):
        return effects
    (lease,) = effects.leases
    unused = lease.units.minus(lease.seen)
    rows = (book.rows[key].refund(unused.get(key.dimension)) for key in lease.rows)
    return replace(effects, rows=tuple(rows))


# --- Replicas ----------------------------------------------------------------------------------------


class FollowsEachClock(Custodian):
    """Takes the time of the process that serves for the ledger's, also when it is before what was."""

    def now(self, replica: Replica) -> int:
        return self.scene.ms + replica.offset_ms


class TakesNoTurns(Custodian):
    """Now and then lets a process decide by what it read before another one wrote."""

    earlier: Ledger | None = None

    def begin(self, replica: Replica) -> Transaction:
        writes = super().begin(replica)
        if self.earlier is not None and self.scene.chance(0.2):
            writes.rows.update({key: row for key, row in self.earlier.rows.items() if key in self.ledger.rows})
        return writes

    def commit(self, writes: Transaction) -> None:
        self.earlier = self.ledger.copy() if self.scene.chance(0.1) else self.earlier
        super().commit(writes)


# --- Rooms -------------------------------------------------------------------------------------------


class TellsRoomsTooEarly(Custodian):
    """Tells what was left on a path before the rest of the same renewal took from it."""

    def rooms(self, writes: Transaction, borrower: BorrowerId, consumers: set[ConsumerId]) -> list[PathRoom]:
        found = super().rooms(writes, borrower, consumers)
        granted = [lease for lease in writes.leases.values() if lease.lease_id not in self.ledger.leases]
        return [
            msgspec.structs.replace(
                room,
                units=room.units
                + sum(one.units.get(room.dimension) for one in granted if one.consumer != room.consumer),
            )
            for room in found
        ]


class TellsRoomsOfEndedBudgets(Custodian):
    """Tells what would be left if the time of a budget were not over."""

    def rooms(self, writes: Transaction, borrower: BorrowerId, consumers: set[ConsumerId]) -> list[PathRoom]:
        found = []
        for consumer in sorted(consumers):
            rows = self.rows_now(writes, borrower, consumer).values()
            endless = [msgspec.structs.replace(row, not_after_ms=None) for row in rows]
            left = rooms(endless, writes.now_ms)
            found += [PathRoom(model=MODEL, consumer=consumer, dimension=d, units=units) for d, units in left.items()]
        return found
