"""ONNX files as a sealer reads them: walked by our own bounded reader, and compared with what `onnx` itself reads.

A file that is accepted must say the same to protobuf, if that reads it at all: inputs without initializers, outputs,
their types and axes, operator sets, files of external data and how much of them, and whether anything is drawn by
chance. All of it keeps the bounds of a manifest. Every part that the enclave must not load has been refused.
"""

from collections.abc import Iterator
from io import BytesIO
from random import Random
from typing import Any, Final, cast

import onnx
from conformance.malformed import edits
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from aigovtool.errors import ModelError
from aigovtool.package.inspect import OnnxModel, inspect_onnx
from aigovtool.package.manifest import TensorSpec
from assurance.parsers import protobuf
from assurance.parsers.parser import Kind, Parts

_TYPES: Final = {
    "FLOAT": "FP32",
    "FLOAT16": "FP16",
    "DOUBLE": "FP64",
    "BFLOAT16": "BF16",
    "STRING": "BYTES",
    **{name: name for name in ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")},
}
_RANDOM: Final = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Sampling",
)
_REFUSED: Final = ("EPContext", "PythonOp", "PythonOpGrad", "WordConvEmbedding")
_DOMAINS: Final = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")


def _tensor(name: str, shape: tuple[int | str | None, ...] | None = ("n", 2), kind: int = TensorProto.FLOAT) -> Any:  # noqa: ANN401
    return helper.make_tensor_value_info(name, kind, None if shape is None else list(shape))


def model(
    nodes: list[Any],
    *,
    inputs: list[Any] | None = None,
    outputs: list[Any] | None = None,
    initializers: list[Any] | None = None,
    functions: list[Any] | None = None,
    domains: tuple[str, ...] = (),
) -> bytes:
    """Return a serialized model, by default from `x` to `y`, both FP32 [n, 2]."""
    graph = helper.make_graph(
        nodes, "g", inputs or [_tensor("x")], outputs or [_tensor("y")], initializer=initializers or []
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    made = helper.make_model(
        graph, opset_imports=opsets, ir_version=9, functions=functions or [], producer_name="assurance"
    )
    return bytes(made.SerializeToString(deterministic=True))


def genuine() -> tuple[Parts, ...]:
    """Return models with everything that the reader looks at."""
    plain = helper.make_node("Identity", ["x"], ["y"])
    weights = helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    outside = helper.make_tensor("v", TensorProto.FLOAT, [2, 2], bytes(16), raw=True)
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "w/v.data"), ("offset", "64"), ("length", "16")):
        entry = outside.external_data.add()
        entry.key, entry.value = key, value
    trees = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        nodes_values=[0.5] * 20,
        nodes_nodeids=list(range(20)),
        nodes_modes=["BRANCH_LEQ"] * 10 + ["LEAF"] * 10,
    )
    branch = helper.make_graph(
        [helper.make_node("RandomNormal", [], ["z"], shape=[2])], "then", [], [_tensor("z", (2,))]
    )
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    function = helper.make_function("own", "F", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], [])
    constant = helper.make_node("Constant", [], ["y"], value=weights)
    types = [_tensor(f"t{kind}", (None, 3), kind) for kind in range(1, 14)]
    found = (
        model([plain]),
        model(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            inputs=[_tensor("x"), _tensor("w", (2, 2))],
            initializers=[weights],
        ),
        model([helper.make_node("MatMul", ["x", "v"], ["y"])], initializers=[outside]),
        model([trees], domains=("ai.onnx.ml",), outputs=[_tensor("y", None)]),
        model([choice], inputs=[_tensor("c", (1,), TensorProto.BOOL)]),
        model([helper.make_node("F", ["x"], ["y"], domain="own")], functions=[function], domains=("own",)),
        model([constant], inputs=types, outputs=[_tensor("y", ("a", 1, -1)), _tensor("o", ())]),
    )
    return tuple((one,) for one in found)


def _edit(parts: Parts, chance: Random) -> Parts:
    (data,) = parts
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        data = edits.edit(data, chance) if chance.random() < 0.15 else protobuf.edit(data, chance)
    return (data,)


def _wrong(parts: Parts, value: object) -> str | None:
    found = cast("OnnxModel", value)
    try:
        read = onnx.ModelProto.FromString(parts[0])
    except DecodeError:
        return _unbounded(found)  # nobody reads another model in it: what is not entered here is read when it is loaded
    return _other(found, read) or _unbounded(found)


