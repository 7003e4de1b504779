import asyncio
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.observations import Observed

from aigovtool.enclave.engines import onnx
from aigovtool.enclave.engines.lanes import Lane
from aigovtool.enclave.engines.pending import Shares
from aigovtool.enclave.engines.process import EngineConfig, EngineProcess
from aigovtool.enclave.engines.scheduling import LEAST_AHEAD
from aigovtool.errors import (
    AIGovToolError,
    DeadlineError,
    EngineError,
    InvalidValueError,
    NotFoundError,
    OverloadedError,
)
from aigovtool.ids import ConsumerId
from aigovtool.limits import MAX_BYTES_ELEMENTS, MAX_OPEN_BODY_BYTES_PER_CONSUMER, MAX_UNREAD_BYTES_PER_CONSUMER
from aigovtool.package.manifest import Datatype as ManifestDatatype
from aigovtool.protocol.tensor import Datatype, Tensor, frame_bytes, split_bytes

SECOND_MS = 1_000
MINUTE_MS = 60_000
ANN, BEN, CLEO = ConsumerId("ann"), ConsumerId("ben"), ConsumerId("cleo")


async def test_large_tensors_go_both_ways(process: EngineProcess, double: Any) -> None:
    """Tensors far beyond the socket's buffer arrive whole, several at once."""
    model = await double.load(process)
    array = np.arange(3 << 20, dtype=np.float32).reshape(-1, 2)
    tensor = Tensor("x", Datatype.FP32, array.shape, array.tobytes())
    answers = await asyncio.gather(*(process.run(model, [tensor], ["y"], MINUTE_MS, consumer=ANN) for _ in range(3)))
    for (answer,) in (ran.outputs for ran in answers):
        assert bytes(answer.data) == (array + array).tobytes()


async def test_many_requests_of_one_turn_get_their_own_answers(kit: Any, process: EngineProcess, double: Any) -> None:
    """Requests that leave in one write come back each to its caller."""
    model = await double.load(process)
    answers = await asyncio.gather(
        *(process.run(model, [kit.fp32("x", [i, i])], [], MINUTE_MS, consumer=ANN) for i in range(256))
    )
    assert [kit.numbers(answer.outputs[0]) for answer in answers] == [[[2 * i, 2 * i]] for i in range(256)]


async def test_a_short_run_overtakes_a_long_one(kit: Any, process: EngineProcess, double: Any, slow: Any) -> None:
    """With two workers, answers come in the order in which they are ready."""
    short, long = await double.load(process), await slow.load(process)
    running = asyncio.ensure_future(process.run(long, kit.steps(kit.FOR_EVER), [], MINUTE_MS, consumer=ANN))
    assert await kit.doubles(process, short)
    assert not running.done()
    process.kill()
    with pytest.raises(EngineError):
        await running


async def test_the_deadline_ends_the_computation_itself(
    kit: Any, single: EngineProcess, double: Any, slow: Any
) -> None:
    """The only worker is free again after a deadline: the run was ended, not just abandoned."""
    short, long = await double.load(single), await slow.load(single)
    with pytest.raises(DeadlineError) as caught:
        await single.run(long, kit.steps(kit.FOR_EVER), [], 100, consumer=ANN)
    assert caught.value.reason != "engine_overdue"
    assert await kit.doubles(single, short)


async def test_waiting_in_the_queue_counts(kit: Any, single: EngineProcess, double: Any, slow: Any) -> None:
    """A request whose deadline passes while others compute is refused, not computed late."""
    short, long = await double.load(single), await slow.load(single)
    first = asyncio.ensure_future(single.run(long, kit.steps(kit.FOR_EVER), [], 300, consumer=ANN))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineError):
        await single.run(short, [kit.fp32("x", [1, 2])], [], 1, consumer=ANN)
    with pytest.raises(DeadlineError):
        await first


async def test_inputs_are_checked_again(kit: Any, process: EngineProcess, double: Any) -> None:
    """Whoever forgets to check inputs is refused here, before the child sees them."""
    model = await double.load(process)
    for inputs, outputs in (([], []), ([kit.fp32("x", [1, 2])], ["nothing"])):
        with pytest.raises(InvalidValueError):
            await process.run(model, inputs, outputs, SECOND_MS, consumer=ANN)


