"""A small input that asks for more memory than there is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from aigovtool.enclave.engines.process import EngineConfig, EngineProcess
from aigovtool.errors import EngineError
from aigovtool.ids import ConsumerId
from aigovtool.protocol.tensor import Datatype, Tensor

ANN = ConsumerId("ann")
_BOUND_BYTES = 4 << 30


def column(rows: int) -> Tensor:
    """Return an input of so many rows of one number."""
    values = np.ones((rows, 1), np.float32)
    return Tensor("x", Datatype.FP32, values.shape, values.tobytes())


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
