"""One tensor as it travels: a name, a datatype, a shape, and its elements as little-endian bytes.

Rules, so that a tensor that exists can be handed on without another look:

1. Rank, each dimension and the number of elements are bounded before anything is allocated. The product is
   taken over Python integers: with 64-bit ones `[65536] * 4` has 0 elements, and -1 times -1 is 1.
2. A dimension is an `int` of at least 0; `True`, 2.0 and -1 are not. A tensor of shape `()` has one element.
3. The bytes are exactly as many as datatype and shape demand, in row-major order.
4. A `BYTES` element is a 4-byte little-endian length and that many bytes; the elements fill the data exactly.
5. A `BOOL` element is the byte 0 or the byte 1: others are true for some readers and undefined for others.

Data is never copied: a tensor may be a view of a request body. It is not shown by `repr`, because it is
what a consumer asked or was answered.

What it does not do: arithmetic, conversion between datatypes, or comparison with what a model takes.

Source: Open Inference Protocol V2 (https://github.com/kserve/open-inference-protocol,
specification/protocol/inference_rest.md, "Tensor Data Types"); for rule 4 and `BF16` the binary tensor data
extension (https://github.com/triton-inference-server/server, docs/protocol/extension_binary_data.md).
"""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

from aigovtool.errors import InvalidValueError, MalformedError, TooLargeError
from aigovtool.limits import (
    MAX_BYTES_ELEMENTS,
    MAX_TENSOR_ELEMENTS,
    MAX_TENSOR_NAME_CHARS,
    MAX_TENSOR_RANK,
    MAX_TENSORS,
)

Buffer = bytes | bytearray | memoryview

_LENGTH: Final = struct.Struct("<I")
# Booleans are looked at in pieces of this many bytes, so that the look needs no second copy of the data.
_PIECE_BYTES: Final = 1 << 20


class Datatype(StrEnum):
    """Element types, with the names of the Open Inference Protocol."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BF16 = "BF16"
    BYTES = "BYTES"

    @property
    def size_bytes(self) -> int:
        """Bytes of one element; 0 for `BYTES`, whose elements have no common size."""
        return _SIZES[self]


_SIZES: Final = {
    Datatype.BOOL: 1,
    Datatype.UINT8: 1,
    Datatype.UINT16: 2,
    Datatype.UINT32: 4,
    Datatype.UINT64: 8,
    Datatype.INT8: 1,
    Datatype.INT16: 2,
    Datatype.INT32: 4,
    Datatype.INT64: 8,
    Datatype.FP16: 2,
    Datatype.FP32: 4,
    Datatype.FP64: 8,
    Datatype.BF16: 2,
    Datatype.BYTES: 0,
}


@dataclass(frozen=True, slots=True)
class Outline:
    """What a tensor says of itself, without its data: enough to refuse it before the data is looked at."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]

    @classmethod
    def checked(cls, name: str, datatype: str, shape: Sequence[int]) -> Self:
        """Return an outline that keeps rules 1 and 2; arguments and errors are those of `Tensor.checked`.

        Raises:
            InvalidValueError: `bad_tensor_name`, `bad_datatype`, `bad_shape`.
            TooLargeError: `rank_too_large`, `too_many_elements`.
        """
        kind = parse_datatype(datatype)
        check_name(name)
        element_count(shape, kind)
        return cls(name, kind, tuple(shape))

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    def check_length(self, size_bytes: int) -> None:
        """Raise `InvalidValueError` (`wrong_length`) unless its data can be of this length (rule 3)."""
        if self.datatype is not Datatype.BYTES and size_bytes != self.elements * self.datatype.size_bytes:
            raise InvalidValueError(
                f"tensor {self.name!r} has {size_bytes} bytes;"
                f" {self.datatype} of its shape has {self.elements * self.datatype.size_bytes}",
                reason="wrong_length",
            )

    def filled(self, data: Buffer) -> "Tensor":
        """Return the tensor with this data, as it is (not copied), if that keeps rules 3 to 5.

        Raises:
            InvalidValueError: `wrong_length`, `bad_bool`.
            MalformedError: `bad_bytes_framing`.
        """
        view = _byte_view(data)
        self.check_length(len(view))
        if self.datatype is Datatype.BYTES:
            _check_framing(view, self.elements, self.name)
        if self.datatype is Datatype.BOOL:
            _check_booleans(view, self.name)
        return Tensor(self.name, self.datatype, self.shape, data if isinstance(data, bytes | bytearray) else view)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor. `checked` is the way to make one from outside data; the plain constructor trusts its caller."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    data: Buffer = field(repr=False)

    @staticmethod
    def checked(name: str, datatype: str, shape: Sequence[int], data: Buffer) -> "Tensor":
        """Return a tensor that keeps rules 1 to 5, with `data` as it is (not copied).

        Args:
            name: 1 to `MAX_TENSOR_NAME_CHARS` printable characters.
            datatype: one of `Datatype`, or its name.
            shape: 0 to `MAX_TENSOR_RANK` dimensions.
            data: the elements, contiguous, row-major, little-endian.

        Raises:
            InvalidValueError: `bad_tensor_name`, `bad_datatype`, `bad_shape`, `wrong_length`, `bad_bool`.
            MalformedError: `bad_bytes_framing`.
            TooLargeError: `rank_too_large`, `too_many_elements`.
        """
        return Outline.checked(name, datatype, shape).filled(data)


def parse_datatype(text: str) -> Datatype:
    """Return the datatype called `text`.

    Raises:
        InvalidValueError: `bad_datatype`.
    """
    try:
        return Datatype(text)
    except ValueError:
        raise InvalidValueError(
            f"{str(text)[:40]!r} is not a datatype",
            reason="bad_datatype",
            fix="use one of " + ", ".join(Datatype),
        ) from None


