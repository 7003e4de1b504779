"""Is evidence of the simulated TEE genuine? (spec: attestation, section 6.3).

The steps are numbered in `STEPS`. "Genuine" here means: made by somebody who knows a public sentence. What the caller
still owes: the binding of the report data (`attestation.binding`) and the appraisal (`attestation.appraisal`), which
refuses this TEE by default.
"""

from typing import Final

from aigovtool.attestation.examination import Examination, Examined, Step
from aigovtool.attestation.model import (
    Evidence,
    Fact,
    Label,
    Measurement,
    MeasurementHex,
    Tcb,
    TcbComponent,
    TeeType,
    Unchecked,
    VerifiedEvidence,
)
from aigovtool.attestation.policy import AcceptedTee, AppraisalPolicy, FactRule, ReferenceSet, ReferenceValue
from aigovtool.codec import decode_signed
from aigovtool.crypto.sign import Envelope, VerifyKey, open_envelope
from aigovtool.errors import EvidenceError, InputError, VerificationError
from aigovtool.ids import ChipId
from aigovtool.limits import MAX_EVIDENCE_BYTES
from aigovtool.testing.simulated_tee.abi import SIGNED_BYTES, TCB_COMPONENTS, Report, parse
from aigovtool.testing.simulated_tee.root import (
    CA_KIND,
    CA_SUBJECT,
    PLATFORM_KIND,
    ROOT_PUBLIC_KEY,
    CaCertificate,
    PlatformCertificate,
)

_DAY_MS: Final = 86_400_000


_SPEC: Final = "attestation spec, 6.3"
STEPS: Final = (
    Step(Label("label"), "the evidence is labelled simulated, and brings two certificates", _SPEC),
    Step(Label("report"), "the report is strictly encoded", "attestation spec, 6.1"),
    Step(Label("chain"), "platform certificate, by the platform CA, by the pinned root", _SPEC),
    Step(Label("validity"), "both certificates are valid now", _SPEC),
    Step(Label("signature"), "the report is signed by the certified platform key", _SPEC),
    Step(Label("chip"), "certificate and report speak of the same chip", _SPEC),
    Step(Label("tcb"), "certificate and report speak of the same TCB version", _SPEC),
)


class SimulatedVerifier:
    """Verifies evidence of the simulated TEE; an `aigovtool.attestation.verifier.Verifier`."""

    __slots__ = ()

    def examine(self, evidence: Evidence, now_ms: int) -> Examined:
        """Make every step. Reasons: `tee_mismatch`, `chain_length`, `report_*`, and the names of the other steps."""
        look = Examination(STEPS)
        look.run("label", lambda: _require_label(evidence))
        report = look.run("report", lambda: parse(evidence.data))
        chain = look.run("chain", lambda: _open_chain(evidence.endorsements))
        until = look.run("validity", lambda: _require_valid(chain.found(), now_ms))
        look.run("signature", lambda: _require_signed(chain.found()[0], report.found()[1], evidence.data))
        look.run("chip", lambda: _require_same_chip(chain.found()[0], report.found()[0]))
        look.run("tcb", lambda: _require_same_tcb(chain.found()[0], report.found()[0]))
        return look.ended(lambda: _verified(report.found()[0], until.found()))


def simulated_policy(
    *measurements: MeasurementHex, version: int = 1, max_attestation_age_ms: int = _DAY_MS
) -> AppraisalPolicy:
    """Return an appraisal policy that allows the simulated TEE with one of `measurements`, and nothing else.

    Raises:
        EvidenceError: with reason `bad_measurements` when no measurement is given.
    """
    if not measurements:
        raise EvidenceError("a policy without a reference value accepts nothing", reason="bad_measurements")
    entry = AcceptedTee(
        tee=TeeType.SIMULATED,
        reference_values=tuple(
            ReferenceSet(
                label=f"simulated {digest[:12]}", values=(ReferenceValue(name=Label("source"), digest=digest),)
            )
            for digest in measurements
        ),
        min_tcb=_tcb((0, 0, 0)).components,
        chips=Unchecked(reason="simulated TEE: there is no chip"),
        facts=(FactRule(name=Label("host_data"), allowed=Unchecked(reason="simulated TEE: the host sets nothing")),),
        max_attestation_age_ms=max_attestation_age_ms,
    )
    return AppraisalPolicy(version=version, accepted=(entry,), allow_simulated=True)


