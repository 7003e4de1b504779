"""Three custodians on one PostgreSQL ledger: together they grant what one would, and any of them may go away."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from tests.e2e.cluster import Cluster
from tests.e2e.turns import Turns, turns
from tests.e2e.world import Connection, MakeWorld, World
from tests.postgres_server import PostgresServer

from aigovtool.ledger.entry import StopTarget

CUSTODIANS = 3
_SLACK_S = 0.75


@pytest.fixture
def make_cluster(postgres_server: PostgresServer, make_world: MakeWorld) -> "MakeCluster":
    """Return a function that makes a cluster with a budget; it is gone before its database is emptied."""
    return MakeCluster(make_world, postgres_server)


class MakeCluster:
    """Makes clusters."""

    def __init__(self, make_world: MakeWorld, server: PostgresServer) -> None:
        self._make_world = make_world
        self._server = server

    def __call__(self, budget: int, ttl_ms: int = 3_000) -> Cluster:
        def on_postgres(world: World) -> None:
            world.ledger = self._server.database()

        cluster = Cluster(self._make_world(budget=budget, ttl_ms=ttl_ms, prepare=on_postgres), CUSTODIANS)
        cluster.start()
        return cluster


def until_exhausted(connection: Connection, body: bytes) -> int:
    """Ask until the budget is used up; whoever is told to wait for others' units asks again."""
    answered = 0
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = connection.infer(body)
        answered += answer.status == 200
        assert answer.status in {200, 402, 429}, answer.body
        if answer.status == 402:
            return answered
        if answer.status == 429:
            time.sleep(0.1)
    raise AssertionError("the budget was not used up")


def test_three_custodians_grant_exactly_one_budget(make_cluster: MakeCluster, body: bytes) -> None:
    """Consumers of three enclaves, each with a custodian of its own, get exactly what one budget holds."""
    cluster = make_cluster(budget=600)
    connections = [cluster.world.connect(port) for port in cluster.enclave_ports for _ in range(8)]
    with ThreadPoolExecutor(len(connections)) as pool:
        answered = list(pool.map(lambda connection: until_exhausted(connection, body), connections))
    assert sum(answered) == 600
    assert all(sum(answered[first : first + 8]) > 0 for first in range(0, 24, 8))
    assert cluster.world.posted() == 600


def test_one_enclave_is_served_by_all_of_them(
    make_world: MakeWorld, postgres_server: PostgresServer, body: bytes
) -> None:
    """Behind a balancer that cuts every connection after a moment: it renews here and there, and gets one budget."""
    with ExitStack() as stack:
        balancers: list[Turns] = []

        def behind_a_balancer(world: World) -> None:
            world.ledger = postgres_server.database()
            balancers.append(stack.enter_context(turns([world.custodian_port], 0.4)))
            world.custodian_seen_at = balancers[0].port

        world = make_world(budget=400, ttl_ms=3_000, prepare=behind_a_balancer)
        (balancer,), cluster = balancers, Cluster(world, CUSTODIANS)
        for number in range(1, CUSTODIANS):
            cluster.start_custodian(number)
            balancer.ports.append(cluster.custodian_ports[number])
        connections = [world.connect() for _ in range(4)]
        with ThreadPoolExecutor(len(connections)) as pool:
            answered = sum(pool.map(lambda connection: until_exhausted(connection, body), connections))
        assert answered == 400
        assert all(balancer.served[port] for port in cluster.custodian_ports)
        assert len(world.view("/v1/enclaves")["enclaves"]) == 1
        world.kill("enclave", signal.SIGTERM)
        world.processes["enclave"].wait(60)
        assert world.charged() == 400


def test_a_stop_at_one_custodian_reaches_the_enclaves_of_the_others(make_cluster: MakeCluster, body: bytes) -> None:
    """At once, not with the next heartbeat: the order travels through the ledger's server."""
    cluster = make_cluster(budget=10_000, ttl_ms=30_000)
    connections = [cluster.world.connect(port) for port in cluster.enclave_ports]
    assert [connection.infer(body).status for connection in connections] == [200, 200, 200]
    stopped = time.monotonic()
    cluster.world.stop(StopTarget.ALL)
    for connection in connections:
        cluster.world.wait_for(lambda: connection.infer(body).status == 423, "every enclave refuses", 1.0)  # noqa: B023
    assert time.monotonic() - stopped < 1.0 + _SLACK_S


def test_custodians_may_go_away(make_cluster: MakeCluster, body: bytes) -> None:
    """One is killed, one is frozen: the enclaves of the third are served on, and nothing is granted twice."""
    cluster = make_cluster(budget=300, ttl_ms=2_000)
    connections = [cluster.world.connect(port) for port in cluster.enclave_ports]
    answered = sum(connection.infer(body).status == 200 for connection in connections)
    cluster.signal(1, signal.SIGKILL)
    cluster.signal(2, signal.SIGSTOP)
    answered += until_exhausted_or_cut(connections[0], body)
    cluster.signal(2, signal.SIGCONT)
    assert 200 < answered <= 300
    cluster.start_custodian(1)
    cluster.world.wait_for(lambda: connections[1].infer(body).status in {200, 402, 429}, "its enclave is served again")
    assert cluster.world.posted() <= 300


def until_exhausted_or_cut(connection: Connection, body: bytes) -> int:
    """Ask until nothing more comes for ten seconds: what the others hold stays with them."""
    answered, quiet = 0, time.monotonic()
    while time.monotonic() - quiet < 10 and answered < 300:
        if connection.infer(body).status == 200:
            answered, quiet = answered + 1, time.monotonic()
        else:
            time.sleep(0.1)
    return answered


def test_a_crash_of_the_database_server_is_survived(
    make_cluster: MakeCluster, postgres_server: PostgresServer, body: bytes
) -> None:
    """Killed with all its processes under load and started again: everybody goes on, and every answer is charged."""
    cluster = make_cluster(budget=400, ttl_ms=2_000)
    connections = [cluster.world.connect(port) for port in cluster.enclave_ports]
    answered = 0

    def ask(connection: Connection) -> int:
        nonlocal answered
        status = connection.infer(body).status
        answered += status == 200
        return status

    for _ in range(3):
        for connection in connections * 10:
            ask(connection)
        postgres_server.kill()
        for connection in connections * 5:
            ask(connection)
        postgres_server.start()
        for connection in connections:
            cluster.world.wait_for(lambda: ask(connection) in {200, 402}, "the service comes back", 30)  # noqa: B023
    assert 60 < answered <= cluster.world.charged() <= 400
