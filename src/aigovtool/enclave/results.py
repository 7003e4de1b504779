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
from dataclasses import dataclass, field
from typing import Final, Self

from aigovtool import limits
from aigovtool.enclave.memory import MemoryBounds
from aigovtool.enclave.spent_ids import SpentIds
from aigovtool.errors import ConflictError, OverloadedError
from aigovtool.ids import ConsumerId, Digest, RequestKey
from aigovtool.ledger.answers import AnswerTerms

#: What an answer takes besides its bytes: key, digest, future, headers as objects.
_OVERHEAD_BYTES: Final = 2048
#: Expired answers that one request takes away: more than it leaves, so that they never pile up.
_EXPIRE_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class Answered:
    """What was answered: body and headers, ready to be sent again while the model's terms allow what `terms` did."""

    body: bytes
    headers: tuple[tuple[str, str], ...]
    terms: AnswerTerms | None = None

    def size(self) -> int:
        """Return about how much memory it takes to keep."""
        return len(self.body) + sum(len(name) + len(value) for name, value in self.headers) + _OVERHEAD_BYTES


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


@dataclass(slots=True)
class _Kept:
    request: Digest
    outcome: "asyncio.Future[Answered]"
    ended_ms: int | None = None
    size: int = 0


@dataclass(slots=True)
class _Account:
    """What is kept of one consumer: `ended` are its finished keys, oldest first."""

    running: int = 0
    size: int = 0
    ended: OrderedDict[RequestKey, None] = field(default_factory=OrderedDict)


class Results:
    """All kept answers of one instance; wiped with it."""

    def __init__(self, bounds: ResultLimits | None = None) -> None:
        self._bounds: Final = bounds or ResultLimits()
        self._kept: Final[dict[_Name, _Kept]] = {}
        self._ended: Final[OrderedDict[_Name, None]] = OrderedDict()
        self._accounts: Final[dict[ConsumerId, _Account]] = {}
        self._spent: Final = SpentIds()
        self._size = 0

    def find(
        self, consumer: ConsumerId, key: RequestKey, request: Digest, now_ms: int
    ) -> "asyncio.Future[Answered] | None":
        """Return the outcome of an earlier request with this key, or `None` for a new one.

        Raises:
            ConflictError: the key was used for another body (`request_key_reused`), or its answer is no longer
                kept (`result_evicted`).
        """
        self.expire(now_ms)
        kept = self._kept.get((consumer, key))
        if kept is not None and self._is_over(kept, now_ms):
            self._drop((consumer, key))
            kept = None
        if kept is None:
            if self._spent.has(consumer, key):
                raise ConflictError("the answer to this request id is no longer kept", reason="result_evicted")
            return None
        if kept.request != request:
            raise ConflictError("this request id was used for another request", reason="request_key_reused")
        return kept.outcome

    def begin(self, consumer: ConsumerId, key: RequestKey, request: Digest) -> "asyncio.Future[Answered]":
        """Remember a new run; `finish` or `forget` must follow.

        Raises:
            OverloadedError: too many ids of this consumer, or in all, are remembered.
        """
        account = self._accounts.get(consumer, _Account())
        mine = account.running + len(account.ended) + self._spent.of(consumer)
        if mine >= self._most_ids():
            raise OverloadedError(
                "too many recent requests",
                reason="request_keys",
                fix="wait, or leave the request id away where a retry may be charged again",
                retry_after_s=60,
            )
        outcome: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._kept[consumer, key] = _Kept(request, outcome)
        self._accounts[consumer] = account
        account.running += 1
        return outcome

    def _most_ids(self) -> int:
        """Return how many ids a consumer may have now: what others used up leaves everybody some."""
        bounds = self._bounds
        is_full = len(self._kept) + len(self._spent) >= bounds.ids_in_all
        return min(bounds.ids_per_consumer, bounds.ids_of_anybody) if is_full else bounds.ids_per_consumer

    def finish(self, consumer: ConsumerId, key: RequestKey, answered: Answered, now_ms: int) -> None:
        """Keep the answer of a charged run."""
        kept = self._kept.get((consumer, key))
        if kept is None:
            return
        kept.ended_ms, kept.size = now_ms, answered.size()
        if not kept.outcome.done():
            kept.outcome.set_result(answered)
        account = self._accounts[consumer]
        account.running -= 1
        account.ended[key] = None
        account.size += kept.size
        self._size += kept.size
        self._ended[consumer, key] = None
        while account.size > self._bounds.bytes_per_consumer:
            self._evict((consumer, next(iter(account.ended))))
        while self._size > self._bounds.bytes_in_all:
            self._evict(next(iter(self._ended)))

    def forget(self, consumer: ConsumerId, key: RequestKey, error: BaseException) -> None:
        """A run ended without a charge: whoever joined it gets the error, and the key is free again."""
        kept = self._kept.pop((consumer, key), None)
        if kept is None:
            return
        self._accounts[consumer].running -= 1
        self._close_if_empty(consumer)
        if not kept.outcome.done():
            kept.outcome.set_exception(error)
            kept.outcome.exception()  # seen, also when nobody joined

    def clear(self) -> None:
        """Drop everything."""
        for kept in self._kept.values():
            kept.outcome.cancel()
        self._kept.clear()
        self._ended.clear()
        self._accounts.clear()
        self._spent.clear()
        self._size = 0

    def expire(self, now_ms: int) -> None:
        """Drop what is over, oldest first; a bounded share of it, because requests wait for this."""
        for _ in range(_EXPIRE_AT_ONCE):
            name = next(iter(self._ended), None)
            if name is None or not self._is_over(self._kept[name], now_ms):
                break
            self._drop(name)
        self._spent.expire(now_ms)

    @staticmethod
    def _is_over(kept: _Kept, now_ms: int) -> bool:
        return kept.ended_ms is not None and now_ms - kept.ended_ms >= limits.RESULT_RETENTION_MS

    def _evict(self, name: _Name) -> None:
        consumer, key = name
        self._spent.add(consumer, key, self._drop(name).ended_ms or 0)

    def _drop(self, name: _Name) -> _Kept:
        consumer, key = name
        kept = self._kept.pop(name)
        del self._ended[name]
        account = self._accounts[consumer]
        del account.ended[key]
        account.size -= kept.size
        self._size -= kept.size
        self._close_if_empty(consumer)
        return kept

    def _close_if_empty(self, consumer: ConsumerId) -> None:
        account = self._accounts[consumer]
        if not account.running and not account.ended:
            del self._accounts[consumer]
