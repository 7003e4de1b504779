"""A host that meddles with the connection to the custodian: it can end the service, and it cannot stretch it.

The product promises that the last answer leaves at most one ttl after the last word of the custodian; a quarter of a
second is added for the machines that this runs on.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Event, Thread

import pytest
from tests.e2e.world import Connection, MakeWorld, World

from aigovtool.testing.fault_proxy import Direction, FaultProxy, fault_proxy

TTL_S = 1.0
SLACK_S = 0.25
#: So slow that the units at hand, half of the smallest lease at least, outlast the ttl: time must end the service.
PAUSE_S = 0.25


@dataclass
class Site:
    """A deployment whose enclave reaches its custodian through a proxy."""

    world: World
    proxy: FaultProxy

    def instance(self) -> str:
        newest: str = self.world.view("/v1/enclaves")["enclaves"][0]["instance"]
        return newest


@pytest.fixture
def site(make_world: MakeWorld) -> Iterator[Site]:
    """A large budget and a short ttl."""
    with ExitStack() as stack:
        proxies: list[FaultProxy] = []

        def prepare(world: World) -> None:
            proxy = stack.enter_context(fault_proxy("127.0.0.1", world.custodian_port))
            world.custodian_seen_at = proxy.port
            proxies.append(proxy)

        world = make_world(budget=1_000_000, ttl_ms=int(TTL_S * 1000), prepare=prepare)
        yield Site(world, proxies[0])


@dataclass
class Traffic:
    """One consumer that asks now and then, and notes when it was last answered and what it was told else."""

    connection: Connection
    body: bytes
    over: Event = field(default_factory=Event)
    last_answer_s: float = 0.0
    refusals: list[tuple[int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.thread = Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while not self.over.is_set():
            answer = self.connection.infer(self.body)
            if answer.status == 200:
                self.last_answer_s = time.monotonic()
            else:
                self.refusals.append((answer.status, answer.json()["code"]))
            self.over.wait(PAUSE_S)

    def stop(self) -> None:
        self.over.set()
        self.thread.join(90)


def refused_at_last(traffic: Traffic) -> bool:
    return bool(traffic.refusals) and time.monotonic() - traffic.last_answer_s > 3 * TTL_S


@pytest.mark.parametrize("direction", Direction)
def test_a_corrupted_record_does_not_end_the_heartbeat(direction: Direction, site: Site, body: bytes) -> None:
    """One flipped bit breaks one connection; the next renewal takes another, and the same instance goes on."""
    world, proxy = site.world, site.proxy
    instance, connection = site.instance(), world.connect()
    proxy.flip_bit(direction, 40)  # past the header of the first record
    world.wait_for(lambda: proxy.flipped == 1, "a record is corrupted")
    until = time.monotonic() + 2 * TTL_S
    while time.monotonic() < until:
        assert connection.infer(body).status == 200
    assert site.instance() == instance


@pytest.mark.attack(18)
def test_a_partition_ends_the_service_within_the_ttl(site: Site, body: bytes) -> None:
    """Nothing passes: the last answer is a ttl later at most. When it heals, the same instance serves again."""
    world, proxy = site.world, site.proxy
    instance, traffic = site.instance(), Traffic(world.connect(), body)
    world.wait_for(lambda: traffic.last_answer_s > 0, "the first answer")
    proxy.drop()
    parted_s = time.monotonic()
    world.wait_for(lambda: refused_at_last(traffic), "the service ends")
    assert 0 < traffic.last_answer_s - parted_s <= TTL_S + SLACK_S
    assert set(traffic.refusals) == {(423, "lease_expired")}
    proxy.heal()
    world.wait_for(lambda: traffic.last_answer_s > parted_s + 2 * TTL_S, "the service comes back")
    traffic.stop()
    assert site.instance() == instance


@pytest.mark.attack(18)
def test_a_stop_that_is_withheld_takes_effect_by_itself(site: Site, body: bytes) -> None:
    """The host lets the enclave speak and keeps the custodian's words from it: expiry stops what the push cannot."""
    world, proxy = site.world, site.proxy
    traffic = Traffic(world.connect(), body)
    world.wait_for(lambda: traffic.last_answer_s > 0, "the first answer")
    proxy.drop(Direction.TO_CLIENT)
    world.stop()
    stopped_s = time.monotonic()
    world.wait_for(lambda: refused_at_last(traffic), "the service ends")
    assert 0 < traffic.last_answer_s - stopped_s <= TTL_S + SLACK_S
    assert world.view("/v1/enclaves")["enclaves"][0]["state"] == "live"
    proxy.heal()
    world.wait_for(lambda: world.view("/v1/enclaves")["enclaves"][0]["state"] == "wiped", "the stop arrives")
    traffic.stop()
    assert {code for _, code in traffic.refusals} <= {"lease_expired", "stopped"}
    assert traffic.last_answer_s < stopped_s + TTL_S + SLACK_S
