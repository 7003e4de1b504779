"""A handler may take a body whole: it gets the same bytes as in pieces, under the same bounds and deadlines."""

import asyncio
import gc
import ssl
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest
from starlette.requests import Request
from tests.transport.conftest import SMALL, Reply, World, all_closed, parse_answers
from tests.transport.fast_paths import Met, apart, met, until

from aigovtool.errors import AIGovToolError
from aigovtool.transport.body import read_body
from aigovtool.transport.bounds import HttpLimits
from aigovtool.transport.routes import Call, Caller, Route
from aigovtool.transport.whole_body import WholeBody, reader_of

MOST: Final = 4 << 20
#: uvicorn's, for what the application does not take.
UNTAKEN: Final = 64 << 10
#: What the event loop reads at once.
READ: Final = 256 << 10
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LARGE: Final = bytes(range(251)) * 12_500


def request(body: bytes, *lines: bytes) -> bytes:
    """A head with these lines, and the body."""
    fields = [b"POST /whole HTTP/1.1", b"Host: a", b"Content-Length: %d" % len(body), *lines, b"", b""]
    return b"\r\n".join(fields) + body


class Taker:
    """Takes bodies whole once it may, and remembers what it got or what ended it."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s: Final = deadline_s
        self.may_read, self.may_end = asyncio.Event(), asyncio.Event()
        self.may_read.set()
        self.may_end.set()
        self.began = 0
        self.bodies: list[bytes] = []
        self.errors: list[str] = []

    async def take(self, call: Call) -> Reply:
        """Handle one request."""
        self.began += 1
        await self.may_read.wait()
        try:
            self.bodies.append(await read_body(call.request, MOST, deadline_s=self._deadline_s))
        except AIGovToolError as error:
            self.errors.append(error.reason or error.code)
            await self.may_end.wait()
            raise
        assert not await call.request.is_disconnected()  # a handler may look whether its peer is still there
        return Reply(text=f"whole {len(self.bodies[-1])}")


@dataclass(frozen=True)
class Taking(Met):
    """A connection to a server that takes bodies whole."""

    taker: Taker

    @property
    def whole(self) -> WholeBody:
        """The body of the request under way."""
        assert self.protocol._body is not None
        return self.protocol._body

    @property
    def collected_bytes(self) -> int:
        """How much of it has been collected."""
        return sum(map(len, self.whole._pieces._pieces)) if self.taker.began else 0

    async def answered(self, body: bytes) -> None:
        """See that the answer is that for this body, and the last body that the handler got is that."""
        [answer] = parse_answers(await self.one_answer())
        assert answer.body == b'{"text":"whole %d"}' % len(body)
        assert self.taker.bodies[-1] == body

    async def goes_on(self) -> None:
        """See that the next request of the connection is answered."""
        self.writer.write(request(b"next one"))
        await self.answered(b"next one")


@asynccontextmanager
async def taking(
    world: World, bounds: HttpLimits = SMALL, *, context: ssl.SSLContext | None = None, deadline_s: float = 60
) -> AsyncIterator[Taking]:
    taker = Taker(deadline_s)
    route = Route(
        method="POST",
        path="/whole",
        handler=taker.take,
        who=(Caller.ANYONE,),
        stream_body=True,
        answer=Reply,
        summary="Take it whole",
    )
    async with met(world, bounds, context=context, fast=False, routes=[route]) as one:
        yield Taking(one.server, one.reader, one.writer, one.fast, one.slow, taker)


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def context(world: World, request: pytest.FixtureRequest) -> ssl.SSLContext | None:
    return world.client() if request.param else None


# --- The same bytes --------------------------------------------------------------------------


async def test_a_body_is_the_same_byte_by_byte(world: World, context: ssl.SSLContext | None) -> None:
    """However small the pieces are; and the connection goes on."""
    body = LARGE[:1_500]
    async with taking(world, context=context) as one:
        await apart(one.writer, *(bytes([byte]) for byte in request(body)))
        await one.answered(body)
        await one.goes_on()


@pytest.mark.parametrize("size", [4_000, 5_000, 700_000, len(LARGE) + 1_000])
async def test_a_large_body_is_the_same_in_large_pieces(
    world: World, context: ssl.SSLContext | None, size: int
) -> None:
    """Three megabytes, and the connection goes on."""
    sent = request(LARGE)
    async with taking(world, context=context) as one:
        for start in range(0, len(sent), size):
            one.writer.write(sent[start : start + size])
            await one.writer.drain()
        await one.answered(LARGE)
        await one.goes_on()


@pytest.mark.parametrize("size", [0, 1, 100, UNTAKEN + 1, len(LARGE)])
async def test_what_came_before_it_was_asked_for_is_part_of_the_body(
    world: World, context: ssl.SSLContext | None, size: int
) -> None:
    """It is first, and reading goes on where the peer had to wait because nobody took anything."""
    sent = request(LARGE)
    there = len(sent) - len(LARGE) + size
    async with taking(world, context=context) as one:
        one.taker.may_read.clear()
        one.writer.write(sent[:there])
        await until(lambda: one.taker.began)
        await until(lambda: len(one.protocol.cycle.body) >= min(size, UNTAKEN))
        assert one.protocol.flow.read_paused == (size > UNTAKEN)
        one.taker.may_read.set()
        one.writer.write(sent[there:])
        await one.answered(LARGE)
        await one.goes_on()


@pytest.mark.parametrize("body", [b"", b"all of it"])
async def test_a_body_that_is_all_there_is_not_waited_for(world: World, body: bytes) -> None:
    """An empty one as well."""
    async with taking(world) as one:
        for _ in range(2):
            one.writer.write(request(body))
            await one.answered(body)


async def test_a_peer_is_not_made_to_wait_while_its_body_is_collected(world: World) -> None:
    """All of it is taken as it comes, nothing of it lies with the application, and nothing is kept when it is over."""
    async with taking(world) as one:
        one.writer.write(request(LARGE)[:-1])
        await until(lambda: one.collected_bytes == len(LARGE) - 1)
        assert not one.protocol.flow.read_paused
        assert len(one.protocol.cycle.body) == 0
        one.writer.write(LARGE[-1:])
        await one.answered(LARGE)
        assert one.collected_bytes == 0


async def test_a_request_that_did_not_come_through_the_guard_is_read_in_pieces() -> None:
    """Whoever runs the application in another server gets the same body."""
    events: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"ab", "more_body": True},
        {"type": "http.request", "body": b"c", "more_body": False},
    ]

    async def receive() -> dict[str, Any]:
        return events.pop(0)

    scope = {"type": "http", "method": "POST", "headers": [(b"content-length", b"3")]}
    assert reader_of(Request(scope)) is None
    assert reader_of(Request(scope | {"extensions": None})) is None
    assert reader_of(Request(scope | {"extensions": {}})) is None
    assert await read_body(Request(scope, receive), 3) == b"abc"


async def test_nothing_of_a_request_that_is_over_waits_for_the_garbage_collector(world: World) -> None:
    """A circle of references would keep each request, with its head and its connection, until somebody looks for it."""
    async with taking(world) as one:
        gc.disable()
        try:
            one.writer.write(request(b"first"))
            await one.answered(b"first")
            first = weakref.ref(one.protocol.cycle)
            await one.goes_on()
            await asyncio.sleep(0.01)
            assert first() is None
        finally:
            gc.enable()


# --- Bounds ----------------------------------------------------------------------------------


async def test_who_waits_to_be_asked_for_the_body_is_asked_once(world: World) -> None:
    """When the handler asks for it, not before, and not with the next piece or the next request."""
    body = LARGE[:200_000]
    sent = request(body, b"Expect: 100-continue")
    head = sent.removesuffix(body)
    async with taking(world) as one:
        one.taker.may_read.clear()
        one.writer.write(head)
        await until(lambda: one.taker.began)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await one.reader.read(1)
        one.taker.may_read.set()
        async with asyncio.timeout(10):
            assert await one.reader.readuntil(b"\r\n\r\n") == CONTINUE
        await apart(one.writer, body[:1], body[1:1_000], body[1_000:])
        assert (await one.one_answer()).startswith(b"HTTP/1.1 200 ")
        assert one.taker.bodies == [body]
        one.writer.write(request(b"next one"))
        assert (await one.one_answer()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("expect", [[], [b"Expect: 100-continue"]], ids=["sent", "asked"])
async def test_a_body_that_is_declared_too_large_is_not_asked_for(world: World, expect: list[bytes]) -> None:
    """Attack: more than the bound; it is refused before `100 Continue`, and nothing of it is kept."""
    head = request(b"", *expect).replace(b"Content-Length: 0", b"Content-Length: %d" % (MOST + 1))
    async with taking(world) as one:
        one.writer.write(head)
        came = await one.rest()
        assert CONTINUE not in came
        [answer] = parse_answers(came)
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert one.taker.errors == ["body_too_large"]


@pytest.mark.parametrize("over", [0, 1])
async def test_a_body_in_chunks_is_counted(world: World, over: int) -> None:
    """Attack: a body of no declared length that goes over the bound is refused; one that is as long as it is not."""
    head = b"POST /whole HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = bytes(MOST // 4)
    async with taking(world) as one:
        one.writer.write(head)
        for size in [len(chunk)] * 4 + [over] * over + [0]:
            one.writer.write(b"%X\r\n" % size + chunk[:size] + b"\r\n")
        if over:
            [answer] = parse_answers(await one.rest())
            assert answer.status == 413
            assert (one.taker.errors, one.taker.bodies) == (["body_too_large"], [])
        else:
            await one.answered(chunk * 4)
            await one.goes_on()


@pytest.mark.parametrize("behind", [b"G", request(b"x" * 100_000)], ids=["byte", "request"])
async def test_what_comes_behind_a_whole_body_is_never_read(world: World, behind: bytes) -> None:
    """Attack: a request within what follows a body; it is no part of the body, and the connection ends."""
    async with taking(world) as one:
        sent = request(LARGE[:100_000])
        await apart(one.writer, sent[:50_000], sent[50_000:] + behind)
        [answer] = parse_answers(await one.rest())
        assert (answer.body, answer.headers["connection"]) == (b'{"text":"whole 100000"}', "close")
        assert one.taker.bodies == [LARGE[:100_000]]


# --- Ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked_before", [True, False], ids=["collecting", "not-asked-for"])
async def test_a_peer_that_goes_midway_leaves_nothing(world: World, *, asked_before: bool) -> None:
    """Attack: bodies that never end; the handler is told that it is truncated, and nothing of it is kept."""
    async with taking(world) as one:
        if not asked_before:
            one.taker.may_read.clear()
        one.writer.write(request(LARGE)[:50_000])
        await until(lambda: one.taker.began and (one.collected_bytes or one.protocol.cycle.body))
        whole = one.whole
        one.writer.transport.abort()
        await all_closed(one.server)
        one.taker.may_read.set()
        await until(lambda: one.taker.errors)
        assert one.taker.errors == ["body_truncated"]
        assert not whole._pieces


@pytest.mark.parametrize("drips", [False, True], ids=["stalls", "drips"])
async def test_the_deadlines_of_the_guard_go_on(world: World, *, drips: bool) -> None:
    """Attack: a body that stalls, or comes a byte at a time, while a handler waits for all of it."""
    pace = HttpLimits(body_idle_timeout_s=10, stranger_body_grace_s=0.3, stranger_body_bytes_per_s=100)
    async with taking(world, pace if drips else replace(SMALL, body_idle_timeout_s=0.2)) as one:

        async def drip() -> None:
            one.writer.write(request(LARGE)[:80])
            while drips:
                await asyncio.sleep(0.05)
                one.writer.write(b"y")

        dripping = asyncio.create_task(drip())
        await until(lambda: one.taker.errors)
        assert one.taker.errors == ["body_truncated"]
        await all_closed(one.server)
        dripping.cancel()


async def test_nothing_is_collected_once_the_deadline_has_passed(world: World) -> None:
    """Attack: a body that goes on after its time; no more of it is held than of one that nobody takes."""
    async with taking(world, deadline_s=0.2) as one:
        one.taker.may_end.clear()
        one.writer.write(request(LARGE)[:100_000])
        await until(lambda: one.taker.errors)
        assert one.taker.errors == ["body_deadline"]
        assert one.collected_bytes == 0
        one.writer.write(LARGE[:2_000_000])
        await until(lambda: one.protocol.flow.read_paused)
        for _ in range(20):
            await asyncio.sleep(0)
        assert one.collected_bytes == 0
        assert UNTAKEN < len(one.protocol.cycle.body) <= UNTAKEN + READ
        one.taker.may_end.set()
        [answer] = parse_answers(await one.rest())
        assert (answer.status, answer.headers["connection"]) == (504, "close")
        assert b'"reason":"body_deadline"' in answer.body


async def test_stopping_waits_for_a_body_that_is_still_coming(world: World) -> None:
    """It is answered, and the answer tells that the connection ends."""
    async with taking(world, HttpLimits(header_timeout_s=100)) as one:
        one.writer.write(request(LARGE)[:-5])
        await until(lambda: one.collected_bytes == len(LARGE) - 5)
        stopping = asyncio.create_task(one.server.stop(grace_s=100))
        await asyncio.sleep(0)
        one.writer.write(LARGE[-5:])
        [answer] = parse_answers(await one.rest())
        await stopping
        assert answer.headers["connection"] == "close"
        assert one.taker.bodies == [LARGE]
