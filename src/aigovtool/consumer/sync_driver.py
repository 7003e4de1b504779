"""Drives the core's flows with blocking sockets. Usable from several threads at once.

httpx bounds each read, not their sum: a peer that drips a byte at a time could hold a caller for ever. The network
stream below therefore takes its time from the deadline of the call.
"""

import time
from collections.abc import Iterable
from contextvars import ContextVar
from ssl import SSLContext
from typing import Any, Final, TypeVar

import httpcore
import httpx

from aigovtool.consumer.clock import Clock
from aigovtool.consumer.credential import Credential
from aigovtool.consumer.exchange import Call, Channel, Event, Failure, FailureKind, Flow, Peer, Reply, Step, Wait
from aigovtool.consumer.http import (
    POOL_LIMITS,
    context_for,
    failure_of,
    peer_certificate,
    reply_of,
    request_of,
    socket_options,
)
from aigovtool.consumer.pools import Pools
from aigovtool.errors import AIGovToolError

T = TypeVar("T")

#: When the exchange under way in this thread must be over (`time.monotonic`).
_DEADLINE: Final[ContextVar[float]] = ContextVar("aigovtool_consumer_deadline")
#: A TLS record. Python bounds the time of one record's write, however slowly the peer takes it.
_RECORD_BYTES: Final = 16 << 10


class SyncDriver:
    """Owns the connections of one client."""

    def __init__(self, credential: Credential, enclave_url: str, clock: Clock) -> None:
        self._credential: Final = credential
        self._urls: Final = {Peer.ENCLAVE: enclave_url, Peer.CUSTODIAN: credential.custodian_url}
        self._clock: Final = clock
        self._pools: Final[Pools[httpx.HTTPTransport]] = Pools(self._transport)

    def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end and return its value; raises what the flow raises."""
        event: Event = None
        while True:
            try:
                step = flow.send(event)
            except StopIteration as end:
                value: T = end.value
                return value
            event = self._perform(step)

    def close(self) -> None:
        """Close every connection; one that another thread uses is closed when its exchange is over."""
        _close(self._pools.leave_all())

    def _perform(self, step: Step) -> Event:
        if isinstance(step, Wait):
            self._clock.sleep(step.seconds)
            return None
        token = _DEADLINE.set(time.monotonic() + step.timeout_s)
        try:
            return self._exchange(step)
        except AIGovToolError:
            raise
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return failure_of(error, answered=True)
        finally:
            _DEADLINE.reset(token)

    def _exchange(self, call: Call) -> Reply | Failure:
        pool, replaced = self._pools.take(call.channel)
        try:
            _close(replaced)
            response = self._sent(pool.transport, call)
            if isinstance(response, Failure):
                return response
            try:
                return _read(response, call.max_bytes)
            finally:
                response.close()
        finally:
            _close(self._pools.leave(pool))

    def _sent(self, transport: httpx.HTTPTransport, call: Call) -> httpx.Response | Failure:
        try:
            return transport.handle_request(request_of(call, self._urls[call.channel.peer]))
        except (httpx.HTTPError, OSError) as error:
            return failure_of(error, answered=False)

    def _transport(self, channel: Channel) -> httpx.HTTPTransport:
        return _DeadlineTransport(context_for(channel, self._credential))


def _close(transports: list[httpx.HTTPTransport]) -> None:
    for transport in transports:
        transport.close()


def _read(response: httpx.Response, max_bytes: int) -> Reply | Failure:
    certificate = peer_certificate(response)
    body = bytearray()
    for piece in response.iter_raw():
        if len(body) + len(piece) > max_bytes:
            return Failure(FailureKind.TOO_LARGE)
        body += piece
    return reply_of(response, bytes(body), certificate)


class _DeadlineTransport(httpx.HTTPTransport):
    """httpx's transport over streams that know the deadline."""

    def __init__(self, context: SSLContext) -> None:
        super().__init__(verify=context, trust_env=False)
        # httpx passes no network backend on, so the pool that it made, still empty, is replaced by one with ours.
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=POOL_LIMITS.max_connections,
            max_keepalive_connections=POOL_LIMITS.max_keepalive_connections,
            keepalive_expiry=POOL_LIMITS.keepalive_expiry,
            network_backend=_DeadlineBackend(),
            socket_options=socket_options(),
        )


class _DeadlineBackend(httpcore.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        return _DeadlineStream(super().connect_tcp(host, port, timeout, local_address, socket_options))


class _DeadlineStream(httpcore.NetworkStream):
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
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - the signature is httpcore's
        return self._stream.get_extra_info(info)


def _left_s(timeout: float | None, over: type[httpcore.TimeoutException]) -> float:
    """Return the seconds for one read or write; raises `over` when the call's time is gone."""
    left = _DEADLINE.get() - time.monotonic()
    if left <= 0:
        raise over
    return left if timeout is None else min(left, timeout)
