"""The JSON form of a tensor's elements: numbers, booleans and strings in row-major order.

Rules, because a value that is read differently by two parties is a wrong answer that nobody notices:

1. Elements have the JSON type of their datatype: `true` is not 1, 1.0 and "1" are not integers. An integer may
   stand for a floating-point number.
2. A number that its datatype cannot hold is refused: 256 as `UINT8`, 1e39 as `FP32`. It is never wrapped, clipped
   or made infinite. (A decimal fraction is rounded to the nearest value, as everywhere.)
3. Data is flat, or nested exactly as the shape says.
4. `FP16` and `BF16` have no JSON form in the protocol, `NaN` and the infinities none in JSON (RFC 8259 section 6),
   bytes that are not UTF-8 none in a string, and integers beyond 2**53 - 1 none that every reader reads alike.
   These are refused both ways, with the advice to use the binary form, which holds everything.

Elements are looked at, packed and printed in pieces: one call over millions of them would hold up every other thread
(the interpreter runs one at a time), and text that is too long ends with the piece in which it becomes so.

What it does not do: parsing JSON text; that is `aigovtool.codec`, under the bound `MAX_INFER_JSON_BYTES`. A list is
never longer than that text; of one to print, a caller asks `least_json_bytes` first.

Source: Open Inference Protocol V2, inference_rest.md, "Tensor Data"; KServe's binary tensor data extension, for
`FP16`.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from aigovtool.codec import encode
from aigovtool.errors import InvalidValueError
from aigovtool.limits import MAX_INTEGER
from aigovtool.protocol.infer_body import json_too_large
from aigovtool.protocol.tensor import Datatype, Outline, Tensor, frame_bytes, split_bytes

Element = bool | int | float | str

#: Format characters of `struct` for the datatypes that are JSON numbers.
_CODES: Final = {
    Datatype.UINT8: "B",
    Datatype.UINT16: "H",
    Datatype.UINT32: "I",
    Datatype.UINT64: "Q",
    Datatype.INT8: "b",
    Datatype.INT16: "h",
    Datatype.INT32: "i",
    Datatype.INT64: "q",
    Datatype.FP32: "f",
    Datatype.FP64: "d",
}
_FLOATS: Final = frozenset({Datatype.FP32, Datatype.FP64})
_WIDE: Final = frozenset({Datatype.INT64, Datatype.UINT64})
_BINARY_ONLY: Final = frozenset({Datatype.FP16, Datatype.BF16})
# `struct` takes numbers as arguments, hence as one tuple; in pieces, so that the tuple stays small.
_PIECE: Final = 1 << 16

_USE_BINARY: Final = "use the binary form: binary_data_size for an input, binary_data or binary_data_output for outputs"


def tensor_from_json(outline: Outline, data: Sequence[object]) -> Tensor:
    """Return the tensor whose elements are `data`, flat or nested as its shape.

    Raises:
        InvalidValueError: `bad_element`, `number_out_of_range`, `wrong_length`, `bad_nesting`, `no_json_form`.
    """
    refuse_without_json_form(outline.name, outline.datatype)
    flat = _flatten(data, outline.shape, outline.elements)
    return outline.filled(_pack(outline.datatype, flat))


def json_text(tensor: Tensor, max_bytes: int) -> bytes:
    """Return the JSON array of the elements of `tensor`, flat, which reads back as exactly the same tensor.

    Raises:
        InvalidValueError: `no_json_form`, `not_finite_json`, `not_exact_json`, `not_utf8_json`.
        TooLargeError: `json_too_large`, if it would be longer than `max_bytes`.
    """
    refuse_without_json_form(tensor.name, tensor.datatype)
    texts: list[bytes] = []
    length = len(b"[]")
    for piece in _pieces(tensor):
        texts.append(encode(piece)[1:-1])
        length += len(texts[-1]) + len(b",")
        if length > max_bytes:
            raise json_too_large(length)
    return b"[%b]" % b",".join(texts)


def least_json_bytes(tensor: Tensor) -> int:
    """Return a lower bound of the JSON text of `tensor`'s elements, to refuse what is too long before it exists."""
    size = memoryview(tensor.data).nbytes
    if tensor.datatype is Datatype.BYTES:
        return size - math.prod(tensor.shape)  # a length of 4 bytes makes room for two quotes and a comma
    return 2 * (size // tensor.datatype.size_bytes)  # a digit and a comma


def refuse_without_json_form(name: str, datatype: Datatype) -> None:
    """Raise `InvalidValueError` (`no_json_form`) for a datatype that only the binary form can carry (rule 4)."""
    if datatype in _BINARY_ONLY:
        raise _unprintable(name, f"is {datatype}, which has no JSON form in the protocol", "no_json_form")


def _flatten(data: Sequence[object], shape: Sequence[int], count: int) -> Sequence[object]:
    if not data or type(data[0]) is not list:
        if len(data) == count:
            return data
        raise InvalidValueError(f"data has {len(data)} elements; its shape has {count}", reason="wrong_length")
    level: list[object] = [data]
    for dimension in shape:
        below: list[object] = []
        for node in level:
            if type(node) is not list or len(node) != dimension:
                raise InvalidValueError("data is not nested as its shape says", reason="bad_nesting")
            below += node
        level = below
    return level


def _pieces(tensor: Tensor) -> Iterator[list[Element]]:
    """Yield the elements of `tensor`, none of which JSON cannot say."""
    kind = tensor.datatype
    if kind is Datatype.BYTES:
        items = split_bytes(tensor)
        for start in range(0, len(items), _PIECE):
            yield _strings(tensor.name, items[start : start + _PIECE])
        return
    view = memoryview(tensor.data).cast("B")
    step = _PIECE * kind.size_bytes
    for start in range(0, len(view), step):
        piece = view[start : start + step]
        yield [byte == 1 for byte in piece] if kind is Datatype.BOOL else _numbers(tensor.name, kind, piece)


def _numbers(name: str, kind: Datatype, view: memoryview) -> list[Element]:
    numbers: list[Element] = list(struct.unpack(f"<{len(view) // kind.size_bytes}{_CODES[kind]}", view))
    if kind in _FLOATS and not all(map(math.isfinite, numbers)):  # type: ignore[arg-type]
        raise _unprintable(name, "holds NaN or an infinity, which JSON cannot say", "not_finite_json")
    if kind in _WIDE and any(abs(number) > MAX_INTEGER for number in numbers):  # type: ignore[arg-type]
        raise _unprintable(name, "holds an integer beyond 2**53 - 1", "not_exact_json")
    return numbers


def _pack(kind: Datatype, flat: Sequence[object]) -> bytes:
    allowed = _element_types(kind)
    starts = range(0, len(flat), _PIECE)
    if not all(allowed.issuperset(map(type, flat[start : start + _PIECE])) for start in starts):
        names = " or ".join(sorted(each.__name__ for each in allowed))
        raise InvalidValueError(f"an element of {kind} data is not {names}", reason="bad_element")
    if kind is Datatype.BYTES:
        return _pack_strings(flat)
    if kind is Datatype.BOOL:
        return bytes(element is True for element in flat)
    try:
        pieces = (flat[start : start + _PIECE] for start in starts)
        return b"".join(struct.pack(f"<{len(piece)}{_CODES[kind]}", *piece) for piece in pieces)
    except (struct.error, OverflowError):
        raise InvalidValueError(f"an element does not fit {kind}", reason="number_out_of_range") from None


def _pack_strings(flat: Sequence[object]) -> bytes:
    try:
        return frame_bytes(element.encode() for element in flat if isinstance(element, str))
    except UnicodeEncodeError:
        raise InvalidValueError("an element of BYTES data is not Unicode", reason="bad_element") from None


def _element_types(kind: Datatype) -> frozenset[type]:
    # Exact types, not isinstance: for Python `True` is an `int`.
    if kind is Datatype.BYTES:
        return frozenset({str})
    if kind is Datatype.BOOL:
        return frozenset({bool})
    return frozenset({int, float}) if kind in _FLOATS else frozenset({int})


def _strings(name: str, items: Sequence[bytes]) -> list[Element]:
    try:
        return [item.decode() for item in items]
    except UnicodeDecodeError:
        raise _unprintable(name, "holds bytes that are not UTF-8", "not_utf8_json") from None


def _unprintable(name: str, what: str, reason: str) -> InvalidValueError:
    return InvalidValueError(f"tensor {name!r} {what}", reason=reason, fix=_USE_BINARY)
