"""Stricter terms, ordered while an enclave serves the model: kept to within one renewal, and nothing boots for it."""

import json
import math
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from tests.attacks.deployments import deployed
from tests.attacks.laborious import asked, laborious_model
from tests.attacks.refusals import refusal_of
from tests.e2e.world import BORROWER, MODEL, Answer, Connection, World
from tests.observations import Observed

from aigovtool.ledger.inputs import InputTerms
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.protocol import commands

TTL_MS = 3_000
#: For the machines that this runs on.
SLACK_S = 1.0
ONE = struct.pack("<f", 1.0)
#: Days of work.
ENDLESS = 1 << 40


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A model whose work follows its input, lent on terms that bound neither; an enclave serves it."""
    with deployed(tmp_path_factory.mktemp("terms") / "world", budget=100_000, model=laborious_model()) as made:
        yield made


@pytest.fixture
def link(world: World) -> Connection:
    """A consumer's connection to the enclave, on the terms of the beginning."""
    order(world)
    link = world.connect()
    world.wait_for(lambda: ask(link, struct.pack("<f", math.nan)).status == 200, "the terms are those of the beginning")
    return link


def order(world: World, **members: Any) -> None:
    """Lend the model on the terms of the beginning but for these members."""
    (shown,) = world.view("/v1/models")["models"]
    policy = default_policy(Dial.BALANCED, ttl_ms=TTL_MS, version=shown["policy"]["version"] + 1)
    changed = msgspec.structs.replace(policy, **members)
    world.command(commands.SetModelTerms(model=MODEL, policy=changed, borrowers=[BORROWER]))


def ask(link: Connection, x: bytes, count: int = 1) -> Answer:
    """Ask for one inference."""
    body, headers = asked(x, count=count)
    return link.infer(body, **headers)


def within_a_renewal(condition: Callable[[], bool]) -> float:
    """Wait until something holds that must hold before authority on older terms is over; return how long that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < TTL_MS / 1000 + SLACK_S
    return time.monotonic() - began


def charged(world: World) -> int:
    """Return what was charged for good, when all leases are given back."""
    (row,) = world.view("/v1/budgets")["budgets"]
    return int(row["posted"]) if not row["pending"] else -1


def settled(world: World) -> int:
    """Wait until nothing is held, and return what was charged."""
    world.wait_for(lambda: charged(world) >= 0, "all leases are given back")
    return charged(world)


@pytest.mark.attack(29)
def test_numbers_without_a_meaning_are_refused_as_soon_as_terms_say_so(
    world: World, link: Connection, observed: Observed
) -> None:
    """They were answered before; then each is refused, whatever it is, and charged nothing."""
    engine = world.engine_pid()
    order(world, inputs=InputTerms(finite=True))
    took = within_a_renewal(lambda: ask(link, struct.pack("<f", math.nan)).status == 422)
    before = settled(world)
    for value in (math.nan, math.inf, -math.inf):
        refused = refusal_of(ask(link, struct.pack("<3f", 1.0, value, 2.0)), 422)
        assert observed.refusal(refused) == "invalid_value: not_finite"
        assert "inf" not in json.dumps(refused).replace("infinity", "")
    assert settled(world) == before
    assert ask(link, ONE).status == 200
    assert world.engine_pid() == engine
    observed.figure("seconds until numbers only were taken", round(took, 2))


@pytest.mark.attack(29)
def test_runs_end_at_a_limit_as_soon_as_terms_have_one(world: World, link: Connection, observed: Observed) -> None:
    """Nothing is metered but answers: days of work end at the limit all the same, uncharged."""
    engine = world.engine_pid()
    order(world, max_run_ms=700, inputs=InputTerms(finite=True))
    # Terms come whole: when the one is in force, so is the other.
    took = within_a_renewal(lambda: ask(link, struct.pack("<f", math.nan)).status == 422)
    before = settled(world)
    for _ in range(2):
        began = time.monotonic()
        refused = refusal_of(ask(link, ONE, ENDLESS), 504)
        assert observed.refusal(refused) == "deadline_exceeded: compute_limit"
        assert "700 ms" in refused["detail"]
        # Once for a try that is too short, and once for the limit: the request's own deadline is a minute.
        assert time.monotonic() - began < 20
    assert settled(world) == before
    assert ask(link, ONE).status == 200
    assert world.engine_pid() == engine
    observed.figure("seconds until runs were ended", round(took, 2))


def test_a_shorter_silence_ends_an_enclave_that_hears_nothing(world: World, link: Connection) -> None:
    """It was ten minutes when it booted: told otherwise, it is gone two seconds after it heard its custodian last."""
    engine = world.engine_pid()
    order(world, wipe_after_ms=2_000)
    # Three heartbeats in two seconds: it does not end by itself while it is heard.
    time.sleep(TTL_MS / 1000 + SLACK_S)
    assert ask(link, ONE).status == 200
    assert world.engine_pid() == engine
    world.processes["custodian"].send_signal(19)
    try:
        began = time.monotonic()
        world.wait_for(lambda: engine not in engines(world), "the engine is gone")
        assert time.monotonic() - began < 2 + SLACK_S
    finally:
        world.processes["custodian"].send_signal(18)
    world.wait_ready()


def engines(world: World) -> set[int]:
    """Return the processes that the enclave has for engines."""
    try:
        return {world.engine_pid()}
    except (FileNotFoundError, IndexError):
        return set()
