"""Which enclaves are accepted is an operator's word: no older one, no stranger's, and none with a changed byte counts.

At a running custodian, where the attacker has recorded the orders of earlier days; and where others appraise by a
policy that was signed for them, from the command line.
"""

import json
from collections.abc import Iterator

import msgspec
import pytest
from tests.attacks.deployments import Deployment, deployed
from tests.attacks.host import Host
from tests.e2e.commandline import aigovtool, exported
from tests.observations import Observed

from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.codec import decode, encode
from aigovtool.crypto.sign import Envelope, SigningKey
from aigovtool.protocol import commands
from aigovtool.testing.simulated_tee.attester import SimulatedPlatform, measure
from aigovtool.testing.simulated_tee.wiring import development_policy


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A custodian that serves; nobody has booted."""
    with deployed(tmp_path_factory.mktemp("policies") / "world", budget=1, enclave=False) as made:
        yield made


def version(number: int) -> AppraisalPolicy:
    """The policy that accepts this program, with a version."""
    return msgspec.structs.replace(development_policy(), version=number)


def ordered(world: Deployment, policy: AppraisalPolicy, *signers: SigningKey) -> bytes:
    """An order to put a policy in place, in the operator's name, signed by that one or by somebody else."""
    return world.order(commands.SetAppraisalPolicy(policy=policy), *signers)


def changed(order: bytes, old: bytes, new: bytes) -> bytes:
    """Change what was signed."""
    envelope = decode(order, Envelope)
    assert old in envelope.payload
    return encode(msgspec.structs.replace(envelope, payload=envelope.payload.replace(old, new)))


@pytest.mark.attack(11)
@pytest.mark.fault(24)
def test_no_other_policy_gets_into_a_running_custodian(world: Deployment, observed: Observed) -> None:
    """An older order, another policy of the same version, the borrower's signature, and one changed byte."""
    borrower = Host.of(world.directory / "borrower.json").enrolment
    recorded = ordered(world, version(2))
    assert world.send(recorded).status_code == 200
    assert world.send(ordered(world, version(4))).status_code == 200
    in_force = world.view("/v1/appraisal-policy")
    looser = msgspec.structs.replace(version(4), memory_encryption_required=False)
    good = ordered(world, version(5))
    told = [
        observed.refusal(world.send(order).json())
        for order in (
            ordered(world, version(2)),
            ordered(world, looser),
            ordered(world, version(5), borrower),
            changed(good, b'"memory_encryption_required":true', b'"memory_encryption_required":null'),
            changed(good, b'"version":5', b'"version":6'),
        )
    ]
    assert told == [
        "evidence_unacceptable: policy_rollback",
        "evidence_unacceptable: policy_fork",
        "bad_signature: wrong_key",
        "bad_signature",
        "bad_signature",
    ]
    assert world.send(recorded).status_code == 200  # it was carried out long ago, and is told so again
    assert world.view("/v1/appraisal-policy") == in_force
    lines = exported(world.operator_file, world.directory, "command_refused")
    assert [one["reason"] for one in lines] == ["policy_rollback", "policy_fork"]
    observed.entry("command_refused")


@pytest.mark.attack(11)
@pytest.mark.fault(24)
def test_who_appraises_by_a_signed_policy_takes_no_older_one(world: Deployment, observed: Observed) -> None:
    """From the command line: an older file of the same signer, another signer's, and one with a changed byte."""
    folder, operator = world.directory, world.operator_file
    evidence = folder / "evidence.json"
    evidence.write_bytes(encode(SimulatedPlatform(measure()).report(bytes(64))))
    signer = world.operator_key.public.raw.hex()
    for number in (1, 2):
        (folder / f"{number}.json").write_bytes(encode(version(number)))
        words = ("appraisal", "sign", folder / f"{number}.json", "-o", folder / f"signed{number}.json", "--json")
        assert json.loads(aigovtool(*words, operator=operator).stdout)["key"] == signer
    bent = folder / "bent.json"
    bent.write_bytes(changed((folder / "signed2.json").read_bytes(), b'"version":2', b'"version":3'))

    def verify(name: str, key: str = signer, code: int = 5) -> str:
        words = ("--policy", folder / name, "--policy-signer", key, "--policy-seen", folder / "seen.json", "--json")
        told = json.loads(aigovtool("evidence", "verify", evidence, *words, code=code).stdout)
        return "accepted" if code == 0 else observed.refusal(told["error"])

    assert verify("signed2.json", code=0) == "accepted"
    assert verify("signed1.json") == "evidence_unacceptable: policy_rollback"
    assert verify("bent.json") == "bad_signature"
    assert verify("signed2.json", "00" * 31 + "07") == "bad_signature: wrong_key"
