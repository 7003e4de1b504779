"""Runs that several threads compute, in a real child."""

import asyncio
import resource
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from aigovtool.enclave.engines.lanes import threads
from aigovtool.enclave.engines.process import EngineConfig, EngineProcess
from aigovtool.errors import DeadlineError, EngineError
from aigovtool.ids import ConsumerId
from aigovtool.package.manifest import Datatype as ManifestDatatype
from aigovtool.protocol.tensor import Datatype, Tensor

MINUTE_MS = 60_000
ANN = ConsumerId("ann")
THREADS = 3
WIDTH = 512
FOR_EVER = 1 << 40


@pytest.fixture
async def wide() -> AsyncIterator[EngineProcess]:
    """A child that computes one run at a time, with three threads."""
    running = await EngineProcess.start(EngineConfig(workers=1, intra_op_threads=THREADS))
    try:
        yield running
    finally:
        await running.kill_and_wait()


@pytest.fixture
def products(kit: Any, tmp_path: Path) -> Any:
    """A loop of `count` products of a square matrix `x` with one that turns its columns round by one."""
    turned = np.roll(np.eye(WIDTH, dtype=np.float32), 1, axis=1)
    body = helper.make_graph(
        [helper.make_node("MatMul", ["carried", "turned"], ["next"]), helper.make_node("Identity", ["on"], ["go_on"])],
        "body",
        [
            kit.value("step", [], TensorProto.INT64),
            kit.value("on", [], TensorProto.BOOL),
            kit.value("carried", [WIDTH, WIDTH]),
        ],
        [kit.value("go_on", [], TensorProto.BOOL), kit.value("next", [WIDTH, WIDTH])],
    )
    graph = kit.model_bytes(
        [helper.make_node("Loop", ["count", "yes", "x"], ["y"], body=body)],
        [kit.value("count", [], TensorProto.INT64), kit.value("x", [WIDTH, WIDTH])],
        [kit.value("y", [WIDTH, WIDTH])],
        [
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
            helper.make_tensor("turned", TensorProto.FLOAT, [WIDTH, WIDTH], turned.tobytes(), raw=True),
        ],
    )
    square = kit.spec("x", [WIDTH, WIDTH]), kit.spec("y", [WIDTH, WIDTH])
    return kit.seal(
        tmp_path / "products.aigov",
        [("model.onnx", graph)],
        [kit.spec("count", [], ManifestDatatype.INT64), square[0]],
        [square[1]],
    )


def asked(count: int) -> list[Tensor]:
    """Return what so many products are asked for with: each row counts up from its number."""
    x = np.add.outer(np.arange(WIDTH), np.arange(WIDTH)).astype(np.float32)
    return [
        Tensor("count", Datatype.INT64, (), struct.pack("<q", count)),
        Tensor("x", Datatype.FP32, (WIDTH, WIDTH), x.tobytes()),
    ]


def tasks(pid: int) -> dict[int, int]:
    """Return the threads of a process, and how long each was on a core (nanoseconds)."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            found[int(task.name)] = int((task / "schedstat").read_text(encoding="ascii").split()[0])
    return found


def addresses(pid: int) -> int:
    """Return how many addresses a process has taken, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmSize:")[2].split()[0]) << 10


async def all_there(process: EngineProcess) -> None:
    """Wait for those threads of a child that are started when it has said hello; the watchdog is one more."""
    async with asyncio.timeout(20):
        while len(tasks(process.pid)) < threads(1) + 1:  # noqa: ASYNC110 -- nobody tells
            await asyncio.sleep(0.01)


