"""The deny-by-default route table: what is not listed does not exist, and nothing is open unless it says so.

For each request, in this order, and nothing later runs when something earlier fails:

1. Path (404) and method (405 with `Allow`).
2. Who asks: the credential of the connection (401), its role among `who` of the route (403), then the
   role's own check, for example whether the key is enrolled and not revoked.
3. Path and query parameters, decoded strictly into their types; a repeated query parameter is an error.
4. The body: content type exactly `application/json` (415), size (413), room for it among those of others (429),
   strict decoding (400, 422). A route
   without a body type takes no body at all; one with `stream_body` reads the body by itself, bounded.
5. The handler; its answer must be of the declared type, a Starlette `Response`, or None for 204.

Every error becomes problem+json (`transport.problem`). The table is also what `transport.openapi` describes.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Final, TypeVar, cast
from urllib.parse import parse_qsl

import msgspec
from msgspec import inspect
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from aigovtool.codec import Message, convert, encode
from aigovtool.crypto.identity import Identity, IdentityKind
from aigovtool.errors import (
    AIGovToolError,
    ForbiddenError,
    InvalidValueError,
    MalformedError,
    NotFoundError,
    UnauthenticatedError,
    UnsupportedMediaError,
)
from aigovtool.limits import MAX_CONTROL_BODY_BYTES, MAX_INTEGER, MAX_SMALL_BODY_BYTES
from aigovtool.transport.body import Parser, check_declared, read_body
from aigovtool.transport.connection import Connection, connection_of
from aigovtool.transport.problem import problem, unexpected
from aigovtool.transport.room import Room

M = TypeVar("M", bound=msgspec.Struct)
T = TypeVar("T")

_JSON: Final = "application/json"
_JSON_HEADERS: Final = {"content-type": _JSON, "cache-control": "no-store", "x-content-type-options": "nosniff"}
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_MAX_QUERY_FIELDS: Final = 32
_NUMBER_RE: Final = re.compile(r"0|[1-9][0-9]{0,15}")


class Caller(StrEnum):
    """Who may use a route. `ANYONE` needs no credential, and learns nothing that needs one."""

    ANYONE = "anyone"
    OPERATOR = "operator"
    CONSUMER = "consumer"
    BORROWER = "borrower"


class Call:
    """One request whose caller, parameters and body have been checked; `now_ms` was read once for all of it."""

    __slots__ = ("_body", "_parameters", "connection", "identity", "now_ms", "request")

    def __init__(self, request: Request, connection: Connection, identity: Identity | None, now_ms: int) -> None:
        self.request: Final = request
        self.connection: Final = connection
        #: Who asks; None only on a route for `ANYONE` when no credential was shown.
        self.identity: Final = identity
        self.now_ms: Final = now_ms
        self._parameters: tuple[msgspec.Struct | None, msgspec.Struct | None] = (None, None)
        self._body: msgspec.Struct | None = None

    def caller(self) -> Identity:
        """Return who asks, on a route that requires a credential."""
        return _present(self.identity, Identity)

    def body(self, kind: type[M]) -> M:
        """Return the decoded body; `kind` is the route's `body`."""
        return _present(self._body, kind)

    def path(self, kind: type[M]) -> M:
        """Return the decoded path parameters; `kind` is the route's `path_type`."""
        return _present(self._parameters[0], kind)

    def query(self, kind: type[M]) -> M:
        """Return the decoded query parameters; `kind` is the route's `query_type`."""
        return _present(self._parameters[1], kind)


