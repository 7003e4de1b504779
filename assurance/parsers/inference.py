"""Bodies of inferences in the Open Inference Protocol, both ways: requests as an enclave reads them, and answers.

What is accepted is compared with the independent reading (`tensor_reading`), tensor by tensor and byte by byte, and
must come back as it was when it is written again, in the binary form and, where there is one, in JSON.
"""

import json
from math import prod
from random import Random
from typing import Any, Final, cast

from conformance.malformed import edits, structured

from aigovtool.errors import InputError, InvalidValueError
from aigovtool.protocol import oip
from aigovtool.protocol.tensor import Datatype, Tensor
from assurance.parsers.parser import Kind, Parts
from assurance.parsers.reading import NotJsonError
from assurance.parsers.tensor_reading import ComplaintError, ReadBody, parameters, read_body, require_name

_SHAPES: Final[tuple[Any, ...]] = (
    *([], [0], [1], [2, 3], [3, 2], [6], [-1], [2**32], [65536] * 4, [2**26], [2**26 + 1], [0, 2**27], [1] * 16),
    *([1] * 17, [True], [2.0], ["2"], None, {}, [[2]], [0, 0], [2**53], [-2, -3], [6, 1, 1]),
)
_SIZES: Final[tuple[Any, ...]] = (0, 1, 3, 4, 8, 24, 25, -1, 2**31, 2**53, 2**64, 1.5, "24", True, None)
_ELEMENTS: Final[tuple[Any, ...]] = (
    *(0, 1, -1, 127, 128, 255, 256, -128, -129, 65535, 65536, 2**31, 2**32, 2**53 - 1, 2**53, 1.5, 1e39, 3.5e38, 1e-46),
    *(True, False, "x", "", "\ud800", "é", None, [], [1], {}, float("nan"), float("inf"), 1e400, -0.0),
)
_PARAMETERS: Final[tuple[Any, ...]] = (
    *(
        {},
        None,
        {"binary_data_output": True},
        {"binary_data_output": 1},
        {"priority": 3, "timeout": 0},
        {"timeout": -1},
    ),
    *({"sequence_id": 1}, {"classification": 3}, {"binary_data": True}, {"binary_data_size": 24}, {"": 0}, []),
)
#: What is longer is not made 65 times as long.
_SHORT: Final = 8 << 10
_LENGTHS: Final = (b"", b"0", b"+5", b"05", b"5 ", b"0x5", b"99999999999", b"-1", b"1e3", "\u0665".encode())


def _request(**members: Any) -> Parts:  # noqa: ANN401 - any JSON
    return b"", json.dumps(members).encode()


def _binary(*tensors: Tensor, **more: Any) -> Parts:  # noqa: ANN401 - any argument
    body = oip.encode_infer_request(tensors, **more)
    return b"" if body.header_length is None else str(body.header_length).encode(), body.joined()


def _genuine() -> tuple[Parts, ...]:
    plain = {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [1, 2.5, -3, 0, 1e-3, 7]}
    nested = {"name": "y", "shape": [3, 2], "datatype": "INT64", "data": [[1, 2], [3, 4], [5, -6]]}
    texts = {"name": "t", "shape": [2], "datatype": "BYTES", "data": ["so", "Ü"], "parameters": None}
    flags = {"name": "b", "shape": [1, 2, 1], "datatype": "BOOL", "data": [[[True], [False]]]}
    every = [
        Tensor.checked(f"in.{kind}", kind, (2, 1), bytes(2 * kind.size_bytes)) for kind in Datatype if kind.size_bytes
    ]
    framed = Tensor.checked("s", "BYTES", (3,), b"\1\0\0\0a\0\0\0\0\2\0\0\0\xff\xfe")
    return (
        _request(inputs=[plain]),
        _request(
            inputs=[plain, nested, texts], id="an id", outputs=[{"name": "o", "parameters": {"binary_data": True}}]
        ),
        _request(inputs=[flags], parameters={"binary_data_output": False, "priority": 1}, outputs=None),
        _request(inputs=[{"name": "e", "shape": [0, 5], "datatype": "UINT8", "data": []}]),
        _binary(every[0], framed, *every[1:]),
        _binary(framed, outputs=[oip.RequestedOutput("o")], request_id="7"),
        _binary(every[5], binary=False),
    )


def _answers() -> tuple[Parts, ...]:
    found: list[Parts] = []
    for length, body in _genuine():
        inputs = oip.parse_infer_request(body, length.decode() or None).inputs
        for binary in (True, False) if not length else (True,):
            asked = oip.InferRequest(inputs, id="an id", binary_data_output=binary)
            answer = oip.encode_infer_response("doubler", "1" if binary else None, inputs, asked)
            found.append((b"" if answer.header_length is None else str(answer.header_length).encode(), answer.joined()))
    return tuple(found)


# --- Edits ---------------------------------------------------------------------------------------


