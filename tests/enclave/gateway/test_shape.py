"""How many requests of a form are tried together: as many as a short try has time for, by what the last ones took."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from operator import mul
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
TRY_US = SHORT_MS * 1_000


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


def learned(shape: Shape, cost_us: Callable[[int], int], rounds: int = 40) -> int:
    """Have as many tried as may be, again and again, by what they would take; return how many are tried in the end."""
    for _ in range(rounds):
        count = min(32, shape.most_in_try)
        done = max(done for done in range(count + 1) if cost_us(done) <= TRY_US)
        if done == count:
            shape.took(count, cost_us(count))
        else:
            assert shape.was_late(count, done, cost_us(done))
    return shape.most_in_try


async def test_as_many_are_tried_together_as_a_try_has_time_for(shape: Shape) -> None:
    """At first as many as there may be; of slower runs fewer, down to one, and more again when they get faster."""
    assert shape.most_in_try == MAX_GROUP
    for each_us, least, most in ((1_000, 6, 9), (6_000, 1, 1), (2_000, 3, 4), (10, MAX_GROUP, MAX_GROUP)):
        assert least <= learned(shape, partial(mul, each_us)) <= most


async def test_one_try_that_took_long_by_chance_changes_little(shape: Shape) -> None:
    """A single run of half a try says nothing of many; one try that took nearly all of it is soon made up for."""
    shape.took(1, TRY_US // 2)
    assert shape.most_in_try == MAX_GROUP
    shape.took(32, TRY_US - 1)
    assert shape.most_in_try == 24
    shape.took(24, 500)
    assert shape.most_in_try == 48


#: One was alone, or none was done, or the others took next to no time.
LATE_OF_ONE = ((1, 0, 0), (8, 0, 0), (32, 20, 2_000))


@pytest.mark.parametrize(("count", "done", "took_us"), LATE_OF_ONE)
async def test_a_try_that_was_late_of_one_run_is_no_try_of_too_many(
    shape: Shape, count: int, done: int, took_us: int
) -> None:
    """As many are tried the next time; the second time on end such runs are long, and none is tried."""
    assert shape.was_late(count, done, took_us)
    assert shape.most_in_try == MAX_GROUP
    assert not shape.was_late(count, done, took_us)
    assert not shape.was_late(count, done, took_us)  # a pause alone makes up for nothing
    assert shape.most_in_try == MAX_GROUP


async def test_a_try_that_was_late_of_too_many_says_nothing_of_long_runs(shape: Shape) -> None:
    """However often that is, fewer are tried, and single runs may still be late once."""
    assert shape.was_late(32, 8, 9_000)
    assert shape.most_in_try == 6
    assert shape.was_late(32, 8, 9_000)
    assert shape.was_late(6, 0, 0)


async def test_a_run_that_waits_for_a_core_now_and_then_stops_nobody(shape: Shape) -> None:
    """Attack: more to do than cores, so one of hundreds is late by chance; all others were a second without a try.

    The time that such runs lose may be a fifth of the time in which others are done.
    """
    for _ in range(100):
        assert shape.was_late(32, 31, 4_000)
        for _ in range(10):
            shape.took(32, 4_000)


async def test_a_long_run_among_short_ones_is_still_seen(shape: Shape) -> None:
    """Each costs a try, and the few that are done between two of them do not make up for that."""
    assert shape.was_late(32, 31, 4_000)
    for _ in range(5):
        shape.took(32, 400)
    assert not shape.was_late(32, 31, 4_000)


async def test_runs_that_are_computed_in_one_are_as_many_as_it_has_time_for(
    shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are late together, so half as many are tried; where more take hardly longer than one, many are."""
    together = {lane: cast("Any", SimpleNamespace(compute_ms=SHORT_MS, together=True)) for lane in shape.forms}
    monkeypatch.setattr(shape, "forms", together)
    for count, most in ((32, 16), (16, 8), (3, 1)):
        assert shape.was_late(count, 0, 0)
        assert shape.most_in_try == most
    assert shape.was_late(1, 0, 0)
    assert not shape.was_late(1, 0, 0)
    shape.took(1, 4_000)
    for _ in range(5):
        count = shape.most_in_try
        shape.took(count, 4_000 + 30 * count)
    assert shape.most_in_try >= 32
    shape.took(1, 4_000)  # one that comes alone does not make it fewer
    assert shape.most_in_try >= 32


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
            answers = await asyncio.gather(*(fast.ask(binary((n, -n))) for n in range(24)))
            told = [(number, answer) for number, answer in enumerate(answers) if answer is not None]
            assert told
            assert all(outputs_of(answer) == [number, -number] for number, answer in told)
