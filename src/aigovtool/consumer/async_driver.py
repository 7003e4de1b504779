"""Drives the core's flows on asyncio. Several tasks may use it at once."""

import asyncio
from typing import Final, TypeVar

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
from aigovtool.errors import AIGovToolError

T = TypeVar("T")


class AsyncDriver:
    """Owns the connections of one client."""

    def __init__(self, credential: Credential, enclave_url: str, clock: Clock) -> None:
        self._credential: Final = credential
        self._urls: Final = {Peer.ENCLAVE: enclave_url, Peer.CUSTODIAN: credential.custodian_url}
        self._clock: Final = clock
        self._open: Final[dict[Peer, tuple[Channel, httpx.AsyncHTTPTransport]]] = {}

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
        """Close every connection."""
        transports = [transport for _, transport in self._open.values()]
        self._open.clear()
        for transport in transports:
            await transport.aclose()

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
            return failure_of(error)

    async def _exchange(self, call: Call) -> Reply | Failure:
        transport = await self._transport(call.channel)
        try:
            response = await transport.handle_async_request(request_of(call, self._urls[call.channel.peer]))
            try:
                return await _read(response, call.max_bytes)
            finally:
                await response.aclose()
        finally:
            if not call.channel.is_kept:
                await transport.aclose()

    async def _transport(self, channel: Channel) -> httpx.AsyncHTTPTransport:
        if not channel.is_kept:
            return _new_transport(channel, self._credential)
        known = self._open.get(channel.peer)
        if known is not None and known[0] == channel:
            return known[1]
        transport = _new_transport(channel, self._credential)
        self._open[channel.peer] = (channel, transport)
        if known is not None:
            await known[1].aclose()
        return transport


def _new_transport(channel: Channel, credential: Credential) -> httpx.AsyncHTTPTransport:
    return httpx.AsyncHTTPTransport(
        verify=context_for(channel, credential), trust_env=False, limits=POOL_LIMITS, socket_options=socket_options()
    )


async def _read(response: httpx.Response, max_bytes: int) -> Reply | Failure:
    certificate = peer_certificate(response)
    body = bytearray()
    async for piece in response.aiter_raw():
        if len(body) + len(piece) > max_bytes:
            return Failure(FailureKind.TOO_LARGE)
        body += piece
    return reply_of(response, bytes(body), certificate)
