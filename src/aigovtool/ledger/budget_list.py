"""The budgets of a log: their limits, and what is spent and held of each in every window."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from aigovtool.ledger.bad_entry import bad
from aigovtool.ledger.budget import ROLLING, BudgetLimit, BudgetRow, RowKey, Scope, Window, bucket_of
from aigovtool.ledger.units import Dimension

#: A transaction may read the clock shortly before it writes its entry, and a window may begin in between.
_WINDOW_SLACK_MS: Final = 60_000

Counted = tuple[Dimension, Window]


@dataclass(slots=True)
class BudgetList:
    """Every limit that was ever set, and every row that a limit, a lease or a charge has begun."""

    limits: dict[Scope, dict[Counted, BudgetLimit]] = field(default_factory=dict)
    rows: dict[RowKey, BudgetRow] = field(default_factory=dict)
    #: The rows of each limit by their bucket's beginning, because a rolling window counts several.
    _buckets: dict[tuple[Scope, Dimension, Window], dict[int, RowKey]] = field(default_factory=dict)
    #: The newest bucket of each limit that was in use: whatever is decided later is of that one, or of a later one.
    _newest: dict[tuple[Scope, Dimension, Window], int] = field(default_factory=dict)

    def limit(self, limit: BudgetLimit, at_ms: int) -> None:
        """Set a limit, which holds in the present window and in later ones."""
        self.limits.setdefault(limit.scope, {})[limit.dimension, limit.window] = limit
        bucket_ms = bucket_of(limit.window, at_ms)
        key = RowKey(scope=limit.scope, dimension=limit.dimension, window=limit.window, bucket_ms=bucket_ms)
        row = self.rows.get(key, BudgetRow(key=key, limit=limit.limit))
        self._keep(msgspec.structs.replace(row, limit=limit.limit))
        self._enter(key)

    def due(self, scopes: Collection[Scope], metered: Collection[Dimension]) -> set[tuple[Scope, Dimension, Window]]:
        """Return what a lease on a path is to debit."""
        found = ((scope, *counted) for scope in scopes for counted in self.limits.get(scope, {}))
        return {one for one in found if one[1] in metered}

    def hold(self, key: RowKey, units: int, at_ms: int) -> None:
        """Debit a row for a lease.

        Raises:
            LogError: another window than that of its time, or one that was over for this budget (`wrong_window`), a
                budget that was over (`budget_ended`), or more than its limit leaves (`overspend`).
        """
        if key.bucket_ms not in {bucket_of(key.window, at_ms), bucket_of(key.window, max(0, at_ms - _WINDOW_SLACK_MS))}:
            raise bad("wrong_window", "it debits another window than that of its time")
        if key.bucket_ms < self._newest[key.scope, key.dimension, key.window]:
            raise bad("wrong_window", "it debits a window after the next one of that budget was in use")
        self._enter(key)
        limit = self.limits[key.scope][key.dimension, key.window]
        if limit.not_after_ms is not None and at_ms - _WINDOW_SLACK_MS >= limit.not_after_ms:
            raise bad("budget_ended", "it debits a budget whose time was over")
        if key not in self.rows:
            self._keep(BudgetRow(key=key, limit=limit.limit))
        row, room = self.rows[key], self._room(self.rows[key])
        if room is not None and units > room:
            raise bad(
                "overspend",
                f"it grants {units} {key.dimension.value} where a limit of {row.limit} leaves {room} "
                f"({row.posted} spent, {row.pending} held)",
            )
        self.rows[key] = row.hold(units)

    def settle(self, key: RowKey, granted: int, charged: int, *, late: bool) -> None:
        """Charge a row what came of a lease; a `late` one was charged in full before, and gets the rest back."""
        row = self.rows[key]
        self.rows[key] = row.refund(granted - charged) if late else row.settle(granted, charged)

    def charge(self, key: RowKey, units: int, at_ms: int) -> None:
        """Charge a row as operators order it; nothing need have been debited from it before.

        Raises:
            LogError: nobody has set such a budget (`unknown_row`), or it has no such window yet (`wrong_window`).
        """
        row = self.rows.get(key)
        if row is None:
            limit = self.limits.get(key.scope, {}).get((key.dimension, key.window))
            if limit is None:
                raise bad("unknown_row", "it charges a budget that nobody has set")
            if key.bucket_ms > at_ms or bucket_of(key.window, key.bucket_ms) != key.bucket_ms:
                raise bad("wrong_window", "it charges a window that has not begun, or is none")
            row = BudgetRow(key=key, limit=limit.limit)
        self._keep(row.charge(units))

    def begin(self, at_ms: int) -> None:
        """Have every window of a moment be in use: nothing is debited from those before any more."""
        for scope, limits in self.limits.items():
            for dimension, window in limits:
                key = RowKey(scope=scope, dimension=dimension, window=window, bucket_ms=bucket_of(window, at_ms))
                self._enter(key)

    def rooms(self, at_ms: int) -> Iterator[tuple[RowKey, int]]:
        """Yield every row from which anything could be granted at a moment, and how much."""
        for scope, limits in self.limits.items():
            for (dimension, window), limit in limits.items():
                key = RowKey(scope=scope, dimension=dimension, window=window, bucket_ms=bucket_of(window, at_ms))
                if room := self._room(self.rows.get(key) or BudgetRow(key=key, limit=limit.limit)):
                    yield key, room

    def _room(self, row: BudgetRow) -> int | None:
        return msgspec.structs.replace(row, earlier=self._earlier(row.key)).room()

    def _earlier(self, key: RowKey) -> int:
        """What the earlier buckets of a rolling window hold, as of the beginning of the bucket that is debited."""
        if key.window not in ROLLING:
            return 0
        span_ms, bucket_ms = ROLLING[key.window]
        buckets = self._buckets[key.scope, key.dimension, key.window]
        earlier = range(key.bucket_ms - span_ms, key.bucket_ms, bucket_ms)
        counted = [self.rows[buckets[at]] for at in earlier if at in buckets]
        return sum(row.posted + row.pending for row in counted)

    def _enter(self, key: RowKey) -> None:
        limit = key.scope, key.dimension, key.window
        self._newest[limit] = max(key.bucket_ms, self._newest.get(limit, 0))

    def _keep(self, row: BudgetRow) -> None:
        key = row.key
        self.rows[key] = row
        self._buckets.setdefault((key.scope, key.dimension, key.window), {})[key.bucket_ms] = key
