"""The route table: deny by default, strict bodies, opaque faults."""

import logging
import ssl

import pytest
from openapi_spec_validator import validate
from tests.transport.conftest import BODY_LIMIT, ROUTES, SECRET, SMALL, Note, Reply, World, ask, exchange, hello

from aigovtool.codec import Message
from aigovtool.crypto.identity import Identity, IdentityKind
from aigovtool.errors import ForbiddenError
from aigovtool.transport.openapi import openapi
from aigovtool.transport.routes import Call, Caller, Route, application
from aigovtool.transport.server import HttpServer, bind_loopback

JSON = "Content-Type: application/json"


class OneName(Message):
    """What `/a/{second}` names."""

    second: str


class TwoNames(OneName):
    """What `/{first}/{second}` names."""

    first: str


@pytest.fixture
def context(world: World) -> ssl.SSLContext:
    return world.client()


@pytest.mark.parametrize(
    "path", ["/", "/hello/", "/Hello", "/hello/x", "/models", "/models/a/b", "/docs", "/openapi.json"]
)
async def test_what_is_not_in_the_table_does_not_exist(path: str, server: HttpServer, context: ssl.SSLContext) -> None:
    """No redirect, no guess, no page of a framework: a problem document."""
    answer = await ask(server, context, path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("path", "found"),
    [("/a/b", "literal"), ("/a/c", "one"), ("/x/b", "two")],
)
async def test_what_says_most_of_a_path_is_found_first(path: str, found: str, world: World) -> None:
    """A literal path before a template that would match it, and of templates that with fewer names."""

    def route(path: str, said: str, names: type[Message] | None) -> Route:
        async def handler(_: Call) -> Reply:
            return Reply(text=said)

        who = (Caller.ANYONE,)
        return Route(method="GET", path=path, handler=handler, who=who, summary=said, answer=Reply, path_type=names)

    table = [
        route("/{first}/{second}", "two", TwoNames),
        route("/a/{second}", "one", OneName),
        route("/a/b", "literal", None),
    ]
    with bind_loopback() as listener:
        app = application(table, clock_ms=lambda: world.now_ms)
        async with HttpServer(app, listener, world.tls, SMALL) as server:
            answer = await ask(server, world.client(), path)
    assert answer.status == 200
    assert f'"{found}"'.encode() in answer.body


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "OPTIONS"])
async def test_a_wrong_method_names_the_right_ones(method: str, server: HttpServer, context: ssl.SSLContext) -> None:
    """405 with `Allow`, and the handler never runs."""
    request = f"{method} /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    if method == "HEAD":
        return  # its answer has a length but no body, which `exchange` does not parse
    [answer] = await exchange(server, context, request)
    assert answer.status == 405
    assert answer.headers["allow"] == "DELETE, POST"


@pytest.mark.parametrize("kind", list(IdentityKind))
async def test_a_role_gets_its_own_routes_only(kind: IdentityKind, server: HttpServer, world: World) -> None:
    """An operator's route is 403 for a proven consumer and borrower, and 401 for nobody."""
    context = world.client(world.credential(kind, "ada"))
    answer = await ask(server, context, "/operators")
    assert answer.status == (200 if kind is IdentityKind.OPERATOR else 403)
    assert (await ask(server, world.client(), "/operators")).status == 401


async def test_identity_is_checked_before_the_body_is_looked_at(server: HttpServer, context: ssl.SSLContext) -> None:
    """Who may not call a route learns nothing about what it would accept."""
    answer = await ask(server, context, "/echo", "DELETE", "Content-Type: text/plain", body=b"x" * 10_000)
    assert answer.status == 401