@pytest.mark.parametrize("deadline_ms", [0, -1, 300_001])
async def test_deadlines_are_bounded(kit: Any, process: EngineProcess, double: Any, deadline_ms: int) -> None:
    """No run without an end."""
    with pytest.raises(InvalidValueError) as caught:
        await process.run(await double.load(process), [kit.fp32("x", [1, 2])], [], deadline_ms, consumer=ANN)
    assert caught.value.reason == "bad_deadline"


async def test_a_failure_does_not_quote_the_input(kit: Any, process: EngineProcess, tmp_path: Path) -> None:
    """ONNX Runtime names an index that is out of range; its words do not leave the child."""
    graph = kit.model_bytes(
        [helper.make_node("Gather", ["table", "index"], ["y"])],
        [kit.value("index", [1], TensorProto.INT64)],
        [kit.value("y", [1])],
        [helper.make_tensor("table", TensorProto.FLOAT, [2], [0.0, 1.0])],
    )
    sealed = kit.seal(
        tmp_path / "x", [("model.onnx", graph)], [kit.spec("index", [1], ManifestDatatype.INT64)], [kit.spec("y", [1])]
    )
    model = await sealed.load(process)
    index = Tensor("index", Datatype.INT64, (1,), struct.pack("<q", 987654321))
    with pytest.raises(InvalidValueError) as caught:
        await process.run(model, [index], [], SECOND_MS, consumer=ANN)
    assert (caught.value.reason, caught.value.status) == ("model_refused_input", 422)
    assert "987654321" not in caught.value.message


REFUSED = "model_refused_input"
FAILING = [
    (helper.make_node("Reshape", ["x", "s"], ["y"]), [4], InvalidValueError, REFUSED),
    (helper.make_node("Expand", ["x", "s"], ["y"]), [2], InvalidValueError, REFUSED),
    (helper.make_node("ConstantOfShape", ["s"], ["y"]), [1 << 62, 8], InvalidValueError, REFUSED),
    (helper.make_node("ConstantOfShape", ["s"], ["y"]), [1 << 44], EngineError, "out_of_memory"),
]


async def test_whose_fault_a_failed_run_is(kit: Any, process: EngineProcess, tmp_path: Path) -> None:
    """The library has one status code for most of it: what is not for lack of memory is for what was given."""
    specs = [kit.spec("x", [3]), kit.spec("s", ["k"], ManifestDatatype.INT64)]
    x = Tensor("x", Datatype.FP32, (3,), bytes(12))
    for number, (node, given, error, reason) in enumerate(FAILING):
        graph = kit.model_bytes(
            [node, helper.make_node("Identity", ["x"], ["z"])],
            [kit.value("x", [3]), kit.value("s", ["k"], TensorProto.INT64)],
            [kit.value("y", None), kit.value("z", [3])],
        )
        outputs = [kit.spec("y", None), kit.spec("z", [3])]
        model = await kit.seal(tmp_path / f"{number}", [("model.onnx", graph)], specs, outputs).load(process)
        s = Tensor("s", Datatype.INT64, (len(given),), struct.pack(f"<{len(given)}q", *given))
        with pytest.raises(error) as caught:
            await process.run(model, [x, s], [], MINUTE_MS, consumer=ANN)
        assert isinstance(caught.value, AIGovToolError)
        assert caught.value.reason == reason


@pytest.mark.parametrize("kind", ["EPFail", "NotImplemented", "ModelRequiresCompilation", "ValueError"])
def test_what_the_library_says_of_nothing_that_was_given_is_our_fault(kind: str) -> None:
    """Its other status codes, and errors of other classes."""
    error = onnx._refused(type(kind, (Exception,), {})("input 987"))
    assert (type(error), error.reason, "987" in error.message) == (EngineError, "run_failed", False)