def _edit(member: str, parts: Parts, chance: Random) -> Parts:
    length, body = parts
    size = int(length) if length else len(body)
    head, rest = body[:size], body[size:]
    if chance.random() < 0.2:
        return _fitting(member, chance)
    for _ in range(chance.choice((1, 1, 2, 3))):
        match chance.randrange(8):
            case 0:
                rest = edits.edit(rest, chance)
            case 1:
                head = structured.edit(head, chance)
            case 2:
                head = edits.edit(head, chance)
            case _:
                head = _in_tensor(head, member, chance)
    if chance.random() < 0.05:
        return chance.choice(_LENGTHS), head + rest
    return (str(len(head)).encode() if length or rest else b""), head + rest


def _fitting(member: str, chance: Random) -> Parts:
    """Make a body in which shapes, sizes and elements fit each other, or nearly."""
    tensors, rest = [], b""
    for at in range(chance.choice((1, 1, 2, 5))):
        shape = [chance.choice((0, 1, 2, 3, 7)) for _ in range(chance.randrange(4))]
        kind = chance.choice(list(Datatype))
        tensor: dict[str, Any] = {"name": f"t{at}", "shape": shape, "datatype": kind}
        tensors.append(tensor)
        if kind.size_bytes and chance.random() < 0.5:
            data = bytes(chance.randrange(2) for _ in range(prod(shape) * kind.size_bytes))
            tensor["parameters"], rest = {"binary_data_size": len(data)}, rest + data
        else:
            tensor["data"] = _nested([_element_of(kind, chance) for _ in range(prod(shape))], shape, chance)
    document = {member: tensors, "id": "an id", "model_name": "doubler"}
    if member == "inputs":
        document.pop("model_name")
    head = json.dumps(document, separators=chance.choice(((",", ":"), (" ,\t", "\n: ")))).encode()
    return (str(len(head)).encode() if rest or chance.random() < 0.1 else b""), head + rest


def _element_of(kind: Datatype, chance: Random) -> object:
    if kind is Datatype.BYTES:
        return chance.choice(("", "x", "\u00e9\U0001f512", '"\\\n', "\x7f"))
    if kind is Datatype.BOOL:
        return chance.random() < 0.5
    bits = 8 * kind.size_bytes - (not kind.value.startswith("U"))
    number = chance.choice(
        (0, 1, (1 << min(bits, 53)) - 1, 1 << bits, -(1 << bits), -1, chance.getrandbits(min(bits, 53)))
    )
    return chance.choice((number, 0.1, 1e-45, 3.4028235e38, -0.0)) if kind.value.startswith("FP") else number


def _nested(flat: list[Any], shape: list[int], chance: Random) -> list[Any]:
    for size in shape[:0:-1] if chance.random() < 0.5 else ():
        flat = [flat[at : at + size] for at in range(0, len(flat), size)] if size else flat
    return flat


def _in_tensor(head: bytes, member: str, chance: Random) -> bytes:
    """Change something of one tensor, or of the document around them."""
    try:
        document = json.loads(head)
        tensor = chance.choice(document[member])
        tensor["shape"], tensor["data"] = tensor["shape"], tensor.get("data")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return edits.edit(head, chance)
    match chance.randrange(9):
        case 0:
            tensor["shape"] = chance.choice(_SHAPES)
        case 1:
            tensor["datatype"] = chance.choice((*Datatype, "FP8", "fp32", "", 7))
        case 2:
            tensor["parameters"] = {"binary_data_size": chance.choice(_SIZES)}
        case 3:
            tensor["parameters"] = chance.choice(_PARAMETERS)
        case 4:
            document["parameters"] = chance.choice(_PARAMETERS)
        case 5:
            tensor["name"] = chance.choice(("x", "", "a\nb", "n" * 256, "n" * 257, "\u202e", 1))
        case 6:
            _nest(tensor, chance)
        case 7:
            document[member] = document[member] * (chance.choice((2, 32, 64, 65)) if len(head) < _SHORT else 2)
        case _:
            _element(tensor, chance)
    tensors = {key: value for key, value in tensor.items() if key != "data" or value is not None}
    tensor.clear()
    tensor.update(tensors)
    return json.dumps(document).encode(errors="replace")


def _element(tensor: dict[str, Any], chance: Random) -> None:
    data = tensor["data"]
    while isinstance(data, list) and data and isinstance(data[0], list) and chance.random() < 0.9:
        data = chance.choice(data)
    if not isinstance(data, list) or not data:
        tensor["data"] = chance.choice((None, [], [chance.choice(_ELEMENTS)], {}, "AAAA"))
    elif chance.random() < 0.2:
        data += [chance.choice(_ELEMENTS)] * chance.choice((1, 2, 3000))
    else:
        data[chance.randrange(len(data))] = chance.choice(_ELEMENTS)


def _nest(tensor: dict[str, Any], chance: Random) -> None:
    """Nest flat data as its shape says, or one level more or less, or flatten nothing."""
    data = tensor["data"]
    if not isinstance(data, list):
        return
    size = chance.choice((1, 2, 3, len(data) or 1))
    tensor["data"] = [data[at : at + size] for at in range(0, len(data), size)]
    if chance.random() < 0.5:
        tensor["shape"] = [len(tensor["data"]), size]


