"""The collateral of an Intel quote: what Intel says about platforms today (spec: attestation/intel, section 2).

Nine parts, which Intel's Provisioning Certification Service (PCS, API version 4) hands out: TCB information and the
identity of the quoting enclave, each with its signature and the chain of the key that signed it, and two revocation
lists. They travel as JSON with the members of dcap-qvl's `QuoteCollateralV3`, in one encoding only. The two signed
documents are text: their signatures cover the bytes as Intel sent them, so they are cut out and never written anew.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar
from urllib.parse import unquote

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from aigovtool.attestation.certificates import Period, read_certificates, read_revocation_list
from aigovtool.codec import Message, convert, decode, decode_signed, encode, text_like
from aigovtool.errors import EvidenceError, InputError
from aigovtool.limits import MAX_EVIDENCE_BYTES

T = TypeVar("T")

_HexText = Annotated[str, text_like(r"^([0-9a-f]{2})+$(?!\n)", "lower-case hexadecimal bytes")]
_SignatureHex = Annotated[str, text_like(r"^[0-9a-f]{128}$(?!\n)", "128 lower-case hexadecimal digits")]
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_SIGNED_ANSWER: Final = r'\{"%s":(\{.*\}),"signature":"([0-9a-fA-F]{128})"\}\s*'


class Collateral(Message):
    """The nine parts: chains in PEM (leaf first, root last), lists and signatures in hexadecimal, documents as text."""

    pck_crl_issuer_chain: str
    root_ca_crl: _HexText
    pck_crl: _HexText
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: _SignatureHex
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: _SignatureHex


class _AnyCollateral(Message):
    """The same as other tools write it; the PCK chain, which some add, is not taken: it is in the quote."""

    pck_crl_issuer_chain: str
    root_ca_crl: str
    pck_crl: str
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: str
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: str
    pck_certificate_chain: str | None = None


@dataclass(frozen=True, slots=True)
class PcsAnswer:
    """What the PCS answered: the body as it came, and the headers, whose names are read in any case."""

    body: bytes
    headers: Mapping[str, str]


class _Dated(msgspec.Struct, frozen=True, rename="camel"):
    """The members of a signed document that are read here. Intel may add others: the signature covers them."""

    issue_date: str
    next_update: str
    tcb_evaluation_data_number: int
    pce_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedDocument:
    """What a TCB information or an identity says about itself; `pce_id` is empty in an identity.

    `evaluation` grows with each of Intel's evaluations; a document of an older one may have a later date.
    """

    evaluation: int
    pce_id: str
    period: Period


def read_collateral(data: bytes) -> Collateral:
    """Return the collateral that `data` is the only encoding of.

    Raises:
        EvidenceError: `collateral_encoding`; `certificate_encoding` or `certificate_too_large` for a part of it.
    """
    collateral = _as_evidence(lambda: decode_signed(data, Collateral, max_bytes=MAX_EVIDENCE_BYTES))
    for chain in (
        collateral.pck_crl_issuer_chain,
        collateral.tcb_info_issuer_chain,
        collateral.qe_identity_issuer_chain,
    ):
        read_chain(chain)
    for revoked in (collateral.root_ca_crl, collateral.pck_crl):
        read_list(revoked)
    return collateral


def read_chain(text: str) -> tuple[x509.Certificate, ...]:
    """Return the certificates of a chain that is written as every part of collateral is: PEM with LF, and nothing else.

    Raises:
        EvidenceError: `certificate_encoding`, `certificate_too_large`.
    """
    # What is not ASCII becomes "?", which no PEM holds.
    chain = read_certificates(text.encode("ascii", "replace"))
    if pem(chain) != text:
        raise EvidenceError("a chain is not in its usual form", reason="certificate_encoding")
    return chain


def read_list(revoked: str) -> x509.CertificateRevocationList:
    """Return the revocation list with this DER encoding in hexadecimal.

    Raises:
        EvidenceError: `certificate_encoding`, `certificate_too_large`.
    """
    return read_revocation_list(bytes.fromhex(revoked))


def read_document(text: str) -> SignedDocument:
    """Return what a TCB information or an identity says about itself; the caller has verified its signature.

    Raises:
        EvidenceError: `document_encoding`.
    """
    try:
        dated = decode(text.encode(), _Dated, max_bytes=MAX_EVIDENCE_BYTES)
        period = Period(since_ms=_time_ms(dated.issue_date), until_ms=_time_ms(dated.next_update))
    except (InputError, ValueError):
        raise EvidenceError("a signed document does not say what it is", reason="document_encoding") from None
    return SignedDocument(evaluation=dated.tcb_evaluation_data_number, pce_id=dated.pce_id, period=period)


def collateral_from_json(text: bytes) -> bytes:
    """Return the only encoding of collateral that another tool has written, with any white space and order.

    Raises:
        EvidenceError: `collateral_encoding`, `certificate_encoding`, `certificate_too_large`.
    """
    given = _as_evidence(lambda: decode(text, _AnyCollateral, max_bytes=4 * MAX_EVIDENCE_BYTES))
    return _canonical(
        pck_crl_issuer_chain=given.pck_crl_issuer_chain,
        root_ca_crl=_unhex(given.root_ca_crl),
        pck_crl=_unhex(given.pck_crl),
        tcb_info_issuer_chain=given.tcb_info_issuer_chain,
        tcb_info=(given.tcb_info, given.tcb_info_signature),
        qe_identity_issuer_chain=given.qe_identity_issuer_chain,
        qe_identity=(given.qe_identity, given.qe_identity_signature),
    )


def collateral_from_parts(parts: Mapping[str, str]) -> bytes:
    """Return collateral in its only encoding, made of all its members, each as it was in such collateral.

    Raises:
        EvidenceError: `collateral_encoding`, `certificate_encoding`, `certificate_too_large`.
    """
    data = _as_evidence(lambda: encode(convert(dict(parts), Collateral)))
    read_collateral(data)
    return data


def _canonical(
    *,
    pck_crl_issuer_chain: str,
    root_ca_crl: bytes,
    pck_crl: bytes,
    tcb_info_issuer_chain: str,
    tcb_info: tuple[str, str],
    qe_identity_issuer_chain: str,
    qe_identity: tuple[str, str],
) -> bytes:
    data = encode(
        Collateral(
            pck_crl_issuer_chain=_usual(pck_crl_issuer_chain),
            root_ca_crl=_der(root_ca_crl),
            pck_crl=_der(pck_crl),
            tcb_info_issuer_chain=_usual(tcb_info_issuer_chain),
            tcb_info=tcb_info[0],
            tcb_info_signature=tcb_info[1].lower(),
            qe_identity_issuer_chain=_usual(qe_identity_issuer_chain),
            qe_identity=qe_identity[0],
            qe_identity_signature=qe_identity[1].lower(),
        )
    )
    read_collateral(data)
    return data


def issuer_chain(answer: PcsAnswer, header: str) -> str:
    """Return the chain (PEM, leaf first) that the PCS sends in a header.

    Raises:
        EvidenceError: `pcs_answer`, `certificate_encoding`, `certificate_too_large`.
    """
    found = [value for name, value in answer.headers.items() if name.lower() == header]
    if len(found) != 1:
        raise EvidenceError(f"an answer of the PCS has no header {header}", reason="pcs_answer")
    return _usual(unquote(found[0]))


def cut(body: bytes, member: str) -> tuple[str, str]:
    """Return the bytes that were signed, as text, and the signature over them in hexadecimal.

    Raises:
        EvidenceError: `pcs_answer`.
    """
    try:
        found = re.fullmatch(_SIGNED_ANSWER % member, body.decode("utf-8"), re.DOTALL)
    except UnicodeDecodeError:
        found = None
    if found is None:
        raise EvidenceError(f"an answer of the PCS is not a signed {member}", reason="pcs_answer")
    return found[1], found[2]


def _usual(chain: str) -> str:
    return pem(read_certificates(chain.encode("ascii", "replace")))


def pem(chain: tuple[x509.Certificate, ...]) -> str:
    """Return a chain as every part of collateral is written: PEM with LF, and nothing else."""
    return "".join(certificate.public_bytes(Encoding.PEM).decode("ascii") for certificate in chain)


def _der(revoked: bytes) -> str:
    return read_revocation_list(revoked).public_bytes(Encoding.DER).hex()


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise EvidenceError("a revocation list is not hexadecimal", reason="collateral_encoding") from None


def _as_evidence(read: Callable[[], T]) -> T:
    try:
        return read()
    except InputError as error:
        raise EvidenceError(f"not collateral: {error.message}", reason="collateral_encoding") from None


def _time_ms(text: str) -> int:
    if not _TIME.fullmatch(text):
        raise ValueError(text)
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()) * 1000
