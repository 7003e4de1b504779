"""HPKE (RFC 9180) for wrapping keys to a public key.

Suite: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM; single-shot base mode. Base mode does not
say *who* sealed: whoever needs to know signs the ciphertext (leases spec section 9). `info` carries the
whole context (label, instance, digests), so that a ciphertext opens in one context only.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from aigovtool.crypto.secret import Secret
from aigovtool.errors import SignatureInvalidError

_SUITE: Final = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
PUBLIC_KEY_BYTES: Final = 32
PRIVATE_KEY_BYTES: Final = 32


class WrapKey:
    """An X25519 private key that opens what was wrapped to its public part.

    It is kept in locked memory, and in a form of OpenSSL's only while it opens something.

    Raises:
        SignatureInvalidError: with reason `bad_key` when `secret` has another length than 32 bytes.
    """

    __slots__ = ("_secret", "public")

    def __init__(self, secret: Secret) -> None:
        self._secret: Final = secret
        try:
            self.public: Final = self._key().public_key().public_bytes_raw()
        except ValueError:
            raise SignatureInvalidError("an X25519 private key has 32 bytes", reason="bad_key") from None

    @classmethod
    def generate(cls) -> "WrapKey":
        """Make a fresh key from the operating system's randomness."""
        return cls(Secret.random(PRIVATE_KEY_BYTES))

    @classmethod
    def from_secret(cls, secret: Secret) -> "WrapKey":
        """Load a key from a copy of its 32 raw bytes; raises as `WrapKey`."""
        return cls(Secret(secret.view()))

    def to_secret(self) -> Secret:
        """Return a copy of the 32 raw bytes."""
        return Secret(self._secret.view())

    def _key(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self._secret.view())

    def unwrap(self, ciphertext: bytes, info: bytes) -> Secret:
        """Open `ciphertext` in the context `info`.

        Raises:
            SignatureInvalidError: with reason `wrong_context` when key, context or bytes do not fit.
        """
        try:
            return Secret(_SUITE.decrypt(ciphertext, self._key(), info=info))
        except (InvalidTag, ValueError):
            raise SignatureInvalidError(
                "a wrapped key does not open with this key in this context", reason="wrong_context"
            ) from None

    def __repr__(self) -> str:
        return f"WrapKey(public={self.public.hex()[:16]})"


def wrap(secret: Secret, public_key: bytes, info: bytes) -> bytes:
    """Wrap `secret` to a raw X25519 public key in the context `info`; 32 + len(secret) + 16 bytes.

    Raises:
        SignatureInvalidError: with reason `bad_key` when `public_key` is not a usable X25519 key.
    """
    try:
        return _SUITE.encrypt(secret.reveal(), X25519PublicKey.from_public_bytes(public_key), info=info)
    except ValueError:
        raise SignatureInvalidError("not a usable X25519 public key", reason="bad_key") from None
