"""Inference bodies: what is valid survives both ways, and no bytes raise anything but an error of ours."""

import json
import random
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigovtool.codec import decode, encode
from aigovtool.errors import InputError, InvalidValueError, MalformedError, TooLargeError
from aigovtool.limits import MAX_INFER_BODY_BYTES, MAX_INFER_JSON_BYTES
from aigovtool.protocol import tensor_json
from aigovtool.protocol.oip import (
    InferRequest,
    RequestedOutput,
    encode_infer_request,
    encode_infer_response,
    parse_infer_request,
    parse_infer_response,
    read_infer_claim,
)
from aigovtool.protocol.oip_metadata import ModelMetadata, ServerMetadata, TensorMetadata, check_outputs
from aigovtool.protocol.tensor import Datatype, Outline, Tensor, frame_bytes

INTEGERS = {
    Datatype.UINT8: ("B", 0, 2**8 - 1),
    Datatype.UINT16: ("H", 0, 2**16 - 1),
    Datatype.UINT32: ("I", 0, 2**32 - 1),
    Datatype.UINT64: ("Q", 0, 2**64 - 1),
    Datatype.INT8: ("b", -(2**7), 2**7 - 1),
    Datatype.INT16: ("h", -(2**15), 2**15 - 1),
    Datatype.INT32: ("i", -(2**31), 2**31 - 1),
    Datatype.INT64: ("q", -(2**63), 2**63 - 1),
}
EXACT = 2**53 - 1
JSON_REQUEST = InferRequest(inputs=())


def header(length: int | None) -> str | None:
    return None if length is None else str(length)


def one_input(**members: object) -> bytes:
    """Return a JSON request with one INT32 input of one element, changed by `members` (None removes)."""
    tensor: dict[str, object] = {"name": "x", "shape": [1], "datatype": "INT32", "data": [7]} | members
    return json.dumps({"inputs": [{name: value for name, value in tensor.items() if value is not None}]}).encode()


@st.composite
def tensors(draw: st.DrawFn, *, in_json: bool) -> Tensor:
    """A tensor of any datatype; with `in_json`, one that JSON can say."""
    kinds = [kind for kind in Datatype if not (in_json and kind in {Datatype.FP16, Datatype.BF16})]
    kind = draw(st.sampled_from(kinds))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    count = 1
    for dimension in shape:
        count *= dimension

    def some(elements: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(elements, min_size=count, max_size=count))

    if kind is Datatype.BYTES:
        data = frame_bytes(some(st.text(max_size=9).map(str.encode) if in_json else st.binary(max_size=9)))
    elif kind is Datatype.BOOL:
        data = bytes(some(st.integers(0, 1)))
    elif kind in INTEGERS:
        code, low, high = INTEGERS[kind]
        low, high = (max(low, -EXACT), min(high, EXACT)) if in_json else (low, high)
        data = struct.pack(f"<{count}{code}", *some(st.integers(low, high)))
    elif in_json:
        width = kind.size_bytes * 8
        floats = st.floats(allow_nan=False, allow_infinity=False, width=64 if width == 64 else 32)
        data = struct.pack(f"<{count}{'d' if width == 64 else 'f'}", *some(floats))
    else:
        size = count * kind.size_bytes
        data = draw(st.binary(min_size=size, max_size=size))
    return Tensor.checked(draw(st.text("abc/_:0", min_size=1, max_size=5)), kind, shape, data)


def several(*, in_json: bool) -> st.SearchStrategy[list[Tensor]]:
    return st.lists(tensors(in_json=in_json), min_size=1, max_size=4, unique_by=lambda tensor: tensor.name)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(several(in_json=True), st.none() | st.text("abc-09 ", max_size=8))
def test_json_form_survives_both_ways(given_tensors: list[Tensor], request_id: str | None) -> None:
    """What JSON can say arrives bit for bit, as an input and as an output; the id comes back."""
    sent = encode_infer_request(given_tensors, request_id=request_id, binary=False)
    assert (sent.header_length, sent.content_type) == (None, "application/json")
    request = parse_infer_request(sent.joined(), None)
    assert request == InferRequest(inputs=tuple(given_tensors), id=request_id)
    answer = encode_infer_response("m", None, request.inputs, request)
    response = parse_infer_response(answer.joined(), header(answer.header_length), request_id=request_id)
    assert response.outputs == tuple(given_tensors)


LONG = [
    Tensor.checked("b", "BOOL", [10], bytes([0, 1] * 5)),
    Tensor.checked("i", "INT16", [2, 5], struct.pack("<10h", *range(10))),
    Tensor.checked("f", "FP64", [10], struct.pack("<10d", *(number / 7 for number in range(10)))),
    Tensor.checked("s", "BYTES", [10], frame_bytes([b"a" * number for number in range(10)])),
]


