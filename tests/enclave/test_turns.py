"""Shared threads: each consumer in its turn."""

import asyncio
import threading
import weakref
from functools import partial

import pytest

from aigovtool.enclave.turns import Turns
from aigovtool.errors import InvalidValueError, OverloadedError
from aigovtool.ids import ConsumerId

ANN, BEN, CLEO, DORA, EVE = map(ConsumerId, ("ann", "ben", "cleo", "dora", "eve"))


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


async def rounds(turns: Turns, *works: tuple[ConsumerId, int]) -> list[list[ConsumerId]]:
    """Return whose work was done in each round of the loop, if all of it comes at once."""
    done: list[list[ConsumerId]] = [[]]

    async def one(consumer: ConsumerId, size_bytes: int) -> None:
        await turns.do(consumer, size_bytes, 1, lambda: done[-1].append(consumer))

    tasks = [asyncio.create_task(one(*work)) for work in works]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        done.append([])
    return [each for each in done if each]


async def test_of_one_consumer_only_so_much_is_done_before_others_are_looked_at() -> None:
    """However many connections it has: in each round of the event loop each gets its part, in the order of coming."""
    turns = Turns(1, on_loop_bytes=5_000)
    many = [(ANN, 5_000)] * 6
    assert await rounds(turns, *many, (BEN, 5_000), (BEN, 1)) == [[ANN, ANN, BEN, BEN], [ANN, ANN], [ANN, ANN]]
    assert await rounds(turns, *[(ANN, 1)] * 20) == [[ANN] * 19, [ANN]]  # what comes with a request counts


async def test_who_gives_up_waiting_for_the_loop_takes_no_part_of_it() -> None:
    """And nothing is remembered of whom nobody waits for."""
    turns, done = Turns(1, on_loop_bytes=256), list[int]()
    tasks = [asyncio.create_task(turns.do(ANN, 10, 1, partial(done.append, number))) for number in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await settle()
    assert (done, tasks[1].cancelled()) == ([0, 2, 3], True)
    assert await turns.do(ANN, 10, 1, threading.get_ident) == threading.get_ident()


async def test_a_consumer_with_much_to_do_delays_another_by_one_piece() -> None:
    """Ann has five pieces waiting when Ben comes: his is the next."""
    turns, gate = Turns(1, on_loop_bytes=0, short_bytes=0), Gate()
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
    turns, gate = Turns(2, on_loop_bytes=0, short_bytes=0), Gate()
    async with asyncio.timeout(20):
        tasks = [asyncio.create_task(gate.work(turns, who)) for who in (ANN, ANN, BEN, CLEO)]
        assert {await gate.began.get(), await gate.began.get()} == {ANN, BEN}
        await settle()
        assert len(gate.begun) == 2
        gate.let_go(4)
        await asyncio.gather(*tasks)
    assert sorted(gate.begun) == [ANN, ANN, BEN, CLEO]


async def test_what_is_short_does_not_wait_for_what_is_long() -> None:
    """Not even where others have as much to do as there are threads for; and there is one thread for it."""
    turns, gate = Turns(1, on_loop_bytes=0, short_bytes=1), Gate()
    release = threading.Event()
    async with asyncio.timeout(20):
        long = asyncio.create_task(turns.do(ANN, 2, 20, partial(release.wait, 20)))
        await settle()
        short = [asyncio.create_task(gate.work(turns, who)) for who in (BEN, CLEO)]
        assert await gate.began.get() == BEN
        await settle()
        assert (gate.begun, long.done()) == ([BEN], False)
        gate.let_go(2)
        await asyncio.gather(*short)
        release.set()
        assert await long


async def test_a_turn_that_does_not_come_in_time_is_refused() -> None:
    """With a time to come back; the others are served on, and of nobody anything is remembered."""
    turns, gate = Turns(1, on_loop_bytes=0, short_bytes=0), Gate()
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
    turns, gate = Turns(1, on_loop_bytes=0, short_bytes=0), Gate()
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
    turns = Turns(1, on_loop_bytes=0, short_bytes=0)
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
        await Turns(1, on_loop_bytes=0, short_bytes=0).do(ANN, 1, 1, refuse)
    assert caught.value.reason == "no"
    assert [each() for each in made] == [None, None]
