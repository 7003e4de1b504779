"""How a consumer comes to trust an enclave: fresh evidence, bound to this TLS connection and this consumer.

`POST /.well-known/aigovtool/attestation` with a `SessionChallenge` answers a `SessionEvidence`. The reader
verifies the evidence, recomputes the binding with the SPKI of *this* connection and its own nonce, and only
then sends data (spec: attestation, section 3). Headers of an inference are named here too.
"""

from collections.abc import Sequence
from functools import cache
from typing import Annotated, Final

from msgspec import UNSET, Meta, UnsetType

from aigovtool.attestation.binding import Audience, Binding
from aigovtool.attestation.model import Evidence
from aigovtool.codec import Message
from aigovtool.crypto.sign import Envelope
from aigovtool.errors import EvidenceError, LogError
from aigovtool.ids import Digest, ModelId, Nonce, Units
from aigovtool.ledger.merkle import inclusion_path, leaf_hash, nodes_of, root_of, verify_inclusion
from aigovtool.limits import MAX_SHARERS

ATTESTATION_PATH: Final = "/.well-known/aigovtool/attestation"
#: Where an enclave gives the manifest of a model: the bytes whose digest its evidence covers.
MANIFEST_PATH: Final = "/aigovtool/models/{model}/manifest"

#: Whom a quote is for that several consumers share; each sees its own name and nonce in its share.
SHARED_AUDIENCE: Final = Audience("consumers")
_DOMAIN: Final = b"aigovtool shared quote v1\0"

#: Idempotency key of an inference, chosen by the consumer; absent: the enclave makes one.
REQUEST_ID_HEADER: Final = "aigovtool-request-id"
#: The consumer's salt for the digests of the receipt (hexadecimal, at most 64 bytes).
SALT_HEADER: Final = "aigovtool-salt"
#: What is left of what is metered, as a dictionary of integers (RFC 8941 section 3.2): `inferences=12, compute_ms=300`.
UNITS_HEADER: Final = "aigovtool-units-remaining"
#: Base64 of the `SignedReceipt` in its only encoding.
RECEIPT_HEADER: Final = "aigovtool-receipt"
#: Present, with a warning text, only when the TEE is simulated, or does not encrypt its memory.
WARNING_HEADER: Final = "aigovtool-warning"


#: Shown wherever a TEE answers that shows what was booted, and hides nothing from whoever owns the machine.
NO_MEMORY_ENCRYPTION: Final = (
    "boot integrity, no memory encryption: whoever runs the host can read the model and what it is asked"
)


class SessionChallenge(Message):
    """The consumer's own nonce."""

    nonce: Nonce


class Share(Message):
    """The place of one caller's nonce among those of one quote: an inclusion proof (RFC 9162, section 2.1.3)."""

    index: Units
    size: Annotated[int, Meta(ge=2, le=MAX_SHARERS)]
    proof: Annotated[tuple[bytes, ...], Meta(max_length=8)]


class ServedModel(Message):
    """A model that this enclave holds."""

    model: ModelId
    manifest: Digest


class SessionEvidence(Message):
    """Evidence over `claims`, the custodian's key set, and what is served; `share` where others asked at once.

    `statement` is there where a signed challenge asked, for whoever comes through somebody who ends TLS: a
    `protocol.sealed.Statement`, signed with the identity key of `claims`.
    """

    evidence: Evidence
    claims: Binding
    key_set: Envelope
    models: list[ServedModel]
    warning: str | None
    share: Share | None = None
    statement: Envelope | UnsetType = UNSET


def shares_of(callers: Sequence[tuple[Audience, Nonce]]) -> tuple[Nonce, tuple[Share, ...]]:
    """Return the nonce that is quoted for several callers, and the share of each, in their order (spec: 3.4)."""
    leaves = [_leaf(audience, nonce) for audience, nonce in callers]
    node = cache(nodes_of(leaves))  # each subtree is in the path of many
    shares = (
        Share(index=index, size=len(leaves), proof=tuple(inclusion_path(node, index, len(leaves))))
        for index in range(len(leaves))
    )
    return Nonce(root_of(leaves).hex()), tuple(shares)


def expected_of(share: Share | None, claims: Binding, audience: Audience, nonce: Nonce) -> tuple[Audience, Nonce]:
    """Return for which audience and nonce a caller's evidence must be: its own, or those of all who shared a quote.

    Raises:
        EvidenceError: the caller's own audience and nonce have no part in what was quoted (`binding_nonce`).
    """
    if share is None:
        return audience, nonce
    try:
        root = bytes.fromhex(claims.nonce)
        verify_inclusion(_leaf(audience, nonce), share.index, share.size, share.proof, root)
    except LogError:
        raise EvidenceError(
            "the quote was made for other callers: this one's nonce is not among theirs",
            reason="binding_nonce",
            fix="ask for fresh evidence over this connection; if it differs again, do not use this enclave",
        ) from None
    return SHARED_AUDIENCE, claims.nonce


def _leaf(audience: Audience, nonce: Nonce) -> bytes:
    # An audience has no byte 0, so there is one reading only.
    return leaf_hash(_DOMAIN + audience.encode() + b"\0" + bytes.fromhex(nonce))
