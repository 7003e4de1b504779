"""Ed25519 signatures (RFC 8032) in DSSE envelopes.

Everything that this project signs, except the audit log's checkpoints (C2SP signed notes), is a DSSE
envelope over strict JSON. The payload type is part of what is signed, so a signed message of one kind
can never be taken for one of another kind: that is the domain separation.

Source: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md (v1.0.2).
"""

from collections.abc import Iterable
from typing import Annotated, Final, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta

from aigovtool.codec import Message, decode_signed, encode
from aigovtool.crypto.secret import Secret
from aigovtool.errors import SignatureInvalidError
from aigovtool.ids import KeyId, key_id_of
from aigovtool.limits import MAX_CONTROL_BODY_BYTES

T = TypeVar("T")

_TYPE_PREFIX: Final = "application/vnd.aigovtool."
MAX_SIGNATURES: Final = 4

# RFC 8032 section 5.1: points are encoded by y modulo 2**255 - 19, with the sign of x in the top bit. OpenSSL
# takes y beyond the prime, and the points of order 1, 2, 4 and 8, under which anybody can "sign": with the
# neutral element as key one signature fits every message. Source of the y of order 8: the same blocklist in
# libsodium, `ge25519_has_small_order`; tests/crypto/test_sign.py computes that the list is complete.
_FIELD_PRIME: Final = 2**255 - 19
_SMALL_ORDER_Y: Final = frozenset(
    {
        0,
        1,
        _FIELD_PRIME - 1,
        int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
        int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
    }
)


class Signature(Message):
    """One signature of an envelope. `keyid` is a hint that selects the key; it proves nothing."""

    keyid: KeyId
    sig: bytes


class Envelope(Message):
    """A DSSE envelope: the payload, its type, and signatures over both."""

    payload: bytes
    payloadType: str
    signatures: Annotated[list[Signature], Meta(min_length=1, max_length=MAX_SIGNATURES)]


class VerifyKey:
    """An Ed25519 public key (32 raw bytes).

    Raises:
        SignatureInvalidError: with reason `bad_key` for another length, a second encoding of a point
            (one key would have two ids) or a point of small order (it verifies everything).
    """

    __slots__ = ("_key", "key_id", "raw")

    def __init__(self, raw: bytes) -> None:
        y = int.from_bytes(raw, "little") & (2**255 - 1)
        if len(raw) == 32 and (y >= _FIELD_PRIME or y in _SMALL_ORDER_Y):
            raise SignatureInvalidError("not a usable Ed25519 public key", reason="bad_key")
        try:
            self._key: Final = Ed25519PublicKey.from_public_bytes(raw)
        except ValueError:
            raise SignatureInvalidError("an Ed25519 public key has 32 bytes", reason="bad_key") from None
        self.raw: Final = raw
        self.key_id: Final = key_id_of(raw)

    def verify(self, signature: bytes, data: bytes) -> None:
        """Raise `SignatureInvalidError` unless `signature` over `data` is by this key."""
        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            raise SignatureInvalidError("a signature does not verify") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerifyKey) and other.raw == self.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"VerifyKey({self.key_id[:16]})"


class SigningKey:
    """An Ed25519 private key; its representation shows only the public part."""

    __slots__ = ("_key", "public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key: Final = key
        self.public: Final = VerifyKey(key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> "SigningKey":
        """Make a fresh key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_secret(cls, seed: Secret) -> "SigningKey":
        """Load a key from its 32-byte seed.

        Raises:
            SignatureInvalidError: with reason `bad_key` for any other length.
        """
        try:
            return cls(Ed25519PrivateKey.from_private_bytes(seed.view()))
        except ValueError:
            raise SignatureInvalidError("an Ed25519 private key has 32 bytes", reason="bad_key") from None

    def to_secret(self) -> Secret:
        """Return the 32-byte seed."""
        return Secret(self._key.private_bytes_raw())

    def private(self) -> Ed25519PrivateKey:
        """Return the key object, for making certificates."""
        return self._key

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte signature over `data`."""
        return self._key.sign(data)

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public!r})"


def payload_type(kind: str) -> str:
    """Return the DSSE payload type of a message kind, for example `lease-renew.v1`."""
    return f"{_TYPE_PREFIX}{kind}+json"


