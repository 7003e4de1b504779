"""Models with what the graphs of the `onnx` distribution lack: branches, functions, trees, outside and sparse data."""

from collections.abc import Sequence
from typing import Any, Final

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

#: The file that models with data outside their graph refer to, and what is in it.
OUTSIDE: Final = ("weights.bin", bytes(range(64)) * 4)
_DOMAINS: Final = {"": 17, "ai.onnx.ml": 3, "com.microsoft": 1, "own": 1}
_FLOAT, _BOOL, _INT = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64


def value(name: str, shape: Sequence[int | str] = ("n", 2), kind: int = _FLOAT) -> onnx.ValueInfoProto:
    """Return what a graph says of one of its inputs or outputs."""
    return helper.make_tensor_value_info(name, kind, list(shape))


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[onnx.ValueInfoProto] | None = None,
    outputs: Sequence[onnx.ValueInfoProto] | None = None,
    initializers: Sequence[TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> ModelProto:
    """Return a model, by default from `x` to `y`, both FP32 [n, 2]."""
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x")] if inputs is None else inputs,
        [value("y")] if outputs is None else outputs,
        list(initializers),
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in _DOMAINS.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))


def branches(depth: int, *, inner: NodeProto | None = None) -> ModelProto:
    """Return branches within branches."""
    nodes = [inner or helper.make_node("Neg", ["x"], ["y0"])]
    for level in range(depth):
        body = helper.make_graph(nodes, f"b{level}", [], [value(f"y{level}")])
        other = helper.make_graph([helper.make_node("Abs", ["x"], ["z"])], f"o{level}", [], [value("z")])
        nodes = [helper.make_node("If", ["c"], [f"y{level + 1}"], then_branch=body, else_branch=other)]
    return model(nodes, [value("x"), value("c", (), _BOOL)], [value(f"y{depth}")])


def doubling(levels: int) -> ModelProto:
    """Return functions of which each calls the one before it twice."""
    functions = [helper.make_function("own", "F0", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], _opsets())]
    for level in range(1, levels):
        before = f"F{level - 1}"
        nodes = [
            helper.make_node(before, ["a"], ["m"], domain="own"),
            helper.make_node(before, ["m"], ["b"], domain="own"),
        ]
        functions.append(helper.make_function("own", f"F{level}", ["a"], ["b"], nodes, _opsets()))
    return model([helper.make_node(f"F{levels - 1}", ["x"], ["y"], domain="own")], functions=functions)


def _opsets() -> list[Any]:
    return [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]


def _loop() -> ModelProto:
    body = helper.make_graph(
        [helper.make_node("Add", ["carried", "carried"], ["next"]), helper.make_node("Identity", ["on"], ["go"])],
        "body",
        [value("step", (), _INT), value("on", (), _BOOL), value("carried", (2,))],
        [value("go", (), _BOOL), value("next", (2,))],
    )
    yes = helper.make_tensor("yes", _BOOL, [], [True])
    node = helper.make_node("Loop", ["count", "yes", "x"], ["y"], body=body)
    return model([node], [value("count", (), _INT), value("x", (2,))], [value("y", (2,))], [yes])


def _scan() -> ModelProto:
    body = helper.make_graph(
        [helper.make_node("Add", ["sum", "row"], ["more"]), helper.make_node("Identity", ["more"], ["seen"])],
        "body",
        [value("sum", (2,)), value("row", (2,))],
        [value("more", (2,)), value("seen", (2,))],
    )
    zero = helper.make_tensor("zero", _FLOAT, [2], [0.0, 0.0])
    return model(
        [helper.make_node("Scan", ["zero", "x"], ["end", "y"], body=body, num_scan_inputs=1)], initializers=[zero]
    )


def _trees() -> ModelProto:
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_values=[0.5, 0.0, 0.0],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0, 0],
        target_nodeids=[1, 2],
        target_ids=[0, 0],
        target_weights=[1.0, 2.0],
    )
    return model([node], outputs=[value("y", ("n", 1))])


def _outside() -> ModelProto:
    tensor = TensorProto(name="w", data_type=_FLOAT, dims=[2, 4], data_location=TensorProto.EXTERNAL)
    for key, said in (("location", OUTSIDE[0]), ("offset", "64"), ("length", "32")):
        tensor.external_data.add(key=key, value=said)
    return model([helper.make_node("MatMul", ["x", "w"], ["y"])], outputs=[value("y", ("n", 4))], initializers=[tensor])


def _sparse() -> ModelProto:
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"])])
    values = helper.make_tensor("w", _FLOAT, [2], [1.0, 2.0])
    made.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, helper.make_tensor("at", _INT, [2], [0, 3]), [2, 2])
    )
    return made


def _quantized() -> ModelProto:
    scale = helper.make_tensor("s", _FLOAT, [], [0.1])
    zero = helper.make_tensor("z", TensorProto.UINT8, [], [128])
    weights = helper.make_tensor("w", TensorProto.UINT8, [2, 2], [1, 2, 3, 4])
    return model(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["v"]),
            helper.make_node("MatMul", ["d", "v"], ["m"]),
            helper.make_node("QuantizeLinear", ["m", "s", "z"], ["p"]),
            helper.make_node("DequantizeLinear", ["p", "s", "z"], ["y"]),
        ],
        initializers=[scale, zero, weights],
    )


def _fused() -> ModelProto:
    """Return a chain that the optimizer joins: it is rewritten while it is loaded."""
    weights = helper.make_tensor("w", _FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    axes = helper.make_tensor("a", _INT, [1], [0])
    return model(
        [
            helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
            helper.make_node("Transpose", ["t"], ["u"], perm=[1, 0]),
            helper.make_node("MatMul", ["u", "w"], ["m"]),
            helper.make_node("Add", ["m", "w"], ["b"]),
            helper.make_node("Unsqueeze", ["b", "a"], ["v"]),
            helper.make_node("Squeeze", ["v", "a"], ["s"]),
            helper.make_node("Cast", ["s"], ["k"], to=TensorProto.DOUBLE),
            helper.make_node("Cast", ["k"], ["l"], to=_FLOAT),
            helper.make_node("Softmax", ["l"], ["y"], axis=-1),
        ],
        [value("x", (2, 2))],
        [value("y", (2, 2))],
        [weights, axes],
    )


def _texts() -> ModelProto:
    nodes = [
        helper.make_node(
            "LabelEncoder", ["x"], ["k"], domain="ai.onnx.ml", keys_strings=["a", "b"], values_int64s=[1, 2]
        ),
        helper.make_node("Cast", ["k"], ["y"], to=_FLOAT),
    ]
    return model(nodes, [value("x", ("n",), TensorProto.STRING)], [value("y", ("n",))])


def own_graphs() -> tuple[ModelProto, ...]:
    """Return all of them."""
    return (
        branches(3),
        doubling(4),
        _loop(),
        _scan(),
        _trees(),
        _outside(),
        _sparse(),
        _quantized(),
        _fused(),
        _texts(),
    )