async def test_strings_go_through(kit: Any, process: EngineProcess, tmp_path: Path) -> None:
    """BYTES elements are UTF-8 for ONNX; what is not is refused as the caller's fault."""
    graph = kit.model_bytes(
        [helper.make_node("Identity", ["x"], ["y"])],
        [kit.value("x", ["n"], TensorProto.STRING)],
        [kit.value("y", ["n"], TensorProto.STRING)],
    )
    strings = ManifestDatatype.BYTES
    sealed = kit.seal(
        tmp_path / "x", [("model.onnx", graph)], [kit.spec("x", ["n"], strings)], [kit.spec("y", ["n"], strings)]
    )
    model = await sealed.load(process)
    words = ["", "wörter", "x" * 1000]
    data = frame_bytes([word.encode() for word in words])
    (answer,) = (
        await process.run(model, [Tensor("x", Datatype.BYTES, (3,), data)], [], SECOND_MS, consumer=ANN)
    ).outputs
    assert [item.decode() for item in split_bytes(answer)] == words
    with pytest.raises(InvalidValueError) as caught:
        await process.run(
            model, [Tensor("x", Datatype.BYTES, (1,), frame_bytes([b"\xff"]))], [], SECOND_MS, consumer=ANN
        )
    assert caught.value.reason == "not_utf8"


async def test_denormals_are_flushed_in_every_worker(kit: Any, process: EngineProcess, double: Any) -> None:
    """Numbers below the normal range count as zero: arithmetic on them would be slow on purpose."""
    model = await double.load(process)
    tiny = kit.fp32("x", [1e-40, 1.0])
    answers = await asyncio.gather(*(process.run(model, [tiny], [], MINUTE_MS, consumer=ANN) for _ in range(50)))
    assert all(kit.numbers(answer.outputs[0]) == [[0.0, 2.0]] for answer in answers)


@pytest.mark.attack(28)
@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (0, 0, 4)])
async def test_a_batch_of_none_does_not_end_the_engine(
    process: EngineProcess, recurrent: Any, observed: Observed, shape: tuple[int, ...]
) -> None:
    """ONNX Runtime ends the process that runs an LSTM or GRU on no rows, for everybody; so nothing runs on none."""
    model = await recurrent.load(process)
    with pytest.raises(InvalidValueError) as caught:
        await process.run(model, [Tensor("x", Datatype.FP32, shape, b"")], [], SECOND_MS, consumer=ANN)
    assert caught.value.reason == "empty_input"
    observed.refusal(caught.value)
    one = Tensor("x", Datatype.FP32, (3, 1, 4), bytes(48))
    (answer,) = (await process.run(model, [one], [], SECOND_MS, consumer=ANN)).outputs
    assert answer.shape == (3, 1, 1, 2)


async def test_nothing_is_run_for_who_has_not_taken_its_answers(kit: Any, process: EngineProcess, double: Any) -> None:
    """Not one of many that were let in when there was little; others have their runs, and so has it afterwards."""
    model, one = await double.load(process), kit.fp32("x", [1, 2])
    with process.unread.hold(ANN, MAX_UNREAD_BYTES_PER_CONSUMER + 1):
        for _ in range(2 * LEAST_AHEAD):
            with pytest.raises(OverloadedError) as caught:
                await process.run(model, [one], [], SECOND_MS, consumer=ANN)
            assert caught.value.reason == "answers_not_taken"
        assert (await process.run(model, [one], [], SECOND_MS, consumer=BEN)).outputs
    assert await kit.doubles(process, model)
    large = Tensor("x", Datatype.FP32, (4 << 20, 2), bytes(32 << 20))
    await process.run(model, [large], [], MINUTE_MS, consumer=ANN)
    process.unread.require_few(ANN)


async def test_an_unloaded_model_is_gone(kit: Any, process: EngineProcess, double: Any) -> None:
    """Neither a run nor a second unload finds it; other models stay."""
    first, second = await double.load(process), await double.load(process)
    await process.unload(first)
    with pytest.raises(NotFoundError):
        await process.unload(first)
    with pytest.raises(NotFoundError):
        await kit.doubles(process, first)
    assert await kit.doubles(process, second)