def test_long_data_is_printed_and_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call over millions of elements would hold up every other thread; pieces make the same text."""
    whole = encode_infer_request(LONG, binary=False)
    monkeypatch.setattr(tensor_json, "_PIECE", 3)
    pieces = encode_infer_request(LONG, binary=False)
    assert pieces == whole
    request = parse_infer_request(pieces.joined(), None)
    assert request.inputs == tuple(LONG)
    assert request.copied_bytes == sum(len(tensor.data) for tensor in LONG)


@pytest.mark.parametrize(("bad", "reason"), [("1.5", "bad_element"), ("32768", "number_out_of_range")])
def test_a_bad_element_in_the_last_piece_is_refused(bad: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the data before it was good."""
    monkeypatch.setattr(tensor_json, "_PIECE", 3)
    body = one_input(datatype="INT16", shape=[10], data=[1] * 9 + [0]).replace(b"0]}", bad.encode() + b"]}")
    with pytest.raises(InvalidValueError) as caught:
        parse_infer_request(body, None)
    assert caught.value.reason == reason
    last = Tensor.checked("y", "FP32", [10], struct.pack("<10f", *range(9), float("inf")))
    with pytest.raises(InvalidValueError) as caught:
        encode_infer_request([last], binary=False)
    assert caught.value.reason == "not_finite_json"
    assert encode_infer_response("m", None, [last], JSON_REQUEST).header_length is not None


def test_an_answer_that_becomes_too_long_ends_there() -> None:
    """Two digits an element would fit, eighteen do not: of a text of 19 MB nobody sees more than the bound is made."""
    thirds = Tensor.checked("y", "FP64", [1 << 20], struct.pack("<d", 1 / 3) * (1 << 20))
    tracemalloc.start()
    try:
        answer = encode_infer_response("m", None, [thirds], JSON_REQUEST)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    with pytest.raises(TooLargeError) as caught:
        encode_infer_request([thirds], binary=False)
    assert caught.value.reason == "json_too_large"
    assert peak < MAX_INFER_JSON_BYTES + (8 << 20)
    assert parse_infer_response(answer.joined(), header(answer.header_length)).outputs == (thirds,)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(several(in_json=False), st.sampled_from([None, "r"]))
def test_binary_form_survives_both_ways(given_tensors: list[Tensor], request_id: str | None) -> None:
    """Every bit pattern of every datatype arrives in the binary form, NaN payloads and raw bytes included."""
    sent = encode_infer_request(given_tensors, request_id=request_id)
    assert sent.content_type == "application/octet-stream"
    assert sent.size_bytes == len(sent.joined())
    request = parse_infer_request(memoryview(sent.joined()), header(sent.header_length))
    assert request == InferRequest(inputs=tuple(given_tensors), id=request_id, binary_data_output=True)
    answer = encode_infer_response("m", "3", request.inputs, request)
    response = parse_infer_response(answer.joined(), header(answer.header_length), request_id=request_id)
    assert (response.outputs, response.model_version) == (tuple(given_tensors), "3")


def test_binary_data_is_not_copied() -> None:
    """A binary input is a view of the body, and a body to send refers to the tensor's own data."""
    data = bytes(1 << 16)
    sent = encode_infer_request([Tensor.checked("x", "UINT8", [1 << 16], data)])
    assert sent.parts[1] is data
    body = sent.joined()
    (read,) = parse_infer_request(body, header(sent.header_length)).inputs
    assert isinstance(read.data, memoryview)
    assert read.data.obj is body
    assert parse_infer_request(body, header(sent.header_length)).copied_bytes == 0


def test_a_claim_tells_what_is_asked_and_reads_no_data() -> None:
    """Names, datatypes and shapes are known before the first element is looked at: a server compares them first."""
    form = {"name": "t", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 8}}
    head = json.dumps({"inputs": [form, {"name": "x", "shape": [1], "datatype": "BOOL", "data": [7]}]}).encode()
    claim = read_infer_claim(head + b"\xff" * 8, str(len(head)))
    assert claim.inputs == (Outline("t", Datatype.BYTES, (2,)), Outline("x", Datatype.BOOL, (1,)))
    assert "ff" not in repr(claim)
    with pytest.raises(MalformedError) as caught:
        claim.request()
    assert caught.value.reason == "bad_bytes_framing"


