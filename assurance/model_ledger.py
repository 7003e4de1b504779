"""A small model of the custodian's ledger, in plain dicts and integers, for comparison with the real one.

It is written from the specification (`docs/spec/leases.md`, sections 3, 4 and 6) and imports nothing of the product.
One model, one dimension, refundable instances.
"""

import calendar
import time
from dataclasses import dataclass, field
from typing import Any

_HOUR, _DAY, _GRACE, _MOST = 3_600_000, 86_400_000, 5_000, 1_000_000
_ROLLING = {
    "rolling_hour": (_HOUR, 60_000),
    "rolling_day": (_DAY, 15 * 60_000),
    "rolling_month": (30 * _DAY, 6 * _HOUR),
}
#: Where a budget stands: nothing, a borrower, or a borrower and a consumer.
Place = tuple[str, ...]
Budget = tuple[Place, str]


def bucket(window: str, now: int) -> int:
    """Return when the bucket of `now` began."""
    if window == "lifetime":
        return 0
    if window == "month":
        moment = time.gmtime(now // 1000)
        return calendar.timegm((moment.tm_year, moment.tm_mon, 1, 0, 0, 0)) * 1000
    length = {"hour": _HOUR, "day": _DAY}.get(window) or _ROLLING[window][1]
    return now - now % length


@dataclass
class Lease:
    """One lease."""

    holder: str
    borrower: str
    consumer: str
    units: int
    rows: list[tuple[Budget, int]]
    deadline: int
    state: str = "pending"
    seq: int = 0
    used: int = 0
    report: tuple[int, ...] = ()

    def charge(self) -> int:
        """Return what is held against it."""
        return self.units if self.state in {"pending", "expired", "written_off"} else self.used


@dataclass
class Holder:
    """One instance."""

    borrower: str
    valid_until: int
    state: str = "live"


@dataclass
class Model:
    """The ledger. Each act returns what the custodian should say."""

    dial: str
    ttl: int
    owner: dict[str, str]
    now: int = 0
    epoch: int = 0
    limits: dict[Budget, tuple[int | None, int | None]] = field(default_factory=dict)
    rows: dict[tuple[Budget, int], list[int]] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    holders: dict[str, Holder] = field(default_factory=dict)
    stops: set[tuple[str, str]] = field(default_factory=set)

    # -- Orders ---------------------------------------------------------------------------------------

    def set_limit(self, budget: Budget, limit: int | None, ends: int | None) -> str:
        """Set a limit outright."""
        if ends is not None and ends <= self.now:
            return "bad_end"
        self.limits[budget] = (limit, ends)
        return ""

    def grant(self, budget: Budget, units: int) -> str:
        """Add to a limit."""
        limit, ends = self.limits.get(budget, (0, None))
        if limit is None:
            return "unlimited"
        return self.set_limit(budget, limit + units, ends)

    def stop(self, target: str, value: str) -> str:
        """Stop something."""
        self.stops.add((target, value))
        self.epoch += 1
        return ""

    def resume(self, target: str, value: str) -> str:
        """Lift a stop."""
        if (target, value) not in self.stops:
            return "not_stopped"
        self.stops.remove((target, value))
        self.epoch += 1
        return ""

    def write_off(self, holder: str) -> str:
        """Give up the expired leases of an instance."""
        lost = [lease for lease in self.leases.values() if (lease.holder, lease.state) == (holder, "expired")]
        for lease in lost:
            lease.state = "written_off"
        return "" if lost else "nothing_expired"

    # -- Leases -----------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Charge what is overdue, the oldest first, not more than a hundred."""
        due = [lease for lease in self.leases.values() if lease.state == "pending" and lease.deadline < self.now]
        for lease in sorted(due, key=lambda one: one.deadline)[:100]:
            lease.state = "expired"
            for row in lease.rows:
                self.rows[row][0] += lease.units
                self.rows[row][1] -= lease.units

    def report(self, holder: str, lease_id: str, report: tuple[int, int, bool]) -> None:
        """Take a cumulative report: its number, what was used, and whether it is the last."""
        lease, (seq, used, final) = self.leases.get(lease_id), report
        if lease is None or lease.holder != holder or lease.state == "written_off":
            return
        if seq < lease.seq or (seq == lease.seq and report == lease.report):
            return
        if seq == lease.seq or not lease.used <= used <= lease.units or lease.state not in {"pending", "expired"}:
            self.stop("enclave", holder)
            self.holders[holder].state = "forked"
            return
        lease.seq, lease.used, lease.report = seq, used, report
        if final:
            for row in lease.rows:
                self.rows[row][0] += used if lease.state == "pending" else used - lease.units
                self.rows[row][1] -= lease.units if lease.state == "pending" else 0
            lease.state = "closed" if lease.state == "pending" else "closed_late"

    def wide(self, holder: Holder, name: str) -> bool:
        """Return whether more than a consumer is stopped for an instance."""
        wide = {("all", ""), ("model", "sorter"), ("borrower", holder.borrower), ("enclave", name)}
        return bool(wide & self.stops)

    def refusal(self, name: str, consumer: str, *, named: bool) -> str:
        """Return why an instance gets nothing for a consumer, before any row is looked at."""
        holder = self.holders[name]
        mine = self.owner.get(consumer) == holder.borrower
        if holder.state != "live" or self.wide(holder, name) or (mine and ("consumer", consumer) in self.stops):
            return "stopped"
        if self.now >= holder.valid_until:
            return "reattest"
        if not mine:
            return "no_budget_row"
        return "reattest" if self.dial == "bound" and not named else ""

    def held(self, **whose: str) -> int:
        """Return the units of leases that nobody has closed."""
        return sum(
            lease.units
            for lease in self.leases.values()
            if lease.state in {"pending", "expired"}
            and all(getattr(lease, key) == value for key, value in whose.items())
        )

    def _path(self, place: Place) -> list[tuple[Budget, int | None, int | None, tuple[Budget, int]]]:
        found = []
        for budget, (limit, ends) in self.limits.items():
            if place[: len(budget[0])] == budget[0]:
                row = (budget, bucket(budget[1], self.now))
                self.rows.setdefault(row, [0, 0])
                room = None if limit is None else max(0, limit - self._earlier(budget) - sum(self.rows[row]))
                found.append((budget, limit if ends is None or self.now < ends else -1, room, row))
        return found

    def _earlier(self, budget: Budget) -> int:
        if budget[1] not in _ROLLING:
            return 0
        span, length = _ROLLING[budget[1]]
        oldest, current = (self.now - span) // length * length, bucket(budget[1], self.now)
        return sum(sum(row) for (of, at), row in self.rows.items() if of == budget and oldest <= at < current)

    def want(self, name: str, consumer: str, minimum: int, target: int, *, named: bool) -> tuple[str, int, int]:
        """Return what a wish comes to: "granted" or why not, with units or what is available, and a lease's ttl.

        `named`: it is for one request.
        """
        if refusal := self.refusal(name, consumer, named=named):
            return refusal, 0, 0
        borrower = self.holders[name].borrower
        path = self._path((borrower, consumer))
        if not any(budget[0] == () for budget, *_ in path):
            return "no_budget_row", 0, 0
        if any(limit == -1 for _, limit, _, _ in path):
            return "budget_ended", 0, 0
        rooms = [room for _, _, room, _ in path if room is not None]
        room = min(rooms, default=_MOST)
        if room < minimum:
            short = [self.rows[row] for _, _, left, row in path if left is not None and left < minimum]
            code = "reserved" if all(row[1] for row in short) else "exhausted" if room == 0 else "insufficient"
            return code, room, 0
        shared = [
            limit
            for (place, window), limit, _, _ in path
            if limit is not None and window == "lifetime" and len(place) < 2
        ]
        share = min(shared, default=_MOST)
        allowed = min(
            max(share * 25 // 100, 2 * minimum) - self.held(holder=name),
            max(share * 50 // 100, 2 * minimum) - self.held(borrower=borrower),
            _MOST,
        )
        if allowed < minimum:
            return "capped", max(0, allowed), 0
        least = min((limit for _, limit, _, _ in path if limit is not None), default=_MOST)
        dial = {"bound": 1, "strict": min(20, least // 1000), "balanced": room // 100, "island": room // 10}[self.dial]
        largest = max(minimum, 1, min(dial, _MOST))
        ends = [end for budget, *_ in path if (end := self.limits[budget][1]) is not None]
        ttl = min([self.ttl, self.holders[name].valid_until - self.now, *(end - self.now for end in ends)])
        return "granted", min(max(minimum, min(target, largest)), room, allowed), ttl

    def add(self, lease_id: str, name: str, consumer: str, units: int, ttl: int) -> None:
        """Enter a lease that was granted."""
        borrower = self.holders[name].borrower
        rows = [row for *_, row in self._path((borrower, consumer))]
        for row in rows:
            self.rows[row][1] += units
        self.leases[lease_id] = Lease(name, borrower, consumer, units, rows, self.now + ttl + _GRACE)

    def usage(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """Return granted, charged, used and held units, ok, err, and open leases, by borrower and consumer."""
        found: dict[tuple[str, str], tuple[int, ...]] = {}
        for lease in self.leases.values():
            key, still = (lease.borrower, lease.consumer), int(lease.state in {"pending", "expired"})
            held = still * lease.units
            more: tuple[Any, ...] = (lease.units, lease.charge(), lease.used, held, lease.used, 0, still)
            found[key] = tuple(a + b for a, b in zip(found.get(key, (0,) * 7), more, strict=True))
        return found
