"""The ledger on either store: one writer, one transaction for many, nobody answered before COMMIT."""

import asyncio
import threading

import pytest
from sqlalchemy import event, update
from tests.custodian.store.conftest import LONG_S, Gate, Place, fail_at_commit, names, put

from aigovtool.custodian.store import facts
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.schema import SCHEMA_VERSION, head
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


def test_a_later_job_sees_what_an_earlier_one_wrote(database: Database) -> None:
    """Within one transaction the order of arrival is the order of effects: nothing is granted twice."""
    gate = Gate(database)
    counts = [database.submit(facts.next_epoch) for _ in range(5)]
    gate.open()
    assert [future.result(LONG_S) for future in counts] == [1, 2, 3, 4, 5]


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


def test_what_was_answered_is_there_after_a_restart(database: Database, place: Place) -> None:
    """Close finishes what is queued; the file holds it."""
    waiting = [put(database, f"n{number}") for number in range(5)]
    database.close()
    assert all(future.done() for future in waiting)
    again = place.open()
    assert names(again) == {f"n{number}" for number in range(5)}
    again.close()


# --- Opening -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0])
def test_another_schema_is_refused(version: int, place: Place) -> None:
    """A ledger of a newer program, or of none, is left alone and can still be opened by whoever knows it."""
    made = place.create()
    made.submit(lambda transaction: transaction.execute(update(head).values(schema=version)) and None).result(LONG_S)
    made.close()
    for _ in range(2):  # the second time shows that the first let go of the file
        with pytest.raises(ConfigurationError) as caught:
            place.open()
        assert caught.value.reason == "schema_version"
