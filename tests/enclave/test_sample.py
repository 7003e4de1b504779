"""Evidence for whoever makes a policy: genuine, new each time, and of no use to be admitted with."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.attestation.tee.snp import maker as snp

from aigovtool.attestation.binding import Binding
from aigovtool.attestation.model import Evidence, MeasurementHex, TeeType
from aigovtool.cli.app import app
from aigovtool.codec import decode
from aigovtool.enclave.sample import sample_evidence
from aigovtool.testing.simulated_tee.attester import SimulatedPlatform


class Guest:
    """An attester of SEV-SNP that shows what it was asked to cover."""

    tee = TeeType.SEV_SNP

    def __init__(self) -> None:
        self.asked: list[Binding] = []

    def attest(self, claims: Binding) -> Evidence:
        self.asked.append(claims)
        return snp.bundle(snp.report(report_data=claims.report_data()))


def test_a_sample_is_genuine_and_bound_to_nobody() -> None:
    """Attack: a sample that is handed on as if an enclave had made it. Its keys are nobody's, its role is no boot."""
    guest = Guest()
    first, second = sample_evidence(guest), sample_evidence(guest)
    assert snp.examine(first).verified is not None
    assert first != second
    for claims in guest.asked:
        assert claims.role == "session"
        assert {bytes(claims.identity_key), bytes(claims.hpke_key), bytes(claims.tls_spki)} == {bytes(32)}
    assert len({claims.nonce for claims in guest.asked}) == 2
    assert sample_evidence(SimulatedPlatform(MeasurementHex("5a" * 48))).tee is TeeType.SIMULATED


def test_the_command_line_writes_it_to_a_file_once(tmp_path: Path) -> None:
    """In the form that the other verbs read; the simulated TEE is asked for by name, twice."""
    out = tmp_path / "evidence.json"
    words = ["enclave", "evidence", "--tee", "simulated", "-o", str(out), "--json"]
    refused = CliRunner().invoke(app, words)
    assert (refused.exit_code, json.loads(refused.stdout)["error"]["reason"]) == (2, "simulated_refused")
    made = CliRunner().invoke(app, [*words, "--allow-simulated"])
    assert made.exit_code == 0, made.output
    assert "SIMULATED TEE" in made.stderr
    assert json.loads(made.stdout)["tee"] == decode(out.read_bytes(), Evidence).tee.value == "simulated"
    again = CliRunner().invoke(app, [*words, "--allow-simulated"])
    assert json.loads(again.stdout)["error"]["reason"] == "unwritable_file"


@pytest.mark.skipif(Path("/dev/nsm").exists() or Path("/dev/attestation").exists(), reason="a TEE is here")
def test_a_host_without_a_tee_says_what_was_looked_for(tmp_path: Path) -> None:
    """Nothing is written."""
    out = tmp_path / "evidence.json"
    result = CliRunner().invoke(app, ["enclave", "evidence", "-o", str(out), "--json"])
    assert json.loads(result.stdout)["error"]["reason"] == "attester_none_found"
    assert not out.exists()


@pytest.mark.parametrize("verb", [("evidence", "-o", "x.json"), ("serve", "--borrower-file", "x", "--model", "m")])
@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--tpm-bank", "sha256"), "--tpm-bank without --tee tpm"),
        (("--tee", "tdx", "--tpm", "/dev/tpm0", "--tpm-event-log", "none"), "--tpm and --tpm-event-log without"),
        (("--tee", "sev-snp", "--allow-simulated"), "--allow-simulated without --tee simulated"),
        (("--tee", "tpm", "--allow-simulated"), "--allow-simulated without --tee simulated"),
    ],
)
def test_options_of_another_tee_are_refused(verb: tuple[str, ...], options: tuple[str, ...], word: str) -> None:
    """Whoever gives them believes that they count."""
    result = CliRunner().invoke(app, ["enclave", *verb, *options])
    assert (result.exit_code, word in result.stderr) == (2, True), result.output


def test_a_tpm_that_is_not_here_is_told_as_every_other_platform(tmp_path: Path) -> None:
    """With its reason and exit code, and without what its library would print; what the user wants printed is."""
    out = tmp_path / "evidence.json"
    words = ["enclave", "evidence", "--tee", "tpm", "--tpm", str(tmp_path / "tpm0"), "-o", str(out)]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert (result.exit_code, json.loads(result.stdout)["error"]["reason"]) == (2, "attester_absent")
    assert f"there is no TPM at {tmp_path / 'tpm0'}" in result.stdout


@pytest.mark.skipif(find_spec("tpm2_pytss") is None, reason="tpm2-pytss is not installed: its log was not looked at")
@pytest.mark.parametrize("wanted", [None, "all+error"])
def test_the_library_of_tpms_prints_nothing_unless_it_is_wanted(tmp_path: Path, wanted: str | None) -> None:
    """Its lines name functions of C; what failed is told by our own error."""
    words = ["enclave", "evidence", "--tee", "tpm", "--tpm", "swtpm:host=127.0.0.1,port=1", "-o", str(tmp_path / "x")]
    kept = {name: value for name, value in os.environ.items() if name != "TSS2_LOG"}
    more = {} if wanted is None else {"TSS2_LOG": wanted}
    done = subprocess.run(
        [sys.executable, "-m", "aigovtool", *words], capture_output=True, check=False, text=True, env=kept | more
    )
    assert done.returncode == 5
    assert "attester_tpm" in done.stderr
    assert ("ERROR:tcti" in done.stderr) is (wanted is not None)
