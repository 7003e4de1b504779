"""Groups where a consumer's runs are known to take longer than a short try: one run each, in the middle lane."""

import asyncio
from typing import Any

import pytest
from tests.enclave.engines.grouped import ANN, BEN, Ran, begin, form_of, nothing_is_left, over

from aigovtool.enclave.engines.lanes import MIDDLE_MS, Lane
from aigovtool.enclave.engines.process import EngineProcess, LoadedModel

#: Steps that take longer than half a short try, and far less than a second.
SOME_STEPS = 100_000


def learn(process: EngineProcess, model: LoadedModel, lane: Lane) -> None:
    """Have Ann's next run of the model begin in this lane."""
    process._pending.habits.learn(ANN, model.handle, lane)


async def one(process: EngineProcess, model: LoadedModel, inputs: Any, compute_ms: int = MIDDLE_MS) -> Ran:
    """Return what came of a group of one run."""
    return await over(begin(process, model, form_of(model, inputs, compute_ms=compute_ms), [inputs]))


async def test_a_longer_run_is_answered_as_a_group_of_its_own(kit: Any, process: EngineProcess, slow: Any) -> None:
    """It has a turn of the middle lane while it is at work, and leaves nothing."""
    model = await slow.load(process)
    learn(process, model, Lane.MIDDLE)
    steps = kit.steps(SOME_STEPS)
    ran = begin(process, model, form_of(model, steps, compute_ms=MIDDLE_MS), [steps])
    scheduler = process._pending.scheduler
    assert (scheduler._short.at_work, scheduler._middle.at_work) == (0, 1)
    assert (await over(ran)).answered == [True]
    await nothing_is_left(process)
    assert scheduler._middle.at_work == 0
    assert process.groups.lane(ANN, model.handle) is Lane.MIDDLE


async def test_several_longer_runs_have_no_place_as_one_group(kit: Any, process: EngineProcess, double: Any) -> None:
    """Each would wait for those before it; nor has a run that may take all the time that there is."""
    model = await double.load(process)
    inputs = kit.fp32("x", [1, 2])
    form = form_of(model, [inputs], compute_ms=MIDDLE_MS)
    learn(process, model, Lane.MIDDLE)
    assert begin(process, model, form, [[inputs]] * 2) is None
    learn(process, model, Lane.LONG)
    assert begin(process, model, form, [[inputs]]) is None
    await nothing_is_left(process)


async def test_a_run_that_turns_out_short_begins_in_the_short_lane_next(
    kit: Any, process: EngineProcess, double: Any
) -> None:
    """As a single run does."""
    model = await double.load(process)
    learn(process, model, Lane.MIDDLE)
    assert (await one(process, model, [kit.fp32("x", [1, 2])])).answered == [True]
    assert process.groups.lane(ANN, model.handle) is Lane.SHORT


async def test_a_run_that_outlasts_the_middle_lane_begins_in_the_last_one_next(
    kit: Any, process: EngineProcess, slow: Any
) -> None:
    """So it is not tried for another second in vain."""
    model = await slow.load(process)
    learn(process, model, Lane.MIDDLE)
    assert (await one(process, model, kit.steps(kit.FOR_EVER))).answered == [False]
    assert process.groups.lane(ANN, model.handle) is Lane.LONG
    await nothing_is_left(process)


async def test_a_run_that_outlasts_its_own_limit_has_no_longer_lane(
    kit: Any, process: EngineProcess, slow: Any
) -> None:
    """It may not compute for longer, so the lane stays."""
    model = await slow.load(process)
    learn(process, model, Lane.MIDDLE)
    assert (await one(process, model, kit.steps(kit.FOR_EVER), compute_ms=30)).answered == [False]
    assert process.groups.lane(ANN, model.handle) is Lane.MIDDLE


async def test_longer_runs_wait_for_their_turn_and_are_all_answered(kit: Any, single: EngineProcess, slow: Any) -> None:
    """One at a time with one worker, and one ahead of who is alone."""
    model = await slow.load(single)
    learn(single, model, Lane.MIDDLE)
    steps = kit.steps(SOME_STEPS)
    form = form_of(model, steps, compute_ms=MIDDLE_MS)
    groups = [begin(single, model, form, [steps]) for _ in range(4)]
    assert single._pending.scheduler._middle.at_work == 2
    for ran in groups:
        assert (await over(ran)).answered == [True]
    await nothing_is_left(single)


async def test_a_turn_that_does_not_come_is_given_up(
    kit: Any, single: EngineProcess, slow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request goes another way while there is time; its place and its place in the line are another's."""
    monkeypatch.setattr("aigovtool.enclave.engines.groups.PATIENCE_S", 0.05)
    model = await slow.load(single)
    learn(single, model, Lane.MIDDLE)
    endless = kit.steps(kit.FOR_EVER)
    form = form_of(model, endless, compute_ms=600)
    at_work = [begin(single, model, form, [endless]) for _ in range(2)]
    waiting = await over(begin(single, model, form, [endless]))
    assert (waiting.told, waiting.answered) == (1, [False])
    assert not any(one is None or one.is_over.is_set() for one in at_work)
    assert not single._pending.scheduler._middle.waiting
    for one in at_work:
        assert (await over(one)).answered == [False]
    await nothing_is_left(single)
    assert single._pending.scheduler._middle.at_work == 0


async def test_one_consumers_longer_runs_are_not_anothers(kit: Any, process: EngineProcess, double: Any) -> None:
    """What is learned of Ann's runs says nothing of Ben's, which are together as ever."""
    model = await double.load(process)
    learn(process, model, Lane.MIDDLE)
    inputs = [kit.fp32("x", [1, 2])]
    ran = await over(begin(process, model, form_of(model, inputs), [inputs] * 3, consumer=BEN))
    assert ran.answered == [True] * 3


async def test_the_child_dies_while_longer_runs_wait_for_their_turn(kit: Any, single: EngineProcess, slow: Any) -> None:
    """Each is told once that nothing came of it."""
    model = await slow.load(single)
    learn(single, model, Lane.MIDDLE)
    endless = kit.steps(kit.FOR_EVER)
    form = form_of(model, endless, compute_ms=MIDDLE_MS)
    groups = [begin(single, model, form, [endless]) for _ in range(3)]
    await asyncio.sleep(0.05)
    single.kill()
    for ran in groups:
        found = await over(ran)
        assert (found.told, found.answered) == (1, [False])
    await single.died.wait()
    await nothing_is_left(single)
