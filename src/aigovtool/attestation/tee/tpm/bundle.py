"""Quotes that other tools wrote, turned into our evidence (attestation spec: tpm, section 4).

They are not bound to report data of ours: what comes out has none, so only a `TpmVerifier` that is given the nonce as
`foreign_nonce` takes it. Nothing is believed here: a reader that errs makes evidence that does not verify.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding

from aigovtool.attestation.certificates import read_certificates
from aigovtool.attestation.event_list import EventList
from aigovtool.attestation.model import Evidence
from aigovtool.attestation.tee.tpm.event_log import parse_log
from aigovtool.attestation.tee.tpm.evidence import Bank, Certifies, TpmEvidence, wrap
from aigovtool.attestation.tee.tpm.protobuf import only_bytes, only_number, read_fields
from aigovtool.attestation.tee.tpm.structures import parse_quote, unwrapped_public
from aigovtool.codec import convert
from aigovtool.errors import EvidenceError, InputError

#: Names of the files of a directory, each from a tool of tpm2-tools or from the kernel.
AK_FILE: Final = "ak.pub"
ATTEST_FILE: Final = "q.msg"
SIGNATURE_FILE: Final = "q.sig"
PCRS_FILE: Final = "q.pcr"
EK_CERTIFICATE_FILE: Final = "ekcert.der"
ISSUER_FILE: Final = "issuercert.pem"
EVENT_LOG_FILE: Final = "binary_bios_measurements.bin"

#: A bundle with the logs of several boot stages stays below.
MAX_BUNDLE_BYTES: Final = 4 << 20

# attest.Attestation and tpm.Quote of go-tpm-tools; TPM_ALG_ID stands for a hash there, too.
_ATTESTATION: Final = {
    1: bytes,  # ak_pub, TPMT_PUBLIC
    2: bytes,  # quotes
    3: bytes,  # event_log
    4: bytes,  # instance_info: said by the guest, not proved here
    5: bytes,  # canonical_event_log: of containers; not read
    6: bytes,  # ak_cert
    7: bytes,  # intermediate_certs
    8: bytes,  # sev_snp_attestation, tdx_attestation: other evidence; not read
    9: bytes,
}
_QUOTE: Final = {1: bytes, 2: bytes, 3: bytes}
_PCRS: Final = {1: int, 2: bytes}
_PCR: Final = {1: int, 2: bytes}
_BANKS: Final = {Bank.SHA256: 0x000B, Bank.SHA384: 0x000C}


def evidence_from_directory(files: Mapping[str, bytes], issuers: Sequence[bytes] = ()) -> Evidence:
    """Return the evidence in the files of one quote by tpm2-tools, by name; others are left alone.

    `ak.pub` (TPM2B_PUBLIC), `q.msg` (TPMS_ATTEST), `q.sig` (TPMT_SIGNATURE), `q.pcr` (the quoted PCR values, one after
    the other), `ekcert.der`; optional: `issuercert.pem` (certificates above, in their order) and
    `binary_bios_measurements.bin` (event log). `issuers`, in DER or PEM, come after those of the directory.

    Raises:
        EvidenceError: `bundle_file` for a file that is missing or has another size; `evidence_too_large`; the reasons
            of `parse_quote`, `parse_log` and `read_certificates`.
    """
    missing = {AK_FILE, ATTEST_FILE, SIGNATURE_FILE, PCRS_FILE, EK_CERTIFICATE_FILE} - files.keys()
    if missing:
        raise EvidenceError(f"a bundle without {', '.join(sorted(missing))}", reason="bundle_file")
    quote = parse_quote(files[ATTEST_FILE])
    size = 32 if quote.bank == Bank.SHA256 else 48
    if len(files[PCRS_FILE]) != size * len(quote.selected):
        raise EvidenceError("a file of PCR values that are not those quoted", reason="bundle_file")
    values = [files[PCRS_FILE][at : at + size] for at in range(0, len(files[PCRS_FILE]), size)]
    quoted = _Quoted(
        attest=files[ATTEST_FILE],
        signature=files[SIGNATURE_FILE],
        values=dict(zip(quote.selected, values, strict=True)),
    )
    evidence = _evidence(
        quoted,
        files.get(EVENT_LOG_FILE),
        unwrapped_public(files[AK_FILE]),
        Certifies.EK,
        files[EK_CERTIFICATE_FILE],
    )
    return _wrapped(evidence, _ders([files.get(ISSUER_FILE, b""), *issuers]))


def evidence_from_protobuf(
    data: bytes, bank: Bank | None = None, issuers: Sequence[bytes] = (), log: bytes | None = None
) -> Evidence:
    """Return the evidence in an `attest.Attestation` of go-tpm-tools: one of its quotes, with its certified key.

    Args:
        data: the serialized message.
        bank: of which PCR bank the quote is taken; by default the strongest that is quoted.
        issuers: files, in DER or PEM, with the certificates between the key's and a root; after those of the message.
        log: an event log in place of that of the message.

    Raises:
        EvidenceError: `bundle_size`, `bundle_encoding`, `bundle_bank` (no quote of that bank), `evidence_too_large`,
            and the reasons of `parse_quote`, `parse_log` and `read_certificates`.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise EvidenceError(f"a bundle of {len(data)} bytes; at most {MAX_BUNDLE_BYTES} are read", reason="bundle_size")
    fields = read_fields(data, _ATTESTATION)
    quotes = dict(_quoted(one) for one in fields.get(2, []) if isinstance(one, bytes))
    wanted = [bank] if bank else [Bank.SHA384, Bank.SHA256]
    chosen = next((quotes[_BANKS[one]] for one in wanted if _BANKS[one] in quotes), None)
    if chosen is None:
        raise EvidenceError("the bundle has no quote of this bank of PCRs", reason="bundle_bank")
    if log is None and 3 in fields:
        log = only_bytes(fields, 3)
    evidence = _evidence(chosen, log, only_bytes(fields, 1), Certifies.AK, only_bytes(fields, 6))
    own = [one for one in fields.get(7, []) if isinstance(one, bytes)]
    return _wrapped(evidence, (*own, *(one for one in _ders(issuers) if one not in own)))