async def test_so_many_threads_compute_a_run(kit: Any, wide: EngineProcess, products: Any) -> None:
    """Those of the model beside the one that began it; they are locked in like all others, and go with the model."""
    await all_there(wide)
    before = set(tasks(wide.pid))
    model = await products.load(wide)
    own = tasks(wide.pid).keys() - before
    assert len(own) == THREADS - 1
    begun = tasks(wide.pid)
    (answer,) = (await wide.run(model, asked(50), [], MINUTE_MS, consumer=ANN)).outputs
    spent = tasks(wide.pid)
    assert all(spent[task] - begun[task] > 1_000_000 for task in own)
    turned = np.frombuffer(answer.data, np.float32).reshape(WIDTH, WIDTH)
    assert turned[3, 50] == 3  # where the first column has come to
    assert {(one["NoNewPrivs"], one["Seccomp"]) for one in kit.statuses(wide.pid)} == {("1", "2")}
    await wide.unload(model)
    async with asyncio.timeout(20):
        while own & tasks(wide.pid).keys():  # noqa: ASYNC110 -- whatever ran it may hold it for a moment
            await asyncio.sleep(0.01)


async def test_a_run_of_several_threads_ends_at_its_deadline(wide: EngineProcess, products: Any) -> None:
    """All of its threads end it, and the next run has them."""
    model = await products.load(wide)
    with pytest.raises(DeadlineError) as caught:
        await wide.run(model, asked(FOR_EVER), [], 200, consumer=ANN)
    assert caught.value.reason != "engine_overdue"
    (answer,) = (await wide.run(model, asked(1), [], MINUTE_MS, consumer=ANN)).outputs
    assert np.frombuffer(answer.data, np.float32).reshape(WIDTH, WIDTH)[3, 1] == 3


async def test_what_several_threads_give_is_what_one_gives(
    wide: EngineProcess, single: EngineProcess, kit: Any, tmp_path: Path
) -> None:
    """Number by number, where the order of the summands would tell: each number is computed by one of them."""
    made = np.random.default_rng(7)
    weights = made.standard_normal((WIDTH, WIDTH), np.float32)
    graph = kit.model_bytes(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [kit.value("x", [WIDTH, WIDTH])],
        [kit.value("y", [WIDTH, WIDTH])],
        [helper.make_tensor("w", TensorProto.FLOAT, [WIDTH, WIDTH], weights.tobytes(), raw=True)],
    )
    square = [kit.spec("x", [WIDTH, WIDTH])], [kit.spec("y", [WIDTH, WIDTH])]
    product = kit.seal(tmp_path / "product.aigov", [("model.onnx", graph)], *square)
    x = Tensor("x", Datatype.FP32, (WIDTH, WIDTH), made.standard_normal((WIDTH, WIDTH), np.float32).tobytes())
    outputs = []
    for process in (wide, single):
        model = await product.load(process)
        outputs.append((await process.run(model, [x], [], MINUTE_MS, consumer=ANN)).outputs)
    assert outputs[0] == outputs[1]


async def test_a_model_that_there_are_no_threads_for_is_refused(double: Any) -> None:
    """Attack: the library waits for ever for threads of a session that could not be started, and with it the boot."""
    many = EngineConfig(workers=1, intra_op_threads=64)
    ample = await EngineProcess.start(many)
    taken = addresses(ample.pid)
    await double.load(ample)
    await ample.kill_and_wait()
    scarce = await EngineProcess.start(replace(many, memory_bytes=taken + (200 << 20)))
    try:
        async with asyncio.timeout(60):
            with pytest.raises(EngineError) as caught:
                await double.load(scarce)
    finally:
        await scarce.kill_and_wait()
    assert caught.value.reason == "out_of_memory"


async def test_stacks_of_threads_do_not_depend_on_the_limits_of_the_machine(double: Any) -> None:
    """Attack: `ulimit -s` of 64 MiB has each thread of a library take as much of what bounds the engine."""
    limits = resource.getrlimit(resource.RLIMIT_STACK)
    taken = []
    for soft in (8 << 20, 64 << 20):
        resource.setrlimit(resource.RLIMIT_STACK, (soft, limits[1]))
        try:
            process = await EngineProcess.start(EngineConfig(workers=1, intra_op_threads=17))
        finally:
            resource.setrlimit(resource.RLIMIT_STACK, limits)
        await double.load(process)
        taken.append(addresses(process.pid) >> 20)
        await process.kill_and_wait()
    assert taken[1] - taken[0] < 16 * 56 // 2
