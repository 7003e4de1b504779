"""Which answers of Intel's PCS a quote needs, and the collateral that they make (spec: attestation/intel, section 2.2).

Nothing is fetched here. The address of each answer follows from the quote, whose PCK certificate says which platform it
is of; it is not verified for that, and need not be: the host is fixed, and what a quote names goes into an address as
twelve hexadecimal digits or as one of two words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding

from aigovtool.attestation.certificates import read_revocation_list
from aigovtool.attestation.tee.fetched import Issued
from aigovtool.attestation.tee.intel.authentic import PCK_AUTHORITIES, common_name
from aigovtool.attestation.tee.intel.collateral import (
    Collateral,
    PcsAnswer,
    collateral_from_parts,
    cut,
    issuer_chain,
    pem,
    read_chain,
    read_document,
    read_list,
)
from aigovtool.attestation.tee.intel.quote import TEE_TDX, Quote, read_quote
from aigovtool.attestation.tee.intel.qvl import platform_of
from aigovtool.errors import EvidenceError

PCS: Final = "https://api.trustedservices.intel.com"
ROOT_CA_CRL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"


def wanted(data: bytes) -> tuple[str, ...]:
    """Return the addresses of TCB information, QE identity, PCK and root revocation list, in this order.

    Raises:
        EvidenceError: `data` is not a quote that could be verified (`quote_*`, `certificate_encoding`, `chain_name`,
            `pck_extension`).
    """
    quote = read_quote(data)
    tee, authority = "tdx" if quote.header.tee == TEE_TDX else "sgx", _authority(quote)
    return (
        f"{PCS}/{tee}/certification/v4/tcb?fmspc={platform_of(quote.pck_chain)}",
        f"{PCS}/{tee}/certification/v4/qe/identity",
        f"{PCS}/sgx/certification/v4/pckcrl?ca={authority}&encoding=der",
        ROOT_CA_CRL,
    )


def merged(data: bytes, answers: Mapping[str, PcsAnswer], brought: Collateral | None) -> bytes:
    """Return the collateral for the quote `data`, in its only encoding: of each part the one that was issued last.

    What a quote brings may be from before a new advisory, and what was fetched some days ago may be older than that.
    Documents are compared by Intel's evaluation before their date: Intel signs those of older evaluations anew, too.

    Args:
        data: the quote.
        answers: what was answered, by the addresses of `wanted(data)`; others are not looked at.
        brought: the collateral that came along, of which nothing is verified yet.

    Raises:
        EvidenceError: as `wanted`; `pcs_answer` when an answer is not of its form, or a part is not there at all;
            `collateral_encoding`, `certificate_encoding`, `certificate_too_large` for a part of it.
    """
    parts: dict[str, str] = {}
    for address, read in zip(wanted(data), _PARTS, strict=True):
        answered = read(answers[address]) if address in answers else None
        came = None if brought is None else {name: getattr(brought, name) for name in read.names}
        if answered is None and came is None:
            raise EvidenceError(f"no answer from {address}", reason="pcs_answer")
        if answered is None or (came is not None and read.issued(came) > read.issued(answered)):
            answered = came
        parts |= answered or {}
    # Of the list's authority there may be a newer certificate with the same key: the quote says which one is meant.
    parts["pck_crl_issuer_chain"] = pem(read_chain(read_quote(data).pck_chain.decode("ascii", "replace"))[1:])
    return collateral_from_parts(parts)


@dataclass(frozen=True, slots=True)
class _Document:
    """A signed document: its members in collateral, in the answer, and the header with its chain."""

    name: str
    member: str
    header: str

    @property
    def names(self) -> tuple[str, ...]:
        return f"{self.name}_issuer_chain", self.name, f"{self.name}_signature"

    def __call__(self, answer: PcsAnswer) -> dict[str, str]:
        text, signature = cut(answer.body, self.member)
        return dict(zip(self.names, (issuer_chain(answer, self.header), text, signature.lower()), strict=True))

    def issued(self, part: Mapping[str, str]) -> Issued:
        try:
            document = read_document(part[self.name])
        except EvidenceError:
            return Issued(-1, -1)
        return Issued(document.evaluation, document.period.since_ms)


@dataclass(frozen=True, slots=True)
class _List:
    """A revocation list, with its chain in a header where it is not the root's own."""

    name: str
    header: str | None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,) if self.header is None else (f"{self.name}_issuer_chain", self.name)

    def __call__(self, answer: PcsAnswer) -> dict[str, str]:
        chain = () if self.header is None else (issuer_chain(answer, self.header),)
        listed = read_revocation_list(answer.body).public_bytes(Encoding.DER).hex()
        return dict(zip(self.names, (*chain, listed), strict=True))

    def issued(self, part: Mapping[str, str]) -> Issued:
        try:
            return Issued(0, int(read_list(part[self.name]).last_update_utc.timestamp()) * 1000)
        except EvidenceError:
            return Issued(-1, -1)


#: In the order of `wanted`.
_PARTS: Final[tuple[_Document | _List, ...]] = (
    _Document("tcb_info", "tcbInfo", "tcb-info-issuer-chain"),
    _Document("qe_identity", "enclaveIdentity", "sgx-enclave-identity-issuer-chain"),
    _List("pck_crl", "sgx-pck-crl-issuer-chain"),
    _List("root_ca_crl", None),
)


def _authority(quote: Quote) -> str:
    chain = read_chain(quote.pck_chain.decode("ascii", "replace"))
    name = common_name(chain[1]) if len(chain) > 1 else ""
    if name not in PCK_AUTHORITIES:
        raise EvidenceError("the PCK certificate is of no authority of Intel's", reason="chain_name")
    return PCK_AUTHORITIES[name]
