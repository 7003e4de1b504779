"""Consumers whose runs take for ever, and others who want an answer: against a real child."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from aigovtool.enclave.engines.lanes import MIDDLE_MS, SHORT_MS, Lane
from aigovtool.enclave.engines.pending import Shares
from aigovtool.enclave.engines.process import EngineConfig, EngineProcess, LoadedModel
from aigovtool.enclave.engines.scheduling import MAX_PAST
from aigovtool.errors import AIGovToolError, DeadlineError, EngineError, OverloadedError
from aigovtool.ids import ConsumerId
from aigovtool.package.manifest import Datatype as ManifestDatatype
from aigovtool.protocol.tensor import Datatype, Tensor

MINUTE_MS = 60_000
ANN, BEN, CLEO = ConsumerId("ann"), ConsumerId("ben"), ConsumerId("cleo")
# What is promised to a run of the first two lanes, many times over, because machines of tests are busy. What others
# keep the engine busy with would last a minute.
SOON_MS = 5_000


class Bench:
    """A child with a model that is fast and one that takes as long as one likes."""

    def __init__(self, kit: Any, process: EngineProcess, short: LoadedModel, long: LoadedModel) -> None:
        self.kit, self.process, self.short, self.long = kit, process, short, long
        self.tasks: list[asyncio.Task[None]] = []
        self.steps_per_ms = 0.0

    async def double(self, consumer: ConsumerId, number: float = 1.0, within_ms: int = SOON_MS) -> None:
        """Run what takes no time, and see that the answer is to this question."""
        asked = self.kit.fp32("x", [number, 2.0])
        (answer,) = (await self.process.run(self.short, [asked], [], within_ms, consumer=consumer)).outputs
        assert self.kit.numbers(answer) == [[2 * number, 4.0]]

    async def work(self, consumer: ConsumerId, about_ms: float, within_ms: int = MINUTE_MS) -> int:
        """Run what takes about so long; return what it took."""
        steps = self.kit.steps(round(about_ms * self.steps_per_ms))
        return (await self.process.run(self.long, steps, [], within_ms, consumer=consumer)).compute_us

    def hog(self, consumer: ConsumerId, runs: int, apart_s: float = 0.0, deadline_ms: int = MINUTE_MS) -> None:
        """Have so many runs without an end at any time, each followed by the next; they begin some time apart."""

        async def again_and_again(number: int) -> None:
            await asyncio.sleep(number * apart_s)
            while True:
                with suppress(DeadlineError, OverloadedError):
                    steps = self.kit.steps(self.kit.FOR_EVER)
                    await self.process.run(self.long, steps, [], deadline_ms, consumer=consumer)
                await asyncio.sleep(0)

        self.tasks += [asyncio.create_task(again_and_again(number)) for number in range(runs)]

    async def calibrate(self) -> None:
        """Find out how fast the machine is."""
        began = time.monotonic()
        await self.process.run(self.long, self.kit.steps(100_000), [], MINUTE_MS, consumer=CLEO)
        self.steps_per_ms = 100_000 / ((time.monotonic() - began) * 1_000)
        self.process._pending.habits.learn(CLEO, self.long.handle, Lane.SHORT)


@pytest.fixture
def opened(kit: Any, double: Any, slow: Any) -> Any:
    """Give what starts a bench with so many workers."""

    @asynccontextmanager
    async def start(workers: int, **shares: int) -> AsyncIterator[Bench]:
        process = await EngineProcess.start(EngineConfig(workers=workers, shares=Shares(**shares)))
        bench = Bench(kit, process, await double.load(process), await slow.load(process))
        try:
            await bench.calibrate()
            yield bench
        finally:
            process.kill()
            for task in bench.tasks:
                task.cancel()
            await asyncio.gather(*bench.tasks, return_exceptions=True)
            await process.kill_and_wait()

    return start


@pytest.mark.parametrize("workers", [1, 2])
async def test_endless_runs_of_one_consumer_keep_no_short_one_waiting(opened: Any, workers: int) -> None:
    """Eight at a time for a minute each: whoever comes is served at once, and again after each of its answers."""
    async with opened(workers) as bench:
        bench.hog(ANN, 8)
        await asyncio.sleep(0.3)
        for number in range(20):
            await bench.double(BEN, number)


@pytest.mark.parametrize("workers", [1, 2])
async def test_endless_runs_that_come_and_end_at_different_times_keep_none_waiting(opened: Any, workers: int) -> None:
    """A freed thread is not always the next endless run's: staggered, so that one ends every few milliseconds."""
    async with opened(workers) as bench:
        bench.hog(ANN, 40, apart_s=0.02, deadline_ms=800)
        for number in range(20):
            await bench.double(BEN, number)
            await asyncio.sleep(0.1)


