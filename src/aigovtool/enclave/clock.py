"""Elapsed time inside the enclave: several clocks, and of each interval the greatest that any of them shows.

A host can slow a clock to stretch the enclave's authority. It gains nothing while in each interval one clock is true;
that need not be the same one each time. An interval ends with the first reading after a millisecond. A clock that runs
backwards is a sign of tampering: `tampered` is set for good, and authority must end.

The sum of the greatest steps is never behind the greatest elapsed time. It runs ahead of true time by what honest
clocks differ in each interval: they cannot be read at the same instant, which is why intervals are not shorter. That
costs a little authority and never gains any.
"""

import time
from typing import Final

#: A platform that lacks one of the first two has the last in its place.
_BOOT: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_RAW: Final[int] = getattr(time, "CLOCK_MONOTONIC_RAW", time.CLOCK_MONOTONIC)
_STEADY: Final = time.CLOCK_MONOTONIC
#: Readings of the clocks lie some 50 ns apart, and what lies between them is counted twice: 50 ppm of an interval.
_INTERVAL_NS: Final = 1_000_000


class ElapsedClock:
    """Milliseconds since this object was made; never goes back."""

    def __init__(self) -> None:
        self._last = self._began = self._read()
        self._before_ns = 0
        self._told_ns = 0
        self.tampered = False

    @staticmethod
    def _read() -> tuple[int, int, int]:
        gettime = time.clock_gettime_ns
        return gettime(_BOOT), gettime(_RAW), gettime(_STEADY)

    def now_ms(self) -> int:
        """Return the elapsed time by whichever clock was the fastest in each interval; may set `tampered`."""
        current = self._read()
        last, began = self._last, self._began
        if current[0] < last[0] or current[1] < last[1] or current[2] < last[2]:
            self.tampered = True
        self._last = current
        step_ns = max(current[0] - began[0], current[1] - began[1], current[2] - began[2])
        self._told_ns = max(self._told_ns, self._before_ns + step_ns)
        if step_ns >= _INTERVAL_NS:
            self._before_ns, self._began = self._told_ns, current
        return self._told_ns // 1_000_000
