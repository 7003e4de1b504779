"""Whoever sets clocks gains no unit: those of a running enclave and a running custodian are slowed, held and stepped.

The simulated TEE has no clock that its host cannot slow. So what time is to end, a withheld stop, is late here by as
much as the clock is slow; what is left to use is bounded by the units that were lent, which no clock can raise.
"""

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.attacks.clocks import YEAR_S, Clock
from tests.attacks.deployments import (
    Consumer,
    Deployment,
    answered_until_refused,
    answered_until_used_up,
    deployed,
)
from tests.e2e.heartbeat import last_contact_ms, wait_for_heartbeat
from tests.e2e.model import one_digit
from tests.e2e.world import MODEL, Connection, free_port
from tests.effort import effort
from tests.observations import Observed
from tests.product_process import environment

from aigovtool.ledger.budget import Scope, Window
from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.units import Dimension
from aigovtool.protocol.commands import Act, GrantBudget, Resume, Stop
from aigovtool.testing.fault_proxy import FaultProxy, fault_proxy

pytestmark = [pytest.mark.attack(16), pytest.mark.needs("gcc")]

TTL_S = 1.0
SLACK_S = 0.25
#: How fast a slow clock is.
SLOW = 1 / effort(4, campaign=10)
#: Between two questions, so that a few units at hand outlast what a slow clock gives: time must end the service.
PAUSE_S = 0.9
TEN_YEARS_S = 10 * YEAR_S
STOP = Stop(target=StopTarget.ALL, value="", reason="drill")
GRANT = GrantBudget(scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.LIFETIME, units=1)


@dataclass
class Site:
    """A deployment whose host holds the clocks of both sides, and the cable between them."""

    world: Deployment
    enclave: Clock
    custodian: Clock
    cable: FaultProxy

    def consumer(self, units: int, *, patience_s: float = 60) -> tuple[Consumer, Connection]:
        """Return a new consumer, and a connection that waits for so long at most."""
        consumer, connection = self.world.new_consumer(units)
        connection.link.timeout = patience_s
        return consumer, connection

    def order(self, act: Act) -> httpx.Response:
        """Send an operator's order, dated by true time."""
        return self.world.send(self.world.order(act))


def make(directory: Path, stack: ExitStack) -> Site:
    clocks = []
    for name in ("enclave", "custodian"):
        (directory / name).mkdir()
        clocks.append(Clock(directory / name))
        stack.callback(clocks[-1].close)
    enclave, custodian = clocks
    cables: list[FaultProxy] = []

    def prepare(world: Deployment) -> None:
        world.around = {"enclave": enclave.around, "custodian": custodian.around}
        cables.append(stack.enter_context(fault_proxy("127.0.0.1", world.custodian_port)))
        world.custodian_seen_at = cables[0].port

    world = stack.enter_context(deployed(directory / "world", ttl_ms=int(TTL_S * 1000), prepare=prepare))
    return Site(world, enclave, custodian, cables[0])


@pytest.fixture(scope="module")
def lent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One deployment for all tests that leave it able to serve."""
    with ExitStack() as stack:
        yield make(tmp_path_factory.mktemp("clocks"), stack)


@pytest.fixture
def site(lent: Site) -> Iterator[Site]:
    """The deployment, when it serves whoever asks, and its enclave is connected."""
    lent.world.wait_for(lambda: answers(lent.world), "it serves")
    wait_for_heartbeat(lent.world)
    yield lent
    lent.enclave.mend()
    lent.custodian.mend()
    lent.cable.heal()


def answers(world: Deployment) -> bool:
    """Ask once on a connection of its own, which an ended instance may cut."""
    with suppress(OSError, http.client.HTTPException):
        connection = world.connect()
        try:
            return connection.infer(one_digit()).status == 200
        finally:
            connection.close()
    return False


def until_silent(connection: Connection, body: bytes) -> int:
    """Ask until refused, or until nothing comes any more; return how many were answered."""
    answered = 0
    with suppress(TimeoutError):
        while connection.infer(body).status == 200:
            answered += 1
    return answered


def test_a_clock_that_stands_still_gives_no_unit(site: Site, body: bytes, observed: Observed) -> None:
    """The enclave's time does not pass, and its host cuts it off: it answers for what was leased, and for no more."""
    consumer, connection = site.consumer(units=400, patience_s=2)
    assert answered_until_refused(connection, body, 5) == (5, None)
    site.enclave.pass_at(0)
    site.cable.drop()
    leased = site.world.charged_to(consumer)
    more = until_silent(connection, body)
    assert 5 + more <= leased <= 400
    time.sleep(TTL_S)
    connection.close()
    assert until_silent(connection, body) == 0
    assert site.world.charged_to(consumer) == leased
    observed.figure("answers beyond what was leased, with a clock at 0", max(0, 5 + more - leased))