def _other(found: OnnxModel, read: Any) -> str | None:  # noqa: ANN401 - a message of onnx
    """Return what the two readers have found differently."""
    graph = read.graph
    initial = {one.name for one in graph.initializer} | {one.values.name for one in graph.sparse_initializer}
    nodes = list(_nodes(read))
    opsets = {("" if one.domain == "ai.onnx" else one.domain): one.version for one in read.opset_import}
    external: dict[str, int] = {}
    for tensor in _tensors(read):
        if tensor.data_location == TensorProto.EXTERNAL:
            said = {one.key: one.value for one in tensor.external_data}
            end = int(said.get("offset", "0")) + int(said.get("length", "0"))
            external[said["location"]] = max(end, external.get(said["location"], 0))
    own = {(one.domain, one.name) for one in read.functions}
    same = {
        "IR version": found.ir_version % 2**64 == read.ir_version % 2**64,
        "producer": found.producer == read.producer_name,
        "inputs": list(map(_said, found.inputs)) == [_spec(one) for one in graph.input if one.name not in initial],
        "outputs": list(map(_said, found.outputs)) == [_spec(one) for one in graph.output],
        "operator sets": {one.domain: one.version % 2**64 for one in found.opsets}
        == {domain: version % 2**64 for domain, version in opsets.items()},
        "external data": {one.name: one.end_bytes for one in found.external} == external,
        "chance": found.draws_random == any(map(_draws, nodes)),
        "refused operators": not any(node.op_type in _REFUSED for node in nodes),
        "custom operators": all(node.domain in _DOMAINS or (node.domain, node.op_type) in own for node in nodes),
        "training": not read.training_info,
    }
    wrong = [name for name, holds in same.items() if not holds]
    return f"read otherwise than by onnx: {', '.join(wrong)}" if wrong else None


def _draws(node: onnx.NodeProto) -> bool:
    return node.op_type in _RANDOM or (node.op_type == "Dropout" and any(node.input[2:]))


def _said(spec: TensorSpec) -> tuple[str, str, tuple[int | str, ...] | None]:
    return spec.name, spec.datatype.value, spec.shape


def _spec(info: Any) -> tuple[str, str, tuple[int | str, ...] | None]:  # noqa: ANN401 - a message of onnx
    tensor = info.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(_axis(axis) for axis in tensor.shape.dim)
    kind = _TYPES.get(TensorProto.DataType.Name(tensor.elem_type), "?")
    return info.name, kind if info.type.WhichOneof("value") == "tensor_type" else "?", shape


def _axis(axis: Any) -> int | str:  # noqa: ANN401 - a message of onnx
    if axis.WhichOneof("value") == "dim_value":
        return max(-1, int(axis.dim_value))
    return str(axis.dim_param) or -1


def _graphs(read: Any) -> Iterator[Any]:  # noqa: ANN401 - a message of onnx
    """Yield the graphs of a model, functions among them, wherever they are."""
    waiting = [read.graph, *read.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for attribute in _attributes(graph):
            waiting += [attribute.g] if attribute.HasField("g") else []
            waiting += attribute.graphs


def _attributes(graph: Any) -> Iterator[Any]:  # noqa: ANN401 - a message of onnx
    for node in graph.node:
        yield from node.attribute
    yield from getattr(graph, "attribute_proto", ())


def _nodes(read: Any) -> Iterator[Any]:  # noqa: ANN401 - a message of onnx
    for graph in _graphs(read):
        yield from graph.node


def _tensors(read: Any) -> Iterator[Any]:  # noqa: ANN401 - a message of onnx
    for graph in _graphs(read):
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for attribute in _attributes(graph):
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _unbounded(found: OnnxModel) -> str | None:
    """Return which bound of a manifest is not kept."""
    specs = (*found.inputs, *found.outputs)
    axes = [axis for spec in specs for axis in spec.shape or ()]
    texts = [*(spec.name for spec in specs), *(axis for axis in axes if isinstance(axis, str))]
    kept = {
        "tensors": 1 <= len(found.inputs) <= 64 and 1 <= len(found.outputs) <= 64,
        "ranks": all(len(spec.shape or ()) <= 16 for spec in specs),
        "axes": all(-1 <= axis <= 1 << 26 for axis in axes if isinstance(axis, int)),
        "texts": all(1 <= len(text) <= 256 and text.isprintable() for text in texts),
        "operator sets": len(found.opsets) <= 64,
        "files": len(found.external) <= 1024 and all(0 <= one.end_bytes <= 256 << 30 for one in found.external),
        "names": not any(one.name.startswith("/") or ".." in one.name.split("/") for one in found.external),
        "shapes": all(spec.shape is not None for spec in found.inputs),
    }
    wrong = [name for name, holds in kept.items() if not holds]
    return f"a bound is not kept: {', '.join(wrong)}" if wrong else None


def kind(weight: int) -> Kind:
    """Return the kind of inputs."""
    return Kind(
        name="onnx-models",
        genuine=genuine(),
        edit=_edit,
        read=lambda parts: inspect_onnx(BytesIO(parts[0])),
        wrong=_wrong,
        refusals=(ModelError,),
        weight=weight,
    )