def check_name(name: str) -> None:
    """Raise `InvalidValueError` (`bad_tensor_name`) unless `name` can name a tensor."""
    if not 1 <= len(name) <= MAX_TENSOR_NAME_CHARS or not name.isprintable():
        raise InvalidValueError(
            f"{name[:40]!r} is not a tensor name",
            reason="bad_tensor_name",
            fix=f"a tensor name has 1 to {MAX_TENSOR_NAME_CHARS} printable characters",
        )


def check_names(names: Iterable[str]) -> None:
    """Raise unless `names` can name the tensors of one body: few, good and different ones.

    Raises:
        InvalidValueError: `bad_tensor_name`, `duplicate_tensor`.
        TooLargeError: `too_many_tensors`.
    """
    seen: set[str] = set()
    for name in names:
        if len(seen) == MAX_TENSORS:
            raise TooLargeError(f"more than {MAX_TENSORS} tensors", reason="too_many_tensors")
        check_name(name)
        if name in seen:
            raise InvalidValueError(f"two tensors are called {name!r}", reason="duplicate_tensor")
        seen.add(name)


def element_count(shape: Sequence[int], datatype: Datatype) -> int:
    """Return how many elements a tensor of `shape` has (rules 1 and 2).

    Raises:
        InvalidValueError: `bad_shape`.
        TooLargeError: `rank_too_large`, `too_many_elements`.
    """
    if len(shape) > MAX_TENSOR_RANK:
        raise TooLargeError(
            f"a shape has {len(shape)} dimensions; at most {MAX_TENSOR_RANK} are taken", reason="rank_too_large"
        )
    limit = MAX_BYTES_ELEMENTS if datatype is Datatype.BYTES else MAX_TENSOR_ELEMENTS
    count = 1
    for dimension in shape:
        if type(dimension) is not int or dimension < 0:
            raise InvalidValueError("a dimension is not an integer of at least 0", reason="bad_shape")
        # Alone as well, because a dimension of 0 elsewhere would hide it in the product.
        if dimension > limit:
            raise TooLargeError(f"a dimension is over {limit}", reason="too_many_elements")
        count *= dimension
    if count > limit:
        raise TooLargeError(f"a tensor has over {limit} elements", reason="too_many_elements")
    return count


def check_bytes_elements(tensors: Iterable[Outline | Tensor]) -> None:
    """Raise unless the `BYTES` tensors of one body are few enough together: each element is walked.

    Raises:
        TooLargeError: `too_many_elements`.
    """
    if sum(math.prod(each.shape) for each in tensors if each.datatype is Datatype.BYTES) > MAX_BYTES_ELEMENTS:
        raise TooLargeError(
            f"the BYTES tensors of a body have over {MAX_BYTES_ELEMENTS} elements together", reason="too_many_elements"
        )


def frame_bytes(items: Iterable[Buffer]) -> bytes:
    """Return the data of a `BYTES` tensor with these elements (rule 4).

    Raises:
        TooLargeError: `element_too_large` for an element of 4 GiB or more.
    """
    parts: list[Buffer] = []
    for item in items:
        if len(item) >= 1 << 32:
            raise TooLargeError("a BYTES element has at most 2**32 - 1 bytes", reason="element_too_large")
        parts += (_LENGTH.pack(len(item)), item)
    return b"".join(parts)


def split_bytes(tensor: Tensor) -> list[bytes]:
    """Return the elements of a `BYTES` tensor, copied.

    Raises:
        InvalidValueError: `bad_datatype` for a tensor of another datatype.
        MalformedError: `bad_bytes_framing`; never for a tensor made by `Tensor.checked`.
    """
    if tensor.datatype is not Datatype.BYTES:
        raise InvalidValueError(f"tensor {tensor.name!r} is {tensor.datatype}, not BYTES", reason="bad_datatype")
    view = _byte_view(tensor.data)
    items: list[bytes] = []
    offset = 0
    while offset < len(view):
        end = _element_end(view, offset, tensor.name)
        items.append(bytes(view[offset + 4 : end]))
        offset = end
    return items


def _check_framing(view: memoryview, count: int, name: str) -> None:
    # Every element costs 4 bytes, so this also ends the walk early for a count that the data cannot hold.
    if len(view) < count * _LENGTH.size:
        raise MalformedError(f"tensor {name!r} has too few bytes for its elements", reason="bad_bytes_framing")
    offset = 0
    for _ in range(count):
        offset = _element_end(view, offset, name)
    if offset != len(view):
        raise MalformedError(
            f"tensor {name!r} has {len(view) - offset} bytes after its last element", reason="bad_bytes_framing"
        )


def _element_end(view: memoryview, offset: int, name: str) -> int:
    start = offset + _LENGTH.size
    if start <= len(view):
        end = start + int(_LENGTH.unpack_from(view, offset)[0])
        if end <= len(view):
            return end
    raise MalformedError(f"tensor {name!r} ends inside an element", reason="bad_bytes_framing")


def _check_booleans(view: memoryview, name: str) -> None:
    for start in range(0, len(view), _PIECE_BYTES):
        if bytes(view[start : start + _PIECE_BYTES]).translate(None, b"\x00\x01"):
            raise InvalidValueError(f"tensor {name!r} has a BOOL byte that is neither 0 nor 1", reason="bad_bool")


def _byte_view(data: Buffer) -> memoryview:
    view = memoryview(data)
    if view.nbytes == 0:  # Python casts no view that has a dimension of 0
        return memoryview(b"")
    try:
        return view.cast("B")
    except (TypeError, ValueError):
        raise InvalidValueError("tensor data is not contiguous bytes", reason="wrong_length") from None
