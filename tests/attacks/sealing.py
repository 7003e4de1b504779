"""What whoever stands between could make of a sealed exchange: requests of anybody's, with any part of them changed."""

import os
import time
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from msgspec import UNSET
from tests.attacks.balancer import Passed, Passing
from tests.attacks.deployments import Consumer
from tests.e2e.party_files import private
from tests.e2e.world import CONSUMER

from aigovtool.codec import decode, encode
from aigovtool.crypto.frames import FRAME_BYTES, SALT_BYTES, FrameOpener, FrameSealer
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.crypto.wrap import wrap
from aigovtool.crypto.x509 import from_pem
from aigovtool.ids import ConsumerId, InstanceId, Nonce
from aigovtool.protocol import sealed
from aigovtool.protocol.party import ConsumerFile
from aigovtool.protocol.sealed import (
    Field,
    SealedChallenge,
    SealedHead,
    SealedRequest,
    SealedStatus,
    StatedChallenge,
    Statement,
)
from aigovtool.protocol.session import SessionEvidence
from aigovtool.testing.simulated_tee.wiring import development_policy


def file_of(consumer: Consumer) -> Any:
    """Write the file of a consumer that only one test uses, and return its path."""
    content = ConsumerFile(
        consumer=consumer.name,
        borrower=consumer.borrower,
        custodian=consumer.world.operator.custodian,
        certificate=consumer.certificate,
        key=consumer.key.to_secret().reveal(),
        policy=development_policy(),
    )
    return private(consumer.world.directory / f"{consumer.name}.json", content)


def now_ms() -> int:
    """Return the time of this machine."""
    return time.time_ns() // 1_000_000


@dataclass
class Sender:
    """Who seals by hand: a certificate (PEM), a key that may not be its, and a clock that may be wrong."""

    port: int
    certificate: str
    key: SigningKey
    late_ms: int = 0
    name: ConsumerId = CONSUMER
    more: dict[str, Any] = field(default_factory=dict)
    #: How much of a body is in each frame.
    frame_bytes: int = FRAME_BYTES

    def evidence(self) -> Passed:
        """Ask for evidence."""
        stated = StatedChallenge(consumer=self.name, nonce=Nonce(os.urandom(32).hex()), at_ms=now_ms() - self.late_ms)
        asked = SealedChallenge(
            credential=from_pem(self.certificate.encode())[0], challenge=seal(sealed.CHALLENGE, stated, self.key)
        )
        return self.posted(sealed.SEALED_EVIDENCE_PATH, encode(asked), "application/json")

    def session(self) -> SessionEvidence:
        """Return the evidence, which this sender believes as it is."""
        answer = self.evidence()
        assert answer.status == 200, answer.body
        return decode(answer.body, SessionEvidence)

    def posted(self, path: str, body: bytes, media: str = sealed.MEDIA_TYPE) -> Passed:
        """Send what is sealed already."""
        return Passing(self.port, "POST", path, body, {"content-type": media}).forward()

    def ask(self, instance: InstanceId, body_key: bytes, path: str, body: bytes = b"", **headers: str) -> Any:
        """Send a sealed request, and return status and body of what is sealed in the answer, or the plain refusal."""
        sent, secret, digest = self.sealed(instance, body_key, path, body, **headers)
        answer = self.posted(sealed.SEALED_PATH, sent)
        if answer.headers.get("content-type") != sealed.MEDIA_TYPE:
            return answer.status, answer.body
        return opened(answer.body, secret, digest)

    def sealed(
        self, instance: InstanceId, body_key: bytes, path: str, body: bytes = b"", **headers: str
    ) -> tuple[bytes, bytes, bytes]:
        """Return a sealed request, its secret and the digest of its head."""
        secret = os.urandom(32)
        asked: dict[str, Any] = {
            "instance": instance,
            "secret": secret,
            "method": "POST" if body else "GET",
            "path": path,
            "headers": [Field(name=name.replace("_", "-"), value=value) for name, value in headers.items()],
            "body_bytes": len(body),
            "at_ms": now_ms() - self.late_ms,
        }
        request = seal(sealed.REQUEST, SealedRequest(**(asked | self.more)), self.key)
        head = SealedHead(credential=from_pem(self.certificate.encode())[0], request=request)
        wrapped = wrap(Secret(encode(head)), body_key, sealed.request_info(instance, body_key))
        digest = sha256(wrapped).digest()
        sealer = FrameSealer(secret, b"", sealed.body_info(digest))
        starts = range(0, len(body) or 1, self.frame_bytes)
        frames = b"".join(
            sealer.seal(body[start : start + self.frame_bytes], last=start == starts[-1]) for start in starts
        )
        return len(wrapped).to_bytes(2, "big") + wrapped + frames, secret, digest


def place_of(sender: Sender) -> tuple[InstanceId, bytes]:
    """Return to whom a sender seals."""
    session = sender.session()
    assert session.statement is not UNSET
    return session.claims.instance, decode(session.statement.payload, Statement).body_key


def opened(answer: bytes, secret: bytes, digest: bytes) -> tuple[int, bytes]:
    """Return status and body of a sealed answer."""
    opener = FrameOpener(secret, answer[:SALT_BYTES], sealed.answer_info(digest))
    text = b"".join(opener.feed(answer[SALT_BYTES:]))
    opener.require_complete()
    end = 4 + int.from_bytes(text[:4], "big")
    return decode(text[4:end], SealedStatus).status, text[end:]
