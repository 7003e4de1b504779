"""Groups of a child that may be anybody's: what it says of them is looked at, and how long it takes has an end."""

import asyncio
import time
from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet

import pytest
from tests.enclave.engines.grouped import (
    ANN,
    BEN,
    MINUTE_MS,
    FakeChild,
    Ran,
    begin,
    form_of,
    nothing_is_left,
    over,
    served,
    taken,
)

from aigovtool.enclave.engines.group import Came, Form, Group
from aigovtool.enclave.engines.interface import ModelInterface
from aigovtool.enclave.engines.ipc import (
    MAX_GROUP,
    Answered,
    Failed,
    GroupAnswered,
    Hello,
    Message,
    Run,
    TensorHeader,
    Unloaded,
    failure,
)
from aigovtool.enclave.engines.lanes import Lane
from aigovtool.enclave.engines.pending import Pending, Shares
from aigovtool.enclave.engines.scheduling import EFFORT_NS
from aigovtool.errors import DeadlineError, EngineError
from aigovtool.package.manifest import Datatype as ManifestDatatype
from aigovtool.package.manifest import TensorSpec
from aigovtool.protocol.tensor import Datatype, Tensor

X = TensorSpec(name="x", datatype=ManifestDatatype.FP32, shape=("n", 2))
Y = TensorSpec(name="y", datatype=ManifestDatatype.FP32, shape=("n", 2))
MODEL = served(ModelInterface((X,), (Y,)))
INPUTS = [Tensor("x", Datatype.FP32, (1, 2), bytes(8))]
OUTPUT = TensorHeader("y", Datatype.FP32, (1, 2), 8)
HOUR_US = 3_600 * 10**6
RUNS = 3


@pytest.fixture
async def child() -> AsyncIterator[FakeChild]:
    """A child with a model that gives as many rows as it is given."""
    started = await FakeChild.start()
    try:
        yield started
    finally:
        await started.end()


def group_of(child: FakeChild, count: int = RUNS) -> Ran:
    ran = begin(child.process, MODEL, form_of(MODEL, INPUTS), [INPUTS] * count)
    assert ran is not None
    return ran


async def has_died(child: FakeChild, running: AbstractSet[int] = frozenset({MODEL.handle})) -> None:
    async with asyncio.timeout(30):
        await child.process.died.wait()
    assert child.process.running_at_end == running
    await nothing_is_left(child.process)


Said = tuple[Message, bytes]


def answers(id_: int, count: int, *headers: TensorHeader, size: int | None = None, took_us: int = 0) -> Said:
    """Return an answer to so many runs, with outputs like these, and so many bytes."""
    outputs = headers or (OUTPUT,)
    whole = count * sum(one.size_bytes for one in outputs) if size is None else size
    return GroupAnswered(id_, outputs, (took_us,) * count), bytes(whole)


#: What no honest child says to a group of three runs whose ids begin with 1.
BAD: dict[str, list[Said]] = {
    "an id that nobody asked for": [answers(8, 1)],
    "the id before": [answers(0, 1)],
    "the last run first": [answers(3, 1)],
    "the second run first": [answers(2, 2)],
    "more runs than asked": [answers(1, RUNS + 1)],
    "more runs than are left": [answers(1, 2), answers(3, 2)],
    "the same run twice": [answers(1, 1), answers(1, 1)],
    "an answer after the last": [answers(1, RUNS), answers(1 + RUNS, 1)],
    "no runs": [(GroupAnswered(1, (OUTPUT,), ()), b"")],
    "more runs than a frame may answer": [answers(1, MAX_GROUP + 1)],
    "data that cannot be divided": [answers(1, 2, size=17)],
    "too little data": [answers(1, 2, size=8)],
    "too much data": [answers(1, 2, size=32)],
    "no data": [answers(1, RUNS, size=0)],
    "another shape": [answers(1, RUNS, TensorHeader("y", Datatype.FP32, (1, 3), 12))],
    "another rank": [answers(1, RUNS, TensorHeader("y", Datatype.FP32, (2,), 8))],
    "less data than the shape has": [answers(1, RUNS, TensorHeader("y", Datatype.FP32, (2, 2), 8))],
    "another datatype": [answers(1, RUNS, TensorHeader("y", Datatype.INT32, (1, 2), 8))],
    "another name": [answers(1, RUNS, TensorHeader("z", Datatype.FP32, (1, 2), 8))],
    "one output more": [answers(1, RUNS, OUTPUT, TensorHeader("z", Datatype.FP32, (1, 2), 8))],
    "an output twice": [answers(1, RUNS, OUTPUT, OUTPUT)],
    "no output": [(GroupAnswered(1, (), (0,) * RUNS), b"")],
    "an hour in a moment": [answers(1, RUNS, took_us=HOUR_US)],
    "an hour of one run of three": [(GroupAnswered(1, (OUTPUT,), (0, HOUR_US, 0)), bytes(24))],
    "an hour after an honest answer": [answers(1, 1), answers(2, 2, took_us=HOUR_US)],
    "the answer to a single run": [(Answered(1, (OUTPUT,), 0), bytes(8))],
    "the answer to a single run in the middle": [(Answered(2, (OUTPUT,), 0), bytes(8))],
    "the answer to something else": [(Unloaded(1), b"")],
    "a refusal of the second run first": [(Failed(2, "deadline", None, "no"), b"")],
    "a refusal of a kind that is none": [(Failed(1, "no_such_error", None, "no"), b"")],
    "a refusal of nothing": [(Failed(9, "deadline", None, "no"), b"")],
    "a second hello": [(Hello(bytes(32), ()), b"")],
}


