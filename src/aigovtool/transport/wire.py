"""Strict framing of HTTP/1.1 requests, in front of the parser and without I/O.

Two readers that disagree about where a request ends are how requests are smuggled. So this reader accepts
only what has one reading, and hands on whole heads and exact bodies; the HTTP parser behind it (llhttp)
then reads the same bytes, and where it disagrees the connection ends. Accepted is a narrow part of
RFC 9112 that all common clients write:

1. The head is at most 16 KiB and 64 fields, counted as it arrives; ASCII; lines end in CRLF, nothing else does.
2. `METHOD /origin-form HTTP/1.1` with one space each; the path has no percent-encoding, no `//`, no dot segments.
3. Field names are letters, digits and `-` (no `_`, which gateways confuse with `-`), no space before the
   colon, no folding. A field that is not a list must not be repeated: every `aigovtool-` field is one.
4. Exactly one `Host`. `Content-Length` is plain digits, without a blank behind them (the parser takes it for a part
   of the value), or `Transfer-Encoding` is `chunked`, never both.
5. No `Upgrade`, no `Trailer`, no `Content-Encoding`, and no `Expect` but `100-continue`.
6. Chunks have no extensions and no trailers; sizes are at most 8 hexadecimal digits.
7. One request at a time: bytes that follow a request before its answer is complete are never read as
   a request; the connection ends after the answer (`surplus`).

It bounds the head only. A body is counted and bounded by whoever reads it (`transport.body`).
"""

import re
from enum import Enum, auto
from typing import Final, NamedTuple

from aigovtool.errors import MalformedError, TooLargeError, UnsupportedMediaError
from aigovtool.limits import MAX_HEADER_BYTES, MAX_HEADERS

