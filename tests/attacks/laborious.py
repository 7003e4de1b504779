"""A model whose work follows its input, in memory and in time, and one that gives back what it is sent."""

import json
import struct

from onnx import TensorProto, helper

_OPSET = 17


def laborious_model() -> bytes:
    """Return a model: `y` is `x` times one, `sum` adds up ones of shape `s`, `last` has been doubled `count` times."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Add", ["carried", "carried"], ["next"]), helper.make_node("Identity", ["on"], ["go_on"])],
        "body",
        [
            value("step", TensorProto.INT64, []),
            value("on", TensorProto.BOOL, []),
            value("carried", TensorProto.FLOAT, [64]),
        ],
        [value("go_on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, [64])],
    )
    ones = helper.make_tensor("ones", TensorProto.FLOAT, [1], [1.0])
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "one"], ["y"]),
            helper.make_node("ConstantOfShape", ["s"], ["filled"], value=ones),
            helper.make_node("ReduceSum", ["filled"], ["sum"], keepdims=0),
            helper.make_node("Loop", ["count", "yes", "start"], ["last"], body=body),
        ],
        "laborious",
        [
            value("x", TensorProto.FLOAT, ["n"]),
            value("s", TensorProto.INT64, ["r"]),
            value("count", TensorProto.INT64, []),
        ],
        [
            value("y", TensorProto.FLOAT, ["n"]),
            value("sum", TensorProto.FLOAT, []),
            value("last", TensorProto.FLOAT, [64]),
        ],
        [
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
            helper.make_tensor("start", TensorProto.FLOAT, [64], [0.0] * 64),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
    return bytes(made.SerializeToString())


def asked(x: bytes, *, s: tuple[int, ...] = (1,), count: int = 1) -> tuple[bytes, dict[str, str]]:
    """Return a request in the binary form, with `x` as it is, and its headers."""
    parts = [x, struct.pack(f"<{len(s)}q", *s), struct.pack("<q", count)]
    shapes: list[list[int]] = [[len(x) // 4], [len(s)], []]
    inputs = [
        {"name": name, "shape": shape, "datatype": kind, "parameters": {"binary_data_size": len(part)}}
        for name, shape, kind, part in zip(("x", "s", "count"), shapes, ("FP32", "INT64", "INT64"), parts, strict=True)
    ]
    head = json.dumps({"inputs": inputs, "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}).encode()
    headers = {"inference_header_content_length": str(len(head)), "content_type": "application/octet-stream"}
    return head + b"".join(parts), headers


def echo_model() -> bytes:
    """Return a model: `y` is `x`."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "echo",
        [value("x", TensorProto.FLOAT, ["n"])],
        [value("y", TensorProto.FLOAT, ["n"])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
    return bytes(made.SerializeToString())


def to_echo(x: bytes) -> tuple[bytes, dict[str, str]]:
    """Return a request to that in the binary form, and its headers."""
    size = {"binary_data_size": len(x)}
    tensor = {"name": "x", "shape": [len(x) // 4], "datatype": "FP32", "parameters": size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + x, {"inference_header_content_length": str(len(head)), "content_type": "application/octet-stream"}


def given(content: bytes, headers: dict[str, str]) -> bytes:
    """Return the bytes of `y` in an answer."""
    return content[int(headers["inference-header-content-length"]) :]
