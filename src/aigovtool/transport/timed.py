"""A blocking HTTP transport whose exchanges end in time, for clients.

httpx bounds each read, not their sum: a peer that drips a byte at a time could hold a caller for ever. The network
stream below therefore takes its time from the deadline of the exchange that is under way in its thread (`within`).
"""

import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ssl import SSLContext
from typing import Any, Final

import httpcore
import httpx

#: When the exchange under way in this thread must be over (`time.monotonic`).
_DEADLINE: Final[ContextVar[float]] = ContextVar("aigovtool_exchange_deadline")
#: A TLS record. Python bounds the time of one record's write, however slowly the peer takes it.
_RECORD_BYTES: Final = 16 << 10


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Have what is exchanged through a `TimedTransport` in this thread end with a timeout `seconds` from now."""
    token = _DEADLINE.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


class TimedTransport(httpx.HTTPTransport):
    """httpx's transport over streams that know the deadline; use it `within` one."""

    def __init__(
        self, context: SSLContext, *, limits: httpx.Limits, socket_options: list[tuple[int, int, int]] | None = None
    ) -> None:
        super().__init__(verify=context, trust_env=False)
        # httpx passes no network backend on, so the pool that it made, still empty, is replaced by one with ours.
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=_TimedBackend(),
            socket_options=socket_options,
        )


class _TimedBackend(httpcore.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        if timeout is None:
            return _TimedStream(super().connect_tcp(host, port, timeout, local_address, socket_options))
        # A name may have any number of addresses, and whoever answers for it says which: they share the time.
        over = time.monotonic() + timeout
        failed: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        addresses = _addresses(host, port)
        for tried, address in enumerate(addresses):
            share = (over - time.monotonic()) / (len(addresses) - tried)
            if share <= 0:
                break
            try:
                return _TimedStream(super().connect_tcp(address, port, share, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed or httpcore.ConnectTimeout


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore.ConnectError(error) from error
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


class _TimedStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream: Final = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left_s(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)
        for start in range(0, len(view), _RECORD_BYTES):
            piece = bytes(view[start : start + _RECORD_BYTES])
            self._stream.write(piece, _left_s(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - the signature is httpcore's
        return self._stream.get_extra_info(info)


def _left_s(timeout: float | None, over: type[httpcore.TimeoutException]) -> float:
    """Return the seconds for one read or write; raises `over` when the exchange's time is gone."""
    left = _DEADLINE.get() - time.monotonic()
    if left <= 0:
        raise over
    return left if timeout is None else min(left, timeout)
