"""Is evidence of Intel SGX or Intel TDX genuine? (spec: attestation/intel, section 3).

Two readings must agree. Ours reads every byte strictly and verifies chains, revocation, times and signatures, a step
each; then the library dcap-qvl verifies the whole once more and applies Intel's own rules: which quoting enclave, which
TCB level. What either refuses is not genuine. The status of a TCB is a fact, whatever it is, except `Revoked`.

A quote of an enclave or TD in debug mode is refused here, with the reason `debug` that an appraisal would give, because
the library verifies none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aigovtool.attestation.certificates import Period
from aigovtool.attestation.event_list import EventList, replay
from aigovtool.attestation.examination import Examination, Examined, Product, Step
from aigovtool.attestation.model import Evidence, Label, TeeType
from aigovtool.attestation.tee.intel import authentic
from aigovtool.attestation.tee.intel.collateral import Collateral, read_collateral
from aigovtool.attestation.tee.intel.findings import (
    SGX_DEBUG,
    TD_ALLOWED,
    TD_DEBUG,
    TD_FLAGS,
    TD_SEPT_VE_DISABLE,
    flags,
    sgx_verified,
    tdx_verified,
)
from aigovtool.attestation.tee.intel.quote import TEE_SGX, TEE_TDX, EnclaveReport, Quote, TdReport, read_quote
from aigovtool.attestation.tee.intel.qvl import Claims, judged
from aigovtool.attestation.tee.supplement import COLLATERAL_PREFIX
from aigovtool.codec import decode_signed
from aigovtool.errors import EvidenceError, InputError
from aigovtool.limits import MAX_EVIDENCE_BYTES

_QUOTE: Final = "Intel SGX ECDSA QuoteLibReference DCAP API, appendix A; Intel TDX DCAP Quoting Library API, appendix A"
_PCS: Final = "Intel PCS API, version 4"
_PROFILE: Final = "Intel SGX PCK Certificate and CRL Profile Specification"

_BEFORE: Final = (
    Step(Label("label"), "the label is that of the verifier, and every endorsement is known", "attestation/intel, 2"),
    Step(Label("quote"), "the quote is strictly encoded", _QUOTE),
    Step(Label("collateral"), "the collateral is strictly encoded", "attestation/intel, 2.1"),
)
_AUTHENTIC: Final = (
    Step(Label("pck_chain"), "the PCK certificate of the platform is by Intel's pinned root", _PROFILE),
    Step(Label("signers"), "the chains of the collateral are by Intel's pinned root", _PROFILE),
    Step(Label("documents"), "TCB information and QE identity are signed by Intel", _PCS),
    Step(Label("time"), "certificates, lists and documents are valid now", f"RFC 5280, 4.1.2.5 and 5.1.2; {_PCS}"),
    Step(Label("revocation"), "no certificate of any chain is revoked", "RFC 5280, 6.3"),
    Step(Label("qe_report"), "the platform vouches for the quoting enclave, and that for its key", _QUOTE),
    Step(Label("signature"), "header and body are signed by the attestation key", _QUOTE),
    Step(Label("attributes"), "not in debug mode, and no attribute that is never verified", "attestation/intel, 3.2"),
    Step(Label("platform"), "Intel's identity of the quoting enclave, and a TCB level", f"{_PCS}; dcap-qvl"),
    Step(Label("trailing"), "nothing follows the quote but zeros", "attestation/intel, 1"),
)
SGX_STEPS: Final = (*_BEFORE, *_AUTHENTIC)
TDX_STEPS: Final = (
    *_BEFORE,
    Step(Label("event_list"), "the list of measured events is strictly encoded", "attestation/intel, 2.3"),
    *_AUTHENTIC,
    Step(Label("replay"), "the events give the quoted registers", "Intel TDX Module Base Architecture, RTMR extension"),
)

_EVENTS_PREFIX: Final = b'{"registers":'
_REGISTERS: Final = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")


class SgxVerifier:
    """Verifies evidence of Intel SGX; an `aigovtool.attestation.verifier.Verifier`."""

    __slots__ = ("_root",)

    def __init__(self, root: bytes | None = None) -> None:
        """Take the DER encoding of the only root that is believed; Intel's if none is given.

        Raises:
            EvidenceError: as `authentic.trusted`.
        """
        self._root: Final = authentic.trusted(root)

    def examine(self, evidence: Evidence, now_ms: int) -> Examined:
        """Make every step of `SGX_STEPS`; the reasons of each are in the specification, section 3."""
        look = Examination(SGX_STEPS)
        parts = look.run("label", lambda: _parts(evidence, TeeType.SGX))
        quote = look.run("quote", lambda: _quote(evidence.data, TEE_SGX))
        collateral = look.run("collateral", lambda: read_collateral(parts.found().collateral))
        genuine = _authenticate(look, _Given(evidence.data, self._root, now_ms), quote, collateral)
        return look.ended(
            lambda: sgx_verified(
                _enclave(quote.found()), genuine.claims.found(), genuine.pck.found()[1], genuine.period.found()
            )
        )


class TdxVerifier:
    """Verifies evidence of Intel TDX; an `aigovtool.attestation.verifier.Verifier`."""

    __slots__ = ("_root",)

    def __init__(self, root: bytes | None = None) -> None:
        """Take the DER encoding of the only root that is believed; Intel's if none is given.

        Raises:
            EvidenceError: as `authentic.trusted`.
        """
        self._root: Final = authentic.trusted(root)

    def examine(self, evidence: Evidence, now_ms: int) -> Examined:
        """Make every step of `TDX_STEPS`; the reasons of each are in the specification, section 3."""
        look = Examination(TDX_STEPS)
        parts = look.run("label", lambda: _parts(evidence, TeeType.TDX))
        quote = look.run("quote", lambda: _quote(evidence.data, TEE_TDX))
        collateral = look.run("collateral", lambda: read_collateral(parts.found().collateral))
        events = look.run("event_list", lambda: _events(parts.found().events))
        genuine = _authenticate(look, _Given(evidence.data, self._root, now_ms), quote, collateral)
        look.run("replay", lambda: _require_replayed(_td(quote.found()), events.found()))
        return look.ended(
            lambda: tdx_verified(
                _td(quote.found()),
                genuine.claims.found(),
                genuine.pck.found()[1],
                genuine.period.found(),
                events.found(),
            )
        )


@dataclass(frozen=True, slots=True)
class _Parts:
    collateral: bytes
    events: bytes | None


@dataclass(frozen=True, slots=True)
class _Given:
    data: bytes
    root: authentic.Root
    now_ms: int


@dataclass(frozen=True, slots=True)
class _Genuine:
    pck: Product[authentic.Chain]
    period: Product[Period]
    claims: Product[Claims]


def _authenticate(look: Examination, given: _Given, quote: Product[Quote], collateral: Product[Collateral]) -> _Genuine:
    """Make the steps that both platforms share."""
    root = given.root.fingerprint
    pck = look.run("pck_chain", lambda: authentic.pck_chain(quote.found(), root))
    by = look.run("signers", lambda: authentic.signers(collateral.found(), pck.found(), root))
    said = look.run("documents", lambda: authentic.documents(collateral.found(), by.found()))
    period = look.run(
        "time", lambda: authentic.in_time(pck.found(), by.found(), said.found(), collateral.found(), given.now_ms)
    )
    unrevoked = look.run(
        "revocation", lambda: authentic.not_revoked(pck.found(), by.found(), collateral.found(), given.now_ms)
    )
    vouched = look.run("qe_report", lambda: authentic.require_qe_report(quote.found(), pck.found()))
    signed = look.run("signature", lambda: authentic.require_quote_signed(quote.found()))
    look.run("attributes", lambda: _require_attributes(quote.found().body))

    def judge() -> Claims:
        # Compiled code sees only what was read strictly, is signed, and is of this time.
        for step in (period, unrevoked, vouched, signed):
            step.found()
        claims = judged(given.data, collateral.found(), given.root.der, given.now_ms)
        _require_same(quote.found(), said.found(), claims)
        return claims

    claims = look.run("platform", judge)
    look.run("trailing", lambda: _require_padded(quote.found()))
    return _Genuine(pck, period, claims)


def _parts(evidence: Evidence, tee: TeeType) -> _Parts:
    """Recognise the endorsements by how their only encodings begin."""
    if evidence.tee is not tee:
        raise EvidenceError(f"evidence labelled {evidence.tee} is not {tee}", reason="tee_mismatch")
    collateral = [part for part in evidence.endorsements if part.startswith(COLLATERAL_PREFIX)]
    events = [part for part in evidence.endorsements if part.startswith(_EVENTS_PREFIX)]
    if len(collateral) != 1 or len(events) > (tee is TeeType.TDX):
        raise EvidenceError(_counted(collateral, evidence.endorsements), reason="endorsement_count")
    if len(collateral) + len(events) != len(evidence.endorsements):
        raise EvidenceError("an endorsement is neither collateral nor a list of events", reason="endorsement_unknown")
    return _Parts(collateral[0], events[0] if events else None)


def _counted(collateral: Sequence[bytes], endorsements: Sequence[bytes]) -> str:
    """Return in words what there is too little or too much of."""
    if collateral:
        return "a quote travels with one collateral, and that of a TD with at most one list of events"
    beside = f", and {len(endorsements)} other endorsements did" if endorsements else ""
    return f"no collateral came along with the quote{beside}"


def _require_padded(quote: Quote) -> None:
    if not quote.padded:
        raise EvidenceError("what follows the quote is not zero", reason="quote_trailing")


def _quote(data: bytes, tee: int) -> Quote:
    quote = read_quote(data)
    if quote.header.tee != tee:
        raise EvidenceError("the quote is of Intel's other platform", reason="tee_mismatch")
    return quote


def _enclave(quote: Quote) -> EnclaveReport:
    if not isinstance(quote.body, EnclaveReport):  # `_quote` has refused it
        raise EvidenceError("the quote is not of an enclave", reason="tee_mismatch")
    return quote.body


def _td(quote: Quote) -> TdReport:
    if not isinstance(quote.body, TdReport):  # `_quote` has refused it
        raise EvidenceError("the quote is not of a TD", reason="tee_mismatch")
    return quote.body


def _events(data: bytes | None) -> EventList:
    if data is None:
        return EventList(registers=())
    try:
        events = decode_signed(data, EventList, max_bytes=MAX_EVIDENCE_BYTES)
    except InputError as error:
        raise EvidenceError(f"not a list of events: {error.message}", reason="event_encoding") from None
    names = [log.register for log in events.registers]
    if names != [name for name in _REGISTERS if name in names]:
        raise EvidenceError("registers are RTMRs, each at most once, in their order", reason="event_register")
    return events


def _require_replayed(body: TdReport, events: EventList) -> None:
    for log in events.registers:
        if replay(log.digests, "sha384") != body.rtmrs[_REGISTERS.index(log.register)].hex():
            raise EvidenceError(f"the events of {log.register} give another value than quoted", reason="event_replay")


def _require_attributes(body: EnclaveReport | TdReport) -> None:
    """Refuse debug mode, and a TD whose attributes say, or may say, that others than its host's processor reach it."""
    if isinstance(body, EnclaveReport):
        if int.from_bytes(body.attributes, "little") & SGX_DEBUG:
            raise EvidenceError("the enclave is in debug mode: its host can read its memory", reason="debug")
        return
    attributes = int.from_bytes(body.td_attributes, "little")
    if attributes & TD_DEBUG:
        raise EvidenceError("the TD is in debug mode: its host can read its memory", reason="debug")
    if not attributes & TD_SEPT_VE_DISABLE:
        raise EvidenceError("the host may raise exceptions in the TD (SEPT_VE_DISABLE is off)", reason="td_sept_ve")
    if attributes & ~TD_ALLOWED:
        raise EvidenceError(f"a TD with attributes {flags(body.td_attributes, TD_FLAGS)}", reason="td_attributes")
    if body.mr_service_td is not None and any(body.mr_service_td):
        raise EvidenceError("a service TD is bound to the TD", reason="td_service")


def _require_same(quote: Quote, said: authentic.Documents, claims: Claims) -> None:
    """Require that library and collateral speak of the report and of the platform that we have read."""
    fields = [part for kind in claims.report.values() for part in (kind, kind.get("base")) if isinstance(part, dict)]
    body = quote.body
    ours = {"report_data": body.report_data.hex()}
    ours |= {"mr_enclave": body.mr_enclave.hex()} if isinstance(body, EnclaveReport) else {"mr_td": body.mr_td.hex()}
    if any([part.get(name) for part in fields if name in part] != [value] for name, value in ours.items()):
        raise EvidenceError("the library has read another report", reason="verdict_inconsistent")
    # The library compares the FMSPC alone; a platform is that and the kind of its PCE.
    if said.tcb_info.pce_id.lower() != bytes(claims.platform.pck.pce_id).hex():
        raise EvidenceError("the TCB information is of another kind of platform", reason="tcb_platform")