def test_a_slow_clock_delays_a_withheld_stop_by_as_much(site: Site, body: bytes) -> None:
    """At a tenth it ends after ten ttl instead of one. The units that were leased bound what comes until then."""
    consumer, connection = site.consumer(units=10**6)
    answered, heard_ms = 0, last_contact_ms(site.world)
    # A busy consumer is lent more at once; and the enclave's authority shall be fresh.
    while answered < 100 or last_contact_ms(site.world) == heard_ms:
        assert answered_until_refused(connection, body, 5) == (5, None)
        answered += 5
    site.enclave.pass_at(SLOW)
    site.cable.drop()
    cut_s, last_s = time.monotonic(), 0.0
    leased = site.world.charged_to(consumer)
    site.world.stop(StopTarget.CONSUMER, consumer.name)
    while connection.infer(body).status == 200:
        last_s, answered = time.monotonic(), answered + 1
        time.sleep(PAUSE_S)
    assert connection.infer(body).json()["code"] == "lease_expired"
    assert TTL_S + SLACK_S < last_s - cut_s <= TTL_S / SLOW + SLACK_S
    assert answered <= leased
    assert site.world.charged_to(consumer) == leased


@pytest.mark.parametrize("rate", [0.1, 1.0], ids=["slow", "true"])
@pytest.mark.parametrize("wall_s", [-YEAR_S, TEN_YEARS_S], ids=["a year back", "ten years ahead"])
def test_a_budget_is_exact_whatever_the_enclaves_clock_shows(rate: float, wall_s: int, site: Site, body: bytes) -> None:
    """Its wall clock decides over nothing; a slow one makes it renew more seldom."""
    instance, (consumer, connection) = site.world.instance(), site.consumer(units=12)
    site.enclave.pass_at(rate)
    site.enclave.step(wall_s=wall_s)
    answered, refusal = answered_until_used_up(connection, body, 40)
    assert (answered, refusal.json()["code"]) == (12, "budget_exhausted")
    assert site.world.charged_to(consumer) <= 12
    assert site.world.instance() == instance


@pytest.mark.fault(28)
@pytest.mark.parametrize("wall_s", [-TEN_YEARS_S, TEN_YEARS_S], ids=["ten years back", "ten years ahead"])
def test_an_enclave_boots_and_serves_whatever_its_hosts_clock_shows(wall_s: int, site: Site, body: bytes) -> None:
    """It meets its custodian anew, over new connections, and answers: certificates end by the custodian's time."""
    site.enclave.step(wall_s=wall_s)
    site.world.end("enclave")
    site.world.start_enclave()
    consumer, connection = site.consumer(units=3)
    answered, refusal = answered_until_used_up(connection, body, 10)
    assert (answered, refusal.json()["code"]) == (3, "budget_exhausted")
    assert site.world.charged_to(consumer) <= 3


def test_a_clock_that_is_put_back_ends_the_instance(site: Site, body: bytes, observed: Observed) -> None:
    """Elapsed time that runs backwards is tampering: nothing is answered, and everything is wiped."""
    before, (_, connection) = site.world.instance(), site.consumer(units=10**6)
    assert connection.infer(body).status == 200
    engine = site.world.engine_pid()
    site.enclave.step(elapsed_s=-YEAR_S)
    refusal = connection.infer(body)
    assert refusal.status == 423
    observed.refusal(refusal.json())
    site.world.wait_for(lambda: not Path(f"/proc/{engine}").exists(), "the weights are gone")
    # What waits by such a clock waits a year. That is its host's own loss, until it starts the enclave again.
    site.world.kill("enclave")
    site.enclave.mend(elapsed=True)
    site.world.start_enclave()
    assert site.world.instance() != before


def test_a_custodian_whose_clock_is_put_back_decides_as_before(site: Site, body: bytes, observed: Observed) -> None:
    """Ten years back: time goes on without it, the budget is exact, orders are stale, and a stop is carried out."""
    consumer, connection = site.consumer(units=12)
    site.custodian.step(wall_s=-TEN_YEARS_S)
    answered, refusal = answered_until_used_up(connection, body, 40)
    assert (answered, refusal.json()["code"]) == (12, "budget_exhausted")
    orders_wait_and_a_stop_does_not(site, consumer, connection, body, observed)
    assert site.world.charged_to(consumer) <= 12
    times = [json.loads(entry)["at_ms"] for entry in site.world.log_entries()]
    assert times == sorted(times)


