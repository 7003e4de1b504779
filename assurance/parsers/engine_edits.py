"""Frames of an engine child, and how they are changed: their sizes, MessagePack, data and order."""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from random import Random
from typing import Any, Final

from conformance.malformed import edits, structured

from aigovtool.enclave.engines import ipc
from aigovtool.enclave.engines.interface import ModelInterface
from aigovtool.enclave.engines.sandbox import Layer
from aigovtool.errors import MalformedError
from aigovtool.package.manifest import Datatype as ManifestDatatype
from aigovtool.package.manifest import TensorSpec
from aigovtool.protocol.tensor import Tensor
from assurance.parsers.msgpack_reading import NotMsgpackError, Pairs, by_hand, written
from assurance.parsers.parser import Parts

HEADER, PAYLOAD = 1 << 20, 64 << 20


INTERFACE: Final = ModelInterface(
    inputs=(),
    outputs=(
        TensorSpec(name="y", datatype=ManifestDatatype.FP32, shape=("n", 2)),
        TensorSpec(name="s", datatype=ManifestDatatype.BYTES, shape=(-1,)),
        TensorSpec(name="b", datatype=ManifestDatatype.BOOL, shape=None),
    ),
)


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


def _group(rows: int, runs: int) -> bytes:
    headers, data = ipc.pack_tensors(_tensors(rows))
    return _frame(ipc.GroupAnswered(7, headers, tuple(range(runs))), [*data] * runs)


@cache
def genuine() -> tuple[Parts, ...]:
    """Return what a child may send, from its first words to its answers."""
    specs = INTERFACE.outputs
    hello, loaded = _frame(ipc.Hello(bytes(range(32)), tuple(Layer))), _frame(ipc.Loaded(1, specs[:1], specs))
    failed = _frame(ipc.failure(3, MalformedError("no", reason="bad_frame")))
    return (
        (hello,),
        (loaded,),
        (_answer(3),),
        (_group(2, 3),),
        (_group(1, 1), _group(0, 64)),
        (failed, _frame(ipc.Unloaded(2**64 - 1))),
        (hello, loaded, _answer(1), failed),
        (_answer(9_000),),  # more than the buffer for small frames
        (_answer(0), _answer(9_000), hello),
    )


def edit(parts: Parts, chance: Random) -> Parts:
    """Change what a child sends, once or a few times, and cut it into pieces."""
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
        odd: tuple[Any, ...] = (
            "run",
            "load",
            "setup",
            "unload",
            "hello",
            "answered",
            "group_answered",
            "seccomp",
            "x" * 257,
            "x" * 501,
        )
        inner = _changed(value[at], chance) if isinstance(value[at], list) else chance.choice((*edges, *odd, b"k" * 32))
        return [*value[:at], inner, *value[at + 1 :]]
    return structured.changed(value, chance)


def _sizes(data: bytes, chance: Random) -> bytes:
    """Lie in the sizes before a frame."""
    at = chance.choice((0, 4))
    size = int.from_bytes(data[at : at + 4], "little")
    told = chance.choice((size + 1, size - 1, 0, 8, 2 * size, HEADER, HEADER + 1, PAYLOAD + 1, 2**32 - 1))
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
    other = chance.choice(_split(b"".join(chance.choice(genuine()))))
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
