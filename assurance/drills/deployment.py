"""A deployment of real processes in a folder of its own, gone when the drill ends."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.cluster import Cluster
from tests.e2e.model import digits_model
from tests.e2e.world import World
from tests.postgres_server import PostgresServer

from aigovtool.ledger.policy import Dial, default_policy

#: What a figure about real processes is about: all of the product, and the drill's own code.
COVERS = (
    "src/aigovtool",
    "tests/product_process.py",
    "tests/e2e/model.py",
    "tests/e2e/world.py",
    "assurance/drills",
)
#: And where the ledger is on a PostgreSQL server, with several custodians.
CLUSTER_COVERS = (*COVERS, "tests/e2e/cluster.py", "tests/postgres_server.py")


@contextmanager
def deployment(
    *, budget: int, ttl_ms: int = 3_000, dial: Dial = Dial.BALANCED, ledger: str | None = None
) -> Iterator[World]:
    """Yield a custodian, an enclave and a consumer with a budget; the enclave is ready."""
    with tempfile.TemporaryDirectory(prefix="aigovtool-drill-") as folder:
        world = World(Path(folder), ledger=ledger)
        try:
            world.prepare(digits_model(), default_policy(dial, ttl_ms=ttl_ms))
            world.grant(budget)
            world.start_enclave()
            yield world
        finally:
            world.close()


@dataclass
class Clustered:
    """Several custodians with an enclave each, and the server that holds their ledger."""

    cluster: Cluster
    server: PostgresServer

    @property
    def world(self) -> World:
        """The deployment's first custodian and enclave, its operator and its consumer."""
        return self.cluster.world

    def end_enclaves(self) -> None:
        """Stop the enclaves in good order: each closes every lease that it still has."""
        names = ["enclave", *(f"enclave{number}" for number in range(1, self.cluster.replicas))]
        for name in names:
            self.world.kill(name, 15)
        for name in names:
            self.world.processes[name].wait(60)


@contextmanager
def clustered(*, replicas: int, budget: int, ttl_ms: int) -> Iterator[Clustered]:
    """Yield so many custodians on one PostgreSQL server of their own, each with an enclave; all are ready."""
    with (
        PostgresServer() as server,
        deployment(budget=budget, ttl_ms=ttl_ms, ledger=server.database()) as world,
    ):
        cluster = Cluster(world, replicas)
        cluster.start()
        yield Clustered(cluster, server)
