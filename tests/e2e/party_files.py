"""Files of parties, as the product writes them."""

from pathlib import Path

from tests.e2e.world import BORROWER, CONSUMER, World

from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.codec import encode
from aigovtool.ids import ConsumerId
from aigovtool.protocol.party import BorrowerFile, ConsumerFile, OperatorFile
from aigovtool.testing.simulated_tee.wiring import development_policy


def private(path: Path, content: BorrowerFile | ConsumerFile | OperatorFile) -> Path:
    """Write a file that nobody else may read."""
    path.touch(mode=0o600)
    path.write_bytes(encode(content))
    return path


def consumer_file(
    world: World,
    name: str = "ward7.json",
    policy: AppraisalPolicy | None = None,
    *,
    consumer: ConsumerId = CONSUMER,
) -> Path:
    """Write the file of a deployment's consumer, with the development policy or another one."""
    content = ConsumerFile(
        consumer=consumer,
        borrower=BORROWER,
        custodian=world.operator.custodian,
        certificate=world.consumer_certificate,
        key=world.consumer_key.to_secret().reveal(),
        policy=policy or development_policy(),
    )
    return private(world.directory / name, content)
