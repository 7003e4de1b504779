"""What a genuine report says, under the names that an appraisal policy uses (spec: attestation/snp, 5).

Every evidence has the same facts, so that one policy fits all; what a report has not is "none". What is not repeated
here: the report id, which is new at every launch.
"""

from collections.abc import Sequence
from typing import Final

from aigovtool.attestation.model import (
    Clock,
    Fact,
    Label,
    Measurement,
    MeasurementHex,
    PrintableText,
    Tcb,
    TcbComponent,
    TeeType,
    VerifiedEvidence,
)
from aigovtool.attestation.tee.snp.azure import Container
from aigovtool.attestation.tee.snp.endorsement_key import EndorsementKey
from aigovtool.attestation.tee.snp.product import Product, read_tcb
from aigovtool.attestation.tee.snp.report import PLATFORM_BITS, POLICY_BITS, Report
from aigovtool.ids import ChipId

#: FMC last: only Turin has it.
_COMPONENTS: Final = ("bootloader", "tee", "snp", "microcode", "fmc")


def verified_evidence(
    container: Container,
    report: Report,
    key: EndorsementKey,
    *,
    endorsed_until_ms: int,
    newest_list_ms: int | None,
) -> VerifiedEvidence:
    """Return what `report` says, which every step found genuine; `newest_list_ms` is None where no list came along."""
    facts = {
        "product": str(key.product),
        "signing_key": str(key.kind),
        "csp_id": key.provider or "none",
        "paravisor": container.paravisor,
        "revocation": "not_checked" if newest_list_ms is None else "checked",
        **_report_facts(report),
    }
    return VerifiedEvidence(
        tee=TeeType.SEV_SNP,
        measurements=(Measurement(name=Label("launch"), digest=MeasurementHex(report.measurement.hex())),),
        report_data=report.report_data,
        debug=report.debug,
        tcb=_tcb(report, key.product),
        memory_encryption=True,
        chip_id=None if key.hardware_id is None else ChipId(report.chip_id.hex()),
        facts=tuple(Fact(name=Label(name), value=value) for name, value in facts.items()),
        endorsed_until_ms=endorsed_until_ms,
        endorsed_since_ms=newest_list_ms,
        clock=Clock.MEASURED,  # Secure TSC is a feature of SEV that the launch measurement covers, and no report tells
    )


def _report_facts(report: Report) -> dict[str, PrintableText]:
    provisional = (report.committed_tcb, report.committed_firmware) != (report.current_tcb, report.current_firmware)
    return {
        "vmpl": str(report.vmpl),
        "policy_abi": f"{report.policy >> 8 & 0xFF}.{report.policy & 0xFF}",
        **_bits("policy", report.policy, POLICY_BITS),
        **_bits("platform", report.platform, PLATFORM_BITS),
        "provisional_firmware": _yes(provisional),
        "author_key": _yes(report.author_key_en),
        "host_data": report.host_data.hex(),
        "family_id": report.family_id.hex(),
        "image_id": report.image_id.hex(),
        "id_key_digest": report.id_key_digest.hex(),
        "author_key_digest": report.author_key_digest.hex(),
        "report_id_ma": report.report_id_ma.hex(),
        "launch_mitigations": _vector(report.launch_mitigations),
        "current_mitigations": _vector(report.current_mitigations),
    }


def _tcb(report: Report, product: Product) -> Tcb:
    """Return the reported TCB, which the key was derived for, the TCB at launch, and versions of firmware and guest."""
    reported, launch = read_tcb(report.reported_tcb, product), read_tcb(report.launch_tcb, product)
    major, minor, build = report.committed_firmware
    versions = {
        **{name: reported[name] for name in _COMPONENTS if name in reported},
        **{f"launch_{name}": launch[name] for name in _COMPONENTS if name in launch},
        "firmware": major << 16 | minor << 8 | build,
        "guest_svn": report.guest_svn,
    }
    return Tcb(components=tuple(TcbComponent(name=Label(name), version=version) for name, version in versions.items()))


def _bits(prefix: str, value: int, bits: Sequence[tuple[int, str]]) -> dict[str, PrintableText]:
    return {f"{prefix}_{name}": _yes(value >> bit & 1) for bit, name in bits}


def _yes(value: object) -> PrintableText:
    return "yes" if value else "no"


def _vector(value: int | None) -> PrintableText:
    return "none" if value is None else f"{value:016x}"
