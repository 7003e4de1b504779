"""The requests that the engine child has not answered, and whose share of the engine they take.

Rules, because the child takes requests in the order in which they come, and may work on each for a minute:

1. A consumer has at most its share of the places, and of the bytes of inputs. Whoever fills it, others are let in.
2. Of a consumer's requests a few are with the child; the others wait here. So whoever comes is behind a few of each of
   the others, however many they have. A few for each thread of the child, so that it never waits for the next one.
3. What a request takes is given back when the child has answered or is gone; not when its caller gives up, because the
   child has it all the same.

What the enclave asks for itself (to load a model, to unload it) takes no share and does not wait.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

from aigovtool.enclave.engines.ipc import Frame
from aigovtool.enclave.room import Room, Share
from aigovtool.errors import DeadlineError
from aigovtool.ids import ConsumerId
from aigovtool.limits import (
    MAX_ENGINE_BYTES,
    MAX_ENGINE_BYTES_PER_CONSUMER,
    MAX_ENGINE_REQUESTS,
    MAX_ENGINE_REQUESTS_PER_CONSUMER,
)

_FULL: Final = "engine_queue_full"
#: Requests of one consumer that the child has, for each of its threads: with half as many it would wait for the next.
_PER_WORKER: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How many requests, and bytes of their inputs, may be pending: in all, and of one consumer."""

    requests: int = MAX_ENGINE_REQUESTS
    requests_per_consumer: int = MAX_ENGINE_REQUESTS_PER_CONSUMER
    size_bytes: int = MAX_ENGINE_BYTES
    size_bytes_per_consumer: int = MAX_ENGINE_BYTES_PER_CONSUMER


class _Line:
    """The requests of one consumer that wait for the child to have fewer of them."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._waiting: Final[deque[asyncio.Future[None]]] = deque()

    async def enter(self, within_s: float) -> None:
        """Return when it is the caller's turn; `leave` must follow."""
        if self._free:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        timer = loop.call_later(within_s, _expire, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.exception() is None:  # the turn came in the same moment
                self.leave()
            raise
        finally:
            timer.cancel()

    def leave(self) -> None:
        """Let the next one in."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


def _expire(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_exception(DeadlineError("the deadline passed while the request waited for the engine"))


class Place:
    """What one request takes; `give_back` may be called more than once."""

    def __init__(self, shares: list[Share], line: _Line) -> None:
        self._shares: Final = shares
        self._line: _Line | None = line

    def give_back(self) -> None:
        """Leave share and line to others."""
        for share in self._shares:
            share.shrink_to(0)
        line, self._line = self._line, None
        if line is not None:
            line.leave()


@dataclass(frozen=True, slots=True)
class _Request:
    answer: asyncio.Future[Frame]
    place: Place | None


class Pending:
    """Requests by their ids, which begin at 1 and are never used again."""

    def __init__(self, shares: Shares, workers: int) -> None:
        self._places: Final = Room(shares.requests_per_consumer, shares.requests, _FULL)
        self._bytes: Final = Room(shares.size_bytes_per_consumer, shares.size_bytes, _FULL)
        self._with_child: Final = _PER_WORKER * workers
        # A line exists while somebody is in it, or in front of it.
        self._lines: Final[WeakValueDictionary[ConsumerId, _Line]] = WeakValueDictionary()
        self._requests: Final[dict[int, _Request]] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._requests)

    async def place(self, consumer: ConsumerId, size_bytes: int, within_s: float) -> Place:
        """Return what a request needs to be sent, once it is its turn among its consumer's.

        Raises:
            OverloadedError: `engine_queue_full`, for this consumer or in all.
            DeadlineError: its turn did not come in time.
        """
        shares: list[Share] = []
        try:
            shares.append(self._places.claim(consumer, 1))
            shares.append(self._bytes.claim(consumer, size_bytes))
            line = self._lines.get(consumer)
            if line is None:
                line = self._lines[consumer] = _Line(self._with_child)
            await line.enter(within_s)
        except BaseException:
            for share in shares:
                share.shrink_to(0)
            raise
        return Place(shares, line)

    def begin(self, place: Place | None) -> tuple[int, asyncio.Future[Frame]]:
        """Return the id of a new request (of the enclave's own without a place), and the answer that it waits for."""
        self._last += 1
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._requests[self._last] = _Request(answer, place)
        return self._last, answer

    def end(self, request: int) -> asyncio.Future[Frame] | None:
        """Give back what a request took; return its answer to be, or None if there is no such request."""
        ended = self._requests.pop(request, None)
        if ended is None:
            return None
        if ended.place is not None:
            ended.place.give_back()
        return ended.answer

    def end_all(self) -> list[asyncio.Future[Frame]]:
        """Give back everything; return the answers that will not come."""
        return [answer for request in list(self._requests) if (answer := self.end(request)) is not None]

    def waits_for(self, answer: asyncio.Future[Frame]) -> bool:
        """Return whether the child still owes this answer."""
        return any(request.answer is answer for request in self._requests.values())
