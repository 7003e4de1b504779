"""An independent client, unmodified, understands us and is understood."""

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from tritonclient.http import InferenceServerClient as Triton
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from aigovtool.errors import InvalidValueError
from aigovtool.protocol.oip import (
    InferRequest,
    RequestedOutput,
    encode_infer_request,
    encode_infer_response,
    parse_infer_request,
    parse_infer_response,
)
from aigovtool.protocol.tensor import Tensor

Array = npt.NDArray[np.generic]

ARRAYS: dict[str, Array] = {
    "BOOL": np.array([[True, False], [False, True]]),
    "UINT8": np.array([0, 1, 255], np.uint8),
    "UINT16": np.array([0, 65535], np.uint16),
    "UINT32": np.array([0, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 2**53 - 1], np.uint64),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([[-32768], [32767]], np.int16),
    "INT32": np.array([-(2**31), 2**31 - 1], np.int32),
    "INT64": np.array([1 - 2**53, 2**53 - 1], np.int64),
    "FP16": np.array([0.1, -65504, np.inf], np.float16),
    "FP32": np.array([[0.1, -0.0, 3.4028235e38], [1e-45, 1 / 3, 16777217]], np.float32),
    "FP64": np.array([0.1, 5e-324, -1.7976931348623157e308]),
    "BF16": np.array([0.5, np.nan], ml_dtypes.bfloat16),
    "BYTES": np.array([b"", b"caf\xc3\xa9", b'"]}'], np.object_),
}
IN_JSON = sorted(ARRAYS.keys() - {"FP16", "BF16"})


def raw(array: Array) -> bytes:
    """Return the data of `array` as the independent client serializes it."""
    if array.dtype == np.object_:
        return bytes(serialize_byte_tensor(array).item())
    return array.tobytes()


def tensor(name: str, datatype: str, array: Array) -> Tensor:
    return Tensor.checked(name, datatype, array.shape, raw(array))


def asked(name: str, datatype: str, array: Array, *, binary: bool) -> InferInput:
    return InferInput(name, list(array.shape), datatype).set_data_from_numpy(array, binary_data=binary)


def header(length: int | None) -> str | None:
    return None if length is None else str(length)


def test_every_datatype_is_tried() -> None:
    """The arrays have the datatypes that their names say, in the words of the independent client."""
    for datatype, array in ARRAYS.items():
        assert np_to_triton_dtype(array.dtype) == datatype


@pytest.mark.parametrize("datatype", sorted(ARRAYS))
def test_its_binary_requests_are_read(datatype: str) -> None:
    """A binary input of every datatype arrives bit for bit."""
    array = ARRAYS[datatype]
    body, length = Triton.generate_request_body([asked("x", datatype, array, binary=True)], request_id="r-1")
    request = parse_infer_request(body, header(length))
    assert (request.id, request.outputs, request.binary_data_output) == ("r-1", (), True)
    (read,) = request.inputs
    assert (read.name, read.datatype, read.shape, bytes(read.data)) == ("x", datatype, array.shape, raw(array))


@pytest.mark.parametrize("datatype", IN_JSON)
def test_its_json_requests_are_read(datatype: str) -> None:
    """A JSON input of every datatype that has a JSON form arrives bit for bit."""
    array = ARRAYS[datatype]
    body, length = Triton.generate_request_body(
        [asked("x", datatype, array, binary=False)], outputs=[InferRequestedOutput("y", binary_data=False)]
    )
    assert length is None
    request = parse_infer_request(body, None)
    assert request.outputs == (RequestedOutput("y", binary=False),)
    assert bytes(request.inputs[0].data) == raw(array)


def test_its_half_precision_json_is_refused_with_advice() -> None:
    """FP16 in JSON, which the client sends without a word, is refused, and the fix names the binary form."""
    body, _ = Triton.generate_request_body([asked("x", "FP16", np.ones(2, np.float16), binary=False)])
    with pytest.raises(InvalidValueError) as caught:
        parse_infer_request(body, None)
    assert caught.value.reason == "no_json_form"
    assert "binary" in str(caught.value.fix)


def test_its_mixed_requests_are_read() -> None:
    """JSON and binary inputs, in any order, each get their own data."""
    arrays = list(ARRAYS.items())
    inputs = [asked(kind, kind, array, binary=kind not in IN_JSON[::2]) for kind, array in arrays]
    outputs = [InferRequestedOutput("a"), InferRequestedOutput("b", binary_data=False)]
    body, length = Triton.generate_request_body(inputs, outputs=outputs, priority=3, timeout=5000)
    request = parse_infer_request(memoryview(body), header(length))
    assert [bytes(each.data) for each in request.inputs] == [raw(array) for _, array in arrays]
    assert (request.wants_binary("a"), request.wants_binary("b")) == (True, False)