@pytest.mark.fault(31)
async def test_the_queue_is_bounded(kit: Any, double: Any, slow: Any) -> None:
    """More requests than there are places are refused at once, and a place is free again after an answer."""
    process = await EngineProcess.start(EngineConfig(workers=2, shares=Shares(requests=2)))
    short, long = await double.load(process), await slow.load(process)
    running = [
        asyncio.ensure_future(process.run(long, kit.steps(kit.FOR_EVER), [], 200, consumer=consumer))
        for consumer in (ANN, BEN)
    ]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await kit.doubles(process, short)
    await asyncio.gather(*running, return_exceptions=True)
    assert await kit.doubles(process, short)
    await process.kill_and_wait()


@pytest.mark.fault(31)
async def test_the_bytes_in_the_queue_are_bounded(kit: Any, double: Any) -> None:
    """Inputs that wait count together, and are given back when they are answered."""
    process = await EngineProcess.start(EngineConfig(shares=Shares(size_bytes=64)))
    model = await double.load(process)
    with pytest.raises(OverloadedError):
        await process.run(model, [kit.fp32("x", *[[1, 2]] * 9)], [], SECOND_MS, consumer=ANN)
    for _ in range(20):
        assert await kit.doubles(process, model)
    await process.kill_and_wait()


@pytest.mark.parametrize("bounds", [{"requests_per_consumer": 2}, {"size_bytes_per_consumer": 530}])
async def test_a_consumer_that_fills_its_share_shuts_nobody_out(
    bounds: dict[str, int], kit: Any, double: Any, slow: Any
) -> None:
    """Its third run is refused at once, another's is not; and what the child has answered is given back."""
    process = await EngineProcess.start(EngineConfig(workers=3, shares=Shares(**bounds)))
    short, long = await double.load(process), await slow.load(process)
    running = [asyncio.ensure_future(process.run(long, kit.steps(kit.FOR_EVER), [], 500, consumer=ANN)) for _ in "ab"]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError) as caught:
        await process.run(long, kit.steps(1), [], MINUTE_MS, consumer=ANN)
    assert caught.value.reason == "engine_queue_full"
    await process.run(short, [kit.fp32("x", [1, 2])], [], MINUTE_MS, consumer=BEN)
    await asyncio.gather(*running, return_exceptions=True)
    await process.run(long, kit.steps(1), [], MINUTE_MS, consumer=ANN)
    await process.kill_and_wait()
    assert not process._pending


async def test_the_default_share_is_a_quarter() -> None:
    """One consumer alone may have all of its open bodies in the engine; four of them fill it."""
    shares = EngineConfig().shares
    assert shares.requests_per_consumer * 4 == shares.requests
    assert shares.size_bytes_per_consumer * 4 == shares.size_bytes
    assert shares.size_bytes_per_consumer == MAX_OPEN_BODY_BYTES_PER_CONSUMER


async def test_a_consumer_with_many_requests_is_not_in_front_of_everybody(
    kit: Any, single: EngineProcess, double: Any, slow: Any
) -> None:
    """The only thread is busy, and twenty of Ann's wait for it: Ben, who comes last, is behind four of them."""
    short, long = await double.load(single), await slow.load(single)
    ended: list[str] = []

    async def run(name: str, consumer: ConsumerId) -> None:
        await single.run(short, [kit.fp32("x", [1, 2])], [], MINUTE_MS, consumer=consumer)
        ended.append(name)

    busy = asyncio.ensure_future(single.run(long, kit.steps(kit.FOR_EVER), [], 500, consumer=CLEO))
    anns = [asyncio.ensure_future(run(f"ann {number}", ANN)) for number in range(20)]
    await asyncio.sleep(0)
    await asyncio.gather(run("ben", BEN), *anns)
    place = ended.index("ben")
    assert place <= LEAST_AHEAD
    assert [name for name in ended if name != "ben"] == [f"ann {number}" for number in range(20)]
    with pytest.raises(DeadlineError):
        await busy


