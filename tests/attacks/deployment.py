"""What attacks on running parties share: a deployment for the tests of a module, its log as outsiders get it, files."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e import model
from tests.e2e.commandline import aigovtool
from tests.e2e.world import BORROWER, CONSUMER, World

from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.codec import encode
from aigovtool.ids import ConsumerId
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.protocol.party import ConsumerFile
from aigovtool.testing.simulated_tee.wiring import development_policy

#: Variables by which somebody might hope to loosen something; none of them means anything.
LOOSE = (
    "AIGOVTOOL_ALLOW_SIMULATED",
    "AIGOVTOOL_CUSTODIAN_INIT_ALLOW_SIMULATED",
    "AIGOVTOOL_DEBUG",
    "AIGOVTOOL_ENCLAVE_SERVE_ALLOW_SIMULATED",
    "AIGOVTOOL_INFER_ALLOW_SIMULATED",
    "AIGOVTOOL_INSECURE",
    "AIGOVTOOL_SIMULATED",
)


@contextmanager
def deployed(directory: Path, *, budget: int, ttl_ms: int = 3_000, enclave: bool = True) -> Iterator[World]:
    """A deployment whose enclave is ready, or not started yet; its processes end with the block."""
    directory.mkdir(mode=0o700, exist_ok=True)
    world = World(directory)
    try:
        world.prepare(model.digits_model(), default_policy(Dial.BALANCED, ttl_ms=ttl_ms))
        world.grant(budget)
        if enclave:
            world.start_enclave()
        yield world
    finally:
        world.close()


def operator_file(world: World) -> Path:
    """The first operator's file."""
    return world.directory / "custodian" / "operator.json"


def exported(operator: Path, folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the entries of one kind from the whole log as it is exported, after it was verified offline."""
    number = len(list(folder.glob("log*.jsonl")))
    out = folder / f"log{number}.jsonl"
    aigovtool("audit", "export", "-o", out, operator=operator)
    aigovtool("audit", "verify", out, operator=operator)
    bodies = [json.loads(line)["entry"]["body"] for line in out.read_text(encoding="utf-8").splitlines()[1:]]
    return [body for body in bodies if body["kind"] == kind]


def consumer_file(
    world: World, name: str, policy: AppraisalPolicy | None = None, *, consumer: ConsumerId = CONSUMER
) -> Path:
    """Write the file of the deployment's consumer, with the development policy or another one."""
    file = ConsumerFile(
        consumer=consumer,
        borrower=BORROWER,
        custodian=world.operator.custodian,
        certificate=world.consumer_certificate,
        key=world.consumer_key.to_secret().reveal(),
        policy=policy or development_policy(),
    )
    path = world.directory / name
    path.touch(mode=0o600)
    path.write_bytes(encode(file))
    return path
