"""What loading leaves behind in a real child: no memory of what was refused, and room for other models."""

import math
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from assurance.models.sealing import Sealed
from onnx import TensorProto, helper

from aigovtool.crypto.aead import new_model_key, new_salt
from aigovtool.crypto.sign import SigningKey
from aigovtool.enclave.engines.process import EngineConfig, EngineProcess
from aigovtool.errors import ModelError
from aigovtool.ids import ConsumerId, ModelId
from aigovtool.package.sealing import seal
from aigovtool.package.source import open_sources
from aigovtool.protocol.tensor import Datatype, Tensor

MINUTE_MS: Final = 60_000
ANN: Final = ConsumerId("ann")
MIB: Final = 1 << 20
#: Small enough to lie in heaps: what is larger than 32 MiB never does.
PIECES: Final = 96
FLOATS: Final = MIB // 4


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


def sealed_from(folder: Path, *names: str) -> Sealed:
    """Seal files of a folder as the sealing tool does, which reads them piece by piece."""
    key, sealer, path = new_model_key(), SigningKey.generate(), folder / "model.aigov"
    with open_sources(folder, list(names)) as sources, path.open("wb") as out:
        made = seal(sources, out, model=ModelId("m"), model_key=key, salt=new_salt(), sealer=sealer, now_ms=0)
    return Sealed(path, key, made.manifest_digest, sealer.public.raw)


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


def adding(kit: Any, path: Path, *, shape: int = 1) -> Any:
    """Seal a model of `PIECES` weights of 1 MiB; with another `shape` its manifest is not right about its input."""
    names = [f"w{number}" for number in range(PIECES)]
    graph = kit.model_bytes(
        [helper.make_node("Concat", ["x", *names], ["y"], axis=1)],
        [kit.value("x", [1, 1])],
        [kit.value("y", [1, PIECES * FLOATS + 1])],
        [external(name, number * MIB, 1, FLOATS) for number, name in enumerate(names)],
    )
    weights = np.arange(PIECES * FLOATS, dtype=np.float32).tobytes()
    sides = [kit.spec("x", [1, shape])], [kit.spec("y", [1, PIECES * FLOATS + 1])]
    return kit.seal(path, [("m.onnx", graph), ("w", weights)], *sides)


@pytest.mark.needs("root")
async def test_a_refused_model_leaves_no_memory(kit: Any, process: EngineProcess, tmp_path: Path) -> None:
    """Also one that the library has loaded, and that is not what its manifest says."""
    sealed = adding(kit, tmp_path / "m", shape=3)
    before = held_bytes(process)
    for _ in range(3):
        with pytest.raises(ModelError) as refused:
            await sealed.load(process)
        assert refused.value.reason == "interface_mismatch"
    assert held_bytes(process) - before < PIECES * MIB // 2  # of each


@pytest.mark.needs("root")
async def test_an_unloaded_model_leaves_no_memory(kit: Any, process: EngineProcess, tmp_path: Path) -> None:
    """What it had is given back to the machine."""
    sealed = adding(kit, tmp_path / "m")
    before = held_bytes(process)
    model = await sealed.load(process)
    assert held_bytes(process) - before > PIECES * MIB * 9 // 10
    await process.unload(model)
    assert held_bytes(process) - before < PIECES * MIB // 2


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


@pytest.mark.parametrize(("own_files", "weights"), [(True, 1), (False, 2)])
async def test_weights_of_more_than_two_gib_are_loaded(
    kit: Any, tmp_path: Path, weights: int, *, own_files: bool
) -> None:
    """Every offset on the way has more than 31 bits. From buffers no single weight may be as large: ONNX Runtime's."""
    columns, rows = 1024, (2 << 30) // 4096 // weights + 3
    tables = [external(f"w{number}", number * rows * columns * 4, rows, columns) for number in range(weights)]
    nodes = [helper.make_node("Gather", [f"w{number}", "x"], [f"y{number}"]) for number in range(weights)]
    graph = kit.model_bytes(
        [*nodes, helper.make_node("Sum", [f"y{number}" for number in range(weights)], ["y"])],
        [kit.value("x", [1], TensorProto.INT64)],
        [kit.value("y", [1, columns])],
        tables,
    )
    (tmp_path / "model.onnx").write_bytes(graph)
    with (tmp_path / "w").open("wb") as file:  # sparse: zeros but for the last row of each
        for number in range(1, weights + 1):
            file.truncate(number * rows * columns * 4)
            file.seek(-columns * 4, os.SEEK_END)
            file.write(np.arange(columns, dtype=np.float32).tobytes())
    sealed = sealed_from(tmp_path, "model.onnx", "w")
    process = await EngineProcess.start(EngineConfig(own_files=own_files))
    try:
        model = await sealed.load(process)
        index = Tensor("x", Datatype.INT64, (1,), (rows - 1).to_bytes(8, "little"))
        (answer,) = (await process.run(model, [index], [], MINUTE_MS, consumer=ANN)).outputs
    finally:
        await process.kill_and_wait()
        sealed.path.unlink()
    assert kit.numbers(answer) == [[float(weights * number) for number in range(columns)]]
