"""What `--tee auto` finds, what it says, and what it never does."""

import errno
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.enclave.attesters.stand_ins import GRAMINE, Gramine, TsmKernel, refused

from aigovtool.attestation.model import TeeType
from aigovtool.enclave.attesters.configfs_tsm import ConfigfsTsmAttester
from aigovtool.enclave.attesters.detect import Finding, Places, attester_for, choose, look
from aigovtool.enclave.attesters.gramine import GramineAttester
from aigovtool.enclave.attesters.nsm import NsmAttester
from aigovtool.errors import ConfigurationError


@dataclass
class Machine:
    """A machine with any of the platforms."""

    tsm: TsmKernel = field(default_factory=lambda: TsmKernel(mounted=False))
    gramine: Gramine | None = None
    devices: set[str] = field(default_factory=set)

    def exists(self, path: Path) -> bool:
        return str(path) in self.devices

    def make(self, path: Path) -> None:
        self.tsm.make(path)

    def remove(self, path: Path) -> None:
        self.tsm.remove(path)

    def read(self, path: Path, most: int) -> bytes:
        if path.parent != GRAMINE:
            return self.tsm.read(path, most)
        if self.gramine is None:
            raise refused(errno.ENOENT, path)
        return self.gramine.read(path, most)

    def write(self, path: Path, data: bytes) -> None:
        raise AssertionError(f"looking writes nothing, but {len(data)} bytes went to {path}")


def reason(machine: Machine) -> tuple[str | None, str]:
    with pytest.raises(ConfigurationError) as caught:
        choose(look(attributes=machine))
    return caught.value.reason, caught.value.message


@pytest.mark.parametrize(
    ("machine", "tee"),
    [
        pytest.param(Machine(tsm=TsmKernel()), TeeType.SEV_SNP, id="SEV-SNP"),
        pytest.param(Machine(tsm=TsmKernel(provider="tdx_guest")), TeeType.TDX, id="TDX"),
        pytest.param(Machine(gramine=Gramine()), TeeType.SGX, id="SGX"),
        pytest.param(Machine(devices={"/dev/nsm"}), TeeType.NITRO, id="Nitro"),
        pytest.param(Machine(tsm=TsmKernel(), devices={"/dev/tpmrm0"}), TeeType.SEV_SNP, id="SEV-SNP with a TPM"),
    ],
)
def test_the_one_platform_is_chosen(machine: Machine, tee: TeeType) -> None:
    """Each platform by its own sign; a TPM beside it changes nothing. No directory stays."""
    findings = look(attributes=machine)
    assert choose(findings) is tee
    assert [one.tee for one in findings] == [TeeType.SEV_SNP, TeeType.TDX, TeeType.SGX, TeeType.NITRO, TeeType.TPM]
    assert machine.tsm.entries == {}


def test_nothing_found_says_what_was_looked_for() -> None:
    """An ordinary machine is never a simulated TEE by accident."""
    why, message = reason(Machine())
    assert why == "attester_none_found"
    for word in ("/sys/kernel/config/tsm/report", "/dev/attestation", "/dev/nsm", "/dev/tpmrm0", "/dev/sev-guest"):
        assert word in message
    assert "simulated" not in message


def test_a_tpm_alone_is_not_chosen() -> None:
    """It protects no memory; who wants it says so."""
    why, message = reason(Machine(devices={"/dev/tpmrm0"}))
    assert why == "attester_none_found"
    assert "only if it is named" in message
    assert Finding(TeeType.TPM, usable=True, detail=look(attributes=Machine(devices={"/dev/tpmrm0"}))[-1].detail)


def test_several_platforms_are_not_chosen_between() -> None:
    """Which of two is meant is not for us to guess."""
    why, message = reason(Machine(tsm=TsmKernel(), devices={"/dev/nsm"}))
    assert why == "attester_ambiguous"
    assert "sev-snp, nitro" in message
    assert reason(Machine(gramine=Gramine(), tsm=TsmKernel(provider="tdx_guest")))[0] == "attester_ambiguous"


@pytest.mark.parametrize(
    ("machine", "word"),
    [
        pytest.param(Machine(devices={"/dev/sev-guest"}), "sev-guest is there", id="configfs not mounted"),
        pytest.param(
            Machine(tsm=TsmKernel(provider=None), devices={"/dev/tdx_guest"}), "tdx_guest is there", id="no provider"
        ),
        pytest.param(Machine(tsm=TsmKernel(provider="arm_cca_guest")), "'arm_cca_guest'", id="another provider"),
        pytest.param(Machine(gramine=Gramine(kind="none")), "'none'", id="Gramine without DCAP"),
    ],
)
def test_a_platform_that_cannot_be_used_is_explained(machine: Machine, word: str) -> None:
    """What is there but does not work is the most likely mistake."""
    why, message = reason(machine)
    assert why == "attester_none_found"
    assert word in message


def test_the_real_machine_can_be_looked_at(tmp_path: Path) -> None:
    """Without stand-ins: real files in places of the test's choice, and those of this machine, raise nothing."""
    (tmp_path / "gramine").mkdir()
    (tmp_path / "gramine" / "attestation_type").write_text("dcap\n")
    nowhere = tmp_path / "nowhere"
    places = Places(
        reports=nowhere, sev_guest=nowhere, tdx_guest=nowhere, gramine=tmp_path / "gramine", nsm=nowhere, tpm=nowhere
    )
    assert choose(look(places)) is TeeType.SGX
    assert len(look()) == 5


def test_each_platform_has_its_attester() -> None:
    """Those that need settings, and the simulated one, are not made from a name."""
    assert isinstance(attester_for(TeeType.SEV_SNP), ConfigfsTsmAttester)
    assert attester_for(TeeType.TDX).tee is TeeType.TDX
    assert isinstance(attester_for(TeeType.SGX), GramineAttester)
    assert isinstance(attester_for(TeeType.NITRO), NsmAttester)
    for tee in (TeeType.TPM, TeeType.SIMULATED):
        with pytest.raises(ConfigurationError) as caught:
            attester_for(tee)
        assert caught.value.reason == "attester_configuration"
