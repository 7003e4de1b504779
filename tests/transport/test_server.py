"""Starting, stopping and starting again on the same socket."""

import asyncio
import errno
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
import uvloop
from starlette.responses import Response, StreamingResponse
from tests.transport.conftest import ROUTES, SMALL, Reply, World, ask, connected, served

from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.x509 import self_signed_server_certificate
from aigovtool.errors import ConfigurationError
from aigovtool.transport.routes import Call, Caller, Route, application
from aigovtool.transport.server import HttpServer, bind, bind_loopback
from aigovtool.transport.tls import pinned_context, server_context

HELLO = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"


async def test_one_socket_serves_several_lives(world: World) -> None:
    """After a stop, a new server with a new certificate answers at the same address."""
    with bind_loopback() as listener:
        addresses = set()
        for _ in range(3):
            key = TlsKey.generate()
            certificate = self_signed_server_certificate(key)
            app = application(ROUTES, clock_ms=lambda: world.now_ms)
            async with HttpServer(app, listener, server_context([certificate], key, None), SMALL) as server:
                addresses.add(server.address)
                assert (await ask(server, pinned_context(certificate), "/hello")).status == 200
        assert len(addresses) == 1


async def test_stopping_lets_an_answer_under_way_end_and_closes_idle_connections(world: World) -> None:
    """The request that was accepted is answered; a connection without one is closed at once."""
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(_: Call) -> Reply:
        entered.set()
        await release.wait()
        return Reply(text="done")

    route = Route(method="GET", path="/slow", handler=slow, who=(Caller.ANYONE,), answer=Reply, summary="Slow")
    with bind_loopback() as listener:
        server = HttpServer(application([route], clock_ms=lambda: 0), listener, world.tls, SMALL)
        await server.start()
        context = world.client()
        async with connected(server, context) as (idle, _), connected(server, context) as (reader, writer):
            writer.write(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
            await entered.wait()
            stopping = asyncio.create_task(server.stop(grace_s=10))
            assert await idle.read(-1) == b""
            release.set()
            answer = await reader.read(-1)
            await stopping
    assert answer.endswith(b'{"text":"done"}')
    assert b"connection: close" in answer
    assert server.connections == 0


async def test_stopping_is_bounded_when_a_handler_never_ends(world: World) -> None:
    """A handler that hangs is cancelled when the grace is over, and its connection is cut."""
    entered = asyncio.Event()
    cancelled: list[bool] = []

    async def hang(_: Call) -> Reply:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return Reply(text="")

    route = Route(method="GET", path="/hang", handler=hang, who=(Caller.ANYONE,), answer=Reply, summary="Hang")
    with bind_loopback() as listener:
        server = HttpServer(application([route], clock_ms=lambda: 0), listener, world.tls, SMALL)
        await server.start()
        async with connected(server, world.client()) as (reader, writer):
            writer.write(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
            await entered.wait()
            async with asyncio.timeout(10):
                await server.stop(grace_s=0.1)
                assert await reader.read(-1) == b""
    assert cancelled == [True]
    assert server.connections == 0


async def test_signal_handlers_and_the_server_name_are_left_alone(world: World) -> None:
    """The process keeps its own signal handlers; answers carry no server software and no date."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with served(world) as server:
        answer = await ask(server, world.client(), "/hello")
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert not {"server", "date"} & answer.headers.keys()


async def test_plain_http_serves_a_local_listener(world: World) -> None:
    """Without TLS there is no identity, and everything that needs one is refused."""
    with bind_loopback() as listener:
        app = application(ROUTES, clock_ms=lambda: world.now_ms)
        async with HttpServer(app, listener, None, SMALL) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(HELLO)
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
            writer.write(HELLO.replace(b"hello", b"whoami"))
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 401")
            writer.close()
            with pytest.raises(ConfigurationError):
                server.replace_tls(world.tls)


def test_a_taken_or_impossible_address_is_a_configuration_error() -> None:
    """Binding twice, a bad port and an unknown host are typed, not raw, errors."""
    with bind_loopback() as listener:
        port = listener.getsockname()[1]
        for host, bad in (("127.0.0.1", port), ("127.0.0.1", 70_000), ("256.0.0.1", 1)):
            with pytest.raises(ConfigurationError) as caught:
                bind(host, bad)
            assert caught.value.reason == "cannot_bind"
        assert listener.get_inheritable() is False
        assert listener.type & socket.SOCK_STREAM


def test_it_works_on_uvloop_too(world: World) -> None:
    """The production event loop serves, refuses and stops in the same way."""

    async def story() -> list[int]:
        async with served(world) as server:
            answers = [await ask(server, world.client(), path) for path in ("/hello", "/whoami", "/break")]
            async with connected(server, world.client()) as (reader, writer):
                writer.write(HELLO.replace(b"\r\n", b"\n"))
                refused = await reader.read(-1)
            return [*(answer.status for answer in answers), int(refused.split()[1])]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(story()) == [200, 401, 500, 400]


async def test_the_next_request_may_follow_the_last_byte_of_an_answer(world: World) -> None:
    """A peer that counts bytes does not wait for the application to say that it has ended; nor may it be cut off."""
    second_came = asyncio.Event()

    async def first(_: Call) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"12345"
            await second_came.wait()

        return StreamingResponse(pieces(), headers={"content-length": "5"})

    async def second(_: Call) -> Response:
        second_came.set()
        return Response(b"second")

    routes = [
        Route(method="GET", path=path, handler=handler, who=(Caller.ANYONE,), answer_media="text/plain", summary="-")
        for path, handler in (("/first", first), ("/second", second))
    ]
    with bind_loopback() as listener:
        server = HttpServer(application(routes, clock_ms=lambda: world.now_ms), listener, world.tls, SMALL)
        await server.start()
        async with connected(server, world.client()) as (reader, writer), asyncio.timeout(20):
            for path, body in ((b"/first", b"12345"), (b"/second", b"second")):
                writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
                await reader.readuntil(b"\r\n\r\n")
                assert await reader.readexactly(len(body)) == body
        await server.stop(grace_s=0.1)


@pytest.mark.parametrize("turns", range(8))
async def test_a_connection_in_the_moment_of_the_stop_is_never_lost(turns: int, world: World) -> None:
    """It is closed, or stays in the queue for the next server: nobody is left with a connection that nobody holds."""
    with bind_loopback() as listener:
        server = HttpServer(application(ROUTES, clock_ms=lambda: world.now_ms), listener, None, SMALL)
        await server.start()
        for _ in range(3):
            await asyncio.sleep(0)
        with socket.create_connection(listener.getsockname()[:2]) as client:
            for _ in range(turns):
                await asyncio.sleep(0)
            await server.stop()
            async with HttpServer(application(ROUTES, clock_ms=lambda: world.now_ms), listener, None, SMALL):
                client.setblocking(False)
                reader, writer = await asyncio.open_connection(sock=client)
                try:
                    writer.write(HELLO)
                    async with asyncio.timeout(10):
                        assert (await reader.read(12)) in {b"", b"HTTP/1.1 200"}
                except ConnectionError:
                    pass  # closed with our bytes unread
                finally:
                    writer.close()


async def test_a_handshake_that_ends_in_the_moment_of_the_stop_holds_nothing_up(world: World) -> None:
    """Whoever has just connected and says no farewell is cut off after its moment, not when TLS gives up (30 s)."""

    def connect() -> ssl.SSLSocket:
        wire = socket.create_connection(server.address)
        return world.client().wrap_socket(wire, server_hostname=None)

    with bind_loopback() as listener:
        server = HttpServer(application(ROUTES, clock_ms=lambda: world.now_ms), listener, world.tls, SMALL)
        await server.start()
        connecting = asyncio.create_task(asyncio.to_thread(connect))
        while not server.connections:  # noqa: ASYNC110 - from the very turn on in which it is there
            await asyncio.sleep(0)
        async with asyncio.timeout(15):
            await server.stop(grace_s=0.1)
        (await connecting).close()


async def test_accepting_goes_on_after_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files: what is queued waits a moment, and is served."""
    monkeypatch.setattr("aigovtool.transport.server._ACCEPT_PAUSE_S", 0.01)

    class Full(socket.socket):
        failures = 3

        def accept(self) -> tuple[socket.socket, object]:
            if self.failures:
                self.failures -= 1
                raise OSError(errno.EMFILE, "too many open files")
            return super().accept()

    with bind_loopback() as plain, Full(fileno=os.dup(plain.fileno())) as listener:
        async with HttpServer(application(ROUTES, clock_ms=lambda: world.now_ms), listener, None, SMALL):
            reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            writer.write(HELLO)
            async with asyncio.timeout(10):
                assert await reader.read(12) == b"HTTP/1.1 200"
            assert listener.failures == 0
            writer.close()
