"""Answers kept for a repeated request id, so that a retry is never charged twice.

Per consumer and request key: a run under way is joined, a finished one is answered alike for ten minutes, a key
used for another body is refused, and a key whose answer was dropped for space is refused rather than run again.
A run that ended without a charge leaves no trace: it may be tried again. Only keys that a consumer chose are kept: one
that the enclave made is a name in the receipt, and whoever got no answer never saw it.

Answers are bounded in bytes, per consumer and in all; the oldest goes first. What is left of a dropped one is its id
(`spent_ids`). Ids are bounded as well: a consumer that used up its share is refused before anything is run. Who has
few is served also when all are used up by others.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from aigovtool import limits
from aigovtool.enclave.memory import MemoryBounds
from aigovtool.enclave.spent_ids import SpentIds
from aigovtool.errors import ConflictError, OverloadedError
from aigovtool.ids import ConsumerId, Digest, RequestKey
from aigovtool.ledger.answers import AnswerTerms

#: What an answer takes besides its bytes: key, digest, places in the orders of what ended.
_OVERHEAD_BYTES: Final = 1024
#: Expired answers that one request takes away: more than it leaves, so that they never pile up.
_EXPIRE_AT_ONCE: Final = 64


class Answered(NamedTuple):
    """What was answered: body and headers, ready to be sent again while the model's terms allow what `terms` did.

    The headers are kept as the lines that they are sent as, each with its end.
    """

    body: bytes
    lines: str
    terms: AnswerTerms | None = None

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers, by name and value."""
        return [(name, value) for name, _, value in (line.partition(": ") for line in self.lines.split("\r\n")[:-1])]


