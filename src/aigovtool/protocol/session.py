"""How a consumer comes to trust an enclave: fresh evidence, bound to this TLS connection and this consumer.

`POST /.well-known/aigovtool/attestation` with a `SessionChallenge` answers a `SessionEvidence`. The reader
verifies the evidence, recomputes the binding with the SPKI of *this* connection and its own nonce, and only
then sends data (spec: attestation, section 3). Headers of an inference are named here too.
"""

from typing import Final

from aigovtool.attestation.binding import Binding
from aigovtool.attestation.model import Evidence
from aigovtool.codec import Message
from aigovtool.crypto.sign import Envelope
from aigovtool.ids import Digest, ModelId, Nonce

ATTESTATION_PATH: Final = "/.well-known/aigovtool/attestation"

#: Idempotency key of an inference, chosen by the consumer; absent: the enclave makes one.
REQUEST_ID_HEADER: Final = "aigovtool-request-id"
#: The consumer's salt for the digests of the receipt (hexadecimal, at most 64 bytes).
SALT_HEADER: Final = "aigovtool-salt"
#: What is left of what is metered, as a dictionary of integers (RFC 8941 section 3.2): `inferences=12, compute_ms=300`.
UNITS_HEADER: Final = "aigovtool-units-remaining"
#: Base64 of the `SignedReceipt` in its only encoding.
RECEIPT_HEADER: Final = "aigovtool-receipt"
#: Present, with a warning text, only when the TEE is simulated.
WARNING_HEADER: Final = "aigovtool-warning"


class SessionChallenge(Message):
    """The consumer's own nonce."""

    nonce: Nonce


class ServedModel(Message):
    """A model that this enclave holds."""

    model: ModelId
    manifest: Digest


class SessionEvidence(Message):
    """Evidence over `claims`, the custodian's key set, and what is served."""

    evidence: Evidence
    claims: Binding
    key_set: Envelope
    models: list[ServedModel]
    warning: str | None