def test_output_form_overrides_request_form() -> None:
    """`binary_data` of an output wins over `binary_data_output`, absent it does not; JSON is the default."""
    outputs = [{"name": "a", "parameters": {"binary_data": False}}, {"name": "b", "parameters": {}}, {"name": "c"}]
    head = {"parameters": {"binary_data_output": True}, "outputs": outputs}
    request = parse_infer_request(json.dumps(json.loads(one_input()) | head).encode(), None)
    assert [request.wants_binary(name) for name in "abcd"] == [False, True, True, True]
    assert not parse_infer_request(one_input(), None).wants_binary("a")


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]], ids=["flat", "nested"])
def test_flat_and_nested_data_are_the_same(data: list[object]) -> None:
    """Row-major order is the meaning of both ways to write a matrix."""
    (read,) = parse_infer_request(one_input(shape=[2, 3], data=data), None).inputs
    assert read.data == struct.pack("<6i", 1, 2, 3, 4, 5, 6)


def test_null_is_absent() -> None:
    """Generated clients send null for every optional field; it means nothing."""
    head = {"id": None, "outputs": None, "parameters": None}
    assert parse_infer_request(json.dumps(json.loads(one_input()) | head).encode(), None).id is None


# --- Answers ---------------------------------------------------------------------------------

FP32 = {"nan": 0x7FC00000, "inf": 0x7F800000, "-inf": 0xFF800000}
UNPRINTABLE = [
    *((Tensor.checked("y", "FP32", [2], struct.pack("<II", 0, bits)), "not_finite_json") for bits in FP32.values()),
    (Tensor.checked("y", "FP64", [1], struct.pack("<d", float("nan"))), "not_finite_json"),
    (Tensor.checked("y", "INT64", [1], struct.pack("<q", -(2**53))), "not_exact_json"),
    (Tensor.checked("y", "UINT64", [1], struct.pack("<Q", 2**64 - 1)), "not_exact_json"),
    (Tensor.checked("y", "BYTES", [1], frame_bytes([b"\xff"])), "not_utf8_json"),
    (Tensor.checked("y", "FP16", [1], bytes(2)), "no_json_form"),
    (Tensor.checked("y", "BF16", [1], bytes(2)), "no_json_form"),
]


@pytest.mark.parametrize(("tensor", "reason"), UNPRINTABLE, ids=[f"{n} {c[1]}" for n, c in enumerate(UNPRINTABLE)])
def test_what_json_cannot_say_is_refused_with_advice(tensor: Tensor, reason: str) -> None:
    """No input is printed as null or rounded: the refusal names the binary form, which carries it unchanged."""
    with pytest.raises(InvalidValueError) as caught:
        encode_infer_request([tensor], binary=False)
    assert caught.value.reason == reason
    assert "binary" in str(caught.value.fix)


@pytest.mark.parametrize("tensor", [tensor for tensor, _ in UNPRINTABLE], ids=[str(n) for n in range(len(UNPRINTABLE))])
@pytest.mark.parametrize("named", [(), (RequestedOutput("y", binary=False),)], ids=["all", "by name"])
def test_an_output_that_json_cannot_say_comes_in_the_binary_form(
    tensor: Tensor, named: tuple[RequestedOutput, ...]
) -> None:
    """The run is over: a refusal would tell for nothing what the output is like. Others stay in JSON."""
    answer = encode_infer_response("m", None, [tensor], InferRequest(inputs=(), outputs=named))
    assert parse_infer_response(answer.joined(), header(answer.header_length)).outputs == (tensor,)
    small = Tensor.checked("z", "INT8", [1], b"a")
    both = encode_infer_response("m", None, [tensor, small], JSON_REQUEST)
    assert parse_infer_response(both.joined(), header(both.header_length)).outputs == (tensor, small)
    assert b'"data":[97]' in both.parts[0]


