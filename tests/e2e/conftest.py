"""Fixtures of the end-to-end tests: a real model, one request, and deployments that are gone afterwards."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from tests.e2e.world import MakeWorld, World

from aigovtool.ledger.policy import Dial, default_policy


@pytest.fixture(scope="session")
def digits_model() -> bytes:
    """A small classifier of handwritten digits: 64 pixels in, label and probabilities out."""
    images, labels = load_digits(return_X_y=True)
    classifier = LogisticRegression(max_iter=200).fit(images[:500] / 16, labels[:500])
    graph = to_onnx(classifier, np.zeros((1, 64), np.float32), options={"zipmap": False})
    return bytes(graph.SerializeToString())


@pytest.fixture
def body() -> bytes:
    """One inference in JSON: a digit."""
    image = load_digits().images[0].reshape(64) / 16
    tensor = {"name": "X", "shape": [1, 64], "datatype": "FP32", "data": [float(np.float32(v)) for v in image]}
    return json.dumps({"inputs": [tensor]}).encode()


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
