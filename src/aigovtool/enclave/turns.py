"""Threads, and the event loop, that consumers share, each in its turn: for work that would hold up the event loop.

And with it heartbeat, pushes and everybody else. The interpreter lets another thread run every few milliseconds, except
within one call of a library: so what is done here is cut in pieces, or bounded, where it is made
(`protocol.tensor_json`, `MAX_INFER_JSON_LISTS`).

What is small is done on the loop, of each consumer only so much before others are looked at again (`transport.rounds`).
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from aigovtool.errors import AIGovToolError, OverloadedError
from aigovtool.ids import ConsumerId
from aigovtool.limits import MAX_LARGE_AT_ONCE, MAX_ON_LOOP_BYTES, MAX_SHORT_BYTES
from aigovtool.transport.rounds import Rounds

T = TypeVar("T")
#: As how much each piece of work on the event loop counts at least: what comes with a request takes time as well.
_LEAST_BYTES: Final = 512


class Turns:
    """Work in threads: a few at a time in all, one more that is short, and one at a time of each consumer.

    Whoever waits is served in turn with other consumers, however many a consumer has waiting: it waits for one piece of
    work of each of the others at most.
    """

    def __init__(
        self,
        threads: int = MAX_LARGE_AT_ONCE,
        on_loop_bytes: int = MAX_ON_LOOP_BYTES,
        short_bytes: int = MAX_SHORT_BYTES,
    ) -> None:
        self._threads: Final = asyncio.Semaphore(threads)
        self._short_thread: Final = asyncio.Semaphore(1)
        self._on_loop_bytes: Final = on_loop_bytes
        self._short_bytes: Final = short_bytes
        # Two of the largest: with one, small requests were rarely with the engine together, and took a tenth longer.
        self._rounds: Final = Rounds(2 * on_loop_bytes)
        # A lock exists while somebody has it or waits for it.
        self._own: Final[WeakValueDictionary[ConsumerId, asyncio.Lock]] = WeakValueDictionary()

    async def do(self, consumer: ConsumerId, size_bytes: int, within_s: float, work: Callable[[], T]) -> T:
        """Return what `work` on so many bytes returns or raises: on the event loop if they are few, else in a thread.

        Args:
            consumer: whose turn it takes.
            size_bytes: how much there is to do.
            within_s: the longest to wait for the turn; what has begun is not ended.
            work: must not touch what belongs to the event loop.

        Raises:
            OverloadedError: the turn did not come in time (`too_much_at_once`).
        """
        if size_bytes <= self._on_loop_bytes:
            await self._rounds.turn(consumer, max(size_bytes, _LEAST_BYTES))
            return work()
        async with AsyncExitStack() as turn:
            try:
                async with asyncio.timeout(within_s):
                    # First among one's own and then among all: so each consumer has one place in the queue of all.
                    await turn.enter_async_context(self._own.setdefault(consumer, asyncio.Lock()))
                    await turn.enter_async_context(
                        self._short_thread if size_bytes <= self._short_bytes else self._threads
                    )
            except TimeoutError:
                raise OverloadedError(
                    "too many large requests are being read",
                    reason="too_much_at_once",
                    fix="send fewer, or smaller ones",
                    retry_after_s=1,
                ) from None
            return await _in_thread(work)


async def _in_thread(work: Callable[[], T]) -> T:
    thread = asyncio.ensure_future(asyncio.to_thread(_bare, work))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        # A thread cannot be ended: the turn is over when it is, or there would soon be more threads than turns.
        await asyncio.wait([thread])
        raise


def _bare(work: Callable[[], T]) -> T:
    """Do the work; a refusal leaves behind what was made before it, to be freed in this thread and not on the loop."""
    try:
        return work()
    except AIGovToolError as error:
        error.__context__ = None
        raise error.with_traceback(None) from None