def _require_label(evidence: Evidence) -> None:
    if evidence.tee is not TeeType.SIMULATED:
        raise EvidenceError(f"evidence labelled {evidence.tee} is not simulated", reason="tee_mismatch")
    if len(evidence.endorsements) != 2:
        raise EvidenceError("simulated evidence brings exactly two certificates", reason="chain_length")


def _open_chain(endorsements: tuple[bytes, ...]) -> tuple[PlatformCertificate, CaCertificate]:
    platform, ca = endorsements if len(endorsements) == 2 else (b"", b"")
    try:
        ca_certificate = open_envelope(_envelope(ca), CA_KIND, CaCertificate, [VerifyKey(ROOT_PUBLIC_KEY)])
        issuer = VerifyKey(ca_certificate.public_key)
        certificate = open_envelope(_envelope(platform), PLATFORM_KIND, PlatformCertificate, [issuer])
    except (InputError, VerificationError) as error:
        raise EvidenceError(f"the certificate chain does not verify: {error.message}", reason="chain") from None
    if ca_certificate.subject != CA_SUBJECT:
        raise EvidenceError("the chain's CA is not the platform CA", reason="chain")
    return certificate, ca_certificate


def _require_valid(chain: tuple[PlatformCertificate, CaCertificate], now_ms: int) -> int:
    """Return when the chain runs out."""
    for link in chain:
        if not link.not_before_ms <= now_ms < link.not_after_ms:
            raise EvidenceError("a certificate of the platform is not valid now", reason="validity")
    return min(link.not_after_ms for link in chain)


def _require_same_chip(platform: PlatformCertificate, report: Report) -> None:
    if platform.chip_id != report.chip_id:
        raise EvidenceError("the platform key belongs to another chip", reason="chip_mismatch")


def _require_same_tcb(platform: PlatformCertificate, report: Report) -> None:
    if platform.tcb != report.tcb:
        raise EvidenceError("the platform key belongs to another TCB version", reason="tcb_mismatch")


def _envelope(data: bytes) -> Envelope:
    # The envelope is not signed as a whole; its only encoding leaves no bit of it unaccounted for.
    return decode_signed(data, Envelope, max_bytes=MAX_EVIDENCE_BYTES)


def _require_signed(platform: PlatformCertificate, signature: bytes, data: bytes) -> None:
    try:
        VerifyKey(platform.public_key).verify(signature, data[:SIGNED_BYTES])
    except VerificationError:
        raise EvidenceError("the report is not signed by the platform key", reason="signature") from None


def _tcb(versions: tuple[int, int, int]) -> Tcb:
    pairs = zip(TCB_COMPONENTS, versions, strict=True)
    return Tcb(components=tuple(TcbComponent(name=Label(name), version=version) for name, version in pairs))


def _verified(report: Report, endorsed_until_ms: int) -> VerifiedEvidence:
    return VerifiedEvidence(
        tee=TeeType.SIMULATED,
        measurements=(Measurement(name=Label("source"), digest=MeasurementHex(report.measurement.hex())),),
        report_data=report.report_data,
        debug=report.debug,
        tcb=_tcb(report.tcb),
        memory_encryption=report.memory_encryption,
        chip_id=ChipId(report.chip_id.hex()),
        facts=(Fact(name=Label("host_data"), value=report.host_data.hex()),),
        endorsed_until_ms=endorsed_until_ms,
    )
