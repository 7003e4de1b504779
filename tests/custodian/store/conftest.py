"""A ledger on each kind of store, and a gate that holds its writer."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from aigovtool.custodian.store import facts
from aigovtool.custodian.store.backend import Backend
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.postgres import Postgres
from aigovtool.custodian.store.sqlite import Sqlite
from aigovtool.custodian.store.transaction import Transaction

LONG_S = 20


@dataclass
class Place:
    """Where a ledger is, or will be."""

    backend: Callable[[bool], Backend]

    def create(self) -> Database:
        return Database(self.backend(True))

    def open(self) -> Database:
        return Database(self.backend(False))


@pytest.fixture
def place(tmp_path: Path, ledger: str | None) -> Place:
    """An empty place on each kind of store."""
    if ledger is None:
        return Place(lambda create: Sqlite(tmp_path / "ledger.db", create=create))
    return Place(lambda create: Postgres(ledger, create=create))


@pytest.fixture
def database(place: Place) -> Iterator[Database]:
    """A new ledger."""
    made = place.create()
    yield made
    made.close()


class Gate:
    """Holds the writer inside a job of its own, so that whatever is queued meanwhile shares one transaction."""

    def __init__(self, database: Database) -> None:
        self._open, entered = threading.Event(), threading.Event()

        def hold(_: Transaction) -> None:
            entered.set()
            self._open.wait(LONG_S)

        self.held = database.submit(hold)
        assert entered.wait(LONG_S)

    def open(self) -> None:
        self._open.set()


def put(database: Database, name: str) -> Future[None]:
    return database.submit(lambda transaction: facts.put(transaction, name, 1))


def names(database: Database) -> set[str]:
    found = database.submit(lambda transaction: set(transaction.execute(text("SELECT name FROM facts")).scalars()))
    return found.result(LONG_S)


def fail_at_commit(transaction: Transaction) -> None:
    """Leave a foreign key open that is looked at in COMMIT only: the statements succeed, the commit fails."""
    for statement in (
        "CREATE TABLE a (id INTEGER PRIMARY KEY)",
        "CREATE TABLE b (a INTEGER REFERENCES a DEFERRABLE INITIALLY DEFERRED)",
        "INSERT INTO b VALUES (7)",
    ):
        transaction.execute(text(statement))
