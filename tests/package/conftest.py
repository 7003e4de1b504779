"""Small ONNX models that the tests of this folder share."""

from collections.abc import Callable, Iterable

import onnx
import pytest
from onnx import TensorProto, helper


def tensor(
    name: str, shape: Iterable[int | str | None] = ("n", 2), kind: int = TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def model_of(
    nodes: Iterable[onnx.NodeProto],
    *,
    inputs: Iterable[onnx.ValueInfoProto] | None = None,
    outputs: Iterable[onnx.ValueInfoProto] | None = None,
    initializers: Iterable[onnx.TensorProto] = (),
    domains: Iterable[str] = (),
    functions: Iterable[onnx.FunctionProto] = (),
) -> bytes:
    """Return a serialized model; by default with an input `x` and an output `y`, FP32 [n, 2]."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        list(inputs) if inputs is not None else [tensor("x")],
        list(outputs) if outputs is not None else [tensor("y")],
        initializer=list(initializers),
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))
    data: bytes = made.SerializeToString()
    return data


@pytest.fixture(scope="session")
def make_model() -> Callable[..., bytes]:
    """Build models: see `model_of`."""
    return model_of


@pytest.fixture(scope="session")
def make_tensor() -> Callable[..., onnx.ValueInfoProto]:
    """Build inputs and outputs: see `tensor`."""
    return tensor


@pytest.fixture(scope="session")
def identity() -> bytes:
    """One Identity node, FP32 [n, 2]."""
    return model_of([helper.make_node("Identity", ["x"], ["y"])])
