"""An operator's laptop is stolen: what the file is worth alone, and from when it is worth nothing."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.attacks.deployments import Deployment, deployed
from tests.e2e.commandline import aigovtool
from tests.observations import Observed

from aigovtool.codec import decode, encode
from aigovtool.protocol.party import OperatorFile

WORDS = "pelican under seven bridges"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A custodian with one operator; no enclave is needed."""
    with deployed(tmp_path_factory.mktemp("stolen"), budget=0, enclave=False) as made:
        yield made


def private(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def problem(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    found: dict[str, str] = json.loads(done.stdout)["error"]
    return found


@pytest.mark.attack(42)
def test_a_protected_file_alone_orders_nothing(
    world: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, observed: Observed
) -> None:
    """Without the passphrase, and with a wrong one; with the right one it is an operator's file as before."""
    file = private(tmp_path / "alice.json", encode(world.operator))
    words = private(tmp_path / "words", WORDS.encode())
    monkeypatch.setenv("AIGOVTOOL_PASSPHRASE_FILE", str(words))
    aigovtool("operator", "protect", file)
    assert world.operator.key not in file.read_bytes()
    aigovtool("operator", "list", operator=file)
    before = len(world.log_entries())
    private(words, b"something else altogether")
    wrong = aigovtool("stop", "--all", "--json", operator=file, code=2)
    observed.refusal(problem(wrong))
    monkeypatch.delenv("AIGOVTOOL_PASSPHRASE_FILE")
    alone = aigovtool("stop", "--all", "--json", operator=file, code=2)
    observed.refusal(problem(alone))
    assert len(world.log_entries()) == before


@pytest.mark.attack(42)
def test_a_revoked_operator_orders_nothing_from_that_moment(
    world: Deployment, tmp_path: Path, observed: Observed
) -> None:
    """Also on a connection that the thief has open already; each attempt is a line in the log."""
    alice, bob = private(tmp_path / "alice.json", encode(world.operator)), tmp_path / "bob.json"
    aigovtool("operator", "add", "bob", "-o", bob, operator=alice)
    with world.custodian_client(operator=decode(bob.read_bytes(), OperatorFile)) as stolen:
        assert stolen.get("/v1/parties").status_code == 200
        aigovtool("operator", "revoke", "bob", "--yes", operator=alice)
        refused: list[httpx.Response] = [stolen.get("/v1/parties"), stolen.get("/v1/budgets")]
    assert [(one.status_code, one.json()["reason"]) for one in refused] == [(403, "not_enrolled")] * 2
    observed.refusal(refused[0].json())
    anew = aigovtool("stop", "--all", "--json", operator=bob, code=4)
    assert problem(anew)["reason"] == "not_enrolled"
    told = [json.loads(entry)["body"] for entry in world.log_entries()]
    assert "bob" in {body.get("name") for body in told if body["kind"] == "refused"}
    assert not any(body["kind"] == "stopped" for body in told)
    observed.entry("refused")
