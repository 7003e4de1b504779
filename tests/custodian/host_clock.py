"""The clock of a host whose time is a number in a test's hand."""

from collections.abc import Callable

from aigovtool.custodian.clock import HostClock


def told_by(wall_ms: Callable[[], int]) -> HostClock:
    """Return the clock of a host on which nothing contradicts the wall clock: as much passes as it shows."""
    return HostClock(wall_ms, wall_ms)
