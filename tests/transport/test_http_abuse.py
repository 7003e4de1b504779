"""Requests that have two readings, or that waste memory or time: one refusal, then the end."""

import asyncio
import resource
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from tests.transport.conftest import Answer, World, all_closed, connected, exchange, parse_answers, served
from tests.transport.fast_paths import GivesBack, apart

from aigovtool.crypto.identity import IdentityKind
from aigovtool.transport.bounds import HttpLimits
from aigovtool.transport.server import HttpServer

GET = b"GET /hello HTTP/1.1\r\n"
POST = b"POST /count HTTP/1.1\r\nHost: a\r\n"
SMUGGLED = b"GET /whoami HTTP/1.1\r\nHost: a\r\n\r\n"

REFUSED: dict[str, bytes] = {
    # Two lengths, or a length in two spellings
    "cl-and-te": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "te-and-cl": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "cl-twice-equal": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "cl-twice-different": POST + b"Content-Length: 3\r\nContent-Length: 0\r\n\r\nabc",
    "cl-list": POST + b"Content-Length: 3, 3\r\n\r\nabc",
    "cl-plus": POST + b"Content-Length: +3\r\n\r\nabc",
    "cl-minus": POST + b"Content-Length: -3\r\n\r\nabc",
    "cl-space-inside": POST + b"Content-Length: 3 3\r\n\r\nabc",
    "cl-space-after": POST + b"Content-Length: 3 \r\n\r\nabc",
    "cl-tab-after": POST + b"Content-Length:\t3\t\r\n\r\nabc",
    "cl-hex": POST + b"Content-Length: 0x3\r\n\r\nabc",
    "cl-leading-zero": POST + b"Content-Length: 03\r\n\r\nabc",
    "cl-underscore": POST + b"Content-Length: 1_0\r\n\r\n" + b"a" * 10,
    "cl-empty": POST + b"Content-Length:\r\n\r\n",
    "cl-huge": POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "te-twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "te-identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "te-gzip-chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "te-chunked-identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "te-upper-case": POST + b"Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
    "te-vertical-tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "te-quoted": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "te-space-before-colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "te-underscore": POST + b"Transfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
    # Lines
    "bare-lf-everywhere": b"GET /hello HTTP/1.1\nHost: a\n\n",
    "bare-lf-in-request-line": b"GET /hello HTTP/1.1\nHost: a\r\n\r\n",
    "bare-lf-in-header": GET + b"Host: a\nX: y\r\n\r\n",
    "bare-cr-in-header": GET + b"Host: a\r\nX: y\rZ: w\r\n\r\n",
    "lf-cr": GET + b"Host: a\n\r\n\r",
    "obs-fold-space": GET + b"Host: a\r\nX: y\r\n z\r\n\r\n",
    "obs-fold-tab": GET + b"Host: a\r\nX: y\r\n\tz\r\n\r\n",
    "fold-as-first-header": GET + b" X: y\r\nHost: a\r\n\r\n",
    "empty-line-first": b"\r\n" + GET + b"Host: a\r\n\r\n",
    # Header fields
    "host-missing": GET + b"X: y\r\n\r\n",
    "host-empty": GET + b"Host:\r\n\r\n",
    "host-twice": GET + b"Host: a\r\nHost: a\r\n\r\n",
    "host-twice-other-case": GET + b"Host: a\r\nhOST: b\r\n\r\n",
    "host-with-path": GET + b"Host: a/b\r\n\r\n",
    "host-with-user": GET + b"Host: u@a\r\n\r\n",
    "host-list": GET + b"Host: a, b\r\n\r\n",
    "own-header-twice": GET + b"Host: a\r\naigovtool-request-id: 1\r\nAIGovTool-Request-Id: 2\r\n\r\n",
    "content-type-twice": POST + b"Content-Type: a/b\r\nContent-Type: c/d\r\n\r\n",
    "inference-length-twice": POST + b"Inference-Header-Content-Length: 1\r\n" * 2 + b"\r\n",
    "underscore": GET + b"Host: a\r\naigovtool_request_id: 1\r\n\r\n",
    "no-colon": GET + b"Host: a\r\nnonsense\r\n\r\n",
    "empty-name": GET + b"Host: a\r\n: y\r\n\r\n",
    "space-before-colon": GET + b"Host : a\r\n\r\n",
    "nul-in-value": GET + b"Host: a\r\nX: y\x00z\r\n\r\n",
    "nul-in-name": GET + b"Host: a\r\nX\x00: y\r\n\r\n",
    "escape-in-value": GET + b"Host: a\r\nX: \x1b[31m\r\n\r\n",
    "delete-in-value": GET + b"Host: a\r\nX: \x7f\r\n\r\n",
    "latin1-in-value": GET + b"Host: a\r\nX: \xe9\r\n\r\n",
    "utf8-in-name": GET + b"Host: a\r\n\xc3\xa9: y\r\n\r\n",
    # Request line
    "nul-in-target": b"GET /hel\x00lo HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute-form": b"GET https://a/hello HTTP/1.1\r\nHost: a\r\n\r\n",
    "authority-form": b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    "asterisk-form": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "double-slash": b"GET //hello HTTP/1.1\r\nHost: a\r\n\r\n",
    "dot-segments": b"GET /x/../hello HTTP/1.1\r\nHost: a\r\n\r\n",
    "dot-at-the-end": b"GET /hello/.. HTTP/1.1\r\nHost: a\r\n\r\n",
    "percent-in-path": b"GET /%68ello HTTP/1.1\r\nHost: a\r\n\r\n",
    "bad-percent-in-query": b"GET /hello?a=%zz HTTP/1.1\r\nHost: a\r\n\r\n",
    "fragment": b"GET /hello#x HTTP/1.1\r\nHost: a\r\n\r\n",
    "backslash": b"GET /a\\hello HTTP/1.1\r\nHost: a\r\n\r\n",
    "non-ascii-target": b"GET /h\xc3\xa9llo HTTP/1.1\r\nHost: a\r\n\r\n",
    "two-spaces": b"GET  /hello HTTP/1.1\r\nHost: a\r\n\r\n",
    "tab-for-space": b"GET\t/hello HTTP/1.1\r\nHost: a\r\n\r\n",
    "trailing-space": b"GET /hello HTTP/1.1 \r\nHost: a\r\n\r\n",
    "no-version": b"GET /hello\r\nHost: a\r\n\r\n",
    "http-0.9": b"GET /hello\r\n\r\n",
    "http-1.0": b"GET /hello HTTP/1.0\r\nHost: a\r\n\r\n",
    "http-1.2": b"GET /hello HTTP/1.2\r\nHost: a\r\n\r\n",
    "http-2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "lower-case-method": b"get /hello HTTP/1.1\r\nHost: a\r\n\r\n",
    "unknown-method": b"TRACE /hello HTTP/1.1\r\nHost: a\r\n\r\n",
    "not-http": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    # Things that change what follows
    "upgrade-websocket": GET + b"Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "upgrade-h2c": GET
    + b"Host: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
    "connection-names-a-header": GET + b"Host: a\r\nConnection: close, aigovtool-request-id\r\n\r\n",
    "expect-other": POST + b"Expect: 200-ok\r\nContent-Length: 1\r\n\r\na",
    "trailer-announced": POST + b"Trailer: X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n",
    # Chunks
    "chunk-extension": POST + b"Transfer-Encoding: chunked\r\n\r\n1;a=b\r\na\r\n0\r\n\r\n",
    "chunk-extension-last": POST + b"Transfer-Encoding: chunked\r\n\r\n0;a\r\n\r\n",
    "chunk-trailer": POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n",
    "chunk-size-space": POST + b"Transfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n",
    "chunk-size-minus": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n",
    "chunk-size-0x": POST + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
    "chunk-size-empty": POST + b"Transfer-Encoding: chunked\r\n\r\n\r\n0\r\n\r\n",
    "chunk-size-too-long": POST + b"Transfer-Encoding: chunked\r\n\r\n0000000000000001\r\na\r\n0\r\n\r\n",
    "chunk-size-overflow": POST + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF1\r\na\r\n0\r\n\r\n",
    "chunk-bare-lf": POST + b"Transfer-Encoding: chunked\r\n\r\n1\na\n0\n\n",
    "chunk-data-too-long": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    # Too much
    "head-too-large": GET + b"Host: a\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
    "head-never-ends": GET + b"Host: a\r\nX: " + b"y" * 200_000,
    "target-too-long": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "too-many-headers": GET + b"Host: a\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(100)) + b"\r\n",
    "gzip-body": POST + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\na",
    "identity-body": POST + b"Content-Encoding: identity\r\nContent-Length: 1\r\n\r\na",
}
STATUS = {
    "head-too-large": 413,
    "head-never-ends": 413,
    "target-too-long": 413,
    "too-many-headers": 413,
    "gzip-body": 415,
    "identity-body": 415,
}

