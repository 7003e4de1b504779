"""The TEST-ONLY root of the simulated TEE, its CA, and their certificates (spec: attestation, section 6.2).

The private keys are the SHA-256 of sentences printed here: whoever reads this can sign as the root. That is the
point. Nothing that chains to this root can be mistaken for protection, and no private key is in the repository.
"""

from hashlib import sha256
from typing import Annotated, Final

from msgspec import Meta

from aigovtool.codec import Message
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import Envelope, SigningKey, seal
from aigovtool.ids import Millis

ROOT_SENTENCE: Final = "TEST-ONLY: root of AIGovTool's simulated TEE, which protects nothing"
CA_SENTENCE: Final = "TEST-ONLY: platform CA of AIGovTool's simulated TEE, which protects nothing"

#: The pinned trust anchor: the public key of `SHA-256(ROOT_SENTENCE)`.
ROOT_PUBLIC_KEY: Final = bytes.fromhex("0d028b2facbe9234244f261e78e700ea104dbf20299af6cbc45f9f450b03d916")

CA_KIND: Final = "simulated-ca-certificate.v1"
PLATFORM_KIND: Final = "simulated-platform-certificate.v1"
CA_SUBJECT: Final = "simulated platform CA"

#: 2026-01-01 and 2046-01-01: like a processor's own certificates, these outlive the machine.
VALID_FROM_MS: Final = 1_767_225_600_000
VALID_UNTIL_MS: Final = 2_398_377_600_000

_Key = Annotated[bytes, Meta(min_length=32, max_length=32)]


class CaCertificate(Message):
    """The root says: this key is the platform CA. Valid from `not_before_ms`, until before `not_after_ms`."""

    subject: str
    public_key: _Key
    not_before_ms: Millis
    not_after_ms: Millis


class PlatformCertificate(Message):
    """The CA says: this key belongs to this chip with this TCB version, for one boot."""

    public_key: _Key
    chip_id: _Key
    tcb: tuple[int, int, int]
    not_before_ms: Millis
    not_after_ms: Millis


def root_key() -> SigningKey:
    """Return the root's private key, which is public knowledge."""
    return _key_of(ROOT_SENTENCE)


def ca_key() -> SigningKey:
    """Return the platform CA's private key, which is public knowledge."""
    return _key_of(CA_SENTENCE)


def ca_certificate(*, not_before_ms: int = VALID_FROM_MS, not_after_ms: int = VALID_UNTIL_MS) -> Envelope:
    """Return the CA's certificate, signed by the root."""
    certificate = CaCertificate(
        subject=CA_SUBJECT,
        public_key=ca_key().public.raw,
        not_before_ms=not_before_ms,
        not_after_ms=not_after_ms,
    )
    return seal(CA_KIND, certificate, root_key())


def _key_of(sentence: str) -> SigningKey:
    return SigningKey.from_secret(Secret(sha256(sentence.encode()).digest()))
