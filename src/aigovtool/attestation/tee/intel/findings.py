"""What a genuine quote says, by the names that appraisal policies use (spec: attestation/intel, section 4).

Measurements, report data and attributes come from the quote's signed bytes; the platform and its TCB from the PCK
certificate and from what `qvl` made of Intel's collateral.
"""

from typing import Final

from cryptography import x509

from aigovtool.attestation.certificates import Period
from aigovtool.attestation.event_list import EventList
from aigovtool.attestation.model import (
    Advisory,
    Clock,
    Fact,
    Label,
    Measurement,
    MeasurementHex,
    Tcb,
    TcbComponent,
    TeeType,
    VerifiedEvidence,
)
from aigovtool.attestation.tee.intel.authentic import PCK_AUTHORITIES, common_name
from aigovtool.attestation.tee.intel.quote import EnclaveReport, TdReport
from aigovtool.attestation.tee.intel.qvl import Claims
from aigovtool.ids import ChipId

#: Bits of an enclave's attributes ("Intel 64 and IA-32 Architectures SDM", volume 3D, table 35-3).
SGX_FLAGS: Final = {
    0: "init",
    1: "debug",
    2: "mode64bit",
    4: "provision_key",
    5: "einittoken_key",
    6: "cet",
    7: "kss",
    10: "aex_notify",
}
#: Bits of a TD's attributes ("Intel TDX Module ABI Reference Specification", ATTRIBUTES).
TD_FLAGS: Final = {
    0: "debug",
    4: "hgs_plus_prof",
    5: "perf_prof",
    6: "pmt_prof",
    16: "icssd",
    17: "servtd_ext",
    27: "lass",
    28: "sept_ve_disable",
    29: "migratable",
    30: "pks",
    31: "kl",
    62: "tpa",
    63: "perfmon",
}
SGX_DEBUG: Final = 1 << 1
TD_DEBUG: Final = 1 << 0
TD_SEPT_VE_DISABLE: Final = 1 << 28
#: What a TD may have: nothing that profiles or moves it, and no bit whose meaning is not known here.
TD_ALLOWED: Final = 1 << 16 | 1 << 27 | TD_SEPT_VE_DISABLE | 1 << 30 | 1 << 31 | 1 << 62 | 1 << 63


def sgx_verified(body: EnclaveReport, claims: Claims, authority: x509.Certificate, period: Period) -> VerifiedEvidence:
    """Return what a genuine SGX quote says; `authority` is the CA of its PCK certificate."""
    return VerifiedEvidence(
        tee=TeeType.SGX,
        measurements=_measurements({"mr_enclave": body.mr_enclave, "mr_signer": body.mr_signer}),
        report_data=body.report_data,
        debug=False,
        tcb=_tcb(claims, {"isv_svn": body.isv_svn, "config_svn": body.config_svn}),
        memory_encryption=True,
        chip_id=_chip(claims),
        facts=_facts(
            {
                "attributes": body.attributes.hex(),
                "flags": flags(body.attributes, SGX_FLAGS),
                "xfrm": f"{body.xfrm:016x}",
                "misc_select": f"{body.misc_select:08x}",
                "isv_prod_id": str(body.isv_prod_id),
                "isv_ext_prod_id": body.isv_ext_prod_id.hex(),
                "isv_family_id": body.isv_family_id.hex(),
                "config_id": body.config_id.hex(),
                **_platform(claims, authority),
            }
        ),
        endorsed_until_ms=period.until_ms,
        endorsed_since_ms=period.since_ms,
        advisories=_advisories(claims),
    )


def tdx_verified(
    body: TdReport, claims: Claims, authority: x509.Certificate, period: Period, events: EventList
) -> VerifiedEvidence:
    """Return what a genuine TDX quote says; `events` were replayed onto its registers."""
    measured = {
        "mr_td": body.mr_td,
        **{f"rtmr{index}": value for index, value in enumerate(body.rtmrs)},
        "mr_config_id": body.mr_config_id,
        "mr_owner": body.mr_owner,
        "mr_owner_config": body.mr_owner_config,
        "mr_seam": body.mr_seam,
        "mr_signer_seam": body.mr_signer_seam,
        "mr_service_td": body.mr_service_td,
    }
    facts = {
        "td_attributes": body.td_attributes.hex(),
        "td_flags": flags(body.td_attributes, TD_FLAGS),
        "xfam": body.xfam[::-1].hex(),
        "seam_attributes": body.seam_attributes.hex(),
        **({} if body.tee_tcb_svn2 is None else {"tee_tcb_svn2": body.tee_tcb_svn2.hex()}),
        **_platform(claims, authority),
    }
    return VerifiedEvidence(
        tee=TeeType.TDX,
        measurements=_measurements(measured),
        report_data=body.report_data,
        debug=False,
        tcb=_tcb(claims, {f"tee_tcb_svn{index:02d}": svn for index, svn in enumerate(body.tee_tcb_svn)}),
        memory_encryption=True,
        chip_id=_chip(claims),
        facts=_facts(facts),
        endorsed_until_ms=period.until_ms,
        endorsed_since_ms=period.since_ms,
        advisories=_advisories(claims),
        events=events.registers,
        clock=Clock.PLATFORM,  # the TDX module keeps the time stamp counter of a TD from the host
    )


def flags(attributes: bytes, names: dict[int, str]) -> str:
    """Return the names of the bits that are set, in their order; `bit_N` for one without a name, `none` for none."""
    number = int.from_bytes(attributes, "little")
    return " ".join(names.get(bit, f"bit_{bit}") for bit in range(64) if number >> bit & 1) or "none"


def _measurements(values: dict[str, bytes | None]) -> tuple[Measurement, ...]:
    return tuple(
        Measurement(name=Label(name), digest=MeasurementHex(value.hex()))
        for name, value in values.items()
        if value is not None
    )


def _facts(values: dict[str, str]) -> tuple[Fact, ...]:
    return tuple(Fact(name=Label(name), value=value) for name, value in values.items())


def _platform(claims: Claims, authority: x509.Certificate) -> dict[str, str]:
    pck = claims.platform.pck
    return {
        "fmspc": bytes(pck.fmspc).hex(),
        "pce_id": bytes(pck.pce_id).hex(),
        "ca": PCK_AUTHORITIES[common_name(authority)],
        "sgx_type": str(pck.sgx_type),
        "dynamic_platform": pck.dynamic_platform.lower(),
        "cached_keys": pck.cached_keys.lower(),
        "smt_enabled": pck.smt_enabled.lower(),
        "tcb_status": claims.tcb.status,
        "qe_status": claims.qe.tcb_level.tcb_status,
    }


def _tcb(claims: Claims, own: dict[str, int]) -> Tcb:
    components = {
        **own,
        "pce_svn": claims.platform.pck.pce_svn,
        "tcb_evaluation_data_number": claims.tcb.eval_data_number,
        "tcb_level_date": claims.platform.tcb_date_tag,
    }
    return Tcb(
        components=tuple(TcbComponent(name=Label(name), version=version) for name, version in components.items())
    )


def _chip(claims: Claims) -> ChipId:
    return ChipId(bytes(claims.platform.pck.ppid).hex())


def _advisories(claims: Claims) -> tuple[Advisory, ...]:
    """Return those of platform and quoting enclave, each once, in the order of their names."""
    levels = (claims.platform.tcb_level, claims.qe.tcb_level)
    found = {*claims.tcb.advisory_ids, *(name for level in levels for name in level.advisory_ids)}
    return tuple(Advisory(name) for name in sorted(found))
