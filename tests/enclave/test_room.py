"""Shared room: a share for each, a bound for all, and nothing is lost. Shared threads: each consumer in its turn."""

import asyncio
import threading
import weakref
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.enclave.room import Room, Turns
from aigovtool.errors import InvalidValueError, OverloadedError
from aigovtool.ids import ConsumerId

ANN, BEN, CLEO, DORA, EVE = map(ConsumerId, ("ann", "ben", "cleo", "dora", "eve"))


def full(room: Room, consumer: ConsumerId, amount: int) -> bool:
    """Return whether so much cannot be taken; take nothing for longer."""
    try:
        with room.take(consumer, amount):
            return False
    except OverloadedError as error:
        assert (error.reason, error.retry_after_s, error.status) == ("busy", 1, 429)
        return True


def test_a_consumer_takes_its_share_and_no_more() -> None:
    """Others are not disturbed by one that is at its bound."""
    room = Room(4, 12, "busy")
    with room.take(ANN, 3):
        assert not full(room, ANN, 1)
        assert full(room, ANN, 2)
        assert not full(room, BEN, 4)
    assert not full(room, ANN, 4)
    assert full(room, ANN, 5)


def test_all_together_take_no_more_than_there_is() -> None:
    """Each within its share, and yet the room is full."""
    room = Room(4, 12, "busy")
    with room.take(ANN, 4), room.take(BEN, 4), room.take(CLEO, 2), room.take(DORA, 1):
        assert full(room, EVE, 2)
        with room.take(EVE, 1):
            assert room._total == 12
            assert full(room, ConsumerId("fay"), 1)
    assert not full(room, EVE, 4)


def test_nobody_takes_more_than_it_leaves() -> None:
    """Each of a crowd that takes what it gets leaves half of what it found; who comes then has a place."""
    room = Room(256, 1_024, "busy")
    taken = []
    with ExitStack() as crowd:
        for number in range(8):
            one, before = ConsumerId(f"c{number}"), room._total
            while not full(room, one, 1):
                crowd.enter_context(room.take(one, 1))
            taken.append(room._total - before)
        assert taken == [256, 256, 256, 128, 64, 32, 16, 8]
        assert not full(room, ANN, 4)
    assert room._total == 0


def test_nothing_can_always_be_taken() -> None:
    """A request whose body is in may need nothing beside it, whatever others have taken since."""
    room = Room(6, 12, "busy")
    with room.take(ANN, 6), room.take(BEN, 3):
        assert full(room, ANN, 1)
        assert not full(room, ANN, 0)


def test_what_is_not_needed_is_given_back_early() -> None:
    """A body that turned out small; a share does not grow again."""
    room = Room(4, 10, "busy")
    with room.take(ANN, 4) as share:
        share.shrink_to(1)
        assert not full(room, ANN, 3)
        assert full(room, ANN, 4)
        share.shrink_to(4)
        assert not full(room, ANN, 3)
    assert not full(room, ANN, 4)


def test_an_error_gives_everything_back() -> None:
    """However a request ends; and of a consumer that is done nothing is remembered."""
    room = Room(4, 10, "busy")
    with pytest.raises(ValueError, match="gone"), room.take(ANN, 4):
        raise ValueError("gone")
    assert (room._taken, room._total) == ({}, 0)


@given(st.lists(st.tuples(st.sampled_from([ANN, BEN, CLEO]), st.integers(0, 5), st.integers(0, 5)), max_size=20))
def test_the_books_are_balanced(takes: list[tuple[ConsumerId, int, int]]) -> None:
    """Whatever was taken, shrunk or refused: in the end nothing is taken, and never too much."""
    room = Room(4, 10, "busy")
    with ExitStack() as taken:
        for consumer, amount, later in takes:
            with suppress(OverloadedError):
                taken.enter_context(room.take(consumer, amount)).shrink_to(later)
            assert 0 <= room._total <= 10
            assert all(0 < each <= 4 for each in room._taken.values())
    assert (room._taken, room._total) == ({}, 0)


# --- Turns -------------------------------------------------------------------------------------


class Gate:
    """Work that waits in its thread until it may end, and notes who began it."""

    def __init__(self) -> None:
        self.begun: list[ConsumerId] = []
        self.began: asyncio.Queue[ConsumerId] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._may_end = threading.Semaphore(0)

    async def work(self, turns: Turns, consumer: ConsumerId, within_s: float = 20) -> ConsumerId:
        def wait() -> ConsumerId:
            self.begun.append(consumer)
            self._loop.call_soon_threadsafe(self.began.put_nowait, consumer)
            assert self._may_end.acquire(timeout=20)
            return consumer

        return await turns.do(consumer, 1, within_s, wait)

    def let_go(self, count: int = 1) -> None:
        self._may_end.release(count)