@pytest.mark.parametrize("what", BAD)
async def test_a_child_that_says_of_a_group_what_no_honest_one_does_is_killed(child: FakeChild, what: str) -> None:
    """Attack: each bad frame ends the child; nothing of it is taken, and whoever asked is told that nothing comes."""
    group = group_of(child)
    assert (await child.asked()).id == 1
    good = 0
    for message, payload in BAD[what][:-1]:
        await child.say(message, payload)
        good += len(message.compute_us) if isinstance(message, GroupAnswered) else 0
    while sum(group.answered) < good:  # noqa: ASYNC110 - what is taken is told in a later turn of the loop
        await asyncio.sleep(0)
    message, payload = BAD[what][-1]
    await child.say(message, payload)
    await over(group)
    await has_died(child, {MODEL.handle} if good < RUNS else set())
    assert sum(group.answered) == good


async def test_an_honest_answer_is_taken_in_pieces(child: FakeChild) -> None:
    """As they come: two runs, a refusal, and the rest; all is over with the last one, and the child lives."""
    group = group_of(child, 5)
    asked = await child.asked()
    assert (asked.id, asked.count, asked.model, asked.inputs) == (1, 5, MODEL.handle, form_of(MODEL, INPUTS).inputs)
    await child.say(GroupAnswered(1, (OUTPUT,), (0, 0)), b"1" * 8 + b"2" * 8)
    await child.say(Failed(3, "invalid_value", "not_finite", "no"))
    while len(group.pieces) < 2:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.005)
    assert not group.is_over.is_set()
    assert taken(child.process) == (5, 40)
    two_rows = TensorHeader("y", Datatype.FP32, (2, 2), 16)
    await child.say(GroupAnswered(4, (two_rows,), (0, 0)), b"4" * 16 + b"5" * 16)
    await over(group)
    assert group.data == [[b"1" * 8], [b"2" * 8], [], [b"4" * 16], [b"5" * 16]]
    assert [(one.first, one.runs) for one in group.pieces] == [(0, 2), (2, 1), (3, 2)]
    await nothing_is_left(child.process)
    assert not child.process.died.is_set()


@pytest.mark.parametrize(
    ("spec", "payload", "size", "believed"),
    [
        (ManifestDatatype.BOOL, [1, 0, 0, 1], 2, True),
        (ManifestDatatype.BOOL, [1, 0, 0, 2], 2, False),
        (ManifestDatatype.BOOL, [2, 0, 0, 1], 2, False),
        (ManifestDatatype.BYTES, [1, 0, 0, 0, 65, 0, 0, 0, 0] * 2, 9, True),
        (ManifestDatatype.BYTES, [1, 0, 0, 0, 65, 0, 0, 0, 0, 2, 0, 0, 0, 65, 0, 0, 0, 0], 9, False),
        (ManifestDatatype.UINT8, [7, 8, 9, 250], 2, True),
    ],
)
async def test_data_of_which_not_all_is_a_tensor_is_looked_at_in_every_run(
    child: FakeChild, spec: ManifestDatatype, payload: list[int], size: int, *, believed: bool
) -> None:
    """Attack: the first run is in order, and the second has a truth value of 2, or a text longer than what is there."""
    outputs = (TensorSpec(name="y", datatype=spec, shape=(2,)),)
    model = served(ModelInterface((X,), outputs))
    group = begin(child.process, model, form_of(model, INPUTS), [INPUTS] * 2)
    assert group is not None
    await child.asked()
    header = TensorHeader("y", Datatype(spec.value), (2,), size)
    await child.say(GroupAnswered(1, (header,), (0, 0)), bytes(payload))
    await over(group)
    assert group.answered == [believed] * 2
    if believed:
        await nothing_is_left(child.process)
        assert not child.process.died.is_set()
    else:
        await has_died(child)


