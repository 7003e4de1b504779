"""Budget rows: who may use how much of what, when, and until when.

A row stands at a scope (model, model x borrower, or model x borrower x consumer), counts one dimension, and covers a
bucket of a window. `posted` units are spent, `pending` ones are held by leases. A lease debits *every* row of its path
in one transaction. Rows are never deleted; a limit may be lowered below what is used, which means no new grants. No
limit at all is an explicit choice (`limit = null`), never an absence.

Windows are the whole lifetime, a UTC calendar hour, day or month, or a *rolling* hour, day or 30 days. A calendar
window is one bucket. A rolling window is made of small UTC buckets, and its room counts every bucket that it touches,
the oldest one whole: so no span of its length, wherever it begins, is ever granted more than the limit.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from aigovtool.codec import Message
from aigovtool.errors import InvalidValueError
from aigovtool.ids import BorrowerId, ConsumerId, Millis, ModelId, Units
from aigovtool.ledger.policy import Level
from aigovtool.ledger.units import Dimension
from aigovtool.limits import MAX_INTEGER

_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 60 * _MINUTE_MS
_DAY_MS: Final = 24 * _HOUR_MS


class Window(StrEnum):
    """The span of time that a limit covers. A unit belongs to the bucket in which it was granted."""

    LIFETIME = "lifetime"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    ROLLING_HOUR = "rolling_hour"
    ROLLING_DAY = "rolling_day"
    ROLLING_MONTH = "rolling_month"


#: Length of a rolling window and of its buckets, in milliseconds. A unit counts for at most one bucket longer.
ROLLING: Final = {
    Window.ROLLING_HOUR: (_HOUR_MS, _MINUTE_MS),
    Window.ROLLING_DAY: (_DAY_MS, 15 * _MINUTE_MS),
    Window.ROLLING_MONTH: (30 * _DAY_MS, 6 * _HOUR_MS),
}
#: Length of the buckets that are all of one length.
_BUCKET_MS: Final = {Window.HOUR: _HOUR_MS, Window.DAY: _DAY_MS, **{one: ROLLING[one][1] for one in ROLLING}}
#: From 0000-03-01 of the Gregorian calendar.
_DAYS_BEFORE_1970: Final = 719_468
_DAYS_OF_400_YEARS: Final = 146_097


class Scope(Message):
    """Where a budget stands. A consumer is always a consumer of a borrower."""

    model: ModelId
    borrower: BorrowerId | None = None
    consumer: ConsumerId | None = None

    def __post_init__(self) -> None:
        if self.consumer is not None and self.borrower is None:
            raise ValueError("a consumer's budget names its borrower")

    def level(self) -> Level:
        """Return the level of this scope."""
        if self.borrower is None:
            return Level.MODEL
        return Level.BORROWER if self.consumer is None else Level.CONSUMER


class RowKey(Message):
    """Identity of a row. `bucket_ms` is the start of its window (0 for a lifetime)."""

    scope: Scope
    dimension: Dimension
    window: Window
    bucket_ms: Millis


class BudgetLimit(Message, omit_defaults=True):
    """An operator's decision: at most `limit` units (null: no limit) per window at a scope, until `not_after_ms`."""

    scope: Scope
    dimension: Dimension
    window: Window
    limit: Units | None
    not_after_ms: Millis | None = None


class BudgetRow(Message):
    """One bucket: the limit in force, and what is spent and held in it.

    `earlier` is what is spent and held in the earlier buckets that a rolling window still touches, and
    `earlier_pending` the part of it that leases hold; `not_after_ms` is the end of the budget. They come from elsewhere
    and are not kept with the row.
    """

    key: RowKey
    limit: Units | None
    posted: Units = 0
    pending: Units = 0
    earlier: Units = 0
    earlier_pending: Units = 0
    not_after_ms: Millis | None = None

    def room(self) -> int | None:
        """Return the units that can still be granted; `None` where there is no limit."""
        return None if self.limit is None else max(0, self.limit - self.earlier - self.posted - self.pending)

    def left(self) -> int:
        """Return the units that can still be granted; without a limit, so many that the row can still be told."""
        room = self.room()
        return max(0, MAX_INTEGER - self.posted - self.pending) if room is None else room

    def is_held(self) -> bool:
        """Return whether leases hold anything of what counts here: it may come back."""
        return self.pending + self.earlier_pending > 0

    def with_earlier(self, spent: int, held: int) -> "BudgetRow":
        """Return the row with what is spent and held in the earlier buckets of its rolling window.

        What they come to beyond the largest number leaves no room either way.
        """
        earlier, pending = min(spent + held, MAX_INTEGER), min(held, MAX_INTEGER)
        return msgspec.structs.replace(self, earlier=earlier, earlier_pending=pending)

    def ended(self, now_ms: int) -> bool:
        """Return whether the budget's time is over."""
        return self.not_after_ms is not None and now_ms >= self.not_after_ms

    def hold(self, units: int) -> "BudgetRow":
        """Move `units` to pending.

        Raises:
            InvalidValueError: when the row has no room for them (callers check first; this is the wall).
        """
        room = self.room()
        if units < 0 or (room is not None and units > room):
            raise InvalidValueError("a hold exceeds the budget row", reason="overspend")
        return msgspec.structs.replace(self, pending=self.pending + units)

    def settle(self, held: int, used: int) -> "BudgetRow":
        """Turn `held` pending units into `used` posted ones; the rest is free again."""
        return msgspec.structs.replace(self, pending=self.pending - held, posted=self.posted + used)

    def charge(self, units: int) -> "BudgetRow":
        """Charge units that were spent outside what this ledger remembers; the limit may be exceeded."""
        return msgspec.structs.replace(self, posted=self.posted + units)

    def refund(self, units: int) -> "BudgetRow":
        """Give back `units` that were posted in full for an expired lease."""
        return msgspec.structs.replace(self, posted=self.posted - units)


