"""Whose run goes to the engine child next: fair turns among consumers, in three lanes (`lanes`).

Rules:

1. In each lane it is the turn of the consumer that has used the least engine time there (start-time fair queueing: by
   what its runs took, as nobody knows it before). Time that a run of the longer lanes has taken so far counts as well.
   Whoever comes is put beside whoever has used least: no credit for the past, and no debt that is older than the queue.
2. In the short lane more tries are with the child than it works on, so that it never waits for the next one: of one
   consumer from one for each worker up to `EACH_AHEAD`, and in all from `LEAST_AHEAD` up to `MOST_AHEAD`. One more with
   each that is done; with one that is not, as few as at first of that consumer, and half as many in all. So few tries
   are ahead of whoever comes where they are long, and one consumer's never hold all threads, even if they do not end.
3. In the two longer ones `workers` runs are at work, of both together. While both lanes have some waiting, the one with
   fewer at work is served. One consumer that has both lanes to itself has one more in the middle one: from the end of a
   run until the next one begins a core would have nothing to do, a tenth of the time where runs take 15 ms.
4. One more of the middle lane is at work when all others are long; one more long run when no other is long, or when all
   long ones are of one other consumer. So there are `BEYOND` more than `workers` at most, who then share its cores; and
   one consumer never keeps another from the engine, nor do any number of them keep out runs of up to `MIDDLE_MS`.

What is remembered of consumers that have nothing pending is bounded, whoever comes.

Source: Goyal, Vin, Cheng, "Start-time Fair Queueing", SIGCOMM 1996; Harchol-Balter, "Task assignment with unknown
duration", JACM 2002 (tries that are begun anew elsewhere).
"""

import asyncio
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final, NamedTuple

from aigovtool.enclave.engines.lanes import SHORT_MS, Lane
from aigovtool.errors import DeadlineError
from aigovtool.ids import ConsumerId

#: Short tries that the child has for each worker. With half of the least it would wait for the next one; the others are
#: as many as make requests cheaper, because they are sent and answered together and few wait here.
LEAST_AHEAD: Final = 4
EACH_AHEAD: Final = 16
MOST_AHEAD: Final = 64
#: Consumers with nothing pending whose use of a lane is remembered.
MAX_PAST: Final = 1_024
#: What a short run costs beside its computing.
EFFORT_NS: Final = 50_000


class Turn(NamedTuple):
    """Leave to have one try with the child, since `began_ns`; `Scheduler.leave` must follow, once."""

    consumer: ConsumerId
    lane: Lane
    began_ns: int


class Waiting:
    """Somebody who waits for a turn and is told at once when it comes, in the middle of whatever passed it on.

    A future tells in a later turn of the event loop, after all else that has come meanwhile: for that long a thread of
    the engine would have nothing to do.
    """

    __slots__ = ("_granted", "_is_over")

    def __init__(self, granted: Callable[[Turn], None]) -> None:
        self._granted: Final = granted
        self._is_over = False

    def done(self) -> bool:
        """Return whether the turn has come, or is not waited for any more."""
        return self._is_over

    def set_result(self, turn: Turn) -> None:
        """The turn has come."""
        self._is_over = True
        self._granted(turn)

    def cancel(self) -> None:
        """Wait no more."""
        self._is_over = True


#: Who waits: in a flow of its own, or in another's.
_Waiter = asyncio.Future[Turn] | Waiting


@dataclass(slots=True)
class _Account:
    """One consumer in one lane: engine time, when its runs at work began (added up), who waits."""

    used_ns: int
    at_work: int = 0
    began_ns: int = 0
    waiting: "deque[_Waiter]" = field(default_factory=deque)
    in_line: bool = False
    most: int = sys.maxsize