async def test_a_single_run_is_not_answered_as_a_group(child: FakeChild) -> None:
    """Another answer than asked for ends the child, also when all in it is right."""
    running = asyncio.ensure_future(child.process.run(MODEL, INPUTS, [], MINUTE_MS, consumer=ANN))
    message = (await child.heard()).message
    assert isinstance(message, Run)
    await child.say(GroupAnswered(message.id, (OUTPUT,), (0,)), bytes(8))
    with pytest.raises(EngineError):
        await running
    await child.process.died.wait()


async def test_groups_and_single_runs_are_told_apart(child: FakeChild) -> None:
    """Ids go on after those of a group; answers may come in any order of the two."""
    group, other = group_of(child), group_of(child, 2)
    single = asyncio.ensure_future(child.process.run(MODEL, INPUTS, [], MINUTE_MS, consumer=BEN))
    assert [(await child.asked()).id for _ in range(2)] == [1, 4]
    message = (await child.heard()).message
    assert isinstance(message, Run)
    assert message.id == 6
    await child.say(*answers(4, 1))
    await child.say(Answered(6, (OUTPUT,), 0), b"6" * 8)
    await child.say(GroupAnswered(1, (OUTPUT,), (0,) * 3), b"1" * 8 + b"2" * 8 + b"3" * 8)
    await child.say(GroupAnswered(5, (OUTPUT,), (0,)), b"5" * 8)
    assert bytes((await single).outputs[0].data) == b"6" * 8
    assert (await over(group)).data == [[b"1" * 8], [b"2" * 8], [b"3" * 8]]
    assert (await over(other)).data == [[bytes(8)], [b"5" * 8]]
    await nothing_is_left(child.process)


# --- A child that takes long -------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups are given up after 50 ms; whoever keeps one is stuck much later."""
    monkeypatch.setattr("aigovtool.enclave.engines.groups.MIDDLE_MS", 20)
    monkeypatch.setattr("aigovtool.enclave.engines.groups.OVERDUE_MS", 30)


@pytest.mark.usefixtures("hasty")
async def test_a_late_group_is_given_up_and_its_answer_counts_for_nothing(child: FakeChild) -> None:
    """Its requests go another way in time; its places stay taken until the child has answered, whatever that is."""
    group = group_of(child)
    await over(group)
    assert (group.told, group.answered) == (1, [False] * 3)
    assert taken(child.process) == (3, 24)
    assert child.process._pending.scheduler._short.at_work == 1
    await child.say(*answers(1, 1))
    await child.say(failure(2, DeadlineError("late")))
    await child.say(*answers(3, 1))
    await nothing_is_left(child.process)
    await asyncio.sleep(0.02)
    assert (group.told, group.answered, child.process.died.is_set()) == (1, [False] * 3, False)
    assert (await child.asked()).count == 3
    again = group_of(child)
    await child.say(*answers((await child.asked()).id, 3))
    assert (await over(again)).answered == [True] * 3


@pytest.mark.usefixtures("hasty")
async def test_what_came_in_time_of_a_late_group_is_kept(child: FakeChild) -> None:
    """Only those runs come to nothing that were not answered; the child is looked at as closely afterwards."""
    group = group_of(child)
    await child.say(*answers(1, 1))
    await over(group)
    assert group.answered == [True, False, False]
    await child.say(*answers(2, 2, TensorHeader("z", Datatype.FP32, (1, 2), 8)))
    await has_died(child)
    assert group.answered == [True, False, False]


