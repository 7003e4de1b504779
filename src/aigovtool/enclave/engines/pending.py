"""The requests that the engine has not answered, and what they take of it.

Rules:

1. A consumer has at most its share of the places, and of the bytes of inputs. Whoever fills it, others are let in.
2. When its requests go to the child is up to `scheduling`; where the next one of its runs of a model begins is
   remembered here, because runs of a model are often alike.
3. What a request takes is given back when its caller needs it no more and the child has answered or is gone: not when
   its caller gives up, because the child has it all the same.

What the enclave asks for itself (to load a model, to unload it) takes no share and does not wait.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from aigovtool.enclave.engines.ipc import Answered, Frame
from aigovtool.enclave.engines.lanes import Lane
from aigovtool.enclave.engines.scheduling import Scheduler, Turn
from aigovtool.enclave.unread import Unread
from aigovtool.ids import ConsumerId
from aigovtool.limits import (
    MAX_ENGINE_BYTES,
    MAX_ENGINE_BYTES_PER_CONSUMER,
    MAX_ENGINE_REQUESTS,
    MAX_ENGINE_REQUESTS_PER_CONSUMER,
    MAX_UNREAD_BYTES,
    MAX_UNREAD_BYTES_PER_CONSUMER,
)
from aigovtool.transport.room import Room, Share

if TYPE_CHECKING:
    from aigovtool.enclave.engines.group import Group

_FULL: Final = "engine_queue_full"
#: Pairs of consumer and model whose runs are known to be long.
MAX_HABITS: Final = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How many requests, and bytes of inputs and of answers not taken, there may be: in all, and of one consumer."""

    requests: int = MAX_ENGINE_REQUESTS
    requests_per_consumer: int = MAX_ENGINE_REQUESTS_PER_CONSUMER
    size_bytes: int = MAX_ENGINE_BYTES
    size_bytes_per_consumer: int = MAX_ENGINE_BYTES_PER_CONSUMER
    unread_bytes: int = MAX_UNREAD_BYTES
    unread_bytes_per_consumer: int = MAX_UNREAD_BYTES_PER_CONSUMER


class Place:
    """What one request takes, until nobody holds it: its caller does (`with`), and each of its tries with the child."""

    def __init__(self, shares: list[Share]) -> None:
        self._shares: Final = shares
        self._holders = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()

    def hold(self) -> None:
        """Keep it; `give_back` must follow."""
        self._holders += 1

    def give_back(self) -> None:
        """Leave it to others, when this was the last who held it."""
        self._holders -= 1
        if not self._holders:
            for share in self._shares:
                share.shrink_to(0)


class Errand(NamedTuple):
    """A try of a consumer's: its place, and its turn with the child, which both end with the child's answer.

    `model` is the handle of the model that is run.
    """

    place: Place
    turn: Turn
    model: int


class _Request(NamedTuple):
    answer: asyncio.Future[Frame]
    errand: Errand | None


@dataclass(slots=True)
class _Under:
    """A group under way: the id after its last one, and the time that its runs took so far."""

    group: "Group"
    end: int
    compute_us: int | None = 0


class Habits:
    """In which lane a consumer's next run of a model begins: where the last one ended, or before if it was fast."""

    def __init__(self) -> None:
        self._lanes: Final[OrderedDict[tuple[ConsumerId, int], Lane]] = OrderedDict()

    def lane(self, consumer: ConsumerId, model: int) -> Lane:
        """Return it; the first one is short until it is found not to be."""
        return self._lanes.get((consumer, model), Lane.SHORT)

    def learn(self, consumer: ConsumerId, model: int, lane: Lane) -> None:
        """Remember it, and forget what was learned the longest ago if it is too much."""
        pair = (consumer, model)
        if lane is Lane.SHORT:
            self._lanes.pop(pair, None)
            return
        self._lanes[pair] = lane
        self._lanes.move_to_end(pair)
        if len(self._lanes) > MAX_HABITS:
            self._lanes.popitem(last=False)

    def __len__(self) -> int:
        return len(self._lanes)


class Pending:
    """Requests by their ids, which begin at 1 and are never used again."""

    def __init__(self, shares: Shares, workers: int) -> None:
        self.scheduler: Final = Scheduler(workers)
        self.habits: Final = Habits()
        self.unread: Final = Unread(shares.unread_bytes_per_consumer, shares.unread_bytes)
        self._places: Final = Room(shares.requests_per_consumer, shares.requests, _FULL)
        self._bytes: Final = Room(shares.size_bytes_per_consumer, shares.size_bytes, _FULL)
        self._requests: Final[dict[int, _Request]] = {}
        self._groups: Final[dict[int, _Under]] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._requests) + len(self._groups)

    def place(self, consumer: ConsumerId, size_bytes: int, requests: int = 1) -> Place:
        """Return what a request, or several, need before it waits for its turn; `give_back` must follow.

        Raises:
            OverloadedError: `engine_queue_full`, for this consumer or in all.
        """
        place = self._places.claim(consumer, requests)
        try:
            return Place([place, self._bytes.claim(consumer, size_bytes)])
        except BaseException:
            place.shrink_to(0)
            raise

    def begin(self, errand: Errand | None) -> tuple[int, asyncio.Future[Frame]]:
        """Return the id of a new request (of the enclave's own without an errand), and its answer to be."""
        self._last += 1
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        if errand is not None:
            errand.place.hold()
        self._requests[self._last] = _Request(answer, errand)
        return self._last, answer

    def begin_group(self, group: "Group") -> int:
        """Return the id of the first run of a group; those of the others follow."""
        first, count = self._last + 1, len(group.data)
        self._last += count
        group.place.hold()
        self._groups[first] = _Under(group, first + count)
        return first

    def has_group(self, group: "Group") -> bool:
        """Return whether the child still owes an answer to any of its runs."""
        return any(under.group is group for under in self._groups.values())

    def answered(self, first: int, count: int, compute_us: int | None) -> "Group | None":
        """Take note that the child has answered the next so many runs of a group; return it, if there is one."""
        under = self._groups.get(first)
        if under is None or first + count > under.end:
            return None
        del self._groups[first]
        if under.compute_us is not None:
            under.compute_us = None if compute_us is None else under.compute_us + compute_us
        if first + count < under.end:
            self._groups[first + count] = under
        else:
            under.group.place.give_back()
            self.scheduler.leave(under.group.turn, under.compute_us)
        return under.group

    def end(self, request: int, frame: Frame | None = None) -> asyncio.Future[Frame] | None:
        """Give back what a request took; return its answer to be, or None if there is no such request."""
        ended = self._requests.pop(request, None)
        if ended is None:
            return None
        if ended.errand is not None:
            ended.errand.place.give_back()
            message = None if frame is None else frame.message
            self.scheduler.leave(ended.errand.turn, message.compute_us if isinstance(message, Answered) else None)
        return ended.answer

    def end_all(self) -> list[asyncio.Future[Frame]]:
        """Give back everything; return the answers that will not come."""
        for first, under in list(self._groups.items()):
            self.answered(first, under.end - first, 0)
            under.group.give_up()
        return [answer for request in list(self._requests) if (answer := self.end(request)) is not None]

    def models(self) -> frozenset[int]:
        """Return the handles of the models of which the child has runs."""
        groups = {under.group.form.model for under in self._groups.values()}
        return frozenset(groups.union(one.errand.model for one in self._requests.values() if one.errand is not None))

    def waits_for(self, answer: asyncio.Future[Frame]) -> bool:
        """Return whether the child still owes this answer."""
        return any(request.answer is answer for request in self._requests.values())
