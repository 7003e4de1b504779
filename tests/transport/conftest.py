"""One authority, some credentials and a small application, served over real TLS on a free loopback port."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

import pytest
from starlette.responses import Response, StreamingResponse

from aigovtool.codec import Message
from aigovtool.crypto.identity import IdentityKind
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.x509 import issue_client_certificate, new_authority, self_signed_server_certificate
from aigovtool.errors import BudgetExhaustedError
from aigovtool.ids import ModelId
from aigovtool.transport.body import stream_body
from aigovtool.transport.bounds import HttpLimits
from aigovtool.transport.fast_path import FastPath
from aigovtool.transport.routes import Call, Caller, Route, application
from aigovtool.transport.server import HttpServer, bind_loopback
from aigovtool.transport.tls import ServerTls, pinned_context, server_context

SMALL = HttpLimits(linger_s=0.05, header_timeout_s=5.0, body_idle_timeout_s=5.0)
BODY_LIMIT = 1000
SECRET = "prompt-7d1c0e"


class ModelPath(Message):
    model: ModelId


class Page(Message):
    limit: int = 10


class Note(Message):
    text: str


class Reply(Message):
    text: str


async def hello(call: Call) -> Reply:
    return Reply(text="nobody" if call.identity is None else f"{call.identity.kind} {call.identity.name}")


async def echo(call: Call) -> Reply:
    return Reply(text=call.body(Note).text)


async def model(call: Call) -> Reply:
    return Reply(text=f"{call.path(ModelPath).model} {call.query(Page).limit}")


async def refuse(_: Call) -> None:
    raise BudgetExhaustedError("no units are left", reason="pool_empty", fix="ask for more", retry_after_s=7)


async def break_down(_: Call) -> None:
    raise RuntimeError(SECRET)


async def nothing(_: Call) -> None:
    return None


async def count_body(call: Call) -> Reply:
    total = 0
    async for piece in stream_body(call.request, 1 << 30):
        total += len(piece)
    return Reply(text=str(total))


async def pin(call: Call) -> Reply:
    return Reply(text=(call.connection.server_spki_sha256 or b"").hex())


async def stream(_: Call) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 16)

    return StreamingResponse(pieces())


EVERYBODY = (Caller.CONSUMER, Caller.OPERATOR, Caller.BORROWER)
ROUTES = [
    Route(method="GET", path="/hello", handler=hello, who=(Caller.ANYONE,), answer=Reply, summary="Who am I"),
    Route(
        method="POST",
        path="/echo",
        handler=echo,
        who=(Caller.ANYONE,),
        body=Note,
        answer=Reply,
        max_body_bytes=BODY_LIMIT,
        summary="Say it again",
    ),
    Route(method="GET", path="/whoami", handler=hello, who=EVERYBODY, answer=Reply, summary="Who am I, proven"),
    Route(method="GET", path="/operators", handler=hello, who=(Caller.OPERATOR,), answer=Reply, summary="Operators"),
    Route(
        method="GET",
        path="/models/{model}",
        handler=model,
        who=(Caller.ANYONE,),
        answer=Reply,
        path_type=ModelPath,
        query_type=Page,
        summary="One model",
    ),
    Route(method="GET", path="/refuse", handler=refuse, who=(Caller.ANYONE,), summary="Refuses"),
    Route(method="GET", path="/break", handler=break_down, who=(Caller.ANYONE,), summary="Has a bug"),
    Route(method="DELETE", path="/echo", handler=nothing, who=(Caller.OPERATOR,), summary="Forget"),
    Route(
        method="POST",
        path="/count",
        handler=count_body,
        who=(Caller.ANYONE,),
        stream_body=True,
        answer=Reply,
        summary="Count",
    ),
    Route(method="GET", path="/pin", handler=pin, who=(Caller.ANYONE,), answer=Reply, summary="Which key"),
    Route(
        method="GET",
        path="/stream",
        handler=stream,
        who=(Caller.ANYONE,),
        answer_media="application/octet-stream",
        summary="Endless",
    ),
]


class World:
    """Keys and certificates, valid around the present time unless a test wants otherwise."""

    def __init__(self) -> None:
        self.now_ms = time.time_ns() // 1_000_000
        self.authority_key = SigningKey.generate()
        self.authority = self.new_authority(self.authority_key)
        self.server_key = TlsKey.generate()
        self.server_certificate = self_signed_server_certificate(self.server_key)
        self.tls = server_context([self.server_certificate], self.server_key, [self.authority])

    def new_authority(self, key: SigningKey) -> bytes:
        """A credentials authority of that key."""
        return new_authority(key, "credentials", not_before_ms=self.now_ms - 10**9, not_after_ms=self.now_ms + 10**9)

    def credential(
        self, kind: IdentityKind, name: str, *, offset_ms: int = 0, authority_key: SigningKey | None = None
    ) -> tuple[bytes, SigningKey]:
        """A fresh key and its client certificate, valid now unless shifted."""
        key = SigningKey.generate()
        signer = authority_key or self.authority_key
        authority = self.authority if authority_key is None else self.new_authority(authority_key)
        certificate = issue_client_certificate(
            signer,
            authority,
            key.public,
            kind,
            name,
            not_before_ms=self.now_ms - 100_000 + offset_ms,
            not_after_ms=self.now_ms + 100_000 + offset_ms,
        )
        return certificate, key

    def client(self, credential: tuple[bytes, SigningKey] | None = None) -> ssl.SSLContext:
        """A client that pins the server, with or without a credential."""
        if credential is None:
            return pinned_context(self.server_certificate)
        return pinned_context(self.server_certificate, credential=[credential[0]], key=credential[1])


@dataclass(frozen=True)
class Answer:
    """One HTTP response as it came over the wire."""

    status: HTTPStatus
    headers: dict[str, str]
    body: bytes


def parse_answers(data: bytes) -> list[Answer]:
    """Read every response in `data`; anything else in it is an error of the server."""
    answers = []
    while data:
        head, separator, rest = data.partition(b"\r\n\r\n")
        assert separator, data
        first, *lines = head.decode("ascii").split("\r\n")
        version, code, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        if code == "100":
            data = rest
            continue
        headers = dict(line.split(": ", 1) for line in lines)
        length = int(headers["content-length"])
        answers.append(Answer(HTTPStatus(int(code)), headers, rest[:length]))
        assert len(rest) >= length, data
        data = rest[length:]
    return answers


@asynccontextmanager
async def served(
    world: World,
    bounds: HttpLimits = SMALL,
    *,
    tls: ServerTls | None = None,
    plain: bool = False,
    routes: Sequence[Route] = (),
    fast_path: FastPath | None = None,
) -> AsyncIterator[HttpServer]:
    with bind_loopback() as listener:
        app = application([*ROUTES, *routes], clock_ms=lambda: world.now_ms)
        server = HttpServer(app, listener, None if plain else tls or world.tls, bounds, fast_path=fast_path)
        await server.start()
        try:
            yield server
        finally:
            await server.stop(grace_s=0.1)


@asynccontextmanager
async def connected(
    server: HttpServer, context: ssl.SSLContext | None, source: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = server.address
    reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=1 << 22, local_addr=(source, 0))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def exchange(server: HttpServer, context: ssl.SSLContext, *pieces: bytes) -> list[Answer]:
    """Send `pieces` and return all answers until the server closes."""
    async with connected(server, context) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(20):
            return parse_answers(await reader.read(-1))


async def all_closed(server: HttpServer) -> None:
    """Wait until the server has no connection left."""
    async with asyncio.timeout(10):
        while server.connections:
            server._changed.clear()
            await server._changed.wait()


async def ask(
    server: HttpServer, context: ssl.SSLContext, path: str, method: str = "GET", *headers: str, body: bytes = b""
) -> Answer:
    """Send one well-formed request and return its answer."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    lines += [f"Content-Length: {len(body)}"] if body else []
    [answer] = await exchange(server, context, "\r\n".join([*lines, "", ""]).encode() + body)
    return answer


@pytest.fixture(scope="session")
def world() -> World:
    return World()


@pytest.fixture
def bounds() -> HttpLimits:
    return SMALL


@pytest.fixture
async def server(world: World, bounds: HttpLimits) -> AsyncIterator[HttpServer]:
    async with served(world, bounds) as running:
        yield running
