"""Larger requests of the fast path: held while there is room, and the room is given back once, whatever happens."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import pytest
from tests.transport.conftest import SMALL, World, all_closed, parse_answers
from tests.transport.fast_paths import (
    BODY,
    FAST,
    LINE,
    REQUEST,
    SENT,
    SENT_LAST,
    Met,
    apart,
    held_of,
    met,
    until,
)
from tests.transport.test_fast_path import Disagreeing

from aigovtool.transport import held
from aigovtool.transport.bounds import HttpLimits
from aigovtool.transport.fast_path import Written, ok

BODY_BYTES: Final = 200_000
HEAD: Final = LINE + b"\r\nHost: a\r\nX-Test: z\r\nContent-Length: %d\r\n\r\n" % BODY_BYTES
LARGE_BODY: Final = (bytes(range(250)) * 1_000)[:BODY_BYTES]
LARGE: Final = HEAD + LARGE_BODY
#: All but the end of it.
PART: Final = LARGE[:-5]
SLOW: Final = b'{"text":"slow 200000"}'
ANSWERS: Final = pytest.mark.parametrize("answered", [FAST, None], ids=["answered", "given-back"])
#: More than the sockets between client and server take.
HUGE: Final = ok("content-type: text/plain\r\n", bytes(32 << 20))


@asynccontextmanager
async def roomy(
    world: World, bounds: HttpLimits = SMALL, *, context: ssl.SSLContext | None = None, fast: bool = True
) -> AsyncIterator[Met]:
    """Connect to a server whose fast path has larger requests when there is room."""
    async with met(world, bounds, context=context, fast=fast) as one:
        one.fast.small_bytes = len(BODY)
        yield one


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def context(world: World, request: pytest.FixtureRequest) -> ssl.SSLContext | None:
    return world.client() if request.param else None


async def all_held(one: Met, sent: bytes) -> None:
    """Wait until what was sent of a request is held, for which there is room."""
    await until(lambda: one.fast.rooms and held_of(one.protocol) == sent)
    assert one.fast.rooms[-1] == 0


async def answered_slowly(one: Met, *, last: bool = False) -> None:
    """See that the application got the body and its answer comes, and that the room has been given back."""
    came = await (one.rest() if last else one.one_answer())
    [answer] = parse_answers(came)
    assert answer.body == SLOW
    assert answer.headers.get("connection") == ("close" if last else None)
    assert one.slow.bodies[-1] == LARGE_BODY
    assert one.fast.rooms[-1] == 1


async def answered_fast(one: Met) -> None:
    """See that a large request is held, handed over whole and answered, and its room given back."""
    request, answer = await one.fast.taken()
    assert request.head.line == LINE
    assert request.head.fields == {b"host": b"a", b"x-test": b"z", b"content-length": b"200000"}
    assert request.head.length == BODY_BYTES
    assert request.body == LARGE_BODY
    assert one.fast.rooms[-1] == 0
    answer(FAST)
    assert one.fast.rooms[-1] == 1
    assert await one.one_answer() == SENT


# --- With room -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [600, 4_096, 100_000, len(LARGE)])
async def test_a_large_request_with_room_is_handed_over_whole(
    world: World, context: ssl.SSLContext | None, size: int
) -> None:
    """Whatever pieces it comes in; each request asks for room once, and gives it back with its answer."""
    async with roomy(world, context=context) as one:
        for count in range(1, 4):
            await apart(one.writer, *(LARGE[start : start + size] for start in range(0, len(LARGE), size)))
            await answered_fast(one)
            assert held_of(one.protocol) == b""
            assert one.fast.rooms == [1] * count
            assert len(one.fast.asked_for_room) == count
        assert one.slow.bodies == []


async def test_the_end_of_a_large_request_may_come_byte_by_byte(world: World) -> None:
    """Nothing is handed over before the last byte."""
    async with roomy(world) as one:
        one.writer.write(LARGE[:-200])
        await apart(one.writer, *(bytes([byte]) for byte in LARGE[-200:-1]))
        await all_held(one, LARGE[:-1])
        assert one.fast.offered == []
        one.writer.write(LARGE[-1:])
        await answered_fast(one)


async def test_a_small_request_asks_for_no_room(world: World) -> None:
    """They are so small that nobody counts them, and share a connection with large ones."""
    async with roomy(world) as one:
        for _ in range(2):
            one.writer.write(REQUEST)
            _, answer = await one.fast.taken()
            answer(FAST)
            assert await one.one_answer() == SENT
            assert len(one.fast.asked_for_room) == len(one.fast.rooms)
            one.writer.write(LARGE)
            await answered_fast(one)


@pytest.mark.parametrize("later", [False, True], ids=["at-once", "later"])
@pytest.mark.parametrize("pieces", [1, 3])
async def test_what_is_given_back_goes_the_ordinary_way(
    world: World, context: ssl.SSLContext | None, pieces: int, *, later: bool
) -> None:
    """With all its bytes and without its room, and the connection goes on."""
    size = -(-len(LARGE) // pieces)
    async with roomy(world, context=context) as one:
        for count in range(1, 3):
            one.fast.takes = later
            await apart(one.writer, *(LARGE[start : start + size] for start in range(0, len(LARGE), size)))
            if later:
                (await one.fast.taken())[1](None)
            await answered_slowly(one)
            assert one.fast.rooms == [1] * count
            assert len(one.fast.offered) == count
            assert held_of(one.protocol) == b""
        one.fast.takes = True
        one.writer.write(LARGE)
        await answered_fast(one)


async def test_what_is_given_back_is_refused_where_the_parser_disagrees(world: World) -> None:
    """Attack: a large request with two readings gets one refusal and the end, and its room is given back."""
    async with roomy(world) as one:
        one.writer.write(LARGE)
        _, answer = await one.fast.taken()
        one.protocol.parser = cast("Any", Disagreeing())
        answer(None)
        [refusal] = parse_answers(await one.rest())
        assert b'"reason":"bad_request"' in refusal.body
        assert (one.fast.rooms, one.slow.bodies) == ([1], [])


# --- Without room ----------------------------------------------------------------------------


async def test_without_room_a_large_request_goes_the_ordinary_way(world: World) -> None:
    """Nothing of it is held or handed over; once there is room again the next one goes fast."""
    async with roomy(world) as one:
        one.fast.has_room = False
        await apart(one.writer, LARGE[:1_000], LARGE[1_000:])
        assert parse_answers(await one.one_answer())[0].body == SLOW
        assert one.slow.bodies == [LARGE_BODY]
        assert len(one.fast.asked_for_room) == 1
        assert (one.fast.rooms, one.fast.offered) == ([], [])
        one.fast.has_room = True
        one.writer.write(LARGE)
        await answered_fast(one)


@pytest.mark.parametrize(
    "sent",
    [
        LINE + b"\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n30D40\r\n" + LARGE_BODY + b"\r\n0\r\n\r\n",
        LARGE.replace(b"X-Test: z", b"Expect: 100-continue"),
        LARGE.replace(b"X-Test: z", b"Connection: close"),
    ],
    ids=["chunked", "expecting", "close"],
)
async def test_a_request_out_of_the_ordinary_asks_for_no_room(world: World, sent: bytes) -> None:
    """Its length is not known, it waits to be asked, or it is the last one of its connection."""
    async with roomy(world) as one:
        await apart(one.writer, sent[:100], sent[100:])
        assert (await one.one_answer()).endswith(SLOW)
        assert (one.fast.shown, one.fast.asked_for_room, one.fast.offered) == ([], [], [])


@pytest.mark.parametrize("before", [REQUEST, LARGE], ids=["small", "large"])
async def test_while_an_answer_is_under_way_no_room_is_asked_for(world: World, before: bytes) -> None:
    """Attack: a client that does not wait for its answers holds the room of one request, not of each."""
    async with roomy(world) as one:
        one.writer.write(before)
        _, answer = await one.fast.taken()
        asked = len(one.fast.asked_for_room)
        one.writer.write(LARGE)
        await until(lambda: one.protocol._reader.surplus)
        answer(FAST)
        assert await one.rest() == SENT_LAST
        assert len(one.fast.asked_for_room) == asked
        assert one.fast.rooms == [1] * asked


async def test_while_a_peer_does_not_read_no_room_is_asked_for(world: World) -> None:
    """Attack: what it does not read is one answer, and the next request is held by the application's bounds alone."""
    async with roomy(world) as one:
        one.writer.transport.pause_reading()  # type: ignore[attr-defined]
        one.writer.write(REQUEST)
        _, answer = await one.fast.taken()
        answer(HUGE)
        assert one.protocol.flow.write_paused
        one.writer.write(LARGE)
        await until(lambda: one.slow.bodies)
        assert (one.fast.asked_for_room, one.slow.bodies) == ([], [LARGE_BODY])


