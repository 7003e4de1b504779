"""The leases that one instance holds, and what the meter asks about them at every single event.

With a thousand consumers a scan of all leases costs milliseconds, and it would be done several times for each
inference. So they are found by path, and two sets are kept as units move (`note`) and as time passes (`advance`):
leases with work in flight, and leases that can be given back because they are used up or their time is over.

Closed leases stay here until their final report is acknowledged.
"""

from collections.abc import Iterator
from heapq import heappop, heappush

from aigovtool.ids import LeaseId, ModelId
from aigovtool.protocol.holding import Holding, PathKey


class Shelf:
    """Leases by identifier and by path."""

    def __init__(self) -> None:
        self._by_id: dict[LeaseId, Holding] = {}
        self._by_path: dict[PathKey, dict[LeaseId, Holding]] = {}
        self._busy: dict[ModelId, dict[LeaseId, Holding]] = {}
        self._bound: dict[LeaseId, Holding] = {}
        self._returnable: dict[LeaseId, Holding] = {}
        self._ends: list[tuple[int, LeaseId]] = []
        self._now_ms = 0

    def __getitem__(self, lease_id: LeaseId) -> Holding:
        return self._by_id[lease_id]

    def __contains__(self, lease_id: LeaseId) -> bool:
        return lease_id in self._by_id

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, lease_id: LeaseId) -> Holding | None:
        """Return a lease, or `None` when it was never here or is acknowledged."""
        return self._by_id.get(lease_id)

    def values(self) -> list[Holding]:
        """Return every lease, in the order in which they were granted."""
        return list(self._by_id.values())

    def put(self, holding: Holding) -> None:
        """Take a new lease."""
        self._by_id[holding.lease_id] = holding
        self._by_path.setdefault(holding.path, {})[holding.lease_id] = holding
        if holding.request is not None:
            self._bound[holding.lease_id] = holding
        heappush(self._ends, (holding.expires_ms, holding.lease_id))
        self.note(holding)

    def drop(self, lease_id: LeaseId) -> None:
        """Forget a lease: its final report is acknowledged."""
        holding = self._by_id.pop(lease_id)
        of_path = self._by_path[holding.path]
        del of_path[lease_id]
        if not of_path:
            del self._by_path[holding.path]
        self._returnable.pop(lease_id, None)
        self._bound.pop(lease_id, None)
        self._busy.get(holding.model, {}).pop(lease_id, None)

    def held(self, path: PathKey) -> bool:
        """Return whether any lease of this path is here, closed ones included."""
        return path in self._by_path

    def open(self, path: PathKey) -> list[Holding]:
        """Return the leases of this path whose counters are not shut, oldest first."""
        return [holding for holding in self._by_path.get(path, {}).values() if not holding.closed]

    def bound(self) -> list[Holding]:
        """Return the leases for one request each whose counters are not shut."""
        return [holding for holding in self._bound.values() if not holding.closed]

    def note(self, holding: Holding) -> None:
        """Take notice that the units of a lease have moved, or that it was closed."""
        busy = self._busy.setdefault(holding.model, {})
        if holding.in_flight:
            busy[holding.lease_id] = holding
        else:
            busy.pop(holding.lease_id, None)
        if not holding.closed and not holding.in_flight and holding.over(self._now_ms):
            self._returnable[holding.lease_id] = holding
        else:
            self._returnable.pop(holding.lease_id, None)

    def busy(self, model: ModelId) -> bool:
        """Return whether work is in flight on any lease of this model."""
        return bool(self._busy.get(model))

    def returnable(self, now_ms: int) -> Iterator[Holding]:
        """Yield the leases that can be closed: nothing is in flight, and they are used up or their time is over."""
        self._now_ms = max(self._now_ms, now_ms)
        while self._ends and self._ends[0][0] <= self._now_ms:
            _, lease_id = heappop(self._ends)
            if lease_id in self._by_id:
                self.note(self._by_id[lease_id])
        yield from tuple(self._returnable.values())
