"""What travels as `Evidence.data` of a TPM: one JSON message in its only encoding (attestation spec: tpm, section 1).

The event log does not travel, only its digests: what cannot be verified is not sent. `Evidence.endorsements` are the
certificates between the one named here and a root, in this order, DER, the root itself optional.
"""

import re
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta

from aigovtool.attestation.event_list import EventList
from aigovtool.attestation.model import Evidence, Label, MeasurementHex, TeeType
from aigovtool.codec import Message, decode_signed, encode
from aigovtool.errors import EvidenceError, InputError
from aigovtool.limits import MAX_CERTIFICATE_BYTES, MAX_EVIDENCE_BYTES

_Structure = Annotated[bytes, Meta(min_length=1, max_length=2048)]
_REGISTER: Final = re.compile(r"pcr(0|[1-9]|1[0-9]|2[0-3])")


class Bank(StrEnum):
    """The PCR banks that are accepted."""

    SHA256 = "sha256"
    SHA384 = "sha384"


class Certifies(StrEnum):
    """What the certificate is of: the TPM's endorsement key, or the attestation key itself."""

    EK = "ek"
    AK = "ak"


class PcrValue(Message):
    """The value of one PCR."""

    index: Annotated[int, Meta(ge=0, le=23)]
    digest: MeasurementHex


class TpmEvidence(Message):
    """One quote and all that is needed to verify it.

    Attributes:
        ak_public: the attestation key, TPMT_PUBLIC.
        attest: what the TPM signed, TPMS_ATTEST.
        signature: TPMT_SIGNATURE over `attest`.
        bank: the hash of the PCRs.
        pcrs: the value of each quoted PCR, by ascending index.
        events: what was measured into PCRs, by ascending index, under the names `pcr0` to `pcr23`.
        startup_locality: what PCR 0 starts with: 0, 3 or 4.
        report_data: the 64 bytes whose SHA-256 is quoted; absent in bundles that other tools made.
        certifies: whose certificate it is.
        certificate: DER.
        secret: what was found in the credential, if there was one.
    """

    ak_public: _Structure
    attest: _Structure
    signature: _Structure
    bank: Bank
    pcrs: Annotated[tuple[PcrValue, ...], Meta(min_length=1, max_length=24)]
    events: EventList
    startup_locality: Annotated[int, Meta(ge=0, le=4)]
    report_data: Annotated[bytes, Meta(min_length=64, max_length=64)] | None
    certifies: Certifies
    certificate: Annotated[bytes, Meta(min_length=1, max_length=MAX_CERTIFICATE_BYTES)]
    secret: Annotated[bytes, Meta(min_length=32, max_length=32)] | None


def wrap(evidence: TpmEvidence, endorsements: tuple[bytes, ...]) -> Evidence:
    """Return it as it travels.

    Raises:
        TooLargeError: more than `MAX_EVIDENCE_BYTES` in all, or too many endorsements.
    """
    return Evidence(tee=TeeType.TPM, data=encode(evidence), endorsements=endorsements)


def unwrap(data: bytes) -> TpmEvidence:
    """Return the message in `data`, which must be in its only encoding.

    Raises:
        EvidenceError: `evidence_encoding`.
    """
    try:
        evidence = decode_signed(data, TpmEvidence, max_bytes=MAX_EVIDENCE_BYTES)
    except InputError as error:
        raise EvidenceError(f"not evidence of a TPM: {error.message}", reason="evidence_encoding") from None
    _require_order([value.index for value in evidence.pcrs])
    _require_order([register_of(log.register) for log in evidence.events.registers])
    # Only PCR 0 has a first value, so without its events the locality would be a claim that nothing proves.
    if evidence.startup_locality not in {0, 3, 4} or (evidence.startup_locality and not _has_register_0(evidence)):
        raise EvidenceError("a startup locality that cannot be", reason="evidence_encoding")
    return evidence


def register_of(name: Label) -> int:
    """Return the index of the PCR with this name.

    Raises:
        EvidenceError: `evidence_encoding`.
    """
    if not _REGISTER.fullmatch(name):
        raise EvidenceError("events of a register that is no PCR", reason="evidence_encoding")
    return int(name.removeprefix("pcr"))


def _require_order(indices: list[int]) -> None:
    if indices != sorted(set(indices)):
        raise EvidenceError("PCRs that are not in ascending order, or twice", reason="evidence_encoding")


def _has_register_0(evidence: TpmEvidence) -> bool:
    return any(log.register == "pcr0" for log in evidence.events.registers)
