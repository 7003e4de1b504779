"""A whole deployment on a machine with a TPM (swtpm): it serves, an answer comes, and an altered boot gets no key."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.e2e.commandline import aigovtool
from tests.e2e.model import one_digit
from tests.e2e.party_files import consumer_file
from tests.e2e.tpm_machine import lent_by, start
from tests.e2e.world import MODEL, World, wait_for
from tests.enclave.attesters.measured_boot import LOG, extend, measure_boot, policy_for
from tests.enclave.attesters.software_tpm import SoftwareTpm, missing, software_tpm

from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.codec import decode
from aigovtool.protocol import commands

if missing():
    pytest.skip(f"not installed: {missing()}; no deployment with a (software) TPM was tried", allow_module_level=True)

SAID = "boot integrity, no memory encryption"


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[SoftwareTpm]:
    """A TPM into which a boot was measured."""
    (tmp_path / "tpm").mkdir()
    with software_tpm(tmp_path / "tpm") as running:
        measure_boot(running)
        yield running


@pytest.fixture
def world(tmp_path: Path, tpm: SoftwareTpm, digits_model: bytes) -> Iterator[World]:
    """A custodian that believes this TPM's maker, with a policy for exactly this TPM and this boot."""
    with lent_by(tmp_path / "world", tpm, digits_model) as made:
        made.command(commands.SetAppraisalPolicy(policy=policy_for(tpm)))
        yield made


def test_a_policy_for_a_machine_begins_with_what_it_says_of_itself(world: World, tpm: SoftwareTpm) -> None:
    """Evidence is written down on the host, verified and made a policy elsewhere, and the host is admitted by it."""
    log, issuers = world.directory / "event.log", world.directory / "issuers.der"
    roots, evidence, drafted = (world.directory / name for name in ("roots.pem", "evidence.json", "policy.json"))
    log.write_bytes(LOG)
    issuers.write_bytes(tpm.issuer)
    roots.write_bytes(tpm.root.public_bytes(Encoding.PEM))
    tpm_options = ("--tpm", tpm.tcti, "--tpm-event-log", log, "--tpm-issuers", issuers)
    written = aigovtool("enclave", "evidence", "--tee", "tpm", *tpm_options, "-o", evidence)
    assert SAID in written.stderr
    assert "the event log gives 3 of 14 registers: their events are sent" in written.stderr
    seen = json.loads(aigovtool("evidence", "verify", evidence, "--root", roots, "--json").stdout)
    assert (seen["genuine"], seen["says"]["facts"]["attestation_key"]) == (True, "unproven")
    aigovtool("appraisal", "draft", evidence, "--root", roots, "--version", "3", "-o", drafted)
    policy = decode(drafted.read_bytes(), AppraisalPolicy)
    world.command(commands.SetAppraisalPolicy(policy=policy))
    start(world, tpm)
    world.wait_ready()


def test_a_machine_with_a_tpm_serves_until_its_boot_changes(world: World, tpm: SoftwareTpm) -> None:
    """Key, answer, receipt; everybody reads that no memory is encrypted; a boot that differs gets no key again."""
    start(world, tpm)
    world.wait_ready()
    assert SAID in (world.directory / "enclave.log").read_text()
    policy = policy_for(tpm)
    ward, operator = consumer_file(world, policy=policy), world.directory / "custodian" / "operator.json"
    image = world.directory / "digit.npy"
    np.save(image, np.array(json.loads(one_digit())["inputs"][0]["data"], np.float32).reshape(1, 64))
    url, receipt = f"https://127.0.0.1:{world.enclave_port}", world.directory / "receipt.json"
    asked = aigovtool(
        *("infer", MODEL, "--enclave", url, "--credential", ward, "--input", image, "--save-receipt", receipt, "--json")
    )
    answer = json.loads(asked.stdout)
    assert (answer["tee"], answer["simulated"], answer["units_remaining"]) == ("tpm", False, 19)
    assert SAID in asked.stderr
    checked = aigovtool("receipt", "verify", receipt, "--credential", ward)
    assert "tpm: " + SAID in checked.stdout
    assert SAID in checked.stderr
    assert "tpm: " + SAID in aigovtool("enclaves", operator=operator).stdout
    shown = aigovtool("appraisal", "show", operator=operator)
    assert SAID in shown.stdout
    assert SAID in shown.stderr

    world.kill("enclave")
    extend(tpm, 4, b"another boot loader")
    start(world, tpm)
    wait_for(lambda: world.processes["enclave"].poll() is not None, "the enclave gives up")
    assert world.processes["enclave"].returncode != 0
    assert "pcr4" in (world.directory / "enclave.log").read_text()
    kinds = aigovtool("audit", "list", "--json", operator=operator).stdout
    assert kinds.count('"attestation_refused"') == 1
    assert kinds.count('"key_released"') == 1
    assert "was refused an enclave: evidence_unacceptable (measurements)" in kinds
