"""What whoever ends TLS makes a consumer believe of a request: never that it was not charged when it was.

A request that was certainly not charged may be asked elsewhere, and is charged there. So a balancer that has one run,
keeps the answer, and has the consumer believe that nothing came of it has it charged twice.
"""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from tests.attacks.balancer import Balancer, Passed, Passing
from tests.attacks.deployments import Consumer, Deployment
from tests.attacks.sealing import file_of, now_ms
from tests.e2e.world import MODEL

from aigovtool.consumer import Client
from aigovtool.consumer.clock import SYSTEM_CLOCK
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.x509 import self_signed_server_certificate
from aigovtool.errors import AIGovToolError, BudgetExhaustedError
from aigovtool.protocol import sealed
from aigovtool.transport.tls import server_context

PROMPT: Final = np.random.default_rng(12).standard_normal((1, 64)).astype(np.float32)
#: How long the clock of a consumer is still right enough.
LEFT_MS: Final = 5_000
CERTIFICATE_REQUIRED: Final = bytes([2, 116])


def test_a_request_that_is_passed_on_again_when_it_is_too_old_is_not_taken_for_one_that_was_not_charged(
    world: Deployment, balancer: Balancer, consumer: Consumer
) -> None:
    """The refusal of the second is the enclave's own word, and true; of the first it says nothing."""
    clock = replace(SYSTEM_CLOCK, now_ms=lambda: now_ms() - sealed.MAX_AGE_MS + LEFT_MS)

    def late(passing: Passing) -> Passed:
        if passing.path != sealed.SEALED_PATH:
            return passing.forward()
        passing.forward()
        time.sleep(LEFT_MS / 1000 + 0.5)
        return passing.forward()

    with Client.connect(balancer.url, file_of(consumer), sealed=True, allow_simulated=True, clock=clock) as client:
        client.infer(MODEL, PROMPT)
        balancer.rule = late
        with pytest.raises(AIGovToolError) as caught:
            client.infer(MODEL, PROMPT, request_id="late")
        assert caught.value.reason == "sealed_at_another_time"
        balancer.rule = Passing.forward
        require_bound(world, client, "late")


def test_a_balancer_that_refuses_a_certificate_after_it_passed_the_request_on_is_not_believed(
    world: Deployment, consumer: Consumer
) -> None:
    """Whoever has the keys of a connection may send this alert of the handshake whenever it likes."""
    with (
        closing(Alerting(world.enclave_port, world.directory / f"{consumer.name}.keys")) as balancer,
        Client.connect(balancer.url, file_of(consumer), sealed=True, allow_simulated=True) as client,
    ):
        client.infer(MODEL, PROMPT)
        balancer.alerts = True
        with pytest.raises(AIGovToolError) as caught:
            client.infer(MODEL, PROMPT, request_id="alert")
        assert (caught.value.code, caught.value.reason) == ("unreachable", "answered_between")
        assert "certificate" in caught.value.message
        balancer.alerts = False
        require_bound(world, client, "alert")


def test_a_refusal_of_evidence_is_not_taken_for_that_of_the_request(
    balancer: Balancer, connect: Callable[..., Client]
) -> None:
    """In the clear, and invented: whoever it is told to is told as well that the request may have been charged."""
    problem = {"type": "x", "title": "x", "detail": "no units", "error": "no units"}

    def refused(status: int, code: str, reason: str) -> Passed:
        said = json.dumps(problem | {"status": status, "code": code, "reason": reason}).encode()
        return Passed(status, said, {"content-type": "application/problem+json"})

    def rule(passing: Passing) -> Passed:
        if passing.path == sealed.SEALED_EVIDENCE_PATH:
            return refused(402, "budget_exhausted", "exhausted")
        passing.forward()
        return refused(409, "conflict", "unknown_body_key")

    client = connect()
    before = client.infer(MODEL, PROMPT).units_remaining
    balancer.rule = rule
    with pytest.raises(BudgetExhaustedError) as caught:
        client.infer(MODEL, PROMPT, request_id="refused")
    assert "proven nothing" in caught.value.message
    assert "repeat it with request_id refused" in (caught.value.fix or "")
    balancer.rule = Passing.forward
    assert client.infer(MODEL, PROMPT, request_id="refused").units_remaining == before - 1


def require_bound(world: Deployment, client: Client, name: str) -> None:
    """Another instance is not asked what may have been charged at the one before."""
    before = client.instance
    world.end("enclave")
    world.start_enclave()
    world.wait_ready()
    with pytest.raises(AIGovToolError):  # which finds out that it is another one
        client.infer(MODEL, PROMPT)
    client.infer(MODEL, PROMPT)
    assert client.instance != before
    with pytest.raises(AIGovToolError) as caught:
        client.infer(MODEL, PROMPT, request_id=name)
    assert caught.value.reason == "retry_may_charge"


class Alerting:
    """A balancer that closes each connection after one answer; or, if it `alerts`, answers with an alert of TLS."""

    def __init__(self, port: int, keys: Path) -> None:
        self.alerts = False
        self._port = port
        self._keys = keys
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._socket.getsockname()[1]}"
        key = TlsKey.generate()
        self._context = server_context([self_signed_server_certificate(key)], key, None).context
        self._context.keylog_filename = str(keys)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Serve no more."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            with suppress(OSError), plain, self._context.wrap_socket(plain, server_side=True) as tls:
                self._answer(tls)

    def _answer(self, tls: ssl.SSLSocket) -> None:
        with tls.makefile("rb") as read:
            method, path, _ = read.readline().decode().split()
            headers = {}
            while line := read.readline().strip():
                name, _, value = line.decode().partition(":")
                headers[name.lower()] = value.strip()
            body = read.read(int(headers["content-length"]))
        passing = Passing(self._port, method, path, body, {"content-type": headers["content-type"]})
        answer = passing.forward()
        if self.alerts:
            socket.socket.sendall(tls, self._alert())
            time.sleep(0.5)
            return
        head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
        sizes = f"content-length: {len(answer.body)}\r\nconnection: close\r\n\r\n"
        tls.sendall(f"HTTP/1.1 {answer.status} X\r\n{head}{sizes}".encode() + answer.body)

    def _alert(self) -> bytes:
        """Return the first record of the server's in the last connection: a fatal alert (RFC 8446, 5.2 and 7.3)."""
        lines = [line.split() for line in self._keys.read_text("ascii").splitlines()]
        secret = bytes.fromhex([line for line in lines if line[0] == "SERVER_TRAFFIC_SECRET_0"][-1][2])

        def derived(label: bytes, size: int) -> bytes:
            info = size.to_bytes(2, "big") + bytes([6 + len(label)]) + b"tls13 " + label + b"\x00"
            return HKDFExpand(SHA384(), size, info).derive(secret)

        text = CERTIFICATE_REQUIRED + b"\x15"
        header = b"\x17\x03\x03" + (len(text) + 16).to_bytes(2, "big")
        return header + AESGCM(derived(b"key", 32)).encrypt(derived(b"iv", 12), text, header)
