"""The ledger's file: one writer, one transaction for many, and nothing after a failure."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from sqlalchemy import event, text, update

from aigovtool.custodian.store import facts
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.schema import SCHEMA_VERSION, head
from aigovtool.custodian.store.sqlite import Sqlite
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConfigurationError, ConflictError, OverloadedError, StorageError

LONG_S = 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    made = Database(Sqlite(path, create=True))
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
    """Leave a foreign key open that SQLite looks at in COMMIT only: the statement succeeds, the commit fails."""
    for statement in (
        "CREATE TABLE a (id INTEGER PRIMARY KEY)",
        "CREATE TABLE b (a REFERENCES a DEFERRABLE INITIALLY DEFERRED)",
        "INSERT INTO b VALUES (7)",
    ):
        transaction.execute(text(statement))


def full_disk(transaction: Transaction) -> None:
    """Write more than the file may grow by."""
    pages = transaction.execute(text("PRAGMA page_count")).scalar_one()
    transaction.execute(text(f"PRAGMA max_page_count = {pages}"))
    facts.put(transaction, "large", "x" * 100_000)


# --- Group commit --------------------------------------------------------------------------------------------


def test_jobs_that_wait_together_share_one_commit(database: Database) -> None:
    """Twenty waiting jobs cost one transaction, and each gets its own result."""
    commits: list[object] = []
    event.listen(database.backend.engine, "commit", commits.append)
    gate = Gate(database)
    waiting = [database.submit(lambda _, number=number: number) for number in range(20)]  # type: ignore[misc]
    gate.open()
    assert [future.result(LONG_S) for future in waiting] == list(range(20))
    assert len(commits) == 2  # the gate's own, and one for all of them


def test_one_refusal_does_not_undo_the_others(database: Database) -> None:
    """A job that wrote and was then refused leaves nothing; its neighbours in the transaction stay."""

    def refused(transaction: Transaction) -> None:
        facts.put(transaction, "refused", 1)
        raise ConflictError("no", reason="test")

    def broken(transaction: Transaction) -> None:
        facts.put(transaction, "broken", 1)
        raise ZeroDivisionError

    gate = Gate(database)
    futures = [put(database, "first"), database.submit(refused), database.submit(broken), put(database, "last")]
    gate.open()
    for future, error in zip(futures, [None, ConflictError, ZeroDivisionError, None], strict=True):
        assert type(future.exception(LONG_S)) is (error or type(None))
    assert names(database) == {"first", "last"}
    assert not database.failed.is_set()


def test_a_later_job_sees_what_an_earlier_one_wrote(database: Database) -> None:
    """Within one transaction the order of arrival is the order of effects: nothing is granted twice."""
    gate = Gate(database)
    counts = [database.submit(facts.next_epoch) for _ in range(5)]
    gate.open()
    assert [future.result(LONG_S) for future in counts] == [1, 2, 3, 4, 5]


def test_nobody_is_answered_before_commit(database: Database, path: Path) -> None:
    """A job that succeeded is told that it failed when the COMMIT of its group fails, and has left nothing."""
    gate = Gate(database)
    good, bad = put(database, "good"), database.submit(fail_at_commit)
    gate.open()
    for future in (good, bad):
        assert isinstance(future.exception(LONG_S), StorageError)
    assert gate.held.exception(LONG_S) is None  # its own transaction came before
    database.close()
    again = Database(Sqlite(path))
    assert names(again) == set()
    again.close()


async def test_a_caller_that_goes_away_does_not_hurt_the_writer(database: Database) -> None:
    """A cancelled waiter's job is dropped or done, and the next one is served."""
    gate = Gate(database)
    waiting = asyncio.create_task(database.run(lambda transaction: facts.put(transaction, "mine", 1)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.open()
    assert await database.run(lambda _: "served") == "served"


async def test_a_caller_can_go_away_while_its_job_runs(database: Database) -> None:
    """Cancelled in the middle of its own job: the writer lives on."""
    entered, go_on = threading.Event(), threading.Event()

    def job(_: Transaction) -> None:
        entered.set()
        go_on.wait(LONG_S)

    running = asyncio.create_task(database.run(job))
    await asyncio.to_thread(entered.wait, LONG_S)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    go_on.set()
    assert await database.run(lambda _: "served") == "served"


def test_the_queue_is_bounded(database: Database) -> None:
    """More waiting jobs than the queue holds are refused, and may come again."""
    gate = Gate(database)
    futures = [database.submit(lambda _: None) for _ in range(10_001)]
    gate.open()
    error = futures[-1].exception(LONG_S)
    assert isinstance(error, OverloadedError)
    assert error.retry_after_s == 1
    assert futures[0].exception(LONG_S) is None
    assert futures[-2].exception(LONG_S) is None


# --- Failure -------------------------------------------------------------------------------------------------


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
    database._jobs.put((lambda transaction: facts.put(transaction, "late", 1), late))  # type: ignore[arg-type]
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


def test_what_was_answered_is_there_after_a_restart(database: Database, path: Path) -> None:
    """Close finishes what is queued; the file holds it."""
    waiting = [put(database, f"n{number}") for number in range(5)]
    database.close()
    assert all(future.done() for future in waiting)
    again = Database(Sqlite(path))
    assert names(again) == {f"n{number}" for number in range(5)}
    again.close()


# --- Opening -------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0])
def test_another_schema_is_refused(version: int, path: Path) -> None:
    """A ledger of a newer program, or of none, is left alone and can still be opened by whoever knows it."""
    made = Database(Sqlite(path, create=True))
    made.submit(lambda transaction: transaction.execute(update(head).values(schema=version)) and None).result(LONG_S)
    made.close()
    for _ in range(2):  # the second time shows that the first let go of the file
        with pytest.raises(ConfigurationError) as caught:
            Database(Sqlite(path))
        assert caught.value.reason == "schema_version"


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
