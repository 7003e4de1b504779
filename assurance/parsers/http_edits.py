"""Requests in HTTP/1.1, and how they are changed: within a line, in how lines end, and in where the bytes are cut."""

from itertools import pairwise
from random import Random
from typing import Final

from conformance.malformed import edits

from assurance.parsers.parser import Parts

_GET: Final = b"GET /v2/models/doubler HTTP/1.1\r\nHost: localhost:8443\r\n"


_POST: Final = b"POST /v2/models/doubler/infer HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


_CHUNKED: Final = _POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\n"


_SHORT: Final = _POST + b"Content-Length: 5\r\n\r\nhello"


_PLAIN: Final = _GET + b"\r\n"


GENUINE: Final[tuple[Parts, ...]] = (
    (_PLAIN,),
    (_SHORT,),
    (_CHUNKED,),
    (_POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n", b"{}"),
    (_PLAIN, _SHORT, _PLAIN),
    (_CHUNKED, _PLAIN),
    (_GET + b"Accept: a/b\r\nAccept: c/d\r\naigovtool-request-id: r:1\r\nConnection: close\r\n\r\n",),
    (b"GET /v1/log/entries?start=0&limit=%31 HTTP/1.1\r\nhost: [::1]:8443\r\nConnection: keep-alive, te\r\n\r\n",),
    (b"DELETE /a/b/ HTTP/1.1\r\nHost:\t a \t\r\nX-Y: \r\n\r\n", b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"),
)


#: What is put in at the end of a line, or in the place of one.
_LINES: Final = (
    *(
        b"Content-Length: %s" % one
        for one in (b"0", b"5", b"05", b"+5", b"5, 5", b"0x5", b" 5 ", b"99999999999", b"-1")
    ),
    *(b"Transfer-Encoding: %s" % one for one in (b"chunked", b"Chunked", b"gzip, chunked", b"identity", b'"chunked"')),
    *(b"Transfer-Encoding : chunked", b"Transfer_Encoding: chunked", b"Transfer-Encoding: chunked, identity"),
    *(b"Transfer-Encoding:\x0bchunked", b" Transfer-Encoding: chunked", b"X: y\r\n z", b"X\x00: y", b"X: \x7f"),
    *(b"Host: b", b"Host: u@a", b"Host:", b"Connection: Upgrade", b"Connection: close, x", b"Upgrade: h2c", b": y"),
    *(b"Expect: 100-Continue", b"Expect: x", b"Trailer: X", b"TE: trailers", b"Content-Encoding: gzip", b"nonsense"),
    *(b"aigovtool-request-id: 2", b"Accept: e/f", b"Cookie: a=b", b"HTTP2-Settings: AA", b"Forwarded: for=1", b""),
)


_TARGETS: Final = (
    *(
        b"//a",
        b"/a/../b",
        b"/.",
        b"/a/..",
        b"/...",
        b"/%61",
        b"*",
        b"http://a/b",
        b"a:443",
        b"/a#b",
        b"/a\\b",
        b"/a?b?c",
    ),
    *(
        b"/?%zz",
        b"/?%4",
        b"/?a=%41&b=~",
        b"/\xc3\xa9",
        b"/a b",
        b"",
        b"/;/",
        b"/a//",
        b"/a/./b?c/../d",
        b"/a?",
        b"/a??",
    ),
)


_VERSIONS: Final = (b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"", b"HTTP/01.1", b"HTTP/1.10")


_METHODS: Final = (b"get", b"TRACE", b"CONNECT", b"PRI", b"GET\t", b"", b"G\x00T", b"OPTIONS", b"PATCH", b"PUT")


_SIZES: Final = (b"0", b"3;x=y", b" 3", b"3 ", b"0x3", b"-1", b"", b"00000003", b"000000003", b"FFFFFFFF", b"3\t", b"g")


_ENDS: Final = (b"\n", b"\r", b"\n\r", b"\r\r\n", b"\r\n\r\n", b"", b" \r\n", b"\x00\r\n")


def edit(parts: Parts, chance: Random) -> Parts:
    """Change what is sent, once or a few times, and cut it into pieces."""
    data = b"".join(parts)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
        data = chance.choice((_line, _line, _replaced, _first, _chunk, _ends, _again, _more, edits.edit))(data, chance)
    return _cut(data or b"\r", parts, chance)


def _line(data: bytes, chance: Random) -> bytes:
    """Put a line in."""
    lines = data.split(b"\r\n")
    at = chance.randrange(len(lines) + 1)
    return b"\r\n".join([*lines[:at], chance.choice(_LINES), *lines[at:]])


def _replaced(data: bytes, chance: Random) -> bytes:
    """Say, write or order a line otherwise."""
    lines = data.split(b"\r\n")
    at = chance.randrange(len(lines))
    match chance.randrange(6):
        case 0:
            lines[at] = chance.choice(_LINES)
        case 1:
            lines[at] = chance.choice((lines[at].upper(), lines[at].lower(), lines[at].swapcase()))
        case 2:
            lines[at] = lines[at].replace(b":", chance.choice((b" :", b":\t ", b"::", b"", b"=")), 1)
        case 3:
            lines[at : at + 1] = [lines[at], lines[at]]
        case 4:
            chance.shuffle(lines)
        case _:
            lines[at] = edits.edit(lines[at], chance)
    return b"\r\n".join(lines)


def _first(data: bytes, chance: Random) -> bytes:
    """Change the request line."""
    line, end, rest = data.partition(b"\r\n")
    parts = [*line.split(b" "), b"", b"", b""][:3]
    at = chance.randrange(3)
    parts[at] = chance.choice((_METHODS, _TARGETS, _VERSIONS)[at])
    return chance.choice((b" ", b" ", b" ", b"  ", b"\t")).join(parts) + end + rest


def _chunk(data: bytes, chance: Random) -> bytes:
    """Change the size of a chunk, or put a trailer behind the last one."""
    head, end, body = data.partition(b"\r\n\r\n")
    lines = body.split(b"\r\n")
    at = chance.randrange(len(lines))
    if chance.random() < 0.7:
        lines[at] = chance.choice(_SIZES)
    else:
        lines[at:at] = [chance.choice((b"X: y", b"", b"0", b"abc", b"1\r\nz"))]
    return head + end + b"\r\n".join(lines)


def _ends(data: bytes, chance: Random) -> bytes:
    """End a line, or all lines, in another way."""
    lines = data.split(b"\r\n")
    if chance.random() < 0.2:
        return chance.choice(_ENDS).join(lines)
    at = chance.randrange(max(1, len(lines) - 1))
    return b"\r\n".join(lines[: at + 1]) + chance.choice(_ENDS) + b"\r\n".join(lines[at + 1 :])


def _again(data: bytes, chance: Random) -> bytes:
    """Put another request behind it, before it, or into it."""
    (other, *_) = chance.choice(GENUINE)
    at = chance.choice((0, len(data), chance.randrange(len(data) + 1)))
    return data[:at] + other + data[at:]


def _more(data: bytes, chance: Random) -> bytes:
    """Make a head longer: near its bounds, or far beyond them."""
    line, end, rest = data.partition(b"\r\n")
    if chance.random() < 0.4:
        count = chance.choice((60, 61, 62, 63, 64, 65, 200))
        return line + end + b"".join(b"X%d: y\r\n" % at for at in range(count)) + rest
    room = 16384 - len(line) - len(b"\r\nX: \r\n") - rest.find(b"\r\n\r\n") - 4
    size = max(0, room + chance.choice((-1, 0, 1, 2, 20_000)))
    return line + b"\r\nX: " + b"y" * size + end + rest


def _cut(data: bytes, parts: Parts, chance: Random) -> Parts:
    """Cut it: as it was, nowhere, at some places, at line ends, or (a short one) everywhere."""
    if b"".join(parts) == data and chance.random() < 0.3:
        return parts
    way = chance.randrange(5)
    if way == 0:
        places: list[int] = []
    elif way == 1 and len(data) < 300:
        places = list(range(1, len(data)))
    elif way == 2:
        places = [at + 1 for at in range(len(data)) if data[at : at + 1] == b"\n" and chance.random() < 0.5]
    elif way == 3:
        places = [at + chance.randrange(3) for at in range(len(data)) if data.startswith(_GET[:4], at)]
    else:
        places = [chance.randrange(len(data)) for _ in range(chance.randrange(1, 6))]
    edges = [0, *sorted({place for place in places if 0 < place < len(data)}), len(data)]
    return tuple(data[start:stop] for start, stop in pairwise(edges))
