"""An enclave ends under load, by kill -9 and in good order, and boots anew: what programs get, and what is charged.

The specification of leases promises (sections 1 and 2): a unit is charged for each answer and for nothing else, except
that an enclave which is not heard of again has all units of its leases charged, at most two of each consumer.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.clients.asking import Program, by_library, end_all, through
from tests.e2e.gateways import connecting
from tests.e2e.party_files import consumer_file
from tests.e2e.twins import Twin
from tests.e2e.world import wait_for

from aigovtool.consumer import Client
from aigovtool.ledger.receipt import Receipt

PROGRAMS = 4
BUDGET = 100_000
#: What a program may be told: that an enclave is away, boots, or has no units yet, and that it must not ask elsewhere.
TYPED = {
    ("unreachable", "connect"),
    ("unreachable", "hung_up"),
    ("unreachable", "connection_lost"),
    ("unreachable", "no_enclave"),
    ("deadline_exceeded", "answer_timeout"),
    ("conflict", "retry_may_charge"),
}


class Books:
    """What the audit log of a custodian says of leases."""

    def __init__(self, world: Twin) -> None:
        bodies: list[dict[str, Any]] = [json.loads(entry)["body"] for entry in world.log_entries()]
        of_kind = {kind: [one for one in bodies if one["kind"] == f"lease_{kind}"] for kind in ("closed", "expired")}
        #: Units of each lease that was granted; what was used of each that its holder closed; those that nobody closed.
        self.granted = {one["lease_id"]: units(one) for one in bodies if one["kind"] == "lease_granted"}
        self.used = {one["lease_id"]: int(one["used"].get("inferences", 0)) for one in of_kind["closed"]}
        self.lost = {one["lease_id"] for one in of_kind["expired"]} - self.used.keys()

    def charged(self) -> int:
        """Return the units that are charged for good."""
        return sum(self.used.values()) + sum(self.granted[lease] for lease in self.lost)


def units(granted: dict[str, Any]) -> int:
    """Return the inferences of a lease."""
    return int(granted["units"]["inferences"])


#: Programs, and what returns the receipts that they were given.
Asking = tuple[list[Program], Callable[[], list[Receipt]]]


@contextmanager
def asked(way: str, world: Twin, place: Path, body: bytes) -> Iterator[Asking]:
    """Yield programs that ask this way."""
    credential = consumer_file(world)
    if way == "library":
        given, receipts = np.array(json.loads(body)["inputs"][0]["data"], np.float32).reshape(1, 64), list[Receipt]()
        with Client.connect(world.url, credential, allow_simulated=True) as client:
            yield [Program(by_library(client, given, receipts), each) for each in range(PROGRAMS)], lambda: receipts
        return
    with connecting(place, credential, world.url) as gateway:
        yield (
            [Program(through(gateway.url, body), each) for each in range(PROGRAMS)],
            lambda: [kept.signed.receipt for kept in gateway.receipts()],
        )


# The ssl module leaves a socket whose connection is reset just before the handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
@pytest.mark.parametrize("way", ["gateway", "library"])
@pytest.mark.parametrize(("number", "lost"), [(9, 2), (15, 0)], ids=["kill -9", "in good order"])
def test_an_enclave_that_restarts_under_load_charges_what_was_answered_and_no_more_than_is_lost_with_it(
    *, way: str, number: int, lost: int, tmp_path: Path, digits_model: bytes, body: bytes
) -> None:
    """Three times, with several programs: each request is answered once, or its program knows why not."""
    world = Twin(tmp_path / "world")
    world.directory.mkdir(mode=0o700)
    try:
        world.lend(digits_model, BUDGET)
        with asked(way, world, tmp_path, body) as (programs, receipts):
            for one in programs:
                one.start()
            try:
                for _ in range(3):
                    go_on(programs)
                    world.kill("enclave", number)
                    world.processes["enclave"].wait(30)
                    world.start_enclave()
                go_on(programs)
            finally:
                end_all(programs)
        world.kill("enclave", 15)
        world.processes["enclave"].wait(30)
        wait_for(lambda: pending(world) == 0, "what nobody closed is charged")
        check(world, receipts(), programs, most_lost=3 * lost)
    finally:
        world.close()


def go_on(programs: list[Program]) -> None:
    """Wait until programs have been given more answers."""
    before = sum(len(one.answered) for one in programs)
    wait_for(lambda: sum(len(one.answered) for one in programs) > before + 20, "answers go on")


def pending(world: Twin) -> int:
    """Return the units that leases hold."""
    (row,) = world.view("/v1/budgets")["budgets"]
    return int(row["pending"])


def check(world: Twin, receipts: list[Receipt], programs: list[Program], *, most_lost: int) -> None:
    """Hold answers, receipts and books against each other."""
    answered = [name for one in programs for name in one.answered]
    unknown = [name for one in programs for name in one.unknown]
    assert len(set(answered)) == len(answered)
    assert sorted(one.request_key for one in receipts) == sorted(answered)
    books, by_lease = Books(world), Counter(one.lease_id for one in receipts)
    assert world.posted() == books.charged()
    # A lease that was closed is charged for its answers; one that did not come is known to its program as unknown.
    beyond = sum(used - by_lease[lease] for lease, used in books.used.items())
    assert all(used >= by_lease[lease] for lease, used in books.used.items())
    assert beyond <= len(unknown)
    assert len(books.lost) <= most_lost
    assert all(by_lease[lease] <= books.granted[lease] for lease in books.lost)
    if most_lost:  # whoever asked at that moment may have been answered, and is not asked for again elsewhere
        assert unknown
    else:
        assert world.posted() == len(answered) + beyond
    told = {refusal for one in programs for refusal in one.refused}
    assert {(one.code, one.reason) for one in told if one.code != "lease_expired"} <= TYPED
    assert [one for one in told if not one.explained] == []