async def test_endless_runs_that_nobody_waits_for_any_more_keep_none_waiting(opened: Any) -> None:
    """Who gives up leaves the child at work, and may ask again at once."""
    async with opened(2) as bench:
        for number in range(10):
            bench.hog(ANN, 8)
            await asyncio.sleep(0.05)
            for task in bench.tasks:
                task.cancel()
            await bench.double(BEN, number)
        # All of them were begun anew by nobody: the child has no more of them than may be at work, and ends those.
        await asyncio.gather(*bench.tasks, return_exceptions=True)
        assert len(bench.process._pending) <= 2 + 2


async def test_two_consumers_of_endless_runs_keep_a_third_from_nothing_that_is_done_in_a_second(opened: Any) -> None:
    """They can fill the long lane; both others have a thread that they cannot take."""
    async with opened(2) as bench:
        for hog in (ANN, CLEO):
            bench.hog(hog, 8, apart_s=0.01)
        await asyncio.sleep(2 * MIDDLE_MS / 1000)
        for number in range(3):
            await bench.double(BEN, number)
            # Longer than a short run, also where others have the machine; and far from a second.
            await bench.work(BEN, 4 * SHORT_MS, 4 * SOON_MS)


@pytest.mark.parametrize("workers", [1, 2])
async def test_an_operator_that_cannot_be_ended_keeps_no_short_run_waiting(
    opened: Any, kit: Any, tmp_path: Path, workers: int
) -> None:
    """It outlasts its try by seconds, and the thread that has it no longer counts as one that reads."""
    sealed = kit.seal(
        tmp_path / "m",
        [("model.onnx", suppression(kit))],
        [kit.spec("boxes", [1, "n", 4]), kit.spec("scores", [1, 1, "n"])],
        [kit.spec("y", ["k", 3], ManifestDatatype.INT64)],
    )
    async with opened(workers) as bench:
        model = await sealed.load(bench.process)
        count = 100_000  # compared with each other one: 5 s and more
        inputs = [
            Tensor("boxes", Datatype.FP32, (1, count, 4), bytes(16 * count)),
            Tensor("scores", Datatype.FP32, (1, 1, count), np.ones(count, np.float32).tobytes()),
        ]
        runs = [asyncio.create_task(bench.process.run(model, inputs, [], MINUTE_MS, consumer=ANN)) for _ in range(8)]
        await asyncio.sleep(0.3)
        for number in range(20):
            await bench.double(BEN, number)
        bench.process.kill()
        ended = await asyncio.gather(*runs, return_exceptions=True)
        assert all(isinstance(result, EngineError) and result.reason == "engine_died" for result in ended)


def suppression(kit: Any) -> bytes:
    """Return a model that is one operator whose work is the square of its input."""
    made: bytes = kit.model_bytes(
        [helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["y"])],
        [kit.value("boxes", [1, "n", 4]), kit.value("scores", [1, 1, "n"])],
        [kit.value("y", ["k", 3], TensorProto.INT64)],
        [helper.make_tensor("most", TensorProto.INT64, [1], [1 << 40])],
    )
    return made


@pytest.mark.parametrize("workers", [1, 2])
async def test_one_consumer_of_endless_runs_keeps_another_from_no_long_one(opened: Any, workers: int) -> None:
    """It is let in beside them, on cores that they share."""
    async with opened(workers) as bench:
        bench.hog(ANN, 8)
        await asyncio.sleep(0.3)
        took_us = await bench.work(BEN, 2 * MIDDLE_MS, MINUTE_MS - 10_000)
        assert took_us > MIDDLE_MS * 1_000


