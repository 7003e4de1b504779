"""The leases that one instance holds, and what the meter asks about them at every single event.

With a thousand consumers a scan of all leases costs milliseconds, and it would be done several times for each
inference; in bound mode one consumer alone may have a thousand. So they are found by path, and by path and request;
and two sets are kept as units move (`note`) and as time passes: leases with work in flight, and leases that can be
given back because they are used up or their time is over. What is free on a path is kept as a sum.

Closed leases stay here until their final report is acknowledged.
"""

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import TypeVar

from aigovtool.ids import Digest, LeaseId, ModelId
from aigovtool.ledger.units import ZERO, UnitVector
from aigovtool.protocol.holding import Holding, PathKey

K = TypeVar("K")


class Shelf:
    """Leases by identifier and by path."""

    def __init__(self) -> None:
        self._by_id: dict[LeaseId, Holding] = {}
        self._by_path: dict[PathKey, dict[LeaseId, Holding]] = {}
        self._by_request: dict[tuple[PathKey, Digest | None], dict[LeaseId, Holding]] = {}
        #: What is free on each path, and what each lease has been counted with in that.
        self._free: dict[PathKey, UnitVector] = {}
        self._counted: dict[LeaseId, UnitVector] = {}
        self._busy: dict[ModelId, dict[LeaseId, Holding]] = {}
        self._bound: dict[LeaseId, Holding] = {}
        self._returnable: dict[LeaseId, Holding] = {}
        self._ended: dict[LeaseId, None] = {}
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
        self._by_request.setdefault((holding.path, holding.request), {})[holding.lease_id] = holding
        if holding.request is not None:
            self._bound[holding.lease_id] = holding
        heappush(self._ends, (holding.expires_ms, holding.lease_id))
        self.note(holding)

    def drop(self, lease_id: LeaseId) -> None:
        """Forget a lease: its final report is acknowledged."""
        holding = self._by_id.pop(lease_id)
        _remove(self._by_path, holding.path, lease_id)
        _remove(self._by_request, (holding.path, holding.request), lease_id)
        self._count(holding, ZERO)
        del self._counted[lease_id]
        if holding.path not in self._by_path:
            self._free.pop(holding.path, None)
        self._returnable.pop(lease_id, None)
        self._ended.pop(lease_id, None)
        self._bound.pop(lease_id, None)
        self._busy.get(holding.model, {}).pop(lease_id, None)

    def held(self, path: PathKey) -> bool:
        """Return whether any lease of this path is here, closed ones included."""
        return path in self._by_path

    def open(self, path: PathKey) -> list[Holding]:
        """Return the leases of this path whose counters are not shut, oldest first."""
        return [holding for holding in self._by_path.get(path, {}).values() if not holding.closed]

    def of_request(self, path: PathKey, request: Digest | None) -> list[Holding]:
        """Return those of them that serve this request alone, or (`None`) any."""
        return [holding for holding in self._by_request.get((path, request), {}).values() if not holding.closed]

    def free(self, path: PathKey) -> UnitVector:
        """Return what is free on the leases of this path together."""
        return self._free.get(path, ZERO)

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
        self._count(holding, holding.free)
        lease_id, idle = holding.lease_id, not holding.closed and not holding.in_flight
        if idle and holding.over(self._now_ms):
            self._returnable[lease_id] = holding
        else:
            self._returnable.pop(lease_id, None)
        if idle and holding.expires_ms <= self._now_ms:
            self._ended[lease_id] = None
        else:
            self._ended.pop(lease_id, None)

    def _count(self, holding: Holding, free: UnitVector) -> None:
        before = self._counted.get(holding.lease_id, ZERO)
        if free != before:
            self._free[holding.path] = self.free(holding.path).plus(free).minus(before)
        self._counted[holding.lease_id] = free

    def busy(self, model: ModelId) -> bool:
        """Return whether work is in flight on any lease of this model."""
        return bool(self._busy.get(model))

    def returnable(self, now_ms: int) -> Iterator[Holding]:
        """Yield the leases that can be closed: nothing is in flight, and they are used up or their time is over."""
        self._pass(now_ms)
        yield from tuple(self._returnable.values())

    def has_ended(self, now_ms: int) -> bool:
        """Return whether any of them can be closed because its time is over."""
        self._pass(now_ms)
        return bool(self._ended)

    def _pass(self, now_ms: int) -> None:
        """Let time pass: some leases have ended meanwhile."""
        self._now_ms = max(self._now_ms, now_ms)
        while self._ends and self._ends[0][0] <= self._now_ms:
            _, lease_id = heappop(self._ends)
            if lease_id in self._by_id:
                self.note(self._by_id[lease_id])


def _remove(index: dict[K, dict[LeaseId, Holding]], key: K, lease_id: LeaseId) -> None:
    del index[key][lease_id]
    if not index[key]:
        del index[key]
