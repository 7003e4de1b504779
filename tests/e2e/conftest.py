"""Fixtures of the end-to-end tests: a real model, one request, and deployments that are gone afterwards."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e import model
from tests.e2e.world import MakeWorld, World

from aigovtool.ledger.policy import Dial, default_policy


@pytest.fixture(scope="session")
def digits_model() -> bytes:
    """A small classifier of handwritten digits: 64 pixels in, label and probabilities out."""
    return model.digits_model()


@pytest.fixture
def body() -> bytes:
    """One inference in JSON: a digit."""
    return model.one_digit()


@pytest.fixture
def make_world(tmp_path: Path, digits_model: bytes) -> Iterator[MakeWorld]:
    """Return a function that makes a deployment with a ttl in milliseconds."""
    worlds: list[World] = []

    def make(
        *,
        budget: int,
        ttl_ms: int = 3_000,
        dial: Dial = Dial.BALANCED,
        prepare: Callable[[World], None] = lambda _: None,
    ) -> World:
        world = World(tmp_path / f"world{len(worlds)}")
        world.directory.mkdir(mode=0o700)
        worlds.append(world)
        prepare(world)
        world.prepare(digits_model, default_policy(dial, ttl_ms=ttl_ms))
        if budget:
            world.grant(budget)
        world.start_enclave()
        return world

    yield make
    for world in worlds:
        world.close()
