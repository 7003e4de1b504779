"""One ledger counts for everybody: for enclaves that are killed, copied and started in a loop, and other borrowers."""

import http.client

import msgspec
import pytest
from tests.attacks.abandoned import Looping
from tests.attacks.deployments import PLENTY, Consumer, Deployment, answered_until_refused, answered_until_used_up
from tests.attacks.host import Host
from tests.e2e.world import MODEL, free_port
from tests.effort import effort, is_long
from tests.observations import Observed

from aigovtool.ids import BorrowerId, LeaseId
from aigovtool.ledger.budget import BudgetLimit, Scope, Window
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.ledger.units import Dimension
from aigovtool.limits import MAX_NONCES_PER_BORROWER
from aigovtool.protocol import commands
from aigovtool.protocol.messages import DenyCode

#: How often something is killed and started again.
KILLS = effort(2, campaign=5)
#: How often a borrower takes leases and is not heard of again; and after how many it is looked at what others have.
LOOPS = effort(16, campaign=1_000)
CHECKED = LOOPS // 8


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
    lend_also_to(world, other)
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


def lend_also_to(world: Deployment, other: BorrowerId) -> None:
    """Lend the model to one more borrower, on the same terms."""
    (found,) = world.view("/v1/models")["models"]
    policy = msgspec.convert(found["policy"], ServingPolicy)
    world.command(
        commands.SetModelTerms(
            model=MODEL,
            policy=msgspec.structs.replace(policy, version=policy.version + 1),
            borrowers=[*(BorrowerId(name) for name in found["borrowers"]), other],
        )
    )


@pytest.mark.attack(20)
def test_a_borrower_that_takes_leases_and_dies_in_a_loop_leaves_others_their_half(
    world: Deployment, body: bytes, observed: Observed
) -> None:
    """Each instance takes what it is given and is never heard of again: a quarter for one, half for all, and no more.

    It stays so when all of it has expired and is charged. Another borrower's consumer is answered all the while.
    """
    consumer, connection = world.new_consumer(units=100)
    other = BorrowerId("looping")
    party = world.add_borrower(other)
    lend_also_to(world, other)
    looping = Looping(party, world.add_consumer("of-looping", borrower=other).name)
    before, answered = model_row(world), 0
    limit = (before["posted"] + before["pending"] + 2_000) // 4 * 4
    limit_model(world, limit)
    try:
        with Host(party).connected() as client:
            for number in range(LOOPS):
                looping.loop(client, number)
                if number % CHECKED == 0:
                    answered += answered_until_used_up(connection, body, 1)[0]
                    assert sum(outstanding(world, other).values()) <= limit // 2
            taken = sum(looping.granted.values())
            assert sorted(looping.held.values()) == [limit // 4] * 2
            assert looping.denied == {DenyCode.CAPPED}
            assert answered == len(range(0, LOOPS, CHECKED))
            world.wait_for(lambda: expired(world, looping) == looping.granted, "all of it is charged")
            looping.loop(client, 0)
        assert sum(looping.granted.values()) == taken
        world.wait_for(lambda: world.row_of(consumer)["pending"] == 0, "all else is given back")
        charged = model_row(world)["posted"] - before["posted"] - taken - answered
        assert 0 <= charged <= before["pending"]
        assert answered_until_used_up(connection, body, 100)[0] == 100 - answered
    finally:
        limit_model(world, PLENTY)
    if is_long():  # it may boot so often in ten minutes; the other loops were those of instances that it had
        assert looping.refused is not None
        assert observed.refusal(looping.refused.json()) == "overloaded: boots"
        assert len(looping.instances) == MAX_NONCES_PER_BORROWER
    observed.entry("lease_expired")
    observed.figure(f"units of {limit:,} that {LOOPS:,} loops of one borrower took", taken)


def model_row(world: Deployment) -> dict[str, int]:
    """Return the budget row of the model, for everybody."""
    rows = world.view("/v1/budgets")["budgets"]
    (row,) = [row for row in rows if row["key"]["scope"].get("borrower") is None]
    return {name: int(row[name]) for name in ("posted", "pending")}


def limit_model(world: Deployment, units: int) -> None:
    """Let the model be used so often by everybody together."""
    limit = BudgetLimit(scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.LIFETIME, limit=units)
    world.command(commands.SetBudget(limit=limit))


def outstanding(world: Deployment, borrower: BorrowerId) -> dict[str, int]:
    """Return the units of leases that nobody has closed, by instance of a borrower."""
    enclaves = world.view("/v1/enclaves")["enclaves"]
    return {
        one["instance"]: int(one["outstanding"].get("inferences", 0)) for one in enclaves if one["borrower"] == borrower
    }


def expired(world: Deployment, looping: Looping) -> dict[LeaseId, int]:
    """Return the leases of a borrower that were charged because nobody reported on them, with their units."""
    bodies = world.entries("lease_expired")
    return {lease: looping.granted[lease] for body in bodies if (lease := body["lease_id"]) in looping.granted}