ACCEPTED: dict[str, bytes] = {
    "plain": GET + b"Host: a\r\nConnection: close\r\n\r\n",
    "host-with-port": GET + b"Host: localhost:8443\r\nConnection: close\r\n\r\n",
    "host-ipv6": GET + b"Host: [::1]:8443\r\nConnection: close\r\n\r\n",
    "white-space-around-value": GET + b"Host: \t a \t\r\nConnection:close\r\n\r\n",
    "list-header-twice": GET + b"Host: a\r\nAccept: a/b\r\nAccept: c/d\r\nConnection: close\r\n\r\n",
    "exactly-the-limit": GET + b"Host: a\r\nConnection: close\r\nX: " + b"y" * (16384 - 57) + b"\r\n\r\n",
    "chunked": b"POST /count HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\n",
    "length": b"POST /count HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
    "expect-100": b"POST /count HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\n"
    b"Content-Length: 3\r\n\r\nabc",
}


def single(answers: list[Answer]) -> Answer:
    assert len(answers) == 1, answers
    return answers[0]


@pytest.fixture
def context(world: World) -> ssl.SSLContext:
    return world.client()


@pytest.fixture(
    params=[None, GivesBack(later=False), GivesBack(later=True)],
    ids=["no-fast-path", "given-back-at-once", "given-back-later"],
)
async def server(world: World, bounds: HttpLimits, request: pytest.FixtureRequest) -> AsyncIterator[HttpServer]:
    """A server without a fast path, and two with one that gives everything back: what is refused is refused in each."""
    async with served(world, bounds, fast_path=request.param) as running:
        yield running


