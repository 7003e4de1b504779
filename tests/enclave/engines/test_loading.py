import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from assurance.models.sealing import CONTEXT, Sealed
from onnx import TensorProto, helper, numpy_helper

from aigovtool.crypto.aead import new_model_key, new_salt
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.wrap import WrapKey, wrap
from aigovtool.enclave.engines.process import EngineConfig, EngineProcess
from aigovtool.enclave.engines.sandbox import Layer
from aigovtool.errors import (
    AIGovToolError,
    ConfigurationError,
    EngineError,
    ModelError,
    PackageError,
    SignatureInvalidError,
)
from aigovtool.ids import ConsumerId, Digest, ModelId
from aigovtool.package.manifest import Datatype as ManifestDatatype
from aigovtool.package.sealing import seal as seal_package
from aigovtool.package.source import open_sources

SECOND_MS = 1_000
MINUTE_MS = 60_000
ANN = ConsumerId("ann")


@pytest.fixture(params=["files", "buffers"])
async def process(request: pytest.FixtureRequest) -> AsyncIterator[EngineProcess]:
    """A child that loads models from files of its own, if it can have them here, or from buffers."""
    made = await EngineProcess.start(EngineConfig(own_files=request.param == "files"))
    assert request.param == "files" or Layer.PRIVATE_FILES not in made.sandbox
    yield made
    await made.kill_and_wait()


@pytest.mark.needs("root")
async def test_files_are_used_where_they_can_be_had() -> None:
    """Unless it is told otherwise, a child has them: the tests below try both."""
    made = await EngineProcess.start(EngineConfig())
    assert Layer.PRIVATE_FILES in made.sandbox
    await made.kill_and_wait()


async def test_a_sealed_model_answers(kit: Any, process: EngineProcess, double: Any) -> None:
    """Key, package and digest fit: the model runs, and its interface is that of the manifest."""
    model = await double.load(process)
    assert [(s.name, s.shape) for s in model.interface.inputs] == [("x", ("n", 2))]
    assert await kit.doubles(process, model)


async def test_what_the_sealing_tool_makes_loads(kit: Any, process: EngineProcess, tmp_path: Path) -> None:
    """A package made by `aigovtool.package.sealing`, with external data, is loaded from memory only."""
    weights = np.arange(2048, dtype=np.float32).reshape(2, 1024)
    tensor = numpy_helper.from_array(weights, "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, content in (("location", "weights.bin"), ("offset", "0"), ("length", str(weights.nbytes))):
        tensor.external_data.add(key=key, value=content)
    graph = kit.model_bytes(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [kit.value("x", ["n", 2])],
        [kit.value("y", ["n", 1024])],
        [tensor],
    )
    (tmp_path / "model.onnx").write_bytes(graph)
    (tmp_path / "weights.bin").write_bytes(weights.tobytes())
    model_key, sealer = new_model_key(), SigningKey.generate()
    path = tmp_path / "model.aigov"
    with open_sources(tmp_path, ["model.onnx", "weights.bin"]) as sources, path.open("wb") as out:
        made = seal_package(
            sources, out, model=ModelId("m"), model_key=model_key, salt=new_salt(), sealer=sealer, now_ms=0
        )
    model = await Sealed(path, model_key, made.manifest_digest, sealer.public.raw).load(process)
    (answer,) = (await process.run(model, [kit.fp32("x", [1, 1])], [], MINUTE_MS, consumer=ANN)).outputs
    assert kit.numbers(answer) == [weights.sum(axis=0).tolist()]


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ("other_key", PackageError, "wrong_key"),
        ("short_key", PackageError, "wrong_key"),
        ("other_recipient", SignatureInvalidError, "wrong_context"),
        ("other_context", SignatureInvalidError, "wrong_context"),
        ("garbage", SignatureInvalidError, "wrong_context"),
        ("other_sealer", SignatureInvalidError, "wrong_key"),
        ("other_digest", PackageError, "wrong_digest"),
    ],
)
async def test_what_does_not_fit_is_refused_and_the_child_goes_on(  # noqa: PLR0917 - fixtures
    kit: Any, process: EngineProcess, double: Any, change: str, error: type[AIGovToolError], reason: str
) -> None:
    """A wrong key, context, sealer or digest is a typed refusal; the next load works."""
    public = process.hpke_public_key
    changes: dict[str, dict[str, Any]] = {
        "other_key": {"wrapped_key": wrap(new_model_key().secret, public, CONTEXT)},
        "short_key": {"wrapped_key": wrap(Secret(bytes(31)), public, CONTEXT)},
        "other_recipient": {"wrapped_key": wrap(double.key.secret, WrapKey.generate().public, CONTEXT)},
        "other_context": {"info": b"another context"},
        "garbage": {"wrapped_key": b"garbage"},
        "other_sealer": {"sealer": SigningKey.generate().public.raw},
        "other_digest": {"manifest_digest": Digest("sha256:" + "0" * 64)},
    }
    with pytest.raises(error) as caught:
        await double.load(process, **changes[change])
    assert caught.value.reason == reason
    assert await kit.doubles(process, await double.load(process))