Handler = Callable[[Call], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One line of the table. `path` is like `/v1/models/{model}`; each name is a field of `path_type`."""

    method: str
    path: str
    handler: Handler
    who: tuple[Caller, ...]
    summary: str
    body: type[msgspec.Struct] | None = None
    stream_body: bool = False
    answer: type[msgspec.Struct] | None = None
    #: Content type of an answer that is a Starlette response, for the description only.
    answer_media: str | None = None
    status: int = 200
    path_type: type[Message] | None = None
    query_type: type[Message] | None = None
    max_body_bytes: int = MAX_CONTROL_BODY_BYTES
    name: str | None = None

    def __post_init__(self) -> None:
        names = path_names(self.path)
        fields = () if self.path_type is None else self.path_type.__struct_fields__
        open_to_all = Caller.ANYONE in self.who
        wrong = (
            self.method not in _METHODS
            or not self.who
            or (open_to_all and len(self.who) > 1)
            or sorted(names) != sorted(fields)
            or (self.body is not None and self.stream_body)
            or not self.summary
        )
        if wrong:  # a mistake of ours, found when the program starts
            raise ValueError(f"the route {self.method} {self.path} contradicts itself")


#: Is told who was refused what, and why.
Noter = Callable[[Identity, Route, AIGovToolError], Awaitable[None]]


def path_names(path: str) -> list[str]:
    """Return the parameter names in a path template."""
    return [part[1:-1] for part in path.split("/") if part.startswith("{") and part.endswith("}")]


def application(
    routes: Sequence[Route],
    *,
    clock_ms: Callable[[], int],
    authorize: Callable[[Identity, Route], None] | None = None,
    refused: Noter | None = None,
    bodies: Room | None = None,
) -> Router:
    """Return the ASGI application that serves exactly `routes`.

    Args:
        routes: the table; two routes with the same method and path are an error.
        clock_ms: trusted time, read once per request.
        authorize: called with every identity before its request is looked at further; refuses by raising.
        refused: told of each error on a route that needs a credential, once it is known whose; before the answer.
        bodies: the memory for bodies that are read as a whole, from before they are read until they are answered.
    """
    table: dict[str, dict[str, Route]] = {}
    for route in routes:
        methods = table.setdefault(route.path, {})
        if route.method in methods:
            raise ValueError(f"{route.method} {route.path} is in the table twice")
        methods[route.method] = route
    parser = Parser()
    return _Paths(
        {
            path: _Endpoint(methods, clock_ms, authorize, refused, bodies=bodies, parser=parser)
            for path, methods in table.items()
        }
    )


class _Paths(Router):
    """Finds what serves a path: a literal one at once, and before a template that would match it too."""

    def __init__(self, endpoints: dict[str, "_Endpoint"]) -> None:
        self._literal: Final = {path: one for path, one in endpoints.items() if not path_names(path)}
        templates = sorted(endpoints.keys() - self._literal.keys(), key=lambda path: (len(path_names(path)), path))
        routes = [StarletteRoute(path, endpoints[path], include_in_schema=False) for path in templates]
        super().__init__(routes, redirect_slashes=False, default=_not_found)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `Router`."""
        literal = self._literal.get(scope["path"])
        if literal is None:
            await super().app(scope, receive, send)
        else:
            scope["path_params"] = {}
            await literal(scope, receive, send)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    error = NotFoundError("there is nothing at this path", reason="no_route")
    await _refusal(Request(scope, receive), error)(scope, receive, send)


class _Endpoint:
    """All methods of one path."""

    def __init__(
        self,
        routes: dict[str, Route],
        clock_ms: Callable[[], int],
        authorize: Callable[[Identity, Route], None] | None,
        refused: Noter | None,
        *,
        bodies: Room | None,
        parser: Parser,
    ) -> None:
        self._routes: Final = routes
        self._clock_ms: Final = clock_ms
        self._authorize: Final = authorize
        self._refused: Final = refused
        self._bodies: Final = bodies
        self._parser: Final = parser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._respond(Request(scope, receive))
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        route = self._routes.get(request.method)
        if route is None:
            error = MalformedError(f"{request.method} is not for this path", reason="method_not_allowed")
            response = _refusal(request, error, status=405)
            response.headers["allow"] = ", ".join(sorted(self._routes))
            return response
        try:
            call = self._called(request, route)
            try:
                return await self._answer(call, route)
            except AIGovToolError as error:
                if self._refused is not None and call.identity is not None and Caller.ANYONE not in route.who:
                    await self._refused(call.identity, route, error)
                raise
        except AIGovToolError as error:
            return _refusal(request, error)
        except Exception as exception:  # noqa: BLE001 - nothing of ours may show its text to a peer
            return problem(unexpected(exception))

    async def _answer(self, call: Call, route: Route) -> Response:
        self._require_allowed(call, route)
        request = call.request
        call._parameters = (_path_parameters(request, route), _query_parameters(request, route))  # noqa: SLF001
        if route.body is not None:
            check_content_type(request)
            check_declared(request, route.max_body_bytes)
            with self._room(call, route):
                body = await read_body(request, route.max_body_bytes)
                call._body = await self._parser.parsed(body, route.body, route.max_body_bytes)  # noqa: SLF001
                return _encoded(await route.handler(call), route)
        if not route.stream_body:
            await _require_no_body(request)
        return _encoded(await route.handler(call), route)

    def _room(self, call: Call, route: Route) -> AbstractContextManager[object]:
        """Take the memory for a body; for a small one there always is."""
        declared = call.request.headers.get("content-length")
        size_bytes = route.max_body_bytes if declared is None else int(declared)
        if self._bodies is None or size_bytes <= MAX_SMALL_BODY_BYTES:
            return nullcontext()
        return self._bodies.take(call.connection.sharer, size_bytes)

    def _called(self, request: Request, route: Route) -> Call:
        connection, now_ms = connection_of(request), self._clock_ms()
        if Caller.ANYONE in route.who and connection.peer_certificate is None:
            return Call(request, connection, None, now_ms)
        return Call(request, connection, connection.identity(), now_ms)

    def _require_allowed(self, call: Call, route: Route) -> None:
        if call.identity is None:
            return
        call.identity.check_time(call.now_ms)
        if Caller.ANYONE not in route.who and _caller_of(call.identity.kind) not in route.who:
            raise ForbiddenError(f"this is not for a {call.identity.kind.value}", reason="wrong_role")
        if self._authorize is not None:
            self._authorize(call.identity, route)


def _refusal(request: Request, error: AIGovToolError, *, status: int | None = None) -> Response:
    """Return the answer to a request that is refused, and have the log tell of it."""
    with suppress(UnauthenticatedError):  # it did not come through the guarded server
        connection_of(request).refused(error)
    return problem(error, status=status)


def _caller_of(kind: IdentityKind) -> Caller:
    match kind:
        case IdentityKind.CONSUMER:
            return Caller.CONSUMER
        case IdentityKind.OPERATOR:
            return Caller.OPERATOR
        case IdentityKind.BORROWER:
            return Caller.BORROWER


def check_content_type(request: Request, accepted: Iterable[str] = (_JSON,)) -> None:
    """Raise `UnsupportedMediaError` unless the content type is exactly one of `accepted`, without parameters."""
    accepted = tuple(accepted)
    if request.headers.get("content-type") not in accepted:
        raise UnsupportedMediaError(
            "the content type is not taken here", reason="content_type", fix=f"use {' or '.join(accepted)}"
        )


async def _require_no_body(request: Request) -> None:
    check_declared(request, 0)
    await read_body(request, 0)


def _path_parameters(request: Request, route: Route) -> msgspec.Struct | None:
    if route.path_type is None:
        return None
    return convert(dict(request.path_params), route.path_type)


def _query_parameters(request: Request, route: Route) -> msgspec.Struct | None:
    text = cast("bytes", request.scope.get("query_string", b"")).decode("ascii")
    if route.query_type is None:
        if text:
            raise InvalidValueError("this path takes no query parameters", reason="bad_query")
        return None
    pairs = _query_pairs(text) if text else []
    if len(dict(pairs)) != len(pairs):
        raise MalformedError("a query parameter is repeated", reason="bad_query")
    numbers = _numbers_of(route.query_type)
    # A query holds text only, so "10" is the integer 10; no other spelling is.
    values = {name: _number(text) if name in numbers else text for name, text in pairs}
    try:
        return convert(values, route.query_type)
    except InvalidValueError as error:
        raise InvalidValueError(error.message, reason="bad_query") from None


def _number(text: str) -> int | str:
    """Return the integer that `text` is, or, for `convert` to refuse, the text."""
    return int(text) if _NUMBER_RE.fullmatch(text) and int(text) <= MAX_INTEGER else text


@cache
def _numbers_of(kind: type[msgspec.Struct]) -> frozenset[str]:
    """Return the names of a message's integers."""
    fields = msgspec.structs.fields(kind)
    found = (one.encode_name for one in fields if isinstance(inspect.type_info(one.type), inspect.IntType))
    return frozenset(found)


def _query_pairs(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=_MAX_QUERY_FIELDS
        )
    except ValueError:
        raise MalformedError("the query cannot be parsed", reason="bad_query") from None


def _encoded(answer: object, route: Route) -> Response:
    if isinstance(answer, Response):
        return answer
    if route.answer is None and answer is None:
        return Response(status_code=204, headers={"cache-control": "no-store"})
    if route.answer is None or not isinstance(answer, route.answer):
        raise TypeError(f"the handler of {route.method} {route.path} returned a {type(answer).__name__}")
    return Response(encode(answer), status_code=route.status, headers=_JSON_HEADERS)


def _present(value: object, kind: type[T]) -> T:
    if not isinstance(value, kind):  # a mistake of ours: the route does not declare what its handler asks for
        raise TypeError(f"the route declares no {kind.__name__}")
    return value
