"""What the sandboxed engine child sends to the enclave: frames, cut into pieces at any place.

After a bad model the child may be anybody's. `frames` go through the assembler and the checks that the parent makes of
an answer; `link` is the same over a real socket. What is delivered must be what a reading by hand finds in the bytes
(frames, MessagePack, and what each message may hold), and it must end as that ends. `load-reports` are what the process
answers that loads a model before it is sealed.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Final, cast

from aigovtool.enclave.engines import ipc
from aigovtool.enclave.engines.groups import payloads_of
from aigovtool.enclave.engines.interface import check_answer
from aigovtool.enclave.engines.link import Link
from aigovtool.errors import AIGovToolError, EngineError, MalformedError, TooLargeError
from aigovtool.package.loadcheck import LoadReport
from aigovtool.package.manifest import TensorSpec
from aigovtool.protocol.tensor import Datatype
from assurance.parsers import documents
from assurance.parsers.engine_edits import HEADER, INTERFACE, PAYLOAD, edit, genuine
from assurance.parsers.msgpack_reading import NotMsgpackError, Pairs, by_hand
from assurance.parsers.parser import Kind, Parser, Parts

_ASKED_NS: Final = 10**9
_SIZES: Final = {name.value: name.size_bytes for name in Datatype}
_CODES: Final = (
    *("deadline_exceeded", "engine_failed", "fault", "invalid_value", "malformed", "model_refused", "not_found"),
    *("package_invalid", "bad_signature", "too_large"),
)

WAITING, REFUSED = "waiting", "refused"
#: A message that is delivered: its name, and what follows it in the frame; of an answer, with its data.
Delivered = tuple[str, Any]


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
            answer = check_answer(INTERFACE, (), ipc.unpack_tensors(message.outputs, frame.payload))
            found = [(one.name, one.datatype.value, one.shape, bytes(one.data)) for one in answer]
            return "answered", (message.id, found, message.compute_us)
        case ipc.GroupAnswered():
            runs = []
            for payload in payloads_of(INTERFACE, (), message, frame.payload, _ASKED_NS):
                answer = ipc.unpack_tensors(message.outputs, payload)
                runs.append([(one.name, one.datatype.value, one.shape, bytes(one.data)) for one in answer])
            return "group_answered", (message.id, runs, message.compute_us)
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

_WORD: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")


class _BadError(Exception):
    """The parent must kill the child for it."""


def _expected(parts: Parts) -> _Received:
    """Read the frames by hand. Nothing is refused before it has come, but a size that is over its bound."""
    data, found, at = b"".join(parts), list[Delivered](), 0
    while len(data) - at >= 8:
        header, payload = int.from_bytes(data[at : at + 4], "little"), int.from_bytes(data[at + 4 : at + 8], "little")
        start, middle = at + 8, at + 8 + payload
        at = middle + header
        if header > HEADER or payload > PAYLOAD:
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
        if name == "group_answered":
            return name, _group_answered(payload, *members)
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
    known = {
        "no_new_privs",
        "not_dumpable",
        "memory_locked",
        "limits",
        "capabilities",
        "private_files",
        "landlock",
        "seccomp",
    }
    _demand(set(layers) <= known)
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
    _demand(reason is None or set(_text(reason, 64, least=1)) <= _WORD)  # others are told it, who take a word only
    _demand(_text(code, 1 << 20) in _CODES)
    return _id(number), code, reason, _text(message, 500)


def _answered(payload: bytes, number: Any, outputs: Any, compute_us: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any object
    _demand(_id(compute_us) * 1000 <= _ASKED_NS)
    return _id(number), _outputs(payload, outputs), compute_us


def _group_answered(payload: bytes, number: Any, outputs: Any, times: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any object
    """Read an answer to several runs: as much data for each, one after the other, and the time of each."""
    _demand(len(_list(times, 64)) >= 1)
    _demand(sum(_id(one) for one in times) * 1000 <= _ASKED_NS)
    size, rest = divmod(len(payload), len(times))
    _demand(rest == 0)
    runs = [_outputs(payload[at * size : (at + 1) * size], outputs) for at in range(len(times))]
    return _id(number), runs, tuple(times)


def _outputs(payload: bytes, outputs: Any) -> list[Any]:  # noqa: ANN401 - any object
    """Read what a run gave: exactly the outputs of the model, in its order, of its types and ranks, and whole data."""
    found = []
    at = 0
    for header in _list(outputs, 64):
        _demand(len(_list(header, 4)) == 4)
        name, kind, shape, size = header
        _demand(isinstance(kind, str) and kind in _SIZES)
        _demand(all(0 <= _id(one) <= 1 << 26 for one in _list(shape, 16)) and _id(size) <= PAYLOAD)
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
    return found


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
            genuine=genuine(),
            edit=edit,
            read=_assemble,
            wrong=_wrong,
            refusals=refusals,
            refused_wrongly=_refused_wrongly,
            weight=8,
        ),
        Kind(name="link", genuine=genuine(), edit=edit, read=_over_socket, wrong=_wrong, refusals=(), weight=2),
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
        "src/aigovtool/enclave/engines/groups.py",
        "src/aigovtool/enclave/engines/interface.py",
        "src/aigovtool/enclave/engines/ipc.py",
        "src/aigovtool/enclave/engines/link.py",
        "src/aigovtool/enclave/engines/sandbox.py",
        "src/aigovtool/package/loadcheck.py",
        "src/aigovtool/package/manifest.py",
        "src/aigovtool/protocol/tensor.py",
        "assurance/parsers/engine_edits.py",
        "assurance/parsers/engine_frames.py",
        "assurance/parsers/msgpack_reading.py",
    ),
    make=_make,
    most_mib=96,
)
