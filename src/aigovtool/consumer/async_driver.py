"""Drives the core's flows on asyncio. Several tasks may use it at once.

A task may be cancelled at any moment. httpcore closes a connection then, except during a TLS handshake: the network
stream below does.
"""

import asyncio
from collections.abc import Iterable
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


class AsyncDriver:
    """Owns the connections of one client."""

    def __init__(self, credential: Credential, enclave_url: str, clock: Clock) -> None:
        self.url: Final = enclave_url
        self._credential: Final = credential
        self._urls: Final = {Peer.ENCLAVE: enclave_url, Peer.CUSTODIAN: credential.custodian_url}
        self._clock: Final = clock
        self._pools: Final[Pools[httpx.AsyncHTTPTransport]] = Pools(self._transport)

    async def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end and return its value; raises what the flow raises."""
        event: Event = None
        try:
            while True:
                try:
                    step = flow.send(event)
                except StopIteration as end:
                    value: T = end.value
                    return value
                event = await self._perform(step)
        finally:
            flow.close()  # a task that is cancelled leaves its flow in the middle

    async def close(self) -> None:
        """Close every connection; one that another task uses is closed when its exchange is over."""
        await _close(self._pools.leave_all())

    async def _perform(self, step: Step) -> Event:
        if isinstance(step, Wait):
            await self._clock.sleep_async(step.seconds)
            return None
        try:
            async with asyncio.timeout(step.timeout_s):
                return await self._exchange(step)
        except AIGovToolError:
            raise
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return failure_of(error, answered=True)

    async def _exchange(self, call: Call) -> Reply | Failure:
        pool, replaced = self._pools.take(call.channel)
        try:
            await _close(replaced)
            response = await self._sent(pool.transport, call)
            if isinstance(response, Failure):
                return response
            try:
                return await _read(response, call.max_bytes)
            finally:
                await response.aclose()
        finally:
            await _close(self._pools.leave(pool))

    async def _sent(self, transport: httpx.AsyncHTTPTransport, call: Call) -> httpx.Response | Failure:
        try:
            return await transport.handle_async_request(request_of(call, self._urls[call.channel.peer]))
        except (httpx.HTTPError, OSError) as error:
            return failure_of(error, answered=False)

    def _transport(self, channel: Channel) -> httpx.AsyncHTTPTransport:
        return _ClosingTransport(context_for(channel, self._credential))


async def _close(transports: list[httpx.AsyncHTTPTransport]) -> None:
    for transport in transports:
        await transport.aclose()


async def _read(response: httpx.Response, max_bytes: int) -> Reply | Failure:
    certificate = peer_certificate(response)
    body = bytearray()
    async for piece in response.aiter_raw():
        if len(body) + len(piece) > max_bytes:
            return Failure(FailureKind.TOO_LARGE)
        body += piece
    return reply_of(response, bytes(body), certificate)


class _ClosingTransport(httpx.AsyncHTTPTransport):
    """httpx's transport over streams that close themselves when a handshake does not end well."""

    def __init__(self, context: SSLContext) -> None:
        super().__init__(verify=context, trust_env=False)
        # httpx passes no network backend on, so the pool that it made, still empty, is replaced by one with ours.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=POOL_LIMITS.max_connections,
            max_keepalive_connections=POOL_LIMITS.max_keepalive_connections,
            keepalive_expiry=POOL_LIMITS.keepalive_expiry,
            network_backend=_ClosingBackend(),
            socket_options=socket_options(),
        )


class _ClosingBackend(httpcore.AnyIOBackend):
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _ClosingStream(await super().connect_tcp(host, port, timeout, local_address, socket_options))


class _ClosingStream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream: Final = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            await self._stream.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - the signature is httpcore's
        return self._stream.get_extra_info(info)