# --- Ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["peer", "place", "stalls"])
async def test_a_connection_that_ends_before_all_is_there_gives_its_room_back(world: World, how: str) -> None:
    """Attack: room is taken with a head, and the body never comes; nothing is handed over, and nothing is held."""
    bounds = HttpLimits(body_idle_timeout_s=0.5) if how == "stalls" else SMALL
    async with roomy(world, bounds) as one:
        one.writer.write(PART)
        await all_held(one, PART)
        protocol = one.protocol
        if how == "peer":
            one.writer.transport.abort()
        elif how == "place":
            protocol.end()
        await all_closed(one.server)
        assert one.fast.rooms == [1]
        assert held_of(protocol) == b""
        assert (one.fast.offered, one.slow.bodies) == ([], [])


@ANSWERS
async def test_a_connection_that_ends_under_way_gives_its_room_back_once(
    world: World, answered: Written | None
) -> None:
    """When the fast path is done with its body, which it holds until then; what it answers changes nothing."""
    async with roomy(world) as one:
        one.writer.write(LARGE)
        _, answer = await one.fast.taken()
        protocol = one.protocol
        one.writer.transport.abort()
        await all_closed(one.server)
        assert one.fast.rooms == [0]
        assert held_of(protocol) == b""
        answer(answered)
        assert (one.fast.rooms, one.slow.bodies) == ([1], [])


