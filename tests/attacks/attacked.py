"""A deployment that the tests of a module attack one after another, and what is measured about its processes."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assurance.models.sealing import seal_model
from onnx import ModelProto
from tests.e2e import model
from tests.e2e.world import BORROWER, MODEL, Answer, Connection, World

from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.wrap import wrap
from aigovtool.crypto.x509 import from_pem
from aigovtool.ids import ConsumerId, ModelId, digest_of
from aigovtool.ledger.budget import BudgetLimit, Scope, Window
from aigovtool.ledger.entry import PartyRole
from aigovtool.ledger.policy import Dial, ServingPolicy, default_policy
from aigovtool.ledger.units import Dimension
from aigovtool.protocol import commands
from aigovtool.protocol.release import deposit_context
from aigovtool.transport.tls import unverified_context_for_attestation_only

_YEAR_MS = 365 * 86_400_000


@contextmanager
def attacked(folder: Path, *, budget: int, lent: bytes | None = None, ttl_ms: int = 3_000) -> Iterator[World]:
    """Yield a deployment that lends a model, the digits unless another is given; its enclave is ready."""
    world = World(folder)
    try:
        world.prepare(lent or model.digits_model(), default_policy(Dial.BALANCED, ttl_ms=ttl_ms))
        if budget:
            world.grant(budget)
        world.start_enclave()
        yield world
    finally:
        world.close()


class HostileWorld(World):
    """A deployment whose custodian seals anything, without a look at it: the product's own sealer need not be used."""

    def _add_model(self, model: bytes, policy: ServingPolicy) -> None:
        self.lend(MODEL, model, policy)

    def lend(self, name: ModelId, model: bytes, policy: ServingPolicy) -> Path:
        """Lend a model to the borrower, and return where the custodian keeps its package."""
        made_of = ModelProto.FromString(model)
        operator = SigningKey.from_secret(Secret(self.operator.key))
        made = seal_model(self.directory / "model.aigov", model, made_of, sealer=operator, name=name)
        content = made.path.read_bytes()
        package = digest_of(content)
        with self.custodian_client() as client:
            response = client.put(f"/v1/packages/{package}", content=content)
        assert response.status_code == 200, response.text
        context = deposit_context(self.custodian_id, made.digest)
        self.command(
            commands.AddModel(
                model=name,
                manifest=made.digest,
                package=package,
                wrapped_key=wrap(made.key.secret, self.operator.keystore, context),
                policy=policy,
                borrowers=[BORROWER],
            )
        )
        return self.directory / "custodian" / "packages" / f"{package.removeprefix('sha256:')}.aigov"


@dataclass
class Consumer:
    """Another consumer of a deployment's borrower."""

    world: World
    name: str
    key: SigningKey = field(default_factory=SigningKey.generate)
    certificate: str = ""

    def __post_init__(self) -> None:
        added = self.world.command(
            commands.AddParty(
                role=PartyRole.CONSUMER,
                name=self.name,
                key=self.key.public.raw,
                borrower=BORROWER,
                valid_for_ms=_YEAR_MS,
            )
        )
        self.certificate = added.certificate or ""

    def connect(self, port: int | None = None) -> Connection:
        """Open a connection to the enclave, or to another server."""
        context = unverified_context_for_attestation_only(credential=from_pem(self.certificate.encode()), key=self.key)
        connection = Connection(port or self.world.enclave_port, context)
        self.world.connections.append(connection)
        return connection

    def limit(self, units: int) -> None:
        """Let it have no more than so many inferences."""
        scope = Scope(model=MODEL, borrower=BORROWER, consumer=ConsumerId(self.name))
        limit = BudgetLimit(scope=scope, dimension=Dimension.INFERENCES, window=Window.LIFETIME, limit=units)
        self.world.command(commands.SetBudget(limit=limit))


def resident_mib(*pids: int) -> float:
    """Return how much memory processes hold now, together."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        (line,) = [one for one in lines if one.startswith("VmRSS:")]
        total += int(line.split()[1])
    return total / 1024


def peak_mib(pid: int) -> float:
    """Return the most memory that a process has held since `forget_peak`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [one for one in lines if one.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def forget_peak(pid: int) -> None:
    """Begin to measure the peak anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def refusal_of(answer: Answer, *statuses: int) -> dict[str, Any]:
    """Return the problem document of a refusal, which has one of these statuses and is one of ours."""
    assert answer.status in (statuses or range(400, 500)), (answer.status, answer.body[:300])
    assert answer.headers["content-type"] == "application/problem+json", answer.headers
    problem = answer.json()
    assert problem["status"] == answer.status
    assert problem["code"]
    assert problem["error"]
    return problem


def new_id() -> str:
    """Return an identifier that was never used."""
    return secrets.token_hex(16)


def now_ms() -> int:
    """Return the time."""
    return time.time_ns() // 1_000_000
