"""What the sandboxed engine child sends to the enclave: frames, cut into pieces at any place.

After a bad model the child may be anybody's. `frames` go through the assembler and the checks that the parent makes of
an answer; `link` is the same over a real socket. What is delivered must be what a reading by hand finds in the bytes
(frames, MessagePack, and what each message may hold), and it must end as that ends. `load-reports` are what the process
answers that loads a model before it is sealed.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import prod
from random import Random
from typing import Any, Final, cast

from conformance.malformed import edits, structured

from aigovtool.enclave.engines import ipc
from aigovtool.enclave.engines.interface import ModelInterface, check_answer
from aigovtool.enclave.engines.link import Link
from aigovtool.enclave.engines.sandbox import Layer
from aigovtool.errors import AIGovToolError, EngineError, MalformedError, TooLargeError
from aigovtool.package.loadcheck import LoadReport
from aigovtool.package.manifest import Datatype as ManifestDatatype
from aigovtool.package.manifest import TensorSpec
from aigovtool.protocol.tensor import Datatype, Tensor
from assurance.parsers import documents
from assurance.parsers.msgpack_reading import NotMsgpackError, Pairs, by_hand, written
from assurance.parsers.parser import Kind, Parser, Parts

_HEADER, _PAYLOAD = 1 << 20, 64 << 20
_ASKED_NS: Final = 10**9
_INTERFACE: Final = ModelInterface(
    inputs=(),
    outputs=(
        TensorSpec(name="y", datatype=ManifestDatatype.FP32, shape=("n", 2)),
        TensorSpec(name="s", datatype=ManifestDatatype.BYTES, shape=(-1,)),
        TensorSpec(name="b", datatype=ManifestDatatype.BOOL, shape=None),
    ),
)
_SIZES: Final = {name.value: name.size_bytes for name in Datatype}
_CODES: Final = (
    *("deadline_exceeded", "engine_failed", "fault", "invalid_value", "malformed", "model_refused", "not_found"),
    *("package_invalid", "bad_signature", "too_large"),
)

WAITING, REFUSED = "waiting", "refused"
#: A message that is delivered: its name, and what follows it in the frame; of an answer, with its data.
Delivered = tuple[str, Any]


# --- Genuine -------------------------------------------------------------------------------------


def _tensors(rows: int) -> tuple[Tensor, ...]:
    return (
        Tensor.checked("y", "FP32", (rows, 2), bytes(8 * rows)),
        Tensor.checked("s", "BYTES", (2,), b"\1\0\0\0a\0\0\0\0"),
        Tensor.checked("b", "BOOL", (3,), b"\0\1\1"),
    )


def _frame(message: ipc.ToParent, data: Sequence[Any] = ()) -> bytes:
    return b"".join(bytes(part) for part in ipc.encode_frame(message, data))


def _answer(rows: int) -> bytes:
    headers, data = ipc.pack_tensors(_tensors(rows))
    return _frame(ipc.Answered(7, headers, 1_000), data)


@cache
def _genuine() -> tuple[Parts, ...]:
    specs = _INTERFACE.outputs
    hello, loaded = _frame(ipc.Hello(bytes(range(32)), tuple(Layer))), _frame(ipc.Loaded(1, specs[:1], specs))
    failed = _frame(ipc.failure(3, MalformedError("no", reason="bad_frame")))
    return (
        (hello,),
        (loaded,),
        (_answer(3),),
        (failed, _frame(ipc.Unloaded(2**64 - 1))),
        (hello, loaded, _answer(1), failed),
        (_answer(9_000),),  # more than the buffer for small frames
        (_answer(0), _answer(9_000), hello),
    )


# --- Edits ---------------------------------------------------------------------------------------


def _edit(parts: Parts, chance: Random) -> Parts:
    data = b"".join(parts)
    for _ in range(chance.choice((0, 1, 1, 1, 2))):
        data = chance.choice((_message, _message, _message, _sizes, _payload, _frames, edits.edit))(data, chance)
    return _cut(data or b"\0", chance)


def _split(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return header and payload of each whole frame, and what follows them as a header of its own."""
    found = []
    at = 0
    while at + 8 <= len(data):
        header, payload = int.from_bytes(data[at : at + 4], "little"), int.from_bytes(data[at + 4 : at + 8], "little")
        stop = at + 8 + payload + header
        if stop > len(data):
            break
        found.append((data[at + 8 + payload : stop], data[at + 8 : at + 8 + payload]))
        at = stop
    return [*found, (data[at:], b"")] if at < len(data) or not found else found


