"""Evidence for whoever makes a policy: genuine, new each time, and of no use to be admitted with."""

import json
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
