"""Request ids whose answers are no longer kept, remembered so that no retry is run and charged again.

Of each only a keyed 64-bit digest is kept (`id_table`), with the minute of its end, so that ten minutes at tens of
thousands of requests a second take some hundred megabytes at most, and a whole minute is forgotten at once. The key is
drawn at boot: nobody can choose ids whose digests collide. An id that collides by chance (one in a hundred thousand
million, when all places are taken) is refused, never charged.
"""

import os
from collections import Counter
from hashlib import blake2b
from typing import Final

from aigovtool import limits
from aigovtool.enclave.id_table import DIGEST_BYTES, IdTable
from aigovtool.ids import ConsumerId, RequestKey
from aigovtool.limits import RESULT_RETENTION_MS

_MINUTE_MS: Final = 60_000
#: Minutes that are remembered bear marks from 1 to this.
_MARKS: Final = 255


class SpentIds:
    """Ids by the minute in which their runs ended; at most `most` of them."""

    def __init__(self, most: int = limits.MAX_REQUEST_IDS) -> None:
        self._key: Final = os.urandom(16)
        self._table: Final = IdTable(most)
        self._minutes: Final[dict[int, Counter[ConsumerId]]] = {}
        #: Marks that are out of use, and the step of the table's sweep from which on nothing bears them.
        self._clean_at: Final[dict[int, int]] = {}
        #: When the oldest of the minutes has been over for long enough.
        self._next_end_ms: int | None = None
        self._per_consumer: Final[Counter[ConsumerId]] = Counter()
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def of(self, consumer: ConsumerId) -> int:
        """Return how many ids of a consumer are remembered."""
        return self._per_consumer.get(consumer, 0)

    def add(self, consumer: ConsumerId, key: RequestKey, ended_ms: int) -> None:
        """Remember an id for ten minutes from the end of its run, and for up to one more."""
        number = ended_ms // _MINUTE_MS
        minute = self._minutes.get(number) or self._begun(number)
        self._table.add(self._digest(consumer, key), _mark(number))  # first: there may be no memory for it
        minute[consumer] += 1
        self._per_consumer[consumer] += 1
        self._total += 1

    def has(self, consumer: ConsumerId, key: RequestKey) -> bool:
        """Return whether an id is remembered."""
        return consumer in self._per_consumer and self._table.has(self._digest(consumer, key))

    def expire(self, now_ms: int) -> None:
        """Forget the minutes that have been over for long enough."""
        if self._clean_at:
            self._sweep()
        if self._next_end_ms is None or now_ms < self._next_end_ms:
            return
        for number in [number for number in self._minutes if now_ms >= _end_ms(number)]:
            minute = self._minutes.pop(number)
            self._clean_at[_mark(number)] = self._table.steps + self._table.lap
            self._total -= minute.total()
            for consumer, count in minute.items():
                self._per_consumer[consumer] -= count
                if not self._per_consumer[consumer]:
                    del self._per_consumer[consumer]
        self._changed()

    def clear(self) -> None:
        """Forget everything."""
        self._minutes.clear()
        self._per_consumer.clear()
        self._clean_at.clear()
        self._table.clear()
        self._total = 0
        self._changed()

    def _begun(self, number: int) -> Counter[ConsumerId]:
        """Begin a minute: nothing bears its mark any more."""
        if any(_mark(each) == _mark(number) for each in self._minutes):  # nothing was taken away for hours
            self.expire(number * _MINUTE_MS)
        while _mark(number) in self._clean_at:
            self._sweep()
        minute = self._minutes[number] = Counter()
        self._changed()
        return minute

    def _sweep(self) -> None:
        self._table.sweep()
        steps = self._table.steps
        for mark in [mark for mark, clean_at in self._clean_at.items() if steps >= clean_at]:
            del self._clean_at[mark]

    def _changed(self) -> None:
        self._table.use(bytes(map(_mark, self._minutes)))
        self._next_end_ms = min(map(_end_ms, self._minutes), default=None)

    def _digest(self, consumer: ConsumerId, key: RequestKey) -> bytes:
        # A name holds no line break, so that no two pairs read alike.
        return blake2b(f"{consumer}\n{key}".encode(), key=self._key, digest_size=DIGEST_BYTES).digest()


def _mark(minute: int) -> int:
    return 1 + minute % _MARKS


def _end_ms(minute: int) -> int:
    return (minute + 1) * _MINUTE_MS + RESULT_RETENTION_MS
