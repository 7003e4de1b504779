"""Reads the inputs and outputs of an ONNX graph: names, element types, and which axes are dynamic.

Only tensors of the inference protocol's datatypes are taken.
Source: ValueInfoProto and TypeProto in onnx/onnx-ml.proto.
"""

from typing import Final

from aigovtool.errors import ModelError
from aigovtool.limits import MAX_ONNX_NAME_BYTES, MAX_TENSOR_ELEMENTS, MAX_TENSOR_RANK
from aigovtool.package import onnx_schema as onnx
from aigovtool.package.manifest import MAX_TEXT_CHARS, Dimension, TensorSpec
from aigovtool.package.wire import Field, WireReader, malformed

_ZIPMAP_FIX: Final = (
    "the output is a ZipMap of scikit-learn; export it as a tensor: "
    "skl2onnx.to_onnx(model, example, options={id(model): {'zipmap': False}})"
)


def read_tensor(wire: WireReader, message: Field, what: str) -> TensorSpec:
    """Return the tensor that a ValueInfoProto at `message` describes; `what` is "input" or "output".

    Raises:
        ModelError: not a tensor, or one that the inference protocol cannot carry.
        InvalidValueError: a name holds a character that cannot be printed.
    """
    name, spec = "", None
    for field in wire.fields(message.start, message.end, onnx.VALUE_INFO):
        if field.number == 1:
            name = wire.text(field, MAX_ONNX_NAME_BYTES, f"the name of an {what}")
        elif field.number == 2:
            spec = field
    if spec is None or not name or len(name) > MAX_TEXT_CHARS:
        raise malformed(f"the {what} {name[:80]!r} has no type, or a name of no or over {MAX_TEXT_CHARS} characters")
    return _type(wire, spec, f"{what} {name!r}", name)


def _type(wire: WireReader, message: Field, what: str, name: str) -> TensorSpec:
    spec: TensorSpec | None = None
    for field in wire.fields(message.start, message.end, onnx.TYPE):
        if field.number == 1:
            spec = _tensor_type(wire, field, what, name)
        elif field.number in onnx.TYPE_NAMES:
            raise ModelError(
                f"the {what} is a {onnx.TYPE_NAMES[field.number]}, not a tensor",
                reason="not_a_tensor",
                fix=_ZIPMAP_FIX if _holds_map(wire, field) else "export the model with tensors only",
            )
    if spec is None:
        raise malformed(f"the {what} has no type")
    return spec


def _holds_map(wire: WireReader, field: Field) -> bool:
    """Whether the type is a map or a sequence of maps, which is what scikit-learn's ZipMap gives."""
    if field.number != 4:
        return field.number == 5
    elements = wire.fields(field.start, field.end, onnx.SEQUENCE_TYPE)
    return any(inner.number == 5 for e in elements for inner in wire.fields(e.start, e.end, onnx.TYPE))


def _tensor_type(wire: WireReader, message: Field, what: str, name: str) -> TensorSpec:
    element, shape = 0, None
    for field in wire.fields(message.start, message.end, onnx.TENSOR_TYPE):
        if field.number == 1:
            element = field.value
        else:
            shape = _shape(wire, field, what)
    if element not in onnx.DATATYPES:
        raise ModelError(
            f"the {what} has ONNX element type {element}, which the inference protocol cannot carry",
            reason="datatype",
            fix="cast it inside the model, for example to FP32 or INT64",
        )
    return TensorSpec(name=name, datatype=onnx.DATATYPES[element], shape=shape)


def _shape(wire: WireReader, message: Field, what: str) -> tuple[Dimension, ...]:
    shape: list[Dimension] = []
    for field in wire.fields(message.start, message.end, onnx.SHAPE):
        if len(shape) >= MAX_TENSOR_RANK:
            raise ModelError(
                f"the {what} has over {MAX_TENSOR_RANK} axes", reason="rank", fix="reshape it in the model"
            )
        shape.append(_dimension(wire, field, what))
    return tuple(shape)


def _dimension(wire: WireReader, message: Field, what: str) -> Dimension:
    axis: Dimension = -1
    for field in wire.fields(message.start, message.end, onnx.DIMENSION):
        if field.number == 1:
            axis = field.value if field.value < 1 << 63 else -1
            if axis > MAX_TENSOR_ELEMENTS:
                raise ModelError(f"the {what} has an axis of size {axis}", reason="dimension")
        elif field.number == 2:
            axis = wire.text(field, MAX_TEXT_CHARS, "the name of an axis") or -1
    return axis
