"""The fault proxy: it changes nothing until it is told to, and then exactly what it was told to."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from aigovtool.testing.fault_proxy import Direction, FaultProxy, fault_proxy

HELLO = bytes(range(256))


@dataclass
class Echo:
    """A server that answers each byte with the same, and remembers what came."""

    proxy: FaultProxy
    got: bytearray = field(default_factory=bytearray)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                self.got += piece
                writer.write(piece)
                self.came.set()
        except OSError:
            pass
        finally:
            writer.close()
            self.ended.set()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.proxy.port)


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    made = Echo(FaultProxy("127.0.0.1", 0))
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.proxy._target = server.sockets[0].getsockname()[:2]
    await made.proxy.start()
    yield made
    await made.proxy.stop()
    server.close()


async def said(echo: Echo, data: bytes) -> bytes:
    """Say `data` on a new connection and return the echo; a reset ends it."""
    reader, writer = await echo.connect()
    try:
        writer.write(data)
        writer.write_eof()
        return await reader.read()
    finally:
        writer.close()


async def direct(echo: Echo) -> None:
    """Reach the server past the proxy, so that all that was on its way before has arrived."""
    other = Echo(echo.proxy)
    server = await asyncio.start_server(other.serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    writer.close()
    await other.ended.wait()
    server.close()


async def broken(reader: asyncio.StreamReader) -> bool:
    """Return whether the connection ends without another byte; it must not last."""
    try:
        return await asyncio.wait_for(reader.read(1), 10) == b""
    except ConnectionError:
        return True


async def dropped(echo: Echo, count: int) -> None:
    """Wait until so many bytes were thrown away."""
    async with asyncio.timeout(10):
        while sum(echo.proxy.dropped.values()) < count:  # noqa: ASYNC110 - the proxy counts, and tells nobody
            await asyncio.sleep(0)


async def test_bytes_pass_unchanged_both_ways(echo: Echo) -> None:
    """A megabyte, and the end of the stream."""
    data = HELLO * 4096
    assert await said(echo, data) == data
    assert echo.got == data
    assert echo.proxy.passed == dict.fromkeys(Direction, len(data))
    assert echo.proxy.accepted == 1


async def test_a_censor_lets_one_direction_through(echo: Echo) -> None:
    """What the client says arrives; what it should hear is gone for good, and the connection ends with `heal`."""
    reader, writer = await echo.connect()
    echo.proxy.drop(Direction.TO_CLIENT)
    writer.write(HELLO)
    await asyncio.wait_for(echo.came.wait(), 10)
    assert echo.got == HELLO
    await dropped(echo, len(HELLO))
    echo.proxy.heal()
    assert await broken(reader)
    writer.close()
    assert await said(echo, b"again") == b"again"


async def test_a_partition_lets_nothing_through(echo: Echo) -> None:
    """Not even the end of the stream; a connection without a hole survives it."""
    reader, writer = await echo.connect()
    silent_reader, silent = await echo.connect()
    echo.proxy.drop()
    writer.write(HELLO)
    writer.write_eof()
    await dropped(echo, len(HELLO))
    for _ in range(5):  # whatever was passed on would have arrived by then
        await direct(echo)
    assert (bytes(echo.got), echo.ended.is_set()) == (b"", False)
    echo.proxy.heal()
    assert await broken(reader)
    silent.write(b"still here")
    assert await silent_reader.readexactly(10) == b"still here"
    for each in (writer, silent):
        each.close()


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("pieces", [1, 256])
async def test_one_bit_is_flipped_once(direction: Direction, pieces: int, echo: Echo) -> None:
    """Of the byte that was named, counted from the command on, however the bytes are cut."""
    reader, writer = await echo.connect()
    writer.write(b"before")
    assert await reader.readexactly(6) == b"before"
    echo.proxy.flip_bit(direction, 200, bit=3)
    size = len(HELLO) // pieces
    back = b""
    for start in range(0, len(HELLO), size):
        writer.write(HELLO[start : start + size])
        back += await reader.readexactly(size)
    changed = HELLO[:200] + bytes([HELLO[200] ^ 8]) + HELLO[201:]
    assert back == changed
    assert echo.got[6:] == (changed if direction is Direction.TO_TARGET else HELLO)
    assert echo.proxy.flipped == 1
    writer.write(HELLO)
    assert await reader.readexactly(256) == HELLO
    writer.close()


async def test_a_cut_ends_open_connections_only(echo: Echo) -> None:
    """Both ends see it, and a new connection works."""
    reader, writer = await echo.connect()
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    echo.proxy.cut()
    assert await broken(reader)
    await asyncio.wait_for(echo.ended.wait(), 10)
    writer.close()
    assert await said(echo, b"again") == b"again"


@pytest.mark.parametrize("direction", Direction)
async def test_a_connection_is_cut_in_the_middle_of_what_passes(direction: Direction, echo: Echo) -> None:
    """After so many bytes in the direction that was named, as often as wanted; the next connection is whole."""
    echo.proxy.cut_after(direction, 100, times=2)
    for number in (1, 2):
        reader, writer = await echo.connect()
        writer.write(HELLO)
        assert await broken_after(reader) <= 100
        writer.close()
        await asyncio.wait_for(echo.ended.wait(), 10)
        assert echo.proxy.passed[direction] == 100 * number
        assert echo.proxy.cut_in_stream == number
    assert await said(echo, HELLO) == HELLO


async def broken_after(reader: asyncio.StreamReader) -> int:
    """Return how many bytes came before the connection broke, or ended."""
    count = 0
    try:
        while piece := await asyncio.wait_for(reader.read(65536), 10):
            count += len(piece)
    except ConnectionError:
        pass
    return count


async def test_new_connections_can_be_led_elsewhere(echo: Echo) -> None:
    """An open one stays where it is; whoever connects then is answered by another one."""
    reader, writer = await echo.connect()
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    other = Echo(echo.proxy)
    server = await asyncio.start_server(other.serve, "127.0.0.1", 0)
    echo.proxy.lead_to(server.sockets[0].getsockname()[1])
    assert await said(echo, b"to the other") == b"to the other"
    writer.write(b"b")
    assert await reader.readexactly(1) == b"b"
    assert (bytes(echo.got), bytes(other.got)) == (b"ab", b"to the other")
    writer.close()
    server.close()


async def test_new_connections_can_be_refused(echo: Echo) -> None:
    """Open ones go on; after `heal` everybody is let in."""
    reader, writer = await echo.connect()
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    echo.proxy.refuse()
    other_reader, other = await echo.connect()
    assert await broken(other_reader)
    writer.write(b"b")
    assert await reader.readexactly(1) == b"b"
    echo.proxy.heal()
    for each in (writer, other):
        each.close()
    assert await said(echo, b"again") == b"again"


async def test_a_delay_holds_each_piece(echo: Echo) -> None:
    """In the directions that are named, here in both: there and back take twice as long at least."""
    loop = asyncio.get_running_loop()
    reader, writer = await echo.connect()
    echo.proxy.delay(0.05)
    began = loop.time()
    writer.write(HELLO)
    assert await reader.readexactly(256) == HELLO
    assert loop.time() - began >= 0.1
    writer.close()


async def test_a_target_that_is_not_there_is_a_broken_connection(echo: Echo) -> None:
    """As it would be without a proxy between, and the proxy goes on."""
    alive = echo.proxy._target
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        echo.proxy._target = free.getsockname()
    reader, writer = await echo.connect()
    assert await broken(reader)
    writer.close()
    echo.proxy._target = alive
    assert await said(echo, b"again") == b"again"


def test_code_without_an_event_loop_can_use_it() -> None:
    """In a thread of its own, which is gone afterwards; commands come from here."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        with fault_proxy("127.0.0.1", server.getsockname()[1]) as proxy:
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
                peer, _ = server.accept()
                with peer:
                    client.sendall(b"hello")
                    assert peer.recv(5) == b"hello"
                    proxy.cut()
                    with pytest.raises(ConnectionError):
                        assert client.recv(1)
                        raise ConnectionResetError
            port = proxy.port
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=10)
