"""Two custodians on one ledger, each with its own copy of the keys: a rotation is copied from the one to the other."""

import json
import shutil
import time
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from tests.attacks.rotation import LOGGED
from tests.e2e.cluster import Cluster
from tests.e2e.commandline import aigovtool
from tests.e2e.world import MakeWorld, World, wait_for
from tests.observations import Observed
from tests.postgres_server import PostgresServer

from aigovtool.codec import decode
from aigovtool.ledger.entry import Entry, KeySetPublished

pytestmark = [pytest.mark.fault(28)]
ROLES = ("commands", "log")


class Replicas(Cluster):
    """A cluster whose second custodian has a directory of its own, as on another machine."""

    def start_custodian(self, number: int) -> None:
        """Start the second custodian from its copy."""
        world = self.world
        self.copy_keys()
        for name in ("custodian.json", "packages"):
            source, copy = world.directory / "custodian" / name, world.directory / "replica" / name
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, copy)
        code = LOGGED + world.custodian_code
        world.spawn(f"custodian{number}", code, str(world.directory / "replica"), str(self.custodian_ports[number]))
        with world.custodian_client(self.custodian_ports[number]) as client:
            wait_for(lambda: world.answers(client), f"custodian {number} answers")

    def copy_keys(self) -> None:
        """Make the second custodian's keys what those of the first are, file by file and without what is gone there."""
        ours, theirs = (self.world.directory / name / "keys" for name in ("custodian", "replica"))
        theirs.mkdir(mode=0o700, parents=True, exist_ok=True)
        theirs.parent.chmod(0o700)
        names = {path.name for path in ours.iterdir()}
        for path in ours.iterdir():
            shutil.copy2(path, theirs / f".{path.name}.copied")
            (theirs / f".{path.name}.copied").replace(theirs / path.name)
        for path in theirs.iterdir():
            if path.name not in names:
                path.unlink()

    def keys(self, verb: str, *words: object) -> dict[str, list[dict[str, str]]]:
        """Run a verb of `custodian keys` on the first custodian's directory, and copy what it made to the second."""
        done = aigovtool("custodian", "keys", verb, self.world.directory / "custodian", *words, "--json")
        self.copy_keys()
        found: dict[str, list[dict[str, str]]] = json.loads(done.stdout)
        return found

    def versions(self) -> list[int]:
        """Return the key sets that the custodians show."""
        found = []
        for port in self.custodian_ports:
            with self.world.custodian_client(port) as client:
                payload = json.loads(client.get("/v1/key-set").content)["payload"]
                found.append(int(json.loads(b64decode(payload))["version"]))
        return found


def test_keys_of_two_custodians_on_one_ledger_are_rotated_and_no_request_fails(
    postgres_server: PostgresServer, make_world: MakeWorld, body: bytes, observed: Observed
) -> None:
    """Announced on both, used on both, revoked on both; the ledger has each key set once."""

    def on_postgres(world: World) -> None:
        world.ledger = postgres_server.database()

    cluster = Replicas(make_world(budget=100_000, ttl_ms=6_000, prepare=on_postgres), 2)
    cluster.start()
    over, answered, failures = Event(), [0], list[str]()

    def traffic(port: int) -> None:
        connection = cluster.world.connect(port)
        while not over.is_set():
            answer = connection.infer(body)
            answered[0] += 1
            if answer.status != 200:
                failures.append(f"{answer.status} {answer.body[:200]!r}")
            time.sleep(0.05)

    def shown(version: int) -> None:
        wait_for(lambda: cluster.versions() == [version, version], f"both custodians show key set {version}")

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(traffic, port) for port in cluster.enclave_ports]
        try:
            before = cluster.keys("list")["keys"]
            for role in ROLES:
                cluster.keys("rotate", "--key", role)
            shown(3)
            for role in ROLES:
                cluster.keys("use", "--key", role)
            for one in before:
                if one["role"] in ROLES:
                    cluster.keys("revoke", one["key"])
            shown(5)
            wanted = answered[0] + 60
            wait_for(lambda: answered[0] >= wanted or bool(failures), "60 more answers")
        finally:
            over.set()
    assert [one.result() for one in running] == [None, None]
    assert failures == []
    bodies = [decode(raw, Entry).body for raw in cluster.world.log_entries()]
    published = [entry.version for entry in bodies if isinstance(entry, KeySetPublished)]
    assert published == sorted(set(published))
    assert published[-1] == 5
    observed.figure("requests answered by enclaves of two custodians meanwhile", answered[0])
    observed.entry("key_set_published")
