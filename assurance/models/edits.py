"""Edits of models: of what protobuf says in them, part by part, and now and then of their bytes."""

from collections.abc import Callable
from random import Random
from typing import Any, Final

from conformance.malformed import edits as of_bytes
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from assurance.models import values
from assurance.models.own_graphs import branches, doubling
from assurance.parsers import protobuf

#: Larger models are cut back to what they were: it is the engine that is measured, not the sealer.
MOST_BYTES: Final = 4 << 20
_ENOUGH_BYTES: Final = 1 << 20
_MANY: Final = 2_000

Edit = Callable[[ModelProto, Random], None]


def malformed(genuine: ModelProto, chance: Random) -> tuple[bytes, str]:
    """Return a changed model and the names of the edits."""
    model = ModelProto()
    model.CopyFrom(genuine)
    names = []
    for _ in range(chance.choice((1, 1, 1, 1, 2, 2, 3))):
        edit = chance.choice(_EDITS)
        edit(model, chance)
        names.append(edit.__name__.strip("_"))
        if model.ByteSize() > _ENOUGH_BYTES:
            break
    data = bytes(model.SerializeToString(deterministic=True))
    for name, edit_bytes in (("bytes", of_bytes.edit), ("field", protobuf.edit)) if chance.random() < 0.15 else ():
        if chance.random() < 0.5:
            data, names = edit_bytes(data, chance), [*names, name]
    return data[:MOST_BYTES], " ".join(names)


# --- Parts ---------------------------------------------------------------------------------------


def graphs_of(model: ModelProto) -> list[GraphProto]:
    """Return the graph and all graphs within it."""
    found = [model.graph]
    for graph in found:
        found += [inner for node in graph.node for one in node.attribute for inner in _inside(one)]
    return found


def _inside(attribute: AttributeProto) -> list[GraphProto]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _nodes(model: ModelProto) -> list[NodeProto]:
    within = [node for graph in graphs_of(model) for node in graph.node]
    return [*within, *(node for function in model.functions for node in function.node)]


def _tensors(model: ModelProto) -> list[TensorProto]:
    found = [one for graph in graphs_of(model) for one in graph.initializer]
    sparse = [one for graph in graphs_of(model) for one in graph.sparse_initializer]
    found += [part for one in sparse for part in (one.values, one.indices)]
    return found + [one.t for node in _nodes(model) for one in node.attribute if one.HasField("t")]


def _said(model: ModelProto) -> list[ValueInfoProto]:
    return [one for graph in graphs_of(model) for one in (*graph.input, *graph.output, *graph.value_info)]


def _names(model: ModelProto) -> list[str]:
    return [name for node in _nodes(model) for name in (*node.input, *node.output)] or ["x"]


def _one(parts: Any, chance: Random) -> Any:  # noqa: ANN401 - messages of protobuf, or none
    return chance.choice(parts) if len(parts) else None


# --- Edits ---------------------------------------------------------------------------------------


def _attribute(model: ModelProto, chance: Random) -> None:
    """Give an attribute another value, or a value of another type."""
    node = _one(_nodes(model), chance)
    if node is None:
        return
    if not node.attribute or chance.random() < 0.2:
        node.attribute.add(name=chance.choice(("axis", "axes", "perm", "to", "kernel_shape", "pads", "group", "mode")))
    attribute = _one(node.attribute, chance)
    kind = attribute.type if attribute.type and chance.random() < 0.75 else chance.randrange(15)
    if kind == AttributeProto.INT:
        attribute.i = values.integer(chance)
    elif kind == AttributeProto.INTS:
        attribute.ints[:] = values.integers(chance)
    elif kind == AttributeProto.FLOAT:
        attribute.f = chance.choice(values.FLOATS)
    elif kind == AttributeProto.FLOATS:
        attribute.floats[:] = [chance.choice(values.FLOATS) for _ in range(chance.choice((0, 1, 2, 5, 300)))]
    elif kind == AttributeProto.STRING:
        attribute.s = chance.choice(values.TEXTS).encode()
    elif kind == AttributeProto.STRINGS:
        attribute.strings[:] = [chance.choice(values.TEXTS).encode() for _ in range(chance.choice((0, 1, 2, 5, 300)))]
    else:
        chance.choice((lambda: node.attribute.remove(attribute), lambda: node.attribute.append(attribute)))()
        return
    attribute.type = kind