def pre_authentication_encoding(type_: str, payload: bytes) -> bytes:
    """Return DSSE's PAE: what is really signed."""
    encoded = type_.encode()
    return b"DSSEv1 %d %b %d %b" % (len(encoded), encoded, len(payload), payload)


def seal(kind: str, message: object, *keys: SigningKey) -> Envelope:
    """Encode `message` and sign it as `kind` with every one of `keys`."""
    payload = encode(message)
    type_ = payload_type(kind)
    signed = pre_authentication_encoding(type_, payload)
    return Envelope(
        payload=payload,
        payloadType=type_,
        signatures=[Signature(keyid=key.public.key_id, sig=key.sign(signed)) for key in keys],
    )


def seal_again(envelope: Envelope, key: SigningKey) -> Envelope:
    """Sign the same bytes with another key of the same signer: whoever reads them may believe the old one no more."""
    signed = pre_authentication_encoding(envelope.payloadType, envelope.payload)
    return Envelope(
        payload=envelope.payload,
        payloadType=envelope.payloadType,
        signatures=[Signature(keyid=key.public.key_id, sig=key.sign(signed))],
    )


def open_envelope(
    envelope: Envelope,
    kind: str,
    message_type: type[T],
    keys: Iterable[VerifyKey],
    *,
    max_bytes: int = MAX_CONTROL_BODY_BYTES,
) -> T:
    """Verify that *every* key of `keys` signed `envelope` as `kind`, then parse its payload.

    Raises:
        SignatureInvalidError: wrong kind, a key has not signed, a signature is wrong, or it carries
            signatures nobody asked for (an envelope has one meaning, so nothing is ignored).
        MalformedError, InvalidValueError: the payload, although signed, is not a `message_type`.
    """
    wanted = {key.key_id: key for key in keys}
    if not wanted:
        raise SignatureInvalidError("no key to verify with", reason="no_key")
    if envelope.payloadType != payload_type(kind):
        raise SignatureInvalidError(f"the envelope is not a {kind}", reason="wrong_kind")
    if len(envelope.signatures) != len(wanted) or {s.keyid for s in envelope.signatures} != wanted.keys():
        raise SignatureInvalidError(f"the {kind} is not signed by the expected key", reason="wrong_key")
    signed = pre_authentication_encoding(envelope.payloadType, envelope.payload)
    for signature in envelope.signatures:
        wanted[signature.keyid].verify(signature.sig, signed)
    return decode_signed(envelope.payload, message_type, max_bytes=max_bytes)


def require_signed_by(envelope: Envelope, kind: str, key: VerifyKey) -> None:
    """Verify that `key` is among those that signed `envelope` as `kind`, without parsing its payload.

    For a payload that names further signers: nothing of it is parsed before somebody known vouches for it. What it says
    may be used only after `open_envelope` with all of them.

    Raises:
        SignatureInvalidError: wrong kind, or the key has not signed, or its signature is wrong.
    """
    if envelope.payloadType != payload_type(kind):
        raise SignatureInvalidError(f"the envelope is not a {kind}", reason="wrong_kind")
    signed = pre_authentication_encoding(envelope.payloadType, envelope.payload)
    found = [signature for signature in envelope.signatures if signature.keyid == key.key_id]
    if len(found) != 1:
        raise SignatureInvalidError(f"the {kind} is not signed by the expected key", reason="wrong_key")
    key.verify(found[0].sig, signed)


def open_by_any(
    envelope: Envelope,
    kind: str,
    message_type: type[T],
    keys: Iterable[VerifyKey],
    *,
    max_bytes: int = MAX_CONTROL_BODY_BYTES,
) -> T:
    """Verify that exactly one key of `keys` signed `envelope`: for roles whose keys rotate with overlap.

    Raises:
        SignatureInvalidError: as for `open_envelope`.
    """
    chosen = [key for key in keys if [s.keyid for s in envelope.signatures] == [key.key_id]]
    if not chosen:
        raise SignatureInvalidError(f"the {kind} is not signed by a known key", reason="wrong_key")
    return open_envelope(envelope, kind, message_type, chosen, max_bytes=max_bytes)
