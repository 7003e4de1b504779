"""A load balancer before an enclave: it ends TLS with a key of its own, has no credential, and reads what passes.

```python
with balancing(world.enclave_port) as balancer:
    Client.connect(balancer.url, file, sealed=True)
    balancer.rule = lambda passing: passing.forward().cut(100)  # what it makes of each exchange from now on
```
"""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.x509 import self_signed_server_certificate
from aigovtool.transport.tls import server_context, unverified_context_for_sealed_bodies

#: Of headers that are of one connection only (RFC 9110, section 7.6.1).
_HOP = frozenset({"connection", "transfer-encoding", "keep-alive", "host", "content-length", "accept-encoding"})


@dataclass(frozen=True)
class Passed:
    """What goes back to the client; so many bytes more are announced than are sent."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    lacks: int = 0

    def changed(self, change: Callable[[bytes], bytes]) -> "Passed":
        """Return it with another body."""
        return replace(self, body=change(self.body))

    def cut(self, count: int) -> "Passed":
        """Return it without its last bytes, which are announced all the same."""
        return replace(self, body=self.body[:-count], lacks=count)


@dataclass(frozen=True)
class Passing:
    """One request on its way."""

    port: int
    method: str
    path: str
    body: bytes
    headers: dict[str, str]

    def forward(self, body: bytes | None = None, *, port: int | None = None) -> Passed:
        """Send it on, as often as wished, to the enclave or another one."""
        link = http.client.HTTPSConnection(
            "127.0.0.1", port or self.port, context=unverified_context_for_sealed_bodies(), timeout=60
        )
        try:
            link.request(self.method, self.path, self.body if body is None else body, self.headers)
            answer = link.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders() if name.lower() not in _HOP}
            return Passed(answer.status, answer.read(), headers)
        finally:
            link.close()


Rule = Callable[[Passing], Passed]


class Balancer:
    """Set `rule` to what becomes of each request; `seen` has them all."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.rule: Rule = Passing.forward
        self.seen: list[Passing] = []
        self.answered: list[Passed] = []
        key = TlsKey.generate()
        tls = server_context([self_signed_server_certificate(key)], key, None)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.socket = tls.context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def at(self, path: str) -> list[Passing]:
        """Return what was asked at one path."""
        return [passing for passing in self.seen if passing.path == path]

    def everything(self) -> bytes:
        """Return all that it has read, in both directions."""
        asked = [repr((one.path, one.headers)).encode() + one.body for one in self.seen]
        return b"".join(asked + [repr(one.headers).encode() + one.body for one in self.answered])

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def _handler(balancer: Balancer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items() if name.lower() not in _HOP}
            passing = Passing(balancer.port, self.command, self.path, body, headers)
            balancer.seen.append(passing)
            passed = balancer.rule(passing)
            balancer.answered.append(passed)
            self.send_response(passed.status)
            for name, value in passed.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(passed.body) + passed.lacks))
            self.end_headers()
            self.wfile.write(passed.body)
            if passed.lacks:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
            """Say nothing."""

    return Handler


@contextmanager
def balancing(port: int) -> Iterator[Balancer]:
    """Balance the load of the enclave at a port while the block runs."""
    balancer = Balancer(port)
    try:
        yield balancer
    finally:
        balancer.close()
