"""`python -m bench.load`: one process that asks over some connections, at once or at a given pace (`bench.pace`).

The same generator asks every server, so it knows no more of HTTP/1.1 than each of them needs: requests are made
beforehand, an answer ends where `content-length` or the last chunk says. It is told what to do on standard input, one
JSON line; when all connections are open and each has had an answer it writes `ready`, waits for a line, asks until the
time is over and every answer is there, and writes what it saw as one JSON line.
"""

import resource
import socket
import ssl
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from aigovtool.codec import Message, decode, encode
from bench.loop import Loop
from bench.pace import AtOnce, Even, Pace

_HEAD_END: Final = b"\r\n\r\n"
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
_LENGTH: Final = b"content-length:"
_AT_ONCE_BYTES: Final = 256 << 10
#: What stands in the prepared head for 32 digits that are other ones in each request.
_UNIQUE: Final = b"@" * 32


class Plan(Message):
    """What to ask: `head` and `body` are files, sent as they are, but for 32 `@` that become a number of the request.

    With `per_s` it asks so often, evenly, whether or not answers have come; or else each connection asks as soon as it
    has its last answer. With `tls` it is TLS 1.3, and the server's certificate is not looked at; `certificate` is a
    file with one to show and its key.
    """

    port: int
    connections: int
    seconds: float
    head: str
    body: str
    per_s: float = 0.0
    tls: bool = False
    certificate: str = ""


class Seen(Message):
    """What came back. Times are in seconds; `cpu_s` is this process's own processor time in the measured part."""

    answers: int
    failed: int
    seconds: float
    cpu_s: float
    p50_s: float
    p99_s: float
    first_failure: str = ""

    @classmethod
    def of(
        cls, took: Sequence[float], *, seconds: float, cpu_s: float, failed: int = 0, first_failure: str = ""
    ) -> "Seen":
        """Return what the times of single answers come to: many millions, where it asks for long."""
        ordered = np.sort(np.asarray(took if len(took) else [0.0], np.float64))
        return cls(
            answers=len(took),
            failed=failed,
            seconds=seconds,
            cpu_s=cpu_s,
            p50_s=float(ordered[len(ordered) // 2]),
            p99_s=float(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]),
            first_failure=first_failure,
        )


class _Tally:
    """The answers of all connections."""

    def __init__(self, plan: Plan) -> None:
        head, body = Path(plan.head).read_bytes(), Path(plan.body).read_bytes()
        self._before, self._unique, after = head.partition(_UNIQUE)
        self._after = after + body
        self.counting = False
        #: Connections that have not heard that there is nothing more to ask.
        self.asking = 0
        self.pace: Pace = AtOnce(0.0)  # nothing is asked after the first
        self.took = array("d")
        self.failed = 0
        self.first_failure = ""
        self._made = 0

    def request(self) -> bytes:
        """Return the next request."""
        self._made += 1
        if not self._unique:
            return self._before + self._after
        number = time.time_ns() << 24 | self._made & 0xFFFFFF
        return b"%b%032x%b" % (self._before, number, self._after)

    def answered(self, began: float, answer: bytes | bytearray) -> None:
        """Count an answer."""
        now = time.perf_counter()
        if not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
            self.failed += 1
            self.first_failure = self.first_failure or answer[:600].decode("latin-1")
        elif self.counting:
            self.took.append(now - began)


class _Asker:
    """One connection."""

    def __init__(self, plan: Plan, tally: _Tally, loop: Loop) -> None:
        self._tally, self._loop = tally, loop
        self._socket = socket.create_connection(("127.0.0.1", plan.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pending: Callable[[], int] = lambda: 0
        if plan.tls:
            wrapped = client_tls(plan.certificate).wrap_socket(self._socket)
            self._socket, self._pending = wrapped, wrapped.pending
        self._socket.setblocking(False)
        self._seen = bytearray()
        self._ends_at: int | None = None
        self._began = 0.0
        loop.add(self._socket.fileno(), self._readable)

    def begin(self) -> None:
        """Ask as the pace says, until it says that it is over."""
        self._tally.asking += 1
        self._tally.pace.begin(self)

    def ask(self, began: float) -> None:
        """Ask once; `began` is from when on its answer is waited for."""
        self._began = began
        self._send(memoryview(self._tally.request()))

    def end(self) -> None:
        """Hear that there is nothing more to ask."""
        self._tally.asking -= 1

    def _send(self, rest: memoryview) -> None:
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._loop.when_writable(self._socket.fileno(), partial(self._send, rest))
                return

    def _readable(self) -> None:
        try:
            self._take(self._socket.recv(_AT_ONCE_BYTES))
            while self._pending():
                self._take(self._socket.recv(_AT_ONCE_BYTES))
        except (BlockingIOError, ssl.SSLWantReadError):
            return

    def _take(self, data: bytes) -> None:
        if not data:
            raise ConnectionError("closed by the server")
        seen = self._seen
        seen += data
        if self._ends_at is None:
            end = seen.find(_HEAD_END)
            if end < 0:
                return
            self._ends_at = _end_of(seen[:end], end)
        if (len(seen) < self._ends_at) if self._ends_at >= 0 else not seen.endswith(_LAST_CHUNK):
            return
        answer, self._seen = seen, bytearray()
        self._ends_at = None
        self._tally.answered(self._began, answer)
        self._tally.pace.free(self)


def _end_of(head: bytearray, end: int) -> int:
    """Return where an answer ends, or -1 if it comes in chunks."""
    at = head.find(_LENGTH)
    if at < 0:
        head = head.lower()
        at = head.find(_LENGTH)
    if at < 0:
        return -1
    stop = head.find(b"\r", at)
    return end + len(_HEAD_END) + int(head[at + len(_LENGTH) : len(head) if stop < 0 else stop])


def _load(plan: Plan) -> Seen:
    loop, tally = Loop(), _Tally(plan)
    askers = [_Asker(plan, tally, loop) for _ in range(plan.connections)]
    _together(loop, tally, askers)  # each asks once
    say(b"ready")
    sys.stdin.buffer.readline()
    began, cpu_s = time.perf_counter(), processor_s()
    tally.counting = True
    if plan.per_s:
        with Even(loop, plan.per_s, plan.seconds) as tally.pace:
            _together(loop, tally, askers)
    else:
        tally.pace = AtOnce(began + plan.seconds)
        _together(loop, tally, askers)
    return Seen.of(
        tally.took,
        seconds=time.perf_counter() - began,
        cpu_s=processor_s() - cpu_s,
        failed=tally.failed,
        first_failure=tally.first_failure,
    )


def _together(loop: Loop, tally: _Tally, askers: list[_Asker]) -> None:
    for asker in askers:
        asker.begin()
    while tally.asking:
        loop.turn()


def client_tls(certificate: str = "") -> ssl.SSLContext:
    """Return TLS 1.3 that looks at no certificate of a server, and shows one of its own if there is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate:
        context.load_cert_chain(certificate)
    return context


def processor_s() -> float:
    """Return the processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def say(line: bytes) -> None:
    """Write a line to whoever started this."""
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Run."""
    plan = decode(sys.stdin.buffer.readline().strip(), Plan)
    say(encode(_load(plan)))


if __name__ == "__main__":
    main()
