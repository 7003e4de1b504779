"""The running transaction: what every function of the store takes, and the only thing that can write.

Beside the connection it holds the ledger's *head*: generation, epoch, clock and the frontier of the audit log. The
head is read when the transaction begins, if others may have written it since (PostgreSQL), and written once before it
commits, however many jobs share it; in between it lives here. Log entries are gathered and inserted together. A job
that fails leaves no trace in either: beside the savepoint for the tables, `mark` and `back_to` have a point to go back
to for the head.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Connection, CursorResult, Executable, Table, bindparam, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from aigovtool.codec import Message, decode, encode
from aigovtool.custodian.store.schema import SCHEMA_VERSION, head, log, log_nodes
from aigovtool.errors import StorageError
from aigovtool.ids import Millis, Units
from aigovtool.ledger.merkle import Frontier

#: Both dialects spell "insert or update" alike, but each has its own statement for it.
_INSERTS: Final[dict[str, Callable[[Table], sqlite.Insert]]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,  # type: ignore[dict-item]
}


_PUT_HEAD: Final = update(head).values(body=bindparam("new_body"))
_GET_HEAD: Final = select(head.c.schema, head.c.body)
_LOCK_HEAD: Final = _GET_HEAD.with_for_update()


@lru_cache
def _upsert(dialect: str, table: Table, key: tuple[str, ...], values: tuple[str, ...], *, adding: bool) -> Executable:
    """Return the statement that inserts a row, or sets `values` in it, or adds them to what is there."""
    statement = _INSERTS[dialect](table).values({name: bindparam(name) for name in (*key, *values)})
    new = {name: table.c[name] + statement.excluded[name] if adding else statement.excluded[name] for name in values}
    return statement.on_conflict_do_update(index_elements=list(key), set_=new)


#: Where PostgreSQL delivers notices.
CHANNEL: Final = "aigovtool"


class Gap(Message):
    """Somebody showed a checkpoint that this ledger signed and does not remember: it was restored from a backup.

    `remembered` is how many entries the ledger had when that was found; 0 where an earlier version found it.
    """

    checkpoint: str
    generation: Units
    size: Units
    found_at_ms: Millis
    remembered: Units = 0


class Settled(Message):
    """What was lost by a restore, and settled: notes of `generation` or before, up to `size`, are explained by it.

    A `final` one explains those of any size.
    """

    generation: Units
    size: Units
    final: bool = False


class Head(Message):
    """The ledger's counters, which only ever grow, and whether it has forgotten something.

    While there is a `gap` nothing is granted; after it was settled nothing is granted before `quiet_until_ms`.
    `longest_ttl_ms` is the longest for which any model was lent on terms that were replaced, as far as is known here.
    Leases of generations before this one are refunded nothing. `shown_since` is the size of the largest note that
    was shown since a settlement that was final, and is beyond what was known to be lost then.
    """

    generation: Units = 0
    epoch: Units = 0
    clock_ms: Millis = 0
    frontier: Frontier = Frontier()
    gap: Gap | None = None
    settled: tuple[Settled, ...] = ()
    quiet_until_ms: Millis = 0
    longest_ttl_ms: Millis = 0
    shown_since: Units = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """A point to go back to: what was in memory then, also if it was flushed since and that was undone."""

    head: Head
    stored: Head
    lines: tuple[dict[str, Any], ...]
    nodes: tuple[dict[str, Any], ...]
    notices: tuple[bytes, ...]


@dataclass(slots=True)
class Transaction:
    """One transaction of the one writer. Made by the database; commits nothing itself."""

    connection: Connection
    head: Head = field(default_factory=Head)
    stored: Head = field(default_factory=Head)
    lines: list[dict[str, Any]] = field(default_factory=list)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    #: For the other custodians on this ledger; delivered by the server exactly when this transaction is durable.
    notices: list[bytes] = field(default_factory=list)
    #: The time by which the running job decides, once it was asked for: what it logs must be of that same time.
    now_ms: int | None = None

    def execute(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> CursorResult[*tuple[Any, ...]]:
        """Run one statement. What every renewal runs is built once and given its parameters here."""
        return self.connection.execute(statement, parameters)

    def upsert(self, table: Table, key: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Insert a row, or set `values` in the row with this primary or unique `key`."""
        statement = _upsert(self.connection.dialect.name, table, tuple(key), tuple(values), adding=False)
        self.execute(statement, {**key, **values})

    def count_up(self, table: Table, key: Mapping[str, Any], amounts: Mapping[str, int]) -> None:
        """Insert a row of counters, or add `amounts` to those of the row with this `key`."""
        statement = _upsert(self.connection.dialect.name, table, tuple(key), tuple(amounts), adding=True)
        self.execute(statement, {**key, **amounts})

    # -- The head -----------------------------------------------------------------------------------

    def load_head(self, *, lock: bool) -> None:
        """Read the head; with `lock` nobody else can read it so until this transaction ends (one writer at a time).

        Raises:
            StorageError: the ledger was upgraded while this program ran (`schema_version`).
        """
        found = self.execute(_LOCK_HEAD if lock else _GET_HEAD).one()
        if found.schema != SCHEMA_VERSION:
            raise StorageError(
                f"the ledger now has schema {found.schema}; this program knows {SCHEMA_VERSION}",
                reason="schema_version",
                fix="restart with the program that upgraded it",
            )
        self.head = self.stored = decode(found.body, Head)

    def mark(self) -> Mark:
        """Set the point to which `back_to` goes, and return it; until that or `keep`, no other one can be set."""
        # As a string: SQLAlchemy's own savepoints have a name each, and so are compiled each time.
        self.connection.exec_driver_sql("SAVEPOINT job")
        return Mark(self.head, self.stored, tuple(self.lines), tuple(self.nodes), tuple(self.notices))

    def keep(self) -> None:
        """Keep what was done since the mark, which is gone then."""
        self.connection.exec_driver_sql("RELEASE SAVEPOINT job")

    def back_to(self, mark: Mark) -> None:
        """Undo what a failed job did to the tables, the head and the log. The mark is gone then."""
        self.connection.exec_driver_sql("ROLLBACK TO SAVEPOINT job")
        self.keep()
        self.head, self.stored = mark.head, mark.stored
        self.lines[:], self.nodes[:], self.notices[:] = mark.lines, mark.nodes, mark.notices

    def flush(self) -> None:
        """Write the head and the gathered log entries; to be called before a read of the log and before COMMIT."""
        if self.lines:
            self.connection.execute(insert(log), self.lines)
            self.lines.clear()
        if self.nodes:
            self.connection.execute(insert(log_nodes), self.nodes)
            self.nodes.clear()
        if self.connection.dialect.name == "postgresql":
            for notice in self.notices:
                self.execute(select(func.pg_notify(CHANNEL, notice.decode())))
        self.notices.clear()
        if self.head is not self.stored:
            self.execute(_PUT_HEAD, {"new_body": encode(self.head)})
            self.stored = self.head
