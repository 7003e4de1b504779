"""A tap: forwards TCP unchanged and keeps every byte, as whoever owns the network can."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_PIECE = 1 << 16
_HEADER = 5
#: Content types of TLS records (RFC 8446, section 5.1).
CHANGE_CIPHER_SPEC, HANDSHAKE, APPLICATION_DATA = 20, 22, 23


@dataclass
class Tapped:
    """What one connection carried: from whoever opened it, and back."""

    sent: bytearray = field(default_factory=bytearray)
    answered: bytearray = field(default_factory=bytearray)


class Tap:
    """Listens on `port` and forwards to one target."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.connections: list[Tapped] = []
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Cut everything."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                target = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            tapped = Tapped()
            self.connections.append(tapped)
            self._sockets += [client, target]
            for source, sink, kept in ((client, target, tapped.sent), (target, client, tapped.answered)):
                threading.Thread(target=_pump, args=(source, sink, kept), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
    with suppress(OSError):
        while piece := source.recv(_PIECE):
            kept += piece
            sink.sendall(piece)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def tapping(target: int) -> Iterator[Tap]:
    """Tap all connections to a port of this machine that go through the tap."""
    tap = Tap(target)
    try:
        yield tap
    finally:
        tap.close()


def records(stream: bytes) -> list[tuple[int, bytes]]:
    """Return the TLS records of a stream, as content type and content; the last may be cut off."""
    found = []
    while len(stream) >= _HEADER:
        length = int.from_bytes(stream[3:5])
        found.append((stream[0], bytes(stream[_HEADER : _HEADER + length])))
        stream = stream[_HEADER + length :]
    return found
