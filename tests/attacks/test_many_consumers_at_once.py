"""Attack 32, faults 40 and 41: many consumers at one enclave; some have nothing left, and some send garbage."""

import json
import random
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from assurance.endurance.bodies import throw
from tests.attacks.deployments import Consumer, Deployment, deployed
from tests.attacks.laborious import echo_model, given, to_echo
from tests.attacks.refusals import refusal_of
from tests.e2e.world import MODEL, Answer, Connection
from tests.effort import effort
from tests.observations import Observed

#: Rounds in which both ask at the same time under the same id.
ROUNDS = effort(25, campaign=60)
#: Bodies that are changed from good ones.
MALFORMED = effort(800, campaign=2_000)
#: How many times as long an answer may take that was paid for, beside a hundred callers who have nothing left.
RATIO = 50


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment whose model gives back what it is sent."""
    with deployed(tmp_path_factory.mktemp("crowd"), model=echo_model(), ttl_ms=30_000) as world:
        yield world


@pytest.mark.attack(32)
def test_nobody_gets_what_another_asked(world: Deployment, observed: Observed) -> None:
    """Two consumers with the same request ids at the same time: each gets its own canaries back, whatever happens.

    Neither answers, headers, refusals nor what the custodian and the processes' logs say has another's.
    """
    chance = random.Random(32)
    everything: dict[str, bytes] = {}
    canaries: dict[str, list[bytes]] = {}
    people = [world.add_consumer("ann"), world.add_consumer("ben")]

    def ask(consumer: Consumer, mine: list[bytes], together: threading.Barrier) -> bytes:
        link, seen = consumer.connect(), b""
        for number, canary in enumerate(mine):
            body, headers = to_echo(canary)
            together.wait(30)
            answer = link.infer(body, aigovtool_request_id=f"request-{number}", **headers)
            assert given(answer.body, answer.headers)[: len(canary)] == canary
            again = link.infer(body, aigovtool_request_id=f"request-{number}", **headers)
            assert (again.body, again.headers["aigovtool-receipt"]) == (
                answer.body,
                answer.headers["aigovtool-receipt"],
            )
            other, changed = to_echo(canary + canary)
            refused = link.infer(other, aigovtool_request_id=f"request-{number}", **changed)
            assert observed.refusal(refusal_of(refused, 409)).endswith(": request_key_reused")
            bad = link.infer(body.replace(b"FP32", b"FP64"), aigovtool_request_id=f"bad-{number}", **headers)
            refusal_of(bad, 400, 422)
            for one in (answer, again, refused, bad):
                seen += one.body + repr(sorted(one.headers.items())).encode()
        return seen

    together = threading.Barrier(2)
    for person in people:
        canaries[person.name] = [chance.randbytes(24) for _ in range(ROUNDS)]
    with ThreadPoolExecutor(2) as pool:
        running = {one.name: pool.submit(ask, one, canaries[one.name], together) for one in people}
        everything = {name: one.result() for name, one in running.items()}
    told = repr([world.view(path) for path in ("/v1/usage", "/v1/budgets", "/v1/enclaves", "/v1/parties")]).encode()
    logs = b"".join((world.directory / f"{name}.log").read_bytes() for name in ("custodian", "enclave"))
    entries = b"".join(world.log_entries())
    for one, other in (("ann", "ben"), ("ben", "ann")):
        assert [canary for canary in canaries[one] if any(form in everything[other] for form in forms(canary))] == []
        beyond = told + logs + entries
        assert [canary for canary in canaries[one] if any(form in beyond for form in forms(canary))] == []
        assert sum(canary in everything[one] for canary in canaries[one]) == ROUNDS
    observed.figure("rounds of both under the same id", ROUNDS)


def forms(canary: bytes) -> tuple[bytes, ...]:
    """Return how it could be written down."""
    numbers = struct.unpack(f"<{len(canary) // 4}f", canary)
    return canary, canary.hex().encode(), repr(canary)[2:-1].encode(), json.dumps(numbers[0]).encode()


@pytest.mark.fault(40)
def test_a_hundred_callers_without_units_cost_the_others_nothing(world: Deployment, observed: Observed) -> None:
    """They are told at once, on a hundred connections that ask again and again; who has paid is answered as before."""
    poor = world.add_consumer("poor", units=0)
    paying = world.connect()
    body, headers = to_echo(bytes(4))

    def timed(link: Connection) -> tuple[float, Answer]:
        begun = time.monotonic()
        answer = link.infer(body, **headers)
        return time.monotonic() - begun, answer

    before = [timed(paying) for _ in range(100)]
    links = [poor.connect() for _ in range(100)]
    over = threading.Event()
    refused: list[tuple[float, Answer]] = []

    def insist(mine: list[Connection]) -> None:
        while not over.is_set():
            refused.extend(timed(link) for link in mine)

    with ThreadPoolExecutor(4) as pool:
        for number in range(4):
            pool.submit(insist, links[number::4])
        world.wait_for(lambda: len(refused) >= 100, "all have been refused once")
        during = [timed(paying) for _ in range(300)]
        over.set()
    assert {answer.status for _, answer in (*before, *during)} == {200}
    assert {observed.refusal(refusal_of(answer, 402)) for _, answer in refused} == {"budget_exhausted"}
    assert all("retry-after" in answer.headers for _, answer in refused)
    slower = p99(during) / p99(before)
    assert slower < RATIO
    assert p99(refused) < RATIO * p99(before)
    observed.figure("refusals meanwhile", len(refused))
    observed.figure("times as long for who has paid (p99)", round(slower, 1))


def p99(timed: list[tuple[float, Answer]]) -> float:
    """Return the 99th percentile of how long answers took."""
    return sorted(seconds for seconds, _ in timed)[int(len(timed) * 0.99)]


@pytest.mark.fault(41)
def test_garbage_never_makes_it_fail(world: Deployment, observed: Observed) -> None:
    """Bodies that are changed from good ones: each is answered or refused, and nothing is our fault.

    The campaign run-bodies sends a hundred thousand.
    """
    engine = world.engine_pid()
    thrown = throw(world, 41, MALFORMED)
    assert thrown.wrong == []
    assert thrown.statuses.total() == MALFORMED
    assert min(thrown.statuses[400], thrown.statuses[422], thrown.inferences) > MALFORMED // 20
    assert len(thrown.refusals) > 20
    assert world.engine_pid() == engine
    genuine, headers = to_echo(struct.pack("<4f", 1, 2, 3, 4))
    link = world.connect()
    assert link.infer(genuine, **headers).status == 200
    for status, number in sorted(thrown.statuses.items()):
        observed.figure(f"answered {status}", number)
    observed.figure("reasons", len(thrown.refusals))


@pytest.mark.attack(34)
def test_bodies_that_do_not_come_keep_nobody_out(world: Deployment, observed: Observed) -> None:
    """Four consumers without units announce all the room that there is, and send a byte of each: others are served."""
    links: list[Connection] = []
    for number in range(4):
        idler = world.add_consumer(f"idler-{number}")
        links += [idler.connect() for _ in range(4)]
    for link in links:
        announced = {"content-type": "application/json", "content-length": str(64 << 20)}
        link.link.putrequest("POST", f"/v2/models/{MODEL}/infer")
        for name, value in announced.items():
            link.link.putheader(name, value)
        link.link.endheaders(b"{")
    time.sleep(1)
    body, headers = to_echo(bytes(4))
    served = [world.add_consumer(f"late-{number}").connect().infer(body, **headers) for number in range(3)]
    assert [answer.status for answer in served] == [200] * 3
    observed.figure("announced bodies that did not come", len(links))