def test_a_custodian_whose_clock_leaps_ahead_grants_nothing_and_ends_nothing(
    site: Site, body: bytes, observed: Observed
) -> None:
    """An hour, or ten years: no unit, boot or order by such a time, a stop at once, and the log says what is wrong.

    No credential and no attestation has ended by it: with the clock put right the same parties are served on.
    """
    consumer, connection = site.consumer(units=12)
    anybody = site.world.connect()
    lifted = Resume(target=StopTarget.CONSUMER, value=consumer.name, reason="drill over")
    for leap_s in (3_600, TEN_YEARS_S):
        assert anybody.infer(body).status == 200
        site.custodian.step(wall_s=leap_s)
        instance, before = site.world.instance(), len(site.world.entries("lease_granted"))
        used_up = answered_until_refused(anybody, body, 10_000)[1].json()
        assert observed.refusal(used_up) == "budget_reserved"
        with site.world.custodian_client() as client:
            assert client.get("/v1/health").json()["status"] == "clock_leapt"
        refused = site.order(GRANT)
        assert refused.status_code == 503
        assert observed.refusal(refused.json()) == "clock_leapt"
        site.world.another_enclave("late", free_port())
        site.world.wait_for(lambda: "ClockLeaptError" in site.world.log_of("late"), "nobody boots")
        site.world.kill("late")
        stop = Stop(target=StopTarget.CONSUMER, value=consumer.name, reason="drill")
        assert site.order(stop).status_code == 200
        site.world.wait_for(lambda: connection.infer(body).json()["code"] == "stopped", "it is stopped")
        assert len(site.world.entries("lease_granted")) == before
        site.world.wait_for(lambda: "clock_leapt" in site.world.log_of("custodian"), "it is said")
        site.custodian.mend()
        site.world.wait_for(lambda: site.order(lifted).status_code == 200, "orders are carried out again")
        site.world.wait_for(lambda: answers(site.world), "it serves as before")
        assert site.world.instance() == instance
    answered, refusal = answered_until_used_up(connection, body, 40)
    assert (answered, refusal.json()["code"]) == (12, "budget_exhausted")
    assert site.world.charged_to(consumer) <= 12
    times = [json.loads(entry)["at_ms"] for entry in site.world.log_entries()]
    assert times == sorted(times)
    assert times[-1] < time.time_ns() // 1_000_000 + 60_000


def test_a_custodian_that_begins_with_a_clock_years_ahead_waits_for_a_person(
    tmp_path: Path, observed: Observed
) -> None:
    """It serves nobody by that time. Whoever holds the directory confirms it; then what ended by it has ended."""
    with ExitStack() as stack:
        site = make(tmp_path, stack)
        assert answers(site.world)
        site.world.kill("custodian")
        site.custodian.step(wall_s=TEN_YEARS_S)
        site.world.start_custodian()
        refused = site.order(GRANT)
        assert observed.refusal(refused.json()) == "clock_leapt"
        assert site.order(STOP).status_code == 200
        site.world.kill("custodian")
        directory, told = str(tmp_path / "world" / "custodian"), {**environment(), **site.custodian.around.environment}
        command = [sys.executable, "-m", "aigovtool", "custodian", "accept-time", directory]
        unasked = subprocess.run(command, env=told, capture_output=True, text=True, check=False)
        assert (unasked.returncode, "not_confirmed" in unasked.stderr) == (3, True)
        subprocess.run([*command, "--yes"], env=told, check=True)
        site.world.spawn("custodian", site.world.custodian_code, directory, str(site.world.custodian_port))
        site.world.wait_for(lambda: is_over(site, observed), "the operator's credential has ended")


def is_over(site: Site, observed: Observed) -> bool:
    """Return whether the custodian is there, and knows its operator no more."""
    with suppress(httpx.TransportError):
        return observed.refusal(site.order(STOP).json()) == "unauthenticated: credential_expired"
    return False


def orders_wait_and_a_stop_does_not(
    site: Site, consumer: Consumer, connection: Connection, body: bytes, observed: Observed
) -> None:
    """Have an operator, whose own clock is true, stop a consumer and try to lift that."""
    stop = Stop(target=StopTarget.CONSUMER, value=consumer.name, reason="drill")
    resume = Resume(target=StopTarget.CONSUMER, value=consumer.name, reason="drill over")
    assert site.order(stop).status_code == 200
    site.world.wait_for(lambda: connection.infer(body).json()["code"] == "stopped", "it is stopped")
    refused = site.order(resume)
    assert refused.status_code == 403
    assert observed.refusal(refused.json()) == "bad_signature: stale_command"
    assert connection.infer(body).json()["code"] == "stopped"
    assert any(entry["reason"] == "stale_command" for entry in site.world.entries("command_refused"))
    observed.entry("command_refused")
    site.custodian.mend()
    assert site.order(resume).status_code == 200