def _joined(frames: Sequence[tuple[bytes, bytes]]) -> bytes:
    sizes = (
        (len(header).to_bytes(4, "little") + len(payload).to_bytes(4, "little"), payload, header)
        for header, payload in frames
    )
    return b"".join(part for frame in sizes for part in frame)


def _message(data: bytes, chance: Random) -> bytes:
    """Change what a message says, or how that is written."""
    frames = _split(data)
    at = chance.randrange(len(frames))
    header, payload = frames[at]
    try:
        value = _plain(by_hand(header))
    except NotMsgpackError:
        return edits.edit(data, chance)
    if chance.random() < 0.15:
        header = chance.choice(_PREFIXES) + header if chance.random() < 0.5 else edits.edit(header, chance)
    else:
        header = written(_changed(value, chance), chance)
    return _joined([*frames[:at], (header, payload), *frames[at + 1 :]])


#: Arrays in arrays, very many; an extension; a time.
_PREFIXES: Final = (
    b"\x91",
    b"\x91" * 3000,
    b"\xd4\x01",
    b"\xd6\xff",
    b"\xc1",
    b"\xc7\0\1",
    b"\x81\xa1x",
    b"\xdd\xff\xff\xff\xff",
)


def _plain(value: Any) -> Any:  # noqa: ANN401 - any object
    """Return maps as dictionaries, which edits know."""
    if isinstance(value, Pairs):
        return {str(name): _plain(one) for name, one in value}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _changed(value: Any, chance: Random) -> Any:  # noqa: ANN401 - any object
    if isinstance(value, list) and value and chance.random() < 0.5:
        at = chance.randrange(len(value))
        edges: tuple[Any, ...] = (
            0,
            1,
            2**26,
            2**26 + 1,
            2**63,
            2**64 - 1,
            -1,
            1.0,
            True,
            None,
            "",
            "y",
            b"",
            [],
            "FP32",
        )
        odd: tuple[Any, ...] = ("run", "load", "setup", "unload", "hello", "answered", "seccomp", "x" * 257, "x" * 501)
        inner = _changed(value[at], chance) if isinstance(value[at], list) else chance.choice((*edges, *odd, b"k" * 32))
        return [*value[:at], inner, *value[at + 1 :]]
    return structured.changed(value, chance)


def _sizes(data: bytes, chance: Random) -> bytes:
    """Lie in the sizes before a frame."""
    at = chance.choice((0, 4))
    size = int.from_bytes(data[at : at + 4], "little")
    told = chance.choice((size + 1, size - 1, 0, 8, 2 * size, _HEADER, _HEADER + 1, _PAYLOAD + 1, 2**32 - 1))
    return data[:at] + (told % 2**32).to_bytes(4, "little") + data[at + 4 :]


def _payload(data: bytes, chance: Random) -> bytes:
    """Change the data of tensors, or how much there is of it."""
    frames = _split(data)
    at = chance.randrange(len(frames))
    header, payload = frames[at]
    return _joined([*frames[:at], (header, edits.edit(payload, chance)), *frames[at + 1 :]])


