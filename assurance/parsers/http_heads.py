"""The HTTP/1.1 reader in front of enclave and custodian: requests, cut into pieces at any place.

`reader` is `transport.wire` alone: where each request begins and ends. `guard` is the whole protocol, with llhttp
behind the reader and an application behind that, on a transport in memory: what the application is asked, and what is
answered. Both must agree with the independent reading (`http_reading`), request by request, and end as it does. The
library's own reader of header fields, which takes nearly everything, must find the same ones: whatever stands in
front of or behind this server reads the same request.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPException, parse_headers
from io import BytesIO
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from aigovtool.errors import InputError
from aigovtool.transport.bounds import HttpLimits
from aigovtool.transport.connection import Connection, Tally
from aigovtool.transport.fast_path import Answer, FastRequest, ok
from aigovtool.transport.guard import GuardedHttpProtocol
from aigovtool.transport.notices import Notices
from aigovtool.transport.rounds import Rounds
from aigovtool.transport.server import http_config
from aigovtool.transport.wire import Head, RequestReader
from assurance.parsers.http_edits import GENUINE, edit
from assurance.parsers.http_reading import ENDED, REFUSED, WAITING, Reading, Request, read_connection
from assurance.parsers.parser import Kind, Parser, Parts

_LOG: Final = logging.getLogger(__name__)

# --- The reader alone ----------------------------------------------------------------------------


def _read(parts: Parts) -> Reading:
    """Return which ranges of the bytes were taken as requests, and how it ended."""
    reader = RequestReader()
    ranges: list[Request] = []
    start = seen = 0
    for piece in parts:
        try:
            taken = reader.feed(piece)
        except InputError:
            if not ranges:
                raise
            return Reading(tuple(ranges), REFUSED)
        seen += len(piece)
        if reader.complete:
            stop = seen if not reader.surplus else _stop(parts, start, len(taken), seen - len(piece), len(piece))
            ranges.append(Request(b"", b"", (), b"", start, stop))
            if reader.surplus:
                return Reading(tuple(ranges), ENDED)
            reader.next_request()
            start = stop
    return Reading(tuple(ranges), WAITING)


def _stop(parts: Parts, start: int, taken: int, before: int, size: int) -> int:
    """Return where a request ends of which the last piece gave `taken` bytes, those of an earlier head among them."""
    head = b"".join(parts)[start:].find(b"\r\n\r\n") + 4
    earlier = before - start if before - start < head else 0
    return before + taken - earlier if taken <= size + earlier else -1


def _ranges(reading: Reading) -> tuple[tuple[int, int], ...]:
    return tuple((one.start, one.stop) for one in reading.requests)


def _wrong_ranges(parts: Parts, value: object) -> str | None:
    """Compare with the independent reading, which goes on after a request that says close; the reader does as well."""
    found, expected = cast("Reading", value), read_connection(parts)
    count = len(expected.requests)
    if _ranges(found)[:count] != _ranges(expected):
        return f"requests at {_ranges(found)}, read by hand at {_ranges(expected)}"
    if count and expected.requests[-1].says_close():
        return None
    if len(found.requests) != count or found.end != expected.end:
        return f"{len(found.requests)} requests and {found.end}, read by hand {count} and {expected.end}"
    return next(filter(None, (_other_fields(one, b"".join(parts)) for one in expected.requests)), None)


def _other_fields(request: Request, stream: bytes) -> str | None:
    """Return whether the library, which reads nearly everything, finds other header fields in an accepted request."""
    _, _, rest = stream[request.start : request.stop].partition(b"\r\n")
    try:
        found = parse_headers(BytesIO(rest))
    except HTTPException as error:
        return f"another reader fails on an accepted head: {type(error).__name__}"
    fields = tuple((name.lower().encode(), value.strip(" \t").encode()) for name, value in found.items())
    return None if fields == request.fields else "another reader finds other header fields in an accepted head"


def _refused_wrongly(parts: Parts, _error: Exception) -> str | None:
    expected = read_connection(parts)
    if not expected.requests and expected.end == REFUSED:
        return None
    return f"refused, read by hand {len(expected.requests)} requests and {expected.end}"


# --- The whole protocol --------------------------------------------------------------------------


@dataclass
class _Wire(asyncio.Transport):
    """A transport in memory."""

    written: bytearray = field(default_factory=bytearray)
    closed: bool = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        """Take no notice: what is sent meanwhile is not looked at."""

    def resume_reading(self) -> None:
        """Take no notice."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401, ARG002 - as in asyncio
        return default


