"""Whoever asks the ledger for much waits for itself: callers have turns, and long jobs end a transaction."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import pytest
from tests.custodian.store.conftest import LONG_S, Gate

from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.custodian.store.turns import Turns, in_line_of

#: Longer than a transaction goes on taking jobs.
LONG_JOB_S = 0.15


def submit(database: Database, caller: str, job: Callable[[Transaction], object]) -> Future[object]:
    """Ask for a job in the line of a caller."""
    with in_line_of(caller):
        return database.submit(job)


def test_callers_have_turns_whoever_came_first() -> None:
    """One with a hundred before anybody else is served one at a time between the others; each line keeps its order."""
    turns: Turns[str] = Turns(1_000)
    for number in range(100):
        turns.put(f"a{number}", "a")
    turns.put("b0", "b")
    turns.put("c0", "c")
    turns.put("b1", "b")
    assert [turns.get() for _ in range(7)] == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]
    turns.put("c1", "c")
    assert [turns.get() for _ in range(3)] == ["a4", "c1", "a5"]


def test_what_is_put_back_is_next_and_the_end_comes_last() -> None:
    """In the order in which it was taken; an end that was told long before waits for all of it."""
    turns: Turns[str] = Turns(2)
    turns.put("a0", "a")
    turns.put("b0", "b")
    with pytest.raises(queue.Full):
        turns.put("c0", "c")
    turns.end()
    assert (turns.get(), turns.get(), turns.empty(), turns.ending()) == ("a0", "b0", True, True)
    turns.put_back([("a", "a0"), ("b", "b0")])
    assert [turns.get() for _ in range(4)] == ["a0", "b0", None, None]


def test_one_with_many_jobs_keeps_nobody_from_a_turn(database: Database) -> None:
    """Two hundred of one caller wait; the job of another, which comes after them, is the second that is done."""
    done: list[str] = []
    gate = Gate(database)
    many = [submit(database, "many", lambda _: done.append("many")) for _ in range(200)]
    one = submit(database, "one", lambda _: done.append("one"))
    gate.open()
    for future in (one, *many):
        future.result(LONG_S)
    assert done.index("one") == 1


def test_who_comes_during_a_long_job_does_not_wait_for_those_that_were_taken_with_it(database: Database) -> None:
    """Ten long jobs share the transaction of their caller's first; another's is done after two of them at most."""
    done: list[str] = []
    begun, come = threading.Event(), threading.Event()

    def long(_: Transaction) -> None:
        begun.set()
        come.wait(LONG_S)
        time.sleep(LONG_JOB_S)
        done.append("long")

    gate = Gate(database)
    many = [submit(database, "long", long) for _ in range(10)]
    gate.open()
    assert begun.wait(LONG_S)
    one = submit(database, "one", lambda _: done.append("one"))
    come.set()
    one.result(LONG_S)
    assert done.index("one") <= 2
    for future in many:
        future.result(LONG_S)
    assert done.count("long") == 10


async def test_strangers_are_served_beside_long_jobs(database: Database) -> None:
    """Each transaction takes some of them along, however long the jobs of others are."""
    done: list[str] = []

    def long(_: Transaction) -> None:
        time.sleep(LONG_JOB_S)
        done.append("long")

    gate = Gate(database)
    many = [submit(database, "long", long) for _ in range(10)]
    stranger = database.run_open(lambda _: done.append("stranger"))
    gate.open()
    await stranger
    assert done.index("stranger") <= 2
    for future in many:
        future.result(LONG_S)


def test_close_finishes_what_was_put_back(database: Database) -> None:
    """The end does not overtake jobs for which a transaction had no time."""
    done: list[int] = []

    def long(number: int) -> Callable[[Transaction], None]:
        def job(_: Transaction) -> None:
            time.sleep(LONG_JOB_S)
            done.append(number)

        return job

    gate = Gate(database)
    many = [submit(database, "long", long(number)) for number in range(4)]
    closing = threading.Thread(target=database.close)
    closing.start()
    gate.open()
    closing.join(LONG_S)
    assert not closing.is_alive()
    assert [future.exception(0) for future in many] == [None] * 4
    assert done == [0, 1, 2, 3]
