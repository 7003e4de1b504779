"""HTTP over the connections of one channel: what comes back, what is used again, and what a lost one means."""

import asyncio
import socket
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from aigovtool.consumer import lines as lines_module
from aigovtool.consumer.exchange import FailureKind
from aigovtool.consumer.lines import MAX_HEAD_BYTES, Answer, LineError, Lines, head_of
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.x509 import self_signed_server_certificate
from aigovtool.errors import InvalidValueError
from aigovtool.transport.tls import pinned_context, server_context

Respond = Callable[[asyncio.StreamWriter, int], Awaitable[None]]
HEAD = head_of("GET", "/", "127.0.0.1", (), None)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: 1\r\nX-A: 2\r\n\r\nok"


@dataclass
class Peer:
    """A server that answers as a test says, and what it saw."""

    lines: Lines
    certificate: bytes
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, body: bytes = b"", *, max_bytes: int = 1 << 20, head: bytes = HEAD) -> Answer:
        """Make an exchange."""
        async with asyncio.timeout(10):
            return await self.lines.exchange(head, body, max_bytes=max_bytes, connect_s=5)

    async def fails(self, **how: int) -> FailureKind:
        """Return how an exchange fails."""
        with pytest.raises(LineError) as caught:
            await self.ask(**how)  # type: ignore[arg-type]
        return caught.value.kind


@asynccontextmanager
async def served(respond: Respond) -> AsyncIterator[Peer]:
    """Serve over TLS: `respond` is told the number of each request of all connections."""
    key = TlsKey.generate()
    certificate = self_signed_server_certificate(key)

    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.connections += 1
        writers.append(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"content-length: ")), 0
                )
                peer.requests.append(head + await reader.readexactly(length))
                await respond(writer, len(peer.requests))
                await writer.drain()
        peer.ended.set()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=server_context([certificate], key, None).context)
    port = server.sockets[0].getsockname()[1]
    peer = Peer(Lines(pinned_context(certificate), "127.0.0.1", port), certificate)
    try:
        yield peer
    finally:
        peer.lines.close()
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.01)


def says(*answers: bytes) -> Respond:
    """Answer with these in turn, and with the last one from then on."""

    async def respond(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(answers[min(number, len(answers)) - 1])

    return respond


def ends_after(answer: bytes) -> Respond:
    """Answer, and end the connection."""

    async def respond(writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    return respond


# -- Answers ------------------------------------------------------------------------------------------


async def test_an_answer_is_whole_and_says_who_gave_it() -> None:
    """Status, fields in lower case, several of one name together, body, and the certificate of the connection."""
    async with served(says(OK)) as peer:
        answer = await peer.ask()
    assert (answer.status, answer.body, answer.headers["x-a"]) == (200, b"ok", "1, 2")
    assert answer.certificate == peer.certificate


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ],
)
async def test_an_answer_may_come_in_chunks_or_be_announced(answer: bytes) -> None:
    """As servers do it."""
    async with served(says(answer)) as peer:
        assert (await peer.ask()).body == b"ok"


@pytest.mark.parametrize("size", [0, 1, 15 << 10, (15 << 10) + 1, 3 << 20])
async def test_a_body_goes_out_as_it_is(size: int) -> None:
    """With the head or behind it."""
    body = bytes(range(256)) * (size // 256 + 1)
    head = head_of("POST", "/x", "h", (("a", "b"),), size)
    async with served(says(OK)) as peer:
        await peer.ask(body[:size], head=head)
    assert peer.requests == [head + body[:size]]


async def test_a_connection_is_used_again() -> None:
    """One for exchanges after each other, several for those at once."""
    async with served(says(OK)) as peer:
        for _ in range(3):
            await peer.ask()
        assert peer.connections == 1
        await asyncio.gather(*(peer.ask() for _ in range(4)))
        assert 2 <= peer.connections <= 4


async def test_a_server_that_wants_no_more_is_connected_to_again() -> None:
    """It says so, or ends the connection while nobody asks."""
    closing = OK.replace(b"x-a: 1", b"connection: close")
    async with served(says(closing, OK)) as peer:
        await peer.ask()
        await peer.ask()
        assert peer.connections == 2
    async with served(ends_after(OK)) as peer:
        await peer.ask()
        await asyncio.sleep(0.05)
        await peer.ask()
        assert peer.connections == 2


async def test_a_connection_that_was_idle_for_long_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The enclave ends it at any moment."""
    monkeypatch.setattr(lines_module, "_IDLE_S", 0.05)
    async with served(says(OK)) as peer:
        await peer.ask()
        await asyncio.sleep(0.1)
        await peer.ask()
        assert peer.connections == 2


async def test_what_nobody_asked_for_ends_the_connection() -> None:
    """Attack: a second answer behind the first, which the next request would take for its own."""
    async with served(says(OK + OK.replace(b"ok", b"no"), OK)) as peer:
        first = await peer.ask()
        assert (first.body, first.headers["x-a"]) == (b"ok", "1, 2")
        assert (await peer.ask()).body == b"ok"
        assert peer.connections == 2


async def test_no_more_connections_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait for one; whoever waits for too long was not heard by anybody."""
    gate = asyncio.Event()

    async def respond(writer: asyncio.StreamWriter, _: int) -> None:
        await gate.wait()
        writer.write(OK)

    monkeypatch.setattr(lines_module, "_MOST", 2)
    async with served(respond) as peer:
        waiting = [asyncio.create_task(peer.ask()) for _ in range(2)]
        await asyncio.sleep(0.1)
        with pytest.raises(LineError) as caught:
            await peer.lines.exchange(HEAD, b"", max_bytes=100, connect_s=0.1)
        assert caught.value.kind is FailureKind.CROWDED
        gate.set()
        assert [one.body for one in await asyncio.gather(*waiting)] == [b"ok"] * 2
        assert peer.connections == 2


# -- What does not end well ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", FailureKind.HUNG_UP),
        (b"HTTP/1.1 200 OK\r\ncontent-le", FailureKind.HUNG_UP),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok", FailureKind.LOST),
        (b"SSH-2.0-OpenSSH_9.2\r\n", FailureKind.BAD_ANSWER),
        (b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", FailureKind.BAD_ANSWER),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", FailureKind.BAD_ANSWER),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nokay", FailureKind.BAD_ANSWER),
        (b"HTTP/1.1 200 OK\r\nx: " + b"a" * (MAX_HEAD_BYTES + 1) + b"\r\n\r\n", FailureKind.BAD_ANSWER),
    ],
    ids=[
        "nothing",
        "half a head",
        "half a body",
        "another protocol",
        "an upgrade",
        "no length",
        "two lengths",
        "a huge head",
    ],
)
async def test_what_a_lost_or_bad_answer_means(answer: bytes, kind: FailureKind) -> None:
    """The core decides by it what may be repeated."""
    async with served(ends_after(answer)) as peer:
        assert await peer.fails() is kind