async def test_a_role_can_refuse_an_identity_that_it_does_not_know(world: World) -> None:
    """The role's own check sees every identity and its refusal is the answer."""
    seen: list[Identity] = []

    def authorize(identity: Identity, _: Route) -> None:
        seen.append(identity)
        raise ForbiddenError("not enrolled", reason="not_enrolled")

    app = application(ROUTES, clock_ms=lambda: world.now_ms, authorize=authorize)
    with bind_loopback() as listener:
        async with HttpServer(app, listener, world.tls, SMALL) as server:
            answer = await ask(server, world.client(world.credential(IdentityKind.OPERATOR, "eve")), "/operators")
            assert (await ask(server, world.client(), "/hello")).status == 200
    assert answer.status == 403
    assert b"not_enrolled" in answer.body
    assert [identity.name for identity in seen] == ["eve"]


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        pytest.param([JSON], b'{"text":"hi"}', 200, id="good"),
        pytest.param([], b'{"text":"hi"}', 415, id="no-type"),
        pytest.param(
            ["Content-Type: application/json; charset=utf-8"], b'{"text":"hi"}', 415, id="type-with-parameter"
        ),
        pytest.param(["Content-Type: text/plain"], b'{"text":"hi"}', 415, id="other-type"),
        pytest.param([JSON], b'{"text":"hi"', 400, id="truncated"),
        pytest.param([JSON], b"", 400, id="empty"),
        pytest.param([JSON], b'{"text":"a","text":"b"}', 400, id="duplicate-key"),
        pytest.param([JSON], b'{"text":"hi","more":1}', 422, id="unknown-field"),
        pytest.param([JSON], b'{"text":1}', 422, id="wrong-type"),
        pytest.param([JSON], b"[" * 500, 400, id="too-deep"),
        pytest.param([JSON], b'{"text":"%s"}' % (b"a" * (BODY_LIMIT - 11)), 200, id="at-the-limit"),
        pytest.param([JSON], b'{"text":"%s"}' % (b"a" * (BODY_LIMIT - 10)), 413, id="over-the-limit"),
    ],
)
async def test_a_body_is_decoded_strictly(
    headers: list[str], body: bytes, status: int, server: HttpServer, context: ssl.SSLContext
) -> None:
    """Each fault of the body has its own status, and the good one passes."""
    assert (await ask(server, context, "/echo", "POST", *headers, body=body)).status == status


async def test_an_undeclared_body_over_the_limit_is_cut_off(server: HttpServer, context: ssl.SSLContext) -> None:
    """Chunks are counted while they stream; the refusal comes before the body ends."""
    head = f"POST /echo HTTP/1.1\r\nHost: a\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    chunk = b"100\r\n" + b"a" * 256 + b"\r\n"
    [answer] = await exchange(server, context, head, *[chunk] * 5)
    assert answer.status == 413
    assert answer.headers["connection"] == "close"


async def test_a_declared_body_over_the_limit_is_not_asked_for(server: HttpServer, context: ssl.SSLContext) -> None:
    """A client that waits for 100 Continue gets the refusal instead, and never sends the body."""
    request = f"POST /echo HTTP/1.1\r\nHost: a\r\n{JSON}\r\nExpect: 100-continue\r\nContent-Length: 5000\r\n\r\n"
    [answer] = await exchange(server, context, request.encode())
    assert answer.status == 413


async def test_a_route_without_a_body_takes_none(server: HttpServer, context: ssl.SSLContext) -> None:
    """An unexpected body is refused instead of ignored."""
    assert (await ask(server, context, "/hello", body=b"x")).status == 413


async def test_a_large_body_streams_through(server: HttpServer, context: ssl.SSLContext) -> None:
    """A route that reads the body by itself gets all of it, under back pressure."""
    body = bytes(8 << 20)
    assert (await ask(server, context, "/count", "POST", body=body)).body == b'{"text":"%d"}' % len(body)


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/models/covid-net", 200, b"covid-net 10"),
        ("/models/covid-net?limit=5", 200, b"covid-net 5"),
        ("/models/Covid", 422, b""),
        ("/models/-", 422, b""),
        ("/models/a?limit=x", 422, b""),
        ("/models/a?limit=1.5", 422, b""),
        ("/models/a?limit=1.0", 422, b""),
        ("/models/a?limit=1e1", 422, b""),
        ("/models/a?limit=1_0", 422, b""),
        ("/models/a?limit=%2B5", 422, b""),
        ("/models/a?limit=-5", 422, b""),
        ("/models/a?limit=05", 422, b""),
        ("/models/a?limit=", 422, b""),
        ("/models/a?limit=%EF%BC%95", 422, b""),
        ("/models/a?limit=9007199254740993", 422, b""),
        ("/models/a?limit=99999999999999999999", 422, b""),
        ("/models/a?limit=5&limit=6", 400, b""),
        ("/models/a?other=1", 422, b""),
        ("/models/a?limit", 400, b""),
        ("/models/a?limit=%ff", 400, b""),
        ("/hello?x=1", 422, b""),
    ],
)
async def test_parameters_are_parsed_into_their_types(
    path: str, status: int, text: bytes, server: HttpServer, context: ssl.SSLContext
) -> None:
    """A path or query parameter outside its type never reaches the handler."""
    answer = await ask(server, context, path)
    assert answer.status == status
    assert text in answer.body