async def settle() -> None:
    """Let everybody come as far as they can without a thread."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_large_work_is_done_in_a_thread_and_small_work_at_once() -> None:
    """What is small is faster done than handed over."""
    turns = Turns(1, on_loop_bytes=10)
    loop = threading.get_ident()
    assert await turns.do(ANN, 10, 1, threading.get_ident) == loop
    assert await turns.do(ANN, 11, 1, threading.get_ident) != loop


async def test_a_consumer_with_much_to_do_delays_another_by_one_piece() -> None:
    """Ann has five pieces waiting when Ben comes: his is the next."""
    turns, gate = Turns(1, on_loop_bytes=0), Gate()
    async with asyncio.timeout(20):
        anns = [asyncio.create_task(gate.work(turns, ANN)) for _ in range(5)]
        await gate.began.get()
        bens = asyncio.create_task(gate.work(turns, BEN))
        await settle()
        gate.let_go(6)
        await asyncio.gather(*anns, bens)
    assert gate.begun == [ANN, BEN, ANN, ANN, ANN, ANN]


async def test_a_consumer_has_one_thread_at_a_time() -> None:
    """The other one is for others, at once; and in all there are as many threads as there are turns."""
    turns, gate = Turns(2, on_loop_bytes=0), Gate()
    async with asyncio.timeout(20):
        tasks = [asyncio.create_task(gate.work(turns, who)) for who in (ANN, ANN, BEN, CLEO)]
        assert {await gate.began.get(), await gate.began.get()} == {ANN, BEN}
        await settle()
        assert len(gate.begun) == 2
        gate.let_go(4)
        await asyncio.gather(*tasks)
    assert sorted(gate.begun) == [ANN, ANN, BEN, CLEO]


async def test_a_turn_that_does_not_come_in_time_is_refused() -> None:
    """With a time to come back; the others are served on, and of nobody anything is remembered."""
    turns, gate = Turns(1, on_loop_bytes=0), Gate()
    async with asyncio.timeout(20):
        first = asyncio.create_task(gate.work(turns, ANN))
        await gate.began.get()
        for late in (ANN, BEN):
            with pytest.raises(OverloadedError) as caught:
                await gate.work(turns, late, within_s=0)
            assert (caught.value.reason, caught.value.retry_after_s) == ("too_much_at_once", 1)
        gate.let_go(2)
        assert await first == ANN
        assert await gate.work(turns, BEN, within_s=0) == BEN  # free at once: there is nothing to wait for
    assert dict(turns._own) == {}


async def test_whoever_gives_up_leaves_its_turn_to_the_next() -> None:
    """While it waits at once; once its thread works, when that has ended: there are never more threads than turns."""
    turns, gate = Turns(1, on_loop_bytes=0), Gate()
    async with asyncio.timeout(20):
        working, waiting, next_ = [asyncio.create_task(gate.work(turns, who)) for who in (ANN, BEN, CLEO)]
        await gate.began.get()
        for task in (waiting, working):
            task.cancel()
        await settle()
        assert (waiting.done(), working.done(), gate.begun) == (True, False, [ANN])
        gate.let_go(2)
        assert await next_ == CLEO
        with pytest.raises(asyncio.CancelledError):
            await working
    assert gate.begun == [ANN, CLEO]


async def test_an_error_of_the_work_is_the_callers() -> None:
    """And the turn is over."""
    turns = Turns(1, on_loop_bytes=0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await turns.do(ANN, 1, 1, lambda: 1 / 0)


async def test_what_a_refused_piece_of_work_had_made_is_freed_in_its_thread() -> None:
    """An error remembers the frames that it came through, and they millions of parsed elements: that takes long too."""

    class Parsed:
        pass

    made: list[weakref.ref[Parsed]] = []

    def break_down(parsed: Parsed) -> None:
        raise ValueError(parsed)

    def refuse() -> None:
        first, second = Parsed(), Parsed()
        made.extend(map(weakref.ref, (first, second)))
        try:
            break_down(second)
        except ValueError:
            raise InvalidValueError("not what the model takes", reason="no") from None

    with pytest.raises(InvalidValueError) as caught:
        await Turns(1, on_loop_bytes=0).do(ANN, 1, 1, refuse)
    assert caught.value.reason == "no"
    assert [each() for each in made] == [None, None]
