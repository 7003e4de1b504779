"""The ONNX project's own tests of a backend, as they lie in the `onnx` distribution: a model, inputs, expected outputs.

Most are of one operator in one of its forms, made in memory by the distribution's own code with fixed seeds. Others are
files: exports of PyTorch's layers, a few models of sequences and texts, and whole networks for images, of which those
are taken that are small in memory.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
from onnx import ModelProto, OptionalProto, SequenceProto, TensorProto, TypeProto, ValueInfoProto, numpy_helper

#: How many there are in the version of `onnx` that the workshop has; a test compares.
CASES: Final = 2_030
#: They are dealt out, one after another, to so many enclaves: one serves 64 models at most.
BATCHES: Final = 36
_FOLDERS: Final = ("pytorch-converted", "pytorch-operator", "simple")
_NETWORKS: Final = ("densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet")
#: What `onnx` itself compares with.
_RTOL, _ATOL = 1e-3, 1e-7


@dataclass(frozen=True)
class Case:
    """One test: `inputs` by their names, and the outputs that are expected, in the model's order."""

    name: str
    model: bytes
    inputs: Mapping[str, Any]
    expected: tuple[Any, ...]
    rtol: float = _RTOL
    atol: float = _ATOL


@cache
def cases() -> tuple[Case, ...]:
    """Return all tests, in the order of their names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they compute infinities, and say so
        found = [*_of_operators(), *_of_files(), *_of_networks()]
    return tuple(sorted(found, key=lambda case: case.name))


def batch(number: int) -> tuple[Case, ...]:
    """Return one part of all tests; every so many-th, so that parts are alike."""
    return cases()[number % BATCHES :: BATCHES]


def _of_operators() -> Iterator[Case]:
    from onnx.backend.test.case.node import collect_testcases  # noqa: PLC0415 - takes seconds

    for one in collect_testcases():
        if not isinstance(one.model, ModelProto) or one.data_sets is None:
            raise TypeError(f"{one.name} has no model of its own")
        ((inputs, expected),) = one.data_sets
        yield _case(f"node/{one.name}", one.model, inputs, expected, rtol=one.rtol, atol=one.atol)


def _of_files() -> Iterator[Case]:
    for kind in _FOLDERS:
        for path in sorted((_data() / kind).glob("*/model.onnx")):
            model = ModelProto.FromString(path.read_bytes())
            (values,) = path.parent.glob("test_data_set_*")
            inputs = [_value(values / f"input_{number}.pb", info) for number, info in enumerate(_inputs(model))]
            expected = [_value(values / f"output_{number}.pb", info) for number, info in enumerate(model.graph.output)]
            yield _case(f"{kind}/{path.parent.name}", model, inputs, expected)


def _of_networks() -> Iterator[Case]:
    for name in _NETWORKS:
        path = _data() / "light" / f"light_{name}.onnx"
        model = ModelProto.FromString(path.read_bytes())
        inputs = [_ramp(info) for info in _inputs(model)]
        (info,) = model.graph.output
        yield _case(f"light/{name}", model, inputs, [_value(path.with_name(f"light_{name}_output_0.pb"), info)])


def _case(name: str, model: ModelProto, inputs: Any, expected: Any, **tolerances: float) -> Case:  # noqa: ANN401
    given = zip((info.name for info in _inputs(model)), map(_plain, inputs), strict=True)
    return Case(name, bytes(model.SerializeToString()), dict(given), tuple(map(_plain, expected)), **tolerances)


def _inputs(model: ModelProto) -> list[ValueInfoProto]:
    """Return the inputs that have no value in the model: before IR version 4 weights are listed as inputs, too."""
    initial = {tensor.name for tensor in model.graph.initializer}
    return [info for info in model.graph.input if info.name not in initial]


def _plain(value: Any) -> Any:  # noqa: ANN401 - tensors, numbers, and lists of them
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _value(path: Path, info: ValueInfoProto) -> Any:  # noqa: ANN401
    data, kind = path.read_bytes(), info.type
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(SequenceProto.FromString(data))
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(OptionalProto.FromString(data))
    if kind.HasField("tensor_type"):
        return numpy_helper.to_array(TensorProto.FromString(data))
    raise TypeError(f"{path}: {TypeProto.DESCRIPTOR.name} of another kind")


def _ramp(info: ValueInfoProto) -> Any:  # noqa: ANN401
    """Return what `onnx` gives its networks: numbers from 0 up to 1."""
    shape = [axis.dim_value or 1 for axis in info.type.tensor_type.shape.dim]
    size = int(np.prod(shape))
    return (np.arange(size).reshape(shape) / size).astype(np.float32)


def _data() -> Path:
    return Path(str(files("onnx"))) / "backend" / "test" / "data"
