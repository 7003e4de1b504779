"""How many requests of a form are tried together: as many as a short try has time for, by what the last ones took."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL
from tests.enclave.gateway.fast import Fast, binary, outputs_of
from tests.enclave.site import Service, asked, open_site, served

from aigovtool.enclave.engines.ipc import MAX_GROUP
from aigovtool.enclave.engines.lanes import SHORT_MS
from aigovtool.enclave.gateway.shape import Shape, Shapes
from aigovtool.ledger.policy import Dial, default_policy

#: What a run of the slower model takes: in a short try there is time for less than ten of them.
RUN_S = 0.001
WIDTH = 256


@pytest.fixture
async def shape(service: Service) -> Shape:
    """A form in which nothing was asked yet."""
    found, _ = Shapes().of(asked(service.run), service.run.charging.terms(MODEL))
    return found


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """An instance of a model that takes no time."""
    async with open_site(tmp_path) as site:
        await site.bench.add_consumer(CONSUMER, BORROWER)
        await site.bench.grant(1_000_000)
        async with served(site) as made:
            yield made


def only_shape(fast: Fast, service: Service) -> Shape:
    shapes = fast.path._shapes[CONSUMER, service.run.instance.models[MODEL].loaded.handle]
    (shape,) = shapes._shapes.values()
    return shape


async def test_as_many_are_tried_together_as_a_try_has_time_for(shape: Shape) -> None:
    """At first as many as there may be; then by the mean of the last ones, from one to that again."""
    assert shape.most_in_try == MAX_GROUP
    time_us = SHORT_MS * 750  # three quarters of a try
    for each_us, most in ((time_us // 10, 10), (time_us * 3, 1), (time_us // 10, 10), (0, MAX_GROUP)):
        for _ in range(100):
            shape.took(20, 20 * each_us)
        assert most - 1 <= shape.most_in_try <= most


async def test_one_run_that_took_long_by_chance_changes_little(shape: Shape) -> None:
    """A hundred of ten microseconds, and one for which the machine had no time."""
    shape.took(100, 1_000)
    shape.took(1, 5_000)
    assert shape.most_in_try == MAX_GROUP


async def test_a_try_that_is_late_has_fewer_tried_together(shape: Shape) -> None:
    """By how many were done; nothing is to be learned of one that was alone, or of which none was done."""
    assert (shape.was_late(0, 1), shape.was_late(0, 8)) == (False, False)
    assert shape.most_in_try == MAX_GROUP
    assert shape.was_late(8, 32)
    assert shape.most_in_try == 6


async def test_of_runs_that_are_computed_in_one_none_is_done(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are late together, so half as many are tried, until one is alone."""
    together = {lane: cast("Any", SimpleNamespace(compute_ms=SHORT_MS, together=True)) for lane in shape.forms}
    monkeypatch.setattr(shape, "forms", together)
    tried = []
    while shape.was_late(0, shape.most_in_try):
        tried.append(shape.most_in_try)
    assert tried == sorted(tried, reverse=True)
    assert (tried[-1], len(tried) < 6) == (1, True)


def _chain(layers: int) -> bytes:
    """Return a model whose output is its input, after so many products with a matrix."""
    value = helper.make_tensor_value_info
    wide, unit = np.eye(2, WIDTH, dtype=np.float32), np.eye(WIDTH, dtype=np.float32)
    arrays = {"in": wide, "unit": unit, "out": wide.T.copy()}
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    nodes = [helper.make_node("MatMul", ["x", "in"], ["h0"])]
    nodes += [helper.make_node("MatMul", [f"h{i}", "unit"], [f"h{i + 1}"]) for i in range(layers)]
    nodes += [helper.make_node("MatMul", [f"h{layers}", "out"], ["y"])]
    shaped = [value(name, TensorProto.FLOAT, [None, 2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", shaped[:1], shaped[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = made.SerializeToString()
    return content


def _run_s(graph: bytes) -> float:
    """Return what a run takes on this machine when nothing else goes on."""
    session, x = onnxruntime.InferenceSession(graph), np.ones((1, 2), np.float32)
    return min(_timed(lambda: session.run(None, {"x": x})) for _ in range(50))


def _timed(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


async def test_runs_of_a_millisecond_are_answered_together(tmp_path: Path) -> None:
    """More at once than a try has time for: soon as many are tried together as it has, and all are answered."""
    layers = max(1, round(RUN_S / _run_s(_chain(20)) * 20))
    policy = default_policy(Dial.BALANCED)
    async with open_site(tmp_path, graph=_chain(layers), policy=policy) as site:
        await site.bench.add_consumer(CONSUMER, BORROWER)
        await site.bench.grant(1_000_000)
        async with served(site) as service:
            fast = Fast(service)
            await (
                fast.warm()
            )  # until all of two dozen are answered: as one try, or with pauses of a second, they never are
            assert only_shape(fast, service).most_in_try < 24
            for number, answer in enumerate(await asyncio.gather(*(fast.ask(binary((n, -n))) for n in range(24)))):
                assert answer is None or outputs_of(answer) == [number, -number]