def test_long_json_is_never_made() -> None:
    """What the other side would refuse as JSON comes in the binary form, singly and in sum, without a list of it."""
    half = bytes(MAX_INFER_JSON_BYTES // 4 + 1)
    outputs = [Tensor.checked(name, "UINT8", [len(half)], half) for name in "ab"]
    text = Tensor.checked("t", "BYTES", [1], frame_bytes([b"a" * MAX_INFER_JSON_BYTES]))
    for refused in (outputs, [text]):
        tracemalloc.start()
        try:
            with pytest.raises(TooLargeError) as caught:
                encode_infer_request(refused, binary=False)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert caught.value.reason == "json_too_large"
        assert peak < 100_000
    answers = [encode_infer_response("m", None, each, JSON_REQUEST) for each in (outputs, [text])]
    read = [parse_infer_response(each.joined(), header(each.header_length)).outputs for each in answers]
    assert read == [tuple(outputs), (text,)]
    # Of two that do not fit together the first is JSON still; of one whose names fill the rest, none.
    assert [b'"data"' in each.parts[0] for each in answers] == [True, False]


def test_names_and_shapes_count_as_well() -> None:
    """JSON that fits by itself, and not beside what is said of it, is not sent: the whole answer is binary then."""
    count = MAX_INFER_JSON_BYTES // 2 - 2
    ones = Tensor.checked("y", "UINT8", [count], b"\x01" * count)
    answer = encode_infer_response("m", None, [ones], JSON_REQUEST)
    assert (answer.header_length or 0) < 200
    assert parse_infer_response(answer.joined(), header(answer.header_length)).outputs == (ones,)
    forced = encode_infer_response("m", None, [Tensor.checked("y", "INT8", [1], b"a")], JSON_REQUEST, all_binary=True)
    assert forced.header_length is not None


def test_bodies_that_nobody_would_read_are_not_sent() -> None:
    """Data that fits a tensor, but not a body together with its JSON part, is refused by the sender, uncopied."""
    tensor = Tensor.checked("x", "UINT8", [MAX_INFER_BODY_BYTES], bytes(MAX_INFER_BODY_BYTES))
    with pytest.raises(TooLargeError) as caught:
        encode_infer_request([tensor])
    assert caught.value.reason == "body_too_large"


def test_only_and_all_requested_outputs_are_answered() -> None:
    """Outputs come in the order asked; one that the model has not is refused."""
    outputs = [Tensor.checked(name, "INT8", [1], name.encode()) for name in "abc"]
    asked = InferRequest(inputs=(), outputs=(RequestedOutput("c"), RequestedOutput("a", binary=True)))
    answer = encode_infer_response("m", None, outputs, asked)
    assert parse_infer_response(answer.joined(), header(answer.header_length)).outputs == (outputs[2], outputs[0])
    with pytest.raises(InvalidValueError) as caught:
        encode_infer_response("m", None, outputs, InferRequest(inputs=(), outputs=(RequestedOutput("d"),)))
    assert caught.value.reason == "unknown_output"


@pytest.mark.parametrize(("sent", "answered"), [("a", "b"), ("a", None), (None, "b")])
def test_an_answer_to_another_request_is_refused(sent: str | None, answered: str | None) -> None:
    """A client takes an answer only with the id that it sent."""
    answer = encode_infer_response("m", None, [], InferRequest(inputs=(), id=answered))
    with pytest.raises(InvalidValueError) as caught:
        parse_infer_response(answer.joined(), None, request_id=sent)
    assert caught.value.reason == "wrong_id"


def test_answers_are_read_as_strictly_as_requests() -> None:
    """Left-over bytes, a parameter that is not known and two outputs of one name are refused by the client too."""
    tensor = Tensor.checked("y", "INT8", [1], b"a")
    answer = encode_infer_response("m", None, [tensor], InferRequest(inputs=(), binary_data_output=True))
    cases = [
        (answer.joined() + b"a", header(answer.header_length), "binary_left_over"),
        (b'{"model_name": "m", "outputs": [], "parameters": {"a": 1}}', None, "unsupported_parameter"),
        (b'{"model_name": "m", "outputs": [%s, %s]}' % ((b'{"name":"y","shape":[0],"datatype":"INT8","data":[]}',) * 2),
         None, "duplicate_tensor"),
        (b'{"outputs": []}', None, "schema"),
    ]  # fmt: skip
    for body, length, reason in cases:
        with pytest.raises((InvalidValueError, MalformedError)) as caught:
            parse_infer_response(body, length)
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"inputs": []}, "no_inputs"),
        ({"inputs": [UNPRINTABLE[0][0]] * 2}, "duplicate_tensor"),
        ({"inputs": [UNPRINTABLE[0][0]], "binary": False}, "not_finite_json"),
        ({"inputs": [UNPRINTABLE[0][0]], "request_id": "\ud800"}, "bad_id"),
        ({"inputs": [UNPRINTABLE[0][0]], "outputs": [RequestedOutput("")]}, "bad_tensor_name"),
    ],
    ids=["none", "twice", "not json", "id", "output"],
)
def test_a_client_refuses_what_a_server_would(arguments: dict[str, Any], reason: str) -> None:
    """A request that would be refused is not sent."""
    with pytest.raises(InvalidValueError) as caught:
        encode_infer_request(**arguments)
    assert caught.value.reason == reason


# --- Metadata --------------------------------------------------------------------------------

