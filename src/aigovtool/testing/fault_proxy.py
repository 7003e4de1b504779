"""A TCP proxy on loopback that fails on command: what a hostile host, or a bad network, can do to a connection.

```python
with fault_proxy("127.0.0.1", custodian_port) as proxy:
    ...  # the enclave is told that its custodian is at proxy.port
    proxy.drop(Direction.TO_CLIENT)  # the custodian's words no longer arrive
    proxy.heal()
```

Rules:

1. Bytes are forwarded both ways, unchanged and in order, until a command says otherwise. A command applies to every
   connection, open or new, from the moment it is given, and lasts until `heal`.
2. What is dropped is gone. A stream with a hole in it is of no use to TLS, so `heal` ends the connections that have
   one; their ends see a reset and may connect anew.
3. While a direction is dropped, the end of its stream is not passed on either: the other side must notice by itself.
4. Commands may be given from any thread. `cut` and `heal` reset connections a moment after they return.

It is for tests and drills: it understands nothing of what it forwards, and never runs in a product's process.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final

_PIECE_BYTES: Final = 1 << 16
#: SO_LINGER with a time of zero: closing sends a reset, as a broken connection does.
_RESET: Final = struct.pack("ii", 1, 0)


class Direction(Enum):
    """Which way bytes travel."""

    TO_TARGET = "to_target"
    TO_CLIENT = "to_client"


@dataclass(slots=True)
class _Flip:
    """A bit that is to be changed: of which byte, counted from the command on."""

    bytes_left: int
    mask: int


@dataclass(slots=True)
class _Cut:
    """Where connections are to be cut: after how many bytes, of which some are left, and how many times."""

    size: int
    bytes_left: int
    times: int


@dataclass(slots=True, eq=False)
class _Connection:
    client: asyncio.StreamWriter
    target: asyncio.StreamWriter
    has_hole: bool = False

    def reset(self) -> None:
        for writer in (self.client, self.target):
            wire = writer.get_extra_info("socket")
            with suppress(OSError):
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


class FaultProxy:
    """Forwards to one target. Start it on an event loop, or use `fault_proxy` beside code without one."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._dropped: frozenset[Direction] = frozenset()
        self._delay_s: dict[Direction, float] = {}
        self._flips: dict[Direction, _Flip] = {}
        self._cuts: dict[Direction, _Cut] = {}
        self._refusing = False
        self._connections: Final[set[_Connection]] = set()
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: asyncio.Server | None = None
        self.port = 0
        #: Bytes that were passed on and thrown away, connections taken, bits flipped, cuts: since the start.
        self.passed: Final = dict.fromkeys(Direction, 0)
        self.dropped: Final = dict.fromkeys(Direction, 0)
        self.accepted = 0
        self.flipped = 0
        self.cut_in_stream = 0

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1 (`port`)."""
        self._loop = asyncio.get_running_loop()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End every connection, and listen no more."""
        if self._server is not None:
            self._server.close()
        self._reset(self._connections)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- Commands -----------------------------------------------------------------------------

    def drop(self, *directions: Direction) -> None:
        """Pass nothing on in these directions (none named: in both): a censor, or a partition."""
        self._dropped = frozenset(directions or Direction)

    def delay(self, seconds: float, *directions: Direction) -> None:
        """Keep each piece for so long before it is passed on."""
        self._delay_s = dict.fromkeys(directions or Direction, seconds)

    def flip_bit(self, direction: Direction, byte: int, *, bit: int = 0) -> None:
        """Change one bit of the byte with this number (from 0), counted from now on over all connections."""
        self._flips[direction] = _Flip(byte, 1 << bit)

    def refuse(self) -> None:
        """Reset each new connection at once; open ones go on."""
        self._refusing = True

    def cut(self) -> None:
        """Reset every open connection; new ones are taken."""
        self._soon(lambda: self._reset(self._connections))

    def cut_after(self, direction: Direction, size: int, *, times: int = 1) -> None:
        """Reset the connection over which so many more bytes have passed, counted over all connections.

        From now on, and again from each cut on, until it was done so many times.
        """
        self._cuts[direction] = _Cut(size, size, times)

    def lead_to(self, port: int) -> None:
        """Lead connections that are opened from now on to another port of the same host."""
        self._target = (self._target[0], port)

    def heal(self) -> None:
        """Pass everything on again; connections with a hole are reset. Where they lead stays."""
        self._dropped, self._delay_s, self._flips, self._refusing = frozenset(), {}, {}, False
        self._cuts = {}
        self._soon(lambda: self._reset({each for each in self._connections if each.has_hole}))

    def _soon(self, act: Callable[[], None]) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(act)

    @staticmethod
    def _reset(connections: set[_Connection]) -> None:
        for connection in tuple(connections):
            connection.reset()

    # -- Connections --------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        try:
            if self._refusing:
                _Connection(writer, writer).reset()
                return
            target_reader, target_writer = await asyncio.open_connection(*self._target)
        except OSError:  # nobody there: the client sees what it would see without us, a moment later
            _Connection(writer, writer).reset()
            return
        connection = _Connection(writer, target_writer)
        self._connections.add(connection)
        try:
            await asyncio.gather(
                self._pump(connection, reader, target_writer, Direction.TO_TARGET),
                self._pump(connection, target_reader, writer, Direction.TO_CLIENT),
            )
        except OSError:
            connection.reset()  # one end broke: so does the other
        finally:
            self._connections.discard(connection)
            for each in (writer, target_writer):
                each.close()

    async def _pump(
        self, connection: _Connection, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: Direction
    ) -> None:
        while piece := await source.read(_PIECE_BYTES):
            piece = self._with_flips(direction, piece)
            if seconds := self._delay_s.get(direction):
                await asyncio.sleep(seconds)
            if direction in self._dropped:
                connection.has_hole = True
                self.dropped[direction] += len(piece)
                continue
            left = self._left_before_cut(direction, piece)
            sink.write(piece[:left])
            self.passed[direction] += len(piece[:left])
            await sink.drain()
            if left is not None:
                self.cut_in_stream += 1
                connection.reset()
                return
        if direction in self._dropped:
            connection.has_hole = True
        else:
            sink.write_eof()

    def _left_before_cut(self, direction: Direction, piece: bytes) -> int | None:
        """Return how much of a piece passes before the connection is cut; None for all of it, and no cut."""
        cut = self._cuts.get(direction)
        if cut is None:
            return None
        left = cut.bytes_left
        if left >= len(piece):
            cut.bytes_left -= len(piece)
            return None
        cut.bytes_left, cut.times = cut.size, cut.times - 1
        if not cut.times:
            del self._cuts[direction]
        return left

    def _with_flips(self, direction: Direction, piece: bytes) -> bytes:
        flip = self._flips.get(direction)
        if flip is None:
            return piece
        if flip.bytes_left >= len(piece):
            flip.bytes_left -= len(piece)
            return piece
        changed = bytearray(piece)
        changed[flip.bytes_left] ^= flip.mask
        del self._flips[direction]
        self.flipped += 1
        return bytes(changed)


@contextmanager
def fault_proxy(host: str, port: int) -> Iterator[FaultProxy]:
    """Run a proxy in a thread of its own."""
    proxy = FaultProxy(host, port)
    started, loop = threading.Event(), asyncio.new_event_loop()

    def serve() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(proxy.start())
        started.set()
        loop.run_forever()
        loop.run_until_complete(proxy.stop())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    thread = threading.Thread(target=serve, name="fault-proxy", daemon=True)
    thread.start()
    started.wait()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
