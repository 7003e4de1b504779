"""The ledger of the simulation: what a transaction changes, and what a backup copies.

Its head (clock, epoch, generation, the tree of the audit log, the gap of a restored ledger) is the production store's
own record of them; its log has the production entries, so that its roots are real.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import msgspec

from aigovtool.custodian.custodian import rolled_back
from aigovtool.custodian.store.renewals import Answered
from aigovtool.custodian.store.transaction import Head
from aigovtool.ids import BorrowerId, InstanceId, LeaseId
from aigovtool.ledger.book import Book, Effects
from aigovtool.ledger.budget import ROLLING, BudgetLimit, BudgetRow, RowKey, Scope, Window, key_now
from aigovtool.ledger.entry import Entry, EntryBody, StopTarget
from aigovtool.ledger.gap import may_follow_gap
from aigovtool.ledger.lease import Lease
from aigovtool.ledger.merkle import Frontier
from aigovtool.ledger.units import Dimension
from aigovtool.protocol.messages import Answer


@dataclass(frozen=True)
class Admitted:
    """An instance as it was admitted."""

    borrower: BorrowerId
    generation: int
    refundable: bool


@dataclass(frozen=True)
class Stop:
    """A stop as it was ordered, and when."""

    target: StopTarget
    value: str
    epoch: int
    active: bool
    since_ms: int


def kept(row: BudgetRow) -> BudgetRow:
    """Return what a ledger keeps of a row."""
    return msgspec.structs.replace(row, earlier=0, earlier_pending=0, not_after_ms=None)


@dataclass
class Ledger:
    """All that is durable."""

    head: Head
    limits: list[BudgetLimit]
    rows: dict[RowKey, BudgetRow] = field(default_factory=dict)
    leases: dict[LeaseId, Lease] = field(default_factory=dict)
    unclosed: dict[LeaseId, Lease] = field(default_factory=dict)
    #: The rows of each limit with a rolling window.
    buckets: dict[tuple[Scope, Dimension, Window], list[RowKey]] = field(default_factory=dict)
    stops: dict[tuple[StopTarget, str], Stop] = field(default_factory=dict)
    #: The answer to the newest renewal of each instance, and which ones are known to be older.
    answers: dict[InstanceId, tuple[Answered, Answer]] = field(default_factory=dict)
    instances: dict[InstanceId, Admitted] = field(default_factory=dict)
    gone: set[InstanceId] = field(default_factory=set)
    #: Those of them of which two copies contradicted each other.
    forked: set[InstanceId] = field(default_factory=set)
    entries: list[Entry] = field(default_factory=list)
    #: The tree after each entry.
    trees: list[Frontier] = field(default_factory=list)
    #: What operators charged for leases that a restored ledger had forgotten, and for which.
    charges: Counter[RowKey] = field(default_factory=Counter)
    charged_for: set[LeaseId] = field(default_factory=set)

    def copy(self) -> "Ledger":
        """Return a backup."""
        return Ledger(
            head=self.head,
            limits=list(self.limits),
            rows=dict(self.rows),
            leases=dict(self.leases),
            unclosed=dict(self.unclosed),
            buckets={limit: list(keys) for limit, keys in self.buckets.items()},
            stops=dict(self.stops),
            answers=dict(self.answers),
            instances=dict(self.instances),
            gone=set(self.gone),
            forked=set(self.forked),
            entries=list(self.entries),
            trees=list(self.trees),
            charges=Counter(self.charges),
            charged_for=set(self.charged_for),
        )

    def take(self, writes: "Transaction") -> None:
        """Make the writes of a transaction durable."""
        self.head = writes.head
        for key in writes.rows:
            if key.window in ROLLING and key not in self.rows:
                self.buckets.setdefault((key.scope, key.dimension, key.window), []).append(key)
        self.rows.update(writes.rows)
        self.leases.update(writes.leases)
        for lease in writes.leases.values():
            if lease.unclosed():
                self.unclosed[lease.lease_id] = lease
            else:
                self.unclosed.pop(lease.lease_id, None)
        self.stops.update(writes.stops)
        self.answers.update(writes.answers)
        self.instances.update(writes.instances)
        self.gone |= writes.gone
        self.forked |= writes.forked
        self.entries += writes.entries
        self.trees += writes.trees
        self.charges.update(writes.charges)
        self.charged_for |= writes.charged_for


class Transaction:
    """What one transaction has written so far, over what was committed before."""

    def __init__(self, ledger: Ledger, now_ms: int) -> None:
        self.ledger = ledger
        self.head = msgspec.structs.replace(ledger.head, clock_ms=now_ms)
        self.now_ms = now_ms
        self.rows: dict[RowKey, BudgetRow] = {}
        self.leases: dict[LeaseId, Lease] = {}
        self.stops: dict[tuple[StopTarget, str], Stop] = {}
        self.answers: dict[InstanceId, tuple[Answered, Answer]] = {}
        self.instances: dict[InstanceId, Admitted] = {}
        self.gone: set[InstanceId] = set()
        self.forked: set[InstanceId] = set()
        self.entries: list[Entry] = []
        self.trees: list[Frontier] = []
        self.charges: Counter[RowKey] = Counter()
        self.charged_for: set[LeaseId] = set()

    def row(self, key: RowKey) -> BudgetRow | None:
        """Return a row as this transaction sees it."""
        return self.rows.get(key) or self.ledger.rows.get(key)

    def rows_under(self, limit: BudgetLimit) -> list[BudgetRow]:
        """Return every row that counts under a limit, or may."""
        if limit.window in ROLLING:
            keys = [*self.ledger.buckets.get((limit.scope, limit.dimension, limit.window), ())]
            keys += [key for key in self.rows if key.window is limit.window and key not in keys]
        else:
            keys = [key_now(limit, self.now_ms)]
        return [row for key in keys if (row := self.row(key)) is not None]

    def lease(self, lease_id: LeaseId) -> Lease | None:
        """Return a lease as this transaction sees it."""
        return self.leases.get(lease_id) or self.ledger.leases.get(lease_id)

    def book_of(self, lease_id: LeaseId) -> Book:
        """Return a lease and the rows that it debited."""
        lease = self.lease(lease_id)
        if lease is None:
            return Book()
        rows = {key: row for key in lease.rows if (row := self.row(key)) is not None}
        return Book(rows=MappingProxyType(rows), leases=MappingProxyType({lease_id: lease}))

    def write(self, effects: Effects) -> None:
        """Write what an event did; what a row knows from elsewhere is not kept with it."""
        for row in effects.rows:
            self.rows[row.key] = kept(row) if row.earlier or row.not_after_ms else row
        self.leases.update((lease.lease_id, lease) for lease in effects.leases)

    def record(self, body: EntryBody) -> None:
        """Append an entry to the log.

        Raises:
            LedgerRollbackError: the ledger has a gap.
        """
        if self.head.gap is not None and not may_follow_gap(body):
            raise rolled_back()
        tree = self.head.frontier
        made = Entry(index=tree.size, at_ms=self.now_ms, generation=self.head.generation, body=body)
        self.head = msgspec.structs.replace(self.head, frontier=tree.append(made.leaf()))
        self.entries.append(made)
        self.trees.append(self.head.frontier)

    def next_epoch(self) -> int:
        """Advance and return the epoch."""
        self.head = msgspec.structs.replace(self.head, epoch=self.head.epoch + 1)
        return self.head.epoch

    def renew_wide(self) -> None:
        """Give each stop in force that is wider than a consumer the present epoch."""
        for key, stop in {**self.ledger.stops, **self.stops}.items():
            if stop.active and stop.target is not StopTarget.CONSUMER:
                self.stops[key] = replace(stop, epoch=self.head.epoch)

    def tree_at(self, size: int) -> Frontier:
        """Return the tree as it was when it had so many entries."""
        if size == 0:
            return Frontier()
        before = len(self.ledger.trees)
        return self.ledger.trees[size - 1] if size <= before else self.trees[size - 1 - before]
