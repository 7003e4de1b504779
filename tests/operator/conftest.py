"""A custodian that answers, over real TLS on a loopback port, exactly what a test wrote down for it."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from aigovtool.codec import encode
from aigovtool.crypto.identity import IdentityKind
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.wrap import WrapKey
from aigovtool.crypto.x509 import issue_client_certificate, issue_server_certificate, new_authority, to_pem
from aigovtool.errors import AIGovToolError
from aigovtool.ids import BorrowerId, OperatorId
from aigovtool.operator.client import OperatorClient
from aigovtool.protocol.party import BorrowerFile, CustodianAddress, OperatorFile
from aigovtool.transport.problem import describe, problem_headers
from aigovtool.transport.tls import server_context


@dataclass
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    peer: bytes | None


def ok(value: object) -> bytes:
    body = encode(value)
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def refused(error: AIGovToolError) -> bytes:
    body = encode(describe(error))
    lines = "".join(f"{name}: {value}\r\n" for name, value in problem_headers(error).items())
    return f"HTTP/1.1 {error.status} No\r\ncontent-length: {len(body)}\r\n{lines}\r\n".encode() + body


#: Bytes, None to hang up, or what makes one of them of the request.
Scripted = bytes | None | Callable[[Request], bytes | None]


@dataclass
class Script:
    """What to answer, in order; and what was asked."""

    answers: list[Scripted] = field(default_factory=list)
    asked: list[Request] = field(default_factory=list)


class FakeCustodian:
    """Serves one connection after the other until it is closed."""

    def __init__(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        span = {"not_before_ms": now_ms - 10**7, "not_after_ms": now_ms + 10**7}
        self.root, self.keystore = SigningKey.generate(), WrapKey.generate()
        self._span, self._credentials, tls_ca_key, tls = (
            span,
            SigningKey.generate(),
            TlsKey.generate(),
            TlsKey.generate(),
        )
        self._authority = new_authority(self._credentials, "credentials", **span)
        tls_ca = new_authority(tls_ca_key, "tls", **span)
        certificate = issue_server_certificate(tls_ca_key, tls_ca, tls, ["localhost"], **span)
        self._context = server_context([certificate], tls, [self._authority]).context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.script = Script()
        #: Sent byte by byte, in place of whatever is answered.
        self.drip = b""
        port = self._listener.getsockname()[1]
        self.address = CustodianAddress(
            url=f"https://localhost:{port}", root=self.root.public.raw, tls_ca=to_pem(tls_ca).decode()
        )
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def operator_file(self) -> OperatorFile:
        """Return the credential of the operator alice."""
        key = SigningKey.generate()
        return OperatorFile(
            operator=OperatorId("alice"),
            custodian=self.address,
            certificate=self._certificate(key, IdentityKind.OPERATOR, "alice"),
            key=key.to_secret().reveal(),
            keystore=self.keystore.public,
        )

    def borrower_file(self) -> BorrowerFile:
        """Return the credential of the borrower st-mary."""
        key = SigningKey.generate()
        return BorrowerFile(
            borrower=BorrowerId("st-mary"),
            custodian=self.address,
            certificate=self._certificate(key, IdentityKind.BORROWER, "st-mary"),
            enrolment_key=key.to_secret().reveal(),
        )

    def close(self) -> None:
        """Stop serving."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _certificate(self, key: SigningKey, kind: IdentityKind, name: str) -> str:
        der = issue_client_certificate(
            self._credentials, self._authority, key.public, kind, name, borrower=None, **self._span
        )
        return to_pem(der).decode()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as peer:
                peer.settimeout(20)
                while self._answer(peer):
                    pass

    def _answer(self, peer: ssl.SSLSocket) -> bool:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = peer.recv(1)
            if not piece:
                return False
            head += piece
        first, *lines = head.decode().rstrip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body, length = b"", int(headers.get("content-length", "0"))
        while len(body) < length:
            body += peer.recv(length - len(body))
        method, path, _ = first.split(" ")
        request = Request(method, path, headers, body, peer.getpeercert(binary_form=True))
        self.script.asked.append(request)
        scripted = self.script.answers.pop(0)
        answer = scripted(request) if callable(scripted) else scripted
        for byte in self.drip:
            peer.sendall(bytes([byte]))
            time.sleep(0.05)
        if answer is not None:
            peer.sendall(answer)
        return answer is not None


@pytest.fixture
def custodian() -> Iterator[FakeCustodian]:
    fake = FakeCustodian()
    try:
        yield fake
    finally:
        fake.close()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def client(custodian: FakeCustodian, pauses: list[float]) -> Iterator[OperatorClient]:
    with OperatorClient(custodian.operator_file(), clock_ms=lambda: 42_000, pause=pauses.append) as connected:
        yield connected