@dataclass(frozen=True, slots=True)
class _Quoted:
    attest: bytes
    signature: bytes
    values: Mapping[int, bytes]


def _quoted(data: bytes) -> tuple[int, _Quoted]:
    """Return the bank (TPM_ALG_ID) and the content of one tpm.Quote."""
    fields = read_fields(data, _QUOTE)
    pcrs = read_fields(only_bytes(fields, 3), _PCRS)
    values: dict[int, bytes] = {}
    for entry in pcrs.get(2, []):
        pair = read_fields(entry, _PCR) if isinstance(entry, bytes) else {}
        index = only_number(pair, 1)
        if index in values:
            raise EvidenceError(f"PCR {index} is there twice", reason="bundle_encoding")
        values[index] = only_bytes(pair, 2)
    return only_number(pcrs, 1), _Quoted(only_bytes(fields, 1), only_bytes(fields, 2), values)


def _evidence(
    quoted: _Quoted, log: bytes | None, ak_public: bytes, certifies: Certifies, certificate: bytes
) -> TpmEvidence:
    quote = parse_quote(quoted.attest)
    measured = None if log is None else parse_log(log)
    try:
        # Built by its reader, so that what no reader takes is found here and not on the other side.
        return convert(
            {
                "ak_public": ak_public,
                "attest": quoted.attest,
                "signature": quoted.signature,
                "bank": quote.bank,
                "pcrs": [{"index": index, "digest": quoted.values[index].hex()} for index in sorted(quoted.values)],
                "events": measured.event_list(quote.bank, quote.selected) if measured else EventList(registers=()),
                "startup_locality": measured.startup_locality if measured and 0 in quote.selected else 0,
                "report_data": None,
                "certifies": certifies,
                "certificate": certificate,
                "secret": None,
            },
            TpmEvidence,
        )
    except InputError as error:
        raise EvidenceError(f"a bundle that is no quote: {error.message}", reason="bundle_encoding") from None


def _wrapped(evidence: TpmEvidence, issuers: tuple[bytes, ...]) -> Evidence:
    try:
        return wrap(evidence, issuers)
    except InputError as error:
        raise EvidenceError(error.message, reason=error.reason) from None


def _ders(files: Sequence[bytes]) -> tuple[bytes, ...]:
    return tuple(one.public_bytes(Encoding.DER) for file in files if file for one in read_certificates(file))
