"""Fast paths for tests: one whose requests a test answers when it likes, and one that gives everything back."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from tests.transport.conftest import SMALL, Reply, World, connected, served

from aigovtool.transport.bounds import HttpLimits
from aigovtool.transport.connection import Connection
from aigovtool.transport.fast_path import Answer, FastRequest, last, ok
from aigovtool.transport.guard import GuardedHttpProtocol
from aigovtool.transport.routes import Call, Caller, Route
from aigovtool.transport.server import HttpServer
from aigovtool.transport.wire import Head

LINE: Final = b"POST /fast HTTP/1.1"
BODY: Final = b"0123456789"
REQUEST: Final = LINE + b"\r\nHost: a\r\nX-Test: y\r\nContent-Length: 10\r\n\r\n" + BODY
#: What the fake fast path answers, as no application does.
FAST: Final = ok("content-type: text/plain\r\n", b"fast")
#: What of it goes over a connection: one that goes on, and one that ends with it.
SENT, SENT_LAST = b"".join(FAST), b"".join(last(FAST))


class Application:
    """What is served at the path that the fast path is for, without one or when it gives back."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    @property
    def routes(self) -> list[Route]:
        """One route, which tells what came and how often."""

        async def slow(call: Call) -> Reply:
            self.bodies.append(await call.request.body())
            return Reply(text=f"slow {len(self.bodies[-1])}")

        return [
            Route(
                method="POST",
                path="/fast",
                handler=slow,
                who=(Caller.ANYONE,),
                stream_body=True,
                answer=Reply,
                summary="Slow",
            )
        ]


class FakeFastPath:
    """Wants requests of one line, and keeps each that it takes until the test answers it."""

    def __init__(self) -> None:
        self.takes = True
        self.shown: list[Head] = []
        self.offered: list[FastRequest] = []
        #: Larger bodies take room, if there is any.
        self.small_bytes = 1 << 30
        self.has_room = True
        self.asked_for_room: list[Head] = []
        #: How often each room that was taken has been given back.
        self.rooms: list[int] = []
        self._taken: asyncio.Queue[tuple[FastRequest, Answer]] = asyncio.Queue()

    def wants(self, head: Head) -> bool:
        self.shown.append(head)
        return self._is_for_it(head) and (head.length or 0) <= self.small_bytes

    def room_for(self, head: Head, connection: Connection) -> Callable[[], None] | None:
        assert connection.peer is not None
        self.asked_for_room.append(head)
        if not self._is_for_it(head) or not self.has_room:
            return None
        self.rooms.append(0)
        return partial(self._give_back, len(self.rooms) - 1)

    def _give_back(self, room: int) -> None:
        self.rooms[room] += 1

    def _is_for_it(self, head: Head) -> bool:
        return head.line == LINE and head.length is not None and b"expect" not in head.fields

    def take(self, request: FastRequest, answer: Answer) -> bool:
        self.offered.append(request)
        if self.takes:
            self._taken.put_nowait((request, answer))
        return self.takes

    async def taken(self) -> tuple[FastRequest, Answer]:
        """Return the next request that it took, and what answers it."""
        async with asyncio.timeout(10):
            return await self._taken.get()


class GivesBack:
    """Has every ordinary request, those with a body by room, and gives each back: at once, or later."""

    def __init__(self, *, later: bool) -> None:
        self._later: Final = later

    def wants(self, head: Head) -> bool:
        return not head.length

    def room_for(self, _: Head, __: Connection) -> Callable[[], None]:
        return lambda: None

    def take(self, _: FastRequest, answer: Answer) -> bool:
        if self._later:
            asyncio.get_running_loop().call_soon(answer, None)
        return self._later


def held_of(protocol: GuardedHttpProtocol) -> bytes:
    """Return all that is held for the fast path of a connection, with what it has taken and not answered."""
    assert protocol._fast is not None
    held = protocol._fast._held
    return held.head + b"".join(held._body._pieces)


@dataclass(frozen=True)
class Met:
    """One connection, and what is behind it."""

    server: HttpServer
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    fast: FakeFastPath
    slow: Application

    @property
    def protocol(self) -> GuardedHttpProtocol:
        """The server's side of the connection, the only one."""
        [protocol] = self.server._open()
        return protocol

    async def one_answer(self) -> bytes:
        """Read one answer, as it came and with what leads to it, and nothing behind it."""
        async with asyncio.timeout(20):
            head = await self.reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 100 "):
                return head + await self.one_answer()
            [length] = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            return head + await self.reader.readexactly(int(length.partition(b":")[2]))

    async def rest(self) -> bytes:
        """Read all that comes until the server ends the connection."""
        async with asyncio.timeout(20):
            return await self.reader.read(-1)


@asynccontextmanager
async def met(
    world: World,
    bounds: HttpLimits = SMALL,
    *,
    context: ssl.SSLContext | None = None,
    fast: bool = True,
    routes: Sequence[Route] = (),
) -> AsyncIterator[Met]:
    """Connect to a server with such a fast path, or with none: over TLS if there is a context, else plain."""
    path, slow = FakeFastPath(), Application()
    fast_path, routes = path if fast else None, [*slow.routes, *routes]
    async with (
        served(world, bounds, plain=context is None, routes=routes, fast_path=fast_path) as server,
        connected(server, context) as (reader, writer),
    ):
        yield Met(server, reader, writer, path, slow)


async def until(holds: Callable[[], object]) -> None:
    """Let the loop turn until it holds."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for is not told by any event
            await asyncio.sleep(0.001)


async def apart(writer: asyncio.StreamWriter, *pieces: bytes) -> None:
    """Send pieces so that each is read before the next one comes, as far as that can be had."""
    for piece in pieces:
        writer.write(piece)
        for _ in range(4):
            await asyncio.sleep(0)
