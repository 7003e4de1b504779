"""What happens in one turn of a long life: inferences, sessions, renewals, refusals, and peers that vanish.

A turn is the same each time, so that whatever is held after it and was not before is held for good.
"""

import json
import secrets
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Self

from tests.e2e.model import one_digit
from tests.e2e.world import MODEL, Connection, World

from aigovtool.codec import decode, encode
from aigovtool.crypto.tlskey import key_to_pem
from aigovtool.crypto.x509 import from_pem
from aigovtool.ids import Nonce
from aigovtool.protocol.session import ATTESTATION_PATH, SessionChallenge
from aigovtool.protocol.views import PartyCertificate
from aigovtool.transport.tls import client_context, unverified_context_for_attestation_only

_KEPT: Final = 4
#: Of so many requests one bears an id of the consumer's, and is sent again: its answer is kept for ten minutes.
_REPEATED_OF: Final = 50
_PATH: Final = f"/v2/models/{MODEL}/infer"
_RESET: Final = struct.pack("ii", 1, 0)
#: A consumer that is killed while its requests are under way: standard library only, so that it is there at once.
_VICTIM: Final = """
import http.client, ssl, sys, threading
port, pem, path, body = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4].encode()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.load_cert_chain(pem)
def ask():
    link = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
    while True:
        link.request("POST", path, body=body, headers={"content-type": "application/json"})
        link.getresponse().read()
        print("x", end="", flush=True)
threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
for one in threads:
    one.start()
for one in threads:
    one.join()
"""


@dataclass(frozen=True)
class Turn:
    """How often each happens in a turn; of inferences and malformed ones, on each connection that stays."""

    inferences: int = 100
    malformed: int = 5
    sessions: int = 12
    credentials: int = 4
    abandoned: int = 12
    strangers: int = 8


@dataclass
class Soak:
    """A deployment's consumers, over many turns."""

    world: World
    often: Turn = field(default_factory=Turn)
    counts: Counter[str] = field(default_factory=Counter)
    #: What came and should not have.
    wrong: list[str] = field(default_factory=list)
    kept: list[Connection] = field(default_factory=list)
    _certificate: str = ""
    _folder: tempfile.TemporaryDirectory[str] = field(default_factory=lambda: tempfile.TemporaryDirectory("soak"))

    def __enter__(self) -> Self:
        """Open the connections that stay."""
        self._certificate = self.world.consumer_certificate
        self.kept = [Connection(self.world.enclave_port, self._context()) for _ in range(_KEPT)]
        return self

    def __exit__(self, *_: object) -> None:
        """Close them."""
        for link in self.kept:
            link.close()
        self._folder.cleanup()

    def turn(self) -> None:
        """Let everything happen once; what is sent on several connections is sent at the same time."""
        works = [partial(self._ask, link) for link in self.kept]
        works += [partial(work) for work in (self._sessions, self._abandoned, self._killed, self._strangers)]
        with ThreadPoolExecutor(len(works)) as pool:
            for done in [pool.submit(work) for work in works]:
                done.result()
        self._credentials()
        self.counts["turns"] += 1

    def _count(self, what: str, status: int, *expected: int) -> None:
        self.counts[what] += 1
        self.counts["requests"] += 1
        if status not in expected:
            self.wrong.append(f"{what} answered {status}")

    def _context(self) -> ssl.SSLContext:
        return unverified_context_for_attestation_only(
            credential=from_pem(self._certificate.encode()), key=self.world.consumer_key
        )

    # -- On connections that stay -------------------------------------------------------------------------------

    def _ask(self, link: Connection) -> None:
        body = one_digit()
        for number in range(self.often.inferences):
            if number % _REPEATED_OF:
                self._count("inferences", link.infer(body).status, 200)
                continue
            name = secrets.token_hex(8)
            for _ in range(2):
                self._count("inferences", link.infer(body, aigovtool_request_id=name).status, 200)
        for number in range(self.often.malformed):
            bad, statuses = _bad(number)
            self._count("malformed", link.infer(bad).status, *statuses)

    # -- On connections that come and go ------------------------------------------------------------------------

    def _sessions(self) -> None:
        """Attest anew, ask, and leave; each time with the newest credential."""
        for _ in range(self.often.sessions):
            link = Connection(self.world.enclave_port, self._context())
            challenge = encode(SessionChallenge(nonce=Nonce(secrets.token_hex(32))))
            self._count("attestations", link.request("POST", ATTESTATION_PATH, challenge).status, 200)
            self._count("inferences", link.infer(one_digit()).status, 200)
            link.close()

    def _credentials(self) -> None:
        """Have the consumer's certificate issued anew, as `aigovtool renew` does."""
        for _ in range(self.often.credentials):
            authority = from_pem(self.world.operator.custodian.tls_ca.encode())
            mine = from_pem(self._certificate.encode())
            link = Connection(
                self.world.custodian_port, client_context(authority, credential=mine, key=self.world.consumer_key)
            )
            answer = link.request("GET", "/v1/self/certificate")
            self._count("credentials", answer.status, 200)
            self._certificate = decode(answer.body, PartyCertificate).certificate
            self._count("views", link.request("GET", "/v1/self").status, 200)
            link.close()

    def _abandoned(self) -> None:
        """Begin, and be gone: after half a head, half a body, or before the answer; with a reset, or without a word."""
        body = one_digit()
        head = f"POST {_PATH} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n".encode()
        whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        for number in range(self.often.abandoned):
            sent = (b"", head, whole[: -len(body) // 2], whole)[number % 4]
            with socket.create_connection(("127.0.0.1", self.world.enclave_port)) as plain:
                link = self._context().wrap_socket(plain)
                link.sendall(sent)
                if number % 3 == 0:
                    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                link.close()
            self.counts["abandoned"] += 1

    def _strangers(self) -> None:
        """Come without a credential, to both servers."""
        nobody = unverified_context_for_attestation_only()
        for number in range(self.often.strangers):
            port = (self.world.enclave_port, self.world.custodian_port)[number % 2]
            link = Connection(port, nobody)
            path = (_PATH, "/v1/commands")[number % 2]
            self._count("strangers", link.request("POST", path, b"{}").status, 401, 400)
            link.close()

    # -- Killed -------------------------------------------------------------------------------------------------

    def _killed(self) -> None:
        """Kill a consumer that has three requests under way."""
        pem = Path(self._folder.name) / "consumer.pem"
        pem.write_bytes(key_to_pem(self.world.consumer_key).reveal() + self._certificate.encode())
        words = [sys.executable, "-c", _VICTIM, str(self.world.enclave_port), str(pem), _PATH, one_digit().decode()]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as victim:
            if victim.stdout is None or victim.stdout.read(6) != b"x" * 6:
                self.wrong.append("a consumer that was to be killed got no answers")
            victim.send_signal(signal.SIGKILL)
        self.counts["killed consumers"] += 1


def _bad(number: int) -> tuple[bytes, tuple[int, ...]]:
    """Return a body that is refused, and by which statuses."""
    tensor = {"name": "X", "shape": [1, 64], "datatype": "FP32", "data": [0.0] * 63}
    bodies = (b"", b"{", b'{"inputs":[]}', json.dumps({"inputs": [tensor]}).encode(), b"[" * 10_000)
    return bodies[number % len(bodies)], (400, 422)
