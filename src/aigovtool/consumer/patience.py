"""Deadlines, and for how long a refusal is waited out.

What passes by itself, or when somebody at the custodian acts, is waited for if the caller asked to wait:
`budget_exhausted` (402), `budget_reserved`, `lease_capped` and `overloaded` (429), `lease_expired` (423). A stop is a
decision and is never waited for; neither is anything that repeating cannot change.
"""

from dataclasses import dataclass
from typing import Final

from aigovtool.consumer.clock import Clock
from aigovtool.errors import (
    AIGovToolError,
    BudgetExhaustedError,
    BudgetReservedError,
    DeadlineError,
    LeaseCappedError,
    LeaseExpiredError,
    OverloadedError,
)

#: A server may ask for hours; units can come at any moment, so it is asked again at least this often.
MAX_PAUSE_S: Final = 30.0
#: Without `Retry-After`: prompt enough for a person, and no strain for a server that refuses in microseconds.
DEFAULT_PAUSE_S: Final = 2.0
#: `Retry-After: 0` does not mean a busy loop.
MIN_PAUSE_S: Final = 0.2

_PASSES: Final = (
    BudgetExhaustedError,
    BudgetReservedError,
    LeaseCappedError,
    OverloadedError,
    LeaseExpiredError,
)


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock."""

    clock: Clock
    at_s: float

    @classmethod
    def after(cls, clock: Clock, seconds: float) -> "Deadline":
        """Return the deadline `seconds` from now."""
        return cls(clock, clock.monotonic_s() + seconds)

    def earlier(self, seconds: float) -> "Deadline":
        """Return this deadline, or the one `seconds` from now if that is sooner."""
        return Deadline(self.clock, min(self.at_s, self.clock.monotonic_s() + seconds))

    def left_s(self) -> float:
        """Return the seconds that are left.

        Raises:
            DeadlineError: with reason `deadline` when none are.
        """
        left = self.at_s - self.clock.monotonic_s()
        if left <= 0:
            raise DeadlineError(
                "the time allowed for this is over",
                reason="deadline",
                fix="allow more time; repeat an inference with the same request_id, so that it is charged once",
            )
        return left


def passes(error: AIGovToolError) -> bool:
    """Return whether waiting can make `error` go away."""
    return isinstance(error, _PASSES)


def pause_s(error: AIGovToolError, deadline: Deadline) -> float:
    """Return how long to wait before the next try.

    Raises:
        AIGovToolError: the deadline comes first; of the class of `error`, because that is what still stands in the way.
    """
    asked = DEFAULT_PAUSE_S if error.retry_after_s is None else float(error.retry_after_s)
    pause = max(MIN_PAUSE_S, min(asked, MAX_PAUSE_S))
    if deadline.clock.monotonic_s() + pause >= deadline.at_s:
        raise type(error)(
            f"the wait is over, and still: {error.message}",
            reason=error.reason,
            fix=error.fix or "ask for more budget (request_budget), or wait longer with the same request_id",
            retry_after_s=error.retry_after_s,
        )
    return pause