async def test_a_run_that_is_begun_anew_is_answered_once_and_right(opened: Any) -> None:
    """Runs of all lengths of many consumers, some given up: each of the others has the answer to its own question."""
    async with opened(2) as bench:
        lengths_ms = [0.1, SHORT_MS / 2, SHORT_MS, 3 * SHORT_MS, 0.2 * MIDDLE_MS]
        runs = [
            asyncio.create_task(bench.work(ConsumerId(f"c{number % 7}"), lengths_ms[number % 5]))
            for number in range(35)
        ]
        runs.append(asyncio.create_task(bench.work(CLEO, 1.5 * MIDDLE_MS)))
        doubles = [bench.double(ConsumerId(f"c{number % 9}"), number, MINUTE_MS) for number in range(300)]
        await asyncio.sleep(0)
        runs[3].cancel()
        runs[-2].cancel()
        await asyncio.gather(*doubles)
        ended = await asyncio.gather(*runs, return_exceptions=True)
        assert [type(result) for result in ended].count(asyncio.CancelledError) == 2
        assert sum(isinstance(result, int) for result in ended) == len(runs) - 2
        await nothing_is_left(bench)


async def nothing_is_left(bench: Bench) -> None:
    """Wait until the child has answered what nobody waits for, and look for what stayed."""
    async with asyncio.timeout(30):
        while len(bench.process._pending):  # noqa: ASYNC110 - nobody tells of answers that nobody waits for
            await asyncio.sleep(0.01)
    pending = bench.process._pending
    assert (pending._places._total, pending._bytes._total) == (0, 0)
    for queue in pending.scheduler._queues:
        assert (queue.at_work, queue.waiting, queue._accounts, queue._past, queue._busy) == (0, False, {}, {}, set())


async def test_what_is_known_of_consumers_does_not_grow_with_all_that_ever_came(opened: Any) -> None:
    """While one of them keeps each lane busy, so that nothing is forgotten because all is over."""
    async with opened(2) as bench:
        bench.hog(ANN, 8)
        for number in range(0, 3 * MAX_PAST, 64):
            await asyncio.gather(
                *(bench.double(ConsumerId(f"c{number + more}"), within_ms=MINUTE_MS) for more in range(64))
            )
        scheduler = bench.process._pending.scheduler
        for queue in scheduler._queues:
            assert len(queue._accounts) <= 1
            assert len(queue._past) <= MAX_PAST
        # Of a few a run took longer than it should, when something else had the machine.
        assert len(bench.process._pending.habits) <= MAX_PAST // 16


async def test_a_run_of_one_lane_may_still_compute_for_no_longer_than_its_limit(opened: Any) -> None:
    """What the model's policy allows is the end, in whichever lane it comes; it is not tried again."""
    async with opened(2) as bench:
        for limit_ms in (SHORT_MS // 2, SHORT_MS, 5 * SHORT_MS, MIDDLE_MS + 200):
            steps, began = bench.kit.steps(bench.kit.FOR_EVER), time.monotonic()
            with pytest.raises(DeadlineError) as caught:
                await bench.process.run(bench.long, steps, [], MINUTE_MS, limit_ms, consumer=ANN)
            assert caught.value.reason == "compute_limit"
            assert str(limit_ms) in caught.value.message
            assert time.monotonic() - began >= limit_ms / 1000
        await nothing_is_left(bench)


async def test_a_consumers_next_run_of_a_model_begins_where_the_last_one_ended(opened: Any) -> None:
    """A model that takes long is not tried in vain each time; its consumer's other models are not held for long."""
    async with opened(2) as bench:
        habits = bench.process._pending.habits
        await bench.work(BEN, 10 * SHORT_MS)
        assert habits.lane(BEN, bench.long.handle) is Lane.MIDDLE
        assert habits.lane(BEN, bench.short.handle) is Lane.SHORT
        assert habits.lane(ANN, bench.long.handle) is Lane.SHORT
        await bench.work(BEN, 0.01)
        assert habits.lane(BEN, bench.long.handle) is Lane.SHORT


async def test_whoever_waits_in_a_longer_lane_is_told_that_the_child_died(opened: Any) -> None:
    """Those at work, those that wait for a turn, and those that were to be begun anew."""
    async with opened(2) as bench:
        runs = [asyncio.create_task(bench.work(BEN, 100 * MIDDLE_MS)) for _ in range(12)]
        await asyncio.sleep(0.2)
        bench.process.kill()
        for result in await asyncio.gather(*runs, return_exceptions=True):
            assert isinstance(result, AIGovToolError)
            assert result.reason == "engine_died"
        await nothing_is_left(bench)