def _frames(data: bytes, chance: Random) -> bytes:
    """Put in, leave out, or reorder frames; or use the data of one beside the header of another."""
    frames = _split(data)
    other = chance.choice(_split(b"".join(chance.choice(_genuine()))))
    at = chance.randrange(len(frames))
    match chance.randrange(5):
        case 0:
            frames.insert(at, other)
        case 1:
            frames[at] = (frames[at][0], other[1])
        case 2:
            frames[at] = (other[0], frames[at][1])
        case 3:
            chance.shuffle(frames)
        case _:
            frames[at:at] = [frames[at]] * chance.choice((1, 3, 50)) if len(data) < 1000 else []
    return _joined(frames)


def _cut(data: bytes, chance: Random) -> Parts:
    """Cut it nowhere, at some places, everywhere (a short one), or as a socket would."""
    match chance.randrange(4):
        case 0:
            places: list[int] = []
        case 1 if len(data) < 400:
            places = list(range(1, len(data)))
        case 2:
            places = list(range(65536, len(data), 65536))
        case _:
            places = [chance.randrange(len(data)) for _ in range(chance.randrange(1, 5))]
    edges = [0, *sorted({place for place in places if 0 < place < len(data)}), len(data)]
    return tuple(data[start:stop] for start, stop in pairwise(edges))


# --- The product ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Received:
    """What was delivered, and how it ended."""

    messages: tuple[Delivered, ...]
    end: str


def _taken(frame: ipc.Frame) -> Delivered:
    """Return a message as the parent takes it.

    Raises:
        MalformedError, EngineError: it kills the child for it.
    """
    message = frame.message
    match message:
        case ipc.Answered():
            ipc.check_time(message, _ASKED_NS)
            answer = check_answer(_INTERFACE, (), ipc.unpack_tensors(message.outputs, frame.payload))
            found = [(one.name, one.datatype.value, one.shape, bytes(one.data)) for one in answer]
            return "answered", (message.id, found, message.compute_us)
        case ipc.Failed():
            error = ipc.error_of(message)
            if error is None:
                raise MalformedError("no error of a child's", reason="bad_frame")
            return "failed", (message.id, type(error).code, error.reason, error.message)
        case ipc.Hello():
            return "hello", (message.public_key, tuple(one.value for one in message.layers))
        case ipc.Loaded():
            return "loaded", (message.id, *(tuple(map(_said, some)) for some in (message.inputs, message.outputs)))
        case ipc.Unloaded():
            return "unloaded", (message.id,)
        case _:
            raise MalformedError("not for the parent", reason="bad_frame")


def _said(spec: TensorSpec) -> tuple[Any, ...]:
    return spec.name, spec.datatype.value, spec.shape


def _assemble(parts: Parts) -> _Received:
    assembler, found = ipc.Assembler(), list[Delivered]()
    for piece in parts:
        at = 0
        while at < len(piece):
            buffer = assembler.buffer()
            count = min(len(buffer), len(piece) - at)
            buffer[:count] = piece[at : at + count]
            at += count
            try:
                for frame in assembler.received(count):
                    found.append(_taken(frame))
            except (MalformedError, TooLargeError, EngineError):
                if not found:
                    raise
                return _Received(tuple(found), REFUSED)
    return _Received(tuple(found), WAITING)


def _over_socket(parts: Parts) -> _Received:
    return asyncio.run(_linked(parts))


async def _linked(parts: Parts) -> _Received:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    theirs.setblocking(False)
    found: list[Delivered] = []
    ended: list[str] = []
    loop = asyncio.get_running_loop()

    def received(frame: ipc.Frame) -> None:
        if not ended:
            try:
                found.append(_taken(frame))
            except AIGovToolError as error:
                ended.append(error.message)

    link = Link(ours, received, ended.append)
    with theirs:
        for piece in parts:
            if ended:
                break
            sending = asyncio.ensure_future(loop.sock_sendall(theirs, piece))
            while not sending.done() and not ended:  # noqa: ASYNC110 - so that a piece is read before the next is sent
                await asyncio.sleep(0)
            sending.cancel()
            await asyncio.sleep(0)
        for _ in range(4):
            await asyncio.sleep(0)
    end = REFUSED if ended and "closed its channel" not in ended[0] else WAITING
    link.close()
    return _Received(tuple(found), end)


