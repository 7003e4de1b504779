"""A proxy between enclave and custodian that ends TLS, so that it can tell messages apart, and do anything to them.

No real host can do this: it takes the custodian's TLS key, which a test has because it owns the custodian's directory.
What holds against this proxy holds without the protection of TLS, by the signatures and identifiers alone.

```python
with Between(world.directory / "custodian", world.custodian_port) as between:
    between.on("/v1/renew", lambda message: [message.forward(), message.forward()][0])  # each twice, one answered
    between.on("/v1/renew", None)  # as if it was not there
    between.exchanges("/v1/renew")[0].again()  # a captured message, as late as one likes
```
"""

import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from aigovtool.crypto.keyfile import read_tls_key
from aigovtool.crypto.x509 import from_pem
from aigovtool.transport.tls import client_context, server_context

#: Longer than anything that the product waits for.
_PATIENCE_S = 90.0
_LISTEN = "/v1/listen"


class DroppedError(Exception):
    """What a rule raises to swallow a message: its sender sees its connection end."""


@dataclass
class Reply:
    """What goes back to the enclave."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    #: The lines of a stream that does not end by itself, and the connection that they come on; no body then.
    lines: Iterator[bytes] | None = None
    link: http.client.HTTPSConnection | None = None
    #: So many bytes more are announced than are sent, before the connection ends.
    lacks: int = 0

    def close(self) -> None:
        """End the stream, if it is one, whether anybody read it or not."""
        if self.link is not None:
            self.link.close()


@dataclass
class Message:
    """One request of the enclave, on its way."""

    between: "Between"
    method: str
    path: str
    body: bytes
    headers: dict[str, str]

    def forward(self) -> Reply:
        """Send it to the custodian, and return what that answers; again and again if wished."""
        return self.between.send(self.method, self.path, self.body, self.headers)


@dataclass
class Exchange:
    """A message as it was captured, and the answer that the enclave was given (none if it was swallowed)."""

    message: Message
    reply: Reply | None = None

    def again(self) -> Reply:
        """Send the captured bytes once more, on a connection of their own; what streams is not read."""
        reply = self.message.forward()
        reply.close()
        return reply


Rule = Callable[[Message], Reply]


class Between:
    """Serves on a free port with the custodian's certificate, and forwards to the custodian. Commands from any thread.

    The custodian's directory need not be there before the first connection.
    """

    def __init__(self, directory: Path, custodian_port: int) -> None:
        self._keys = directory / "keys"
        self._custodian_port = custodian_port
        self._rules: dict[str, Rule] = {}
        self._exchanges: list[Exchange] = []
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.cut()
        self._server.server_close()
        self._thread.join()

    def on(self, path: str, rule: Rule | None) -> None:
        """Do this to every message of a route from now on; nothing if there is no rule."""
        if rule is None:
            self._rules.pop(path, None)
        else:
            self._rules[path] = rule

    def heal(self) -> None:
        """Forget all rules."""
        self._rules.clear()

    def exchanges(self, path: str) -> list[Exchange]:
        """Return what was captured of a route, oldest first."""
        return [one for one in tuple(self._exchanges) if one.message.path == path]

    def cut(self) -> None:
        """End every connection of the enclave."""
        self._server.cut()

    @cached_property
    def _as_custodian(self) -> ssl.SSLContext:
        chain = from_pem((self._keys / "tls.pem").read_bytes())
        return server_context(chain, read_tls_key(self._keys / "tls.key"), None).context

    @cached_property
    def _to_custodian(self) -> ssl.SSLContext:
        return client_context(from_pem((self._keys / "tls-ca.pem").read_bytes()))

    def wrap(self, wire: socket.socket) -> ssl.SSLSocket:
        """Return a connection as TLS, with the custodian's own key; the handshake is done at the first byte."""
        return self._as_custodian.wrap_socket(wire, server_side=True, do_handshake_on_connect=False)

    def take(self, message: Message) -> Reply | None:
        """Do to one message what is to be done; None swallows it."""
        exchange = Exchange(message)
        self._exchanges.append(exchange)
        try:
            exchange.reply = self._rules.get(message.path, Message.forward)(message)
        except (DroppedError, OSError, http.client.HTTPException):
            return None
        return exchange.reply

    def send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Reply:
        """Send a request to the custodian."""
        link = http.client.HTTPSConnection(
            "127.0.0.1", self._custodian_port, context=self._to_custodian, timeout=_PATIENCE_S
        )
        link.request(method, path, body=body or None, headers=headers)
        response = link.getresponse()
        kept = {name.lower(): value for name, value in response.getheaders()}
        told = {name: value for name, value in kept.items() if name in {"content-type", "retry-after", "content-range"}}
        if path == _LISTEN and response.status == http.client.OK:
            return Reply(response.status, b"", told, iter(response.readline, b""), link)
        answered = Reply(response.status, response.read(), told)
        link.close()
        return answered


class _Server(ThreadingHTTPServer):
    """Its threads end with the test run; those that hold a message outlast the test by what they wait."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.open: set[ssl.SSLSocket] = set()
        super().__init__(address, handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: connections are cut on purpose."""

    def cut(self) -> None:
        """Close what is open."""
        for wire in tuple(self.open):
            with suppress(OSError):
                wire.shutdown(2)


def _handler_of(between: Between) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server: _Server  # type: ignore[mutable-override]

        def setup(self) -> None:
            self.request = between.wrap(self.request)
            self.server.open.add(self.request)
            super().setup()

        def finish(self) -> None:
            self.server.open.discard(self.request)
            with suppress(OSError):
                super().finish()
                self.request.close()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is called
            pass

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name: self.headers[name] for name in ("content-type", "range") if name in self.headers}
            reply = between.take(Message(between, self.command, self.path, body, headers))
            if reply is None:
                self.close_connection = True
                return
            try:
                self.pass_on(reply)
            finally:
                reply.close()

        def pass_on(self, reply: Reply) -> None:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.lines is None:
                self.send_header("content-length", str(len(reply.body) + reply.lacks))
                self.end_headers()
                self.wfile.write(reply.body)
                self.close_connection |= reply.lacks > 0
                return
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for line in reply.lines:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST = answer  # noqa: N815 - as they are called

    return Handler
