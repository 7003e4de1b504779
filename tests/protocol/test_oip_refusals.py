"""Every inference request that is not exactly right is refused, by class and reason, before memory is spent on it."""

import json
import tracemalloc

import pytest

from aigovtool.errors import AIGovToolError, InvalidValueError, MalformedError, TooLargeError
from aigovtool.limits import (
    MAX_BYTES_ELEMENTS,
    MAX_INFER_BODY_BYTES,
    MAX_INFER_JSON_BYTES,
    MAX_INFER_JSON_LISTS,
    MAX_TENSORS,
)
from aigovtool.protocol.oip import parse_infer_request
from aigovtool.protocol.tensor import split_bytes


def one_input(**members: object) -> bytes:
    """Return a JSON request with one INT32 input of one element, changed by `members` (None removes)."""
    tensor: dict[str, object] = {"name": "x", "shape": [1], "datatype": "INT32", "data": [7]} | members
    return json.dumps({"inputs": [{name: value for name, value in tensor.items() if value is not None}]}).encode()


def refusal(body: bytes, length: str | None = None) -> AIGovToolError:
    with pytest.raises(AIGovToolError) as caught:
        parse_infer_request(body, length)
    assert len(caught.value.message) < 400
    return caught.value


def with_binary(size: object, rest: bytes, **members: object) -> tuple[bytes, str]:
    head = one_input(data=None, parameters={"binary_data_size": size}, **members)
    return head + rest, str(len(head))


ELEMENTS: list[tuple[str, str, type[AIGovToolError], str]] = [
    # what one element of JSON data is written as, in which datatype, and the refusal
    ("true", "INT32", InvalidValueError, "bad_element"),
    ("true", "FP32", InvalidValueError, "bad_element"),
    ("1", "BOOL", InvalidValueError, "bad_element"),
    ("1.0", "INT32", InvalidValueError, "bad_element"),
    ("1e2", "INT64", InvalidValueError, "bad_element"),
    ('"1"', "INT32", InvalidValueError, "bad_element"),
    ('"1"', "FP64", InvalidValueError, "bad_element"),
    ("1", "BYTES", InvalidValueError, "bad_element"),
    ("null", "FP32", InvalidValueError, "bad_element"),
    ("{}", "FP32", InvalidValueError, "bad_element"),
    ("256", "UINT8", InvalidValueError, "number_out_of_range"),
    ("-1", "UINT8", InvalidValueError, "number_out_of_range"),
    ("-1", "UINT64", InvalidValueError, "number_out_of_range"),
    ("-129", "INT8", InvalidValueError, "number_out_of_range"),
    ("65536", "UINT16", InvalidValueError, "number_out_of_range"),
    ("2147483648", "INT32", InvalidValueError, "number_out_of_range"),
    ("4294967296", "UINT32", InvalidValueError, "number_out_of_range"),
    ("1e39", "FP32", InvalidValueError, "number_out_of_range"),
    ("-3.5e38", "FP32", InvalidValueError, "number_out_of_range"),
    ("9223372036854775808", "INT64", MalformedError, "integer_too_large"),
    ("9007199254740993", "INT64", MalformedError, "integer_too_large"),
    ("1" * 100_000, "INT64", MalformedError, "integer_too_large"),
    ("1e400", "FP64", MalformedError, "not_finite"),
    ("-1e400", "FP32", MalformedError, "not_finite"),
    ("NaN", "FP32", MalformedError, "not_json"),
    ("Infinity", "FP64", MalformedError, "not_json"),
    ("-Infinity", "FP64", MalformedError, "not_json"),
    ("\uff11\uff12", "INT32", MalformedError, "not_json"),
    ("1_0", "INT32", MalformedError, "not_json"),
    ("0x10", "INT32", MalformedError, "not_json"),
    ("+1", "INT32", MalformedError, "not_json"),
    ("01", "INT32", MalformedError, "not_json"),
    (r'"\ud800"', "BYTES", MalformedError, "not_unicode"),
    ("1", "FP16", InvalidValueError, "no_json_form"),
    ("1.5", "BF16", InvalidValueError, "no_json_form"),
]