def _reference(model: ModelProto, chance: Random) -> None:
    """Have an attribute refer to one that a function would be given."""
    if node := _one([node for node in _nodes(model) if node.attribute], chance):
        _one(node.attribute, chance).ref_attr_name = chance.choice(("", "axis", "nothing"))


def _shape(model: ModelProto, chance: Random) -> None:
    """Say another size of an axis, another number of axes, or none."""
    said = _one(_said(model), chance)
    if said is None:
        return
    shape = said.type.tensor_type.shape
    what = chance.random()
    if what < 0.1:
        said.type.tensor_type.ClearField("shape")
    elif what < 0.3 or not shape.dim:
        for _ in range(chance.choice((1, 1, 2, 30, 300))):
            shape.dim.add().dim_value = values.integer(chance)
    elif what < 0.4:
        del shape.dim[chance.randrange(len(shape.dim)) :]
    elif what < 0.9:
        _one(shape.dim, chance).dim_value = values.integer(chance)
    else:
        _one(shape.dim, chance).dim_param = chance.choice(("n", "", "2", "-1", "n" * 3_000))


def _type(model: ModelProto, chance: Random) -> None:
    """Say another type, or another kind of value."""
    said = _one(_said(model), chance)
    if said is None:
        return
    kind = chance.choice((*range(28), 255, 2**31 - 1))
    what = chance.random()
    if what < 0.6:
        said.type.tensor_type.elem_type = kind
    elif what < 0.7:
        said.type.sequence_type.elem_type.tensor_type.elem_type = kind
    elif what < 0.8:
        said.type.optional_type.elem_type.tensor_type.elem_type = kind
    elif what < 0.9:
        said.type.map_type.key_type = kind
        said.type.map_type.value_type.tensor_type.elem_type = 1
    else:
        said.ClearField("type")


def _operator(model: ModelProto, chance: Random) -> None:
    """Have a node do something else, at another operator's attributes and number of inputs."""
    if node := _one(_nodes(model), chance):
        node.domain, node.op_type = chance.choice(values.operators())


def _contributed(model: ModelProto, chance: Random) -> None:
    """Have a node do what only this engine knows, and say that it may."""
    if node := _one(_nodes(model), chance):
        node.domain, node.op_type = chance.choice(
            [one for one in values.operators() if one[0] in {"com.microsoft", "ai.onnx.ml"}]
        )
        for domain in ("com.microsoft", "ai.onnx.ml"):
            if all(one.domain != domain for one in model.opset_import):
                model.opset_import.append(helper.make_opsetid(domain, 1))


def _dimensions(model: ModelProto, chance: Random) -> None:
    """Have a constant's dimensions and its data disagree."""
    if tensor := _one(_tensors(model), chance):
        if tensor.dims and chance.random() < 0.7:
            tensor.dims[chance.randrange(len(tensor.dims))] = values.integer(chance)
        else:
            tensor.dims[:] = values.integers(chance)


def _data(model: ModelProto, chance: Random) -> None:
    """Give a constant too little data, too much, or data in two places."""
    tensor = _one(_tensors(model), chance)
    if tensor is None:
        return
    what = chance.randrange(6)
    if what == 0:
        tensor.raw_data = tensor.raw_data[: chance.randrange(len(tensor.raw_data) + 1)]
    elif what == 1:
        tensor.raw_data = tensor.raw_data + chance.randbytes(chance.choice((1, 3, 4, 8, 4_000)))
    elif what == 2:
        tensor.int64_data[:] = values.integers(chance)
    elif what == 3:
        tensor.int32_data[:] = [max(-(2**31), min(2**31 - 1, one)) for one in values.integers(chance)]
    elif what == 4:
        tensor.string_data[:] = [text.encode() for text in values.TEXTS]
    else:
        tensor.ClearField("raw_data")


def _data_type(model: ModelProto, chance: Random) -> None:
    """Call a constant's data something else."""
    if tensor := _one(_tensors(model), chance):
        tensor.data_type = chance.choice((*range(28), 255, -1))


