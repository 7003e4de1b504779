"""Padded answers: few sizes, and the same answer for every client."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient as Triton

from aigovtool.enclave.gateway.padding import HEAD_BYTES, head_padding, padded, padded_size
from aigovtool.enclave.results import header_lines
from aigovtool.errors import TooLargeError
from aigovtool.limits import MAX_INFER_BODY_BYTES, MAX_INFER_JSON_BYTES, MAX_PADDING_BYTES, MIN_PADDING_BYTES
from aigovtool.protocol.infer_body import InferBody
from aigovtool.protocol.oip import InferRequest, encode_infer_response, parse_infer_response
from aigovtool.protocol.tensor import Datatype, Tensor

LEAST = st.sampled_from([1 << power for power in range(10, 23)])


@given(st.integers(0, MAX_INFER_BODY_BYTES), LEAST)
def test_sizes_are_powers_of_two_and_then_multiples(size: int, least: int) -> None:
    """The next one, never below the least; of all bodies there are some twenty-odd."""
    sizes = [1 << power for power in range(10, 23) if 1 << power >= least]
    sizes += range(2 * MAX_PADDING_BYTES, MAX_INFER_BODY_BYTES + 1, MAX_PADDING_BYTES)
    assert padded_size(size, least) == min(each for each in sizes if each >= size)
    assert len(sizes) <= 28


def answer(rows: int, *, binary: bool, request_id: str | None = "café") -> InferBody:
    data = np.random.default_rng(rows).random((rows, 3)).astype(np.float32)
    outputs = [Tensor("a", Datatype.FP32, data.shape, data.tobytes()), Tensor("n", Datatype.INT64, (1,), bytes(8))]
    return encode_infer_response("m", None, outputs, InferRequest((), (), request_id, binary))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 20, 2_000])
def test_a_padded_answer_is_read_as_the_answer(rows: int, *, binary: bool) -> None:
    """By our own reader and by an independent client, unmodified; JSON and binary."""
    plain = answer(rows, binary=binary)
    made = padded(plain, MIN_PADDING_BYTES)
    assert made.size_bytes == len(made.joined()) == padded_size(plain.size_bytes, MIN_PADDING_BYTES)
    assert made.content_type == plain.content_type
    length = None if made.header_length is None else str(made.header_length)
    read = parse_infer_response(made.joined(), length, request_id="café")
    assert {tensor.name: bytes(tensor.data) for tensor in read.outputs} == {
        tensor.name: bytes(tensor.data)
        for tensor in parse_infer_response(
            plain.joined(), None if plain.header_length is None else str(plain.header_length), request_id="café"
        ).outputs
    }
    theirs = Triton.parse_response_body(made.joined(), header_length=made.header_length)
    assert theirs.get_response()["id"] == "café"
    found = theirs.as_numpy("a")
    assert found is not None
    assert found.tobytes() == bytes(read.outputs[0].data)


def test_a_body_that_has_a_size_is_not_padded_to_the_next() -> None:
    """To the byte."""
    filled = padded(answer(20, binary=False), MIN_PADDING_BYTES)
    assert padded(filled, MIN_PADDING_BYTES).joined() == filled.joined()


def test_json_that_no_client_would_read_is_not_made() -> None:
    """7 MiB of JSON, and so many binary data that the next size is far: nothing leaves, instead of 10 MiB of JSON."""
    head = b'{"outputs":[' + b" " * (7 << 20) + b"]}"
    for binary_bytes, refused in ((1 << 19, False), (2 << 20, True)):
        body = InferBody((head, bytes(binary_bytes)), len(head))
        if refused:
            with pytest.raises(TooLargeError) as caught:
                padded(body, MIN_PADDING_BYTES)
            assert caught.value.reason == "json_too_large"
        else:
            assert (padded(body, MIN_PADDING_BYTES).header_length or 0) <= MAX_INFER_JSON_BYTES


@given(st.lists(st.tuples(st.text("abc-", min_size=1, max_size=30), st.text("abc", max_size=900)), max_size=6))
def test_a_head_is_filled_to_a_multiple(headers: list[tuple[str, str]]) -> None:
    """As it stands on the line: names, values, colons and ends of lines."""
    size = len(header_lines(headers))
    line = head_padding(size)
    assert (size + len(line)) % HEAD_BYTES == 0
    assert len(line) < 2 * HEAD_BYTES
    assert line.endswith("\r\n")