class _Queue:
    """One lane."""

    def __init__(self, *, each: tuple[int, int] = (sys.maxsize, sys.maxsize), by_clock: bool = True) -> None:
        """Begin; `each`: of one consumer at work, at first and at most; `by_clock`: what is at work counts already."""
        self.at_work = 0
        self._each: Final = each
        self._by_clock: Final = by_clock
        # Of whoever has something here; the past is of whoever had, the longest ago first.
        self._accounts: Final[dict[ConsumerId, _Account]] = {}
        self._past: Final[OrderedDict[ConsumerId, int]] = OrderedDict()
        # Whoever waits and may begin, by engine time used. That only grows, so an entry that has become wrong is too
        # small: it comes to the top, and is put right there.
        self._heap: list[tuple[int, int, ConsumerId]] = []
        self._busy: Final[set[ConsumerId]] = set()
        self._virtual_ns = 0
        self._entries = 0

    @property
    def waiting(self) -> bool:
        return bool(self._heap)

    @property
    def is_used(self) -> bool:
        """Whether anybody has anything here."""
        return bool(self._accounts)

    def is_of_one(self, consumer: ConsumerId | None) -> bool:
        """Return whether nobody has anything here but this consumer, or one."""
        return len(self._accounts) <= 1 and (consumer is None or not self._accounts or consumer in self._accounts)

    def may_begin(self, consumer: ConsumerId) -> bool:
        """Return whether fewer of this consumer's are at work than may be."""
        account = self._accounts.get(consumer)
        return account is None or account.at_work < account.most

    def sole(self) -> ConsumerId | None:
        """Return the one consumer of whom all that is at work here is."""
        return next(iter(self._busy)) if len(self._busy) == 1 else None

    def join(self, consumer: ConsumerId, turn: _Waiter, now_ns: int) -> None:
        account = self._account(consumer)
        account.waiting.append(turn)
        self._line_up(consumer, account, now_ns)

    def give_up(self, consumer: ConsumerId, turn: _Waiter) -> None:
        """Forget who waits no more."""
        account = self._accounts.get(consumer)
        if account is None or turn not in account.waiting:
            return  # `next` met it first
        account.waiting.remove(turn)
        if account.in_line and not account.waiting:
            account.in_line = False
            self._heap = [entry for entry in self._heap if entry[2] != consumer]
            heapify(self._heap)
        self._close_if_idle(consumer, account)

    def next(self, now_ns: int, barred: ConsumerId | None = None) -> tuple[ConsumerId, _Waiter] | None:
        """Take the turn of whoever has used least, and is not `barred`, to work."""
        aside = None
        found = None
        while self._heap and found is None:
            tag, _, consumer = self._heap[0]
            account = self._accounts[consumer]
            if (present := self._used(account, now_ns)) > tag:
                heapreplace(self._heap, (present, self._number(), consumer))
            elif consumer == barred:
                aside = heappop(self._heap)
            else:
                heappop(self._heap)
                found = self._first(consumer, account, tag, now_ns)
        if aside is not None:
            heappush(self._heap, aside)
        return found

    def begin(self, consumer: ConsumerId, now_ns: int) -> None:
        """Take a turn that nobody waited for."""
        account = self._account(consumer)
        self._virtual_ns = max(self._virtual_ns, self._used(account, now_ns))
        self._begin(consumer, account, now_ns)

    def leave(self, turn: Turn, took_ns: int, now_ns: int, *, done: bool) -> None:
        account = self._accounts[turn.consumer]
        first, last = self._each
        account.most = min(last, account.most + 1) if done else first
        account.used_ns += took_ns
        account.at_work -= 1
        account.began_ns -= turn.began_ns
        self.at_work -= 1
        if not account.at_work:
            self._busy.discard(turn.consumer)
        self._line_up(turn.consumer, account, now_ns)
        self._close_if_idle(turn.consumer, account)

    def _first(
        self, consumer: ConsumerId, account: _Account, tag: int, now_ns: int
    ) -> tuple[ConsumerId, _Waiter] | None:
        found = None
        account.in_line = False
        while account.waiting and found is None and account.at_work < account.most:
            turn = account.waiting.popleft()
            if not turn.done():  # or else it gave up in this moment
                self._virtual_ns = max(self._virtual_ns, tag)
                self._begin(consumer, account, now_ns)
                found = consumer, turn
        self._line_up(consumer, account, now_ns)
        self._close_if_idle(consumer, account)
        return found

    def _begin(self, consumer: ConsumerId, account: _Account, now_ns: int) -> None:
        # Nobody saves up what it did not use while others did.
        account.used_ns += max(0, self._virtual_ns - self._used(account, now_ns))
        account.at_work += 1
        account.began_ns += now_ns
        self.at_work += 1
        self._busy.add(consumer)

    def _used(self, account: _Account, now_ns: int) -> int:
        if self._by_clock:
            return account.used_ns + account.at_work * now_ns - account.began_ns
        return account.used_ns + account.at_work * EFFORT_NS

    def _line_up(self, consumer: ConsumerId, account: _Account, now_ns: int) -> None:
        if account.in_line or not account.waiting or account.at_work >= account.most:
            return
        account.in_line = True
        tag = max(self._virtual_ns, self._used(account, now_ns))
        heappush(self._heap, (tag, self._number(), consumer))

    def _number(self) -> int:
        self._entries += 1
        return self._entries

    def _account(self, consumer: ConsumerId) -> _Account:
        account = self._accounts.get(consumer)
        if account is None:
            account = self._accounts[consumer] = _Account(self._past.pop(consumer, 0), most=self._each[0])
        return account

    def _close_if_idle(self, consumer: ConsumerId, account: _Account) -> None:
        if account.at_work or account.waiting:
            return
        del self._accounts[consumer]
        if not self._accounts:  # nobody is kept waiting by anybody: all begin anew
            self._past.clear()
            self._virtual_ns = 0
        elif account.used_ns > self._virtual_ns:
            self._past[consumer] = account.used_ns
            if len(self._past) > MAX_PAST:
                self._past.popitem(last=False)


