"""A copy of a SQLite ledger, made by the one writer while it serves: complete, private, and no trouble to anybody."""

import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import pytest
from sqlalchemy import text
from tests.custodian.store.conftest import LONG_S, Gate, Place, fail_at_commit, names, put

from aigovtool.custodian.store import facts
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.sqlite import Sqlite
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConfigurationError, ConflictError, FaultError, StorageError

MANY = 40


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    """A ledger of several MiB, so that a copy takes several steps."""
    made = Database(Sqlite(path, create=True))
    made.submit(lambda transaction: facts.put(transaction, "large", "x" * 6_000_000)).result(LONG_S)
    yield made
    made.close()


def copies(path: Path) -> list[Path]:
    return list(path.parent.glob("*.copy-*"))


def kept(file: BinaryIO, where: Path) -> sqlite3.Connection:
    """Save a copy under a name, and open it."""
    with file:
        where.write_bytes(file.read())
    return sqlite3.connect(where)


def count(transaction: Transaction) -> int:
    return int(transaction.execute(text("SELECT count(*) FROM facts")).scalar_one())


def test_what_is_committed_while_a_copy_is_made_is_in_it(database: Database, path: Path, tmp_path: Path) -> None:
    """Jobs are served between its steps, in pages that were copied and that were not; none is missing or half there."""
    during: list[int] = []

    def write(number: int) -> "Future[None]":
        def job(transaction: Transaction) -> None:
            during.append(len(copies(path)))
            facts.put(transaction, f"n{number}", "y" * 5_000)
            if number < MANY:
                written.append(write(number + 1))  # waits when the next step ends

        return database.submit(job)

    written: list[Future[None]] = []
    gate = Gate(database)
    copying = database.copy(count)
    written.append(write(1))
    gate.open()
    file, seen = copying.result(LONG_S)
    for future in written:
        assert future.exception(LONG_S) is None
    assert sum(during) > 1, "no job was served while the copy was made"
    with closing(kept(file, tmp_path / "copy.db")) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = {name for (name,) in copy.execute("SELECT name FROM facts")}
    # Those that were served before the copy ended, in order, and not one of those after.
    assert found == {"large", *(f"n{number}" for number in range(1, len(found)))}
    assert len(found) == seen >= 1 + sum(during)
    assert found <= names(database)


def test_a_copy_is_private_and_leaves_nothing_behind(database: Database, path: Path) -> None:
    """Mode 0600 from its first byte, beside the ledger, and without a name once it is made."""
    modes: list[int] = []

    def look(_transaction: Transaction) -> None:
        modes.extend(stat.S_IMODE(found.stat().st_mode) for found in copies(path))

    gate = Gate(database)
    copying = database.copy(count)
    looked = database.submit(look)
    again = database.submit(lambda _: database.submit(look))
    gate.open()
    file, _ = copying.result(LONG_S)
    with file:
        assert looked.exception(LONG_S) is again.result(LONG_S).exception(LONG_S) is None
        assert set(modes) == {0o600}
        assert sorted(found.name for found in path.parent.iterdir()) == ["ledger.db", "ledger.db-wal"]


def test_a_copy_lets_nobody_else_in(database: Database, path: Path) -> None:
    """During it and after it the file is one custodian's alone."""
    refused: list[str | None] = []

    def open_second(_transaction: Transaction) -> None:
        with pytest.raises(ConfigurationError) as caught:
            Database(Sqlite(path))
        refused.append(caught.value.reason)

    gate = Gate(database)
    copying = database.copy(count)
    database.submit(lambda _: database.submit(open_second)).add_done_callback(lambda _: None)
    gate.open()
    copying.result(LONG_S)[0].close()
    database.submit(open_second).result(LONG_S)
    assert set(refused) == {"database_locked"}


