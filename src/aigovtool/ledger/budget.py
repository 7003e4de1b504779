"""Budget rows: who may use how much of what, and when.

A row stands at a scope (model, model x borrower, or model x borrower x consumer), counts one dimension,
and covers a window: the whole lifetime, or one UTC hour, day or month. `posted` units are spent,
`pending` ones are held by leases. A lease debits *every* row of its path in one transaction. Rows are
never deleted; a limit may be lowered below what is used, which means no new grants. No limit at all is
an explicit choice (`limit = null`), never an absence.
"""

from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from aigovtool.codec import Message
from aigovtool.errors import InvalidValueError
from aigovtool.ids import BorrowerId, ConsumerId, Millis, ModelId, Units
from aigovtool.ledger.policy import Level
from aigovtool.ledger.units import Dimension


class Window(StrEnum):
    """The span of time that a row covers. A unit belongs to the window in which it was granted."""

    LIFETIME = "lifetime"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


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


class BudgetLimit(Message):
    """An operator's decision: at most `limit` units (null: no limit) per window at a scope."""

    scope: Scope
    dimension: Dimension
    window: Window
    limit: Units | None


class BudgetRow(Message):
    """One row: the limit in force, and what is spent and held under it."""

    key: RowKey
    limit: Units | None
    posted: Units = 0
    pending: Units = 0

    def room(self) -> int | None:
        """Return the units that can still be granted; `None` where there is no limit."""
        return None if self.limit is None else max(0, self.limit - self.posted - self.pending)

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

    def refund(self, units: int) -> "BudgetRow":
        """Give back `units` that were posted in full for an expired lease."""
        return msgspec.structs.replace(self, posted=self.posted - units)


def path(model: ModelId, borrower: BorrowerId, consumer: ConsumerId) -> tuple[Scope, Scope, Scope]:
    """Return the scopes that a lease for this consumer debits where a row stands, widest first."""
    return (
        Scope(model=model),
        Scope(model=model, borrower=borrower),
        Scope(model=model, borrower=borrower, consumer=consumer),
    )


def bucket_of(window: Window, now_ms: int) -> int:
    """Return the start of the window that holds `now_ms`, in milliseconds since the epoch (UTC calendar)."""
    if window is Window.LIFETIME:
        return 0
    moment = datetime.fromtimestamp(now_ms // 1000, tz=UTC).replace(minute=0, second=0, microsecond=0)
    if window is not Window.HOUR:
        moment = moment.replace(hour=0)
    if window is Window.MONTH:
        moment = moment.replace(day=1)
    return int(moment.timestamp()) * 1000


def row_for(limit: BudgetLimit, now_ms: int) -> BudgetRow:
    """Return the fresh row of the current window under `limit`."""
    key = RowKey(
        scope=limit.scope,
        dimension=limit.dimension,
        window=limit.window,
        bucket_ms=bucket_of(limit.window, now_ms),
    )
    return BudgetRow(key=key, limit=limit.limit)
