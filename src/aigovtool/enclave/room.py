"""What consumers share: room, of which each may take its own share, and threads, which each gets in its turn.

`Room` is used for requests that wait for units, bodies in memory, and what the engine has. All together take not more
than there is. Who asks for more than is left is refused at once, with a time to come back, and takes nothing. Nobody
takes more than it leaves to others: so each further consumer that fills its share takes half of what is left, and a few
that work together do not shut out the rest, as four with a quarter each did. It costs nothing to announce a body.

`Turns` is used for work that would hold up the event loop, and with it heartbeat, pushes and everybody else. The
interpreter lets another thread run every few milliseconds, except within one call of a library: so what is done here is
cut in pieces, or bounded, where it is made (`protocol.tensor_json`, `MAX_INFER_JSON_LISTS`).
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from aigovtool.errors import AIGovToolError, OverloadedError
from aigovtool.ids import ConsumerId
from aigovtool.limits import MAX_LARGE_AT_ONCE, MAX_ON_LOOP_BYTES

T = TypeVar("T")


class Room:
    """Places, or bytes, that are given back when whoever took them is done."""

    def __init__(self, per_consumer: int, in_all: int, reason: str) -> None:
        self._per_consumer: Final = per_consumer
        self._in_all: Final = in_all
        self._reason: Final = reason
        self._taken: Final[dict[ConsumerId, int]] = {}
        self._total = 0

    @contextmanager
    def take(self, consumer: ConsumerId, amount: int) -> Iterator["Share"]:
        """Take `amount`, and give it back at the end.

        Raises:
            OverloadedError: as `claim`.
        """
        share = self.claim(consumer, amount)
        try:
            yield share
        finally:
            share.shrink_to(0)

    def claim(self, consumer: ConsumerId, amount: int) -> "Share":
        """Take `amount`, until the share is shrunk to nothing.

        Raises:
            OverloadedError: not so much is left, for this consumer or in all, or it would have more than it leaves.
        """
        own, left = self._taken.get(consumer, 0) + amount, self._in_all - self._total - amount
        # The last place goes to whoever has none; and nothing is taken from anybody by taking nothing.
        if amount and (own > self._per_consumer or left < 0 or own > max(1, left)):
            raise OverloadedError(
                "this consumer has too many requests under way, or the enclave has",
                reason=self._reason,
                fix="send fewer requests at a time",
                retry_after_s=1,
            )
        share = Share(self, consumer, amount)
        self._change(consumer, amount)
        return share

    def _change(self, consumer: ConsumerId, change: int) -> None:
        self._total += change
        left = self._taken.get(consumer, 0) + change
        if left:
            self._taken[consumer] = left
        else:
            self._taken.pop(consumer, None)


class Share:
    """What one consumer has taken."""

    def __init__(self, room: "Room", consumer: ConsumerId, amount: int) -> None:
        self._room: Final = room
        self._consumer: Final = consumer
        self._amount = amount

    def shrink_to(self, amount: int) -> None:
        """Give back what is more than `amount`."""
        back = max(0, self._amount - amount)
        self._amount -= back
        self._room._change(self._consumer, -back)  # noqa: SLF001 - the other half of `take`


class Turns:
    """Work in threads: a few at a time in all, and one at a time of each consumer.

    Whoever waits is served in turn with other consumers, however many a consumer has waiting: it waits for one piece of
    work of each of the others at most.
    """

    def __init__(self, threads: int = MAX_LARGE_AT_ONCE, on_loop_bytes: int = MAX_ON_LOOP_BYTES) -> None:
        self._threads: Final = asyncio.Semaphore(threads)
        self._on_loop_bytes: Final = on_loop_bytes
        # A lock exists while somebody has it or waits for it.
        self._own: Final[WeakValueDictionary[ConsumerId, asyncio.Lock]] = WeakValueDictionary()

    async def do(self, consumer: ConsumerId, size_bytes: int, within_s: float, work: Callable[[], T]) -> T:
        """Return what `work` on so many bytes returns or raises: at once if they are few, else in a thread.

        Args:
            consumer: whose turn it takes.
            size_bytes: how much there is to do.
            within_s: the longest to wait for the turn; what has begun is not ended.
            work: must not touch what belongs to the event loop.

        Raises:
            OverloadedError: the turn did not come in time (`too_much_at_once`).
        """
        if size_bytes <= self._on_loop_bytes:
            return work()
        async with AsyncExitStack() as turn:
            try:
                async with asyncio.timeout(within_s):
                    # First among one's own and then among all: so each consumer has one place in the queue of all.
                    await turn.enter_async_context(self._own.setdefault(consumer, asyncio.Lock()))
                    await turn.enter_async_context(self._threads)
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
