"""Stop, expiry and the dead-man switch, as the borrower's host and the operator would meet them."""

import json
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from tests.e2e.world import Connection, MakeWorld
from tests.observations import Observed

from aigovtool.ledger.entry import StopTarget

_SLACK_S = 0.75


def _first_refusal_s(connection: Connection, body: bytes) -> float:
    """Ask in a loop; return when (monotonic) the first answer that is not a success came."""
    while connection.infer(body).status == 200:
        pass
    return time.monotonic()


@pytest.mark.fault(10)
def test_stop_refuses_the_next_request_and_acknowledges_the_wipe(
    make_world: MakeWorld, body: bytes, observed: Observed
) -> None:
    """After an operator's stop: 423, the engine process is gone, the wipe is acknowledged and logged."""
    world = make_world(budget=1_000)
    connection = world.connect()
    assert connection.infer(body).status == 200
    engine = world.engine_pid()
    stopped = time.monotonic()
    world.stop()
    world.wait_for(lambda: connection.infer(body).status == 423, "the enclave refuses", 1.0)
    assert time.monotonic() - stopped < 1.0 + _SLACK_S
    assert observed.refusal(connection.infer(body).json()) == "stopped"
    world.wait_for(lambda: world.view("/v1/enclaves")["enclaves"][0]["state"] == "wiped", "the wipe is acknowledged")
    assert not Path(f"/proc/{engine}").exists()
    entries = [json.loads(entry) for entry in world.log_entries()]
    assert [entry["body"]["kind"] for entry in entries][-1] == "wiped"
    observed.entry("wiped")


def test_resume_brings_the_service_back_with_new_keys(make_world: MakeWorld, body: bytes) -> None:
    """Nobody at the borrower has to do anything; the instance is another one."""
    world = make_world(budget=1_000)
    first = world.view("/v1/enclaves")["enclaves"][0]["instance"]
    world.stop(StopTarget.MODEL, "digits")
    world.wait_for(lambda: world.view("/v1/enclaves")["enclaves"][0]["state"] == "wiped", "wiped")
    world.resume(StopTarget.MODEL, "digits")
    world.wait_ready()
    assert world.connect().infer(body).status == 200
    assert world.view("/v1/enclaves")["enclaves"][0]["instance"] != first


def test_stop_of_one_consumer_leaves_the_weights_loaded(make_world: MakeWorld, body: bytes) -> None:
    """A consumer's stop refuses this consumer only."""
    world = make_world(budget=1_000)
    connection, engine = world.connect(), world.engine_pid()
    assert connection.infer(body).status == 200
    world.stop(StopTarget.CONSUMER, "ward7")
    world.wait_for(lambda: connection.infer(body).status == 423, "the consumer is refused", 2.0)
    assert world.engine_pid() == engine
    world.resume(StopTarget.CONSUMER, "ward7")
    world.wait_for(lambda: connection.infer(body).status == 200, "the consumer is served again", 10.0)


@pytest.mark.attack(18)
@pytest.mark.fault(11)
def test_frozen_custodian_ends_the_service_within_the_ttl(
    make_world: MakeWorld, body: bytes, observed: Observed
) -> None:
    """SIGSTOP of the custodian: the last answer is released within one ttl of its last sign of life."""
    ttl_s = 2.0
    world = make_world(budget=1_000_000, ttl_ms=int(ttl_s * 1000))
    connection = world.connect()
    assert connection.infer(body).status == 200
    world.kill("custodian", signal.SIGSTOP)
    frozen = time.monotonic()
    refused = _first_refusal_s(connection, body)
    assert refused - frozen <= ttl_s + _SLACK_S
    assert observed.refusal(connection.infer(body).json()) == "lease_expired"
    world.kill("custodian", signal.SIGCONT)
    world.wait_for(lambda: connection.infer(body).status == 200, "the service comes back", 2 * ttl_s + 5)


@pytest.mark.attack(17)
def test_enclave_frozen_past_its_ttl_gives_no_answer_when_resumed(
    make_world: MakeWorld, body: bytes, observed: Observed
) -> None:
    """SIGSTOP of the enclave for longer than its ttl, custodian away: nothing is released after SIGCONT."""
    world = make_world(budget=1_000, ttl_ms=1_000)
    connection = world.connect()
    assert connection.infer(body).status == 200
    world.kill("enclave", signal.SIGSTOP)
    world.kill("custodian", signal.SIGSTOP)
    time.sleep(2.0)
    world.kill("enclave", signal.SIGCONT)
    answer = connection.infer(body)
    assert (answer.status, answer.json()["code"]) == (423, "lease_expired")
    observed.refusal(answer.json())


@pytest.mark.attack(22)
def test_second_custodian_on_the_same_ledger_does_not_start(make_world: MakeWorld) -> None:
    """Two custodians on one SQLite ledger would each grant what the other granted."""
    world = make_world(budget=1)
    world.spawn("second", world.custodian_code, str(world.directory / "custodian"), "0")
    assert world.processes["second"].wait(30) != 0
    assert b"cannot be opened: database is locked" in (world.directory / "second.log").read_bytes()


def test_an_enclave_that_its_custodian_does_not_know_attests_anew(make_world: MakeWorld, body: bytes) -> None:
    """A ledger that has lost its instances, as after a restore: nobody at the borrower has to do anything."""
    world = make_world(budget=1_000)
    first = world.view("/v1/enclaves")["enclaves"][0]["instance"]
    world.kill("custodian")
    with sqlite3.connect(world.directory / "custodian" / "ledger.db") as ledger:
        ledger.execute("DELETE FROM instances")
    ledger.close()
    world.start_custodian()
    world.wait_for(lambda: world.view("/v1/enclaves")["enclaves"] != [], "another instance is admitted")
    world.wait_ready()
    assert world.connect().infer(body).status == 200
    assert world.view("/v1/enclaves")["enclaves"][0]["instance"] != first
