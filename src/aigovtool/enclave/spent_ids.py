"""Request ids whose answers are no longer kept, remembered so that no retry is run and charged again.

Of each only a keyed 64-bit digest is kept, in one set per minute of its end, so that ten minutes at thousands of
requests a second take some hundred megabytes at most, and a whole minute is forgotten at once. The key is drawn at
boot: nobody can choose ids whose digests collide. An id that collides by chance (one in two million, when four million
are remembered) is refused, never charged.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from aigovtool.ids import ConsumerId, RequestKey
from aigovtool.limits import RESULT_RETENTION_MS

_MINUTE_MS: Final = 60_000


@dataclass(slots=True)
class _Minute:
    ids: set[int] = field(default_factory=set)
    per_consumer: Counter[ConsumerId] = field(default_factory=Counter)


class SpentIds:
    """Ids by the minute in which their runs ended."""

    def __init__(self) -> None:
        self._key: Final = os.urandom(16)
        self._minutes: Final[dict[int, _Minute]] = {}
        self._per_consumer: Final[Counter[ConsumerId]] = Counter()
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def of(self, consumer: ConsumerId) -> int:
        """Return how many ids of a consumer are remembered."""
        return self._per_consumer[consumer]

    def add(self, consumer: ConsumerId, key: RequestKey, ended_ms: int) -> None:
        """Remember an id for ten minutes from the end of its run, and for up to one more."""
        minute = self._minutes.setdefault(ended_ms // _MINUTE_MS, _Minute())
        minute.ids.add(self._digest(consumer, key))
        minute.per_consumer[consumer] += 1
        self._per_consumer[consumer] += 1
        self._total += 1

    def has(self, consumer: ConsumerId, key: RequestKey) -> bool:
        """Return whether an id is remembered."""
        if not self._per_consumer[consumer]:
            return False
        digest = self._digest(consumer, key)
        return any(digest in minute.ids for minute in self._minutes.values())

    def expire(self, now_ms: int) -> None:
        """Forget the minutes that are over for long enough."""
        over = [number for number in self._minutes if now_ms >= (number + 1) * _MINUTE_MS + RESULT_RETENTION_MS]
        for number in over:
            minute = self._minutes.pop(number)
            self._total -= minute.per_consumer.total()
            self._per_consumer.subtract(minute.per_consumer)
            for consumer in minute.per_consumer:
                if not self._per_consumer[consumer]:
                    del self._per_consumer[consumer]

    def clear(self) -> None:
        """Forget everything."""
        self._minutes.clear()
        self._per_consumer.clear()
        self._total = 0

    def _digest(self, consumer: ConsumerId, key: RequestKey) -> int:
        # A name holds no line break, so that no two pairs read alike.
        text = f"{consumer}\n{key}".encode()
        return int.from_bytes(blake2b(text, key=self._key, digest_size=8).digest(), "big")
