"""Whoever sits between a consumer and an enclave: ends TLS with a key of its own, and passes on what it likes.

Its worst case is played: it has the consumer's credential, or a colleague's, so that a genuine enclave answers it.
"""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.e2e.world import Connection

from aigovtool.attestation.binding import SpkiHash
from aigovtool.codec import decode, encode
from aigovtool.crypto.tlskey import TlsKey, key_to_pem
from aigovtool.crypto.x509 import self_signed_server_certificate, to_pem
from aigovtool.protocol.session import ATTESTATION_PATH, SessionEvidence

Forge = Callable[[bytes], bytes]
Connect = Callable[[], Connection]


def unchanged(body: bytes) -> bytes:
    """Pass an answer on as it is."""
    return body


def reading(change: Callable[[SessionEvidence], SessionEvidence]) -> Forge:
    """Make a forgery of a change to the evidence that is passed on."""
    return lambda body: encode(change(decode(body, SessionEvidence)))


class Middle:
    """Set `connect` to whose credential it shows to the enclave, and `forge` to what it makes of the evidence."""

    def __init__(self, connect: Connect) -> None:
        self.connect = connect
        self.forge: Forge = unchanged
        self.key = TlsKey.generate()
        self.spki = SpkiHash(self.key.spki_sha256())
        self.asked: list[str] = []
        self.read = b""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.socket = self._tls().wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def _tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        with TemporaryDirectory() as folder:
            certificate, key = Path(folder) / "cert.pem", Path(folder) / "key.pem"
            certificate.write_bytes(to_pem(self_signed_server_certificate(self.key)))
            key.write_bytes(key_to_pem(self.key).reveal())
            context.load_cert_chain(certificate, key)
        return context


def _handler(middle: Middle) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            middle.asked.append(self.path)
            middle.read += body
            answer = middle.connect().request("POST", self.path, body)
            sent = middle.forge(answer.body) if self.path == ATTESTATION_PATH else answer.body
            self.send_response(answer.status)
            self.send_header("content-type", answer.headers.get("content-type", "application/json"))
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
            """Say nothing."""

    return Handler


@contextmanager
def between(connect: Connect) -> Iterator[Middle]:
    """Sit between consumers and an enclave while the block runs."""
    middle = Middle(connect)
    try:
        yield middle
    finally:
        middle.close()
