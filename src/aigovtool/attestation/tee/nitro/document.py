"""The attestation document, byte by byte (spec: attestation/nitro, 1; AWS: attestation_process.md, 2.2, 3.1, 3.2).

A signed document is an untagged COSE_Sign1 structure (RFC 9052, section 4.2) around the document. It has one encoding:
`aigovtool.attestation.tee.nitro.cbor`. A document's map may have its members in any order, because the signature covers
the received bytes.
"""

import re
from dataclasses import dataclass
from typing import Final

from aigovtool.attestation.tee.nitro.cbor import Item, read, write
from aigovtool.errors import EvidenceError, MalformedError
from aigovtool.limits import MAX_ENDORSEMENTS

#: `{1: -35}`: the algorithm is ES384 (RFC 9053, section 2.1).
PROTECTED: Final = bytes.fromhex("a1013822")
SIGNATURE_BYTES: Final = 96
#: AWS: `bstr .size (1..16384)`.
MAX_PAYLOAD_BYTES: Final = 16_384
#: Around the payload: the heads of an array, of four items, the protected header and the signature.
MAX_DOCUMENT_BYTES: Final = MAX_PAYLOAD_BYTES + 1 + (1 + len(PROTECTED)) + 1 + 3 + (2 + SIGNATURE_BYTES)
MAX_CERTIFICATE_BYTES: Final = 1024
#: AWS' text says 512 of two of the three in one place and 1,024 of all in another; genuine documents carry 1,024.
MAX_CLAIM_BYTES: Final = 1024
DIGEST: Final = "SHA384"
PCR_BYTES: Final = 48
PCRS: Final = 32
#: Those of the image, its kernel, and its application. All of them are zero in debug mode.
IMAGE_PCRS: Final = (0, 1, 2)

_MEMBERS: Final = {"module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"}
_OPTIONAL: Final = {"public_key", "user_data", "nonce"}
# `$(?!\n)`: see aigovtool.ids. AWS says "text, not empty"; it becomes a fact, which is printable.
_MODULE_ID: Final = re.compile(r"^[!-~]{1,200}$(?!\n)")


@dataclass(frozen=True, slots=True)
class SignedDocument:
    """The parts of a COSE_Sign1 structure; only the types of `protected`, `payload` and `signature` are checked."""

    protected: bytes
    unprotected: Item
    payload: bytes
    signature: bytes

    def signed_bytes(self) -> bytes:
        """Return what the signature covers: the received bytes in a Sig_structure (RFC 9052, section 4.4)."""
        return write(["Signature1", self.protected, b"", self.payload])


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """An attestation document. `pcrs` is sorted by index, `cabundle` begins with the root, times are in milliseconds.

    The last three are None where the document has null, or no such member.
    """

    module_id: str
    timestamp_ms: int
    pcrs: tuple[tuple[int, bytes], ...]
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None


def read_signed(data: bytes) -> SignedDocument:
    """Return the parts of a signed document.

    Raises:
        EvidenceError: `envelope_too_large`, `envelope_encoding`, `envelope_shape`.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise EvidenceError(
            f"a signed document of {len(data)} bytes; AWS makes at most {MAX_DOCUMENT_BYTES}",
            reason="envelope_too_large",
        )
    match _read(data, "envelope_encoding"):
        case [bytes() as protected, unprotected, bytes() as payload, bytes() as signature]:
            return SignedDocument(protected, unprotected, payload, signature)
        case _:
            raise EvidenceError("not the four items of COSE_Sign1", reason="envelope_shape")


def require_headers(signed: SignedDocument) -> None:
    """Require the one protected header that AWS writes, an empty unprotected one, and the size of its signature.

    Raises:
        EvidenceError: `envelope_algorithm`, `envelope_headers`, `envelope_signature`.
    """
    if signed.protected != PROTECTED:
        raise EvidenceError("the protected header is not {1: -35} (ES384) alone", reason="envelope_algorithm")
    if signed.unprotected != {}:
        raise EvidenceError("the unprotected header is not an empty map", reason="envelope_headers")
    if len(signed.signature) != SIGNATURE_BYTES:
        raise EvidenceError(
            f"a signature of ES384 has {SIGNATURE_BYTES} bytes, not {len(signed.signature)}",
            reason="envelope_signature",
        )


def read_document(payload: bytes) -> Document:
    """Return the document in a payload.

    Raises:
        EvidenceError: `document_too_large`, `document_encoding`, `document_members`, or `document_MEMBER` for the first
            member that is not what AWS says, in the order of `Document`.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise EvidenceError(f"a document of more than {MAX_PAYLOAD_BYTES} bytes", reason="document_too_large")
    found = _read(payload, "document_encoding")
    if not isinstance(found, dict) or not _MEMBERS <= found.keys() <= _MEMBERS | _OPTIONAL:
        raise EvidenceError("a document has six members and at most three optional ones", reason="document_members")
    module_id, digest = found["module_id"], found["digest"]
    if not isinstance(module_id, str) or not _MODULE_ID.match(module_id):
        raise _bad("module_id", "1 to 200 printable characters")
    if digest != DIGEST:
        raise _bad("digest", DIGEST)
    return Document(
        module_id=module_id,
        timestamp_ms=_timestamp(found["timestamp"]),
        pcrs=_pcrs(found["pcrs"]),
        certificate=_certificate(found["certificate"], "certificate"),
        cabundle=_cabundle(found["cabundle"]),
        public_key=_claim(found.get("public_key"), "public_key", least=1),
        user_data=_claim(found.get("user_data"), "user_data"),
        nonce=_claim(found.get("nonce"), "nonce"),
    )


def _read(data: bytes, reason: str) -> Item:
    try:
        return read(data)
    except MalformedError as error:
        raise EvidenceError(error.message, reason=reason) from None


def _timestamp(item: Item) -> int:
    if not isinstance(item, int) or item == 0:
        raise _bad("timestamp", "a number of milliseconds above 0")
    return item


def _pcrs(item: Item) -> tuple[tuple[int, bytes], ...]:
    expected = f"a map of at most {PCRS} registers of {PCR_BYTES} bytes, with {IMAGE_PCRS} among them"
    if not isinstance(item, dict) or not item.keys() >= set(IMAGE_PCRS):
        raise _bad("pcrs", expected)
    found: list[tuple[int, bytes]] = []
    for index, value in item.items():
        if not isinstance(index, int) or index >= PCRS or not isinstance(value, bytes) or len(value) != PCR_BYTES:
            raise _bad("pcrs", expected)
        found.append((index, value))
    return tuple(sorted(found))


def _certificate(item: Item, name: str) -> bytes:
    if not isinstance(item, bytes) or not 1 <= len(item) <= MAX_CERTIFICATE_BYTES:
        raise _bad(name, f"1 to {MAX_CERTIFICATE_BYTES} bytes for a certificate")
    return item


def _cabundle(item: Item) -> tuple[bytes, ...]:
    if not isinstance(item, list) or not 1 <= len(item) <= MAX_ENDORSEMENTS:
        raise _bad("cabundle", f"a list of 1 to {MAX_ENDORSEMENTS} certificates")
    return tuple(_certificate(one, "cabundle") for one in item)


def _claim(item: Item, name: str, *, least: int = 0) -> bytes | None:
    if item is None:
        return None
    if not isinstance(item, bytes) or not least <= len(item) <= MAX_CLAIM_BYTES:
        raise _bad(name, f"null, or {least} to {MAX_CLAIM_BYTES} bytes")
    return item


def _bad(name: str, expected: str) -> EvidenceError:
    return EvidenceError(f"{name} of a document is not {expected}", reason=f"document_{name}")
