"""`aigovtool reference-values add --value`: measurements by the names that their platform has."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.attestation.tee.intel.maker import SGX, TDX15
from tests.attestation.tee.intel.test_verify import genuine
from tests.attestation.tee.snp import maker as snp

from aigovtool.attestation.model import MeasurementHex, TeeType
from aigovtool.cli.app import app
from aigovtool.cli.evidence.verb import moment_ms
from aigovtool.cli.reference.names import NAMES
from aigovtool.testing.simulated_tee.attester import SimulatedPlatform
from aigovtool.testing.simulated_tee.verify import SimulatedVerifier

FIRST, MOMENT_MS = MeasurementHex("5a" * 48), moment_ms("2026-11-26T00:00:00Z")


def run(folder: Path, *arguments: str) -> Result:
    words = [str(folder / word[1:]) if word.startswith("@") else word for word in arguments]
    return CliRunner().invoke(app, words, env={"NO_COLOR": "1"}, prog_name="aigovtool")


def test_a_name_that_the_platform_does_not_have_is_told_with_those_that_it_has(tmp_path: Path) -> None:
    """A policy with a misspelt name would refuse every enclave; and what a digest is, is said in words."""
    for tee, value, words in (
        ("sev-snp", f"lanch={FIRST}", "name one of launch"),
        ("tdx", f"rtmr4={FIRST}", "rtmr0, rtmr1, rtmr2, rtmr3, mr_config_id"),
        ("nitro", f"pcr32={FIRST}", "pcr0 to pcr31"),
        ("tpm", f"pcr24={FIRST}", "pcr0 to pcr23"),
        ("sgx", "mr_signer=xyz", "--value mr_signer: Expected 64, 96 or 128 lower-case hexadecimal digits"),
    ):
        result = run(tmp_path, "reference-values", "add", "x", "--tee", tee, "--origin", "o", "--value", value)
        assert (result.exit_code, words in result.stderr) == (3, True), result.stderr
    library = ("--library", "@library.json")
    shown = run(
        tmp_path, "reference-values", "add", "x", "--tee", "sgx", "--origin", "o", *library,
        "--value", f"mr_enclave={'5A' * 32}", "--value", f"mr_signer={'5b' * 32}",
    )  # fmt: skip
    assert f"mr_enclave  {'5a' * 32}" in shown.stdout
    reason = ("reference-values", "retire", "x", "--tee", "sgx", *library, "--reason", "a\nb")
    assert "Expected 1 to 200 printable ASCII characters" in run(tmp_path, *reason).stderr


def test_the_names_of_measurements_are_those_of_the_verifiers() -> None:
    """Of the platforms whose evidence is made here; of the others the public evidence shows them."""
    assert {tee.value for tee in TeeType} == NAMES.keys()
    for verified in (
        snp.examine(snp.bundle()).genuine(),
        *(genuine(recipe) for recipe in (SGX, TDX15)),
        SimulatedVerifier().examine(SimulatedPlatform(FIRST).report(bytes(64)), MOMENT_MS).genuine(),
    ):
        assert {str(part.name) for part in verified.measurements} == set(NAMES[verified.tee.value])


@pytest.mark.parametrize("option", [("--nonce", "00"), ("--event-log", "x"), ("--root", "x"), ("--endorsements", "x")])
def test_options_for_evidence_without_evidence_are_refused(tmp_path: Path, option: tuple[str, str]) -> None:
    """Whoever gives them believes that something is judged."""
    words = ("reference-values", "add", "x", "--tee", "sgx", "--origin", "o", "--value", f"mr_signer={'5b' * 32}")
    result = run(tmp_path, *words, *option, "--library", "@library.json")
    assert (result.exit_code, f"{option[0]} without evidence" in result.stderr) == (2, True), result.output
    assert not (tmp_path / "library.json").exists()