def test_a_copy_ends_with_the_ledger_that_fails(database: Database, path: Path) -> None:
    """What a writer could not commit is in no copy: whoever waits for one is told, and no file is left."""
    gate = Gate(database)
    copying = database.copy(count)
    database.submit(lambda _: database.submit(fail_at_commit)).add_done_callback(lambda _: None)
    gate.open()
    assert isinstance(copying.exception(LONG_S), StorageError)
    assert copies(path) == []
    assert isinstance(database.copy(count).exception(LONG_S), StorageError)


def test_a_ledger_can_be_closed_while_it_is_copied(path: Path) -> None:
    """The copy is given up, whatever was queued before the end is done, and the writer ends."""
    database = Database(Sqlite(path, create=True))
    database.submit(lambda transaction: facts.put(transaction, "large", "x" * 6_000_000)).result(LONG_S)
    gate = Gate(database)
    copying, waiting = database.copy(count), database.copy(count)
    last = database.submit(lambda _: database.submit(lambda _: database._jobs.end()))
    gate.open()
    for future in (copying, waiting):
        assert isinstance(future.exception(LONG_S), StorageError)
    assert last.exception(LONG_S) is None
    database._thread.join(LONG_S)
    assert not database._thread.is_alive()
    assert copies(path) == []


def test_a_copy_that_has_not_begun_when_the_ledger_closes_is_given_up(path: Path) -> None:
    """Asked for while the last group of jobs is served: whoever waits for it is told, and does not wait for ever."""
    database = Database(Sqlite(path, create=True))
    asked: list[Future[tuple[BinaryIO, int]]] = []
    gate = Gate(database)
    database.submit(lambda _: asked.append(database.copy(count)))
    database._jobs.end()  # in the same group
    gate.open()
    database._thread.join(LONG_S)
    assert isinstance(asked[0].exception(LONG_S), StorageError)


def test_a_job_that_fails_on_a_copy_is_told_and_the_ledger_goes_on(database: Database, path: Path) -> None:
    """The copy is closed with it."""

    def refuse(_transaction: Transaction) -> None:
        raise ConflictError("no", reason="no")

    assert isinstance(database.copy(refuse).exception(LONG_S), ConflictError)
    assert copies(path) == []
    assert put(database, "still").exception(LONG_S) is None


def test_a_copy_that_cannot_be_written_costs_the_ledger_nothing(database: Database, path: Path) -> None:
    """Here the directory is gone; grants go on, and the next copy works."""
    elsewhere = path.parent.with_name("elsewhere")
    path.parent.rename(elsewhere)
    failure = database.copy(count).exception(LONG_S)
    elsewhere.rename(path.parent)
    assert isinstance(failure, FaultError)
    assert (failure.reason, str(path.parent) in (failure.fix or "")) == ("copy_failed", True)
    assert put(database, "still").exception(LONG_S) is None
    database.copy(count).result(LONG_S)[0].close()


def test_what_a_killed_custodian_left_is_removed_by_the_next(path: Path) -> None:
    """Half a copy is worth nothing and may be large; only the one that holds the ledger removes it."""
    Database(Sqlite(path, create=True)).close()
    left = path.with_name("ledger.db.copy-0123456789abcdef")
    left.write_bytes(b"half")
    holder = Database(Sqlite(path))
    assert not left.exists()
    left.write_bytes(b"being written")
    with pytest.raises(ConfigurationError):
        Database(Sqlite(path))
    assert left.exists()
    holder.close()


def test_postgresql_is_copied_by_its_own_programs(place: Place, ledger: str | None) -> None:
    """The refusal names them."""
    database = place.create()
    copying = database.copy(count)
    if ledger is None:
        copying.result(LONG_S)[0].close()
    else:
        failure = copying.exception(LONG_S)
        assert isinstance(failure, ConflictError)
        assert failure.reason == "backup_postgres"
        assert "pg_dump" in (failure.fix or "")
        assert "pg_basebackup" in (failure.fix or "")
    assert put(database, "still").exception(LONG_S) is None
    database.close()