async def test_a_connection_that_ends_before_the_request_hung_up() -> None:
    """A server on asyncio refuses a client's certificate so; the core then asks whether it is of use to try again."""
    async with served(says(OK)) as peer:
        line = await peer.lines._connect(5)
        line.abort()
        with pytest.raises(LineError) as caught:
            await line.exchange(HEAD, b"", 100)
        assert caught.value.kind is FailureKind.HUNG_UP
        assert peer.requests == []


async def test_an_answer_that_is_too_large_is_cut_off() -> None:
    """It is not read to its end."""
    async with served(says(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + bytes(100_000))) as peer:
        assert await peer.fails(max_bytes=1000) is FailureKind.TOO_LARGE


async def test_an_answer_in_tiny_chunks_takes_no_more_memory_than_it_is_long() -> None:
    """Whoever ends TLS before an enclave may answer like this: 65 MiB in chunks of two bytes took two gigabytes."""
    chunks = b"2\r\nab\r\n" * 8_192

    async def respond(writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(64):
            writer.write(chunks)
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async with served(respond) as peer:
        tracemalloc.start()
        try:
            answer = await peer.ask(max_bytes=1 << 20)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert answer.body == b"ab" * (1 << 19)
    assert peak < 8 << 20


async def test_nobody_there_is_unreached() -> None:
    """Nothing can have been received."""
    async with served(says(OK)) as peer:
        port = peer.lines._port
    key = TlsKey.generate()
    lines = Lines(pinned_context(self_signed_server_certificate(key)), "127.0.0.1", port)
    with pytest.raises(LineError) as caught:
        await lines.exchange(HEAD, b"", max_bytes=100, connect_s=5)
    assert caught.value.kind is FailureKind.UNREACHED


async def test_another_certificate_is_told() -> None:
    """The core attests afresh then."""
    async with served(says(OK)) as peer:
        other = self_signed_server_certificate(TlsKey.generate())
        lines = Lines(pinned_context(other), "127.0.0.1", peer.lines._port)
        with pytest.raises(LineError) as caught:
            await lines.exchange(HEAD, b"", max_bytes=100, connect_s=5)
    assert caught.value.kind is FailureKind.OTHER_CERTIFICATE


async def test_a_handshake_that_does_not_come_is_a_timeout_of_connecting() -> None:
    """A host that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        lines = Lines(
            pinned_context(self_signed_server_certificate(TlsKey.generate())), "127.0.0.1", listener.getsockname()[1]
        )
        with pytest.raises(LineError) as caught:
            await lines.exchange(HEAD, b"", max_bytes=100, connect_s=0.1)
    assert caught.value.kind is FailureKind.CONNECT_TIMEOUT


async def test_who_is_cancelled_leaves_no_connection() -> None:
    """Its answer would be taken for that of the next request."""

    async def never(_: asyncio.StreamWriter, __: int) -> None:
        return

    async with served(never) as peer:
        asking = asyncio.create_task(peer.ask())
        while not peer.requests:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        async with asyncio.timeout(5):
            await peer.ended.wait()
        assert not peer.lines._idle


async def test_a_closed_channel_closes_what_is_idle_and_later_what_is_in_use() -> None:
    """An exchange under way gets its answer."""
    gate = asyncio.Event()

    async def respond(writer: asyncio.StreamWriter, number: int) -> None:
        if number > 1:
            await gate.wait()
        writer.write(OK)

    async with served(respond) as peer:
        await peer.ask()
        asking = asyncio.create_task(peer.ask())
        await asyncio.sleep(0.05)
        peer.lines.close()
        gate.set()
        assert (await asking).body == b"ok"
        async with asyncio.timeout(5):
            await peer.ended.wait()
        assert not peer.lines._idle


@pytest.mark.parametrize("header", [("a\r\nb", "c"), ("a", "b\r\nc: d"), ("a", "b\n")])
def test_a_field_is_one_line(header: tuple[str, str]) -> None:
    """Attack: a value of a program's that ends the line, and begins another request."""
    with pytest.raises(InvalidValueError) as caught:
        head_of("GET", "/", "h", (header,), None)
    assert caught.value.reason == "bad_header"
