"""The three lanes of the engine child, which sort runs by how long they take; parent and child agree on them here.

Nobody knows how long a run takes before it is over, and what a consumer says of it is worth nothing. So a run is
tried for `SHORT_MS` first; one that is not done is begun anew in the next lane, for `MIDDLE_MS`, and then in the last
one, for all the time that it has. Runs keep nothing from one try to the next, and nothing was answered, so nobody can
tell but by the time. Each lane has a thread that no longer run takes from it: a run waits for runs of its own lane.

In the child `workers` threads read requests. One that has read anything but a short try leaves its place among the
readers to a spare thread until it is done, so short tries never wait for anything else.
"""

from enum import IntEnum
from typing import Final

SHORT_MS: Final = 10
MIDDLE_MS: Final = 1_000
#: Of each thread, whatever limit of it the machine has.
STACK_BYTES: Final = 8 << 20
#: What the parent may have at work in the longer lanes beyond `workers`: see `scheduling`.
BEYOND: Final = 3


class Lane(IntEnum):
    """Where a try takes its turn; a longer one is greater."""

    SHORT = 0
    MIDDLE = 1
    LONG = 2

    @property
    def longer(self) -> "Lane":
        """The next lane; of the last, itself."""
        return Lane(min(self + 1, Lane.LONG))

    def try_ms(self, compute_ms: int) -> int:
        """Return how long a try may compute where the run may for `compute_ms`; for both, 0 is no limit."""
        own_ms = _TRY_MS[self]
        return min(own_ms, compute_ms) if own_ms and compute_ms else own_ms or compute_ms

    def after(self, compute_us: int) -> "Lane":
        """Return where a consumer's next run of a model begins, after one that was done here in this time.

        With some room, or runs that take about as long as a try would be begun twice.
        """
        if self is Lane.SHORT or compute_us <= SHORT_MS * 500:
            return Lane.SHORT
        return Lane.MIDDLE if compute_us <= MIDDLE_MS * 500 else self


_TRY_MS: Final = (SHORT_MS, MIDDLE_MS, 0)


def is_short(compute_ms: int) -> bool:
    """Return whether a run with this limit is over so soon that others may wait for it."""
    return 0 < compute_ms <= SHORT_MS


def patience_ms(compute_ms: int) -> int:
    """Return how long a try of a run with this limit has, from when it is sent; 0 for until the request's deadline.

    Whichever try it is: what has not ended by then is at an operator that alone takes longer than the run may. It may
    have waited for other short tries in the child, which takes less than a second.
    """
    return max(compute_ms, MIDDLE_MS) if compute_ms else 0


def threads(workers: int) -> int:
    """Return how many threads the child has: the readers, one for each longer run, and one for a load."""
    return workers + (workers + BEYOND) + 1
