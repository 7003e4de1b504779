"""A small input that asks for more memory than there is, and what is left after one that asks for much."""

import asyncio
import resource
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.attacks.memory import resident_mib
from tests.e2e.world import wait_for

from aigovtool.enclave.engines.process import EngineConfig, EngineProcess
from aigovtool.errors import EngineError
from aigovtool.ids import ConsumerId
from aigovtool.package.manifest import Datatype as ManifestDatatype
from aigovtool.protocol.tensor import Datatype, Tensor

ANN = ConsumerId("ann")
_BOUND_BYTES = 4 << 30
#: The child itself has 400 MiB of addresses.
_SMALL_BYTES = 3 << 29


def column(rows: int) -> Tensor:
    """Return an input of so many rows of one number."""
    values = np.ones((rows, 1), np.float32)
    return Tensor("x", Datatype.FP32, values.shape, values.tobytes())


def summing(kit: Any, path: Path) -> Any:
    """Return a model that adds up as many ones as it is told to."""
    ones = helper.make_tensor("ones", TensorProto.FLOAT, [1], [1.0])
    graph = kit.model_bytes(
        [
            helper.make_node("ConstantOfShape", ["n"], ["filled"], value=ones),
            helper.make_node("ReduceSum", ["filled"], ["y"], keepdims=0),
        ],
        [kit.value("n", [1], TensorProto.INT64)],
        [kit.value("y", [])],
    )
    inputs = [kit.spec("n", [1], ManifestDatatype.INT64)]
    return kit.seal(path, [("model.onnx", graph)], inputs, [kit.spec("y", [])])


async def test_what_a_run_took_is_there_for_others_afterwards(kit: Any, tmp_path: Path) -> None:
    """Large runs of one model take no memory from those of another model, nor from smaller ones of their own."""
    process = await EngineProcess.start(EngineConfig(memory_bytes=_SMALL_BYTES))
    try:
        models = [await summing(kit, tmp_path / name).load(process) for name in ("one.aigov", "other.aigov")]
        for model, mib in ((0, 300), (0, 700), (0, 500), (1, 800), (1, 300), (0, 800)):
            n = Tensor("n", Datatype.INT64, (1,), struct.pack("<q", mib << 18))
            await process.run(models[model], [n], [], 60_000, consumer=ANN)
    finally:
        await process.kill_and_wait()


async def test_a_model_that_finds_no_memory_is_not_called_a_bad_one(kit: Any, tmp_path: Path) -> None:
    """Others may have the memory now: what the engine refuses for what it is would never be tried again."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [60 << 20], bytes(240 << 20), raw=True)
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = kit.model_bytes([node], [kit.value("x", ["n"])], [kit.value("y", ["n"])], [weights])
    sealed = kit.seal(tmp_path / "m.aigov", [("model.onnx", graph)], [kit.spec("x", ["n"])], [kit.spec("y", ["n"])])
    process = await EngineProcess.start(EngineConfig(memory_bytes=1 << 30))
    try:
        with pytest.raises(EngineError) as caught:
            await sealed.load(process)
        assert caught.value.reason == "out_of_memory"
    finally:
        await process.kill_and_wait()


async def test_nothing_of_what_was_asked_stays_in_the_engine(kit: Any, process: EngineProcess, double: Any) -> None:
    """Each thread that waited for its next request kept the last one: half a gigabyte of what consumers had asked."""
    model = await double.load(process)
    assert await kit.doubles(process, model)
    large = Tensor("x", Datatype.FP32, (4 << 20, 2), bytes(32 << 20))
    before = resident_mib(process.pid)
    for _ in range(2):
        who = [ConsumerId(f"c{number % 4}") for number in range(8)]
        await asyncio.gather(*(process.run(model, [large], [], 60_000, consumer=one) for one in who))
    await asyncio.to_thread(wait_for, lambda: resident_mib(process.pid) < before + 60, "what was asked is gone", 20)


async def test_a_request_for_which_there_is_no_memory_does_not_end_the_engine(kit: Any, double: Any) -> None:
    """While somebody's run has nearly all of it, another one's large request finds none: that one is refused."""
    process = await EngineProcess.start(EngineConfig())
    try:
        model, large = await double.load(process), Tensor("x", Datatype.FP32, (8 << 20, 2), bytes(64 << 20))
        assert await kit.doubles(process, model)
        _leave_addresses(process.pid, 48 << 20)
        for _ in range(3):
            with pytest.raises(EngineError) as caught:
                await process.run(model, [large], [], 60_000, consumer=ANN)
            assert caught.value.reason == "no_memory_for_request"
            assert await kit.doubles(process, model)
    finally:
        await process.kill_and_wait()


def _leave_addresses(pid: int, more_bytes: int) -> None:
    """Let a process have so much more than it has now; what another one of the same kind has may differ by as much."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    resource.prlimit(pid, resource.RLIMIT_AS, (pages * resource.getpagesize() + more_bytes, resource.RLIM_INFINITY))


async def test_a_run_that_needs_more_memory_than_there_is_is_refused_and_the_engine_goes_on(
    kit: Any, tmp_path: Path
) -> None:
    """160 kB that are multiplied with themselves are 6.4 GB. It is an error of that run: nobody else notices."""
    graph = kit.model_bytes(
        [
            helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "t"], ["m"]),
            helper.make_node("ReduceMax", ["m"], ["y"], keepdims=0),
        ],
        [kit.value("x", ["n", 1])],
        [kit.value("y", [])],
    )
    sealed = kit.seal(tmp_path / "m.aigov", [("model.onnx", graph)], [kit.spec("x", ["n", 1])], [kit.spec("y", [])])
    process = await EngineProcess.start(EngineConfig(memory_bytes=_BOUND_BYTES))
    try:
        model = await sealed.load(process)
        for _ in range(3):
            with pytest.raises(EngineError) as caught:
                await process.run(model, [column(40_000)], [], 60_000, consumer=ANN)
            assert caught.value.reason != "engine_died"
            (answer,) = (await process.run(model, [column(1_000)], [], 60_000, consumer=ANN)).outputs
            assert np.frombuffer(answer.data, np.float32) == [1.0]
    finally:
        await process.kill_and_wait()
