"""One reading of a request: however its bytes are cut, and whatever was read before it."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.transport.test_http_abuse import ACCEPTED, GET, POST, REFUSED

from aigovtool.errors import InputError
from aigovtool.transport.wire import Head, Known, RequestReader, read_head

CORPUS = REFUSED | ACCEPTED
HOST = b"Host: a\r\n"


def told(head: bytes, known: Known | None = None) -> object:
    """Return what is read of a head, or why it is refused."""
    try:
        return read_head(head, known=known)
    except InputError as error:
        return error.reason


def reading(pieces: Iterable[bytes], reader: RequestReader | None = None) -> tuple[object, ...]:
    """Return all that a reader says of a request in these pieces: why it refuses it, or how it frames it."""
    reader, passed = reader or RequestReader(), b""
    try:
        for piece in pieces:
            passed += reader.feed(piece)
    except InputError as error:
        return type(error), error.reason
    return passed, reader.head, reader.in_head, reader.complete, reader.surplus


def cut(data: bytes, *places: int) -> list[bytes]:
    """Cut `data` at these places, which may be anywhere."""
    inside = sorted({place for place in places if 0 < place < len(data)})
    return [data[start:end] for start, end in zip([0, *inside], [*inside, len(data)], strict=True)]


# --- However it is cut -----------------------------------------------------------------------


@pytest.mark.parametrize("name", CORPUS)
def test_whole_and_byte_by_byte_are_read_alike(name: str) -> None:
    """A head in one piece has a way of its own through the reader, which refuses and frames as the other does."""
    data = CORPUS[name]
    whole = reading([data])
    assert whole == reading(data[place : place + 1] for place in range(len(data)))
    assert (name in ACCEPTED) == (whole[0] == data)


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("behind", [b"", b"GET"], ids=["alone", "with-more"])
def test_a_cut_anywhere_changes_nothing(name: str, behind: bytes) -> None:
    """Two pieces are read as one: where heads are cut off at their limit as elsewhere."""
    data = CORPUS[name] + behind
    near = {0, 16_384, len(data)}
    places = {one + off for one in near for off in range(-150, 150)}
    expected = reading([data])
    for place in places:
        assert reading(cut(data, place)) == expected, place


LINES = [
    *(b"GET /hello HTTP/1.1\r\n", b"POST /count HTTP/1.1\r\n", b"POST //x HTTP/1.1\r\n"),
    *(
        HOST,
        b"host: b:1\r\n",
        b"Host:\r\n",
        b"Accept: a/b\r\n",
        b"accept:\tc/d \r\n",
        b"X: y\r\n",
        b"X: z\n",
        b" fold\r\n",
    ),
    *(b"Content-Length: 3\r\n", b"Content-Length: 3 \r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"),
    *(b"Connection: upgrade\r\n", b"Expect: 100-continue\r\n", b"a_b: c\r\n", b"Long: " + b"y" * 200 + b"\r\n"),
    *(b"\r\n", b"\n", b"\r", b"3\r\nabc\r\n", b"0\r\n\r\n", b"abc", b"0;a\r\n", b"\x00", b"FFFFFFFFF\r\n"),
]
HEADS = st.lists(st.sampled_from(LINES), max_size=8).map(b"".join)


@given(
    data=HEADS | HEADS.map(lambda lines: GET + HOST + lines) | HEADS.map(lambda lines: POST + lines + b"\r\n"),
    places=st.lists(st.integers(1, 300), max_size=6),
)
def test_any_cuts_give_the_same_reading(data: bytes, places: list[int]) -> None:
    """Lines that have a meaning, in any order: the pieces in which they come have none."""
    assert reading(cut(data, *places)) == reading([data])


@given(data=st.binary(max_size=200) | st.sampled_from(sorted(REFUSED.values())), cuts=st.lists(st.integers(1, 40)))
def test_any_bytes_give_accepted_bytes_or_one_typed_error(data: bytes, cuts: list[int]) -> None:
    """The reader raises nothing but `InputError`, and hands on a prefix of what it was given."""
    reader, passed, position = RequestReader(), b"", 0
    try:
        for size in [*cuts, len(data)]:
            passed += reader.feed(data[position : position + size])
            position += size
    except InputError:
        return
    assert data.startswith(passed)


@given(body=st.binary(max_size=100), sizes=st.lists(st.integers(1, 30), min_size=1), size=st.integers(1, 50))
def test_a_request_ends_exactly_where_it_says(body: bytes, sizes: list[int], size: int) -> None:
    """However a chunked body is cut, the reader is complete at its last byte and not before."""
    chunks, rest = b"", body
    while rest:
        taken = sizes[len(chunks) % len(sizes)]
        chunks += b"%x\r\n%b\r\n" % (len(rest[:taken]), rest[:taken])
        rest = rest[taken:]
    data = POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    reader = RequestReader()
    for start in range(0, len(data), size):
        assert not reader.complete
        assert reader.feed(data[start : start + size]) is not None
    assert reader.complete
    assert not reader.surplus
    assert reader.feed(b"G") == b""
    assert reader.surplus


def test_the_next_request_is_read_from_its_beginning() -> None:
    """Whole or in pieces, after a body, after none and after chunks: nothing of one request is left for the next."""
    reader = RequestReader()
    requests = [ACCEPTED[name] for name in ("length", "plain", "chunked", "exactly-the-limit", "length")]
    for data in requests:
        for size in (len(data), 7):
            for start in range(0, len(data), size):
                assert not reader.complete
                reader.feed(data[start : start + size])
            assert reader.complete
            assert not reader.surplus
            reader.next_request()
            assert reader.idle


# --- The head --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_head_is_there_once_it_is_complete(size: int) -> None:
    """Its line, its fields with names in lower case and lists put together, and the length of what follows."""
    fields = b"Host: \t a \t\r\nACCEPT: a/b\r\nAccept:c/d\r\nEmpty:\r\nContent-Length: 3\r\n\r\n"
    head = Head(
        b"POST /count?a=%41 HTTP/1.1",
        {b"host": b"a", b"accept": b"a/b,c/d", b"empty": b"", b"content-length": b"3"},
        3,
    )
    data = head.line + b"\r\n" + fields
    reader, before = RequestReader(), []
    for start in range(0, len(data), size):
        before.append(reader.head)
        reader.feed(data[start : start + size])
    assert not any(before)
    assert reader.head == head == read_head(data)
    assert reading([data])[3] is False
    reader.feed(b"abc")
    assert reader.complete
    assert reader.head == head
    reader.next_request()
    assert not reader.head


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        (b"", 0),
        (b"Content-Length: 0\r\n", 0),
        (b"Content-Length: 17\r\n", 17),
        (b"Transfer-Encoding: chunked\r\n", None),
    ],
)
def test_a_head_tells_how_long_the_body_is(fields: bytes, length: int | None) -> None:
    """A body in chunks has no length that is known, which is not the same as none."""
    assert read_head(POST + fields + b"\r\n").length == length


@pytest.mark.parametrize("name", REFUSED)
def test_a_head_that_is_refused_is_not_there(name: str) -> None:
    """Nobody who asks for the head gets one that was not accepted: only a fault of the body comes behind one."""
    reader = RequestReader()
    with pytest.raises(InputError):
        reader.feed(REFUSED[name])
    assert (reader.head is None) == (not name.startswith("chunk-"))


# --- What is remembered of fields ------------------------------------------------------------


@pytest.mark.parametrize("name", CORPUS)
def test_what_was_read_before_changes_no_verdict(name: str) -> None:
    """Attack: a line of an earlier request of the connection makes one acceptable that is not."""
    expected = reading([CORPUS[name]])
    for before in ACCEPTED:
        reader = RequestReader()
        reader.feed(CORPUS[before])
        if reader.complete and not reader.surplus:
            reader.next_request()
            assert reading([CORPUS[name]], reader) == expected, before


@pytest.mark.parametrize(
    "line",
    [
        *(b"X: y", b"x:y", b"X:\ty \t", b"Content-Length: 3", b"Content-Length: 3 ", b"content-length:3\t", b"X"),
        *(b"", b":", b": y", b"X : y", b"a_b: c", b" X: y", b"X:", b"-X: y", b"X" * 128 + b":", b"X" * 129 + b":"),
        *(b"X: " + b"y" * 125, b"X: " + b"y" * 126, b"X:" + b" " * 126, b"Content-Length:" + b" " * 112 + b"3"),
    ],
)
def test_a_line_is_read_alike_each_time(line: bytes) -> None:
    """The same line twice, alone, behind another and at the length from which none is remembered."""
    for before in (b"", b"A: b\r\n"):
        known: Known = {}
        head = GET + HOST + before + line + b"\r\n\r\n"
        assert [told(head, known) for _ in range(3)] == [told(head)] * 3


@given(line=st.binary(max_size=140) | st.sampled_from([line.rstrip(b"\r\n") for line in LINES]))
def test_what_is_remembered_is_what_was_read(line: bytes) -> None:
    """For any line, the first time and the second: the same name and value, or the same refusal."""
    head, known = GET + HOST + line + b"\r\n\r\n", Known()
    assert [told(head, known) for _ in range(2)] == [told(head)] * 2


def test_putting_a_list_together_does_not_change_what_is_remembered() -> None:
    """Attack: the values of one request's list field are found in the next one."""
    known = Known()
    once, twice = (GET + HOST + b"Accept: a/b\r\n" * count + b"\r\n" for count in (1, 2))
    for _ in range(2):
        assert read_head(twice, known=known).fields[b"accept"] == b"a/b,a/b"
        assert read_head(once, known=known).fields[b"accept"] == b"a/b"


def test_a_line_that_is_known_may_still_not_be_repeated() -> None:
    """What is remembered is one line, not whether it may stand where it stands."""
    for _ in range(2):
        assert reading([GET + HOST + b"X: y\r\n\r\n"])[3]
        assert reading([GET + HOST + b"X: y\r\nX: y\r\n\r\n"])[1] == "duplicate_header"
        assert reading([GET + HOST + HOST + b"\r\n"])[1] == "duplicate_header"


def test_only_so_much_is_remembered() -> None:
    """Attack: fields that are each time others, or long, fill the memory."""
    known = Known()
    for number in range(2_000):
        read_head(GET + HOST + b"X: %d\r\n\r\n" % number, known=known)
    assert len(known) == 16
    known.clear()
    read_head(GET + HOST + b"Long: " + b"y" * 200 + b"\r\n\r\n", known=known)
    assert list(known) == [HOST.rstrip()]


def test_a_connection_knows_nothing_of_another() -> None:
    """What one client has sent makes no request of another one faster."""
    first, second = RequestReader(), RequestReader()
    first.feed(GET + HOST + b"X: y\r\n\r\n")
    assert (len(first._known), len(second._known)) == (2, 0)