@pytest.mark.parametrize(
    ("text", "datatype", "kind", "reason"), ELEMENTS, ids=[f"{text[:20]} as {kind}" for text, kind, _, _ in ELEMENTS]
)
def test_number_tricks_are_refused(text: str, datatype: str, kind: type[AIGovToolError], reason: str) -> None:
    """No element is taken for another type, wrapped, clipped or made infinite, and no spelling of JSON is extended."""
    body = one_input(datatype=datatype, data=["ELEMENT"]).replace(b'"ELEMENT"', text.encode())
    error = refusal(body)
    assert (type(error), error.reason) == (kind, reason)


SHAPES: list[tuple[str, object, object, type[AIGovToolError], str]] = [
    ("minus one", [-1], [7], InvalidValueError, "bad_shape"),
    ("two negatives", [-1, -1], [7], InvalidValueError, "bad_shape"),
    ("true", [True], [7], InvalidValueError, "schema"),
    ("1.0", [1.0], [7], InvalidValueError, "schema"),
    ("string", ["1"], [7], InvalidValueError, "schema"),
    ("a number", 1, [7], InvalidValueError, "schema"),
    ("2**63", [2**63], [7], MalformedError, "integer_too_large"),
    ("2**31", [2**31], [7], TooLargeError, "too_many_elements"),
    ("65536**4 is 0 in 64 bits", [65536] * 4, [], TooLargeError, "too_many_elements"),
    ("huge beside zero", [0, 2**52], [], TooLargeError, "too_many_elements"),
    ("rank 17", [1] * 17, [7], TooLargeError, "rank_too_large"),
    ("a million dimensions", [1] * 10**6, [7], TooLargeError, "rank_too_large"),
    ("64 Mi elements that are not there", [1 << 26], [7], InvalidValueError, "wrong_length"),
    ("too few elements", [3], [7, 7], InvalidValueError, "wrong_length"),
    ("too many elements", [1], [7, 7], InvalidValueError, "wrong_length"),
    ("elements for an empty tensor", [0], [7], InvalidValueError, "wrong_length"),
    ("nested otherwise", [2, 3], [[1, 2], [3, 4], [5, 6]], InvalidValueError, "bad_nesting"),
    ("ragged", [2, 2], [[1, 2], [3]], InvalidValueError, "bad_nesting"),
    ("flat and nested", [2, 2], [[1, 2], 3, 4], InvalidValueError, "bad_nesting"),
    ("nested too deep", [1], [[7]], InvalidValueError, "bad_element"),
    ("not nested enough", [2, 1, 1], [[1], [2]], InvalidValueError, "bad_nesting"),
    ("no data", [1], None, InvalidValueError, "no_data"),
    ("no data, bad shape", [65536] * 4, None, TooLargeError, "too_many_elements"),
    ("data is a string", [1], "7", InvalidValueError, "schema"),
    ("data is an object", [1], {"0": 7}, InvalidValueError, "schema"),
]


