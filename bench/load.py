"""`python -m bench.load`: one process that asks over some connections, at once or at a given pace (`bench.pace`).

The same generator asks every server, so it knows no more of HTTP/1.1 than each of them needs: requests are made
beforehand, an answer ends where `content-length` or the last chunk says. It is told what to do on standard input, one
JSON line; when all connections are open and each has had an answer it writes `ready`, waits for a line, asks until the
time is over and every answer is there, and writes what it saw as one JSON line.
"""

import asyncio
import resource
import ssl
import sys
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import uvloop

from aigovtool.codec import Message, decode, encode
from bench.pace import AtOnce, Even, Pace

_HEAD_END: Final = b"\r\n\r\n"
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
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
        self.head, self.body = Path(plan.head).read_bytes(), Path(plan.body).read_bytes()
        self.counting = False
        self.pace: Pace = AtOnce(0.0)  # nothing is asked after the first
        self.took = array("d")
        self.failed = 0
        self.first_failure = ""
        self._made = 0

    def request(self) -> bytes:
        """Return the next request."""
        self._made += 1
        return self.head.replace(_UNIQUE, b"%032x" % (time.time_ns() << 24 | self._made & 0xFFFFFF), 1) + self.body

    def answered(self, began: float, answer: bytes) -> None:
        """Count an answer."""
        now = time.perf_counter()
        if not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
            self.failed += 1
            self.first_failure = self.first_failure or answer[:600].decode("latin-1")
        elif self.counting:
            self.took.append(now - began)


class _Asker(asyncio.Protocol):
    """One connection."""

    def __init__(self, tally: _Tally, over: "asyncio.Future[None]") -> None:
        self._tally, self._over = tally, over
        self._seen = bytearray()
        self._ends_at: int | None = None
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def begin(self, over: "asyncio.Future[None]") -> None:
        """Ask as the pace says, until it says that it is over."""
        self._over = over
        self._tally.pace.begin(self)

    def ask(self, began: float) -> None:
        """Ask once; `began` is from when on its answer is waited for."""
        self._began = began
        self._transport.write(self._tally.request())  # type: ignore[attr-defined]

    def end(self) -> None:
        """Say that there is nothing more to ask."""
        if not self._over.done():
            self._over.set_result(None)

    def data_received(self, data: bytes) -> None:
        seen = self._seen
        seen += data
        if self._ends_at is None:
            end = seen.find(_HEAD_END)
            if end < 0:
                return
            self._ends_at = _end_of(bytes(seen[:end]).lower(), end)
        if (len(seen) < self._ends_at) if self._ends_at >= 0 else not seen.endswith(_LAST_CHUNK):
            return
        answer = bytes(seen[:600])
        seen.clear()
        self._ends_at = None
        self._tally.answered(self._began, answer)
        self._tally.pace.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._over.done():
            self._over.set_exception(exc or ConnectionError("closed by the server"))


def _end_of(head: bytes, end: int) -> int:
    """Return where an answer ends, or -1 if it comes in chunks."""
    at = head.find(b"content-length:")
    if at < 0:
        return -1
    return end + len(_HEAD_END) + int(head[at + 15 :].split(b"\r\n", 1)[0])


async def _load(plan: Plan) -> Seen:
    loop = asyncio.get_running_loop()
    tally = _Tally(plan)
    context = client_tls(plan.certificate) if plan.tls else None
    opened = [
        (
            await loop.create_connection(
                lambda: _Asker(tally, loop.create_future()), "127.0.0.1", plan.port, ssl=context
            )
        )[1]
        for _ in range(plan.connections)
    ]
    await _together(opened)  # each asks once
    say(b"ready")
    await loop.run_in_executor(None, sys.stdin.buffer.readline)
    began, cpu_s = time.perf_counter(), processor_s()
    tally.counting = True
    if plan.per_s:
        with Even(loop, plan.per_s, plan.seconds) as tally.pace:
            await _together(opened)
    else:
        tally.pace = AtOnce(began + plan.seconds)
        await _together(opened)
    return Seen.of(
        tally.took,
        seconds=time.perf_counter() - began,
        cpu_s=processor_s() - cpu_s,
        failed=tally.failed,
        first_failure=tally.first_failure,
    )


async def _together(askers: list[_Asker]) -> None:
    ends = [asyncio.get_running_loop().create_future() for _ in askers]
    for asker, end in zip(askers, ends, strict=True):
        asker.begin(end)
    await asyncio.gather(*ends)


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
    say(encode(uvloop.run(_load(plan))))


if __name__ == "__main__":
    main()
