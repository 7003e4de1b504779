"""Runs that go to the engine child as one group: against a real child, each answer is that of a single run."""

import asyncio
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.enclave.engines.grouped import (
    ANN,
    BEN,
    MINUTE_MS,
    PLENTY_MS,
    Ran,
    begin,
    form_of,
    nothing_is_left,
    one_by_one,
    over,
    run,
    taken,
)

from aigovtool.enclave.engines.group import Group
from aigovtool.enclave.engines.ipc import Limit
from aigovtool.enclave.engines.lanes import SHORT_MS, Lane
from aigovtool.enclave.engines.pending import Shares
from aigovtool.enclave.engines.process import EngineConfig, EngineProcess, LoadedModel
from aigovtool.enclave.engines.scheduling import EACH_AHEAD
from aigovtool.limits import MAX_UNREAD_BYTES_PER_CONSUMER
from aigovtool.package.manifest import Datatype as ManifestDatatype
from aigovtool.protocol.tensor import Datatype, Tensor


def index(value: int) -> list[Tensor]:
    return [Tensor("index", Datatype.INT64, (1,), value.to_bytes(8, "little", signed=True))]


async def table(kit: Any, process: EngineProcess, path: Path) -> LoadedModel:
    """Load what gives the element of a table of three, and refuses an index that is outside."""
    graph = kit.model_bytes(
        [helper.make_node("Gather", ["table", "index"], ["y"])],
        [kit.value("index", ["n"], TensorProto.INT64)],
        [kit.value("y", ["n"])],
        [helper.make_tensor("table", TensorProto.FLOAT, [3], [10.0, 11.0, 12.0])],
    )
    inputs = [kit.spec("index", ["n"], ManifestDatatype.INT64)]
    loaded: LoadedModel = await kit.seal(path / "table", [("model.onnx", graph)], inputs, [kit.spec("y", ["n"])]).load(
        process
    )
    return loaded


async def places(kit: Any, process: EngineProcess, path: Path) -> LoadedModel:
    """Load what gives the places of what is not zero: how many, depends on the data."""
    graph = kit.model_bytes(
        [helper.make_node("NonZero", ["x"], ["y"])],
        [kit.value("x", [3])],
        [kit.value("y", [1, "k"], TensorProto.INT64)],
    )
    outputs = [kit.spec("y", [1, "k"], ManifestDatatype.INT64)]
    loaded: LoadedModel = await kit.seal(path / "places", [("model.onnx", graph)], [kit.spec("x", [3])], outputs).load(
        process
    )
    return loaded


def column(values: list[float]) -> list[Tensor]:
    return [Tensor("x", Datatype.FP32, (3,), np.array(values, np.float32).tobytes())]


@pytest.mark.parametrize("count", [1, 2, 64])
async def test_a_groups_answers_are_those_of_single_runs(
    kit: Any, process: EngineProcess, double: Any, count: int
) -> None:
    """Each run has its own answer, in the order in which they were asked, and a time; all times fit into the whole."""
    model = await double.load(process)
    runs = [[kit.fp32("x", [number, 0.1 * number])] for number in range(count)]
    began = time.monotonic_ns()
    ran = await run(process, model, runs)
    took_us = (time.monotonic_ns() - began) / 1_000
    assert ran.data == await one_by_one(process, model, runs)
    assert [outputs[0].shape for outputs in ran.outputs if outputs] == [(1, 2)] * count
    assert [one.first for one in ran.pieces] == [
        sum(one.runs for one in ran.pieces[:n]) for n in range(len(ran.pieces))
    ]
    assert sum(one for one in ran.times if one is not None) <= took_us