@pytest.mark.parametrize(("shape", "data", "kind", "reason"), [c[1:] for c in SHAPES], ids=[c[0] for c in SHAPES])
def test_shapes_and_data_agree(shape: object, data: object, kind: type[AIGovToolError], reason: str) -> None:
    """A shape is bounded and exact, data is what it says, and no claim costs more than a small factor of the body."""
    body = one_input(shape=shape, data=data)
    tracemalloc.start()
    try:
        error = refusal(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (type(error), error.reason) == (kind, reason)
    assert peak < 200_000 + 24 * len(body)


SIZES: list[tuple[str, object, bytes, type[AIGovToolError], str]] = [
    ("true", True, bytes(1), InvalidValueError, "schema"),
    ("negative", -4, bytes(4), InvalidValueError, "schema"),
    ("float", 4.0, bytes(4), InvalidValueError, "schema"),
    ("string", "4", bytes(4), InvalidValueError, "schema"),
    ("beyond the body", 5, bytes(4), MalformedError, "binary_overrun"),
    ("far beyond the body", 2**53 - 1, bytes(4), MalformedError, "binary_overrun"),
    ("2**63", 2**63, bytes(4), MalformedError, "integer_too_large"),
    ("not all of the body", 4, bytes(5), MalformedError, "binary_left_over"),
    ("smaller than the shape", 3, bytes(4), InvalidValueError, "wrong_length"),
    ("larger than the shape", 8, bytes(8), InvalidValueError, "wrong_length"),
    ("zero", 0, bytes(4), InvalidValueError, "wrong_length"),
]


@pytest.mark.parametrize(("size", "rest", "kind", "reason"), [c[1:] for c in SIZES], ids=[c[0] for c in SIZES])
def test_binary_sizes_use_up_the_body(size: object, rest: bytes, kind: type[AIGovToolError], reason: str) -> None:
    """A binary size is an integer that agrees with the shape and with the bytes that are there."""
    error = refusal(*with_binary(size, rest))
    assert (type(error), error.reason) == (kind, reason)


LENGTHS = ["+5", " 5", "5 ", "-1", "", "abc", "0x5", "5.0", "1_0", "007", "\uff15", "5\n", "5,5", "9" * 5000, "99999"]


@pytest.mark.parametrize("length", LENGTHS, ids=[repr(length[:9]) for length in LENGTHS])
def test_header_length_has_one_spelling(length: str) -> None:
    """A header length that is not plain digits within the body is refused before the body is looked at."""
    error = refusal(one_input(), length)
    assert (type(error), error.reason) == (MalformedError, "bad_header_length")


@pytest.mark.parametrize(("move", "reason"), [(-1, "not_json"), (1, "not_json")])
def test_header_length_splits_exactly(move: int, reason: str) -> None:
    """A header length that cuts into the JSON, or into the data, is refused."""
    body, length = with_binary(4, b"\x01\x02\x03\x04")
    error = refusal(body, str(int(length) + move))
    assert (type(error), error.reason) == (MalformedError, reason)
    assert refusal(body, "0").reason == "not_json"


def test_binary_tensors_cannot_share_bytes() -> None:
    """Two inputs that both claim the same four bytes are refused: each byte belongs to one tensor."""
    wire = {"name": "x", "shape": [1], "datatype": "INT32", "parameters": {"binary_data_size": 4}}
    head = json.dumps({"inputs": [wire, wire | {"name": "y"}]}).encode()
    assert refusal(head + bytes(4), str(len(head))).reason == "binary_overrun"
    first, second = parse_infer_request(head + b"\x01\0\0\0\x02\0\0\0", str(len(head))).inputs
    assert (first.data, second.data) == (b"\x01\0\0\0", b"\x02\0\0\0")


X = {"name": "x", "shape": [1], "datatype": "INT32", "data": [7]}
REQUESTS: list[tuple[str, object, type[AIGovToolError], str]] = [
    ("not an object", [], InvalidValueError, "schema"),
    ("no inputs", {"inputs": []}, InvalidValueError, "no_inputs"),
    ("inputs absent", {}, InvalidValueError, "schema"),
    ("unknown field", {"inputs": [X], "extra": 1}, InvalidValueError, "schema"),
    ("unknown field of a tensor", {"inputs": [X | {"extra": 1}]}, InvalidValueError, "schema"),
    ("same input twice", {"inputs": [X, X]}, InvalidValueError, "duplicate_tensor"),
    ("same output twice", {"inputs": [X], "outputs": [{"name": "y"}] * 2}, InvalidValueError, "duplicate_tensor"),
    ("65 inputs", {"inputs": [X | {"name": f"x{n}"} for n in range(MAX_TENSORS + 1)]},
     TooLargeError, "too_many_tensors"),
    ("huge name", {"inputs": [X | {"name": "x" * 10**6}]}, InvalidValueError, "bad_tensor_name"),
    ("empty name", {"inputs": [X | {"name": ""}]}, InvalidValueError, "bad_tensor_name"),
    ("control character in a name", {"inputs": [X | {"name": "x\n"}]}, InvalidValueError, "bad_tensor_name"),
    ("huge output name", {"inputs": [X], "outputs": [{"name": "x" * 10**6}]}, InvalidValueError, "bad_tensor_name"),
    ("huge datatype", {"inputs": [X | {"datatype": "x" * 10**6}]}, InvalidValueError, "bad_datatype"),
    ("lower-case datatype", {"inputs": [X | {"datatype": "int32"}]}, InvalidValueError, "bad_datatype"),
    ("huge id", {"inputs": [X], "id": "i" * 10**6}, InvalidValueError, "bad_id"),
    ("control character in the id", {"inputs": [X], "id": "a\r\nb"}, InvalidValueError, "bad_id"),
    ("id is a number", {"inputs": [X], "id": 1}, InvalidValueError, "schema"),
    ("both forms", {"inputs": [X | {"parameters": {"binary_data_size": 4}}]}, InvalidValueError, "two_forms"),
    ("form is 1", {"inputs": [X], "parameters": {"binary_data_output": 1}}, InvalidValueError, "schema"),
    ("form is a string", {"inputs": [X], "outputs": [{"name": "y", "parameters": {"binary_data": "false"}}]},
     InvalidValueError, "schema"),
    ("priority is true", {"inputs": [X], "parameters": {"priority": True}}, InvalidValueError, "schema"),
    ("state", {"inputs": [X], "parameters": {"sequence_id": 1}}, InvalidValueError, "unsupported_parameter"),
    ("huge parameter name", {"inputs": [X], "parameters": {"x" * 10**6: 1}},
     InvalidValueError, "unsupported_parameter"),
    ("classification", {"inputs": [X], "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
     InvalidValueError, "unsupported_parameter"),
    ("shared memory", {"inputs": [X | {"data": None, "parameters": {"shared_memory_region": "r"}}]},
     InvalidValueError, "unsupported_parameter"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "kind", "reason"), [c[1:] for c in REQUESTS], ids=[c[0] for c in REQUESTS])
def test_other_bad_requests_are_refused(request_: object, kind: type[AIGovToolError], reason: str) -> None:
    """What is not understood exactly is refused, with a message that does not repeat a huge value."""
    error = refusal(json.dumps(request_).encode())
    assert (type(error), error.reason) == (kind, reason)


@pytest.mark.parametrize("key", ["name", "shape", "data"])
def test_duplicate_keys_are_refused(key: str) -> None:
    """Two values for one key would be read differently by different parsers."""
    body = one_input().replace(f'"{key}":'.encode(), f'"{key}": null, "{key}":'.encode())
    assert refusal(body).reason == "duplicate_key"


def test_bodies_are_bounded_before_they_are_parsed() -> None:
    """Too long a body, and too long a JSON part, are refused without a copy of them, with the way out."""
    body = bytes(MAX_INFER_BODY_BYTES + 1)
    tracemalloc.start()
    try:
        assert refusal(body, "5").reason == "body_too_large"
        error = refusal(body[:-1], str(MAX_INFER_JSON_BYTES + 1))
        assert (type(error), error.reason) == (TooLargeError, "json_too_large")
        assert "binary" in str(error.fix)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MAX_INFER_BODY_BYTES + 100_000  # the slice above, and nothing else
    with pytest.raises(TooLargeError):
        parse_infer_request(bytes(101), None, max_bytes=100)


def test_deep_nesting_is_refused() -> None:
    """A hundred thousand brackets exhaust no stack."""
    assert refusal(one_input(data=["D"]).replace(b'"D"', b"[" * 100_000 + b"]" * 100_000)).reason == "too_deep"


@pytest.mark.parametrize("count", [2, 3])
def test_bytes_elements_are_bounded_over_the_whole_request(count: int) -> None:
    """Each is walked in Python: a request may not have 64 times as many of them as a tensor."""
    each = MAX_BYTES_ELEMENTS // 2
    form = {"shape": [each], "datatype": "BYTES", "parameters": {"binary_data_size": 4 * each}}
    head = json.dumps({"inputs": [{"name": f"x{number}"} | form for number in range(count)]}).encode()
    body, length = head + bytes(4 * each * count), str(len(head))
    if count == 2:
        assert len(parse_infer_request(body, length).inputs) == count
        return
    error = refusal(body, length)
    assert (type(error), error.reason) == (TooLargeError, "too_many_elements")


def test_lists_are_bounded_before_the_json_is_parsed() -> None:
    """Three bytes make a list of 56, and a second in which no other thread runs: they are counted, not made."""
    body = one_input(data=["LISTS"]).replace(b'"LISTS"', b",".join([b"[]"] * (MAX_INFER_JSON_LISTS + 1)))
    tracemalloc.start()
    try:
        error = refusal(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (type(error), error.reason) == (TooLargeError, "too_many_lists")
    assert "binary" in str(error.fix)
    assert peak < 2 * len(body) + 100_000


def test_brackets_in_text_are_no_lists() -> None:
    """A program or a JSON document as a prompt may have as many as it likes."""
    text = '[{"' * MAX_INFER_JSON_LISTS
    (read,) = parse_infer_request(one_input(datatype="BYTES", data=[text]), None).inputs
    assert split_bytes(read) == [text.encode()]
