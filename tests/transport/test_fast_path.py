"""The fast path gets whole requests and nothing else, and what it gives back goes as if there were none."""

import asyncio
import ssl
from itertools import chain, product
from typing import Any, Final, cast

import pytest
import uvloop
from httptools import HttpParserError
from tests.transport.conftest import World, parse_answers
from tests.transport.fast_paths import BODY, FAST, LINE, REQUEST, SENT, SENT_LAST, Met, apart, held_of, met, until

from aigovtool.crypto.identity import IdentityKind
from aigovtool.transport.fast_path import Written, last, ok

HELLO: Final = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSE: Final = REQUEST.replace(b"X-Test: y", b"Connection: close")
CHUNKED: Final = LINE + b"\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n"
EXPECTING: Final = REQUEST.replace(b"X-Test: y", b"Expect: 100-continue").removesuffix(BODY)
EMPTY: Final = LINE + b"\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
NO_LENGTH: Final = LINE + b"\r\nHost: a\r\n\r\n"
#: More than the parser's side takes before it pauses reading.
LARGE: Final = LINE + b"\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + bytes(200_000)
WANTED: Final = {"small": REQUEST, "empty": EMPTY, "no-length": NO_LENGTH, "large": LARGE}
#: What may become of a request.
WAYS: Final = ("fast", "later", "at once", "unwanted")


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def context(world: World, request: pytest.FixtureRequest) -> ssl.SSLContext | None:
    """Nothing for a plain connection, or what a client needs for TLS."""
    return world.client() if request.param else None


async def check_handed_over(one: Met) -> None:
    """Answer what the fast path has taken, and see that it was whole and that the client gets that answer."""
    request, answer = await one.fast.taken()
    assert request.head.line == LINE
    assert request.head.fields == {b"host": b"a", b"x-test": b"y", b"content-length": b"10"}
    assert request.head.length == len(BODY)
    assert request.body == BODY
    answer(FAST)
    assert await one.one_answer() == SENT


