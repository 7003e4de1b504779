"""Which paths must be looked at again: at once because something happened to them, or when a time has come.

It saves the meter from asking every consumer's demand, at every event, whether it has become urgent. Looking once too
often is harmless; a path that could change by itself must never be missing.
"""

from heapq import heapify, heappop, heappush

from aigovtool.protocol.holding import PathKey

#: Appointments that were moved stay in the heap until their time; with more than this many the heap is cleaned.
_STALE_MAX = 1_000


class Agenda:
    """Paths in the order in which they are to be looked at."""

    def __init__(self) -> None:
        self._due: dict[PathKey, None] = {}
        self._at: dict[PathKey, int] = {}
        self._heap: list[tuple[int, PathKey]] = []

    def look(self, path: PathKey) -> None:
        """Something happened to this path."""
        self._due[path] = None

    def next(self, now_ms: int) -> PathKey | None:
        """Return a path that is to be looked at; it stays due until `done`."""
        while self._heap and self._heap[0][0] <= now_ms:
            at_ms, path = heappop(self._heap)
            if self._at.get(path) == at_ms:
                del self._at[path]
                self._due[path] = None
        return next(iter(self._due), None)

    def done(self, path: PathKey, again_ms: int | None) -> None:
        """A path was looked at, and cannot change by itself before `again_ms` (`None`: not at all)."""
        self._due.pop(path, None)
        if again_ms is not None and again_ms < self._at.get(path, again_ms + 1):
            self._at[path] = again_ms
            heappush(self._heap, (again_ms, path))
            if len(self._heap) > len(self._at) + _STALE_MAX:
                self._heap = [(at_ms, known) for known, at_ms in self._at.items()]
                heapify(self._heap)

    def forget(self, path: PathKey) -> None:
        """Nobody asks for this path any more."""
        self._due.pop(path, None)
        self._at.pop(path, None)
