"""Names, digests and identifiers: parsed once at the edge, and never bare `str` or `bytes` after.

Each type is a `NewType` over a constrained string. `aigovtool.codec` enforces the constraint when it
decodes a message; `parse_name` and `parse_digest` do it for the command line and for paths. There is
exactly one spelling per value: lower-case hexadecimal, no padding, no white space.
"""

import re
from hashlib import sha256
from typing import Annotated, Final, NewType

from msgspec import Meta

from aigovtool.errors import InvalidValueError
from aigovtool.limits import MAX_INTEGER

# `$(?!\n)` because Python's `$` also matches before a final newline; ECMA 262 reads it the same way.
NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$(?!\n)"
HEX16_PATTERN: Final = r"^[0-9a-f]{32}$(?!\n)"
HEX32_PATTERN: Final = r"^[0-9a-f]{64}$(?!\n)"
DIGEST_PATTERN: Final = r"^sha256:[0-9a-f]{64}$(?!\n)"
REQUEST_KEY_PATTERN: Final = r"^[A-Za-z0-9._:-]{1,64}$(?!\n)"
CHIP_PATTERN: Final = r"^([0-9a-f]{2}){1,64}$(?!\n)"

_Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
_Hex16 = Annotated[str, Meta(pattern=HEX16_PATTERN)]
_Hex32 = Annotated[str, Meta(pattern=HEX32_PATTERN)]
_Digest = Annotated[str, Meta(pattern=DIGEST_PATTERN)]

ModelId = NewType("ModelId", _Name)
BorrowerId = NewType("BorrowerId", _Name)
ConsumerId = NewType("ConsumerId", _Name)
OperatorId = NewType("OperatorId", _Name)

#: SHA-256 of Ed25519 public key, HPKE public key and boot nonce: one TEE instance, one boot.
InstanceId = NewType("InstanceId", _Hex32)
LeaseId = NewType("LeaseId", _Hex16)
#: Identifies one signed message so that it can be repeated without being applied twice.
MessageId = NewType("MessageId", _Hex16)
#: Identifies a key by the SHA-256 of its raw public bytes.
KeyId = NewType("KeyId", _Hex32)
#: 32 bytes chosen by whoever asks for evidence, in hexadecimal.
Nonce = NewType("Nonce", _Hex32)
Digest = NewType("Digest", _Digest)
#: Idempotency key of one inference, chosen by the consumer (`aigovtool-request-id`).
RequestKey = NewType("RequestKey", Annotated[str, Meta(pattern=REQUEST_KEY_PATTERN)])
#: Which processor or TPM a platform is, as its evidence and appraisal policies name it.
ChipId = NewType("ChipId", Annotated[str, Meta(pattern=CHIP_PATTERN)])

#: A number of units, or any other count that travels in a message.
Units = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
#: Milliseconds since 1970-01-01T00:00:00Z, or a duration in milliseconds.
Millis = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]

_NAME_RE: Final = re.compile(NAME_PATTERN)
_DIGEST_RE: Final = re.compile(DIGEST_PATTERN)


def parse_name(text: str, what: str) -> str:
    """Return `text` if it is a valid name for a model, borrower, consumer or operator.

    Raises:
        InvalidValueError: for anything but 1 to 63 of `a-z 0-9 . _ -`, starting and ending with a
            letter or digit.
    """
    if _NAME_RE.match(text) is None:
        raise InvalidValueError(
            f"{what} {text[:80]!r} is not a valid name",
            reason="bad_name",
            fix="use 1 to 63 of a-z, 0-9, '.', '_' and '-', starting and ending with a letter or digit",
        )
    return text


def parse_digest(text: str) -> Digest:
    """Return `text` as a `Digest`.

    Raises:
        InvalidValueError: unless it is `sha256:` and 64 lower-case hexadecimal digits.
    """
    if _DIGEST_RE.match(text) is None:
        raise InvalidValueError(
            f"{text[:80]!r} is not a digest", reason="bad_digest", fix="a digest is sha256: and 64 hex digits"
        )
    return Digest(text)


def digest_of(data: bytes | bytearray | memoryview) -> Digest:
    """Return the SHA-256 digest of `data`."""
    return Digest("sha256:" + sha256(data).hexdigest())


def key_id_of(public_key: bytes) -> KeyId:
    """Return the identifier of a raw public key."""
    return KeyId(sha256(public_key).hexdigest())


def instance_id_of(identity_key: bytes, hpke_key: bytes, boot_nonce: bytes) -> InstanceId:
    """Return the identifier of one boot of one TEE (leases spec section 1).

    The three parts have fixed lengths (32 bytes each), so plain concatenation is unambiguous.
    """
    if not len(identity_key) == len(hpke_key) == len(boot_nonce) == 32:
        raise InvalidValueError("an instance id is made of three 32-byte values", reason="bad_length")
    return InstanceId(sha256(b"aigovtool instance v1\x00" + identity_key + hpke_key + boot_nonce).hexdigest())