class Scheduler:
    """The turns of one engine child."""

    def __init__(self, workers: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._workers: Final = workers
        self._clock: Final = clock
        # Most of the short ones wait in the child, so the clock would count others' time.
        self._short: Final = _Queue(each=(workers, EACH_AHEAD * workers), by_clock=False)
        self._middle: Final = _Queue()
        self._long: Final = _Queue()
        self._ahead = LEAST_AHEAD * workers
        self._queues: Final = (self._short, self._middle, self._long)

    def at_once(self, consumer: ConsumerId, lane: Lane) -> Turn | None:
        """Return the caller's turn if there is no need to wait for it; `enter` costs more."""
        queue = self._queues[lane]
        if queue.waiting or not self._has_room(lane, consumer) or not queue.may_begin(consumer):
            return None
        now_ns = self._clock()
        queue.begin(consumer, now_ns)
        return Turn(consumer, lane, now_ns)

    async def enter(self, consumer: ConsumerId, lane: Lane, within_s: float) -> Turn:
        """Return when it is the caller's turn.

        Raises:
            DeadlineError: it did not come in time.
        """
        turn: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        now_ns = self._clock()
        self._queues[lane].join(consumer, turn, now_ns)
        self._serve(now_ns)
        timer = asyncio.get_running_loop().call_later(within_s, _expire, turn)
        try:
            return await turn
        except BaseException:
            if turn.cancelled() or turn.exception() is not None:
                self._queues[lane].give_up(consumer, turn)
            else:  # the turn came in the same moment
                self.leave(turn.result(), 0)
            raise
        finally:
            timer.cancel()

    def give_up(self, consumer: ConsumerId, lane: Lane, waiting: Waiting) -> bool:
        """Wait for a turn no more; return whether it had not come yet, else it is still to be left."""
        if waiting.done():
            return False
        waiting.cancel()
        self._queues[lane].give_up(consumer, waiting)
        return True

    def line_up(self, consumer: ConsumerId, lane: Lane, granted: Callable[[Turn], None]) -> Waiting:
        """Have `granted` called with the caller's turn when it comes; `give_up` ends the wait, and `leave` the turn."""
        waiting, now_ns = Waiting(granted), self._clock()
        self._queues[lane].join(consumer, waiting, now_ns)
        self._serve(now_ns)
        return waiting

    def leave(self, turn: Turn, compute_us: int | None = None) -> None:
        """Give a turn back, after so much computing (None: unknown), and pass it on."""
        now_ns = self._clock()
        took_ns = now_ns - turn.began_ns
        if turn.lane is Lane.SHORT:
            took_ns = EFFORT_NS + (SHORT_MS * 1_000_000 if compute_us is None else compute_us * 1_000)
            most, least = MOST_AHEAD * self._workers, LEAST_AHEAD * self._workers
            self._ahead = max(least, self._ahead // 2) if compute_us is None else min(most, self._ahead + 1)
        self._queues[turn.lane].leave(turn, took_ns, now_ns, done=compute_us is not None)
        self._serve(now_ns)

    def _serve(self, now_ns: int) -> None:
        while self._short.waiting and self._serve_lane(Lane.SHORT, now_ns):
            pass
        while (self._middle.waiting or self._long.waiting) and self._serve_longer(now_ns):
            pass

    def _serve_longer(self, now_ns: int) -> bool:
        fewer_first = (
            (Lane.MIDDLE, Lane.LONG) if self._middle.at_work <= self._long.at_work else (Lane.LONG, Lane.MIDDLE)
        )
        return any(self._serve_lane(lane, now_ns) for lane in fewer_first)

    def _serve_lane(self, lane: Lane, now_ns: int) -> bool:
        queue = self._queues[lane]
        if not queue.waiting:
            return False
        if self._has_room(lane):
            served = queue.next(now_ns)
        elif lane is Lane.LONG and (sole := queue.sole()) is not None:
            served = queue.next(now_ns, barred=sole)
        else:
            served = None
        if served is None:
            return False
        consumer, turn = served
        turn.set_result(Turn(consumer, lane, now_ns))
        return True

    def _has_room(self, lane: Lane, consumer: ConsumerId | None = None) -> bool:
        """Return whether one more may be at work, of this consumer or else of whoever is next."""
        at_work = self._queues[lane].at_work
        if lane is Lane.SHORT:
            return at_work < self._ahead
        alone = lane is Lane.MIDDLE and self._middle.is_of_one(consumer) and not self._long.is_used
        return at_work == 0 or self._middle.at_work + self._long.at_work < self._workers + (1 if alone else 0)


def _expire(turn: "asyncio.Future[Turn]") -> None:
    if not turn.done():
        turn.set_exception(DeadlineError("the deadline passed while the request waited for the engine"))