@pytest.mark.usefixtures("hasty")
async def test_a_child_that_keeps_a_group_for_good_is_ended(child: FakeChild, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single operator cannot be ended from inside; the model that it ran is known."""
    monkeypatch.setattr("aigovtool.enclave.engines.groups.STUCK_MS", 50)
    group = group_of(child)
    await child.say(*answers(1, 2))
    await has_died(child)
    assert group.answered == [True, True, False]


@pytest.mark.usefixtures("hasty")
async def test_a_child_that_answers_before_it_is_held_to_be_stuck_lives(
    child: FakeChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Late is not stuck: what matters is whether any answer is still owed."""
    monkeypatch.setattr("aigovtool.enclave.engines.groups.STUCK_MS", 300)
    group = group_of(child)
    await over(group)
    await child.say(*answers(1, 3))
    await nothing_is_left(child.process)
    await asyncio.sleep(0.5)
    assert not child.process.died.is_set()


# --- What is remembered of them ----------------------------------------------------------------


def small_group(pending: Pending, count: int, model: int = 7) -> Group:
    form = Form(model, (), (), 10, (), finite=False)
    group = Group(ModelInterface((), ()), form, [b""] * count, pending.place(ANN, 10, count), lambda *_: None)
    turn = pending.scheduler.at_once(ANN, Lane.SHORT)
    assert turn is not None
    group.turn = turn
    return group


async def test_runs_of_a_group_are_answered_in_their_order_alone() -> None:
    """Each answer is to the next ones; no id stands for two runs, and the last one gives back place and turn."""
    pending = Pending(Shares(), 2)
    first, second = small_group(pending, 3), small_group(pending, 1, model=8)
    assert [pending.begin_group(first), pending.begin(None)[0], pending.begin_group(second)] == [1, 4, 5]
    assert (len(pending), sorted(pending.models())) == (3, [7, 8])
    for id_, count in ((0, 1), (2, 1), (3, 1), (4, 1), (6, 1), (1, 4), (5, 2)):
        assert pending.answered(id_, count, 0) is None
    assert pending.answered(1, 2, 0) is first
    assert [pending.answered(1, 1, 0), pending.answered(2, 1, 0), pending.answered(3, 2, 0)] == [None] * 3
    assert (pending.has_group(first), pending.scheduler._short.at_work) == (True, 2)
    assert pending.answered(3, 1, 0) is first
    assert (pending.has_group(first), pending.has_group(second), pending.scheduler._short.at_work) == (False, True, 1)
    assert (len(pending), sorted(pending.models())) == (2, [8])
    assert pending._places._total == 4
    first.place.give_back()
    assert pending._places._total == 1


async def test_the_end_of_all_ends_groups() -> None:
    """What was not answered is given up, and neither place nor turn is kept."""
    pending = Pending(Shares(), 2)
    groups = [small_group(pending, 3), small_group(pending, 2)]
    for group in groups:
        _ = pending.begin_group(group)
    assert pending.answered(1, 1, 0) is groups[0]
    groups[0].take(1)
    assert pending.end_all() == []
    assert [group.over for group in groups] == [True, True]
    for group in groups:
        group.place.give_back()
    assert (len(pending), pending._places._total, pending._bytes._total) == (0, 0, 0)
    assert (pending.scheduler._short.at_work, pending.scheduler._short._accounts) == (0, {})


async def test_the_time_of_all_runs_of_a_group_counts_against_its_consumer() -> None:
    """Whoever computes much in groups comes after others, as with single runs."""
    pending = Pending(Shares(), 2)
    group, kept = small_group(pending, 3), small_group(pending, 1)
    _ = pending.begin_group(group)
    for id_ in (1, 2, 3):
        _ = pending.answered(id_, 1, 2_000)
    account = pending.scheduler._short._accounts[ANN]
    assert account.used_ns == 3 * 2_000 * 1_000 + EFFORT_NS
    pending.scheduler.leave(kept.turn, 0)


async def test_what_comes_of_a_group_in_one_turn_of_the_loop_is_told_at_once() -> None:
    """Each piece once and in order, nothing for nothing; a group that is over is waited for no longer."""
    told: list[list[Came]] = []
    pending = Pending(Shares(), 2)
    group = Group(
        MODEL.interface, form_of(MODEL, INPUTS), [b""] * 4, pending.place(ANN, 0, 4), lambda _, c: told.append(c)
    )
    group.timer = asyncio.get_running_loop().call_later(60, group.give_up)
    group.take(1)
    group.take(2, (OUTPUT,), [memoryview(bytes(8))] * 2, (1, 2))
    assert told == []
    await asyncio.sleep(0.01)
    assert [[(one.first, one.runs, one.compute_us) for one in came] for came in told] == [[(0, 1, ()), (1, 2, (1, 2))]]
    assert not group.timer.cancelled()
    group.give_up()
    group.give_up()
    await asyncio.sleep(0.01)
    assert [(one.first, one.runs, one.payloads) for one in told[-1]] == [(3, 1, ())]
    assert (len(told), group.over, group.timer.cancelled()) == (2, True, True)


async def test_a_group_is_not_paid_for_more_than_all_its_time() -> None:
    """Attack: each of eight frames claims all the time since the question, so that eight times as much is charged."""
    child = await FakeChild.start()
    x = TensorSpec(name="x", datatype=ManifestDatatype.FP32, shape=("n", 2))
    y = TensorSpec(name="y", datatype=ManifestDatatype.FP32, shape=("n", 2))
    model, inputs = served(ModelInterface((x,), (y,))), [Tensor("x", Datatype.FP32, (1, 2), bytes(8))]
    try:
        ran, began = begin(child.process, model, form_of(model, inputs), [inputs] * 8), time.monotonic()
        assert ran is not None
        await asyncio.sleep(0.2)
        for n in range(8):
            await child.say(GroupAnswered(1 + n, (TensorHeader("y", Datatype.FP32, (1, 2), 8),), (200_000,)), bytes(8))
        await over(ran)
        took_us = 1_000_000 * (time.monotonic() - began)
        assert sum(each or 0 for each in ran.times) <= took_us
    finally:
        await child.end()
