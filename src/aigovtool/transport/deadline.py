"""One deadline of one connection, cheap to move: moving it later costs no timer."""

import asyncio
from collections.abc import Callable
from typing import Final


class Deadline:
    """Calls `expired` once when the time that was set last has passed without `clear`."""

    __slots__ = ("_expired", "_handle", "_loop", "_when")

    def __init__(self, expired: Callable[[], None]) -> None:
        self._expired: Final = expired
        self._loop: Final = asyncio.get_running_loop()
        self._when: float | None = None
        self._handle: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Expire `seconds` from now."""
        when = self._loop.time() + seconds
        self._when = when
        if self._handle is not None and self._handle.when() <= when:
            return  # the timer fires early, sees the new time and waits on
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_at(when, self._fire)

    @property
    def is_set(self) -> bool:
        """Whether it will expire."""
        return self._when is not None

    def pause(self) -> None:
        """Never expire, until set again, which is soon: the timer stays."""
        self._when = None

    def clear(self) -> None:
        """Never expire, until set again; nothing of it is left."""
        self._when = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle = None
        if self._when is None:
            return
        if self._loop.time() < self._when:
            self._handle = self._loop.call_at(self._when, self._fire)
            return
        self._when = None
        self._expired()