# --- The oracle ----------------------------------------------------------------------------------


class _BadError(Exception):
    """The parent must kill the child for it."""


def _expected(parts: Parts) -> _Received:
    """Read the frames by hand. Nothing is refused before it has come, but a size that is over its bound."""
    data, found, at = b"".join(parts), list[Delivered](), 0
    while len(data) - at >= 8:
        header, payload = int.from_bytes(data[at : at + 4], "little"), int.from_bytes(data[at + 4 : at + 8], "little")
        start, middle = at + 8, at + 8 + payload
        at = middle + header
        if header > _HEADER or payload > _PAYLOAD:
            return _Received(tuple(found), REFUSED)
        if at > len(data):
            break
        try:
            found.append(_message_by_hand(data[middle:at], data[start:middle]))
        except (_BadError, NotMsgpackError):
            return _Received(tuple(found), REFUSED)
    return _Received(tuple(found), WAITING)


def _message_by_hand(header: bytes, payload: bytes) -> Delivered:
    message = by_hand(header)
    if not isinstance(message, list) or not message or not isinstance(message[0], str):
        raise _BadError
    name, members = message[0], message[1:]
    readers: dict[str, Callable[..., Any]] = {
        "hello": _hello,
        "loaded": _loaded,
        "unloaded": _unloaded,
        "failed": _failed,
    }
    try:
        if name == "answered":
            return name, _answered(payload, *members)
        return name, readers[name](*members)
    except (KeyError, TypeError):  # of no such message, or with more or fewer members
        raise _BadError from None


def _demand(holds: object) -> None:
    if not holds:
        raise _BadError


def _id(value: Any) -> int:  # noqa: ANN401 - any object
    _demand(type(value) is int and value >= 0)
    return cast("int", value)


def _text(value: Any, most: int, least: int = 0) -> str:  # noqa: ANN401 - any object
    _demand(isinstance(value, str) and least <= len(value) <= most)
    return cast("str", value)


def _list(value: Any, most: int) -> list[Any]:  # noqa: ANN401 - any object
    _demand(type(value) is list and len(value) <= most)
    return cast("list[Any]", value)


