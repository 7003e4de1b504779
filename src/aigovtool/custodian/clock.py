"""The host's clock, as far as the ledger may believe it: whose time never goes back, so that a leap must not get in.

The ledger's time follows the wall clock of its host. What somebody writes into it once stays: one reading ten years
ahead would end every credential for good. So each reading is compared with what must have passed since the last one
that was believed, by a clock that counts while the machine sleeps and that nobody sets:

1. **While this process runs**, the wall clock may get ahead by `MAX_AHEAD_MS` in all, and that allowance comes back
   over a day: many small steps are a leap too.
2. **When it begins** nothing here knows how long it was off. The wall clock may be `MAX_OFF_MS` ahead of the ledger's
   time; where a database has a clock of its own, no more than `MAX_AHEAD_MS` ahead of both it and the ledger.
3. **Time that others have written** is believed: custodians that share the ledger, or whoever confirmed a leap.

A clock that is not believed (`leapt`) changes nothing: the ledger's time goes on by what has passed. It does so too
while a clock is far behind, which is not dangerous: nothing is revived, and nothing stands still.
"""

import time
from collections.abc import Callable
from threading import Lock
from typing import Final

from aigovtool.errors import ClockLeaptError

#: By how much the wall clock may get ahead, of what has passed or of another clock: what NTP steps, and then some.
MAX_AHEAD_MS: Final = 300_000
#: How long a custodian may have been off before a person must say that it was.
MAX_OFF_MS: Final = 60 * 86_400_000
_DAY_MS: Final = 86_400_000
_RETURN: Final = _DAY_MS // MAX_AHEAD_MS
#: Counts while the machine sleeps, where there is such a clock.
_ELAPSED: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def system_time_ms() -> int:
    """Return the time of this host, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _elapsed_ms() -> int:
    return time.clock_gettime_ns(_ELAPSED) // 1_000_000


class HostClock:
    """The clocks of one host, and what is believed of them. Threads may share it.

    Args:
        wall_ms: the wall clock.
        elapsed_ms: a clock that only passes, from whatever it began with.
    """

    def __init__(
        self, wall_ms: Callable[[], int] = system_time_ms, elapsed_ms: Callable[[], int] = _elapsed_ms
    ) -> None:
        self.wall_ms: Final = wall_ms
        self._elapsed_ms: Final = elapsed_ms
        self._lock: Final = Lock()
        #: What the time must be at least, as of the reading of elapsed time beside it; 0 before the first.
        self._reckoned_ms = 0
        self._as_of_ms = elapsed_ms()
        #: What was used of the allowance, in the time that it takes to come back: a day for all of it.
        self._owed_ms = 0
        #: Whether the wall clock was ever found where the ledger's time is, or after it.
        self.has_met = False
        #: By how much the wall clock is ahead of what is believed; 0 while it is believed.
        self.leapt_ms = 0
        #: By how much it is behind what is believed, where that is too much for a correction; else 0.
        self.behind_ms = 0

    def begin(self, ledger_ms: int, other_ms: int | None = None) -> None:
        """Judge the wall clock by when the ledger was written last, and by another clock if there is one.

        To be repeated before each reading until `has_met`: a host without a battery learns the time after it began.
        """
        with self._lock:
            wall_ms = self._go_on(ledger_ms)
            reckoned_ms = self._reckoned_ms
            if ledger_ms == 0:  # it has no time yet
                reckoned_ms = wall_ms
            most_ms = reckoned_ms + MAX_OFF_MS
            if other_ms is not None:
                most_ms = min(most_ms, max(reckoned_ms, other_ms) + MAX_AHEAD_MS)
            self._find(wall_ms - reckoned_ms, most_ms - reckoned_ms)
            if not self.leapt_ms and not self.behind_ms:
                self.has_met = True
                self._reckoned_ms = max(wall_ms, reckoned_ms)

    def read(self, ledger_ms: int) -> int:
        """Return the time that the ledger may take, which is not before its own."""
        with self._lock:
            wall_ms = self._go_on(ledger_ms)
            if not self.has_met:  # whoever can begin judges it
                return self._reckoned_ms
            ahead_ms = wall_ms - self._reckoned_ms
            self._find(ahead_ms, (_DAY_MS - self._owed_ms) // _RETURN)
            if self.leapt_ms or self.behind_ms:
                return self._reckoned_ms
            if ahead_ms > 0:
                self._owed_ms += ahead_ms * _RETURN
                self._reckoned_ms = wall_ms
            return max(wall_ms, ledger_ms)

    def _find(self, ahead_ms: int, allowed_ms: int) -> None:
        self.leapt_ms = ahead_ms if ahead_ms > allowed_ms else 0
        self.behind_ms = -ahead_ms if ahead_ms < -MAX_AHEAD_MS else 0

    def _go_on(self, ledger_ms: int) -> int:
        """Let what is reckoned go on to now; return what the wall clock shows."""
        wall_ms = self.wall_ms()  # first: whoever is interrupted in between finds it late, and not ahead
        now_ms = self._elapsed_ms()
        passed_ms = max(0, now_ms - self._as_of_ms)
        self._as_of_ms = max(now_ms, self._as_of_ms)
        self._owed_ms = max(0, self._owed_ms - passed_ms)
        self._reckoned_ms = max(self._reckoned_ms + passed_ms if self._reckoned_ms else 0, ledger_ms)
        return wall_ms


def clock_leapt(ahead_ms: int) -> ClockLeaptError:
    """Return the refusal of a custodian that does not believe its host's clock."""
    return ClockLeaptError(
        f"the clock of the custodian's host is {ahead_ms // 1000:,} s ahead of what can be true: nothing is granted",
        fix="set that clock right; if it is right, whoever holds the custodian's directory confirms it with "
        "`aigovtool custodian accept-time`",
        retry_after_s=5,
    )
