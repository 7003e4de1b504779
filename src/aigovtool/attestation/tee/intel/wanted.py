"""Which answers of Intel's PCS a quote needs, and the collateral that they make (spec: attestation/intel, section 2.2).

Nothing is fetched here. The address of each answer follows from the quote, whose PCK certificate says which platform it
is of; it is not verified for that, and need not be: the host is fixed, and what a quote names goes into an address as
twelve hexadecimal digits or as one of two words.
"""

from collections.abc import Mapping
from typing import Final

from aigovtool.attestation.tee.intel.authentic import PCK_AUTHORITIES, common_name
from aigovtool.attestation.tee.intel.collateral import PcsAnswer, collateral_from_pcs, read_chain
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


def assembled(data: bytes, answers: Mapping[str, tuple[bytes, Mapping[str, str]]]) -> bytes:
    """Return the collateral for the quote `data`, in its only encoding, from answers by their addresses.

    Args:
        data: the quote.
        answers: for each address of `wanted(data)` the body and the headers of the answer; others are not looked at.

    Raises:
        EvidenceError: as `wanted`; `pcs_answer` when an answer is missing or not of its form; `collateral_encoding`,
            `certificate_encoding`, `certificate_too_large` for a part of it.
    """
    found = []
    for address in wanted(data):
        if address not in answers:
            raise EvidenceError(f"no answer from {address}", reason="pcs_answer")
        found.append(PcsAnswer(*answers[address]))
    tcb_info, qe_identity, pck_crl, root_ca_crl = found
    return collateral_from_pcs(tcb_info=tcb_info, qe_identity=qe_identity, pck_crl=pck_crl, root_ca_crl=root_ca_crl)


def _authority(quote: Quote) -> str:
    chain = read_chain(quote.pck_chain.decode("ascii", "replace"))
    name = common_name(chain[1]) if len(chain) > 1 else ""
    if name not in PCK_AUTHORITIES:
        raise EvidenceError("the PCK certificate is of no authority of Intel's", reason="chain_name")
    return PCK_AUTHORITIES[name]
