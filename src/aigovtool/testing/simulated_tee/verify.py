"""Is evidence of the simulated TEE genuine? (spec: attestation, section 6.3).

1. The evidence is labelled `simulated` and brings two endorsements: platform certificate, CA certificate.
2. The report is strictly encoded (`abi.parse`).
3. The CA certificate is strictly encoded, signed by the pinned root, and names the platform CA.
4. The platform certificate is strictly encoded and signed by that CA.
5. Both certificates are valid at `now_ms`.
6. The report is signed by the certified platform key.
7. The report speaks of the chip and the TCB version that the platform certificate names.

"Genuine" here means: made by somebody who knows a public sentence. What the caller still owes: the binding of the
report data (`attestation.binding`) and the appraisal (`attestation.appraisal`), which refuses this TEE by default.
"""

from typing import Final

from aigovtool.attestation.appraisal import AcceptedTee, AppraisalPolicy, FactRule, ReferenceSet, ReferenceValue
from aigovtool.attestation.model import (
    ChipId,
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
from aigovtool.codec import decode_signed
from aigovtool.crypto.sign import Envelope, VerifyKey, open_envelope
from aigovtool.errors import EvidenceError, InputError, VerificationError
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


class SimulatedVerifier:
    """Verifies evidence of the simulated TEE; an `aigovtool.attestation.verifier.Verifier`."""

    __slots__ = ()

    def verify(self, evidence: Evidence, now_ms: int) -> VerifiedEvidence:
        """Return what genuine simulated `evidence` says at `now_ms` (steps 1 to 7 of the module).

        Raises:
            EvidenceError: with a reason named after the failed step: `tee_mismatch`, `chain_length`, `report_*`,
                `chain`, `validity`, `signature`, `chip_mismatch`, `tcb_mismatch`.
        """
        # 1. Label and endorsements
        if evidence.tee is not TeeType.SIMULATED:
            raise EvidenceError(f"evidence labelled {evidence.tee} is not simulated", reason="tee_mismatch")
        if len(evidence.endorsements) != 2:
            raise EvidenceError("simulated evidence brings exactly two certificates", reason="chain_length")
        # 2. Strict encoding of the report
        report, signature = parse(evidence.data)
        # 3. to 5. Chain and validity
        platform, endorsed_until_ms = _open_chain(evidence.endorsements[0], evidence.endorsements[1], now_ms)
        # 6. Signature of the report
        _verify_report(platform.public_key, signature, evidence.data[:SIGNED_BYTES])
        # 7. The platform certificate is for this chip and this TCB version
        if platform.chip_id != report.chip_id:
            raise EvidenceError("the platform key belongs to another chip", reason="chip_mismatch")
        if platform.tcb != report.tcb:
            raise EvidenceError("the platform key belongs to another TCB version", reason="tcb_mismatch")
        return _verified(report, endorsed_until_ms)


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


def _open_chain(platform: bytes, ca: bytes, now_ms: int) -> tuple[PlatformCertificate, int]:
    """Return the platform certificate and the time when the chain runs out (steps 3 to 5)."""
    try:
        ca_certificate = open_envelope(_envelope(ca), CA_KIND, CaCertificate, [VerifyKey(ROOT_PUBLIC_KEY)])
        issuer = VerifyKey(ca_certificate.public_key)
        certificate = open_envelope(_envelope(platform), PLATFORM_KIND, PlatformCertificate, [issuer])
    except (InputError, VerificationError) as error:
        raise EvidenceError(f"the certificate chain does not verify: {error.message}", reason="chain") from None
    if ca_certificate.subject != CA_SUBJECT:
        raise EvidenceError("the chain's CA is not the platform CA", reason="chain")
    for link in (ca_certificate, certificate):
        if not link.not_before_ms <= now_ms < link.not_after_ms:
            raise EvidenceError("a certificate of the platform is not valid now", reason="validity")
    return certificate, min(ca_certificate.not_after_ms, certificate.not_after_ms)


def _envelope(data: bytes) -> Envelope:
    # The envelope is not signed as a whole; its only encoding leaves no bit of it unaccounted for.
    return decode_signed(data, Envelope, max_bytes=MAX_EVIDENCE_BYTES)


def _verify_report(public_key: bytes, signature: bytes, signed: bytes) -> None:
    try:
        VerifyKey(public_key).verify(signature, signed)
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
