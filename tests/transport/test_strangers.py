"""Who proves nothing shuts nobody out: strangers' connections over real TLS, from several addresses of the loopback."""

import asyncio
import gc
import logging
import ssl
import weakref
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace

import pytest
from starlette.responses import Response, StreamingResponse
from tests.transport.conftest import SMALL, Reply, World, all_closed, connected, parse_answers, served

from aigovtool.crypto.identity import IdentityKind
from aigovtool.transport.bounds import HttpLimits
from aigovtool.transport.routes import Call, Caller, Route
from aigovtool.transport.server import HttpServer

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
HERE, THERE = "127.0.0.1", "127.0.0.2"
HELLO = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
#: What the flood sends: a request whose body never comes.
UNFINISHED = b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{"
BOUNDS = replace(SMALL, max_strangers=6, max_strangers_per_address=4)


class Work:
    """Requests that are worked on until they are released, and signatures that hold."""

    def __init__(self) -> None:
        self.entered = 0
        self.changed = asyncio.Event()
        self.release = asyncio.Event()

    def routes(self) -> list[Route]:
        """What is served beside the usual."""

        async def slow(_: Call) -> Reply:
            self.enter()
            await self.release.wait()
            return Reply(text="done")

        async def signed(call: Call) -> Reply:
            call.connection.prove("key-1")
            return Reply(text="heard")

        async def listen(call: Call) -> Response:
            call.connection.prove("key-2")

            async def lines() -> AsyncIterator[bytes]:
                yield b"first"
                await self.release.wait()
                yield b"last"

            return StreamingResponse(lines())

        async def endless(_: Call) -> Response:
            async def pieces() -> AsyncIterator[bytes]:
                while True:
                    self.enter()
                    yield bytes(1 << 16)

            return StreamingResponse(pieces())

        return [
            Route(method="GET", path=f"/{name}", handler=handler, who=(Caller.ANYONE,), answer=answer, summary="-")
            for name, handler, answer in (
                ("slow", slow, Reply),
                ("signed", signed, Reply),
                ("listen", listen, None),
                ("endless", endless, None),
            )
        ]

    def enter(self) -> None:
        """Count one more that has been begun."""
        self.entered += 1
        self.changed.set()

    async def under_way(self, count: int) -> None:
        """Wait until so many requests are worked on."""
        async with asyncio.timeout(10):
            while self.entered < count:
                self.changed.clear()
                await self.changed.wait()

    async def at_rest(self) -> int:
        """Wait until nothing is begun any more; return how much was."""
        before = -1
        while before != self.entered:
            before = self.entered
            await asyncio.sleep(0.2)
        return before


def get(path: str) -> bytes:
    return HELLO.replace(b"/hello", path.encode())


async def says(streams: Streams, request: bytes, answer: bytes) -> bool:
    """Send a request, and return whether this is in the answer."""
    reader, writer = streams
    writer.write(request)
    async with asyncio.timeout(10):
        return answer in await reader.readuntil(answer)


async def ended(streams: Streams) -> bool:
    """Return whether the connection is closed without a word, soon."""
    async with asyncio.timeout(10):
        try:
            return await streams[0].read(-1) == b""
        except ConnectionError:
            return True


async def open_at(streams: Streams) -> bool:
    """Return whether the connection is still open, once the server has had its turn."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            return await streams[0].read(1) != b""
    return True


async def has(server: HttpServer, connections: int) -> bool:
    """Return whether a server comes to have so many connections, soon."""
    with suppress(TimeoutError):
        async with asyncio.timeout(10):
            while server.connections != connections:  # noqa: ASYNC110 - a server tells nobody
                await asyncio.sleep(0.01)
    return server.connections == connections


@asynccontextmanager
async def held(
    server: HttpServer, context: ssl.SSLContext, *sources: str, send: bytes = UNFINISHED
) -> AsyncIterator[list[Streams]]:
    """Hold a connection from each of these addresses, which has sent this."""
    async with AsyncExitStack() as stack:
        opened = []
        for source in sources:
            reader, writer = await stack.enter_async_context(connected(server, context, source))
            writer.write(send)
            opened.append((reader, writer))
        await asyncio.sleep(0.05)  # so that what was sent is read; no test fails where it is not yet
        yield opened


async def test_a_flood_from_one_address_leaves_places_for_others(world: World) -> None:
    """It holds its share and no more; strangers elsewhere, and clients with a certificate, are served at once."""
    operator = world.client(world.credential(IdentityKind.OPERATOR, "ann"))
    bounds = replace(BOUNDS, max_connections=12)
    async with served(world, bounds) as server, held(server, world.client(), *[THERE] * 20):
        assert await has(server, 4)
        for context, source in ((world.client(), HERE), (operator, HERE), (operator, THERE)):
            async with connected(server, context, source) as streams:
                assert await says(streams, HELLO, b"200 OK")
        assert server.connections >= 4


async def test_behind_the_address_of_a_flood_an_honest_stranger_is_served(world: World) -> None:
    """A gateway may be the address of both: the newcomer gets the place of the oldest that is silent."""
    async with served(world, BOUNDS) as server, held(server, world.client(), *[HERE] * 4) as flood:
        async with connected(server, world.client()) as streams:
            assert await says(streams, HELLO, b"200 OK")
        assert await ended(flood[0])
        assert all([await open_at(one) for one in flood[1:]])


async def test_a_flood_from_many_addresses_touches_no_proven_client(world: World) -> None:
    """By a certificate or by a signature: their connections go on, new ones come in, and so do honest strangers."""
    work, stranger = Work(), world.client()
    operator = world.client(world.credential(IdentityKind.OPERATOR, "ann"))
    sources = [f"127.0.0.{number}" for number in range(2, 32)]
    async with (
        served(world, replace(BOUNDS, max_connections=8), routes=work.routes()) as server,
        connected(server, operator) as pooled,
        connected(server, stranger) as signed,
        connected(server, stranger) as listening,
    ):
        assert await says(pooled, HELLO, b"ann")
        assert await says(signed, get("/signed"), b"heard")
        assert await says(listening, get("/listen"), b"first")
        async with held(server, stranger, *sources):
            assert await has(server, 8)
            async with connected(server, stranger) as newcomer, connected(server, operator) as another:
                assert await says(newcomer, HELLO, b"nobody")
                assert await says(another, HELLO, b"ann")
            assert await says(pooled, HELLO, b"ann")
            assert await says(signed, get("/signed"), b"heard")
            work.release.set()
            assert await says(listening, b"", b"last")


async def test_what_is_worked_on_is_never_ended_for_another(world: World) -> None:
    """Where all strangers are worked on a newcomer is told that there is no place, and they are answered."""
    work = Work()
    bounds = replace(BOUNDS, max_strangers=2)
    async with (
        served(world, bounds, routes=work.routes()) as server,
        held(server, world.client(), HERE, THERE, send=get("/slow")) as busy,
    ):
        await work.under_way(2)
        async with connected(server, world.client(), "127.0.0.3") as (reader, _):
            (answer,) = parse_answers(await reader.read(-1))
            assert answer.status == 503
        work.release.set()
        for streams in busy:
            assert await says(streams, b"", b"done")


@pytest.mark.parametrize("sent", [b"", HELLO[:-2], HELLO, UNFINISHED], ids=["nothing", "half", "answered", "no-body"])
async def test_whoever_is_silent_gives_its_place(sent: bytes, world: World) -> None:
    """Before a request, within one, and between two of them."""
    async with (
        served(world, replace(BOUNDS, max_strangers=1)) as server,
        held(server, world.client(), HERE, send=sent) as ((reader, _),),
    ):
        if sent == HELLO:
            await reader.readuntil(b"}")
        async with connected(server, world.client(), THERE) as newcomer:
            assert await says(newcomer, HELLO, b"200 OK")
            async with asyncio.timeout(10):
                assert await reader.read(-1) == b""


async def test_the_greediest_address_loses_first(world: World) -> None:
    """Whoever has one connection keeps it, though it is older than those of an address that has three."""
    bounds = replace(BOUNDS, max_strangers=4)
    async with (
        served(world, bounds) as server,
        held(server, world.client(), HERE, THERE, THERE, THERE) as flood,
        connected(server, world.client(), "127.0.0.3") as newcomer,
    ):
        assert await says(newcomer, HELLO, b"200 OK")
        assert await ended(flood[1])
        assert all([await open_at(flood[index]) for index in (0, 2, 3)])


async def test_whoever_does_not_read_loses_after_those_who_are_silent(world: World) -> None:
    """A download that waits for a slow line is worth more than a body that does not come, and less than work."""
    work = Work()
    bounds = replace(BOUNDS, max_strangers_per_address=2)
    async with (
        served(world, bounds, routes=work.routes()) as server,
        held(server, world.client(), HERE, send=get("/endless")) as (unread,),
        held(server, world.client(), HERE) as (silent,),
    ):
        unread[1].transport.pause_reading()  # type: ignore[attr-defined]
        await work.under_way(1)
        made = await work.at_rest()
        async with held(server, world.client(), HERE, send=get("/slow")):
            await work.under_way(made + 1)
            assert await ended(silent)
            assert await has(server, 2)
            async with connected(server, world.client()) as newcomer:
                assert await says(newcomer, HELLO, b"200 OK")
                assert await has(server, 2)


async def test_a_stranger_loses_its_place_to_a_proven_client_where_all_is_full(world: World) -> None:
    """Not before: a place that is free is taken first."""
    operator = world.client(world.credential(IdentityKind.OPERATOR, "ann"))
    async with (
        served(world, replace(BOUNDS, max_connections=3)) as server,
        held(server, world.client(), HERE) as (stranger,),
        held(server, operator, HERE, HERE) as first,
    ):
        assert await open_at(stranger)
        async with connected(server, operator) as streams:
            assert await says(streams, HELLO, b"ann")
            assert await ended(stranger)
            assert all([await open_at(one) for one in first])


async def test_whoever_has_signed_is_no_stranger_any_more(world: World) -> None:
    """It does not count among them, its place is not given away, and it may be idle as if it had a certificate."""
    bounds = HttpLimits(max_strangers=1, header_timeout_s=1, stranger_body_grace_s=0.3)
    async with (
        served(world, bounds, routes=Work().routes()) as server,
        connected(server, world.client()) as signed,
    ):
        assert await says(signed, get("/signed"), b"heard")
        async with held(server, world.client(), HERE, HERE) as strangers:
            for streams in strangers:
                assert await ended(streams)
            assert await says(signed, HELLO, b"nobody")


async def test_a_strangers_body_that_drips_ends(world: World) -> None:
    """A byte now and then is enough for the idle time, and not for the rate; twenty times the rate is, however slow."""
    bounds = HttpLimits(stranger_body_grace_s=0.3, stranger_body_bytes_per_s=1000, body_idle_timeout_s=20)
    operator = world.client(world.credential(IdentityKind.OPERATOR, "ann"))
    async with served(world, bounds) as server:

        async def drip(context: ssl.SSLContext, piece: bytes, pieces: int) -> bool:
            try:
                async with connected(server, context) as (reader, writer):
                    writer.write(UNFINISHED.replace(b"1000000", b"%d" % (1 + len(piece) * pieces)))
                    for _ in range(pieces):
                        writer.write(piece)
                        await asyncio.sleep(0.05)
                        if reader.at_eof():
                            return False
                    return await says((reader, writer), b"", b"200 OK")
            except ConnectionError:  # what is written to a connection that has ended is answered by a reset
                return False

        outcomes = await asyncio.gather(
            drip(world.client(), b"x", 40), drip(world.client(), bytes(1_000), 40), drip(operator, b"x", 40)
        )
    assert list(outcomes) == [False, True, True]


async def test_whoever_is_turned_away_has_a_line_in_a_period(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Of a hundred failed handshakes and thirty ended connections: one line at once, one with the count, no other."""
    caplog.set_level(logging.INFO, "aigovtool")
    async with served(world, replace(BOUNDS, notice_period_s=100)) as server:
        for _ in range(100):
            with suppress(ConnectionError):
                reader, writer = await asyncio.open_connection(*server.address, local_addr=(THERE, 0))
                writer.write(b"this is no TLS" * 10)
                await reader.read(-1)
                writer.close()
        async with held(server, world.client(), *[THERE] * 34):
            pass
        await all_closed(server)
        assert caplog.messages == ["turned_away address=127.0.0.2 handshake_failed=1"]
    assert caplog.messages[1:] == ["turned_away address=127.0.0.2 ended_for_another=30 handshake_failed=99"]


async def test_of_those_who_get_no_place_only_some_stay_to_read_why(world: World) -> None:
    """A flood of refused connections does not fill the memory for the second that each may stay."""
    work = Work()
    bounds = replace(BOUNDS, max_strangers_per_address=1, max_refusals_told=2, linger_s=5)
    async with (
        served(world, bounds, routes=work.routes()) as server,
        held(server, world.client(), HERE, send=get("/slow")),
    ):
        await work.under_way(1)
        async with held(server, world.client(), *[HERE] * 5, send=b""):
            assert await has(server, 3)
        work.release.set()


async def test_a_connection_takes_little_memory_and_leaves_nothing(world: World) -> None:
    """TLS reads into a small buffer, and nobody who still holds the connection holds it when it is lost."""
    gc.disable()
    try:
        async with served(world) as server:
            async with connected(server, world.client()) as streams:
                assert await says(streams, HELLO, b"200 OK")
                (guard,) = server._open()
                tls = weakref.ref(guard.transport.get_extra_info("ssl_object"))
                layer = guard._wire._inner._ssl_protocol  # type: ignore[union-attr]
                assert len(layer._ssl_buffer) == 32 << 10
                del layer
            await all_closed(server)
            await asyncio.sleep(0)
            assert tls() is None
            assert guard.transport.is_closing()
    finally:
        gc.enable()
