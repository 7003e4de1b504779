"""Which refusals are written to the audit log now, and how many of the same are only counted.

Whoever can be refused can be refused as often as it likes, and no line of the log is ever deleted. So the first
refusal is written at once, and the same again (to the same, for the same) is counted and written at most hourly. The
counts are in memory: what a custodian that is killed loses is how often something was repeated, never that it was.
"""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Final

import msgspec

from aigovtool.codec import encode
from aigovtool.ids import Millis
from aigovtool.ledger.entry import Refusal

#: How often the same refusal is written at most.
INTERVAL_MS: Final = 3_600_000
#: Different refusals that are remembered. When there are more, the oldest is written again if it is repeated.
_MAX_KEPT: Final = 4_096


@dataclass(slots=True)
class _Seen:
    refusal: Refusal
    written_ms: Millis
    uncounted: int = 0

    def is_due(self, now_ms: Millis) -> bool:
        # In either direction: a host's clock that is put back must not silence anything.
        return abs(now_ms - self.written_ms) >= INTERVAL_MS

    def line(self) -> list[Refusal]:
        """Return what is to be written of those that were only counted so far."""
        return [msgspec.structs.replace(self.refusal, times=self.uncounted)] if self.uncounted else []


class Refusals:
    """The refusals of the last hour. Threads may share it; times are those of the custodian's host."""

    def __init__(self) -> None:
        self._lock: Final = Lock()
        self._seen: Final[OrderedDict[bytes, _Seen]] = OrderedDict()

    def count(self, refusal: Refusal, now_ms: Millis) -> list[Refusal]:
        """Count one refusal; return the lines that are to be written now."""
        key = encode(refusal)
        with self._lock:
            seen = self._seen.setdefault(key, _Seen(refusal, written_ms=now_ms - INTERVAL_MS))
            seen.uncounted += 1
            if not seen.is_due(now_ms):
                return []
            lines = seen.line()
            seen.written_ms, seen.uncounted = now_ms, 0
            self._seen.move_to_end(key)
            while len(self._seen) > _MAX_KEPT:
                lines.extend(self._seen.popitem(last=False)[1].line())
            return lines

    def due(self, now_ms: Millis) -> list[Refusal]:
        """Return the lines of what was repeated and then not any more for an hour, and forget it."""
        with self._lock:
            over = [key for key, seen in self._seen.items() if seen.is_due(now_ms)]
            return [line for key in over for line in self._seen.pop(key).line()]

    def everything(self) -> list[Refusal]:
        """Return the lines of all that was only counted, and forget it: the custodian ends."""
        with self._lock:
            seen = list(self._seen.values())
            self._seen.clear()
        return [line for one in seen for line in one.line()]

    def not_written(self, lines: list[Refusal]) -> None:
        """Take lines back that could not be written: they count, and the next refusal of each is written at once."""
        with self._lock:
            for line in lines:
                refusal = msgspec.structs.replace(line, times=1)
                seen = self._seen.setdefault(encode(refusal), _Seen(refusal, written_ms=0))
                seen.written_ms = 0
                seen.uncounted += line.times