@pytest.mark.parametrize(
    "options",
    [{"sequence_id": 1}, {"parameters": {"temperature": 1}}, {"outputs": [InferRequestedOutput("y", class_count=2)]}],
    ids=["sequence", "custom", "classification"],
)
def test_its_other_wishes_are_refused(options: dict[str, object]) -> None:
    """A wish that would change the answer is refused by name, not ignored."""
    body, length = Triton.generate_request_body([asked("x", "INT8", ARRAYS["INT8"], binary=True)], **options)
    with pytest.raises(InvalidValueError) as caught:
        parse_infer_request(body, header(length))
    assert caught.value.reason == "unsupported_parameter"


def test_its_shared_memory_is_refused() -> None:
    """A region of the server's own memory cannot be named as an output."""
    output = InferRequestedOutput("y")
    output.set_shared_memory("region", 64)
    body, length = Triton.generate_request_body([asked("x", "INT8", ARRAYS["INT8"], binary=True)], outputs=[output])
    with pytest.raises(InvalidValueError) as caught:
        parse_infer_request(body, header(length))
    assert caught.value.reason == "unsupported_parameter"


@pytest.mark.parametrize("form", ["binary", "json"])
def test_it_reads_our_answers(form: str) -> None:
    """Every datatype reaches the client's arrays unchanged, in both forms."""
    binary = form == "binary"
    kinds = sorted(ARRAYS) if binary else IN_JSON
    request = InferRequest(inputs=(), id="r-2", binary_data_output=binary)
    outputs = [tensor(kind, kind, ARRAYS[kind]) for kind in kinds]
    body = encode_infer_response("m", "1", outputs, request)
    result = Triton.parse_response_body(body.joined(), header_length=body.header_length)
    assert result.get_response()["id"] == "r-2"
    for kind in kinds:
        got = result.as_numpy(kind)
        if kind == "BYTES":
            texts = [each if isinstance(each, bytes) else each.encode() for each in got.tolist()]
            assert texts == ARRAYS[kind].tolist()
        else:
            assert got.dtype == ARRAYS[kind].dtype
            assert got.shape == ARRAYS[kind].shape
            assert got.tobytes() == ARRAYS[kind].tobytes()


def test_it_reads_mixed_answers_in_the_order_asked() -> None:
    """Each output has the form that its name asked for, and only what was asked is answered."""
    inputs = [asked("x", "INT8", ARRAYS["INT8"], binary=True)]
    wanted = [
        InferRequestedOutput("FP32"),
        InferRequestedOutput("INT8", binary_data=False),
        InferRequestedOutput("FP16"),
    ]
    sent, length = Triton.generate_request_body(inputs, outputs=wanted)
    request = parse_infer_request(sent, header(length))
    outputs = [tensor(kind, kind, ARRAYS[kind]) for kind in ("FP16", "FP32", "INT8", "UINT8")]
    body = encode_infer_response("m", None, outputs, request)
    result = Triton.parse_response_body(body.joined(), header_length=body.header_length)
    answered = result.get_response()["outputs"]
    assert [each["name"] for each in answered] == ["FP32", "INT8", "FP16"]
    assert ["data" in each for each in answered] == [False, True, False]
    for kind in ("FP32", "INT8", "FP16"):
        assert result.as_numpy(kind).tobytes() == ARRAYS[kind].tobytes()


@pytest.mark.parametrize("form", ["binary", "json"])
def test_both_of_our_sides_agree(form: str) -> None:
    """Our client's request and our server's answer carry every datatype unchanged."""
    binary = form == "binary"
    kinds = sorted(ARRAYS) if binary else IN_JSON
    tensors = [tensor(kind, kind, ARRAYS[kind]) for kind in kinds]
    sent = encode_infer_request(tensors, request_id="r", binary=binary)
    request = parse_infer_request(sent.joined(), header(sent.header_length))
    answer = encode_infer_response("m", "1", request.inputs, request)
    response = parse_infer_response(answer.joined(), header(answer.header_length), request_id="r")
    assert (response.model_name, response.model_version) == ("m", "1")
    assert response.outputs == tuple(tensors)