#: Method, target, header fields and body.
_Asked = tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...], bytes]


class _Application:
    """Remembers what it was asked, once the whole body has come, and answers that."""

    def __init__(self) -> None:
        self.asked: list[_Asked] = []

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        body = b""
        while True:
            event = await receive()
            if event["type"] != "http.request":
                return
            body += event["body"]
            if not event["more_body"]:
                break
        target = scope["raw_path"] + (b"?" if scope["query_string"] else b"") + scope["query_string"]
        self.asked.append((scope["method"].encode(), target, tuple(map(tuple, scope["headers"])), body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


class _FastPath:
    """Has what the gateway's does, some of it by room; it answers some, and gives the others back, at once or later."""

    def __init__(self, application: _Application) -> None:
        self._application = application
        #: That were taken, and not given back.
        self.rooms = 0

    def wants(self, head: Head) -> bool:
        return _may_go_fast(head) and not (head.length or 0) % 2

    def room_for(self, head: Head, _: Connection) -> Callable[[], None] | None:
        if not _may_go_fast(head):
            return None
        self.rooms += 1
        return self._give_back

    def _give_back(self) -> None:
        self.rooms -= 1

    def take(self, request: FastRequest, answer: Answer) -> bool:
        share = len(request.body) % 3
        if share:
            asyncio.get_running_loop().call_soon(self._go, request, answer, share)
        return bool(share)

    def _go(self, request: FastRequest, answer: Answer, share: int) -> None:
        if share == 1:
            answer(None)
            return
        method, target, _ = request.head.line.split(b" ")
        self._application.asked.append((method, target, tuple(request.head.fields.items()), request.body))
        answer(ok("", b"ok"))


def _may_go_fast(head: Head) -> bool:
    fields = head.fields
    keeps = fields.get(b"connection", b"keep-alive") == b"keep-alive"
    return keeps and head.length is not None and b"expect" not in fields


@cache
def _config() -> tuple[Config, _Application]:
    application = _Application()
    return http_config(cast("Any", application)), application


@dataclass(frozen=True)
class _Served:
    """What the application was asked, and what came of it: statuses, the end, and rooms that were not given back."""

    asked: tuple[_Asked, ...]
    statuses: tuple[int, ...]
    ended: bool
    rooms: int


async def _serve(parts: Sequence[bytes], *, fast: bool = False) -> _Served:
    config, application = _config()
    application.asked = []
    wire, state, notices, fast_path = _Wire(), ServerState(), Notices(_LOG), _FastPath(application)
    protocol = GuardedHttpProtocol(
        config,
        state,
        bounds=HttpLimits(linger_s=0.0),
        server_spki_sha256=None,
        clients=Tally(1),
        rounds=Rounds(1),
        notices=notices,
        on_lost=lambda: None,
        fast_path=fast_path if fast else None,
    )
    protocol.connection_made(wire)
    for piece in parts:
        protocol.data_received(piece)
        for _ in range(4):  # the application takes what came, and answers what is complete
            await asyncio.sleep(0)
    ended = protocol.transport.is_closing()
    protocol.connection_lost(None)
    notices.close()
    return _Served(tuple(application.asked), _statuses(bytes(wire.written)), ended, fast_path.rooms)


def _statuses(written: bytes) -> tuple[int, ...]:
    """Return the statuses of all answers but of those that only say: go on."""
    found: list[int] = []
    while written:
        head, _, written = written.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        if status != 100:
            found.append(status)
            lengths = [line[16:] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length: ")]
            written = written[int(lengths[0]) :]
    return tuple(found)


def _guarded(parts: Parts) -> _Served:
    return asyncio.run(_serve(parts))


def _guarded_fast(parts: Parts) -> _Served:
    return asyncio.run(_serve(parts, fast=True))


def _wrong_served(parts: Parts, value: object) -> str | None:
    served, expected = cast("_Served", value), read_connection(parts)
    # An empty query is none; llhttp leaves white space at the end of a value, which is no part of it (RFC 9110, 5.5).
    asked = [(one.method, _plain(one.target), one.fields, one.body) for one in expected.requests]
    found = [
        (method, _plain(target), tuple((name, value.rstrip(b" \t")) for name, value in fields), body)
        for method, target, fields, body in served.asked
    ]
    if len(found) != len(asked) or any(not _same(*pair) for pair in zip(found, asked, strict=True)):
        return f"the application was asked {len(found)} requests, read by hand {len(asked)}: {found} {asked}"[:600]
    oks, refusals = [one for one in served.statuses if one == 200], [one for one in served.statuses if one != 200]
    # llhttp sees at once that a line of a chunk goes wrong, the reader when it has come.
    refused = expected.end == REFUSED or (expected.hopeless and bool(refusals))
    if len(oks) != len(asked) or len(refusals) != refused:
        return f"answers {served.statuses} to {len(asked)} requests, then {expected.end}"
    if any(status not in {400, 413, 415} for status in refusals):
        return f"refused with status {refusals}"
    if served.ended != (refused or expected.end == ENDED):
        return f"the connection ended: {served.ended}, read by hand it is {expected.end}"
    if served.rooms:
        return f"{served.rooms} rooms for bodies are not given back"
    return None


def _same(found: _Asked, asked: _Asked) -> bool:
    """Return whether a request is the one that was read by hand; the fast path is told of each field once."""
    if found == asked:
        return True
    merged: dict[bytes, bytes] = {}
    for name, value in asked[2]:
        merged[name] = merged[name] + b"," + value if name in merged else value
    return (found[0], found[1], dict(found[2]), found[3]) == (asked[0], asked[1], merged, asked[3])


def _plain(target: bytes) -> bytes:
    path, _, query = target.partition(b"?")
    return path + b"?" + query if query else path


def _make() -> tuple[Kind, ...]:
    reader = Kind(
        name="reader",
        genuine=GENUINE,
        edit=edit,
        read=_read,
        wrong=_wrong_ranges,
        refusals=(InputError,),
        refused_wrongly=_refused_wrongly,
        weight=3,
    )
    guard = Kind(name="guard", genuine=GENUINE, edit=edit, read=_guarded, wrong=_wrong_served, refusals=())
    fast = Kind(name="fast", genuine=GENUINE, edit=edit, read=_guarded_fast, wrong=_wrong_served, refusals=())
    return reader, guard, fast


PARSER: Final = Parser(
    name="http-heads",
    claim="No bytes on a connection are read as other requests than a strict reader finds in them, or as two of one.",
    counts="requests with lines added, doubled, folded, reordered and spelled otherwise, two lengths, chunks with "
    "extensions and trailers, line ends of other kinds, requests within requests, heads at their bounds; each cut into "
    "pieces at any places. Three of five go through the reader alone, the others through the whole protocol to an "
    "application, half of them by way of a fast path that answers some and gives the others back. "
    "Requests, where they end, header fields, bodies, answers and the end of the connection must be what "
    "an independent reading of all bytes at once says; a more lenient reader must find the same header fields.",
    shows_not="what time does: deadlines are tested elsewhere; nor TLS, which comes before.",
    covers=(
        "src/aigovtool/codec.py",
        "src/aigovtool/errors.py",
        "src/aigovtool/transport/body_pace.py",
        "src/aigovtool/transport/bounds.py",
        "src/aigovtool/transport/connection.py",
        "src/aigovtool/transport/deadline.py",
        "src/aigovtool/transport/declared_length.py",
        "src/aigovtool/transport/fast_lane.py",
        "src/aigovtool/transport/fast_path.py",
        "src/aigovtool/transport/guard.py",
        "src/aigovtool/transport/held.py",
        "src/aigovtool/transport/lingering.py",
        "src/aigovtool/transport/no_place.py",
        "src/aigovtool/transport/notices.py",
        "src/aigovtool/transport/pieces.py",
        "src/aigovtool/transport/rounds.py",
        "src/aigovtool/transport/problem.py",
        "src/aigovtool/transport/server.py",
        "src/aigovtool/transport/whole_body.py",
        "src/aigovtool/transport/wire.py",
        "assurance/parsers/http_edits.py",
        "assurance/parsers/http_heads.py",
        "assurance/parsers/http_reading.py",
    ),
    make=_make,
)
