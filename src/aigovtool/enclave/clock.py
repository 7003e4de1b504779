"""Elapsed time inside the enclave: several clocks are read and the fastest wins (spec: leases section 7).

A host can slow a clock to stretch the enclave's authority; it gains nothing while one clock stays true. A clock
that runs backwards is a sign of tampering: `tampered` is set for good, and authority must end.
"""

import time
from typing import Final

_CLOCKS: Final = tuple(
    getattr(time, name) for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC_RAW", "CLOCK_MONOTONIC") if hasattr(time, name)
)


class ElapsedClock:
    """Milliseconds since this object was made; never goes back."""

    def __init__(self) -> None:
        self._start: Final = self._read()
        self._last = self._start
        self._elapsed_ms = 0
        self.tampered = False

    @staticmethod
    def _read() -> tuple[int, ...]:
        return tuple(time.clock_gettime_ns(clock) for clock in _CLOCKS)

    def now_ms(self) -> int:
        """Return the elapsed time by the fastest clock; sets `tampered` when one ran backwards."""
        current = self._read()
        if any(now < before for now, before in zip(current, self._last, strict=True)):
            self.tampered = True
        self._last = current
        fastest = max(now - start for now, start in zip(current, self._start, strict=True))
        self._elapsed_ms = max(self._elapsed_ms, fastest // 1_000_000)
        return self._elapsed_ms