MODEL = (
    b'{"name":"m","platform":"onnx_onnxv1","inputs":[{"name":"x","datatype":"FP32","shape":[-1,3]}],'
    b'"outputs":[{"name":"y","datatype":"FP16","shape":[-1]}],"versions":["1"]}'
)


def test_metadata_has_the_names_of_the_protocol() -> None:
    """The members are those of the specification, -1 is a dimension that a request chooses, -2 is nothing."""
    model = decode(MODEL, ModelMetadata)
    assert model.inputs == (TensorMetadata(name="x", datatype=Datatype.FP32, shape=(-1, 3)),)
    assert json.loads(encode(model)) == json.loads(MODEL)
    server = ServerMetadata(name="aigovtool", version="1", extensions=("binary_tensor_data",))
    assert json.loads(encode(server)) == {"name": "aigovtool", "version": "1", "extensions": ["binary_tensor_data"]}
    for wrong in (b"-2", b"true", b"1.0", b"67108865"):
        with pytest.raises(InvalidValueError):
            decode(MODEL.replace(b"-1,3", wrong + b",3"), ModelMetadata)


def test_impossible_answers_are_refused_before_the_model_runs() -> None:
    """An output that the model has not, or that JSON cannot say, is refused from the metadata alone."""
    outputs = decode(MODEL, ModelMetadata).outputs
    check_outputs(InferRequest(inputs=(), binary_data_output=True), outputs)
    check_outputs(InferRequest(inputs=(), outputs=(RequestedOutput("y", binary=True),)), outputs)
    for request, reason in (
        (JSON_REQUEST, "no_json_form"),
        (
            InferRequest(inputs=(), outputs=(RequestedOutput("y", binary=False),), binary_data_output=True),
            "no_json_form",
        ),
        (InferRequest(inputs=(), outputs=(RequestedOutput("z"),)), "unknown_output"),
    ):
        with pytest.raises(InvalidValueError) as caught:
            check_outputs(request, outputs)
        assert caught.value.reason == reason


# --- Any bytes -------------------------------------------------------------------------------


def seeds() -> list[tuple[bytes, int | None]]:
    """Valid bodies of all forms, to be damaged."""
    tensors_ = [
        Tensor.checked("a", "FP32", [2, 2], struct.pack("<4f", 1, 2.5, -3, 4e9)),
        Tensor.checked("b", "BYTES", [2], frame_bytes([b"one", b"\xc3\xa9"])),
        Tensor.checked("c", "BOOL", [3], b"\x01\x00\x01"),
        Tensor.checked("d", "INT64", [1], struct.pack("<q", -5)),
    ]
    outputs = [RequestedOutput("y", binary=True), RequestedOutput("z")]
    bodies = [encode_infer_request(tensors_, outputs, request_id="r", binary=binary) for binary in (True, False)]
    request = InferRequest(
        inputs=(), outputs=tuple(RequestedOutput(each, binary=each < "c") for each in "abcd"), id="r"
    )
    bodies.append(encode_infer_response("m", "1", tensors_, request))
    return [(body.joined(), body.header_length) for body in bodies]


def damaged(body: bytes, dice: random.Random) -> bytes:
    data = bytearray(body)
    for _ in range(dice.choice((1, 1, 2, 4))):
        place = dice.randrange(len(data))
        match dice.randrange(4):
            case 0:
                data[place] = dice.randrange(256)
            case 1:
                data[place] = dice.choice(b'0123456789-.eE"[]{},:tfn')
            case 2:
                del data[place : place + dice.randint(1, 8)]
            case _:
                start = dice.randrange(len(data))
                data[place:place] = data[start : start + dice.randint(1, 40)]
        data = data or bytearray(b"0")
    return bytes(data)


def test_five_thousand_damaged_bodies_raise_only_typed_errors() -> None:
    """Whatever happens to a valid body, the parsers return a value or a refusal with a reason, on both sides."""
    dice = random.Random(20240717)
    valid = seeds()
    reasons: list[str | None] = []
    accepted = 0
    for _ in range(5000):
        body, length = dice.choice(valid)
        head, rest = body[:length], body[len(body) if length is None else length :]
        if dice.random() < 0.3 and rest:
            rest = damaged(rest, dice)
        else:
            head = damaged(head, dice)  # the length follows, so that the parsers get past it
        moved = None if length is None else str(len(head) + dice.choice((0,) * 15 + (-1, 1, 9)))
        for parse in (parse_infer_request, parse_infer_response):
            try:
                parse(head + rest, moved)
            except InputError as error:
                reasons.append(error.reason)
            else:
                accepted += 1
    assert None not in reasons
    assert accepted > 100  # some damage only changes an element, so the parsers are reached to their end
    assert len(set(reasons)) > 10
