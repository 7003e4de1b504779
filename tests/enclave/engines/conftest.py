"""Sealed models for the tests of the engine child."""

import struct
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from assurance.models.sealing import Sealed, seal_files
from onnx import TensorProto, helper

from aigovtool.crypto.sign import SigningKey
from aigovtool.enclave.engines.process import EngineConfig, EngineProcess, LoadedModel
from aigovtool.ids import ConsumerId, ModelId
from aigovtool.package.manifest import Datatype as ManifestDatatype
from aigovtool.package.manifest import (
    Dimension,
    TensorSpec,
)
from aigovtool.protocol.tensor import Datatype, Tensor

MINUTE_MS = 60_000
ANN = ConsumerId("ann")
FOR_EVER = 1 << 40


def spec(
    name: str, shape: Sequence[Dimension] | None, datatype: ManifestDatatype = ManifestDatatype.FP32
) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=None if shape is None else tuple(shape))


def value(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model_bytes(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
) -> bytes:
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def seal(
    path: Path, files: Sequence[tuple[str, bytes]], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Sealed:
    """Write a package that holds `files`, the graph first."""
    return seal_files(path, files, inputs, outputs, sealer=SigningKey.generate(), name=ModelId("test"))


def oom_score(pid: int | str) -> int:
    """Return how gladly the kernel ends a process when there is no memory."""
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii"))


def descriptors(pid: int | str) -> int:
    """Count the open descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def held(pid: int) -> list[str]:
    """Return what the descriptors of a process are."""
    folder = Path(f"/proc/{pid}/fd")
    return [(folder / name).readlink().as_posix() for name in sorted(entry.name for entry in folder.iterdir())]


def statuses(pid: int) -> list[dict[str, str]]:
    """Return what the kernel says about each thread of a process."""
    texts = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return [dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line) for text in texts]


def environ(pid: int) -> list[bytes]:
    """Return the environment with which a process was started."""
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def fp32(name: str, *rows: Sequence[float]) -> Tensor:
    array = np.array(rows, np.float32)
    return Tensor(name, Datatype.FP32, array.shape, array.tobytes())


def numbers(tensor: Tensor) -> list[Any]:
    values: list[Any] = np.frombuffer(tensor.data, np.float32).reshape(tensor.shape).tolist()
    return values


def steps(count: int) -> list[Tensor]:
    return [
        Tensor("count", Datatype.INT64, (), struct.pack("<q", count)),
        Tensor("x", Datatype.FP32, (64,), bytes(256)),
    ]


async def doubles(process: EngineProcess, model: LoadedModel) -> bool:
    """Whether the child still computes."""
    (answer,) = (await process.run(model, [fp32("x", [1, 2])], [], MINUTE_MS, consumer=ANN)).outputs
    return numbers(answer) == [[2, 4]]


@pytest.fixture
def double(tmp_path: Path) -> Sealed:
    """Give y = x + x, FP32, any number of rows of two."""
    graph = model_bytes([helper.make_node("Add", ["x", "x"], ["y"])], [value("x", ["n", 2])], [value("y", ["n", 2])])
    return seal(tmp_path / "double.aigov", [("model.onnx", graph)], [spec("x", ["n", 2])], [spec("y", ["n", 2])])


@pytest.fixture
def slow(tmp_path: Path) -> Sealed:
    """A loop of `count` small steps: 2**40 of them take days."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["carried", "carried"], ["next"]),
            helper.make_node("Identity", ["condition"], ["go_on"]),
        ],
        "body",
        [
            value("step", [], TensorProto.INT64),
            value("condition", [], TensorProto.BOOL),
            value("carried", [64]),
        ],
        [value("go_on", [], TensorProto.BOOL), value("next", [64])],
    )
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    graph = model_bytes(
        [helper.make_node("Loop", ["count", "yes", "x"], ["y"], body=body)],
        [value("count", [], TensorProto.INT64), value("x", [64])],
        [value("y", [64])],
        [yes],
    )
    return seal(
        tmp_path / "slow.aigov",
        [("model.onnx", graph)],
        [spec("count", [], ManifestDatatype.INT64), spec("x", [64])],
        [spec("y", [64])],
    )


@pytest.fixture
def recurrent(tmp_path: Path) -> Sealed:
    """An LSTM over x, FP32 [time, batch, 4], with a state of two numbers."""
    weights = [helper.make_tensor(n, TensorProto.FLOAT, (1, 8, k), [0.5] * 8 * k) for n, k in (("w", 4), ("r", 2))]
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2)
    inputs: list[int | str] = ["time", "batch", 4]
    outputs: list[int | str] = ["time", 1, "batch", 2]
    graph = model_bytes([node], [value("x", inputs)], [value("y", outputs)], weights)
    return seal(tmp_path / "lstm.aigov", [("model.onnx", graph)], [spec("x", inputs)], [spec("y", outputs)])


@pytest.fixture
async def process() -> AsyncIterator[EngineProcess]:
    """A running engine child."""
    running = await EngineProcess.start(EngineConfig())
    try:
        yield running
    finally:
        await running.kill_and_wait()


@pytest.fixture
async def single() -> AsyncIterator[EngineProcess]:
    """A child with one worker: what occupies it, blocks it."""
    running = await EngineProcess.start(EngineConfig(workers=1))
    try:
        yield running
    finally:
        await running.kill_and_wait()


@pytest.fixture
def kit() -> ModuleType:
    """Give the functions of this file to tests, which cannot import it (import mode importlib)."""
    return sys.modules[__name__]
