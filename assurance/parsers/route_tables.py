"""Requests to the real route tables of custodian and enclave: paths, queries, content types and bodies.

Each route stands as it is in its table, with another handler: one that returns what was decoded for it. So every type
that a table decodes is under test, also one that is added later. What reaches a handler must agree with an independent
reading of path, query and body; every answer that is not 200 must be a refusal, and none a server error.
"""

import asyncio
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from types import SimpleNamespace
from typing import Any, Final, cast
from urllib.parse import quote

import msgspec
from conformance.malformed import edits
from starlette.responses import Response

from aigovtool.codec import convert, encode
from aigovtool.custodian import api as custodian_api
from aigovtool.custodian.service import packages
from aigovtool.enclave.gateway import api as enclave_api
from aigovtool.errors import InputError
from aigovtool.transport.connection import EXTENSION, Connection
from aigovtool.transport.routes import Call, Caller, Route, application
from assurance.parsers.documents import disagreement, drawn
from assurance.parsers.http_reading import is_query
from assurance.parsers.parser import Kind, Parts, edit_one
from assurance.parsers.reading import NotJsonError, by_hand, unlike

_WEIRD: Final = (
    *("", "0", "-1", "-0", "010", "1.0", "1e2", "9007199254740991", "9007199254740992", "+1", "1_0", " 1", "true"),
    *("a" * 200, "A", "sha256:", "0" * 32, "f" * 64, "..", "%", "%zz", "%00", "%ff", "%C3%A9", "a+b", "a;b", "x=y"),
)
_PACKAGE: Final = 10
#: What the reader of heads lets through, with the sign of an escape.
_PLAIN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~!$&'()*+,;=:@/?%-"
_TYPES: Final = (b"", b"application/json; charset=utf-8", b"text/plain", b"Application/JSON", b"application/json,x")


