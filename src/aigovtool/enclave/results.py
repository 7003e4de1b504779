"""Answers kept for a repeated request id, so that a retry is never charged twice.

Per consumer and request key: a run under way is joined, a finished one is answered alike for ten minutes, a key
used for another body is refused, and a key whose answer was dropped for space is refused rather than run again.
A run that ended without a charge leaves no trace: it may be tried again.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from aigovtool.errors import ConflictError, OverloadedError
from aigovtool.ids import ConsumerId, Digest, RequestKey
from aigovtool.limits import MAX_RETAINED_RESULT_BYTES, RESULT_RETENTION_MS

#: Keys remembered per consumer (answers dropped for space included).
_MAX_KEYS = 100_000


@dataclass(frozen=True, slots=True)
class Answered:
    """What was answered: body parts and headers, ready to be sent again."""

    body: bytes
    headers: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Kept:
    request: Digest
    outcome: "asyncio.Future[Answered]"
    ended_ms: int | None = None
    dropped: bool = False


class Results:
    """All kept answers of one instance; wiped with it."""

    def __init__(self) -> None:
        self._kept: dict[ConsumerId, OrderedDict[RequestKey, _Kept]] = {}
        self._bytes: dict[ConsumerId, int] = {}

    def find(
        self, consumer: ConsumerId, key: RequestKey, request: Digest, now_ms: int
    ) -> "asyncio.Future[Answered] | None":
        """Return the outcome of an earlier request with this key, or `None` for a new one.

        Raises:
            ConflictError: the key was used for another body (`request_key_reused`), or its answer is no longer
                kept (`result_evicted`).
        """
        self._expire(consumer, now_ms)
        mine = self._kept.get(consumer)
        kept = None if mine is None else mine.get(key)
        if kept is None:
            return None
        if kept.request != request:
            raise ConflictError("this request id was used for another request", reason="request_key_reused")
        if kept.dropped:
            raise ConflictError("the answer to this request id is no longer kept", reason="result_evicted")
        return kept.outcome

    def begin(self, consumer: ConsumerId, key: RequestKey, request: Digest) -> "asyncio.Future[Answered]":
        """Remember a new run; `finish` or `forget` must follow.

        Raises:
            OverloadedError: too many keys of this consumer are remembered.
        """
        mine = self._kept.setdefault(consumer, OrderedDict())
        if len(mine) >= _MAX_KEYS:
            raise OverloadedError("too many recent requests", reason="request_keys", retry_after_s=60)
        outcome: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        mine[key] = _Kept(request, outcome)
        return outcome

    def finish(self, consumer: ConsumerId, key: RequestKey, answered: Answered, now_ms: int) -> None:
        """Keep the answer of a charged run."""
        mine = self._kept.get(consumer)
        if mine is None or key not in mine:
            return
        kept = mine[key]
        kept.ended_ms = now_ms
        mine.move_to_end(key)
        if not kept.outcome.done():
            kept.outcome.set_result(answered)
        self._bytes[consumer] = self._bytes.get(consumer, 0) + len(answered.body)
        self._make_room(consumer)

    def forget(self, consumer: ConsumerId, key: RequestKey, error: BaseException) -> None:
        """A run ended without a charge: whoever joined it gets the error, and the key is free again."""
        kept = self._kept.get(consumer, OrderedDict()).pop(key, None)
        if kept is not None and not kept.outcome.done():
            kept.outcome.set_exception(error)
            kept.outcome.exception()  # seen, also when nobody joined

    def clear(self) -> None:
        """Drop everything."""
        for mine in self._kept.values():
            for kept in mine.values():
                kept.outcome.cancel()
        self._kept.clear()
        self._bytes.clear()

    def _expire(self, consumer: ConsumerId, now_ms: int) -> None:
        mine = self._kept.get(consumer, OrderedDict())
        while mine:
            key, oldest = next(iter(mine.items()))
            if oldest.ended_ms is None or now_ms - oldest.ended_ms < RESULT_RETENTION_MS:
                return
            if not oldest.dropped:
                self._bytes[consumer] -= len(oldest.outcome.result().body)
            del mine[key]

    def _make_room(self, consumer: ConsumerId) -> None:
        for kept in self._kept[consumer].values():
            if self._bytes[consumer] <= MAX_RETAINED_RESULT_BYTES:
                return
            if kept.ended_ms is not None and not kept.dropped:
                self._bytes[consumer] -= len(kept.outcome.result().body)
                kept.dropped = True
                kept.outcome = asyncio.get_running_loop().create_future()
