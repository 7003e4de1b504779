"""Who may ask the gateway: this user's programs on this machine, and no page of another site in a browser here.

Whatever listens on loopback can be reached by every user of the machine, and by every page that is open in a browser. A
page of another site may send requests, though not read answers, and each would be charged; and one whose name was
pointed at 127.0.0.1 meanwhile (DNS rebinding) would even read them. So, before anything else is looked at:

1. The socket at the other end is this user's, or root's, where the system can tell (`users`) and nobody said otherwise.
2. `Host` names loopback, with the port of the gateway.
3. A request that says where it comes from (`Origin`) comes from the gateway itself, or from an origin that was allowed.
   So does one of which the browser says that it was made by another site (`Sec-Fetch-Site`).

No answer allows another origin to read it (no `Access-Control-*`), unless the origin was allowed.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final
from weakref import WeakKeyDictionary

from starlette.requests import HTTPConnection

from aigovtool.consumer.connect import users
from aigovtool.errors import ForbiddenError
from aigovtool.transport.connection import Connection, connection_of
from aigovtool.transport.problem import problem

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
_OWN: Final = frozenset({b"", b"same-origin", b"none"})
_ALLOWED_HEADERS: Final = b"content-type, inference-header-content-length, aigovtool-request-id"
_SHOWN_HEADERS: Final = (
    b"inference-header-content-length, aigovtool-request-id, aigovtool-units-remaining, aigovtool-receipt, "
    b"aigovtool-warning, retry-after"
)


class LocalOnly:
    """An application for this machine alone, in front of another one."""

    def __init__(
        self,
        application: Application,
        address: tuple[str, int],
        origins: Iterable[str] = (),
        *,
        all_users: bool = False,
    ) -> None:
        """Let through what is asked of this address of loopback.

        Args:
            application: what answers.
            address: host and port that the gateway listens on.
            origins: of pages that may ask from a browser as well.
            all_users: whether other users of the machine may ask.
        """
        self._application: Final = application
        self._address: Final = address
        self._all_users: Final = all_users or not users.can_tell()
        #: Of connections that are open, whether they are of somebody who may ask.
        self._known: Final[WeakKeyDictionary[Connection, bool]] = WeakKeyDictionary()
        _, port = address
        self._hosts: Final = frozenset(f"{name}:{port}".encode() for name in _NAMES) | (
            frozenset(name.encode() for name in _NAMES) if port == 80 else frozenset()
        )
        self._own: Final = frozenset(b"http://" + host for host in self._hosts)
        self._origins: Final = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        error = self._foreign_user(scope) or self._refusal(headers)
        if error is not None:
            await problem(error)(scope, receive, send)
            return
        origin = headers.get(b"origin")
        if origin not in self._origins:
            await self._application(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await self._preflight(origin, send)
        else:
            await self._application(scope, receive, _shown_to(origin, send))

    def _foreign_user(self, scope: Scope) -> ForbiddenError | None:
        if self._all_users:
            return None
        connection = connection_of(HTTPConnection(scope))
        ours = self._known.get(connection)
        if ours is None:
            ours = connection.peer is not None and users.is_ours(connection.peer, self._address)
            self._known[connection] = ours
        return None if ours else ForbiddenError(
            "this gateway asks in the name of one user of this machine, and you are another one",
            reason="foreign_user",
            fix="start a gateway of your own, with your own consumer file",
        )  # fmt: skip

    def _refusal(self, headers: dict[bytes, bytes]) -> ForbiddenError | None:
        if headers.get(b"host", b"").lower() not in self._hosts:
            return ForbiddenError(
                "this gateway is for programs on its own machine, which call it by a name of loopback",
                reason="foreign_host",
                fix="use http://127.0.0.1 with its port",
            )
        origin = headers.get(b"origin")
        if origin is not None and origin not in self._own and origin not in self._origins:
            return ForbiddenError(
                "a page of another origin asks; every request of it would be charged to you",
                reason="foreign_origin",
                fix="if you trust that page, start the gateway with --allow-origin and its origin",
            )
        if origin is None and headers.get(b"sec-fetch-site", b"") not in _OWN:
            return ForbiddenError("a page of another site asks", reason="foreign_origin")
        return None

    @staticmethod
    async def _preflight(origin: bytes, send: Send) -> None:
        headers = [
            (b"access-control-allow-origin", origin),
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", _ALLOWED_HEADERS),
            (b"vary", b"origin"),
        ]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def _shown_to(origin: bytes, send: Send) -> Send:
    async def shown(event: MutableMapping[str, Any]) -> None:
        if event["type"] == "http.response.start":
            own = [
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", _SHOWN_HEADERS),
                (b"vary", b"origin"),
            ]
            event = {**event, "headers": [*event.get("headers", ()), *own]}
        await send(event)

    return shown