async def test_the_deadline_also_ends_the_wait_for_the_child(kit: Any, single: EngineProcess, slow: Any) -> None:
    """Of whoever the child never saw; and whoever gives up leaves the line to the next."""
    model = await slow.load(single)

    def run(deadline_ms: int) -> "asyncio.Future[Any]":
        steps = kit.steps(kit.FOR_EVER if deadline_ms > 1 else 1)
        return asyncio.ensure_future(single.run(model, steps, [], deadline_ms, consumer=ANN))

    with_child = [run(700) for _ in range(4)]
    await asyncio.sleep(0)
    gives_up = run(MINUTE_MS)
    await asyncio.sleep(0)
    with pytest.raises(DeadlineError) as caught:
        await run(1)
    assert "waited" in caught.value.message
    assert not any(task.done() for task in with_child)
    gives_up.cancel()
    await asyncio.gather(*with_child, return_exceptions=True)
    await single.run(model, kit.steps(1), [], MINUTE_MS, consumer=ANN)
    assert gives_up.cancelled()
    assert single._pending._places._total == 0


async def test_whoever_waits_for_a_child_that_dies_is_told(kit: Any, single: EngineProcess, slow: Any) -> None:
    """Those that it has, and those that it never saw."""
    model = await slow.load(single)
    running = [
        asyncio.ensure_future(single.run(model, kit.steps(kit.FOR_EVER), [], MINUTE_MS, consumer=ANN))
        for _ in range(12)
    ]
    await asyncio.sleep(0)
    single.kill()
    for task in running:
        with pytest.raises(EngineError) as caught:
            await task
        assert caught.value.reason == "engine_died"
    assert (len(single._pending), single._pending._places._total) == (0, 0)


async def test_what_a_dead_child_never_answered_is_given_back(kit: Any, process: EngineProcess, slow: Any) -> None:
    """Its places and bytes are nobody's."""
    model = await slow.load(process)
    running = asyncio.ensure_future(process.run(model, kit.steps(kit.FOR_EVER), [], MINUTE_MS, consumer=ANN))
    await asyncio.sleep(0)
    pending = process._pending
    assert (pending._places._total, pending._bytes._total) == (1, 264)
    process.kill()
    with pytest.raises(EngineError):
        await running
    assert (pending._places._total, pending._bytes._total) == (0, 0)


async def test_a_caller_that_gives_up_harms_nobody(kit: Any, process: EngineProcess, double: Any) -> None:
    """The answer to a cancelled call is dropped."""
    model = await double.load(process)
    abandoned = asyncio.ensure_future(kit.doubles(process, model))
    await asyncio.sleep(0)
    abandoned.cancel()
    assert await kit.doubles(process, model)


# --- Answers that are too much --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "text"), [([MAX_BYTES_ELEMENTS + 1], True), ([0, 1 << 27], False)], ids=["texts", "dimension"]
)
async def test_an_answer_that_is_too_much_costs_the_run_and_not_the_child(
    shape: list[int],
    text: bool,  # noqa: FBT001 -- case
    kit: Any,
    process: EngineProcess,
    tmp_path: Path,
) -> None:
    """Whoever may choose how large an answer becomes could else kill the engine, and have the enclave wiped."""
    kind, manifest_kind = (TensorProto.STRING, ManifestDatatype.BYTES) if text else (TensorProto.FLOAT, None)
    spec = kit.spec("y", None, manifest_kind) if manifest_kind else kit.spec("y", None)
    graph = kit.model_bytes(
        [helper.make_node("Expand", ["x", "s"], ["y"])],
        [kit.value("x", [1], kind), kit.value("s", ["n"], TensorProto.INT64)],
        [kit.value("y", ["a"] if text else ["a", "b"], kind)],
    )
    x = kit.spec("x", [1], manifest_kind) if manifest_kind else kit.spec("x", [1])
    sealed = kit.seal(
        tmp_path / "m", [("model.onnx", graph)], [x, kit.spec("s", ["n"], ManifestDatatype.INT64)], [spec]
    )
    model = await sealed.load(process)
    one = Tensor("x", Datatype.BYTES, (1,), frame_bytes([b"a"])) if text else kit.fp32("x", 1.0)
    sizes = Tensor("s", Datatype.INT64, (len(shape),), struct.pack(f"<{len(shape)}q", *shape))
    with pytest.raises(EngineError) as caught:
        await process.run(model, [one, sizes], [], MINUTE_MS, consumer=ANN)
    assert caught.value.reason == "output_too_large"
    assert not process.died.is_set()