async def test_a_group_in_the_short_lane_is_answered(kit: Any, single: EngineProcess, double: Any) -> None:
    """With the time that short runs have; a machine that is busy with something else may take that more than once."""
    model = await double.load(single)
    runs = [[kit.fp32("x", [number, number])] for number in range(4)]
    expected = await one_by_one(single, model, runs)
    for _ in range(50):
        ran = await run(single, model, runs, compute_ms=SHORT_MS)
        assert all(found in ([], right) for found, right in zip(ran.data, expected, strict=True))
        if all(ran.answered):
            return
    pytest.fail("never within its time")


async def test_each_run_of_a_group_has_its_own_time(kit: Any, process: EngineProcess, slow: Any) -> None:
    """A long run between two that take none is not shared out among all, because each may be paid by its time."""
    model = await slow.load(process)
    ran = await run(process, model, [kit.steps(1), kit.steps(100_000), kit.steps(1)])
    first, middle, last = (one or 0 for one in ran.times)
    assert ran.answered == [True] * 3
    assert middle > 2_000
    assert max(first, last) < middle


async def test_outputs_of_several_forms_are_told_apart(kit: Any, process: EngineProcess, tmp_path: Path) -> None:
    """Runs of one form may give outputs of different lengths, also none: each comes with its own shape."""
    model = await places(kit, process, tmp_path)
    runs = [column([1, 0, 0]), column([0, 1, 0]), column([1, 1, 1]), column([0, 0, 0]), column([0, 1, 1])]
    ran = await run(process, model, runs)
    assert ran.data == await one_by_one(process, model, runs)
    assert [outputs[0].shape for outputs in ran.outputs if outputs] == [(1, k) for k in (1, 1, 3, 0, 2)]


async def test_the_outputs_that_were_asked_for_come_and_no_others(
    kit: Any, process: EngineProcess, tmp_path: Path
) -> None:
    """Two inputs and one output of two, limited as single runs are."""
    graph = kit.model_bytes(
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["less"])],
        [kit.value("a", ["n", 3]), kit.value("b", ["n", 3])],
        [kit.value("sum", ["n", 3]), kit.value("less", ["n", 3])],
    )
    specs = [[kit.spec(name, ["n", 3]) for name in names] for names in (("a", "b"), ("sum", "less"))]
    model = await kit.seal(tmp_path / "m", [("model.onnx", graph)], *specs).load(process)
    runs = [[kit.fp32("a", [5, n, 0.25]), kit.fp32("b", [1, 1, 0.5])] for n in range(3)]
    ran = await run(process, model, runs, outputs=("less",), limits=(Limit("less", 1, False, 0),))
    for outputs in ran.outputs:
        assert outputs is not None
        assert [(one.name, kit.numbers(one)) for one in outputs] == [("less", [[4, 0, 0]])]


async def test_a_run_that_the_model_refuses_fails_alone(kit: Any, process: EngineProcess, tmp_path: Path) -> None:
    """In the middle, first and last: nothing comes of it, and each of the others has its own answer."""
    model = await table(kit, process, tmp_path)
    for indices in ([0, 99, 2], [99, 1, 0], [1, 2, 99], [99, 98, 0, 97, 1]):
        ran = await run(process, model, [index(each) for each in indices])
        assert ran.answered == [each < 3 for each in indices]
        values = [[np.float32(10 + each).tobytes()] if each < 3 else [] for each in indices]
        assert ran.data == values


@pytest.mark.parametrize("finite", [True, False])
async def test_what_is_no_number_is_looked_for_in_each_run(
    kit: Any,
    process: EngineProcess,
    double: Any,
    finite: bool,  # noqa: FBT001 -- case
) -> None:
    """A NaN in one run of three refuses that run alone, and only where the terms say so."""
    model = await double.load(process)
    runs = [[kit.fp32("x", [1, 2])], [kit.fp32("x", [math.nan, 2])], [kit.fp32("x", [3, 4])]]
    assert (await run(process, model, runs, finite=finite)).answered == [True, not finite, True]


