"""A small model of the custodian's ledger, in plain dicts, tuples and integers, for comparison with the real one.

It is written from the specification (`docs/spec/leases.md`, sections 2 to 6) and imports nothing of the product.
One model, refundable instances, one or two metered dimensions: 0 is `inferences`, 1 is `compute_ms`. Units are always
a pair of both; where the second is not metered, it is 0.
"""

import calendar
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

_HOUR, _DAY, _GRACE, _MOST = 3_600_000, 86_400_000, 5_000, 1_000_000
_LIVE = {"pending", "expired"}
_ROLLING = {
    "rolling_hour": (_HOUR, 60_000),
    "rolling_day": (_DAY, 15 * 60_000),
    "rolling_month": (30 * _DAY, 6 * _HOUR),
}
Units = tuple[int, ...]
#: Where a budget stands: nothing, a borrower, or a borrower and a consumer.
Place = tuple[str, ...]
#: Its number, what was used, and whether it is the last.
Report = tuple[int, Units, bool]
#: A place, a window and a dimension.
Budget = tuple[Place, str, int]
#: A budget on a path: its limit, what is left in it (nothing, once its time is over), and its present bucket.
OnPath = tuple[Budget, int | None, int | None, int]
#: What a wish comes to: "granted" or why not, units or what is available, a lease's ttl, and the dimension that lacks.
Said = tuple[str, Units, int, int | None]
_NOTHING: Units = (0, 0)


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
    units: Units
    rows: list[tuple[Budget, int]]
    deadline: int
    state: str = "new"
    seq: int = 0
    used: Units = _NOTHING
    report: Report | None = None

    def charge(self) -> Units:
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
    """The ledger. Each act returns what the custodian should say.

    `request_max`: the most that one request may take, of each dimension that is metered; 0 where it is known before.
    """

    dial: str
    ttl: int
    owner: dict[str, str]
    request_max: Units
    now: int = 0
    epoch: int = 0
    limits: dict[Budget, tuple[int | None, int | None]] = field(default_factory=dict)
    rows: dict[Budget, dict[int, list[int]]] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    holders: dict[str, Holder] = field(default_factory=dict)
    stops: set[tuple[str, str]] = field(default_factory=set)
    asks: dict[tuple[str, str, int], int] = field(default_factory=dict)

    def set_limit(self, budget: Budget, limit: int | None, ends: int | None) -> str:
        """Set a limit outright."""
        if ends is not None and ends <= self.now:
            return "bad_end"
        self.limits[budget] = (limit, ends)
        return ""

    def grant(self, budget: Budget, units: int) -> str:
        """Add to a limit."""
        limit, ends = self.limits.setdefault(budget, (0, None))
        if limit is None:
            return "unlimited"
        return "budget_ended" if self.ended(budget) else self.set_limit(budget, limit + units, ends)

    def decide(self, ask: tuple[str, str, int], *, approve: bool) -> str:
        """Decide a request for more."""
        refused = self._approve(ask, self.asks[ask]) if approve else ""
        if not refused:
            del self.asks[ask]
        return refused

    def _approve(self, ask: tuple[str, str, int], units: int) -> str:
        """Have the lifetime limits on a path leave so many more, unless it is a window that leaves the least."""
        path = [one for one in self.limits if one[2] == ask[2] and ask[: len(one[0])] == one[0]]
        left = {one: max(0, limit - self._spent(one)) for one in path if (limit := self.limits[one][0]) is not None}
        tightest = min(left, key=lambda one: (left[one], one[1] != "lifetime"), default=None)
        if tightest is None:
            return "" if path else "no_budget_row"
        if tightest[1] != "lifetime":
            return "" if left[tightest] >= units else "window_exhausted"
        due = left[tightest] + units
        for budget in [one for one, room in left.items() if one[1] == "lifetime" and room < due]:
            self.limits[budget] = (self._spent(budget) + due, self.limits[budget][1])
        return ""

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
            self._turn(lease, "written_off")
        return "" if lost else "nothing_expired"

    def sweep(self) -> None:
        """Charge what is overdue, the oldest first, not more than a hundred."""
        due = [lease for lease in self.leases.values() if lease.state == "pending" and lease.deadline < self.now]
        for lease in sorted(due, key=lambda one: one.deadline)[:100]:
            self._turn(lease, "expired")

    def _turn(self, lease: Lease, state: str) -> None:
        """Move a lease to another state, and its charge on each of its rows with it: held while pending, else spent."""
        for sign, at_state in ((-1, lease.state), (1, state)):
            lease.state = at_state
            charge, held = lease.charge(), int(at_state == "pending")
            for budget, at in lease.rows:
                self.rows[budget][at][held] += sign * charge[budget[2]]

    def reports(self, holder: str, reports: Sequence[tuple[str, Report]]) -> None:
        """Take cumulative reports; none counts once two copies of their holder were seen, nor if one shows that."""
        if holder in self.holders and self.holders[holder].state == "forked":
            return
        if any(self._is_fork(holder, lease_id, report) for lease_id, report in reports):
            self._fork(holder)
            return
        for lease_id, report in reports:
            if self._is_fork(holder, lease_id, report):
                self._fork(holder)
                return
            self._report(holder, lease_id, report)

    def _fork(self, holder: str) -> None:
        self.stop("enclave", holder)
        self.holders[holder].state = "forked"

    def _news(self, holder: str, lease_id: str, report: Report) -> Lease | None:
        """Return the lease of a report that says something new."""
        lease, (seq, *_) = self.leases.get(lease_id), report
        if lease is None or lease.holder != holder or lease.state == "written_off":
            return None
        return None if seq < lease.seq or (seq == lease.seq and report == lease.report) else lease

    def _is_fork(self, holder: str, lease_id: str, report: Report) -> bool:
        lease, (seq, used, _) = self._news(holder, lease_id, report), report
        if lease is None:
            return False
        possible = all(low <= of <= most for low, of, most in zip(lease.used, used, lease.units, strict=True))
        return seq == lease.seq or not possible or lease.state not in _LIVE

    def _report(self, holder: str, lease_id: str, report: Report) -> None:
        lease = self._news(holder, lease_id, report)
        if lease is not None:
            lease.seq, lease.used, lease.report = *report[:2], report
            if report[2]:
                self._turn(lease, "closed" if lease.state == "pending" else "closed_late")

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

    def held(self, of: int, **whose: str) -> int:
        """Return the units of leases that nobody has closed."""
        ((key, value),) = whose.items()
        return sum(one.units[of] for one in self.leases.values() if one.state in _LIVE and getattr(one, key) == value)

    def ended(self, budget: Budget) -> bool:
        """Return whether a budget's time is over."""
        ends = self.limits[budget][1]
        return ends is not None and self.now >= ends

    def _path(self, place: Place) -> list[OnPath]:
        found: list[OnPath] = []
        for budget, (limit, _) in self.limits.items():
            if place[: len(budget[0])] == budget[0] and budget[2] < len(self.request_max):
                spent = self._spent(budget)
                room = None if limit is None else max(0, limit - spent)
                found.append((budget, limit, 0 if self.ended(budget) else room, bucket(budget[1], self.now)))
        return found

    def _spent(self, budget: Budget) -> int:
        """Return what counts against a limit now."""
        at = bucket(budget[1], self.now)
        return sum(self.rows.setdefault(budget, {}).setdefault(at, [0, 0])) + self._earlier(budget, at)

    def _counted(self, budget: Budget, current: int) -> list[list[int]]:
        """Return the earlier buckets that count beside the present one."""
        span, length = _ROLLING.get(budget[1], (0, 1))
        oldest = (self.now - span) // length * length if span else current
        return [row for at, row in self.rows[budget].items() if oldest <= at < current]

    def _earlier(self, budget: Budget, current: int) -> int:
        return sum(sum(row) for row in self._counted(budget, current))

    def _held_in(self, budget: Budget, current: int) -> int:
        return self.rows[budget][current][1] + sum(row[1] for row in self._counted(budget, current))

    def missing(self) -> list[int]:
        """Return the dimensions in which the level that is required, the model's own, has no row."""
        there = {of for place, _, of in self.limits if not place}
        return [of for of in range(len(self.request_max)) if of not in there]

    def rooms(self, name: str, consumer: str) -> dict[tuple[str, int], int]:
        """Return what can still be granted to an instance for a consumer, in each dimension that is limited."""
        if self.missing():
            return {(consumer, of): 0 for of in range(len(self.request_max))}
        found: dict[tuple[str, int], int] = {}
        for (_, _, of), _, room, _ in self._path((self.holders[name].borrower, consumer)):
            if room is not None:
                found[consumer, of] = min(room, found.get((consumer, of), room))
        return found

    def want(self, name: str, consumer: str, wish: tuple[Units, Units], *, named: bool, ask: bool) -> Said:
        """Return what a wish of at least and at most so many units comes to; perhaps for one request (`named`)."""
        if refusal := self.refusal(name, consumer, named=named):
            return refusal, _NOTHING, 0, None
        if missing := self.missing():
            return "no_budget_row", _NOTHING, 0, missing[0]
        borrower = self.holders[name].borrower
        path = self._path((borrower, consumer))
        if any(self.ended(budget) for budget, *_ in path):
            return "budget_ended", _NOTHING, 0, None
        metered = range(len(self.request_max))
        least = tuple(max(1, wish[0][of]) for of in metered)
        lefts = [[left for budget, _, left, _ in path if budget[2] == of and left is not None] for of in metered]
        room = tuple(min(left, default=_MOST) for left in lefts)
        short = [(of, at) for of, _, left, at in path if left is not None and left < least[of[2]]]
        if lacking := sorted((budget[2], self._held_in(budget, at)) for budget, at in short):
            code, of = self._shortage(lacking, room)
            if code == "exhausted" and ask:
                self.asks.setdefault((borrower, consumer, of), max(1, wish[1][of]))
            return code, (*room, 0)[:2], 0, of
        allowed = tuple(self._allowed(of, least[of], name, path) for of in metered)
        if capped := [of for of in metered if allowed[of] < least[of]]:
            return "capped", (*allowed, 0)[:2], 0, capped[0]
        sizes = [max(least[of], min(wish[1][of], self._largest(of, path, room[of]))) for of in metered]
        ends = [end for budget, *_ in path if (end := self.limits[budget][1]) is not None]
        ttl = min([self.ttl, self.holders[name].valid_until - self.now, *(end - self.now for end in ends)])
        return "granted", (*map(min, sizes, room, allowed), 0)[:2], ttl, None

    def _shortage(self, lacking: list[tuple[int, int]], room: Units) -> tuple[str, int]:
        """Return what is lacking: of each row that is short there are its dimension, and what leases hold of it."""
        gone = [of for of, held in lacking if not held]
        if not gone:
            return "reserved", lacking[0][0]
        return next((("exhausted", of) for of in gone if room[of] == 0), ("insufficient", gone[0]))

    def _allowed(self, of: int, least: int, name: str, path: list[OnPath]) -> int:
        """Return what the shares of a lifetime's budget that is not one consumer's leave of a dimension."""
        lifetime = [limit for (place, window, _), limit in _limits(of, path) if window == "lifetime" and len(place) < 2]
        share, borrower = min(lifetime, default=_MOST), self.holders[name].borrower
        mine = max(share * 25 // 100, 2 * least) - self.held(of, holder=name)
        ours = max(share * 50 // 100, 2 * least) - self.held(of, borrower=borrower)
        return max(0, min(mine, ours, _MOST))

    def _largest(self, of: int, path: list[OnPath], room: int) -> int:
        """Return the dial's largest lease."""
        if self.dial == "bound":
            return max(1, self.request_max[of])
        strict = min((limit for _, limit in _limits(of, path)), default=_MOST) // 1000
        dial = {"strict": strict if of else min(20, strict), "balanced": room // 100, "island": room // 10}[self.dial]
        return max(1, 2 * self.request_max[of], min(dial, _MOST))

    def add(self, lease_id: str, name: str, consumer: str, units: Units, ttl: int) -> None:
        """Enter a lease that was granted."""
        borrower = self.holders[name].borrower
        rows = [(budget, at) for budget, _, _, at in self._path((borrower, consumer))]
        lease = self.leases[lease_id] = Lease(name, borrower, consumer, units, rows, self.now + ttl + _GRACE)
        self._turn(lease, "pending")

    def usage(self) -> dict[tuple[str, str, int], Units]:
        """Return granted, charged, used and held units, ok, err, and open leases, by borrower, consumer, dimension."""
        found: dict[tuple[str, str, int], Units] = {}
        for lease in self.leases.values():
            still, charge = int(lease.state in _LIVE), lease.charge()
            for of in range(len(self.request_max)):
                key, units = (lease.borrower, lease.consumer, of), lease.units[of]
                more = (units, charge[of], lease.used[of], still * units, lease.used[0], 0, still)
                found[key] = tuple(map(int.__add__, found[key], more)) if key in found else more
        return found


def _limits(of: int, path: list[OnPath]) -> list[tuple[Budget, int]]:
    return [(budget, limit) for budget, limit, _, _ in path if budget[2] == of and limit is not None]
