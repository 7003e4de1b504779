"""Lays a history down in a ledger whose custodian is stopped: in bulk, through the store's own tables.

Rows of the log, of its subtrees, of leases and instances go in with one prepared statement per table (SQLite, without
journal or fsync) or with COPY (PostgreSQL). Balances, running totals and the head, which make the rows count, are then
written by the store's own functions in one last transaction. What is interrupted before that is worthless: start anew.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import psycopg
from sqlalchemy import Table, insert
from sqlalchemy.dialects import sqlite

from aigovtool.custodian.app import backend, read_settings
from aigovtool.custodian.store import budgets, instances, models, schema
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.instances import Since
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ids import ConsumerId, ModelId
from aigovtool.ledger.budget import path
from bench.history import Batch, Origin, Past, Row

_TABLES: Final = (schema.log, schema.log_nodes, schema.log_kinds, schema.leases, schema.instances)
#: Rewriting the index of leases, whose identifiers are random, needs it in memory: about 60 bytes a lease.
_CACHE_KIB: Final = 1 << 20
_BULK: Final = ("locking_mode=EXCLUSIVE", "journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE_KIB}")
#: Log entries per transaction.
_AT_ONCE: Final = 200_000

Write = Callable[[Table, list[Row]], None]


def lay_down(directory: Path, *, model: ModelId, consumer: ConsumerId, entries: int = 0, in_use: int = 0) -> Past:
    """Bring the log of the custodian in `directory` to `entries`, and then have `in_use` more leases not yet closed.

    The model is lent, a budget is set, and one enclave was admitted; nothing serves the ledger meanwhile.
    """
    with _opened(directory) as database:
        past = Past(database.submit(lambda running: _origin(running, model, consumer)).result())
    with _bulk(directory) as (write, commit):
        written = 0
        for batch in _batches(past, entries, in_use):
            for table in _TABLES:
                write(table, getattr(batch, table.name))
            written += len(batch.log)
            if written >= _AT_ONCE:
                commit()
                written = 0
        commit()
    with _opened(directory) as database:
        database.submit(lambda running: _finish(running, past)).result()
    return past


def _batches(past: Past, entries: int, in_use: int) -> Iterator[Batch]:
    yield from past.used_up(entries)
    yield from past.in_use(in_use)


@contextmanager
def _opened(directory: Path) -> Iterator[Database]:
    database = Database(backend(directory, read_settings(directory)))
    try:
        yield database
    finally:
        database.close()


def _origin(transaction: Transaction, model: ModelId, consumer: ConsumerId) -> Origin:
    head = transaction.head
    (instance, _), *_ = instances.listed(transaction, Since(attested_ms=0, heard_ms=0), 1)
    return Origin(
        log=head.frontier,
        generation=head.generation,
        clock_ms=head.clock_ms,
        instance=instance,
        model=models.require(transaction, model),
        consumer=consumer,
        rows=tuple(budgets.rows_on(transaction, path(model, instance.borrower, consumer), head.clock_ms)),
    )


def _finish(transaction: Transaction, past: Past) -> None:
    """Make the rows count: what a real history would have moved lease by lease is moved by its sum."""
    pattern = past.pattern
    drawn, dimension = pattern.drawn, pattern.dimension
    held, spent = past.held * pattern.units, past.closed * pattern.units
    charged = past.closed * pattern.charged.get(dimension)
    rows = budgets.rows_of(transaction, drawn.rows)
    budgets.write(transaction, tuple(row.hold(spent + held).settle(spent, charged) for row in rows))
    key = {"model": drawn.model, "borrower": drawn.borrower, "consumer": drawn.consumer}
    units = {
        "granted": spent + held,
        "charged": charged + held,
        "used": past.closed * pattern.used.get(dimension),
        "held": held,
    }
    transaction.count_up(schema.usage_units, {**key, "dimension": dimension.value}, units)
    totals = {"ok": past.closed * pattern.closed.ok, "err": 0, "open_leases": past.held}
    transaction.count_up(schema.usage, key, totals)
    transaction.head = msgspec.structs.replace(transaction.head, frontier=past.tree)


@contextmanager
def _bulk(directory: Path) -> Iterator[tuple[Write, Callable[[], None]]]:
    address = read_settings(directory).ledger
    if address is None:
        with _bulk_sqlite(directory / "ledger.db") as bulk:
            yield bulk
    else:
        with psycopg.connect(address) as connection:
            yield _copier(connection), connection.commit
            connection.execute("ANALYZE")  # as autovacuum would have done on the way


@contextmanager
def _bulk_sqlite(file: Path) -> Iterator[tuple[Write, Callable[[], None]]]:
    connection = sqlite3.connect(file)
    try:
        for pragma in _BULK:
            connection.execute(f"PRAGMA {pragma}")
        statements = {table.name: str(insert(table).compile(dialect=sqlite.dialect())) for table in _TABLES}

        def write(table: Table, rows: list[Row]) -> None:
            connection.executemany(statements[table.name], rows)

        yield write, connection.commit
    finally:
        connection.close()


def _copier(connection: psycopg.Connection) -> Write:
    def write(table: Table, rows: list[Row]) -> None:
        columns = ", ".join(column.name for column in table.columns)
        kinds = [_POSTGRES_TYPES[type(column.type).__name__] for column in table.columns]
        with connection.cursor().copy(f"COPY {table.name} ({columns}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(kinds)
            for row in rows:
                copy.write_row(row)

    return write


_POSTGRES_TYPES: Final = {"BigInteger": "int8", "Integer": "int4", "LargeBinary": "bytea", "String": "varchar"}
