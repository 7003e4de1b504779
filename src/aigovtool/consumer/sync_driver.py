"""Drives the core's flows with blocking sockets. Usable from several threads at once."""

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
from aigovtool.consumer.pools import Pools
from aigovtool.errors import AIGovToolError
from aigovtool.transport.timed import TimedTransport, within

T = TypeVar("T")


class SyncDriver:
    """Owns the connections of one client."""

    def __init__(self, credential: Credential, enclave_url: str, clock: Clock) -> None:
        self.url: Final = enclave_url
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
        try:
            with within(step.timeout_s):
                return self._exchange(step)
        except AIGovToolError:
            raise
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return failure_of(error, answered=True)

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
        return TimedTransport(
            context_for(channel, self._credential), limits=POOL_LIMITS, socket_options=socket_options()
        )


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
