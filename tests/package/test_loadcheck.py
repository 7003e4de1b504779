"""Loading a model in a process of its own: whatever it does there, the parent gets a typed answer."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from aigovtool.errors import AIGovToolError, FaultError, ModelError
from aigovtool.package.inspect import inspect_onnx
from aigovtool.package.loadcheck import LoadLimits, check_loads, sanitise

MakeModel = Callable[..., bytes]


def refusal(path: Path, like: bytes, limits: LoadLimits | None = None) -> AIGovToolError:
    with pytest.raises(AIGovToolError) as caught:
        check_loads(path, inspect_onnx(io.BytesIO(like)), limits)
    return caught.value


@pytest.fixture
def path(tmp_path: Path, identity: bytes) -> Path:
    """Where the model lies."""
    model = tmp_path / "model.onnx"
    model.write_bytes(identity)
    return model


def test_a_model_that_loads_passes(path: Path, identity: bytes) -> None:
    """ONNX Runtime takes it and sees the same inputs and outputs."""
    check_loads(path, inspect_onnx(io.BytesIO(identity)))


def test_external_data_is_loaded_from_beside_the_graph(path: Path, make_model: MakeModel) -> None:
    """The folder of the model is where ONNX Runtime looks."""
    weights = numpy_helper.from_array(np.ones((1, 2), np.float32), "w")
    (path.parent / "w.data").write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = weights.EXTERNAL
    weights.external_data.add(key="location", value="w.data")
    data = make_model([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[weights])
    path.write_bytes(data)
    check_loads(path, inspect_onnx(io.BytesIO(data)))
    (path.parent / "w.data").unlink()
    assert refusal(path, data).reason == "load_failed"


def test_a_model_that_onnx_runtime_refuses_is_refused_with_its_reason(path: Path, make_model: MakeModel) -> None:
    """The reason is ONNX Runtime's; the folder is not in it."""
    data = make_model([helper.make_node("NoSuchOperator", ["x"], ["y"])])
    path.write_bytes(data)
    error = refusal(path, data)
    assert isinstance(error, ModelError)
    assert error.reason == "load_failed"
    assert "NoSuchOperator" in error.message
    assert str(path.parent) not in error.message


def test_a_slow_model_is_ended(path: Path, identity: bytes) -> None:
    """After the timeout nothing is waited for."""
    assert refusal(path, identity, LoadLimits(timeout_s=0.02)).reason == "load_timeout"


def test_a_crash_is_a_refusal(path: Path, make_model: MakeModel) -> None:
    """A model that computes for long while it loads is killed by its limit of CPU time; the parent lives."""
    size = numpy_helper.from_array(np.array([6000, 6000], np.int64), "size")
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["m0"], value=numpy_helper.from_array(np.ones(1, np.float32)))
    ]
    nodes += [helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(8)]
    nodes += [helper.make_node("ReduceSum", ["m8"], ["s"]), helper.make_node("Add", ["x", "s"], ["y"])]
    data = make_model(nodes, initializers=[size])
    path.write_bytes(data)
    error = refusal(path, data, LoadLimits(cpu_s=2))
    assert isinstance(error, ModelError)
    assert error.reason == "load_crashed"
    assert "SIG" in error.message


def test_a_model_that_needs_too_much_memory_is_refused(path: Path, make_model: MakeModel) -> None:
    """The memory of the process is limited, not only that of the machine."""
    weights = numpy_helper.from_array(np.ones(1, np.float32), "w")
    weights.ClearField("raw_data")
    weights.dims[0] = 1 << 28
    weights.data_location = weights.EXTERNAL
    weights.external_data.add(key="location", value="w.data")
    with (path.parent / "w.data").open("wb") as file:
        file.truncate(4 << 28)
    nodes = [helper.make_node("ReduceMax", ["w"], ["m"], keepdims=0), helper.make_node("Add", ["x", "m"], ["y"])]
    data = make_model(nodes, initializers=[weights])
    path.write_bytes(data)
    assert refusal(path, data, LoadLimits(memory_bytes=900 << 20)).reason in {"load_failed", "load_crashed"}


@pytest.mark.parametrize("names", [("a", "y"), ("x", "b")])
def test_two_readers_must_agree(
    path: Path, names: tuple[str, str], make_model: MakeModel, make_tensor: Callable[..., object]
) -> None:
    """A file that is swapped for another model after inspection is noticed, by its inputs and by its outputs."""
    node = helper.make_node("Identity", [names[0]], [names[1]])
    other = make_model([node], inputs=[make_tensor(names[0])], outputs=[make_tensor(names[1])])
    assert refusal(path, other).reason == "load_differs"


def test_a_check_that_cannot_run_is_our_fault(path: Path, identity: bytes) -> None:
    """Too little memory for Python's own modules says nothing about the model."""
    assert isinstance(refusal(path, identity, LoadLimits(memory_bytes=64 << 20)), FaultError)


def test_reasons_are_one_plain_bounded_line() -> None:
    """No escape sequence, line break, direction mark or folder reaches the reader."""
    text = sanitise("\x1b[31mred\r\n/home/me/model.onnx \u202e" + "x" * 1000, Path("/home/me/model.onnx"))
    assert text.startswith("[31mred model.onnx x")
    assert text.isprintable()
    assert len(text) <= 403


def test_the_parent_imports_no_engine() -> None:
    """The whole package layer is imported without onnx, onnxruntime or numpy."""
    code = (
        "import sys, pkgutil, importlib, aigovtool.package as p\n"
        "[importlib.import_module(m.name) for m in pkgutil.iter_modules(p.__path__, 'aigovtool.package.')]\n"
        "print([m for m in ('onnx', 'onnxruntime', 'numpy', 'google.protobuf') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=True, timeout=60)
    assert result.stdout.strip() == b"[]"
