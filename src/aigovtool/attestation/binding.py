"""What report data covers: the normative list, its one encoding, and the comparison (spec: attestation, section 3).

Evidence that binds only a nonce can be relayed from another machine; evidence that binds only a key is not
fresh; evidence that binds neither the role nor the audience can be shown to somebody else. So all of it is
bound, in 64 bytes: `report_data = SHA-512(deterministic CBOR [...])`.

The `Binding` travels beside the evidence as the enclave's claims, and means nothing until `require_bound`
has (1) recomputed the report data from it and (2) compared it with what the reader sees and expects itself.

The CBOR encoder (RFC 8949 section 4.2.1) is twelve lines here, not a library: the enclave only ever encodes, and only
unsigned integers, byte strings, text strings and arrays. A library would put a decoder with tags, floats and
recursion into measured code. The tests compare the two.
"""

import hmac
import re
from collections.abc import Sequence
from hashlib import sha512
from itertools import pairwise
from typing import Annotated, Final, Literal, NewType

from msgspec import Meta

from aigovtool.attestation.model import Unchecked
from aigovtool.codec import Message, text_like
from aigovtool.errors import EvidenceError, InvalidValueError
from aigovtool.ids import DIGEST_PATTERN, HEX32_PATTERN, Digest, InstanceId, KeyId, Nonce
from aigovtool.limits import MAX_BOUND_MANIFESTS

DOMAIN: Final = "aigovtool attestation v1"
PROTOCOL_VERSION: Final = 1

#: `boot`: to the custodian, for keys. `session`: to a consumer, for trust in this connection.
Role = Literal["boot", "session"]

_AUDIENCE_PATTERN: Final = r"^[!-~]{1,128}$(?!\n)"
_Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]

#: Whom the evidence is for, in printable ASCII without spaces: a custodian's or a consumer's name.
Audience = NewType(
    "Audience", Annotated[str, text_like(_AUDIENCE_PATTERN, "1 to 128 printable ASCII characters without spaces")]
)
#: SHA-256 of the DER SubjectPublicKeyInfo of the TLS certificate.
SpkiHash = NewType("SpkiHash", _Bytes32)
#: Raw X25519 public key.
HpkePublicKey = NewType("HpkePublicKey", _Bytes32)
#: Raw Ed25519 public key.
IdentityPublicKey = NewType("IdentityPublicKey", _Bytes32)

_PATTERNS: Final = {
    "audience": re.compile(_AUDIENCE_PATTERN),
    "nonce": re.compile(HEX32_PATTERN),
    "instance": re.compile(HEX32_PATTERN),
    "custodian_root": re.compile(HEX32_PATTERN),
    "configuration": re.compile(DIGEST_PATTERN),
    "appraisal_policy": re.compile(DIGEST_PATTERN),
}
_DIGEST_RE: Final = re.compile(DIGEST_PATTERN)


class Binding(Message):
    """Everything that report data covers, in the order of the spec; valid by construction.

    Raises:
        InvalidValueError: with reason `bad_binding`, when a field is not in its domain, manifests are not sorted
            and unique, or a boot names manifests.
    """

    role: Role
    audience: Audience
    nonce: Nonce
    tls_spki: SpkiHash
    hpke_key: HpkePublicKey
    identity_key: IdentityPublicKey
    instance: InstanceId
    custodian_root: KeyId
    configuration: Digest
    appraisal_policy: Digest
    manifests: tuple[Digest, ...]

    def __post_init__(self) -> None:
        # Also holds for bindings built in code, which msgspec does not validate.
        _demand("role", holds=self.role in ("boot", "session"))
        for name, pattern in _PATTERNS.items():
            _demand(name, holds=pattern.match(getattr(self, name)) is not None)
        for name in ("tls_spki", "hpke_key", "identity_key"):
            _demand(name, holds=len(getattr(self, name)) == 32)
        _demand("manifests (too many)", holds=len(self.manifests) <= MAX_BOUND_MANIFESTS)
        _demand("manifests (digests)", holds=all(_DIGEST_RE.match(manifest) for manifest in self.manifests))
        _demand("manifests (sorted, unique)", holds=all(a < b for a, b in pairwise(self.manifests)))
        _demand("manifests (none at boot)", holds=self.role == "session" or not self.manifests)

    def encoded(self) -> bytes:
        """Return the deterministic CBOR of the list."""
        return _array(
            _text(DOMAIN),
            _head(0, PROTOCOL_VERSION),
            _text(self.role),
            _text(self.audience),
            _bytes(bytes.fromhex(self.nonce)),
            _bytes(self.tls_spki),
            _bytes(self.hpke_key),
            _bytes(self.identity_key),
            _bytes(bytes.fromhex(self.instance)),
            _bytes(bytes.fromhex(self.custodian_root)),
            _text(self.configuration),
            _text(self.appraisal_policy),
            _array(*map(_text, self.manifests)),
        )

    def report_data(self) -> bytes:
        """Return the 64 bytes that the TEE's report must carry."""
        return sha512(self.encoded()).digest()


