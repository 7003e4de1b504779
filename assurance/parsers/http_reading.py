"""An independent strict reading of HTTP/1.1 requests, of all bytes of a connection at once.

It is written by hand from the rules that `aigovtool.transport.wire` states and from RFC 9112, without regular
expressions, buffers or states; so it reads whole requests where the product reads bytes as they come. Where the bytes
were cut matters in one respect: what comes in one piece with the end of a request is not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

HEAD_BYTES: Final = 16384
_FIELDS: Final = 64
_METHODS: Final = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")
_ALNUM: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_HEX: Final = b"0123456789abcdefABCDEF"
_PATH: Final = _ALNUM + b"._~!$&'()*+,;=:@/-"
_LISTS: Final = (
    *(b"accept", b"accept-encoding", b"accept-language", b"cache-control", b"connection", b"forwarded", b"via"),
    *(b"x-forwarded-for", b"cookie", b"if-match", b"if-none-match", b"te", b"tracestate", b"baggage"),
)
_NEVER: Final = (b"upgrade", b"http2-settings", b"trailer", b"content-encoding")

WAITING: Final = "waiting"
REFUSED: Final = "refused"
ENDED: Final = "ended"


@dataclass(frozen=True)
class Request:
    """One request: what it says, and where its bytes are."""

    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    start: int
    stop: int

    def says_close(self) -> bool:
        """Return whether it is the last of its connection."""
        options = [
            option.strip(b" \t").lower()
            for name, value in self.fields
            for option in value.split(b",")
            if name == b"connection"
        ]
        return b"close" in options


@dataclass(frozen=True)
class Reading:
    """The requests of a connection, and how it ends: one is waited for, one is refused, or no more is read.

    What is waited for is `hopeless` if nothing that may still come makes a request of it: who sees that may refuse it.
    """

    requests: tuple[Request, ...]
    end: str
    hopeless: bool = False


class _RefusedError(Exception):
    """It is no request."""


class _MoreError(Exception):
    """Not all of it has come."""

    def __init__(self, *, hopeless: bool = False) -> None:
        super().__init__()
        self.hopeless = hopeless


def read_connection(pieces: Sequence[bytes]) -> Reading:
    """Return what is asked on a connection on which each request is answered at once."""
    stream, ends = b"".join(pieces), list(accumulate(map(len, pieces)))
    found: list[Request] = []
    at = 0
    while True:
        try:
            request = _request(stream, at)
        except _MoreError as more:
            return Reading(tuple(found), WAITING, more.hopeless)
        except _RefusedError:
            return Reading(tuple(found), REFUSED)
        found.append(request)
        at = request.stop
        if request.says_close() or at not in ends:
            return Reading(tuple(found), ENDED)


def _request(stream: bytes, start: int) -> Request:
    body_at = _head_end(stream, start)
    head = stream[start : body_at - 4]
    if any(byte not in b"\t\r\n" and not 0x20 <= byte <= 0x7E for byte in head):
        raise _RefusedError
    line, *lines = head.split(b"\r\n")
    if any(b"\r" in one or b"\n" in one for one in (line, *lines)):
        raise _RefusedError
    method, target = _line(line)
    if len(lines) > _FIELDS:
        raise _RefusedError
    fields = tuple(map(_field, lines))
    length = _length(fields)
    if length is None:
        body, stop = _chunks(stream, body_at)
    else:
        body, stop = stream[body_at : body_at + length], body_at + length
    if stop > len(stream):
        raise _MoreError
    return Request(method, target, fields, body, start, stop)


def _head_end(stream: bytes, start: int) -> int:
    """Return where the body begins; refuse a bare line feed as soon as it is seen, and a head that is too long."""
    room = stream[start : start + HEAD_BYTES]
    end = room.find(b"\r\n\r\n")
    seen = room if end < 0 else room[:end]
    if seen.count(b"\n") != seen.count(b"\r\n"):
        raise _RefusedError
    if end >= 0:
        return start + end + 4
    raise _RefusedError if len(room) == HEAD_BYTES else _MoreError


def _line(line: bytes) -> tuple[bytes, bytes]:
    parts = line.split(b" ")
    if len(parts) != 3 or parts[0] not in _METHODS or parts[2] != b"HTTP/1.1":
        raise _RefusedError
    path, question, query = parts[1].partition(b"?")
    *folders, last = path.split(b"/")
    names = [*folders[1:], last]
    if folders[:1] != [b""] or any(byte not in _PATH for byte in path):
        raise _RefusedError
    if b"" in names[:-1] or b"." in names or b".." in names:
        raise _RefusedError
    if question and not is_query(query):
        raise _RefusedError
    return parts[0], parts[1]


def is_query(query: bytes) -> bool:
    """Return whether this may stand behind the question mark of a target."""
    plain, *escaped = query.split(b"%")
    if any(len(one) < 2 or one[0] not in _HEX or one[1] not in _HEX for one in escaped):
        return False
    return all(byte in _PATH + b"?" for byte in plain + b"".join(escaped))


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not 1 <= len(name) <= 128 or name[0] not in _ALNUM:
        raise _RefusedError
    if any(byte not in _ALNUM + b"-" for byte in name):
        raise _RefusedError
    if name.lower() == b"content-length" and value[-1:] in {b" ", b"\t"}:
        raise _RefusedError
    return name.lower(), value.strip(b" \t")


def _length(fields: tuple[tuple[bytes, bytes], ...]) -> int | None:
    """Return how long the body is, or None if it comes in chunks."""
    names = [name for name, _ in fields]
    values = dict(fields)
    once = all(names.count(name) == 1 for name in names if name not in _LISTS)
    if not once or any(name in _NEVER for name in names) or not _is_host(values.get(b"host", b"")):
        raise _RefusedError
    if values.get(b"expect", b"100-continue").lower() != b"100-continue":
        raise _RefusedError
    options = [
        one.strip(b" \t").lower() for name, value in fields for one in value.split(b",") if name == b"connection"
    ]
    if any(one not in {b"close", b"keep-alive", b"te"} for one in options):
        raise _RefusedError
    length = values.get(b"content-length")
    if b"transfer-encoding" in values:
        if length is not None or values[b"transfer-encoding"] != b"chunked":
            raise _RefusedError
        return None
    if length is None:
        return 0
    if not 1 <= len(length) <= 15 or not length.isdigit() or (length[:1] == b"0" and length != b"0"):
        raise _RefusedError
    return int(length)


def _is_host(host: bytes) -> bool:
    if host.startswith(b"["):
        name, bracket, rest = host[1:].partition(b"]")
        good = bool(bracket) and 2 <= len(name) <= 45 and all(byte in _HEX + b":." for byte in name)
        colon, port = rest[:1], rest[1:]
    else:
        name, colon, port = host.partition(b":")
        good = 1 <= len(name) <= 253 and all(byte in _ALNUM + b".-" for byte in name)
    return good and ((not colon and not port) or (colon == b":" and 1 <= len(port) <= 5 and port.isdigit()))


def _chunks(stream: bytes, at: int) -> tuple[bytes, int]:
    body: list[bytes] = []
    while True:
        line, at = _chunk_line(stream, at, digits=8)
        if not line:
            raise _RefusedError
        size = int(line, 16)
        if size > len(stream) - at:
            raise _MoreError
        body.append(stream[at : at + size])
        _, at = _chunk_line(stream, at + size, digits=0)
        if not size:
            return b"".join(body), at


def _chunk_line(stream: bytes, at: int, digits: int) -> tuple[bytes, int]:
    """Return a line of at most so many digits without its end, and where the next begins."""
    room = stream[at : at + 10]
    line, end, _ = room.partition(b"\n")
    number = line.removesuffix(b"\r")
    good = len(number) <= digits and all(byte in _HEX for byte in number)
    if not end:
        raise _RefusedError if len(room) == 10 else _MoreError(hopeless=not good or (line == b"\r" and digits > 0))
    if not line.endswith(b"\r") or not good:
        raise _RefusedError
    return number, at + len(line) + 1
