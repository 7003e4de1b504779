"""What loading leaves behind in a real child: no memory of what was refused, and room for other models."""

import math
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from onnx import TensorProto, helper

from aigovtool.enclave.engines.process import EngineConfig, EngineProcess
from aigovtool.errors import ModelError
from aigovtool.ids import ConsumerId

MINUTE_MS: Final = 60_000
ANN: Final = ConsumerId("ann")
MIB: Final = 1 << 20


@pytest.fixture(params=["files", "buffers"])
async def process(request: pytest.FixtureRequest) -> AsyncIterator[EngineProcess]:
    """A child that loads models from files of its own, if it can have them here, or from buffers."""
    made = await EngineProcess.start(EngineConfig(own_files=request.param == "files"))
    yield made
    await made.kill_and_wait()


def external(name: str, offset: int, *dims: int) -> TensorProto:
    """Return a weight that lies in the file `w`."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "w"), ("offset", offset), ("length", 4 * math.prod(dims))):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def held_bytes(process: EngineProcess) -> int:
    """Return what a child holds, of its own and in files: mapped or not."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    own = sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:"))
    root = Path(f"/proc/{process.pid}/root")
    if root.stat().st_dev == Path("/").stat().st_dev:
        return own << 10
    files = os.statvfs(root)
    return (own << 10) + (files.f_blocks - files.f_bfree) * files.f_frsize


def mapped(process: EngineProcess) -> int:
    """Return how many parts of memory a child has mapped."""
    return len(Path(f"/proc/{process.pid}/maps").read_bytes().splitlines())


def adding(kit: Any, path: Path, floats: int, *, shape: int | None = None) -> Any:
    """Seal a model that adds weights; with `shape` its manifest says something else of its input."""
    graph = kit.model_bytes(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [kit.value("x", [floats])],
        [kit.value("y", [floats])],
        [external("w", 0, floats)],
    )
    weights = np.ones(floats, np.float32).tobytes()
    spec = kit.spec("x", [shape or floats])
    return kit.seal(path, [("m.onnx", graph), ("w", weights)], [spec], [kit.spec("y", [floats])])


@pytest.mark.needs("root")
async def test_a_refused_model_leaves_no_memory(kit: Any, process: EngineProcess, tmp_path: Path) -> None:
    """Also one that the library has loaded, and that is not what its manifest says."""
    sealed = adding(kit, tmp_path / "m", 16 * MIB, shape=3)
    before = held_bytes(process)
    for _ in range(3):
        with pytest.raises(ModelError) as refused:
            await sealed.load(process)
        assert refused.value.reason == "interface_mismatch"
    assert held_bytes(process) - before < 32 * MIB  # of 64 each


@pytest.mark.needs("root")
async def test_an_unloaded_model_leaves_no_memory(kit: Any, process: EngineProcess, tmp_path: Path) -> None:
    """What it had is given back to the machine."""
    sealed = adding(kit, tmp_path / "m", 16 * MIB)
    before = held_bytes(process)
    model = await sealed.load(process)
    assert held_bytes(process) - before > 60 * MIB
    await process.unload(model)
    assert held_bytes(process) - before < 32 * MIB


async def test_a_model_in_many_parts_leaves_room_for_others(kit: Any, double: Any, tmp_path: Path) -> None:
    """Weights that stay in a file take one each of 65,530 parts of memory, which all else needs too."""
    process, parts = await EngineProcess.start(EngineConfig()), {}
    for count in (10, 9_000):
        names = [f"w{number}" for number in range(count)]
        graph = kit.model_bytes(
            [helper.make_node("Concat", ["x", *names], ["y"], axis=1)],
            [kit.value("x", [1, 1])],
            [kit.value("y", [1, count + 1])],
            [external(name, 4 * number, 1, 1) for number, name in enumerate(names)],
        )
        files = [("m.onnx", graph), ("w", np.arange(count, dtype=np.float32).tobytes())]
        sides = [kit.spec("x", [1, 1])], [kit.spec("y", [1, count + 1])]
        model = await kit.seal(tmp_path / str(count), files, *sides).load(process)
        (answer,) = (await process.run(model, [kit.fp32("x", [7])], [], MINUTE_MS, consumer=ANN)).outputs
        assert kit.numbers(answer) == [[7.0, *range(count)]]
        parts[count] = mapped(process)
    assert parts[9_000] < parts[10] + 100
    assert await kit.doubles(process, await double.load(process))
    await process.kill_and_wait()