_BARE_LF_RE: Final = re.compile(rb"(?<!\r)\n")
#: All bytes that a head may have; CR and LF only together.
_ALLOWED: Final = b"\t\r\n" + bytes(range(0x20, 0x7F))
_REQUEST_LINE_RE: Final = re.compile(
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) "
    rb"(?![^ ?]*/(?:/|\.{1,2}[/ ?]))"
    rb"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*"
    rb"(?:\?(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*)?"
    rb" HTTP/1\.1"
)
_NAME_RE: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9-]{0,127}")
_END: Final = b"\r\n\r\n"
#: Clients say the same about themselves with each request. Of the first fields of a connection that are not longer than
#: this, so many are remembered as they were read.
_SHORT_BYTES: Final = 128
_KNOWN: Final = 16
#: Lines, and name and value of each.
Known = dict[bytes, tuple[bytes, bytes]]
_BLANKS: Final = b" \t"
_HOST_RE: Final = re.compile(rb"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_LENGTH_RE: Final = re.compile(rb"0|[1-9][0-9]{0,14}")
_CHUNK_SIZE_RE: Final = re.compile(rb"[0-9A-Fa-f]{1,8}")
_MAX_CHUNK_LINE_BYTES: Final = 10  # eight digits and CRLF

#: Fields that are lists by definition, so that repeating them has one meaning (RFC 9110 section 5.3).
_LISTS: Final = frozenset(
    {b"accept", b"accept-encoding", b"accept-language", b"cache-control", b"connection", b"forwarded", b"via"}
    | {b"x-forwarded-for", b"cookie", b"if-match", b"if-none-match", b"te", b"tracestate", b"baggage"}
)
_REFUSED: Final = {
    b"upgrade": "upgrade_refused",
    b"http2-settings": "upgrade_refused",
    b"trailer": "trailers_refused",
}
_CONNECTION_OPTIONS: Final = frozenset({b"close", b"keep-alive", b"te"})


class Head(NamedTuple):
    """A request head that was checked: its first line, its fields by their names in lower case, the body's length.

    The length is in bytes, and None for a body in chunks. A field that came several times is one list.
    """

    line: bytes
    fields: dict[bytes, bytes]
    length: int | None


class _State(Enum):
    HEAD = auto()
    BODY = auto()
    CHUNK_SIZE = auto()
    CHUNK_DATA = auto()
    CHUNK_END = auto()
    LAST_CRLF = auto()
    DONE = auto()


class RequestReader:
    """Reads one request at a time from the bytes of one connection.

    `feed` returns the bytes that the parser may see; `next_request` starts over once the answer is sent.
    """

    __slots__ = ("_buffer", "_known", "_max_bytes", "_max_fields", "_remaining", "_state", "head", "surplus")

    def __init__(self, *, max_header_bytes: int = MAX_HEADER_BYTES, max_headers: int = MAX_HEADERS) -> None:
        self._max_bytes: Final = max_header_bytes
        self._max_fields: Final = max_headers
        self._buffer = bytearray()
        self._known: Final[Known] = {}
        self._remaining = 0
        self._state = _State.HEAD
        #: That of the request, once the head has come whole.
        self.head: Head | None = None
        #: True once bytes came after the end of the request; they were dropped.
        self.surplus = False

    @property
    def idle(self) -> bool:
        """No byte of the request has come yet."""
        return self._state is _State.HEAD and not self._buffer

    @property
    def in_head(self) -> bool:
        """The head is not complete."""
        return self._state is _State.HEAD

    @property
    def complete(self) -> bool:
        """The whole request has come."""
        return self._state is _State.DONE

    def next_request(self) -> None:
        """Make ready for the next request of the connection."""
        self._state = _State.HEAD
        self.head = None

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the wire; return those, always framed as this reader understood them.

        Raises:
            MalformedError, TooLargeError, UnsupportedMediaError: the connection must be answered once and closed.
        """
        if self._state is not _State.HEAD:
            return self._read_body(data)
        if not self._buffer and (end := data.find(_END, 0, self._max_bytes)) >= 0:
            return self._read_whole_head(data, end + len(_END))
        head, rest = self._read_head(data)
        return head + self._read_body(rest) if head else b""

    def _read_whole_head(self, data: bytes, end: int) -> bytes:
        """Do as `_read_head` and `_read_body` with a head that came in one piece: nothing is copied together."""
        head = data[:end]
        if head.count(b"\n") != head.count(b"\r\n"):
            raise _bare_lf()
        self._begin_body(head)
        if self._state is _State.BODY and len(data) - end == self._remaining:
            self._remaining, self._state = 0, _State.DONE
            return data
        return head + self._read_body(data[end:])

    def _read_head(self, data: bytes) -> tuple[bytes, bytes]:
        buffer = self._buffer
        start = max(0, len(buffer) - 3)
        room = self._max_bytes - len(buffer)
        buffer += data[:room]
        end = buffer.find(_END, start)
        # Said at once: a head with bare line feeds never ends, and would otherwise wait for the deadline.
        if _BARE_LF_RE.search(buffer, start, end if end >= 0 else len(buffer)):
            raise _bare_lf()
        if end < 0:
            if len(data) >= room:
                raise TooLargeError(f"the request head is over {self._max_bytes} bytes", reason="headers_too_large")
            return b"", b""
        end += len(_END)
        head, rest = bytes(buffer[:end]), bytes(buffer[end:]) + data[room:]
        buffer.clear()
        self._begin_body(head)
        return head, rest

    def _begin_body(self, head: bytes) -> None:
        self.head = read_head(head, self._max_fields, self._known)
        length = self.head.length
        if length is None:
            self._state = _State.CHUNK_SIZE
        else:
            self._remaining = length
            self._state = _State.BODY if length else _State.DONE

    def _read_body(self, data: bytes) -> bytes:
        position = 0
        while position < len(data):
            if self._state is _State.DONE:
                self.surplus = True
                break
            if self._state in (_State.BODY, _State.CHUNK_DATA):
                taken = min(self._remaining, len(data) - position)
                position += taken
                self._remaining -= taken
                if not self._remaining:
                    self._state = _State.DONE if self._state is _State.BODY else _State.CHUNK_END
            else:
                position = self._read_chunk_line(data, position)
        return data[:position] if position < len(data) else data

    def _read_chunk_line(self, data: bytes, position: int) -> int:
        """Take bytes up to and with the next line feed; they may have come in pieces."""
        end = data.find(b"\n", position, position + _MAX_CHUNK_LINE_BYTES)
        stop = end + 1 if end >= 0 else min(len(data), position + _MAX_CHUNK_LINE_BYTES)
        self._buffer += data[position:stop]
        if len(self._buffer) > _MAX_CHUNK_LINE_BYTES or (end < 0 and len(self._buffer) == _MAX_CHUNK_LINE_BYTES):
            raise MalformedError("the size of a chunk is too long or has an extension", reason="bad_chunk")
        if end >= 0:
            line = bytes(self._buffer)
            self._buffer.clear()
            self._end_chunk_line(line)
        return stop

    def _end_chunk_line(self, line: bytes) -> None:
        content = line[:-2]
        if line[-2:] != b"\r\n":
            raise MalformedError("a chunk line ends without CR", reason="bare_lf")
        if self._state is _State.CHUNK_SIZE:
            if _CHUNK_SIZE_RE.fullmatch(content) is None:
                raise MalformedError("the size of a chunk is not hexadecimal digits alone", reason="bad_chunk")
            self._remaining = int(content, 16)
            self._state = _State.CHUNK_DATA if self._remaining else _State.LAST_CRLF
        elif content:
            reason = "trailers_refused" if self._state is _State.LAST_CRLF else "bad_chunk"
            raise MalformedError("unexpected bytes after a chunk", reason=reason)
        else:
            self._state = _State.DONE if self._state is _State.LAST_CRLF else _State.CHUNK_SIZE


def read_head(head: bytes, max_fields: int = MAX_HEADERS, known: Known | None = None) -> Head:
    """Return what a whole request head says, if it is one that is accepted here.

    `known` are fields that were read before, of the same client; new ones are put there.

    Raises:
        MalformedError, TooLargeError, UnsupportedMediaError: rules 1 to 5.
    """
    ends = head.count(b"\r\n")
    if head.translate(None, _ALLOWED) or head.count(b"\r") != ends or head.count(b"\n") != ends:
        raise MalformedError("the request head has a byte that is not allowed in it", reason="bad_byte")
    first, *lines = head[:-4].split(b"\r\n")
    if _REQUEST_LINE_RE.fullmatch(first) is None:
        raise MalformedError("not a request line that is accepted here", reason="bad_request_line")
    if len(lines) > max_fields:
        raise TooLargeError(f"more than {max_fields} header fields", reason="too_many_headers")
    fields = _fields(lines, {} if known is None else known)
    return Head(first, fields, _framing(fields))


def _fields(lines: list[bytes], known: Known) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for line in lines:
        field = known.get(line)
        if field is None:
            field = _field(line)
            if len(known) < _KNOWN and len(line) <= _SHORT_BYTES:
                known[line] = field
        name, value = field
        if name not in fields:
            fields[name] = value
        elif name in _LISTS:
            fields[name] += b"," + value
        else:
            raise MalformedError(f"the header field {name.decode()} is repeated", reason="duplicate_header")
    return fields


def _field(line: bytes) -> tuple[bytes, bytes]:
    """Return name, in lower case, and value of a header field."""
    name, colon, value = line.partition(b":")
    if not colon or _NAME_RE.fullmatch(name) is None:
        raise MalformedError("a header field is not of the form name: value", reason="bad_header")
    name, value = name.lower(), value.lstrip(_BLANKS)
    if name == b"content-length" and value.endswith((b" ", b"\t")):
        raise MalformedError("Content-Length ends with a blank", reason="bad_content_length")
    return name, value.rstrip(_BLANKS)


def _bare_lf() -> MalformedError:
    return MalformedError("a line of the request head ends without CR", reason="bare_lf")


def _framing(fields: dict[bytes, bytes]) -> int | None:
    _check_fields(fields)
    length, coding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
    if coding is not None:
        if length is not None:
            raise MalformedError("both Content-Length and Transfer-Encoding", reason="ambiguous_length")
        if coding != b"chunked":
            raise MalformedError("a transfer encoding other than chunked", reason="bad_transfer_encoding")
        return None
    if length is None:
        return 0
    if _LENGTH_RE.fullmatch(length) is None:
        raise MalformedError("Content-Length is not a plain number", reason="bad_content_length")
    return int(length)


def _check_fields(fields: dict[bytes, bytes]) -> None:
    if _HOST_RE.fullmatch(fields.get(b"host", b"")) is None:
        raise MalformedError("exactly one valid Host is required", reason="bad_host")
    for name, reason in _REFUSED.items():
        if name in fields:
            raise MalformedError(f"the header field {name.decode()} is refused", reason=reason)
    if b"content-encoding" in fields:
        raise UnsupportedMediaError(
            "compressed bodies are not taken", reason="content_encoding", fix="send the body as it is"
        )
    if fields.get(b"expect", b"100-continue").lower() != b"100-continue":
        raise MalformedError("an expectation other than 100-continue", reason="bad_expect")
    if fields.get(b"connection", b"close") in _CONNECTION_OPTIONS:
        return
    options = {option.strip().lower() for option in fields.get(b"connection", b"close").split(b",")}
    if not options <= _CONNECTION_OPTIONS:
        raise MalformedError("a Connection option other than close and keep-alive", reason="bad_connection")
