"""When the generator asks: at once, which finds how fast a server is, or evenly, which finds how it serves below that.

Evenly means that a request is due at its time whatever became of those before it. One for which no connection is free
waits, and its time runs from when it was due: a server that stalls does not thereby ask less of itself.
"""

import ctypes
import os
import struct
import time
from collections import deque
from typing import Final, Protocol, Self

from bench.loop import Loop

#: Requests are asked no more than this after they are due, as long as this process has a core.
_TICK_S: Final = 0.0002
#: Of timerfd_create(2): CLOCK_MONOTONIC, which `perf_counter` reads too; TFD_NONBLOCK and TFD_CLOEXEC.
_MONOTONIC: Final = 1
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC


class Asker(Protocol):
    """A connection."""

    def ask(self, began: float) -> None:
        """Ask once."""
        ...

    def end(self) -> None:
        """Hear that there is nothing more to ask."""
        ...


class Pace(Protocol):
    """What a connection does when it is free."""

    def begin(self, asker: Asker) -> None:
        """Take a connection that has not asked yet."""
        ...

    def free(self, asker: Asker) -> None:
        """Take a connection that has its answer."""
        ...


class AtOnce:
    """Each connection asks as soon as it is free."""

    def __init__(self, until: float) -> None:
        self._until: Final = until

    def begin(self, asker: Asker) -> None:
        """Ask, whatever the time."""
        asker.ask(time.perf_counter())

    def free(self, asker: Asker) -> None:
        """Ask, unless the time is over."""
        if (now := time.perf_counter()) < self._until:
            asker.ask(now)
        else:
            asker.end()


class Even:
    """So many requests a second, each at its time, for some seconds. To be used as a context."""

    def __init__(self, loop: Loop, per_s: float, seconds: float) -> None:
        self._loop: Final = loop
        self._every_s: Final = 1 / per_s
        self._left = max(1, round(per_s * seconds))
        self._due = 0.0
        self._late: Final[deque[float]] = deque()
        self._idle: Final[deque[Asker]] = deque()
        self._timer = -1

    def __enter__(self) -> Self:
        # Timers of event loops have a grain of a millisecond, in which a fast server answers a dozen requests.
        self._due = time.perf_counter()
        self._timer = _ticking(max(_TICK_S, min(self._every_s / 10, 0.01)))
        self._loop.add(self._timer, self._tick)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove(self._timer)
        os.close(self._timer)

    def begin(self, asker: Asker) -> None:
        """Keep a connection for the next request."""
        self._idle.append(asker)

    def free(self, asker: Asker) -> None:
        """Have it ask what waits longest, or keep it."""
        if self._late:
            asker.ask(self._late.popleft())
        elif self._left:
            self._idle.append(asker)
        else:
            asker.end()

    def _tick(self) -> None:
        os.read(self._timer, 8)
        now = time.perf_counter()
        while self._left and self._due <= now:
            self._left -= 1
            if self._idle:
                self._idle.popleft().ask(self._due)
            else:
                self._late.append(self._due)
            self._due += self._every_s
        if not self._left:
            while self._idle:
                self._idle.popleft().end()


def _ticking(every_s: float) -> int:
    """Return a descriptor that can be read each time (timerfd_create(2); `os` has it from Python 3.13 on)."""
    libc = ctypes.CDLL(None, use_errno=True)
    timer = int(libc.timerfd_create(_MONOTONIC, _FLAGS))
    seconds, nanoseconds = divmod(round(every_s * 1e9), 10**9)
    times = struct.pack("@4l", *(2 * (seconds, nanoseconds)))  # struct itimerspec: every, and first after
    if timer < 0 or libc.timerfd_settime(timer, 0, ctypes.c_char_p(times), None) != 0:
        raise OSError(ctypes.get_errno(), "no timer")
    return timer