@pytest.mark.parametrize("damage", ["truncated", "extended", "flipped", "empty"])
async def test_a_damaged_package_is_refused_and_the_child_goes_on(
    kit: Any, process: EngineProcess, double: Any, damage: str
) -> None:
    """A package that is cut, continued or changed on its way never loads; the intact one still does."""
    intact = double.path.read_bytes()
    double.path.write_bytes(
        {
            "truncated": intact[:-1],
            "extended": intact + b"x",
            "flipped": intact[:-20] + bytes([intact[-20] ^ 1]) + intact[-19:],
            "empty": b"",
        }[damage]
    )
    with pytest.raises(PackageError):
        await double.load(process)
    double.path.write_bytes(intact)
    assert await kit.doubles(process, await double.load(process))


async def test_a_graph_that_is_not_onnx_is_refused(kit: Any, process: EngineProcess, tmp_path: Path) -> None:
    """The library's own words, which may quote the graph, are not repeated."""
    sealed = kit.seal(tmp_path / "x", [("model.onnx", b"SECRETGRAPH" * 9)], [kit.spec("x", [1])], [kit.spec("y", [1])])
    with pytest.raises(ModelError) as caught:
        await sealed.load(process)
    assert caught.value.reason == "engine_refused"
    assert "SECRET" not in caught.value.message


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ([("z", ["n", 2])], [("y", ["n", 2])]),
        ([("x", ["n", 3])], [("y", ["n", 2])]),
        ([("x", ["n"])], [("y", ["n", 2])]),
        ([("x", ["n", 2], ManifestDatatype.FP64)], [("y", ["n", 2])]),
        ([("x", ["n", 2])], [("y", ["n", 2]), ("w", None)]),
    ],
)
async def test_a_manifest_that_lies_about_the_model_is_refused(
    kit: Any, process: EngineProcess, tmp_path: Path, inputs: list[Any], outputs: list[Any]
) -> None:
    """Inputs are checked against the manifest before they are charged, so the model must be what it says."""
    add = helper.make_node("Add", ["x", "x"], ["y"])
    graph = kit.model_bytes([add], [kit.value("x", ["n", 2])], [kit.value("y", ["n", 2])])
    specs = [[kit.spec(*arguments) for arguments in side] for side in (inputs, outputs)]
    with pytest.raises(ModelError) as caught:
        await kit.seal(tmp_path / "x", [("model.onnx", graph)], *specs).load(process)
    assert caught.value.reason == "interface_mismatch"


