"""A transport whose closing lets the peer read the last answer.

Closing a socket while input is unread resets the connection, and the reset may overtake the answer. So a
close that happens while the peer may still be sending first waits, throwing input away, for a short time or
until the peer closes. Either way the connection is gone a bounded time after `close`.
"""

import asyncio
from typing import Any, Final

# TLS closes with a farewell; a peer that does not answer it is cut off after this many seconds.
_FAREWELL_S: Final = 2.0


class _Gone(asyncio.Transport):
    """In the place of a connection that is lost: it does nothing and knows nothing."""

    def abort(self) -> None:
        """Nothing is left to abort."""

    def close(self) -> None:
        """Nothing is left to close."""

    def is_closing(self) -> bool:
        """It is closed."""
        return True

    def is_reading(self) -> bool:
        """No input is taken."""
        return False

    def pause_reading(self) -> None:
        """No input comes."""

    def resume_reading(self) -> None:
        """No input comes."""


_GONE: Final = _Gone()


class LingeringTransport(asyncio.Transport):
    """Delegates to `inner`; after `close` nothing more is written, and `is_closing` is true."""

    def __init__(self, inner: asyncio.Transport, linger_s: float) -> None:
        super().__init__()
        self._inner = inner
        self._linger_s: Final = linger_s
        self._loop: Final = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        #: Set when the peer may still be sending a request that is answered already.
        self.linger_on_close = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`, unless the connection is closing."""
        if not self._closing:
            self._inner.write(data)

    def close(self) -> None:
        """Close after what was written is sent."""
        if self.linger_on_close:
            self.close_lingering()
        elif not self._closing:
            self._closing = True
            self._close_now()

    def close_lingering(self) -> None:
        """Close after a moment in which input is thrown away."""
        if not self._closing:
            self._closing = True
            self._inner.resume_reading()
            self._timer = self._loop.call_later(self._linger_s, self._close_now)

    def abort(self) -> None:
        """Close at once; what was not sent is lost."""
        self._stop()
        self._inner.abort()

    def lost(self) -> None:
        """The connection is gone: stop the timer, start no other, and let go of what it held.

        Whoever still holds this (a request that has not noticed yet, a cycle that waits for the garbage collector) does
        not hold the buffers of TLS with it: of a flood of short connections these would be most of the memory.
        """
        self._stop()
        self._inner = _GONE

    def _stop(self) -> None:
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_now(self) -> None:
        self._timer = self._loop.call_later(_FAREWELL_S, self._inner.abort)
        # Whoever gave a handshake up has closed it already. When closed a second time, asyncio's TLS lets go of the
        # connection, and `abort` does nothing: it would be there for half a minute, and whoever waits for its end too.
        if not self._inner.is_closing():
            self._inner.close()

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._closing or self._inner.is_closing()

    def is_reading(self) -> bool:
        """Whether input is taken."""
        return self._inner.is_reading()

    def pause_reading(self) -> None:
        """Take no input."""
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        """Take input again."""
        self._inner.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - as in asyncio
        """Return what the inner transport knows."""
        return self._inner.get_extra_info(name, default)