def header_lines(headers: Iterable[tuple[str, str]]) -> str:
    """Return headers as the lines that they are sent as."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers])


class Running:
    """A run under way, which others may join."""

    __slots__ = ("_outcome", "request")

    def __init__(self, request: Digest) -> None:
        self.request: Final = request
        self._outcome: asyncio.Future[Answered] | None = None

    def outcome(self) -> "asyncio.Future[Answered]":
        """Return what will come of it."""
        if self._outcome is None:
            self._outcome = asyncio.get_running_loop().create_future()
        return self._outcome

    def succeeded(self, answered: Answered) -> None:
        """Tell whoever joined it."""
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(answered)

    def failed(self, error: BaseException) -> None:
        """Tell whoever joined it."""
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_exception(error)
            self._outcome.exception()  # seen, also when nobody joined

    def cancel(self) -> None:
        """Let nobody wait for it any longer."""
        if self._outcome is not None:
            self._outcome.cancel()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultLimits:
    """The bounds of one instance; the defaults are `aigovtool.limits`, and tests use smaller ones."""

    bytes_per_consumer: int = limits.MAX_RETAINED_RESULT_BYTES
    bytes_in_all: int = limits.MAX_RETAINED_RESULT_BYTES_IN_ALL
    ids_per_consumer: int = limits.MAX_REQUEST_IDS_PER_CONSUMER
    ids_in_all: int = limits.MAX_REQUEST_IDS
    ids_of_anybody: int = limits.REQUEST_IDS_OF_ANYBODY

    @classmethod
    def within(cls, memory: MemoryBounds) -> Self:
        """Return those of a machine with so much memory."""
        return cls(
            bytes_per_consumer=memory.kept_per_consumer,
            bytes_in_all=memory.kept,
            ids_per_consumer=memory.ids_per_consumer,
            ids_in_all=memory.ids,
        )


_Name = tuple[ConsumerId, RequestKey]
#: A finished run: digest of the request, time of its end, body, headers as lines, terms. A plain tuple of plain values:
#: Python's garbage collector stops looking at those, of which there are many thousands.
_Kept = tuple[Digest, int, bytes, str, AnswerTerms | None]


class _Account:
    """What is kept of one consumer; `ended` has what is finished, oldest first."""

    __slots__ = ("ended", "running", "size")

    def __init__(self) -> None:
        self.running: Final[dict[RequestKey, Running]] = {}
        self.ended: Final[OrderedDict[RequestKey, _Kept]] = OrderedDict()
        self.size = 0


class Results:
    """All kept answers of one instance; wiped with it."""

    def __init__(self, bounds: ResultLimits | None = None) -> None:
        self._bounds: Final = bounds or ResultLimits()
        self._accounts: Final[dict[ConsumerId, _Account]] = {}
        #: All that is finished, oldest first, and when it ended.
        self._ended: Final[OrderedDict[_Name, int]] = OrderedDict()
        self._spent: Final = SpentIds(self._bounds.ids_in_all)
        self._running = 0
        self._size = 0

    def __len__(self) -> int:
        """Return of how many runs, finished or under way, more than the id is known."""
        return self._running + len(self._ended)

    def find(self, consumer: ConsumerId, key: RequestKey, request: Digest, now_ms: int) -> Answered | Running | None:
        """Return the answer to an earlier request with this key, or its run under way, or `None` for a new one.

        Raises:
            ConflictError: the key was used for another body (`request_key_reused`), or its answer is no longer
                kept (`result_evicted`).
        """
        account = self._accounts.get(consumer)
        if account is not None:
            running = account.running.get(key)
            if running is not None:
                _require_same(running.request, request)
                return running
            kept = account.ended.get(key)
            if kept is not None:
                if not _is_over(kept[1], now_ms):
                    _require_same(kept[0], request)
                    return Answered(*kept[2:])
                self._drop(consumer, key)
        if self._spent.has(consumer, key):
            raise ConflictError("the answer to this request id is no longer kept", reason="result_evicted")
        return None

    def knows(self, consumer: ConsumerId, key: RequestKey) -> bool:
        """Return whether anything is known of an earlier request with this key."""
        account = self._accounts.get(consumer)
        return (account is not None and (key in account.running or key in account.ended)) or self._spent.has(
            consumer, key
        )

    def begin(self, consumer: ConsumerId, key: RequestKey, request: Digest) -> Running:
        """Remember a new run; `finish` or `forget` must follow.

        Raises:
            OverloadedError: too many ids of this consumer, or in all, are remembered.
        """
        account = self._accounts.get(consumer) or _Account()
        mine = len(account.running) + len(account.ended) + self._spent.of(consumer)
        if mine >= self._most_ids():
            raise OverloadedError(
                "too many recent requests",
                reason="request_keys",
                fix="wait, or leave the request id away where a retry may be charged again",
                retry_after_s=60,
            )
        running = account.running[key] = Running(request)
        self._accounts[consumer] = account
        self._running += 1
        return running

    def _most_ids(self) -> int:
        """Return how many ids a consumer may have now: what others used up leaves everybody some."""
        bounds = self._bounds
        is_full = len(self) + len(self._spent) >= bounds.ids_in_all
        return min(bounds.ids_per_consumer, bounds.ids_of_anybody) if is_full else bounds.ids_per_consumer

    def finish(self, consumer: ConsumerId, key: RequestKey, answered: Answered, now_ms: int) -> None:
        """Keep the answer of a charged run."""
        running = self._took_out(consumer, key)
        if running is None:
            return
        running.succeeded(answered)
        account, kept = self._accounts[consumer], (running.request, now_ms, *answered)
        account.ended[key] = kept
        self._ended[consumer, key] = now_ms
        size = _size(kept)
        account.size += size
        self._size += size
        while account.size > self._bounds.bytes_per_consumer:
            self._evict(consumer, next(iter(account.ended)))
        while self._size > self._bounds.bytes_in_all:
            self._evict(*next(iter(self._ended)))

    def forget(self, consumer: ConsumerId, key: RequestKey, error: BaseException) -> None:
        """A run ended without a charge: whoever joined it gets the error, and the key is free again."""
        running = self._took_out(consumer, key)
        if running is not None:
            self._close_if_empty(consumer)
            running.failed(error)

    def clear(self) -> None:
        """Drop everything."""
        for account in self._accounts.values():
            for running in account.running.values():
                running.cancel()
        self._accounts.clear()
        self._ended.clear()
        self._spent.clear()
        self._running = self._size = 0

    def expire(self, now_ms: int) -> None:
        """Drop what is over, oldest first; a bounded share of it, because requests wait for this."""
        for _ in range(_EXPIRE_AT_ONCE):
            name = next(iter(self._ended), None)
            if name is None or not _is_over(self._ended[name], now_ms):
                break
            self._drop(*name)
        self._spent.expire(now_ms)

    def _took_out(self, consumer: ConsumerId, key: RequestKey) -> Running | None:
        account = self._accounts.get(consumer)
        running = None if account is None else account.running.pop(key, None)
        self._running -= running is not None
        return running

    def _evict(self, consumer: ConsumerId, key: RequestKey) -> None:
        self._spent.add(consumer, key, self._ended[consumer, key])  # first: an id that is forgotten is charged again
        self._drop(consumer, key)

    def _drop(self, consumer: ConsumerId, key: RequestKey) -> None:
        """Forget an answer."""
        account = self._accounts[consumer]
        kept = account.ended.pop(key)
        size = _size(kept)
        account.size -= size
        self._size -= size
        self._close_if_empty(consumer)
        del self._ended[consumer, key]

    def _close_if_empty(self, consumer: ConsumerId) -> None:
        account = self._accounts[consumer]
        if not account.running and not account.ended:
            del self._accounts[consumer]


def _require_same(known: Digest, request: Digest) -> None:
    if known != request:
        raise ConflictError("this request id was used for another request", reason="request_key_reused")


def _is_over(ended_ms: int, now_ms: int) -> bool:
    return now_ms - ended_ms >= limits.RESULT_RETENTION_MS


def _size(kept: _Kept) -> int:
    """Return about how much memory it takes."""
    return len(kept[2]) + len(kept[3]) + _OVERHEAD_BYTES
