"""The ledger on either store: one writer, one transaction for many, nobody answered before COMMIT."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import NoReturn

import pytest
from sqlalchemy import event, select, update
from tests.custodian.store.conftest import LONG_S, Gate, Place, fail_at_commit, names, put

from aigovtool.custodian.store import facts
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.schema import SCHEMA_VERSION, head
from aigovtool.custodian.store.schema import facts as facts_table
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConfigurationError, ConflictError, OverloadedError, StorageError


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


def test_a_question_with_two_answers_is_the_failure_of_its_own_job(database: Database) -> None:
    """What SQLAlchemy says of a job, and no server said, leaves the ledger and the job's neighbours alone."""

    def ambiguous(transaction: Transaction) -> None:
        facts.put(transaction, "ambiguous", 1)
        transaction.execute(select(facts_table.c.name)).scalar_one_or_none()

    for name in ("one", "two"):
        put(database, name).result(LONG_S)
    gate = Gate(database)
    first, failed, last = put(database, "first"), database.submit(ambiguous), put(database, "last")
    gate.open()
    assert failed.exception(LONG_S) is not None
    assert first.exception(LONG_S) is last.exception(LONG_S) is None
    assert names(database) == {"one", "two", "first", "last"}
    assert not database.failed.is_set()


def test_a_later_job_sees_what_an_earlier_one_wrote(database: Database) -> None:
    """Within one transaction the order of arrival is the order of effects: nothing is granted twice."""
    gate = Gate(database)
    counts = [database.submit(facts.next_epoch) for _ in range(5)]
    gate.open()
    assert [future.result(LONG_S) for future in counts] == [1, 2, 3, 4, 5]


def test_each_transaction_goes_on_from_the_head_that_the_one_before_left(database: Database, place: Place) -> None:
    """Also from one whose job was refused, which left nothing of its own; and what a restart finds is the same."""

    def refused(transaction: Transaction) -> None:
        facts.next_epoch(transaction)
        raise ConflictError("no", reason="test")

    def epoch(transaction: Transaction) -> int:
        return transaction.head.epoch

    assert [database.submit(facts.next_epoch).result(LONG_S) for _ in range(3)] == [1, 2, 3]
    assert isinstance(database.submit(refused).exception(LONG_S), ConflictError)
    assert database.submit(epoch).result(LONG_S) == 3
    assert database.submit(facts.next_epoch).result(LONG_S) == 4
    database.close()
    again = place.open()
    assert again.submit(epoch).result(LONG_S) == 4
    assert again.submit(facts.next_epoch).result(LONG_S) == 5
    again.close()


def test_nobody_is_answered_before_commit(database: Database, place: Place) -> None:
    """A job that succeeded is told that it failed when the COMMIT of its group fails, and has left nothing."""
    gate = Gate(database)
    good, bad = put(database, "good"), database.submit(fail_at_commit)
    gate.open()
    for future in (good, bad):
        assert isinstance(future.exception(LONG_S), StorageError)
    assert gate.held.exception(LONG_S) is None  # its own transaction came before
    database.close()
    again = place.open()
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


@pytest.mark.fault(31)
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


# --- Whoever may come without being known -----------------------------------------------------------------------


async def test_strangers_wait_for_each_other_and_not_in_front_of_others(database: Database) -> None:
    """However many of them come first, four share the transaction of a job that came after them."""
    together: list[str] = []

    def seen(name: str) -> Callable[[Transaction], None]:
        return lambda _: together.append(name)

    gate = Gate(database)
    strangers = [asyncio.create_task(database.run_open(seen("stranger"))) for _ in range(40)]
    await asyncio.sleep(0)
    renewal = asyncio.create_task(database.run(seen("renewal")))
    await asyncio.sleep(0)
    gate.open()
    await renewal
    await asyncio.gather(*strangers)
    assert together.index("renewal") <= 8  # four with the gate's own transaction, four with this one
    assert together.count("stranger") == 40


async def test_a_crowd_of_strangers_is_refused(database: Database) -> None:
    """They are told when to come again; everybody else is served, and so are they once the crowd is gone."""
    gate = Gate(database)
    crowd = [asyncio.create_task(database.run_open(lambda _: None)) for _ in range(300)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError) as caught:
        await database.run_open(lambda _: None)
    assert caught.value.retry_after_s == 1
    waiting = put(database, "served")
    gate.open()
    assert waiting.exception(LONG_S) is None
    outcomes = await asyncio.gather(*crowd, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {type(None), OverloadedError}
    assert await database.run_open(lambda _: "again") == "again"


async def test_strangers_are_told_when_the_ledger_is_closed_or_fails(database: Database) -> None:
    """Nobody waits for ever."""
    gate = Gate(database)
    waiting = [asyncio.create_task(database.run_open(lambda _: None)) for _ in range(20)]
    await asyncio.sleep(0)
    database._jobs.end()
    gate.open()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {type(None), StorageError}


# --- Failure -------------------------------------------------------------------------------------------------


def no_memory(*_: object) -> NoReturn:
    raise MemoryError


def test_a_writer_that_runs_out_of_memory_says_so(database: Database) -> None:
    """Whatever ends a commit, its group is told, and so is everybody later: nobody waits for ever."""
    event.listen(database.backend.engine, "commit", no_memory)
    assert isinstance(put(database, "lost").exception(LONG_S), StorageError)
    event.remove(database.backend.engine, "commit", no_memory)
    _is_told_or_served(database, put(database, "later"))


def test_a_job_that_would_end_the_thread_does_not(database: Database) -> None:
    """Not even one that asks the process to end, which only the main thread can do."""

    def leave(_: Transaction) -> NoReturn:
        raise SystemExit

    assert isinstance(database.submit(leave).exception(LONG_S), StorageError)
    _is_told_or_served(database, put(database, "later"))


def _is_told_or_served(database: Database, later: Future[None]) -> None:
    failure = later.exception(LONG_S)
    assert database.failed.is_set() is not database.backend.reconnects
    assert isinstance(failure, StorageError) if database.failed.is_set() else failure is None


def test_what_was_answered_is_there_after_a_restart(database: Database, place: Place) -> None:
    """Close finishes what is queued; the file holds it."""
    waiting = [put(database, f"n{number}") for number in range(5)]
    database.close()
    assert all(future.done() for future in waiting)
    again = place.open()
    assert names(again) == {f"n{number}" for number in range(5)}
    again.close()


# --- Opening -------------------------------------------------------------------------------------------------


_NEWER = f"the ledger has schema {SCHEMA_VERSION + 1}, this program knows {SCHEMA_VERSION}"


@pytest.mark.parametrize(("version", "said"), [(SCHEMA_VERSION + 1, _NEWER), (0, "this is not a ledger")])
def test_another_schema_is_refused(version: int, said: str, place: Place) -> None:
    """A ledger of a newer program, or of none, is called so, left alone, and can be opened by whoever knows it."""
    made = place.create()
    made.submit(lambda transaction: transaction.execute(update(head).values(schema=version)) and None).result(LONG_S)
    made.close()
    for _ in range(2):  # the second time shows that the first let go of the file
        with pytest.raises(ConfigurationError) as caught:
            place.open()
        assert caught.value.reason == "schema_version"
        assert caught.value.message.startswith(said)
