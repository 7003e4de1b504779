"""How a connection ends on which a request goes fast: by its deadlines, by its peer, and when the server stops."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Final

import pytest
from tests.transport.conftest import SMALL, World, all_closed, connected, parse_answers
from tests.transport.fast_paths import BODY, FAST, LINE, REQUEST, SENT, SENT_LAST, Met, apart, held_of, met, until

from aigovtool.crypto.identity import IdentityKind
from aigovtool.transport.bounds import HttpLimits
from aigovtool.transport.fast_path import Written, ok

#: Of the request, the head and half of the body.
PART: Final = REQUEST.removesuffix(BODY) + BODY[:5]
SLOW: Final = b'{"text":"slow 10"}'
#: More than the sockets between client and server take.
HUGE: Final = ok("content-type: text/plain\r\n", bytes(32 << 20))
ANSWERS: Final = pytest.mark.parametrize("answered", [FAST, None], ids=["answered", "given-back"])


async def answered_fast(one: Met) -> None:
    one.writer.write(REQUEST)
    _, answer = await one.fast.taken()
    answer(FAST)
    assert await one.one_answer() == SENT


async def ended(one: Met) -> None:
    """See that the server ends the connection, without a word."""
    with suppress(ConnectionError):  # a part of what it sent may be unread
        assert await one.rest() == b""
    await all_closed(one.server)


# --- Deadlines -------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [False, True], ids=["first", "next"])
async def test_a_held_body_that_stalls_is_ended(world: World, *, before: bool) -> None:
    """Attack: a body that never comes, of a request that only the fast path would see; it is not handed over."""
    async with met(world, HttpLimits(body_idle_timeout_s=0.2)) as one:
        if before:
            await answered_fast(one)
        one.writer.write(PART)
        await ended(one)
        assert len(one.fast.offered) == before
        assert one.slow.bodies == []


async def test_a_strangers_held_body_has_to_come_at_its_rate(world: World) -> None:
    """Attack: a byte now and then keeps a held request waiting for ever."""
    bounds = HttpLimits(body_idle_timeout_s=10, stranger_body_grace_s=0.3, stranger_body_bytes_per_s=1_000)
    async with met(world, bounds) as one:

        async def drip() -> None:
            one.writer.write(REQUEST.removesuffix(BODY).replace(b"10", b"10000"))
            for _ in range(10_000):
                one.writer.write(b"y")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        await ended(one)
        assert not dripping.done()
        dripping.cancel()


async def test_a_held_body_that_goes_on_is_waited_for(world: World) -> None:
    """The deadline of a body is for the time without progress, not for all of it."""
    async with met(world, HttpLimits(body_idle_timeout_s=1.5, header_timeout_s=1.5)) as one:
        one.writer.write(PART)
        for byte in BODY[5:]:
            await asyncio.sleep(0.4)
            one.writer.write(bytes([byte]))
        _, answer = await one.fast.taken()
        answer(FAST)
        assert await one.one_answer() == SENT


@pytest.mark.parametrize("proven", [False, True], ids=["stranger", "proven"])
@pytest.mark.parametrize("before", [False, True], ids=["first", "next"])
async def test_a_slow_head_is_ended(world: World, *, proven: bool, before: bool) -> None:
    """The deadline is for the whole head, of a first request and of one after a fast answer."""
    context = world.client(world.credential(IdentityKind.CONSUMER, "ada")) if proven else None
    async with met(world, HttpLimits(header_timeout_s=0.3, keep_alive_s=100), context=context) as one:
        if before:
            await answered_fast(one)

        async def drip() -> None:
            for byte in LINE + b"\r\nX: " + b"y" * 10_000:
                one.writer.write(bytes([byte]))
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        await ended(one)
        assert not dripping.done()
        dripping.cancel()


@pytest.mark.parametrize(
    ("proven", "bounds"),
    [
        pytest.param(False, HttpLimits(header_timeout_s=0.3, keep_alive_s=100), id="stranger"),
        pytest.param(True, HttpLimits(header_timeout_s=100, keep_alive_s=0.3), id="proven"),
    ],
)
async def test_an_idle_connection_is_ended_after_a_fast_answer(
    world: World, bounds: HttpLimits, *, proven: bool
) -> None:
    """A stranger has until the deadline of a head; only who is proven has the keep-alive."""
    context = world.client(world.credential(IdentityKind.CONSUMER, "ada")) if proven else None
    async with met(world, bounds, context=context) as one:
        await answered_fast(one)
        await ended(one)


@ANSWERS
async def test_no_deadline_of_the_peer_ends_a_request_under_way(world: World, answered: Written | None) -> None:
    """From its last byte on the peer has nothing to do: how long the answer may take is not for these deadlines."""
    bounds = replace(SMALL, header_timeout_s=0.2, body_idle_timeout_s=0.2, stranger_body_grace_s=0.2)
    async with met(world, bounds) as one:
        await apart(one.writer, PART, BODY[5:])
        _, answer = await one.fast.taken()
        await asyncio.sleep(0.6)
        answer(answered)
        assert (await one.one_answer()).endswith(SENT if answered else SLOW)


async def test_while_a_peer_does_not_read_its_requests_do_not_go_fast(world: World) -> None:
    """Nothing waits for the peer in the fast path, so that what is not read is one answer and not one each."""
    async with met(world) as one:
        one.writer.transport.pause_reading()  # type: ignore[attr-defined]
        one.writer.write(REQUEST)
        _, answer = await one.fast.taken()
        answer(HUGE)
        assert one.protocol.flow.write_paused
        for _ in range(3):
            one.writer.write(REQUEST)
            await until(lambda: one.slow.bodies)
        assert len(one.fast.offered) == len(one.fast.shown) == 1
        one.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await one.one_answer() == b"".join(HUGE)
        [slow] = parse_answers(await one.rest())  # it did not wait for that answer
        assert slow.body == SLOW
        assert one.slow.bodies == [BODY]


async def test_requests_go_fast_again_once_the_peer_reads(world: World) -> None:
    """A peer that was slow once is not slow for ever."""
    async with met(world) as one:
        one.writer.transport.pause_reading()  # type: ignore[attr-defined]
        one.writer.write(REQUEST)
        _, answer = await one.fast.taken()
        answer(HUGE)
        one.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await one.one_answer() == b"".join(HUGE)
        await until(lambda: not one.protocol.flow.write_paused)
        await answered_fast(one)


async def test_a_peer_that_never_reads_a_fast_answer_is_ended(world: World) -> None:
    """Attack: answers that are asked for and never taken would be kept in memory."""
    async with met(world, HttpLimits(write_stall_timeout_s=0.2)) as one:
        one.writer.transport.pause_reading()  # type: ignore[attr-defined]
        one.writer.write(REQUEST)
        _, answer = await one.fast.taken()
        answer(HUGE)
        await all_closed(one.server)


# --- The peer goes ---------------------------------------------------------------------------


@ANSWERS
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_an_answer_for_a_peer_that_has_gone_goes_nowhere(
    world: World, answered: Written | None, *, tls: bool
) -> None:
    """It is ignored, the application is not asked in its place, and the server goes on with others."""
    context = world.client() if tls else None
    async with met(world, context=context) as one:
        one.writer.write(REQUEST)
        _, answer = await one.fast.taken()
        one.writer.transport.abort()
        await all_closed(one.server)
        answer(answered)
        async with connected(one.server, context) as (reader, writer):
            await answered_fast(replace(one, reader=reader, writer=writer))
        assert one.slow.bodies == []


@ANSWERS
async def test_an_answer_for_a_connection_that_is_being_ended_goes_nowhere(
    world: World, answered: Written | None
) -> None:
    """Between the decision to end a connection and its end nothing is written and nothing is begun."""
    async with met(world) as one:
        one.writer.write(REQUEST)
        _, answer = await one.fast.taken()
        protocol = one.protocol
        protocol.end()
        answer(answered)
        await ended(one)
        assert one.slow.bodies == []
        assert protocol.cycle is None


async def test_a_peer_that_goes_before_its_body_is_there_is_forgotten(world: World) -> None:
    """A part of a request is never handed over, and nothing holds it when its connection is gone."""
    async with met(world) as one:
        one.writer.write(PART)
        await until(lambda: one.fast.shown)
        protocol = one.protocol
        one.writer.transport.abort()
        await all_closed(one.server)
        assert held_of(protocol) == b""
        assert one.fast.offered == []


# --- The server stops ------------------------------------------------------------------------


@ANSWERS
async def test_stopping_lets_a_fast_answer_out(world: World, answered: Written | None) -> None:
    """The request under way is answered and its connection ends; one without a request is closed at once."""
    async with met(world, HttpLimits(header_timeout_s=100)) as one, connected(one.server, None) as (idle, _):
        await until(lambda: one.server.connections == 2)
        one.writer.write(REQUEST)
        _, answer = await one.fast.taken()
        stopping = asyncio.create_task(one.server.stop(grace_s=100))
        assert await idle.read(-1) == b""
        assert not stopping.done()
        answer(answered)
        came = await one.rest()
        await stopping
        assert one.server.connections == 0
        assert (came == SENT_LAST) if answered else (came.endswith(SLOW) and b"connection: close" in came)


async def test_stopping_waits_for_a_request_whose_body_is_still_coming(world: World) -> None:
    """It is answered the long way, which tells the client that the connection ends."""
    async with met(world, HttpLimits(header_timeout_s=100)) as one:
        one.writer.write(REQUEST[:-5])
        await until(lambda: bool(one.fast.shown))
        stopping = asyncio.create_task(one.server.stop(grace_s=100))
        await asyncio.sleep(0)
        one.writer.write(REQUEST[-5:])
        came = await one.rest()
        await stopping
        assert came.endswith(SLOW)
        assert b"connection: close" in came
        assert one.fast.offered == []


@ANSWERS
async def test_stopping_is_bounded_when_no_fast_answer_comes(world: World, answered: Written | None) -> None:
    """A request that is never answered is cut off when the grace is over, and an answer after that is ignored."""
    async with met(world) as one:
        one.writer.write(REQUEST)
        _, answer = await one.fast.taken()
        async with asyncio.timeout(10):
            await one.server.stop(grace_s=0.1)
        answer(answered)
        await ended(one)
        assert one.slow.bodies == []
