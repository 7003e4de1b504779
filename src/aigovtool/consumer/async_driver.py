"""Drives the core's flows on asyncio. Several tasks may use it at once.

A task may be cancelled at any moment: the connection of its exchange is closed then, because nobody would read on.
"""

import asyncio
from typing import Final, TypeVar
from urllib.parse import urlsplit

from aigovtool.consumer.clock import Clock
from aigovtool.consumer.credential import Credential
from aigovtool.consumer.exchange import Call, Channel, Event, Failure, FailureKind, Flow, Peer, Reply, Step, Wait
from aigovtool.consumer.http import CONNECT_SHARE, context_for
from aigovtool.consumer.lines import Answer, LineError, Lines, connect_timeout_s, head_of
from aigovtool.consumer.pools import Pools

T = TypeVar("T")
_HTTPS_PORT: Final = 443


class AsyncDriver:
    """Owns the connections of one client."""

    def __init__(self, credential: Credential, enclave_url: str, clock: Clock) -> None:
        self.url: Final = enclave_url
        self._credential: Final = credential
        self._urls: Final = {Peer.ENCLAVE: urlsplit(enclave_url), Peer.CUSTODIAN: urlsplit(credential.custodian_url)}
        self._clock: Final = clock
        self._pools: Final[Pools[Lines]] = Pools(self._lines)

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
        _close(self._pools.leave_all())
        await asyncio.sleep(0)  # in which the loop closes them

    async def _perform(self, step: Step) -> Event:
        if isinstance(step, Wait):
            await self._clock.sleep_async(step.seconds)
            return None
        try:
            async with asyncio.timeout(step.timeout_s):
                return await self._exchange(step)
        except TimeoutError:
            return Failure(FailureKind.TIMEOUT)
        except LineError as error:
            return Failure(error.kind, error.detail)

    async def _exchange(self, call: Call) -> Reply | Failure:
        pool, replaced = self._pools.take(call.channel)
        try:
            _close(replaced)
            host = self._urls[call.channel.peer].netloc
            length = len(call.content) if call.content or call.method != "GET" else None
            head = head_of(call.method, self._urls[call.channel.peer].path + call.path, host, call.headers, length)
            connect_s = connect_timeout_s(call.timeout_s, CONNECT_SHARE)
            return _reply(
                await pool.transport.exchange(head, call.content, max_bytes=call.max_bytes, connect_s=connect_s)
            )
        finally:
            _close(self._pools.leave(pool))

    def _lines(self, channel: Channel) -> Lines:
        url = self._urls[channel.peer]
        return Lines(context_for(channel, self._credential), url.hostname or "", url.port or _HTTPS_PORT)


def _close(lines: list[Lines]) -> None:
    for one in lines:
        one.close()


def _reply(answer: Answer) -> Reply | Failure:
    """Return an answer; one in a content encoding is refused, because its size would be anybody's guess."""
    if answer.headers.get("content-encoding", "identity") != "identity":
        return Failure(FailureKind.BAD_ANSWER, "a content encoding that was not asked for")
    return Reply(answer.status, answer.headers, answer.body, answer.certificate)