async def test_nothing_comes_of_a_group_for_a_model_that_is_not_loaded(
    kit: Any, process: EngineProcess, double: Any
) -> None:
    """All runs are told so, and the child serves others as before."""
    first, second = await double.load(process), await double.load(process)
    await process.unload(first)
    ran = await run(process, first, [[kit.fp32("x", [1, 2])]] * 3)
    assert ran.answered == [False] * 3
    assert await kit.doubles(process, second)


async def test_nothing_comes_of_a_group_whose_deadline_has_passed(
    kit: Any, process: EngineProcess, double: Any
) -> None:
    """It is not computed late."""
    model = await double.load(process)
    ran = await run(process, model, [[kit.fp32("x", [1, 2])]] * 3, deadline_ms=-1)
    assert ran.answered == [False] * 3
    assert await kit.doubles(process, model)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("compute_ms", "deadline_ms"), [(400, MINUTE_MS), (PLENTY_MS, 400)])
async def test_a_group_ends_with_the_time_of_all_its_runs(
    kit: Any, double: Any, slow: Any, *, compute_ms: int, deadline_ms: int, workers: int
) -> None:
    """A run without an end takes no more than that, none after it is begun, and the child computes for others."""
    process = await EngineProcess.start(EngineConfig(workers=workers))
    try:
        short, long = await double.load(process), await slow.load(process)
        runs = [kit.steps(1), kit.steps(kit.FOR_EVER), kit.steps(1)]
        ran = await run(process, long, runs, compute_ms=compute_ms, deadline_ms=deadline_ms)
        assert ran.answered == [True, False, False]
        for _ in range(3):
            assert (await run(process, long, [kit.steps(kit.FOR_EVER)] * 2, compute_ms=SHORT_MS)).told
            assert await kit.doubles(process, short)
    finally:
        await process.kill_and_wait()


# --- Places and turns --------------------------------------------------------------------------


async def test_places_are_taken_until_the_child_has_answered_and_nobody_needs_them(
    kit: Any, process: EngineProcess, slow: Any
) -> None:
    """One for each run, and the bytes of all inputs, from the moment that they are promised."""
    model = await slow.load(process)
    runs = [kit.steps(1), kit.steps(200_000), kit.steps(1)]
    ran = begin(process, model, form_of(model, runs[0]), runs)
    assert taken(process) == (3, 3 * (8 + 256))
    await over(ran)
    await nothing_is_left(process)


Refused = Callable[[EngineProcess, LoadedModel], object]
REFUSED: dict[str, Refused] = {
    "the lane is the middle one": lambda process, model: process._pending.habits.learn(ANN, model.handle, Lane.MIDDLE),
    "answers are not taken": lambda process, _: process.unread._change(ANN, MAX_UNREAD_BYTES_PER_CONSUMER + 1),
    "places are taken": lambda process, _: process._pending.place(ANN, 0, 6),
    "bytes are taken": lambda process, _: process._pending.place(ANN, 990),
}


@pytest.mark.parametrize("why", REFUSED)
async def test_no_group_begins_where_single_runs_are_better_asked_for(kit: Any, double: Any, why: str) -> None:
    """Nothing is taken by asking; another consumer has its group."""
    shares = Shares(requests=16, requests_per_consumer=8, size_bytes=2_000, size_bytes_per_consumer=1_000)
    process = await EngineProcess.start(EngineConfig(shares=shares))
    try:
        model = await double.load(process)
        runs = [[kit.fp32("x", [1, 2])]] * 3
        form = form_of(model, runs[0])
        REFUSED[why](process, model)
        before = taken(process)
        for _ in range(3):
            assert begin(process, model, form, runs) is None
        assert taken(process) == before
        assert all((await over(begin(process, model, form, runs, consumer=BEN))).answered)
        assert taken(process) == before
    finally:
        await process.kill_and_wait()