class Expectation(Message):
    """What a reader of evidence knows itself, field by field; leaving one out is written `Unchecked(reason)`.

    `manifests` are those the reader relies on; the enclave may hold others too. `appraisal_policy` and
    `configuration` may be any of the listed ones.
    """

    role: Role
    audience: Audience
    nonce: Nonce
    tls_spki: SpkiHash | Unchecked
    instance: InstanceId | Unchecked
    custodian_root: KeyId | Unchecked
    configuration: tuple[Digest, ...] | Unchecked
    appraisal_policy: tuple[Digest, ...] | Unchecked
    manifests: tuple[Digest, ...] | Unchecked


def require_bound(
    claims: Binding, report_data: bytes, expected: Expectation, also_bound: Sequence[tuple[str, bytes]] = ()
) -> None:
    """Accept `claims` only if genuine `report_data` covers them and they are what the reader expects.

    `also_bound` are claims that the platform carries beside the report data, by their names: they must say the same.

    Raises:
        EvidenceError: reason `channel_binding` when the report data, or what is beside it, is not of `claims`; else
            `binding_FIELD` for the first field of `Expectation`, in its order, that differs. The message names all.
    """
    beside = all(hmac.compare_digest(_raw(claims, name), value) for name, value in also_bound)
    if not hmac.compare_digest(claims.report_data(), report_data) or not beside:
        raise EvidenceError(
            "the report data does not cover these claims: evidence and claims belong to different conversations",
            reason="channel_binding",
            fix="do not use this connection; somebody may be relaying evidence from another machine",
        )
    wrong = _differences(claims, expected)
    if wrong == ["manifests"]:
        raise EvidenceError(
            "the evidence does not cover a manifest that is relied on: this enclave serves another model, or none",
            reason="binding_manifests",
            fix="compare the digest that you expect with the custodian's; do not use this enclave if they agree",
        )
    if wrong:
        raise EvidenceError(
            f"the evidence is bound to another {', '.join(wrong)} than expected",
            reason=f"binding_{wrong[0]}",
            fix="ask for fresh evidence over this connection; if it differs again, do not use this enclave",
        )


def _raw(claims: Binding, name: str) -> bytes:
    value = getattr(claims, name)
    return value if isinstance(value, bytes) else bytes.fromhex(value)


def _differences(claims: Binding, expected: Expectation) -> list[str]:
    same = {
        "role": claims.role == expected.role,
        "audience": claims.audience == expected.audience,
        "nonce": hmac.compare_digest(claims.nonce, expected.nonce),
        "tls_spki": isinstance(expected.tls_spki, Unchecked) or hmac.compare_digest(claims.tls_spki, expected.tls_spki),
        "instance": isinstance(expected.instance, Unchecked) or claims.instance == expected.instance,
        "custodian_root": isinstance(expected.custodian_root, Unchecked)
        or claims.custodian_root == expected.custodian_root,
        "configuration": isinstance(expected.configuration, Unchecked)
        or claims.configuration in expected.configuration,
        "appraisal_policy": isinstance(expected.appraisal_policy, Unchecked)
        or claims.appraisal_policy in expected.appraisal_policy,
        "manifests": isinstance(expected.manifests, Unchecked) or set(expected.manifests) <= set(claims.manifests),
    }
    return [name for name, equal in same.items() if not equal]


def _demand(what: str, *, holds: bool) -> None:
    if not holds:
        raise InvalidValueError(f"a binding's {what} is not in its domain", reason="bad_binding")


def _head(major: int, value: int) -> bytes:
    """Encode a CBOR head in its shortest form; arguments above 65,535 do not occur here."""
    if value < 24:
        return bytes([major << 5 | value])
    if value < 0x100:
        return bytes([major << 5 | 24, value])
    return bytes([major << 5 | 25]) + value.to_bytes(2, "big")


def _bytes(value: bytes) -> bytes:
    return _head(2, len(value)) + value


def _text(value: str) -> bytes:
    encoded = value.encode()
    return _head(3, len(encoded)) + encoded


def _array(*items: bytes) -> bytes:
    return _head(4, len(items)) + b"".join(items)
