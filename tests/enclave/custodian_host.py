"""What stands at a custodian's address, and answers as a test has it."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aigovtool.codec import Message
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.x509 import issue_server_certificate, new_authority, to_pem
from aigovtool.errors import NotFoundError
from aigovtool.ids import Digest
from aigovtool.protocol.party import CustodianAddress
from aigovtool.transport.routes import Call, Caller, Route, application
from aigovtool.transport.server import HttpServer, bind_loopback
from aigovtool.transport.tls import server_context


class Text(Message):
    text: str


class PackagePath(Message):
    package: Digest


Handler = Callable[[Call], Awaitable[object]]


async def not_scripted(_: Call) -> object:
    raise NotFoundError("not scripted")


@dataclass
class Host:
    """What stands at the custodian's address, and what it does."""

    address: CustodianAddress
    say: Handler = not_scripted
    serve: Handler = not_scripted
    ranges: list[str | None] = field(default_factory=list)

    async def said(self, call: Call) -> object:
        return await self.say(call)

    async def served(self, call: Call) -> object:
        self.ranges.append(call.request.headers.get("range"))
        return await self.serve(call)

    def routes(self) -> list[Route]:
        post: dict[str, Any] = {"method": "POST", "handler": self.said, "who": (Caller.ANYONE,), "body": Text}
        return [
            Route(path="/v1/say", summary="say", answer=Text, **post),
            Route(path="/v1/listen", summary="listen", answer=Text, **post),
            Route(
                method="GET",
                path="/v1/packages/{package}",
                handler=self.served,
                who=(Caller.ANYONE,),
                summary="package",
                path_type=PackagePath,
            ),
        ]


@asynccontextmanager
async def standing() -> AsyncIterator[Host]:
    """Yield a host that is asked over TLS, as a custodian is."""
    authority, key = TlsKey.generate(), TlsKey.generate()
    now_ms = time.time_ns() // 1_000_000
    span = {"not_before_ms": now_ms - 3_600_000, "not_after_ms": now_ms + 3_600_000}
    ca = new_authority(authority, "custodian tls", **span)
    certificate = issue_server_certificate(authority, ca, key, ["127.0.0.1"], **span)
    with bind_loopback() as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        made = Host(CustodianAddress(url=url, root=bytes(32), tls_ca=to_pem(ca).decode()))
        app = application(made.routes(), clock_ms=lambda: now_ms)
        async with HttpServer(app, listener, server_context([certificate], key, None)):
            yield made


def answering(answer: object) -> Handler:
    async def handler(_: Call) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return handler
