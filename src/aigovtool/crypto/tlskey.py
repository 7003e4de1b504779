"""Private keys for TLS: ECDSA P-256, because every TLS client accepts it (few accept Ed25519 servers).

The key is born here and leaves only as a `Secret` in PKCS #8 PEM, which is what TLS libraries and
tools such as curl read. The same encoding serves the Ed25519 keys of `crypto.sign`, so that a client's
identity key works with any of them. Sources: SEC 1, RFC 5480, RFC 5958 (PKCS #8), RFC 8410 (Ed25519).
"""

from hashlib import sha256
from typing import Final

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey
from aigovtool.errors import ConfigurationError


class TlsKey:
    """A P-256 private key; its representation shows only the public part."""

    __slots__ = ("_key", "spki_der")

    def __init__(self, key: EllipticCurvePrivateKey) -> None:
        if not isinstance(key.curve, SECP256R1):
            raise ConfigurationError("a TLS key of this project is on the curve P-256", reason="bad_key")
        self._key: Final = key
        #: SubjectPublicKeyInfo in DER (RFC 5280 section 4.1), whose SHA-256 attestation binds.
        self.spki_der: Final = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @classmethod
    def generate(cls) -> "TlsKey":
        """Make a fresh key from the operating system's randomness."""
        return cls(generate_private_key(SECP256R1()))

    @classmethod
    def from_pem(cls, pem: Secret) -> "TlsKey":
        """Load a key from unencrypted PKCS #8 PEM.

        Raises:
            ConfigurationError: with reason `bad_key` when it is anything else.
        """
        key = _load(pem)
        if not isinstance(key, EllipticCurvePrivateKey):
            raise ConfigurationError("the file does not hold a P-256 private key", reason="bad_key")
        return cls(key)

    def spki_sha256(self) -> bytes:
        """Return the 32 bytes that pin this key."""
        return sha256(self.spki_der).digest()

    def private(self) -> EllipticCurvePrivateKey:
        """Return the key object, for making certificates."""
        return self._key

    def __repr__(self) -> str:
        return f"TlsKey(spki={self.spki_sha256().hex()[:16]})"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("private keys are not pickled")


def key_to_pem(key: SigningKey | TlsKey) -> Secret:
    """Return `key` as unencrypted PKCS #8 PEM; whoever calls wipes it after use."""
    return Secret(key.private().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def signing_key_from_pem(pem: Secret) -> SigningKey:
    """Load an Ed25519 key from unencrypted PKCS #8 PEM.

    Raises:
        ConfigurationError: with reason `bad_key` when it is anything else.
    """
    key = _load(pem)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError("the file does not hold an Ed25519 private key", reason="bad_key")
    return SigningKey(key)


def _load(pem: Secret) -> object:
    try:
        return load_pem_private_key(pem.reveal(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):
        # The cause is dropped on purpose: it may quote the bytes.
        raise ConfigurationError(
            "not a private key in PEM without a passphrase", reason="bad_key", fix="use PKCS #8 PEM"
        ) from None