def rooms(rows: Iterable[BudgetRow], now_ms: int) -> dict[Dimension, int]:
    """Return what can still be granted on a path, for each dimension that any of its `rows` limits."""
    found: dict[Dimension, int] = {}
    for row in rows:
        room = 0 if row.ended(now_ms) else row.room()
        if room is not None:
            dimension = row.key.dimension
            found[dimension] = min(room, found.get(dimension, room))
    return found


def path(model: ModelId, borrower: BorrowerId, consumer: ConsumerId) -> tuple[Scope, Scope, Scope]:
    """Return the scopes that a lease for this consumer debits where a row stands, widest first."""
    return (
        Scope(model=model),
        Scope(model=model, borrower=borrower),
        Scope(model=model, borrower=borrower, consumer=consumer),
    )


def bucket_of(window: Window, now_ms: int) -> int:
    """Return the start of the bucket that holds `now_ms`, in milliseconds since the epoch (UTC).

    In integers alone: a log may hold any time that fits a message, and `datetime` ends with the year 9999.
    """
    if window is Window.LIFETIME:
        return 0
    if window is Window.MONTH:
        days = now_ms // _DAY_MS
        return (days - _day_of_month(days)) * _DAY_MS
    bucket_ms = _BUCKET_MS[window]
    return now_ms // bucket_ms * bucket_ms


def _day_of_month(days: int) -> int:
    """Return the day of its month, counted from 0, of the day that is `days` after 1970-01-01.

    The Gregorian calendar repeats itself after 400 years. A year is counted from March, so that its last day is the
    leap day; the months from March on have 153 days in every five (Howard Hinnant, "chrono-compatible low-level date
    algorithms", `civil_from_days`).
    """
    day = (days + _DAYS_BEFORE_1970) % _DAYS_OF_400_YEARS
    year = (day - day // 1460 + day // 36524 - day // 146096) // 365
    day_of_year = day - (365 * year + year // 4 - year // 100)
    months = (5 * day_of_year + 2) // 153
    return day_of_year - (153 * months + 2) // 5


def oldest_bucket_of(window: Window, now_ms: int) -> int:
    """Return the start of the oldest bucket that counts at `now_ms`: for calendar windows, the current one."""
    current = bucket_of(window, now_ms)
    if window not in ROLLING:
        return current
    span_ms, bucket_ms = ROLLING[window]
    # The window's beginning lies within this bucket, or just where it ends: its units may be younger than the window.
    return max(0, (now_ms - span_ms) // bucket_ms * bucket_ms)


def key_now(limit: BudgetLimit, now_ms: int) -> RowKey:
    """Return the key of the bucket that grants under `limit` are debited from at `now_ms`."""
    return RowKey(
        scope=limit.scope, dimension=limit.dimension, window=limit.window, bucket_ms=bucket_of(limit.window, now_ms)
    )


def row_for(limit: BudgetLimit, now_ms: int) -> BudgetRow:
    """Return the fresh row of the current bucket under `limit`."""
    return BudgetRow(key=key_now(limit, now_ms), limit=limit.limit, not_after_ms=limit.not_after_ms)


def row_now(limit: BudgetLimit, rows: Iterable[BudgetRow], now_ms: int) -> BudgetRow:
    """Return the row to debit under `limit` at `now_ms`, given at least every row of the same limit."""
    fresh = row_for(limit, now_ms)
    oldest, current = oldest_bucket_of(limit.window, now_ms), fresh.key
    spent = held = 0
    for row in rows:
        same = (row.key.scope, row.key.dimension, row.key.window) == (limit.scope, limit.dimension, limit.window)
        if same and row.key == current:
            fresh = msgspec.structs.replace(fresh, posted=row.posted, pending=row.pending)
        elif same and oldest <= row.key.bucket_ms < current.bucket_ms:
            spent, held = spent + row.posted, held + row.pending
    return fresh.with_earlier(spent, held)