async def test_a_refusal_is_a_whole_problem_document(server: HttpServer, context: ssl.SSLContext) -> None:
    """All members and the Retry-After header come from the error; `error` is what OIP clients read."""
    answer = await ask(server, context, "/refuse")
    assert answer.status == 402
    assert answer.headers["retry-after"] == "7"
    assert answer.body == (
        b'{"type":"urn:aigovtool:error:budget_exhausted","title":"Budget exhausted","status":402,'
        b'"detail":"no units are left","code":"budget_exhausted","error":"no units are left",'
        b'"reason":"pool_empty","fix":"ask for more"}'
    )


async def test_a_bug_shows_its_text_to_nobody(
    server: HttpServer, context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    """Peer and log get an error id and a type name; the message, which may hold a prompt, stays out of both."""
    with caplog.at_level(logging.DEBUG):
        answer = await ask(server, context, "/break")
    assert answer.status == 500
    assert SECRET.encode() not in answer.body
    assert b"Traceback" not in answer.body
    assert SECRET not in caplog.text
    [record] = [record for record in caplog.records if record.name.startswith("aigovtool")]
    error_id = answer.body.split(b"internal error ")[1][:16].decode()
    assert error_id in record.getMessage()
    assert "RuntimeError" in record.getMessage()


class Other(Message):
    text: str


async def wrong_answer(_: Call) -> Other:
    return Other(text=SECRET)


async def test_an_answer_of_another_type_is_not_sent(world: World) -> None:
    """What a handler returns by mistake does not leave the process."""
    route = Route(method="GET", path="/x", handler=wrong_answer, who=(Caller.ANYONE,), answer=Reply, summary="x")
    with bind_loopback() as listener:
        async with HttpServer(application([route], clock_ms=lambda: 0), listener, world.tls, SMALL) as server:
            answer = await ask(server, world.client(), "/x")
    assert answer.status == 500
    assert SECRET.encode() not in answer.body


def test_a_table_that_contradicts_itself_does_not_start() -> None:
    """A route nobody or everybody-and-somebody may use, an undeclared parameter, a duplicate: errors at start."""
    good = {"method": "GET", "path": "/x", "handler": hello, "who": (Caller.ANYONE,), "summary": "x"}
    wrong: list[dict[str, object]] = [
        {"who": ()},
        {"who": (Caller.ANYONE, Caller.OPERATOR)},
        {"path": "/x/{model}"},
        {"method": "TRACE"},
        {"body": Note, "stream_body": True},
        {"summary": ""},
    ]
    Route(**good)  # type: ignore[arg-type]
    for change in wrong:
        with pytest.raises(ValueError, match="contradicts itself"):
            Route(**(good | change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="twice"):
        application([*ROUTES, ROUTES[0]], clock_ms=lambda: 0)


def test_the_description_is_valid_and_complete() -> None:
    """The document is valid OpenAPI 3.1 and names every route, its callers and its proof of identity."""
    document = openapi(ROUTES, "Test", "1.2.3")
    validate(document)
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert described == {(route.method, route.path) for route in ROUTES}
    operators = document["paths"]["/operators"]["get"]
    assert operators["security"] == [{"clientCertificate": []}]
    assert operators["x-aigovtool-who"] == ["operator"]
    assert document["paths"]["/hello"]["get"]["security"] == []
    assert {"401", "403", "default"} <= operators["responses"].keys()
    parameters = document["paths"]["/models/{model}"]["get"]["parameters"]
    assert [(item["name"], item["in"], item["required"]) for item in parameters] == [
        ("model", "path", True),
        ("limit", "query", False),
    ]
    assert document["paths"]["/echo"]["delete"]["responses"]["204"]
