"""Is what Intel's PCS answered what was asked for? (spec: attestation/intel, section 2.2).

An answer is judged by itself, before it is kept or put beside evidence: a page of a proxy, another platform's TCB
information or outdated collateral must not make genuine evidence look bad, nor stay in a cache.
"""

import re
from typing import Final

import msgspec

from aigovtool.attestation.certificates import (
    Period,
    day,
    read_certificates,
    read_revocation_list,
    require_chain,
    require_not_revoked,
    require_period,
)
from aigovtool.attestation.tee.fetched import Issued
from aigovtool.attestation.tee.intel.authentic import (
    PCK_AUTHORITIES,
    PROFILE,
    ROOT_NAME,
    SIGNING_NAME,
    Chain,
    Root,
    key_of,
    require_names,
    require_signed,
)
from aigovtool.attestation.tee.intel.collateral import PcsAnswer, cut, issuer_chain, read_chain, read_document
from aigovtool.attestation.tee.intel.wanted import PCS, ROOT_CA_CRL
from aigovtool.codec import decode
from aigovtool.errors import EvidenceError, InputError
from aigovtool.limits import MAX_EVIDENCE_BYTES

_TCB: Final = re.compile(rf"{re.escape(PCS)}/(sgx|tdx)/certification/v4/tcb\?fmspc=([0-9A-F]{{12}})")
_IDENTITY: Final = re.compile(rf"{re.escape(PCS)}/(sgx|tdx)/certification/v4/qe/identity")
_PCK_LIST: Final = re.compile(rf"{re.escape(PCS)}/sgx/certification/v4/pckcrl\?ca=(platform|processor)&encoding=der")
_TCB_OF: Final = {"sgx": "SGX", "tdx": "TDX"}
_IDENTITY_OF: Final = {"sgx": "QE", "tdx": "TD_QE"}


class _About(msgspec.Struct, frozen=True):
    """What a signed document is about; an identity has no FMSPC."""

    id: str
    fmspc: str = ""


def issued(url: str, answer: PcsAnswer, now_ms: int, root: Root) -> Issued:
    """Return when Intel issued what was answered at an address of `wanted`.

    Raises:
        EvidenceError: it is not that, not by Intel's authorities, or not valid at `now_ms`; reasons as in the steps
            `signers`, `documents`, `time` and `revocation` of verification, `pcs_answer` for what is not of its form,
            and `answer_other` for what another address answers.
    """
    if url == ROOT_CA_CRL:
        return _of_list(answer.body, read_certificates(root.der), now_ms)
    if found := _PCK_LIST.fullmatch(url):
        names = {name for name, known in PCK_AUTHORITIES.items() if known == found[1]}
        chain = _chain(answer, "sgx-pck-crl-issuer-chain", [names, {ROOT_NAME}], root, now_ms)
        return _of_list(answer.body, chain, now_ms)
    if found := _TCB.fullmatch(url):
        chain = _chain(answer, "tcb-info-issuer-chain", [{SIGNING_NAME}, {ROOT_NAME}], root, now_ms)
        about = _About(id=_TCB_OF[found[1]], fmspc=found[2])
        return _of_document(cut(answer.body, "tcbInfo"), about, chain, now_ms)
    if found := _IDENTITY.fullmatch(url):
        chain = _chain(answer, "sgx-enclave-identity-issuer-chain", [{SIGNING_NAME}, {ROOT_NAME}], root, now_ms)
        about = _About(id=_IDENTITY_OF[found[1]])
        return _of_document(cut(answer.body, "enclaveIdentity"), about, chain, now_ms)
    raise EvidenceError("not an address of Intel's collateral", reason="answer_other")


def _of_list(body: bytes, chain: Chain, now_ms: int) -> Issued:
    return Issued(0, require_not_revoked((), read_revocation_list(body), chain[0], now_ms, PROFILE).since_ms)


def _of_document(signed: tuple[str, str], about: _About, chain: Chain, now_ms: int) -> Issued:
    text, signature = signed
    require_signed(key_of(chain[0]), bytes.fromhex(signature), text.encode(), "document_signature")
    if _about(text) != about:
        raise EvidenceError(f"a document about {_about(text).id}, not what was asked for", reason="answer_other")
    document = read_document(text)
    return Issued(document.evaluation, _in_time(document.period, now_ms).since_ms)


def _chain(answer: PcsAnswer, header: str, names: list[set[str]], root: Root, now_ms: int) -> Chain:
    chain = read_chain(issuer_chain(answer, header))
    require_names(chain, names)
    require_chain(chain, [root.fingerprint], PROFILE)
    require_period(chain, now_ms, PROFILE)
    return chain


def _about(text: str) -> _About:
    try:
        found = decode(text.encode(), _About, max_bytes=MAX_EVIDENCE_BYTES)
    except InputError:
        raise EvidenceError("a signed document does not say what it is", reason="document_encoding") from None
    return _About(id=found.id, fmspc=found.fmspc.upper())


def _in_time(period: Period, now_ms: int) -> Period:
    if now_ms < period.since_ms:
        raise EvidenceError(f"a signed document begins on {day(period.since_ms)}", reason="not_yet_valid")
    if now_ms > period.until_ms:
        raise EvidenceError(f"a signed document expired on {day(period.until_ms)}", reason="collateral_expired")
    return period
