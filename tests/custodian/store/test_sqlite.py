"""SQLite: one process holds the file, and after a failed write nothing is tried again."""

import gc
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from sqlalchemy import CursorResult, text
from tests.custodian.store.conftest import LONG_S, Gate, fail_at_commit, names, put

from aigovtool.custodian.store import facts
from aigovtool.custodian.store.database import Database, _Waiting
from aigovtool.custodian.store.sqlite import Sqlite
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConfigurationError, StorageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    made = Database(Sqlite(path, create=True))
    yield made
    made.close()


def full_disk(transaction: Transaction) -> None:
    """Write more than the file may grow by."""
    pages = transaction.execute(text("PRAGMA page_count")).scalar_one()
    transaction.execute(text(f"PRAGMA max_page_count = {pages}"))
    facts.put(transaction, "large", "x" * 100_000)


@pytest.mark.parametrize("failure", [fail_at_commit, full_disk], ids=["commit", "full-disk"])
def test_after_a_failed_write_nothing_is_granted(failure: object, database: Database) -> None:
    """The failed job, those behind it, and every later one get StorageError, until a restart."""
    gate = Gate(database)
    futures = [database.submit(failure), *(put(database, f"n{number}") for number in range(100))]  # type: ignore[arg-type]
    gate.open()
    assert all(isinstance(future.exception(LONG_S), StorageError) for future in futures)
    assert database.failed.is_set()
    assert isinstance(put(database, "later").exception(LONG_S), StorageError)


def test_a_job_that_slipped_in_during_the_failure_writes_nothing(database: Database, path: Path) -> None:
    """Even one that was queued between the failure and its announcement."""
    database.failed.set()
    late: Future[None] = Future()
    database._jobs.put(_Waiting(lambda transaction: facts.put(transaction, "late", 1), late))  # type: ignore[arg-type]
    assert isinstance(late.exception(LONG_S), StorageError)
    database.close()
    again = Database(Sqlite(path))
    assert names(again) == set()
    again.close()


def test_close_ends_after_a_failure(database: Database) -> None:
    """The end of the writer is not lost among the jobs that are given up."""
    gate = Gate(database)
    database.submit(full_disk)
    closing = threading.Thread(target=database.close)
    closing.start()
    gate.open()
    closing.join(LONG_S)
    assert not closing.is_alive()


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Nothing is freed but what nobody refers to: when the collector runs is chance."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def half_answered(transaction: Transaction) -> CursorResult[Any]:
    """Ask, and read only the beginning of the answer."""
    counted = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 1000) SELECT x FROM c"
    answer = transaction.execute(text(counted))
    answer.fetchone()
    return answer


def fail_half_read(transaction: Transaction) -> None:
    answer = half_answered(transaction)
    full_disk(transaction)
    answer.fetchone()


def refuse_half_read(transaction: Transaction) -> NoReturn:
    answer = half_answered(transaction)
    raise ZeroDivisionError(type(answer).__name__)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("failure", [fail_half_read, refuse_half_read, fail_at_commit])
def test_a_ledger_that_was_closed_after_a_failure_can_be_opened(
    failure: object, database: Database, path: Path
) -> None:
    """What a failed job was reading holds the file, also after it is closed: it is let go with the failure."""
    told = database.submit(failure).exception(LONG_S)  # type: ignore[arg-type]
    assert told is not None
    database.close()
    again = Database(Sqlite(path))
    assert names(again) == set()
    again.close()


def test_a_second_opener_is_refused(database: Database, path: Path) -> None:
    """Two custodians on one ledger would each grant the same budget."""
    with pytest.raises(ConfigurationError) as caught:
        Database(Sqlite(path))
    assert caught.value.reason == "database_locked"
    assert caught.value.fix
    assert put(database, "still").exception(LONG_S) is None


def test_creating_never_overwrites_and_opening_never_creates(database: Database, path: Path) -> None:
    """An absent ledger is not silently a new one with a full budget."""
    with pytest.raises(ConfigurationError):
        Database(Sqlite(path, create=True))
    with pytest.raises(ConfigurationError):
        Database(Sqlite(path.with_name("absent.db")))
    assert not path.with_name("absent.db").exists()
    assert put(database, "still").exception(LONG_S) is None


def test_a_file_that_is_no_ledger_is_refused(path: Path) -> None:
    """Garbage, or another program's database, is a configuration error and not a crash."""
    path.write_bytes(b"not a database, and long enough to be looked at" * 50)
    with pytest.raises(ConfigurationError) as caught:
        Database(Sqlite(path))
    assert caught.value.reason == "database"


def test_every_commit_is_synced(database: Database) -> None:
    """WAL, exclusive, synchronous=FULL: what the durability rests on is set on the transaction in use."""

    def pragmas(transaction: Transaction) -> list[object]:
        wanted = ("journal_mode", "locking_mode", "synchronous", "foreign_keys", "trusted_schema")
        return [transaction.execute(text(f"PRAGMA {name}")).scalar_one() for name in wanted]

    assert database.submit(pragmas).result(LONG_S) == ["wal", "exclusive", 2, 1, 0]


@pytest.mark.parametrize(
    "free", [[6_000_000 + (256 << 20) - 1], [1 << 40, (256 << 20) - 1]], ids=["before", "meanwhile"]
)
def test_a_copy_leaves_the_ledger_its_space(
    free: list[int], database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies beside the ledger: one that would fill the disk is not begun, or given up, before the ledger fails."""
    database.submit(lambda transaction: facts.put(transaction, "large", "x" * 6_000_000)).result(LONG_S)
    asked: list[Path] = []

    def disk_usage(where: Path) -> SimpleNamespace:
        asked.append(where)
        return SimpleNamespace(free=free[min(len(asked), len(free)) - 1])

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    failure = database.copy(lambda _: None).exception(LONG_S)
    assert isinstance(failure, StorageError)
    assert (failure.reason, str(path.parent) in (failure.fix or "")) == ("copy_failed", True)
    assert (len(asked), set(asked)) == (len(free), {path.parent})
    assert sorted(found.name for found in path.parent.iterdir()) == ["ledger.db", "ledger.db-wal"]
    assert put(database, "still").exception(LONG_S) is None
    free[:] = [1 << 40]
    database.copy(lambda _: None).result(LONG_S)[0].close()
