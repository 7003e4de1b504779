"""A tensor that exists is bounded, complete and unambiguous."""

import struct
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigovtool.errors import AIGovToolError, InvalidValueError, MalformedError, TooLargeError
from aigovtool.limits import MAX_BYTES_ELEMENTS, MAX_TENSOR_ELEMENTS, MAX_TENSOR_NAME_CHARS, MAX_TENSOR_RANK
from aigovtool.protocol.tensor import Datatype, Tensor, element_count, frame_bytes, split_bytes

FIXED = [kind for kind in Datatype if kind is not Datatype.BYTES]


def refusal(name: Any, datatype: Any, shape: Any, data: Any) -> AIGovToolError:
    with pytest.raises(AIGovToolError) as caught:
        Tensor.checked(name, datatype, shape, data)
    return caught.value


def test_datatype_sizes_are_those_of_numpy() -> None:
    """Every datatype with a fixed size has the size of the same type in an independent implementation."""
    for kind in FIXED:
        if kind is not Datatype.BF16:
            name = kind.value.lower().replace("fp", "float")
            assert np.dtype(name).itemsize == kind.size_bytes
    assert (Datatype.BF16.size_bytes, Datatype.BYTES.size_bytes) == (2, 0)


@pytest.mark.parametrize("kind", FIXED)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 5), (1,) * MAX_TENSOR_RANK])
def test_exact_length_is_demanded(kind: Datatype, shape: tuple[int, ...]) -> None:
    """One byte less or more than datatype and shape say is refused; the exact length is taken without a copy."""
    size = int(np.prod(shape)) * kind.size_bytes
    data = bytes(size)
    tensor = Tensor.checked("x", kind, list(shape), data)
    assert (tensor.datatype, tensor.shape) == (kind, shape)
    assert tensor.data is data
    for wrong in {size - 1, size + 1} - {-1}:
        error = refusal("x", kind, shape, bytes(wrong))
        assert type(error) is InvalidValueError
        assert error.reason == "wrong_length"


