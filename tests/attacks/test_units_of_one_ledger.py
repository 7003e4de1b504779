"""One ledger counts for everybody: for enclaves that are killed, copied and started in a loop, and other borrowers."""

import http.client

import msgspec
import pytest
from tests.attacks.deployments import Consumer, Deployment, answered_until_refused, answered_until_used_up
from tests.e2e.world import MODEL, free_port
from tests.effort import effort
from tests.observations import Observed

from aigovtool.ids import BorrowerId
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.protocol import commands

#: How often something is killed and started again.
KILLS = effort(2, campaign=5)


@pytest.mark.attack(12, 20)
def test_an_enclave_that_is_killed_mid_lease_forgets_nothing(
    world: Deployment, body: bytes, observed: Observed
) -> None:
    """What it held stays held, never more than half of the budget, and answers never exceed the budget."""
    consumer, connection = world.new_consumer(units=40)
    answered, held = 0, []
    for _ in range(KILLS):
        more, _refusal = answered_until_refused(connection, body, 5)
        answered += more
        world.kill("enclave")
        row = world.row_of(consumer)
        held.append(row["pending"])
        assert answered <= row["posted"] + row["pending"] <= 40
        world.start_enclave()
        connection.close()
        connection = consumer.connect()
    assert max(held) <= 20
    more, refusal = answered_until_refused(connection, body, 60)
    assert 0 < answered + more <= 40
    assert refusal.status in {402, 429}
    observed.figure(f"answers beyond a budget of 40 after {KILLS} kills", max(0, answered + more - 40))
    world.wait_for(lambda: world.row_of(consumer)["pending"] == 0, "what the killed ones held is charged")
    assert answered + more <= world.row_of(consumer)["posted"] <= 40
    assert world.entries("lease_expired")
    observed.entry("lease_expired")


@pytest.mark.fault(6)
def test_restarts_leave_the_budget_as_it_is(world: Deployment, body: bytes) -> None:
    """Seven of ten are used; killed and started again by the same command, the custodian still has three."""
    consumer, connection = world.new_consumer(units=10)
    assert answered_until_refused(connection, body, 7) == (7, None)
    world.wait_for(lambda: world.row_of(consumer)["pending"] == 0, "all leases are closed")
    before = world.row_of(consumer)
    assert (before["posted"], before["room"]) == (7, 3)
    for _ in range(KILLS):
        world.kill("custodian")
        world.start_custodian()
        assert world.row_of(consumer) == before
    anybody = world.connect()
    world.wait_for(lambda: anybody.infer(body).status == 200, "the enclave goes on")
    assert answered_until_used_up(connection, body, 10)[0] == 3


@pytest.mark.attack(14)
def test_copies_of_an_enclave_share_one_budget(world: Deployment, body: bytes, observed: Observed) -> None:
    """Four from the same files at once: each attests for itself and has leases of its own; the sum is the budget."""
    names = ("copy1", "copy2", "copy3")
    ports = {name: free_port() for name in names}
    for name, port in ports.items():
        world.another_enclave(name, port)
    consumer, connection = world.new_consumer(units=100)
    connections = [connection]
    for port in ports.values():
        world.wait_for(lambda port=port: serves(consumer, port), "the copy serves")  # type: ignore[misc]
        connections.append(consumer.connect(port))
    spent = sum(answered_until_refused(one, body, 3)[0] for one in connections)
    statuses: set[int] = set()
    for _ in range(40):
        for one in connections:
            answer = one.infer(body)
            spent += answer.status == 200
            statuses.add(answer.status)
    for one in connections[1:]:
        one.close()
    for name in names:
        world.end(name)
    holders = {entry["instance"] for entry in world.entries("lease_granted") if entry["consumer"] == consumer.name}
    assert len(holders) == 4
    assert statuses <= {200, 402, 429}
    assert 90 <= spent <= 100
    observed.figure("answers of four copies beyond 100 units", max(0, spent - 100))


def serves(consumer: Consumer, port: int) -> bool:
    """Return whether an enclave takes connections and is ready."""
    connection = consumer.connect(port)
    try:
        return connection.request("GET", "/v2/health/ready").status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@pytest.mark.fault(12)
def test_one_borrower_uses_up_nothing_of_another(world: Deployment, body: bytes) -> None:
    """Each has an enclave and a budget: the first's is used up, and the second's is whole."""
    first, connection = world.new_consumer(units=5)
    other = BorrowerId("clinic")
    path, port = world.private("clinic.json", world.add_borrower(other)), free_port()
    world.command(
        commands.SetModelTerms(
            model=MODEL,
            policy=msgspec.structs.replace(default_policy(Dial.BALANCED, ttl_ms=1_000), version=2),
            borrowers=[BorrowerId("hospital"), other],
        )
    )
    world.another_enclave("clinic", port, borrower_file=path)
    second = world.add_consumer("of-clinic", 5, borrower=other)
    world.wait_for(lambda: serves(second, port), "the other borrower's enclave serves")
    assert answered_until_used_up(connection, body, 20)[0] == 5
    assert world.charged_to(second) == 0
    theirs = second.connect(port)
    assert answered_until_used_up(theirs, body, 20)[0] == 5
    # Its consumer is nobody at the enclave of the first.
    assert second.connect().infer(body).status in {401, 403}
    theirs.close()
    world.end("clinic")
    assert world.charged_to(first) <= 5