async def test_an_output_that_is_not_what_the_model_says_costs_the_run_and_not_the_child(
    kit: Any, process: EngineProcess, tmp_path: Path
) -> None:
    """A graph that says [1] and gives what the consumer wants: the library only warns, and the others would pay."""
    graph = kit.model_bytes(
        [helper.make_node("Expand", ["x", "s"], ["y"])],
        [kit.value("x", [1]), kit.value("s", ["r"], TensorProto.INT64)],
        [kit.value("y", [1])],
    )
    sealed = kit.seal(
        tmp_path / "m",
        [("model.onnx", graph)],
        [kit.spec("x", [1]), kit.spec("s", ["r"], ManifestDatatype.INT64)],
        [kit.spec("y", [1])],
    )
    model = await sealed.load(process)
    one = Tensor("x", Datatype.FP32, (1,), struct.pack("<f", 7))
    for shape in ((3,), (1, 1)):
        sizes = Tensor("s", Datatype.INT64, (len(shape),), struct.pack(f"<{len(shape)}q", *shape))
        with pytest.raises(EngineError) as caught:
            await process.run(model, [one, sizes], [], MINUTE_MS, consumer=ANN)
        assert caught.value.reason == "output_mismatch"
    fitting = Tensor("s", Datatype.INT64, (1,), struct.pack("<q", 1))
    (answer,) = (await process.run(model, [one, fitting], ["y"], MINUTE_MS, consumer=ANN)).outputs
    assert kit.numbers(answer) == [7]


# --- Compute -----------------------------------------------------------------------------------


async def test_a_run_is_told_with_how_long_it_took(kit: Any, process: EngineProcess, slow: Any) -> None:
    """More work takes longer, and no more than has passed since it was asked for."""
    model = await slow.load(process)
    before_ns = time.monotonic_ns()
    long = await process.run(model, kit.steps(100_000), [], MINUTE_MS, consumer=ANN)
    passed_ns = time.monotonic_ns() - before_ns
    short = await process.run(model, kit.steps(1), [], MINUTE_MS, consumer=ANN)
    assert 0 < short.compute_us < long.compute_us <= passed_ns // 1_000


async def test_a_run_over_its_compute_limit_is_ended(kit: Any, single: EngineProcess, double: Any, slow: Any) -> None:
    """Long before its deadline; the only worker is free again."""
    short, long = await double.load(single), await slow.load(single)
    with pytest.raises(DeadlineError) as caught:
        await single.run(long, kit.steps(kit.FOR_EVER), [], MINUTE_MS, 50, consumer=ANN)
    assert caught.value.reason == "compute_limit"
    assert await kit.doubles(single, short)


async def test_a_deadline_before_the_compute_limit_is_the_deadline(kit: Any, single: EngineProcess, slow: Any) -> None:
    """The consumer is not told that it asked for too much when it only had to wait too long."""
    model = await slow.load(single)
    with pytest.raises(DeadlineError) as caught:
        await single.run(model, kit.steps(kit.FOR_EVER), [], 100, 10_000, consumer=ANN)
    assert caught.value.reason != "compute_limit"


async def test_waiting_in_the_queue_is_no_compute(kit: Any, single: EngineProcess, slow: Any) -> None:
    """What others compute meanwhile is theirs to pay: neither the limit nor the measure counts it."""
    model = await slow.load(single)
    for consumer in (ANN, BEN, CLEO):
        single._pending.habits.learn(consumer, model.handle, Lane.LONG)
    before_ns = time.monotonic_ns()
    runs = [
        asyncio.ensure_future(single.run(model, kit.steps(kit.FOR_EVER), [], 2_000, consumer=consumer))
        for consumer in (ANN, CLEO)
    ]
    await asyncio.sleep(0)  # two at work for as long as they may are the most: a third long run has to wait
    ran = await single.run(model, kit.steps(1), [], MINUTE_MS, 1_000, consumer=BEN)
    assert time.monotonic_ns() - before_ns > 1_000_000_000
    assert ran.compute_us < 1_000_000
    for run in runs:
        with pytest.raises(DeadlineError):
            await run
