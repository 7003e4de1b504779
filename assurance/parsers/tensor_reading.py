"""An independent reading of Open Inference Protocol V2 bodies: JSON by hand, and elements packed by numpy.

It reads a body that was accepted and says what is in it; each rule of the protocol, and of `aigovtool.protocol`, that
is not kept on the way is a complaint. Nothing of the product is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np

from assurance.parsers.reading import Json, by_hand

_TENSORS: Final = 64
_RANK: Final = 16
_ELEMENTS: Final = 1 << 26
_BYTES_ELEMENTS: Final = 1 << 20
_CHARS: Final = 256
#: By the protocol's names: the type of numpy that packs it, and the JSON types that its elements may have.
_NUMPY: Final[dict[str, tuple[str, tuple[type, ...]]]] = {
    "BOOL": ("|b1", (bool,)),
    "UINT8": ("<u1", (int,)),
    "UINT16": ("<u2", (int,)),
    "UINT32": ("<u4", (int,)),
    "UINT64": ("<u8", (int,)),
    "INT8": ("<i1", (int,)),
    "INT16": ("<i2", (int,)),
    "INT32": ("<i4", (int,)),
    "INT64": ("<i8", (int,)),
    "FP32": ("<f4", (int, float)),
    "FP64": ("<f8", (int, float)),
}
_SIZES: Final = {**{name: int(code[-1]) for name, (code, _) in _NUMPY.items()}, "FP16": 2, "BF16": 2, "BYTES": 0}


class ComplaintError(Exception):
    """A rule that an accepted body does not keep."""


@dataclass(frozen=True)
class ReadTensor:
    """A tensor as it was read."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class ReadBody:
    """What a body says beside its tensors is in `document`."""

    document: dict[str, Json]
    tensors: tuple[ReadTensor, ...]


def read_body(length: bytes, body: bytes, member: str) -> ReadBody:
    """Return what is in a body whose tensors are in a member, given the header with the length of its JSON, or b"".

    Raises:
        ComplaintError: a rule is not kept.
        NotJsonError: it begins with no strict JSON.
    """
    size = int(length) if length else len(body)
    _demand(size <= len(body) and str(size).encode() == (length or str(size).encode()), "the length of its JSON")
    document, rest = by_hand(body[:size]), body[size:]
    _demand(isinstance(document, dict), "no object")
    given = document.get(member)
    _demand(isinstance(given, list) and len(given) <= _TENSORS, "no list of tensors, or too many")
    tensors = []
    for one in given:
        tensor, used = _tensor(one, rest)
        tensors.append(tensor)
        rest = rest[used:]
    _demand(not rest, "bytes that belong to no tensor")
    _demand(len({one.name for one in tensors}) == len(tensors), "two tensors of one name")
    elements = sum(prod(one.shape) for one in tensors if one.datatype == "BYTES")
    _demand(elements <= _BYTES_ELEMENTS, "too many elements of BYTES")
    return ReadBody(document, tuple(tensors))


def _tensor(given: Json, rest: bytes) -> tuple[ReadTensor, int]:
    _demand(isinstance(given, dict), "a tensor that is no object")
    known = {"name", "shape", "datatype", "parameters", "data"}
    _demand(given.keys() <= known and {"name", "shape", "datatype"} <= given.keys(), "members of a tensor")
    name, datatype, shape = given["name"], given["datatype"], given["shape"]
    require_name(name)
    _demand(datatype in _SIZES, "a datatype")
    _demand(isinstance(shape, list) and len(shape) <= _RANK, "a rank")
    _demand(all(type(one) is int and 0 <= one <= _ELEMENTS for one in shape), "a dimension")
    _demand(prod(shape) <= (_BYTES_ELEMENTS if datatype == "BYTES" else _ELEMENTS), "too many elements")
    size = int(parameters(given, {"binary_data_size": int}).get("binary_data_size", -1))
    data = given.get("data")
    _demand((data is None) is (size >= 0), "both forms, or none")
    if data is None:
        _demand(size <= len(rest), "a size beyond the body")
        packed = rest[:size]
        _require_packed(packed, datatype, prod(shape))
        return ReadTensor(name, datatype, tuple(shape), packed), size
    _demand(isinstance(data, list), "data that is no list")
    return ReadTensor(name, datatype, tuple(shape), _packed(_flat(data, shape), datatype)), 0


def parameters(given: dict[str, Json], known: dict[str, type]) -> dict[str, Any]:
    """Return the parameters that are there, none of which may be unknown or of another type."""
    found = given.get("parameters")
    _demand(found is None or isinstance(found, dict), "parameters")
    present = {name: value for name, value in (found or {}).items() if name not in known or value is not None}
    _demand(present.keys() <= known.keys(), "an unknown parameter")
    _demand(all(type(value) is known[name] for name, value in present.items()), "the type of a parameter")
    return present


def require_name(name: Json) -> None:
    """Complain unless it can name a tensor."""
    _demand(isinstance(name, str) and 1 <= len(name) <= _CHARS and name.isprintable(), "a name")


def _require_packed(data: bytes, datatype: str, elements: int) -> None:
    if datatype != "BYTES":
        _demand(len(data) == elements * _SIZES[datatype], "data that is longer or shorter than its shape")
        _demand(datatype != "BOOL" or set(data) <= {0, 1}, "a boolean")
        return
    at = 0
    for _ in range(elements):
        _demand(at + 4 <= len(data), "an element that is cut")
        at += 4 + int.from_bytes(data[at : at + 4], "little")
    _demand(at == len(data), "elements that do not fill the data")


def _flat(data: list[Json], shape: Sequence[int]) -> list[Json]:
    if not data or not isinstance(data[0], list):
        _demand(len(data) == prod(shape), "another number of elements")
        return data
    found, (size, *inner) = data, shape
    _demand(len(found) == size, "nested in another way than its shape")
    if not inner:
        _demand(not any(isinstance(one, list) for one in found), "nested too deep")
        return found
    _demand(all(isinstance(one, list) and len(one) == inner[0] for one in found), "nested in another way")
    return [element for one in found for element in _nested(one, inner)]


def _nested(data: Json, shape: Sequence[int]) -> list[Json]:
    size, *inner = shape
    _demand(isinstance(data, list) and len(data) == size, "nested in another way than its shape")
    return [element for one in data for element in _nested(one, inner)] if inner else list(data)


def _packed(flat: list[Json], datatype: str) -> bytes:
    if datatype == "BYTES":
        _demand(all(isinstance(one, str) for one in flat), "an element that is no text")
        return b"".join(len(one.encode()).to_bytes(4, "little") + one.encode() for one in flat)
    _demand(datatype in _NUMPY, "a datatype without a JSON form")
    code, types = _NUMPY[datatype]
    _demand(all(isinstance(one, types) and isinstance(one, bool) is (code == "|b1") for one in flat), "an element")
    if code[1] in "iu":
        limits = np.iinfo(code)
        _demand(all(int(limits.min) <= one <= int(limits.max) for one in flat), "an integer out of its range")
    with np.errstate(over="ignore"):
        array = np.array(flat, dtype="<f8" if code[1] == "f" else code).astype(code)
    _demand(code[1] != "f" or np.isfinite(array).all(), "a number out of its range")
    return array.tobytes()


def _demand(holds: object, what: str) -> None:
    if not holds:
        raise ComplaintError(f"accepted with {what}")
