"""A budget cannot be exceeded, whatever clients do: raw HTTP against real processes."""

import json
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.e2e.world import Answer, Connection, MakeWorld
from tests.observations import Observed

from aigovtool.ledger.entry import StopTarget


@pytest.mark.fault(1)
def test_budget_of_five_gives_five_answers_to_a_hundred_requests(
    make_world: MakeWorld, body: bytes, observed: Observed
) -> None:
    """Exactly five answers, then typed refusals that charge nothing."""
    world = make_world(budget=5)
    connection = world.connect()
    answers = [connection.infer(body) for _ in range(100)]
    assert [answer.status for answer in answers].count(200) == 5
    refusals = [answer for answer in answers if answer.status != 200]
    assert {(answer.status, answer.json()["code"]) for answer in refusals} == {(402, "budget_exhausted")}
    assert all(answer.json()["error"] and answer.headers["retry-after"] for answer in refusals)
    assert answers[4].headers["aigovtool-units-remaining"] == "inferences=0"
    assert world.posted() <= 5
    observed.refusal(refusals[0].json())
    observed.figure("answers to 100 requests on 5 units", 5)


@pytest.mark.fault(7)
def test_thirty_two_parallel_requests_on_one_unit_give_one_answer(make_world: MakeWorld, body: bytes) -> None:
    """There is no moment between check and act in which two requests see the same unit."""
    world = make_world(budget=1)
    connections = [world.connect() for _ in range(32)]
    with ThreadPoolExecutor(32) as pool:
        statuses = list(pool.map(lambda connection: connection.infer(body).status, connections))
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 402, 429}


@pytest.mark.fault(5)
def test_sixty_four_connections_spend_exactly_a_thousand_units(make_world: MakeWorld, body: bytes) -> None:
    """64 connections x 30 requests on 1,000 units: exactly 1,000 answers and no server error."""
    world = make_world(budget=1_000, ttl_ms=10_000)
    connections = [world.connect() for _ in range(64)]

    def load(connection: Connection) -> list[int]:
        return [connection.infer(body).status for _ in range(30)]

    with ThreadPoolExecutor(64) as pool:
        statuses = [status for found in pool.map(load, connections) for status in found]
    assert statuses.count(200) == 1_000
    assert max(statuses) < 500
    world.kill("enclave", 15)
    world.processes["enclave"].wait(20)
    assert world.posted() == 1_000


@pytest.mark.fault(8)
def test_same_request_id_is_charged_once_and_answered_alike(make_world: MakeWorld, body: bytes) -> None:
    """Ten parallel and ten later requests with one id: one unit, one answer; another body is refused."""
    world = make_world(budget=3)
    connections = [world.connect() for _ in range(10)]

    def ask(connection: Connection) -> Answer:
        return connection.infer(body, aigovtool_request_id="the-same")

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(ask, connections))
    answers += [ask(connections[0]) for _ in range(10)]
    assert {answer.status for answer in answers} == {200}
    assert len({(answer.body, answer.headers["aigovtool-receipt"]) for answer in answers}) == 1
    changed = connections[0].infer(body.replace(b'"inputs"', b'"id":"2","inputs"'), aigovtool_request_id="the-same")
    assert (changed.status, changed.json()["reason"]) == (409, "request_key_reused")
    assert [connections[0].infer(body).status for _ in range(2)] == [200, 200]
    refused = connections[0].infer(body)
    while refused.status == 429:  # the custodian has not heard yet that the two are spent
        assert refused.json()["code"] == "budget_reserved"
        refused = connections[0].infer(body)
    assert (refused.status, refused.json()["code"]) == (402, "budget_exhausted")
    assert world.posted() == 3


@pytest.mark.fault(8)
def test_invalid_requests_are_charged_nothing(make_world: MakeWorld, body: bytes) -> None:
    """Whatever is malformed, too large or of the wrong type is refused before anything is reserved."""
    world = make_world(budget=1)
    connection = world.connect()
    bad = [
        b"",
        b"{}",
        b"[]",
        body[:-1],
        body.replace(b"FP32", b"INT8"),
        body.replace(b'"X"', b'"Y"'),
        body.replace(b"[1, 64]", b"[65536,65536,65536,65536]"),
        body.replace(b"[1, 64]", b"[-1]"),
        body.replace(b"0.0", b"NaN", 1),
        body.replace(b"0.0", b"true", 1),
    ]
    for case in bad * 5:
        answer = connection.infer(case)
        assert 400 <= answer.status < 500, answer.body
        assert answer.json()["code"]
    assert connection.infer(body).status == 200


def test_a_batch_costs_one_unit_per_row(make_world: MakeWorld, body: bytes) -> None:
    """A consumer cannot stretch the budget by sending many rows in one request."""
    request = json.loads(body)
    tensor = request["inputs"][0]
    tensor["shape"], tensor["data"] = [4, 64], tensor["data"] * 4
    world = make_world(budget=6)
    connection = world.connect()
    batch = json.dumps(request).encode()
    assert connection.infer(batch).status == 200
    second = connection.infer(batch)
    told = second.json()
    assert (second.status, told["code"], told["reason"]) == (402, "budget_exhausted", "insufficient")
    assert [connection.infer(body).status for _ in range(2)] == [200, 200]
    last = connection.infer(body)
    while last.status == 429:  # the custodian has not heard yet that the two are spent
        assert last.json()["code"] == "budget_reserved"
        last = connection.infer(body)
    assert (last.status, last.json()["code"]) == (402, "budget_exhausted")


@pytest.mark.attack(12)
def test_random_kills_never_give_more_answers_than_the_budget(
    make_world: MakeWorld, body: bytes, observed: Observed
) -> None:
    """SIGKILL of enclave, engine child or custodian under load, restarted by the same command."""
    seed = 20261123
    chance = random.Random(seed)
    budget = 400
    world = make_world(budget=budget, ttl_ms=1_000)
    answered = 0
    for _ in range(8):
        connection = world.connect()
        for _ in range(chance.randrange(3, 15)):
            try:
                answered += connection.infer(body).status == 200
            except OSError:
                break
        victim = chance.choice(["enclave", "custodian", "engine"])
        if victim == "engine":
            world.kill_engine()
        else:
            world.kill(victim)
            world.start_custodian() if victim == "custodian" else world.start_enclave(wait=False)
        world.wait_ready()
    assert 0 < answered <= budget
    assert world.posted() <= budget
    observed.figure("answers beyond the budget after 8 kills", max(0, answered - budget))
    world.stop(StopTarget.ALL)


def test_bodies_that_are_announced_and_never_sent_take_one_consumers_room_only_for_a_while(
    make_world: MakeWorld, body: bytes
) -> None:
    """Four announcements of the largest body fill a consumer's share: the next is told 429, until they are gone."""
    world = make_world(budget=10)
    idle = [world.connect() for _ in range(4)]
    for connection in idle:
        connection.link.putrequest("POST", "/v2/models/digits/infer")
        connection.link.putheader("content-type", "application/json")
        connection.link.putheader("content-length", str(64 << 20))
        connection.link.endheaders()
    asking = world.connect()
    world.wait_for(lambda: asking.infer(body).status == 429, "the share is taken")
    refusal = asking.infer(body)
    assert (refusal.json()["reason"], refusal.headers["retry-after"]) == ("open_bodies", "1")
    for connection in idle:
        connection.close()
    world.wait_for(lambda: asking.infer(body).status == 200, "the share is given back")