# --- The oracle ----------------------------------------------------------------------------------


def _read_request(parts: Parts) -> oip.InferRequest:
    return oip.read_infer_claim(parts[1], _header(parts[0])).request()


def _read_answer(parts: Parts) -> oip.InferResponse:
    return oip.parse_infer_response(parts[1], _header(parts[0]), request_id="an id")


def _header(length: bytes) -> str | None:
    return length.decode("latin-1") or None


def _wrong_request(parts: Parts, value: object) -> str | None:
    request = cast("oip.InferRequest", value)
    try:
        read = read_body(parts[0], parts[1], "inputs")
        outputs = _expected_request(read)
    except (ComplaintError, NotJsonError) as error:
        return str(error)
    found = (tuple((one.name, one.binary) for one in request.outputs), request.id, request.binary_data_output)
    flag = parameters(read.document, _OF_REQUEST).get("binary_data_output") is True
    if found != (outputs, read.document.get("id"), flag):
        return f"read as another request: {found}"
    return _other_tensors(read, request.inputs) or _written_again(request)


_OF_REQUEST: Final[dict[str, type]] = {"binary_data_output": bool, "priority": int, "timeout": int}


def _expected_request(read: ReadBody) -> tuple[tuple[str, bool | None], ...]:
    document = read.document
    _require(document, {"inputs", "id", "outputs", "parameters"})
    numbers = [value for value in parameters(document, _OF_REQUEST).values() if type(value) is int]
    if not read.tensors or any(not 0 <= number < 2**53 for number in numbers):
        raise ComplaintError("accepted without an input, or with a wish that is no number")
    outputs = document.get("outputs")
    found = []
    for one in () if outputs is None else outputs:
        if not isinstance(one, dict) or not one.keys() <= {"name", "parameters"}:
            raise ComplaintError("accepted with an output that is none")
        require_name(one.get("name"))
        found.append((str(one["name"]), parameters(one, {"binary_data": bool}).get("binary_data")))
    if len({name for name, _ in found}) != len(found) or len(found) > 64:
        raise ComplaintError("accepted with two outputs of one name, or too many")
    return tuple(found)


def _require(document: dict[str, Any], known: set[str]) -> None:
    identifier = document.get("id")
    if not document.keys() <= known:
        raise ComplaintError("accepted with an unknown member")
    if identifier is not None and not (isinstance(identifier, str) and len(identifier) <= 256):
        raise ComplaintError("accepted with an id that is none")


def _wrong_answer(parts: Parts, value: object) -> str | None:
    answer = cast("oip.InferResponse", value)
    try:
        read = read_body(parts[0], parts[1], "outputs")
        _require(read.document, {"outputs", "id", "parameters", "model_name", "model_version"})
        parameters(read.document, {})
    except (ComplaintError, NotJsonError) as error:
        return str(error)
    said = tuple(read.document.get(name) for name in ("model_name", "model_version", "id"))
    if said != (answer.model_name, answer.model_version, answer.id) or answer.id != "an id":
        return f"read as another answer: {said}"
    return _other_tensors(read, answer.outputs)


def _other_tensors(read: ReadBody, tensors: tuple[Tensor, ...]) -> str | None:
    found = [(one.name, one.datatype.value, one.shape, bytes(one.data)) for one in tensors]
    expected = [(one.name, one.datatype, one.shape, one.data) for one in read.tensors]
    wrong = [one[0] for one, other in zip(found, expected, strict=False) if one != other]
    return None if found == expected else f"{len(found)} tensors of {len(expected)}, other than read by hand: {wrong}"


def _written_again(request: oip.InferRequest) -> str | None:
    for binary in (True, False):
        try:
            body = oip.encode_infer_request(request.inputs, request.outputs, request_id=request.id, binary=binary)
        except InvalidValueError as error:
            if not binary and error.reason in {"no_json_form", "not_finite_json", "not_exact_json", "not_utf8_json"}:
                continue
            return f"cannot be written again: {error.reason}"
        length = None if body.header_length is None else str(body.header_length)
        again = oip.parse_infer_request(body.joined(), length)
        if (again.inputs, again.outputs, again.id) != (request.inputs, request.outputs, request.id):
            return f"written again ({'binary' if binary else 'JSON'}) it is another request"
    return None


def kinds() -> tuple[Kind, ...]:
    """Return both kinds."""
    requests = Kind(
        name="infer-requests",
        genuine=_genuine(),
        edit=lambda parts, chance: _edit("inputs", parts, chance),
        read=_read_request,
        wrong=_wrong_request,
        refusals=(InputError,),
        weight=8,
    )
    answers = Kind(
        name="infer-answers",
        genuine=_answers(),
        edit=lambda parts, chance: _edit("outputs", parts, chance),
        read=_read_answer,
        wrong=_wrong_answer,
        refusals=(InputError,),
        weight=3,
    )
    return requests, answers
