"""Whoever sets clocks gains no unit: those of a running enclave and a running custodian are slowed, held and stepped.

The simulated TEE has no clock that its host cannot slow. So what time is to end, a withheld stop, is late here by as
much as the clock is slow; what is left to use is bounded by the units that were lent, which no clock can raise.
"""

import http.client
import json
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
from tests.e2e.model import one_digit
from tests.e2e.world import Connection
from tests.effort import effort
from tests.observations import Observed

from aigovtool.ledger.entry import StopTarget
from aigovtool.protocol.commands import Act, Resume, Stop
from aigovtool.testing.fault_proxy import FaultProxy, fault_proxy

pytestmark = [pytest.mark.attack(16), pytest.mark.needs("gcc")]

TTL_S = 1.0
SLACK_S = 0.25
#: How fast a slow clock is.
SLOW = 1 / effort(4, campaign=10)
#: Between two questions, so that the units at hand outlast what a slow clock gives: time must end the service.
PAUSE_S = 0.09 / SLOW
TEN_YEARS_S = 10 * YEAR_S
STOP = Stop(target=StopTarget.ALL, value="", reason="drill")


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
    """The deployment, when it serves whoever asks."""
    lent.world.wait_for(lambda: answers(lent.world), "it serves")
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
    answered = 60  # a busy consumer is lent more at once
    assert answered_until_refused(connection, body, answered) == (answered, None)
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
    """Ten years back: the ledger's time stands, the budget is exact, orders are stale, and a stop is carried out."""
    consumer, connection = site.consumer(units=12)
    site.custodian.step(wall_s=-TEN_YEARS_S)
    answered, refusal = answered_until_used_up(connection, body, 40)
    assert (answered, refusal.json()["code"]) == (12, "budget_exhausted")
    orders_wait_and_a_stop_does_not(site, consumer, connection, body, observed)
    assert site.world.charged_to(consumer) <= 12
    times = [json.loads(entry)["at_ms"] for entry in site.world.log_entries()]
    assert times == sorted(times)


def test_a_custodian_whose_clock_leaps_ahead_ends_service_and_grants_nothing(
    tmp_path: Path, body: bytes, observed: Observed
) -> None:
    """An hour: leases end sooner, orders are stale, a stop is carried out. Ten years: nobody is granted or let in.

    Then every attestation and credential is over, and putting the clock back lifts none, as the ledger's time stands.
    Whoever holds the custodian's directory enrols an operator anew. This costs service, and never a unit.
    """
    with ExitStack() as stack:
        site = make(tmp_path, stack)
        consumer, connection = site.consumer(units=12)
        site.custodian.step(wall_s=3_600)
        answered, refusal = answered_until_used_up(connection, body, 40)
        assert (answered, refusal.json()["code"]) == (12, "budget_exhausted")
        orders_wait_and_a_stop_does_not(site, consumer, connection, body, observed)
        assert site.world.charged_to(consumer) <= 12
        anybody = site.world.connect()
        assert anybody.infer(body).status == 200
        site.custodian.step(wall_s=TEN_YEARS_S)
        ahead_s, last_s = time.monotonic(), 0.0
        while anybody.infer(body).status == 200:
            last_s = time.monotonic()
        assert last_s - ahead_s <= TTL_S + SLACK_S
        for _ in range(2):
            refused = site.order(STOP)
            assert refused.status_code == 401
            assert observed.refusal(refused.json()) == "unauthenticated: credential_expired"
            assert not answers(site.world)
            site.custodian.mend()


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