@pytest.mark.parametrize("name", REFUSED)
async def test_an_ambiguous_request_gets_one_refusal_and_the_connection_ends(
    name: str, server: HttpServer, context: ssl.SSLContext
) -> None:
    """Exactly one problem document comes back, and what follows the request is never answered."""
    answer = single(await exchange(server, context, REFUSED[name] + SMUGGLED))
    assert answer.status == STATUS.get(name, 400), answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("name", [name for name in REFUSED if name.startswith("chunk-")])
async def test_a_fault_behind_a_head_that_was_accepted_gets_one_refusal(
    name: str, server: HttpServer, context: ssl.SSLContext
) -> None:
    """The head is with the application by then, or held for the fast path: neither of them answers, and the end."""
    head, end, body = REFUSED[name].partition(b"\r\n\r\n")
    async with connected(server, context) as (reader, writer), asyncio.timeout(20):
        await apart(writer, head + end, body + SMUGGLED)
        answer = single(parse_answers(await reader.read(-1)))
    assert answer.status == 400
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("pieces", [1, 1000])
async def test_an_ordinary_request_is_answered(
    name: str, pieces: int, server: HttpServer, context: ssl.SSLContext
) -> None:
    """The narrow grammar still takes what clients send, whole or in small pieces."""
    data = ACCEPTED[name]
    size = -(-len(data) // pieces)
    cut = [data[start : start + size] for start in range(0, len(data), size)]
    assert single(await exchange(server, context, *cut)).status == 200


async def test_pipelined_requests_are_not_served(server: HttpServer, context: ssl.SSLContext) -> None:
    """A second request sent before the first is answered is dropped with the connection."""
    request = GET + b"Host: a\r\n\r\n"
    answer = single(await exchange(server, context, request + request))
    assert answer.status == 200
    assert answer.headers["connection"] == "close"


async def test_requests_one_after_the_other_share_a_connection(server: HttpServer, context: ssl.SSLContext) -> None:
    """A client that waits for each answer keeps its connection."""
    async with connected(server, context) as (reader, writer):
        for _ in range(5):
            writer.write(POST + b"Content-Length: 3\r\n\r\nabc")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(len(b'{"text":"3"}')) == b'{"text":"3"}'


async def test_a_flood_in_the_head_costs_no_memory(server: HttpServer, context: ssl.SSLContext) -> None:
    """The head is dropped at its limit while the peer goes on sending."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with connected(server, context) as (reader, writer):
        writer.write(GET + b"Host: a\r\n")
        piece = b"X: " + b"y" * (1 << 20) + b"\r\n"

        async def flood() -> None:
            with suppress(ConnectionError):
                for _ in range(200):
                    writer.write(piece)
                    await writer.drain()

        flooding = asyncio.create_task(flood())
        assert b"headers_too_large" in await reader.readuntil(b"}")
        await flooding
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


async def ended(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(10):
        try:
            return await reader.read(-1) == b""
        except ConnectionError:
            return True


@pytest.mark.usefixtures("bounds")
@pytest.mark.parametrize(
    ("bounds", "sent"),
    [
        pytest.param(HttpLimits(header_timeout_s=0.1), b"", id="no-byte"),
        pytest.param(HttpLimits(header_timeout_s=0.1), GET + b"Host: a\r\n", id="half-a-head"),
        pytest.param(HttpLimits(body_idle_timeout_s=0.1), POST + b"Content-Length: 9\r\n\r\nabc", id="half-a-body"),
        pytest.param(
            HttpLimits(body_idle_timeout_s=0.1), POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", id="half-a-chunk"
        ),
    ],
)
async def test_a_peer_that_stops_sending_loses_the_connection(
    sent: bytes, server: HttpServer, context: ssl.SSLContext
) -> None:
    """A connection without progress ends by itself and holds nothing."""
    async with connected(server, context) as (reader, writer):
        writer.write(sent)
        assert await ended(reader)


async def test_dripping_a_head_does_not_extend_its_deadline(world: World, context: ssl.SSLContext) -> None:
    """The deadline is for the whole head: one byte now and then does not move it."""
    async with (
        served(world, HttpLimits(header_timeout_s=0.3)) as server,
        connected(server, context) as (reader, writer),
    ):

        async def drip() -> None:
            for byte in GET + b"Host: a\r\nX: " + b"y" * 10_000:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert await ended(reader)
        assert not dripping.done()
        dripping.cancel()


async def test_the_next_head_of_whoever_has_a_credential_has_its_deadline(world: World) -> None:
    """It may be idle for long between requests; from the first byte of one the whole head has to come."""
    known = world.client(world.credential(IdentityKind.CONSUMER, "ward7"))
    bounds = HttpLimits(header_timeout_s=0.3, keep_alive_s=100)
    async with served(world, bounds) as server, connected(server, known) as (reader, writer):
        writer.write(GET + b"Host: a\r\n\r\n")
        await reader.readuntil(b"}")
        writer.write(GET + b"Host: a\r\n")
        assert await ended(reader)


async def test_an_anonymous_connection_is_not_kept_idle(world: World, context: ssl.SSLContext) -> None:
    """After an answer, a client without a credential has the head deadline, not the long keep-alive."""
    bounds = HttpLimits(header_timeout_s=1, keep_alive_s=100)
    async with served(world, bounds) as server, connected(server, context) as (reader, writer):
        writer.write(GET + b"Host: a\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        await reader.readexactly(len(b'{"text":"nobody"}'))
        assert await ended(reader)


async def test_a_peer_that_does_not_read_loses_the_connection(world: World, context: ssl.SSLContext) -> None:
    """An endless answer that nobody takes is cut off instead of being kept in memory."""
    async with (
        served(world, HttpLimits(write_stall_timeout_s=0.2)) as server,
        connected(server, context) as (reader, writer),
    ):
        writer.write(GET + b"Host: a\r\n\r\n")
        await reader.readuntil(b"}")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        await all_closed(server)


async def test_a_peer_that_has_gone_is_sent_nothing_more(server: HttpServer, context: ssl.SSLContext) -> None:
    """An endless answer ends although it never waits for anything, and others are answered."""
    for _ in range(20):
        async with connected(server, context) as (_, writer):
            writer.write(GET.replace(b"/hello", b"/stream") + b"Host: a\r\n\r\n")
    assert single(await exchange(server, context, ACCEPTED["plain"])).status == 200
    await all_closed(server)


async def test_one_connection_too_many_is_told_so(world: World, context: ssl.SSLContext) -> None:
    """Where no place can be made the cap answers 503 and closes; a place that becomes free can be taken."""
    proven = world.client(world.credential(IdentityKind.OPERATOR, "ann"))
    async with served(world, HttpLimits(max_connections=1, linger_s=0.05)) as server:
        async with connected(server, proven) as (reader, writer):
            writer.write(GET + b"Host: a\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            answer = single(await exchange(server, context))
            assert answer.status == 503
            assert answer.headers["retry-after"] == "1"
        await all_closed(server)
        assert single(await exchange(server, context, GET + b"Host: a\r\nConnection: close\r\n\r\n")).status == 200


async def test_handshakes_under_way_are_bounded_in_number(world: World) -> None:
    """Of three sockets that never begin TLS, the one over the bound is closed at once."""
    bounds = HttpLimits(max_handshakes=2, handshake_timeout_s=100, handshake_patience_s=100)
    async with served(world, bounds) as server:
        silent = [await asyncio.open_connection(*server.address) for _ in range(3)]
        async with asyncio.timeout(10):
            assert await silent[2][0].read(-1) == b""
        assert not silent[0][0].at_eof()
        for _, writer in silent:
            writer.close()


async def test_handshakes_under_way_are_bounded_in_time(world: World, context: ssl.SSLContext) -> None:
    """Sockets that never begin TLS are closed, and do not lock out others for longer than the deadline."""
    bounds = HttpLimits(max_handshakes=4, handshake_timeout_s=0.3, linger_s=0.05)
    async with served(world, bounds) as server:
        silent = [await asyncio.open_connection(*server.address) for _ in range(4)]
        for reader, writer in silent:
            assert await ended(reader)
            writer.close()
        assert single(await exchange(server, context, GET + b"Host: a\r\nConnection: close\r\n\r\n")).status == 200


async def test_a_fault_in_the_body_does_not_add_a_second_answer(server: HttpServer, context: ssl.SSLContext) -> None:
    """When the handler is waiting for the body and the body is malformed, only the refusal is sent."""
    async with connected(server, context) as (reader, writer):
        writer.write(POST + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"1;x\r\na\r\n0\r\n\r\n")
        rest = await reader.read(-1)
        assert rest.count(b"HTTP/1.1") == 1
        assert rest.startswith(b"HTTP/1.1 400")