async def test_external_data_outside_the_package_is_refused(kit: Any, process: EngineProcess, tmp_path: Path) -> None:
    """A graph that points at a file of the host gets nothing: neither the library nor the kernel opens it."""
    tensor = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[8], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    graph = kit.model_bytes(
        [helper.make_node("Identity", ["w"], ["y"])],
        [kit.value("x", [1])],
        [kit.value("y", [8], TensorProto.UINT8)],
        [tensor],
    )
    sealed = kit.seal(
        tmp_path / "x", [("model.onnx", graph)], [kit.spec("x", [1])], [kit.spec("y", [8], ManifestDatatype.UINT8)]
    )
    with pytest.raises(ModelError):
        await sealed.load(process)


@pytest.mark.parametrize("name", [b"tensor", b"axis"])
async def test_a_name_that_is_no_text_is_refused_and_the_child_goes_on(
    kit: Any, process: EngineProcess, double: Any, tmp_path: Path, name: bytes
) -> None:
    """The library takes any bytes for a name, and fails only when it is asked for it."""
    add = helper.make_node("Add", ["tensor", "tensor"], ["y"])
    graph = kit.model_bytes([add], [kit.value("tensor", ["axis"])], [kit.value("y", ["axis"])])
    graph = graph.replace(name, name[:-1] + b"\xff")
    sides = [kit.spec("tensor", ["axis"])], [kit.spec("y", ["axis"])]
    with pytest.raises(ModelError) as caught:
        await kit.seal(tmp_path / "p", [("model.onnx", graph)], *sides).load(process)
    assert caught.value.reason == "not_utf8"
    assert await kit.doubles(process, await double.load(process))


async def test_what_onnx_runtime_wrote_for_itself_is_refused(kit: Any, process: EngineProcess, tmp_path: Path) -> None:
    """Its own format is another parser, and no sealer has looked at it: the manifest says ONNX, and that is read."""
    add = helper.make_node("Add", ["x", "x"], ["y"])
    graph = kit.model_bytes([add], [kit.value("x", ["n", 2])], [kit.value("y", ["n", 2])])
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    written = (tmp_path / "model.ort").read_bytes()
    assert ort.InferenceSession(written, providers=["CPUExecutionProvider"]).get_inputs()
    sides = [kit.spec("x", ["n", 2])], [kit.spec("y", ["n", 2])]
    with pytest.raises(ModelError) as caught:
        await kit.seal(tmp_path / "p", [("model.onnx", written)], *sides).load(process)
    assert caught.value.reason == "engine_refused"


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY])
async def test_a_writable_package_is_not_handed_over(process: EngineProcess, double: Any, flags: int) -> None:
    """The child gets no descriptor that it could write to."""
    descriptor = os.open(double.path, flags)
    with pytest.raises(ConfigurationError) as caught:
        await process.load(descriptor, wrapped_key=b"", info=b"", manifest_digest=double.digest, sealer=double.sealer)
    os.close(descriptor)
    assert caught.value.reason == "package_descriptor"


async def test_a_load_that_takes_too_long_ends_the_child(
    kit: Any, single: EngineProcess, double: Any, slow: Any
) -> None:
    """Nothing in the child can end a load, so its time is kept by the parent, with SIGKILL."""
    model = await slow.load(single)
    running = asyncio.ensure_future(single.run(model, kit.steps(kit.FOR_EVER), [], MINUTE_MS, consumer=ANN))
    await asyncio.sleep(0)
    with pytest.raises(EngineError) as caught:
        await double.load(single, timeout_ms=1)
    assert caught.value.reason == "engine_died"
    with pytest.raises(EngineError):
        await running
    await single.died.wait()


async def test_descriptors_do_not_pile_up(kit: Any, process: EngineProcess, double: Any) -> None:
    """Neither side keeps a package open after a load, good or bad."""
    ours, theirs = kit.descriptors("self"), kit.descriptors(process.pid)
    for _ in range(sandbox_limit := 20):
        await double.load(process)
        with pytest.raises(SignatureInvalidError):
            await double.load(process, info=b"wrong")
    assert sandbox_limit > 16
    assert kit.descriptors("self") == ours
    assert kit.descriptors(process.pid) == theirs