def _hello(key: Any, layers: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any object
    _demand(isinstance(key, bytes) and len(key) == 32)
    _demand(all(isinstance(one, str) for one in _list(layers, 1 << 20)))
    _demand(set(layers) <= {"no_new_privs", "not_dumpable", "limits", "capabilities", "landlock", "seccomp"})
    return key, tuple(layers)


def _loaded(number: Any, inputs: Any, outputs: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any object
    return _id(number), *(tuple(_spec(one) for one in _list(some, 64)) for some in (inputs, outputs))


def _spec(value: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any object
    _demand(isinstance(value, Pairs))
    members = value.last()
    _demand(members.keys() == {"name", "datatype", "shape"})
    name, kind, shape = _text(members["name"], 256, 1), members["datatype"], members["shape"]
    _demand(name.isprintable() and isinstance(kind, str) and kind in _SIZES)
    if shape is None:
        return name, kind, None
    for axis in _list(shape, 16):
        numeric = type(axis) is int and -1 <= axis <= 1 << 26
        _demand(numeric or (isinstance(axis, str) and 1 <= len(axis) <= 256 and axis.isprintable()))
    return name, kind, tuple(shape)


def _unloaded(number: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any object
    return (_id(number),)


def _failed(number: Any, code: Any, reason: Any, message: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any object
    _demand(reason is None or _text(reason, 64) is not None)
    _demand(_text(code, 1 << 20) in _CODES)
    return _id(number), code, reason, _text(message, 500)


def _answered(payload: bytes, number: Any, outputs: Any, compute_us: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any object
    """Read an answer: exactly the outputs of the model, in its order, of its types and ranks, and whole data."""
    _demand(_id(compute_us) * 1000 <= _ASKED_NS)
    found = []
    at = 0
    for header in _list(outputs, 64):
        _demand(len(_list(header, 4)) == 4)
        name, kind, shape, size = header
        _demand(isinstance(kind, str) and kind in _SIZES)
        _demand(all(0 <= _id(one) <= 1 << 26 for one in _list(shape, 16)) and _id(size) <= _PAYLOAD)
        data = payload[at : at + size]
        at += size
        found.append((_text(name, 256, 1), kind, tuple(shape), data))
    _demand(at == len(payload))
    _demand([one[:2] for one in found] == [("y", "FP32"), ("s", "BYTES"), ("b", "BOOL")])
    y, s, b = found
    _demand(len(y[2]) == 2 and y[2][1] == 2 and len(s[2]) == 1 and s[2][0] <= 1 << 20)
    _demand(all(prod(one[2]) <= 1 << 26 for one in found))
    _demand(len(y[3]) == 4 * prod(y[2]) and len(b[3]) == prod(b[2]) and set(b[3]) <= {0, 1})
    _demand(_elements(s[3]) == s[2][0])
    return _id(number), found, compute_us


def _elements(data: bytes) -> int:
    """Return how many elements of BYTES the data is; -1 if it is none."""
    count = at = 0
    while at + 4 <= len(data):
        at += 4 + int.from_bytes(data[at : at + 4], "little")
        count += 1
    return count if at == len(data) else -1


def _wrong(parts: Parts, value: object) -> str | None:
    found, expected = cast("_Received", value), _expected(parts)
    # What came in one piece with a frame for which the child is ended need not be delivered any more.
    count = len(found.messages if found.end == REFUSED else expected.messages)
    if found.messages != expected.messages[:count]:
        names = [[name for name, _ in one.messages] for one in (found, expected)]
        return f"delivered {names[0]}, read by hand {names[1]}, or other contents"
    return None if found.end == expected.end else f"it ended {found.end}, read by hand {expected.end}"


def _refused_wrongly(parts: Parts, _error: Exception) -> str | None:
    expected = _expected(parts)
    return None if expected.end == REFUSED else f"refused, read by hand {len(expected.messages)} messages"


def _make() -> tuple[Kind, ...]:
    refusals = (MalformedError, TooLargeError, EngineError)
    return (
        Kind(
            name="frames",
            genuine=_genuine(),
            edit=_edit,
            read=_assemble,
            wrong=_wrong,
            refusals=refusals,
            refused_wrongly=_refused_wrongly,
            weight=8,
        ),
        Kind(name="link", genuine=_genuine(), edit=_edit, read=_over_socket, wrong=_wrong, refusals=(), weight=2),
        documents.document("load-reports", LoadReport, documents.drawn(LoadReport, 4), max_bytes=256 << 10),
    )


PARSER: Final = Parser(
    name="engine-frames",
    claim="Whatever a subverted engine sends, the enclave takes nothing but whole messages of a child's, or ends it.",
    counts="streams of frames with members, types, tags and sizes changed, spelled otherwise, nested, doubled and out "
    "of order, data that does not fill its tensors, answers that the model cannot give; cut into pieces at any places, "
    "and a fifth of them sent over a real socket; and reports of the process that loads a model. What is delivered, "
    "and whether the child is ended, must be what a reading by hand says of frames, MessagePack and messages.",
    shows_not="that the child stays in its sandbox. A frame may announce 65 MiB, and that much is taken for it at "
    "once: the bound on memory is that and 31 MiB more.",
    covers=(
        *documents.COVERS,
        "src/aigovtool/enclave/engines/interface.py",
        "src/aigovtool/enclave/engines/ipc.py",
        "src/aigovtool/enclave/engines/link.py",
        "src/aigovtool/enclave/engines/sandbox.py",
        "src/aigovtool/package/loadcheck.py",
        "src/aigovtool/package/manifest.py",
        "src/aigovtool/protocol/tensor.py",
        "assurance/parsers/engine_frames.py",
        "assurance/parsers/msgpack_reading.py",
    ),
    make=_make,
    most_mib=96,
)