def _numbers(model: ModelProto, chance: Random) -> None:
    """Change the numbers in a constant: axes, sizes and indices are constants, too."""
    constants = [one for one in _tensors(model) if one.data_type == TensorProto.INT64]
    if tensor := _one(constants, chance):
        count = max(1, len(tensor.raw_data) // 8, len(tensor.int64_data))
        numbers = [values.integer(chance) for _ in range(min(count, _MANY))]
        tensor.ClearField("int64_data")
        tensor.raw_data = b"".join(one.to_bytes(8, "little", signed=True) for one in numbers)


def _outside(model: ModelProto, chance: Random) -> None:
    """Have a constant's data lie in a file."""
    if tensor := _one(_tensors(model), chance):
        tensor.data_location = TensorProto.EXTERNAL
        for key in ("location", "offset", "length", "checksum"):
            if chance.random() < 0.8:
                number = str(values.integer(chance))
                tensor.external_data.add(key=key, value=chance.choice((*values.TEXTS, number, number, "weights.bin")))


def _wire(model: ModelProto, chance: Random) -> None:
    """Have a node take what another gives: of itself, of a later one, of nobody."""
    node = _one(_nodes(model), chance)
    if node is None:
        return
    name = chance.choice((*_names(model), *node.output, "nobody", ""))
    if node.input and chance.random() < 0.8:
        node.input[chance.randrange(len(node.input))] = name
    else:
        node.input.extend([name] * chance.choice((1, 1, 2, 5, 500)))


def _twice(model: ModelProto, chance: Random) -> None:
    """Have two things bear one name."""
    node, name = _one(_nodes(model), chance), chance.choice(_names(model))
    graph = _one(graphs_of(model), chance)
    what = chance.randrange(5)
    if what == 0 and node and node.output:
        node.output[chance.randrange(len(node.output))] = name
    elif what == 1 and graph.node:
        graph.node.append(_one(graph.node, chance))
    elif what == 2 and graph.initializer:
        graph.initializer.append(_one(graph.initializer, chance))
    elif what == 3 and graph.output:
        graph.output.append(_one(graph.output, chance))
    elif graph.input:
        graph.input.append(_one(graph.input, chance))


def _drop(model: ModelProto, chance: Random) -> None:
    """Leave something out."""
    graph = _one(graphs_of(model), chance)
    part = _one(
        [one for one in (graph.node, graph.input, graph.output, graph.initializer, model.opset_import) if one], chance
    )
    if part:
        del part[chance.randrange(len(part))]
    elif node := _one(_nodes(model), chance):
        del node.output[:]


def _arguments(model: ModelProto, chance: Random) -> None:
    """Have a node take or give fewer, or more."""
    if node := _one(_nodes(model), chance):
        side = chance.choice((node.input, node.output))
        if side and chance.random() < 0.6:
            del side[chance.randrange(len(side)) :]
        else:
            side.extend(f"more{at}" for at in range(chance.choice((1, 2, 300))))


def _deepen(model: ModelProto, chance: Random) -> None:
    """Put branches around it all, nearly as many as protobuf reads, or functions that call each other twice."""
    if chance.random() < 0.3:
        model.CopyFrom(doubling(chance.choice((2, 5, 9, 12))))
    else:
        flat = [node for node in model.graph.node if not any(_inside(one) for one in node.attribute)]
        model.CopyFrom(branches(chance.choice((1, 2, 8, 14, 24, 29)), inner=_one(flat, chance)))


def _recursion(model: ModelProto, chance: Random) -> None:
    """Have a function call itself, or a node that bears its name."""
    calls = [helper.make_node("R", ["a"], ["b"], domain="own")] * chance.choice((1, 2))
    opsets = [helper.make_opsetid("own", 1)]
    model.functions.append(helper.make_function("own", "R", ["a"], ["b"], calls, opsets))
    model.opset_import.extend(opsets)
    if node := _one(model.graph.node, chance):
        node.domain, node.op_type = "own", "R"


def _version(model: ModelProto, chance: Random) -> None:
    """Say that it was written by other rules."""
    version = chance.choice((*range(1, 28), *values.INTEGERS))
    if model.opset_import and chance.random() < 0.8:
        _one(model.opset_import, chance).version = version
    else:
        model.ir_version = version


def _many(model: ModelProto, chance: Random) -> None:
    """Say something thousands of times, or with thousands of letters."""
    graph = _one(graphs_of(model), chance)
    if graph.node and chance.random() < 0.5:
        node = _one(graph.node, chance)
        if node.ByteSize() < 512:
            graph.node.extend([node] * _MANY)
    elif node := _one(_nodes(model), chance):
        node.name, node.doc_string = "n" * chance.choice((1_024, 100_000)), "d" * _MANY


_EDITS: Final[tuple[Edit, ...]] = (
    *(_attribute, _attribute, _attribute, _reference, _shape, _shape, _type, _operator, _contributed, _dimensions),
    *(_data, _data_type, _numbers, _outside, _wire, _twice, _drop, _arguments, _deepen, _recursion, _version, _many),
)
