"""Which platform is this? What `--tee auto` looks for, and what it says (spec: attestation/attesters, 5).

It is for convenience, and proves nothing: a host can show any device. It never falls back to the simulated TEE, and
chooses no TPM: beside a platform that protects memory a TPM is the weaker one, and without one it is a decision.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aigovtool.attestation.attester import Attester
from aigovtool.attestation.model import TeeType
from aigovtool.enclave.attesters.attributes import Attributes, KernelAttributes
from aigovtool.enclave.attesters.configfs_tsm import PROVIDERS, REPORTS, ConfigfsTsmAttester, probe
from aigovtool.enclave.attesters.gramine import DCAP, DIRECTORY, GramineAttester, attestation_type
from aigovtool.enclave.attesters.nsm import DEVICE, NsmAttester
from aigovtool.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where platforms show themselves."""

    reports: Path = REPORTS
    sev_guest: Path = Path("/dev/sev-guest")
    tdx_guest: Path = Path("/dev/tdx_guest")
    gramine: Path = DIRECTORY
    nsm: Path = DEVICE
    tpm: Path = Path("/dev/tpmrm0")


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether one platform is there to be used, and in words why so."""

    tee: TeeType
    usable: bool
    detail: str


def look(places: Places | None = None, attributes: Attributes | None = None) -> tuple[Finding, ...]:
    """Return a finding for each platform, always in the same order: SEV-SNP, TDX, SGX, Nitro, TPM."""
    where, files = places or Places(), attributes or KernelAttributes()
    return (*_confidential_guest(where, files), _gramine(where, files), _nitro(where, files), _tpm(where, files))


def choose(findings: Sequence[Finding]) -> TeeType:
    """Return the one usable platform that protects memory.

    Raises:
        ConfigurationError: `attester_none_found`, `attester_ambiguous`; the message says what was looked for.
    """
    usable = [finding.tee for finding in findings if finding.usable and finding.tee is not TeeType.TPM]
    if len(usable) == 1:
        return usable[0]
    seen = "; ".join(f"{finding.tee}: {finding.detail}" for finding in findings)
    if usable:
        raise ConfigurationError(
            f"several platforms are here: {', '.join(usable)}. Found: {seen}",
            reason="attester_ambiguous",
            fix=f"name the one to use: --tee {usable[0]}",
        )
    raise ConfigurationError(
        f"no platform that protects memory was found. Looked for: {seen}",
        reason="attester_none_found",
        fix="run this in a guest of such a platform, or name another with --tee",
    )


def attester_for(tee: TeeType) -> Attester:
    """Return the attester of a platform that needs no further settings.

    Raises:
        ConfigurationError: `attester_configuration` for others: a TPM needs settings, the simulated TEE is asked for by
            its own entry.
    """
    match tee:
        case TeeType.SEV_SNP | TeeType.TDX:
            return ConfigfsTsmAttester(tee)
        case TeeType.SGX:
            return GramineAttester()
        case TeeType.NITRO:
            return NsmAttester()
        case TeeType.TPM | TeeType.SIMULATED:
            raise ConfigurationError(f"{tee} is not set up by its name alone", reason="attester_configuration")


_DRIVERS: Final = {TeeType.SEV_SNP: "sev-guest", TeeType.TDX: "tdx-guest"}


def _confidential_guest(places: Places, attributes: Attributes) -> tuple[Finding, ...]:
    devices = {TeeType.SEV_SNP: places.sev_guest, TeeType.TDX: places.tdx_guest}
    try:
        provider = probe(attributes, places.reports)
    except OSError as error:
        why = f"{places.reports} gives no report ({error.strerror or 'error'})"
        return tuple(
            Finding(tee, usable=False, detail=f"{why}{_hint(tee, device, attributes)}")
            for tee, device in devices.items()
        )
    said = f"the provider of {places.reports} is {provider!r}"
    return tuple(Finding(tee, usable=PROVIDERS.get(provider) is tee, detail=said) for tee in devices)


def _hint(tee: TeeType, device: Path, attributes: Attributes) -> str:
    if not attributes.exists(device):
        return f", and there is no {device}"
    driver = _DRIVERS[tee]
    return f"; {device} is there, so this is such a guest: mount configfs, be root, have Linux 6.7 with {driver}"


def _gramine(places: Places, attributes: Attributes) -> Finding:
    try:
        kind = attestation_type(attributes, places.gramine)
    except OSError as error:
        return Finding(TeeType.SGX, usable=False, detail=f"{places.gramine}: {error.strerror or 'error'}")
    return Finding(TeeType.SGX, usable=kind == DCAP, detail=f"Gramine with attestation type {kind!r}")


def _nitro(places: Places, attributes: Attributes) -> Finding:
    there = attributes.exists(places.nsm)
    return Finding(TeeType.NITRO, usable=there, detail=f"{places.nsm} is {'there' if there else 'not there'}")


def _tpm(places: Places, attributes: Attributes) -> Finding:
    there = attributes.exists(places.tpm)
    said = "there; it protects no memory, and is used only if it is named" if there else "not there"
    return Finding(TeeType.TPM, usable=there, detail=f"{places.tpm} is {said}")