@pytest.mark.parametrize("cut", [len(HEAD), len(HEAD) + 1, 100_000, len(LARGE) - 1])
async def test_what_is_late_goes_the_ordinary_way(
    world: World, context: ssl.SSLContext | None, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """Attack: a body that comes slowly does not keep its room; all of it reaches the application, and all goes on."""
    monkeypatch.setattr(held, "HELD_S", 0.1)
    async with roomy(world, context=context) as one:
        one.writer.write(LARGE[:cut])
        await until(lambda: one.fast.rooms == [1])
        assert held_of(one.protocol) == b""
        middle = (cut + len(LARGE)) // 2
        await apart(one.writer, LARGE[cut:middle], LARGE[middle:])
        await answered_slowly(one)
        assert (one.fast.rooms, one.fast.offered) == ([1], [])
        monkeypatch.undo()
        one.writer.write(LARGE)
        await answered_fast(one)


async def test_a_drip_does_not_put_off_being_late(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: a byte now and then; the time is that for all of it, not between two pieces."""
    monkeypatch.setattr(held, "HELD_S", 0.3)
    async with roomy(world) as one:
        one.writer.write(HEAD)

        async def drip() -> None:
            for place in range(BODY_BYTES):
                one.writer.write(LARGE_BODY[place : place + 1])
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        await until(lambda: one.fast.rooms == [1])
        assert not dripping.done()
        dripping.cancel()


@pytest.mark.parametrize("pieces", [1, 2])
async def test_a_whole_request_is_never_late(world: World, monkeypatch: pytest.MonkeyPatch, pieces: int) -> None:
    """From its last byte on the peer has nothing to do: it keeps its room until it is answered, and is asked once."""
    monkeypatch.setattr(held, "HELD_S", 0.1)
    async with roomy(world) as one:
        await apart(one.writer, *([LARGE] if pieces == 1 else [PART, LARGE[-5:]]))
        _, answer = await one.fast.taken()
        await asyncio.sleep(0.3)
        assert one.fast.rooms == [0]
        answer(FAST)
        assert await one.one_answer() == SENT
        assert (one.fast.rooms, one.slow.bodies) == ([1], [])


@pytest.mark.parametrize("behind", [b"G", LARGE, REQUEST], ids=["byte", "same", "small"])
@pytest.mark.parametrize("cut", [0, 100_000], ids=["together", "behind-a-held-part"])
async def test_what_comes_with_a_large_request_is_never_read(world: World, behind: bytes, cut: int) -> None:
    """A request that is not alone does not go fast: one answer, that of a server without a fast path, and the end."""
    answers = []
    for fast in (False, True):
        async with roomy(world, fast=fast) as one:
            if cut:
                one.writer.write(LARGE[:cut])
                if fast:
                    await all_held(one, LARGE[:cut])
            one.writer.write(LARGE[cut:] + behind)
            answers.append(await one.rest())
            assert (one.fast.offered, one.slow.bodies) == ([], [LARGE_BODY])
            assert one.fast.rooms == [1] * fast
    assert answers[0] == answers[1]
    [answer] = parse_answers(answers[0])
    assert answer.headers["connection"] == "close"


# --- The server stops ------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True], ids=["in-time", "late"])
async def test_stopping_waits_for_a_large_request_that_is_held(
    world: World, monkeypatch: pytest.MonkeyPatch, *, late: bool
) -> None:
    """It goes the ordinary way, whole or late, and its answer tells that the connection ends."""
    async with roomy(world, HttpLimits(header_timeout_s=100)) as one:
        if late:
            monkeypatch.setattr(held, "HELD_S", 0.2)
        one.writer.write(PART)
        await all_held(one, PART)
        stopping = asyncio.create_task(one.server.stop(grace_s=100))
        await asyncio.sleep(0)
        if late:
            await until(lambda: one.fast.rooms == [1])
        one.writer.write(LARGE[-5:])
        await answered_slowly(one, last=True)
        await stopping
        assert (one.fast.rooms, one.fast.offered) == ([1], [])


@ANSWERS
async def test_stopping_lets_the_answer_of_a_large_request_out(world: World, answered: Written | None) -> None:
    """It is the last one of its connection, also when it is given back, and the room is given back with it."""
    async with roomy(world, HttpLimits(header_timeout_s=100)) as one:
        one.writer.write(LARGE)
        _, answer = await one.fast.taken()
        stopping = asyncio.create_task(one.server.stop(grace_s=100))
        await asyncio.sleep(0)
        answer(answered)
        if answered is None:
            await answered_slowly(one, last=True)
        else:
            assert await one.rest() == SENT_LAST
        await stopping
        assert one.fast.rooms == [1]


async def test_stopping_is_bounded_for_a_large_request_whose_rest_never_comes(world: World) -> None:
    """It is cut off when the grace is over, and its room is given back."""
    async with roomy(world) as one:
        one.writer.write(PART)
        await all_held(one, PART)
        async with asyncio.timeout(10):
            await one.server.stop(grace_s=0.1)
        assert (one.fast.rooms, one.fast.offered, one.slow.bodies) == ([1], [], [])
