"""Time as the consumer's flows see it: read, and waited for, through one object that tests can replace.

Wall time judges validity; monotonic time measures deadlines and ages, so that a clock that is set back does not
make an old attestation young.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Clock:
    """Milliseconds since 1970, seconds that only grow, and the two ways to let time pass."""

    now_ms: Callable[[], int]
    monotonic_s: Callable[[], float]
    sleep: Callable[[float], None]
    sleep_async: Callable[[float], Awaitable[None]]


SYSTEM_CLOCK: Final = Clock(
    now_ms=lambda: time.time_ns() // 1_000_000,
    monotonic_s=time.monotonic,
    sleep=time.sleep,
    sleep_async=asyncio.sleep,
)