async def without_fast_path(world: World, *pieces: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """Return the answer of a server without a fast path."""
    async with met(world, context=context, fast=False) as one:
        await apart(one.writer, *pieces)
        return await one.one_answer()


async def test_a_whole_request_is_handed_over_and_answered(world: World, context: ssl.SSLContext | None) -> None:
    """What came in one piece is handed over once, and no task of the application begins."""
    async with met(world, context=context) as one:
        one.writer.write(REQUEST)
        await check_handed_over(one)
        assert len(one.fast.shown) == len(one.fast.offered) == 1
        assert one.slow.bodies == []


async def test_a_request_is_handed_over_wherever_it_is_cut(world: World, context: ssl.SSLContext | None) -> None:
    """Two pieces, cut at any place of head or body, are one request, and each is shown and handed over once."""
    async with met(world, context=context) as one:
        for cut in range(1, len(REQUEST)):
            await apart(one.writer, REQUEST[:cut], REQUEST[cut:])
            await check_handed_over(one)
            assert len(one.fast.shown) == len(one.fast.offered) == cut
        assert one.slow.bodies == []


async def test_a_request_is_handed_over_byte_by_byte(world: World, context: ssl.SSLContext | None) -> None:
    """However small the pieces are, nothing is handed over before the last byte, and then all of it."""
    async with met(world, context=context) as one:
        for count in range(1, 4):
            await apart(one.writer, *(bytes([byte]) for byte in REQUEST[:-1]))
            await until(lambda: len(held_of(one.protocol)) == len(REQUEST) - 1)
            assert len(one.fast.offered) == count - 1
            one.writer.write(REQUEST[-1:])
            await check_handed_over(one)
            assert len(one.fast.shown) == count


async def test_requests_of_every_way_share_a_connection(world: World, context: ssl.SSLContext | None) -> None:
    """Answered fast, given back at once or later, not wanted: each is answered once, whichever came before."""
    async with met(world, context=context) as one:
        for way in chain.from_iterable(product(WAYS, WAYS)):
            served_slowly = len(one.slow.bodies)
            one.fast.takes = way != "at once"
            await apart(
                one.writer, *((CHUNKED[:70], CHUNKED[70:]) if way == "unwanted" else (REQUEST[:70], REQUEST[70:]))
            )
            if way in {"fast", "later"}:
                request, answer = await one.fast.taken()
                assert request.body == BODY
                answer(FAST if way == "fast" else None)
            [answered] = parse_answers(await one.one_answer())
            assert answered.status == 200
            assert answered.body == (b"fast" if way == "fast" else b'{"text":"slow 10"}'), way
            assert len(one.slow.bodies) == served_slowly + (way != "fast")


@pytest.mark.parametrize("sent", WANTED.values(), ids=WANTED)
@pytest.mark.parametrize("later", [False, True], ids=["at-once", "later"])
async def test_what_is_given_back_is_answered_as_without_a_fast_path(
    world: World, context: ssl.SSLContext | None, sent: bytes, *, later: bool
) -> None:
    """The client gets the application's answer, byte for byte, and cannot tell that there is another way."""
    expected = await without_fast_path(world, sent, context=context)
    async with met(world, context=context) as one:
        for pieces in ([sent], [sent[:30], sent[30:60], sent[60:]]):
            one.fast.takes = later
            await apart(one.writer, *pieces)
            if later:
                (await one.fast.taken())[1](None)
            assert await one.one_answer() == expected
            offered, body = one.fast.offered[-1].body, one.slow.bodies[-1]
            assert offered == body == sent.partition(b"\r\n\r\n")[2]
        assert len(one.fast.offered) == len(one.slow.bodies)
        assert not one.reader.at_eof()


@pytest.mark.parametrize(
    ("sent", "shown"),
    [(HELLO, True), (CHUNKED, False), (EXPECTING + BODY, False), (CLOSE, False)],
    ids=["other", "chunked", "expecting", "close"],
)
async def test_what_is_not_wanted_never_gets_there(world: World, sent: bytes, *, shown: bool) -> None:
    """Only an ordinary head is shown, and once; nothing is handed over or held, and the application answers."""
    expected = await without_fast_path(world, sent)
    async with met(world) as one:
        for count in range(1, 2 if sent is CLOSE else 3):
            await apart(one.writer, *(sent[place : place + 1] for place in range(len(sent))))
            assert await one.one_answer() == expected
            assert len(one.fast.shown) == count * shown
        assert one.fast.offered == []
        if sent is CLOSE:
            assert await one.rest() == b""
            return
        one.writer.write(REQUEST)
        await check_handed_over(one)


async def test_who_waits_to_be_asked_for_the_body_is_asked(world: World) -> None:
    """A head that expects `100 Continue`, and that the fast path does not want, gets it before its body is there."""
    async with met(world) as one:
        for _ in range(2):
            one.writer.write(EXPECTING)
            async with asyncio.timeout(10):
                assert await one.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            one.writer.write(BODY)
            assert (await one.one_answer()).endswith(b'{"text":"slow 10"}')
        assert one.fast.offered == []


@pytest.mark.parametrize("behind", [b"G", REQUEST, HELLO, b"\x00"], ids=["byte", "same", "other", "nonsense"])
@pytest.mark.parametrize("cut", [0, 70], ids=["together", "behind-a-held-part"])
async def test_what_comes_with_a_request_is_never_read(world: World, behind: bytes, cut: int) -> None:
    """A request that is not alone does not go fast: one answer, that of a server without a fast path, and the end."""
    answers = []
    for fast in (False, True):
        async with met(world, fast=fast) as one:
            await apart(one.writer, *filter(None, [REQUEST[:cut], REQUEST[cut:] + behind]))
            answers.append(await one.rest())
            assert one.fast.offered == []
            assert one.slow.bodies == [BODY]
    assert answers[0] == answers[1]
    [answer] = parse_answers(answers[0])
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("behind", [b"G", REQUEST, HELLO, b"\x00"], ids=["byte", "same", "other", "nonsense"])
@pytest.mark.parametrize("answered", [FAST, None], ids=["answered", "given-back"])
async def test_what_comes_behind_a_request_under_way_is_never_read(
    world: World, context: ssl.SSLContext | None, behind: bytes, answered: Written | None
) -> None:
    """A peer that does not wait for its answer gets that one answer, and then the connection ends."""
    async with met(world, context=context) as one:
        one.writer.write(REQUEST)
        _, answer = await one.fast.taken()
        one.writer.write(behind)
        await until(lambda: one.protocol._reader.surplus)
        assert one.protocol.flow.read_paused  # whatever else it sends stays where it is
        one.writer.write(behind)
        answer(answered)
        came = await one.rest()
        assert len(one.fast.offered) == 1
        if answered is None:
            [slow] = parse_answers(came)
            assert (slow.body, slow.headers["connection"]) == (b'{"text":"slow 10"}', "close")
        else:
            assert came == SENT_LAST
        assert len(one.slow.bodies) == (answered is None)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        pytest.param(REQUEST.replace(b"\r\n", b"\n"), b"bare_lf", id="bare-lf"),
        pytest.param(REQUEST.replace(b"Host: a", b"Host: a\r\nHost: a"), b"duplicate_header", id="host-twice"),
        pytest.param(REQUEST.replace(b"10\r\n", b"10 \r\n"), b"bad_content_length", id="blank-behind-length"),
        pytest.param(REQUEST.replace(b"/fast", b"//fast"), b"bad_request_line", id="double-slash"),
        pytest.param(CHUNKED.replace(b"A\r\n0", b"A;x\r\n0"), b"bad_chunk", id="chunk-extension"),
        pytest.param(LINE + b"\r\nX: " + b"y" * 20_000, b"headers_too_large", id="too-large"),
    ],
)
@pytest.mark.parametrize("pieces", [1, 9])
async def test_the_next_request_is_checked_as_the_first(world: World, sent: bytes, reason: bytes, pieces: int) -> None:
    """After a fast answer a malformed request is refused once, with its reason, and the connection ends."""
    size = -(-len(sent) // pieces)
    async with met(world) as one:
        one.writer.write(REQUEST)
        await check_handed_over(one)
        await apart(one.writer, *(sent[start : start + size] for start in range(0, len(sent), size)))
        [answer] = parse_answers(await one.rest())
        assert answer.headers["content-type"] == "application/problem+json"
        assert b'"reason":"%b"' % reason in answer.body
        assert len(one.fast.offered) == 1


class Disagreeing:
    """A parser that reads a request otherwise than the reader before it."""

    def feed_data(self, _: bytes) -> None:
        raise HttpParserError


@pytest.mark.parametrize("later", [False, True], ids=["at-once", "later"])
async def test_what_is_given_back_is_refused_where_the_parser_disagrees(world: World, *, later: bool) -> None:
    """A request with two readings gets one refusal, and the connection ends, also when it was held before."""
    async with met(world) as one:
        one.writer.write(REQUEST)
        await check_handed_over(one)
        one.protocol.parser = cast("Any", Disagreeing())
        one.fast.takes = later
        one.writer.write(REQUEST)
        if later:
            (await one.fast.taken())[1](None)
        [refusal] = parse_answers(await one.rest())
        assert b'"reason":"bad_request"' in refusal.body
        assert one.slow.bodies == []


async def test_the_fast_path_knows_whose_request_it_is(world: World) -> None:
    """The connection that comes with a request is the one that proved who its client is."""
    context = world.client(world.credential(IdentityKind.CONSUMER, "ada"))
    async with met(world, context=context) as one:
        one.writer.write(REQUEST)
        request, answer = await one.fast.taken()
        answer(FAST)
        await one.one_answer()
    assert request.connection.identity().name == "ada"
    assert request.connection.server_spki_sha256 == world.tls.spki_sha256


def test_it_works_on_uvloop_too(world: World) -> None:
    """The production event loop hands over, gives back and ends in the same way."""

    async def story() -> None:
        async with met(world, context=world.client()) as one:
            for pieces in ([REQUEST], [REQUEST[:20], REQUEST[20:]], [REQUEST[:70], REQUEST[70:]]):
                await apart(one.writer, *pieces)
                await check_handed_over(one)
            one.fast.takes = False
            one.writer.write(REQUEST + HELLO)
            [answer] = parse_answers(await one.rest())
            assert answer.body == b'{"text":"slow 10"}'

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())


def test_a_whole_answer_is_written_as_others_are() -> None:
    """Status, length, the lines that were asked for, an empty line, and the body as it is."""
    assert ok("", b"") == (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",)
    lines, body = "a: b\r\nc: d\r\n", b"\r\n\xff\x00"
    [whole] = ok(lines, body)
    [answer] = parse_answers(whole)
    assert answer.headers == {"content-length": "4", "a": "b", "c": "d"}
    assert answer.body == body
    assert ok(lines, body, as_others=True) == (whole.removesuffix(body), body)


def test_the_last_answer_of_a_connection_says_so() -> None:
    """Once, in its head, whatever its body is."""
    for as_others in (False, True):
        [answer] = parse_answers(b"".join(last(ok("a: b\r\n", b"\r\n\r\n", as_others=as_others))))
        assert answer.headers == {"content-length": "4", "a": "b", "connection": "close"}
        assert answer.body == b"\r\n\r\n"