class RefusedError(Exception):
    """An answer with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


@dataclass(frozen=True)
class _Decoded:
    """What a handler found."""

    path: object
    query: object
    body: object


@dataclass(frozen=True)
class _Table:
    """An application with these routes, which puts what they decode into `decoded`."""

    routes: tuple[Route, ...]
    serve: Callable[..., Any]
    decoded: list[_Decoded]


def table_of(routes: Sequence[Route]) -> _Table:
    """Return the application of a table whose handlers tell what they were given."""
    decoded: list[_Decoded] = []

    def telling(route: Route) -> Route:
        async def tell(call: Call) -> Response:
            found = [
                None if kind is None else of(kind)
                for kind, of in ((route.path_type, call.path), (route.query_type, call.query), (route.body, call.body))
            ]
            decoded.append(_Decoded(*found))
            return Response(b"")

        # A body that its handler reads is looked at elsewhere; whoever may ask is no matter here.
        return replace(route, handler=tell, who=(Caller.ANYONE,), answer=None, stream_body=False)

    told = tuple(telling(route) for route in routes)
    return _Table(told, application(told, clock_ms=lambda: 0), decoded)


@cache
def tables() -> dict[str, _Table]:
    """Return both tables. Handlers alone use what the stand-ins are for."""
    custodian = cast("Any", SimpleNamespace())
    run = cast("Any", SimpleNamespace(instance=SimpleNamespace(session_evidence=None, custodian_time_ms=None)))
    return {"custodian": table_of(custodian_api.routes(custodian)), "enclave": table_of(enclave_api.routes(run))}


def kinds() -> tuple[Kind, ...]:
    """Return a kind of inputs for each table."""
    return tuple(_kind(name, table) for name, table in tables().items())


def _kind(name: str, table: _Table) -> Kind:
    genuine = [parts for route in table.routes for parts in _genuine(route)]
    return Kind(
        name=f"{name}-requests",
        genuine=tuple(genuine),
        edit=_edit,
        read=lambda parts: asyncio.run(_ask(table, parts)),
        wrong=lambda parts, value: _wrong(table, parts, cast("_Decoded", value)),
        refusals=(RefusedError,),
        refused_wrongly=_refused_wrongly,
        weight=3,
    )


def _genuine(route: Route) -> list[Parts]:
    """Return requests to one route: method and target, content type, body."""
    chance = Random(route.path + route.method)
    found: list[Parts] = []
    for at in range(3 if route.body else 1 + (route.query_type is not None)):
        path = route.path
        if route.path_type is not None:
            for value in drawn(route.path_type, 1):
                for field in route.path_type.__struct_fields__:
                    path = path.replace(f"{{{field}}}", str(getattr(value, field)))
        query = "" if route.query_type is None else _query(drawn(route.query_type, 2)[at])
        body = b"" if route.body is None else encode(drawn(route.body, 3)[at])
        media = b"application/json" if route.body else b""
        found.append((f"{route.method} {path}{query}".encode(), media, body))
    chance.shuffle(found)
    return found


def _query(value: object) -> str:
    pairs = msgspec.to_builtins(value)
    return "?" + "&".join(f"{name}={quote(str(member), safe='')}" for name, member in pairs.items())


# --- Edits ---------------------------------------------------------------------------------------


def _edit(parts: Parts, chance: Random) -> Parts:
    target, media, body = parts
    if body and chance.random() < 0.8:
        (body,) = edit_one((body,), chance)
    if chance.random() < (0.15 if body else 1.0):
        target = _target(target, chance)
    if chance.random() < 0.05:
        media = chance.choice(_TYPES)
    if chance.random() < 0.03:
        body = b"" if body else b"{}"
    return target, media, body


def _target(target: bytes, chance: Random) -> bytes:
    """Change a part of the path or of the query, among what the reader of heads lets through."""
    method, _, where = target.decode().partition(" ")
    path, question, query = where.partition("?")
    if not question or chance.random() < 0.4:
        names = path.split("/")
        at = chance.randrange(1, len(names))
        names[at] = chance.choice(
            (*_WEIRD, names[at].upper(), edits.edit(names[at].encode() or b"x", chance).decode("latin-1"))
        )
        path = "/".join(names)
        question, query = (question, query) if chance.random() < 0.8 else ("?", "a=1")
    else:
        pairs = query.split("&")
        at = chance.randrange(len(pairs))
        name, equals, value = pairs[at].partition("=")
        changed = chance.choice(
            (
                *(f"{name}{equals}{weird}" for weird in _WEIRD),
                *(
                    name,
                    f"{value}={name}",
                    f"{pairs[at]}&{pairs[at]}",
                    "",
                    "x=1",
                    f"{name.upper()}={value}",
                    f"%61={value}",
                ),
            )
        )
        query = "&".join([*pairs[:at], changed, *pairs[at + 1 :]]) + "&a=1" * chance.choice((0, 0, 0, 1, 40))
    method = chance.choice((method, method, method, "GET", "PUT", "HEAD", "PATCH"))
    plain = [bytes(byte for byte in text.encode("ascii", "ignore") if byte in _PLAIN) for text in (path, query)]
    escaped = plain[1] if is_query(plain[1]) else plain[1].replace(b"%", b"")
    return method.encode() + b" " + plain[0].replace(b"%", b"") + question.encode() + escaped


# --- The application -----------------------------------------------------------------------------


async def _ask(table: _Table, parts: Parts) -> _Decoded:
    """Return what the handler found.

    Raises:
        RefusedError: no handler was reached.
    """
    table.decoded.clear()
    sent: list[MutableMapping[str, Any]] = []
    where, _, query = parts[0].partition(b" ")[2].partition(b"?")
    headers = [(b"content-length", str(len(parts[2])).encode())] if parts[2] else []
    headers += [(b"content-type", parts[1])] if parts[1] else []
    scope = {
        "type": "http",
        "method": parts[0].partition(b" ")[0].decode(),
        "path": where.decode(),
        "raw_path": where,
        "query_string": query,
        "headers": headers,
        "extensions": {EXTENSION: Connection(peer=None, peer_certificate=None, server_spki_sha256=None)},
    }
    half = len(parts[2]) // 2
    events = [
        {"type": "http.request", "body": parts[2][:half], "more_body": True},
        {"type": "http.request", "body": parts[2][half:], "more_body": False},
    ]

    async def receive() -> MutableMapping[str, Any]:
        return events.pop(0) if events else {"type": "http.disconnect"}

    async def send(event: MutableMapping[str, Any]) -> None:
        sent.append(event)

    await table.serve(scope, receive, send)
    status = cast("int", sent[0]["status"])
    if status != 200:
        raise RefusedError(status)
    return table.decoded[0]


def _refused_wrongly(_parts: Parts, error: Exception) -> str | None:
    status = cast("RefusedError", error).status
    return None if status in {400, 404, 405, 413, 415, 422} else f"answered with status {status}"


# --- The oracle ----------------------------------------------------------------------------------


def _wrong(table: _Table, parts: Parts, found: _Decoded) -> str | None:
    method, _, where = parts[0].decode("ascii").partition(" ")
    path, _, query = where.partition("?")
    fitting = [route for route in table.routes if route.method == method and _segments(route, path) is not None]
    if not fitting:
        return "a request that fits no route reached a handler"
    # A literal path is meant before one with a parameter.
    route = min(fitting, key=lambda one: one.path.count("{"))
    return (
        _other_path(_segments(route, path) or {}, route.path_type, found.path)
        or _other_query(query, route.query_type, found.query)
        or _other_body(parts, route, found.body)
    )


def _other_path(named: dict[str, str], kind: type[msgspec.Struct] | None, value: object) -> str | None:
    if kind is None:
        return None
    wrong = unlike(named, kind)
    return f"a path read as something else: {wrong}" if wrong or msgspec.to_builtins(value) != named else None


def _other_body(parts: Parts, route: Route, value: object) -> str | None:
    if route.body is None:
        return "a body where there is none" if parts[2] else None
    if parts[1] != b"application/json":
        return "a body of another content type"
    return disagreement(parts[2], route.body, value, route.max_body_bytes)


def _segments(route: Route, path: str) -> dict[str, str] | None:
    """Return the parameters of a path, if it is one of this route."""
    template, given = route.path.split("/"), path.split("/")
    if len(template) != len(given):
        return None
    named: dict[str, str] = {}
    for expected, text in zip(template, given, strict=True):
        if expected.startswith("{"):
            if not text:
                return None
            named[expected[1:-1]] = text
        elif expected != text:
            return None
    return named


def _other_query(query: str, kind: type[msgspec.Struct] | None, value: object) -> str | None:
    """Read a query by hand: pairs of a name and a value, both percent-encoded; a number is one of JSON."""
    read: dict[str, object] = {}
    if kind is None:
        return "a query where there is none" if query else None
    schema = msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"]
    for pair in query.split("&") if query else ():
        name, equals, text = pair.partition("=")
        if not equals or (name := _unescaped(name)) in read:
            return "a query parameter without a value, or twice"
        read[name] = text = _unescaped(text)
        if schema.get(name, {}).get("type") == "integer":
            try:
                number = by_hand(text.encode())
            except NotJsonError:
                return "a query parameter that is no number"
            read[name] = int(number) if number == int(number) else number
    if (where := unlike(read, kind)) is not None:
        return f"a query accepted against its schema: {where}"
    shown = msgspec.to_builtins(value)
    return None if all(shown[name] == member for name, member in read.items()) else "a query read as something else"


def _unescaped(text: str) -> str:
    plain, *escaped = text.replace("+", " ").encode().split(b"%")
    return (plain + b"".join(bytes([int(one[:2], 16)]) + one[2:] for one in escaped)).decode()


# --- Headers -------------------------------------------------------------------------------------


def header_kind() -> Kind:
    """Return the kind of the headers that handlers read by themselves: request id, salt, range of a package."""
    return Kind(
        name="headers",
        genuine=((b"request:7", b"00ff" * 8, b"bytes=0-"), (b"a" * 64, b"", b"bytes=5-9")),
        edit=_edit_header,
        read=_read_headers,
        wrong=_wrong_headers,
        refusals=(InputError,),
    )


def _edit_header(parts: Parts, chance: Random) -> Parts:
    changed, at = list(parts), chance.randrange(3)
    weird = (b"", b"0" * 129, b"0" * 128, b"00 ff", b"0", b"gg", b"bytes=-5", b"bytes=9-5", b"bytes=0-0,1-1", b"FF")
    changed[at] = chance.choice((edits.edit(parts[at], chance), chance.choice(weird), parts[at].upper()))
    return tuple(bytes(byte for byte in part if 0x20 <= byte < 0x7F) for part in changed)


def _read_headers(parts: Parts) -> tuple[str, bytes, tuple[int, int]]:
    key = convert({"key": parts[0].decode()}, enclave_api._Headers).key  # noqa: SLF001 - handlers call these
    return key, enclave_api._salt(parts[1].decode()), packages._bounds(parts[2].decode(), _PACKAGE)  # noqa: SLF001


def _wrong_headers(parts: Parts, value: object) -> str | None:
    key, salt, (start, end) = cast("tuple[str, bytes, tuple[int, int]]", value)
    plain = set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-")
    if key.encode() != parts[0] or not 1 <= len(parts[0]) <= 64 or not set(parts[0]) <= plain:
        return "a request id that is none"
    if len(salt) > 64 or salt.hex() != parts[1].decode().replace(" ", "").lower():
        return "a salt that is none"
    unit, _, numbers = parts[2].decode().partition("=")
    first, _, last = numbers.partition("-")
    stop = min(int(last), _PACKAGE - 1) if last else _PACKAGE - 1
    expected = int(first), stop
    return None if unit == "bytes" and expected == (start, end) and start <= end < _PACKAGE else "a range that is none"