BAD_SHAPES: list[tuple[str, Sequence[object], type[AIGovToolError], str]] = [
    ("minus one", [-1], InvalidValueError, "bad_shape"),
    ("two negatives make a positive", [-2, -2], InvalidValueError, "bad_shape"),
    ("true is not 1", [True], InvalidValueError, "bad_shape"),
    ("a float", [2.0], InvalidValueError, "bad_shape"),
    ("a string", ["2"], InvalidValueError, "bad_shape"),
    ("a numpy integer, which overflows silently", [np.int64(2)], InvalidValueError, "bad_shape"),
    ("none", [None], InvalidValueError, "bad_shape"),
    ("product is 0 in 64 bits", [65536] * 4, TooLargeError, "too_many_elements"),
    ("product is 1 in 64 bits", [3, 11, 131, 2731, 409891, 7623851], TooLargeError, "too_many_elements"),
    ("2**31", [2**31], TooLargeError, "too_many_elements"),
    ("2**63", [2**63], TooLargeError, "too_many_elements"),
    ("one over", [MAX_TENSOR_ELEMENTS + 1], TooLargeError, "too_many_elements"),
    ("product one over", [2, MAX_TENSOR_ELEMENTS // 2 + 1], TooLargeError, "too_many_elements"),
    ("a zero hides a huge dimension", [0, 2**62], TooLargeError, "too_many_elements"),
    ("a huge dimension before a zero", [2**62, 0], TooLargeError, "too_many_elements"),
    ("rank 17", [1] * 17, TooLargeError, "rank_too_large"),
    ("a million dimensions", [1] * 10**6, TooLargeError, "rank_too_large"),
]


@pytest.mark.parametrize(("shape", "kind", "reason"), [case[1:] for case in BAD_SHAPES], ids=[c[0] for c in BAD_SHAPES])
def test_shape_bombs_are_refused_without_memory(shape: Any, kind: type[AIGovToolError], reason: str) -> None:
    """A shape out of bounds is refused by class and reason, and costs no memory in proportion to what it claims."""
    tracemalloc.start()
    try:
        error = refusal("x", "FP32", shape, b"")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (type(error), error.reason) == (kind, reason)
    assert peak < 100_000


def test_largest_tensor_is_counted_exactly() -> None:
    """The bound itself is allowed, for fixed sizes and for BYTES, and one more is not."""
    assert element_count([MAX_TENSOR_ELEMENTS], Datatype.UINT8) == MAX_TENSOR_ELEMENTS
    assert element_count([1024, MAX_BYTES_ELEMENTS // 1024], Datatype.BYTES) == MAX_BYTES_ELEMENTS
    with pytest.raises(TooLargeError):
        element_count([MAX_BYTES_ELEMENTS + 1], Datatype.BYTES)


@pytest.mark.parametrize("name", ["", "a\n", "a\x00b", "\ud800", "x" * (MAX_TENSOR_NAME_CHARS + 1), "\u202ename"])
def test_unprintable_or_long_names_are_refused(name: str) -> None:
    """A tensor name cannot forge a log line, hide its direction or be huge; the message stays short."""
    error = refusal(name, "FP32", [0], b"")
    assert (type(error), error.reason) == (InvalidValueError, "bad_tensor_name")
    assert len(error.message) < 300


@pytest.mark.parametrize("datatype", ["", "fp32", "FLOAT", "FP32 ", "INT4", "x" * 10**6])
def test_unknown_datatypes_are_refused(datatype: str) -> None:
    """A datatype has one spelling; the message does not repeat a huge one."""
    error = refusal("x", datatype, [0], b"")
    assert (type(error), error.reason) == (InvalidValueError, "bad_datatype")
    assert len(error.message) < 300


@pytest.mark.parametrize("position", [0, 1 << 20, (1 << 20) + 6])
def test_booleans_are_zero_or_one(position: int) -> None:
    """A BOOL byte of 2 is refused wherever it stands, also beyond the first piece that is looked at."""
    data = bytearray(b"\x01\x00" * ((1 << 19) + 4))
    assert Tensor.checked("x", "BOOL", [len(data)], bytes(data)).datatype is Datatype.BOOL
    data[position] = 2
    error = refusal("x", "BOOL", [len(data)], data)
    assert (type(error), error.reason) == (InvalidValueError, "bad_bool")


BAD_FRAMES = [
    ("no length", [1], b""),
    ("half a length", [1], b"\x00\x00"),
    ("length beyond the end", [1], struct.pack("<I", 5) + b"1234"),
    ("4 GiB", [1], b"\xff\xff\xff\xff"),
    ("big-endian", [1], struct.pack(">I", 1) + b"a"),
    ("one element too few", [2], struct.pack("<I", 4) + b"aaaa"),
    ("one element too many", [1], bytes(8)),
    ("trailing byte", [1], bytes(5)),
    ("bytes for no element", [0], bytes(4)),
    ("many claimed, none there", [MAX_BYTES_ELEMENTS], b""),
]


@pytest.mark.parametrize(("shape", "data"), [case[1:] for case in BAD_FRAMES], ids=[case[0] for case in BAD_FRAMES])
def test_bytes_framing_is_exact(shape: list[int], data: bytes) -> None:
    """BYTES elements fill their data exactly: nothing is missing and nothing is hidden behind them."""
    error = refusal("x", "BYTES", shape, data)
    assert (type(error), error.reason) == (MalformedError, "bad_bytes_framing")


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=20))
def test_bytes_elements_survive_framing(items: list[bytes]) -> None:
    """Whatever is framed is read back, also from a view."""
    data = frame_bytes(items)
    assert split_bytes(Tensor.checked("x", "BYTES", [len(items)], data)) == items
    assert split_bytes(Tensor.checked("x", "BYTES", [len(items)], memoryview(data))) == items


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.binary(max_size=64), st.sampled_from([*Datatype]), st.lists(st.integers(-2, 9), max_size=4))
def test_any_data_is_a_tensor_or_a_typed_refusal(data: bytes, kind: Datatype, shape: list[int]) -> None:
    """Arbitrary bytes never raise anything but an error of ours, and a BYTES tensor that is made can be split."""
    try:
        tensor = Tensor.checked("x", kind, shape, data)
    except (InvalidValueError, MalformedError, TooLargeError):
        return
    if kind is Datatype.BYTES:
        assert len(split_bytes(tensor)) == np.prod(shape)


def test_only_bytes_tensors_are_split() -> None:
    """The elements of another datatype are not taken for framed bytes."""
    with pytest.raises(InvalidValueError) as caught:
        split_bytes(Tensor.checked("x", "UINT8", [4], bytes(4)))
    assert caught.value.reason == "bad_datatype"


@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (3, 0), ()])
def test_array_buffers_are_taken_as_bytes(shape: tuple[int, ...]) -> None:
    """The buffer of a contiguous array of any rank is taken without a copy, also when it is empty."""
    array = np.ones(shape, "<f4")
    tensor = Tensor.checked("x", "FP32", shape, array.data)
    assert bytes(tensor.data) == array.tobytes()
    if array.size:
        assert np.shares_memory(np.frombuffer(tensor.data, np.uint8), array)


def test_strided_data_is_refused() -> None:
    """A view with gaps is not the elements in row-major order."""
    error = refusal("x", "UINT8", [4], memoryview(bytes(8))[::2])
    assert (type(error), error.reason) == (InvalidValueError, "wrong_length")


def test_data_is_not_shown() -> None:
    """The representation of a tensor, which may reach a log, does not hold what a consumer asked."""
    assert "prompt" not in repr(Tensor.checked("x", "BYTES", [1], frame_bytes([b"prompt"])))
