"""The models that the data plane is measured with: real shapes, random weights from a fixed seed, made with `onnx`.

Weights decide nothing about speed as long as no number is denormal or infinite, so nothing is downloaded: each layer's
are drawn to keep the size of what flows through it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_OPSET: Final = 17
_IR: Final = 8
#: Words of BERT's vocabulary.
_VOCABULARY: Final = 30_522
_GRAPH: Final = "model.onnx"
_WEIGHTS: Final = "weights.bin"


@dataclass(frozen=True)
class Graph:
    """A model, and one request to it: arrays by name of input."""

    name: str
    content: bytes
    inputs: Mapping[str, NDArray[np.generic]]


def lay_out(graph: Graph, folder: Path, *, beside: bool = False) -> tuple[str, ...]:
    """Write a model into a folder, its weights in one file with it or beside it; return names, the graph first."""
    if beside:
        model = onnx.load_from_string(graph.content)
        onnx.save_model(model, folder / _GRAPH, save_as_external_data=True, location=_WEIGHTS, size_threshold=1024)
        return (_GRAPH, _WEIGHTS)
    (folder / _GRAPH).write_bytes(graph.content)
    return (_GRAPH,)


@dataclass
class _Layers:
    """Collects nodes and weights."""

    chance: np.random.Generator = field(default_factory=lambda: np.random.default_rng(20_260_101))
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - whatever the kind has
        """Add a node with one output, and return that output's name."""
        made = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [made], **attributes))
        return made

    def constant(self, array: NDArray[np.generic]) -> str:
        """Add a weight, and return its name."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def random(self, *shape: int, scale: float) -> str:
        """Add a random weight, normal with that standard deviation."""
        return self.constant((self.chance.standard_normal(shape) * scale).astype(np.float32))

    def integers(self, *values: int) -> str:
        """Add a shape or other list of integers."""
        return self.constant(np.array(values, np.int64))

    def dense(self, x: str, wide: int, to: int) -> str:
        """Multiply by a matrix and add a bias."""
        product = self.add("MatMul", x, self.random(wide, to, scale=1 / math.sqrt(wide)))
        return self.add("Add", product, self.random(to, scale=0.01))

    def conv(self, x: str, channels: int, to: int, size: int, *, stride: int = 1, gain: float = 2.0) -> str:
        """Convolve; batch normalisation is folded into the bias, as exporters do."""
        weights = self.random(to, channels, size, size, scale=math.sqrt(gain / (channels * size * size)))
        pads = [size // 2] * 4
        return self.add("Conv", x, weights, self.random(to, scale=0.01), strides=[stride] * 2, pads=pads)

    def finish(self, name: str, inputs: Mapping[str, NDArray[np.generic]], last: str, to: int) -> Graph:
        """Return the graph; the first axis of what goes in and comes out is a batch of any size."""
        self.nodes.append(helper.make_node("Identity", [last], ["y"]))
        given = [
            helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(one.dtype), ["n", *one.shape[1:]])
            for key, one in inputs.items()
        ]
        made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", to])
        graph = helper.make_graph(self.nodes, name, given, [made], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
        onnx.checker.check_model(model)
        return Graph(name, model.SerializeToString(), inputs)


def _numbers(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def tiny() -> Graph:
    """Return a perceptron of 30 inputs, 64 hidden units and 2 outputs: all that it costs is what is around it."""
    layers = _Layers()
    hidden = layers.add("Relu", layers.dense("x", 30, 64))
    return layers.finish("mlp", {"x": _numbers(1, 30)}, layers.dense(hidden, 64, 2), 2)


def _bottleneck(layers: _Layers, x: str, channels: int, narrow: int, stride: int) -> str:
    wide = 4 * narrow
    inner = layers.add("Relu", layers.conv(x, channels, narrow, 1))
    inner = layers.add("Relu", layers.conv(inner, narrow, narrow, 3, stride=stride))
    inner = layers.conv(inner, narrow, wide, 1, gain=0.1)
    if stride != 1 or channels != wide:
        x = layers.conv(x, channels, wide, 1, stride=stride, gain=1.0)
    return layers.add("Relu", layers.add("Add", inner, x))


def _residual(layers: _Layers, image: str) -> str:
    x = layers.add("Relu", layers.conv(image, 3, 64, 7, stride=2))
    x = layers.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        narrow = 64 << stage
        for block in range(blocks):
            x = _bottleneck(layers, x, channels, narrow, 2 if block == 0 and stage > 0 else 1)
            channels = 4 * narrow
    return layers.dense(layers.add("Flatten", layers.add("GlobalAveragePool", x)), channels, 1000)


def resnet50() -> Graph:
    """Return ResNet-50 for images of 224 x 224 (He and others, 2015)."""
    layers = _Layers()
    return layers.finish("resnet50", {"x": _numbers(1, 3, 224, 224)}, _residual(layers, "x"), 1000)


def chest() -> Graph:
    """Return the same body for images of 480 x 480 with channels last, as models of chest X-rays take them."""
    layers = _Layers()
    image = layers.add("Transpose", "x", perm=[0, 3, 1, 2])
    return layers.finish("chest480", {"x": _numbers(1, 480, 480, 3)}, _residual(layers, image), 1000)


@dataclass(frozen=True)
class _Encoder:
    depth: int
    wide: int
    heads: int
    length: int


def _normalised(layers: _Layers, x: str, wide: int) -> str:
    ones = layers.constant(np.ones(wide, np.float32))
    return layers.add("LayerNormalization", x, ones, layers.constant(np.zeros(wide, np.float32)), axis=-1)


def _attention(layers: _Layers, x: str, mask: str, shape: _Encoder) -> str:
    each = shape.wide // shape.heads
    parted = layers.integers(-1, shape.length, shape.heads, each)

    def part(order: list[int]) -> str:
        return layers.add(
            "Transpose", layers.add("Reshape", layers.dense(x, shape.wide, shape.wide), parted), perm=order
        )

    query, keys, values = part([0, 2, 1, 3]), part([0, 2, 3, 1]), part([0, 2, 1, 3])
    scale = layers.constant(np.array(1 / math.sqrt(each), np.float32))
    scores = layers.add("Add", layers.add("Mul", layers.add("MatMul", query, keys), scale), mask)
    mixed = layers.add("MatMul", layers.add("Softmax", scores, axis=-1), values)
    joined = layers.add("Transpose", mixed, perm=[0, 2, 1, 3])
    flat = layers.add("Reshape", joined, layers.integers(-1, shape.length, shape.wide))
    return layers.dense(flat, shape.wide, shape.wide)


def _gelu(layers: _Layers, x: str) -> str:
    def number(value: float) -> str:
        return layers.constant(np.array(value, np.float32))

    error = layers.add("Erf", layers.add("Div", x, number(math.sqrt(2))))
    return layers.add("Mul", layers.add("Mul", x, layers.add("Add", error, number(1))), number(0.5))


def _encoder(name: str, shape: _Encoder) -> Graph:
    layers, wide = _Layers(), shape.wide
    x = layers.add("Gather", layers.random(_VOCABULARY, wide, scale=0.5), "input_ids")
    x = _normalised(layers, layers.add("Add", x, layers.random(shape.length, wide, scale=0.5)), wide)
    seen = layers.add("Cast", "attention_mask", to=TensorProto.FLOAT)
    hidden = layers.add("Sub", layers.constant(np.array(1, np.float32)), seen)
    mask = layers.add("Mul", hidden, layers.constant(np.array(-10_000, np.float32)))
    mask = layers.add("Unsqueeze", mask, layers.integers(1, 2))
    for _ in range(shape.depth):
        x = _normalised(layers, layers.add("Add", x, _attention(layers, x, mask, shape)), wide)
        inner = layers.dense(_gelu(layers, layers.dense(x, wide, 4 * wide)), 4 * wide, wide)
        x = _normalised(layers, layers.add("Add", x, inner), wide)
    pooled = layers.add("ReduceMean", x, axes=[1], keepdims=0)
    words = np.random.default_rng(7).integers(0, _VOCABULARY, (1, shape.length), np.int64)
    inputs = {"input_ids": words, "attention_mask": np.ones((1, shape.length), np.int64)}
    return layers.finish(name, inputs, pooled, wide)


def minilm() -> Graph:
    """Return an encoder of 6 layers of 384 with 12 heads, at a sequence of 128, as MiniLM has them."""
    return _encoder("minilm128", _Encoder(depth=6, wide=384, heads=12, length=128))


def bert() -> Graph:
    """Return an encoder of 12 layers of 768 with 12 heads, at a sequence of 128, as BERT base has them."""
    return _encoder("bert128", _Encoder(depth=12, wide=768, heads=12, length=128))


#: What makes each.
GRAPHS: Final[dict[str, Callable[[], Graph]]] = {
    "mlp": tiny,
    "resnet50": resnet50,
    "minilm128": minilm,
    "chest480": chest,
    "bert128": bert,
}