async def test_more_groups_than_turns_are_run_one_after_another(kit: Any, single: EngineProcess, double: Any) -> None:
    """Those that have no turn yet wait for one; all are answered, and single runs between them as well."""
    model = await double.load(single)
    form = form_of(model, [kit.fp32("x", [0, 0])])
    count = 3 * EACH_AHEAD
    groups = [begin(single, model, form, [[kit.fp32("x", [n, m])] for m in range(4)]) for n in range(count)]
    assert single._pending.scheduler._short.at_work < count
    assert await kit.doubles(single, model)
    for number, ran in enumerate(groups):
        found = [kit.numbers(outputs[0]) for outputs in (await over(ran)).outputs if outputs]
        assert found == [[[2 * number, 2 * m]] for m in range(4)]
    await nothing_is_left(single)


# --- The child dies ----------------------------------------------------------------------------


async def test_groups_of_a_child_that_dies_are_told_once(kit: Any, process: EngineProcess, slow: Any) -> None:
    """Those at work, those that wait for a turn; no place is left, and nothing more is begun."""
    model = await slow.load(process)
    form = form_of(model, kit.steps(1))
    groups = [begin(process, model, form, [kit.steps(kit.FOR_EVER)] * 4) for _ in range(12)]
    waiting = asyncio.ensure_future(process.run(model, kit.steps(1), [], MINUTE_MS, consumer=ANN))
    await asyncio.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    for ran in groups:
        found = await over(ran)
        assert (found.told, found.answered) == (1, [False] * 4)
    await asyncio.gather(waiting, return_exceptions=True)
    await process.died.wait()
    assert process.running_at_end == {model.handle}
    assert begin(process, model, form, [kit.steps(1)]) is None
    await nothing_is_left(process)


async def test_a_group_that_has_its_place_when_the_child_dies_is_told_so(
    kit: Any, process: EngineProcess, double: Any
) -> None:
    """Nothing is sent, and nobody waits for ever."""
    model = await double.load(process)
    form = form_of(model, [kit.fp32("x", [1, 2])])
    place = process.groups.place(ANN, form, 2)
    assert place is not None
    ran = Ran(2)
    group = Group(model.interface, form, [bytes(8)] * 2, place, ran.took)
    process.kill()
    process.groups.run(group, ANN, Lane.SHORT, time.monotonic_ns() + 1_000_000_000)
    await over(ran)
    assert (ran.told, ran.answered) == (1, [False, False])
    await process.died.wait()
    await nothing_is_left(process)


async def test_a_group_that_is_not_done_counts_as_a_try_that_is_not(
    kit: Any, process: EngineProcess, slow: Any
) -> None:
    """Attack: runs without an end in groups, which take a thread for as long as short ones may and count as nothing."""
    model = await slow.load(process)
    form = form_of(model, kit.steps(1), compute_ms=10)
    groups = [begin(process, model, form, [kit.steps(kit.FOR_EVER)] * 2) for _ in range(2)]
    account = process._pending.scheduler._short._accounts[ANN]
    most = account.most
    for group in groups:
        await over(group)
    assert account.used_ns >= 2 * 10_000_000
    assert account.most <= most


async def test_a_group_that_no_frame_holds_has_no_place(kit: Any, process: EngineProcess, double: Any) -> None:
    """More runs than a frame may ask for: refused where the place is asked for."""
    model = await double.load(process)
    one = [kit.fp32("x", [1, 2])]
    ran = begin(process, model, form_of(model, one), [one] * 65)
    if ran is not None:
        await over(ran)
    assert not process.died.is_set()


async def test_a_group_of_more_bytes_than_a_frame_has_is_told_so(process: EngineProcess, double: Any) -> None:
    """Its places and its turn are given back, and the next one is told so as well."""
    model = await double.load(process)
    one = [Tensor("x", Datatype.FP32, (1 << 17, 2), bytes(1 << 20))]
    for _ in range(2):
        try:
            ran = begin(process, model, form_of(model, one), [one] * 64, consumer=ANN)
            if ran is not None:
                await over(ran)
        finally:
            assert len(process._pending) == 0, taken(process)
