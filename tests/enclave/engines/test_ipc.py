import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigovtool.enclave.engines.ipc import (
    MAX_IPC_HEADER_BYTES,
    MAX_IPC_PAYLOAD_BYTES,
    Answered,
    Assembler,
    Failed,
    Frame,
    TensorHeader,
    Unload,
    Unloaded,
    encode_frame,
    error_of,
    failure,
    pack_tensors,
    unpack_tensors,
)
from aigovtool.errors import EngineError, InputError, MalformedError, TooLargeError, UnauthenticatedError
from aigovtool.protocol.tensor import Datatype, Tensor

#: A boot request that names one of these as why a model is not served would be refused, whatever else it asks for.
REASONS_THAT_ARE_NONE = ("", "Upper", "two words", "line\n", "\x1b[2J", "x" * 65)
FEW = settings(max_examples=60, derandomize=True, deadline=None)


def feed(assembler: Assembler, data: bytes, piece: int) -> list[Frame]:
    """Receive `data` in pieces of at most `piece` bytes."""
    frames: list[Frame] = []
    while data:
        space = assembler.buffer()
        count = min(len(space), piece, len(data))
        space[:count] = data[:count]
        frames += assembler.received(count)
        data = data[count:]
    return frames


def raw(header: bytes, payload: bytes = b"") -> bytes:
    return struct.pack("<II", len(header), len(payload)) + payload + header


@FEW
@given(sizes=st.lists(st.sampled_from([0, 1, 7, 4096, 70_000, 200_000]), max_size=6), piece=st.integers(1, 100_000))
def test_frames_survive_any_cut(sizes: list[int], piece: int) -> None:
    """However the stream is cut, the same frames come out, small ones and those larger than the buffer."""
    sent = [Tensor("x", Datatype.UINT8, (size,), bytes([index + 1]) * size) for index, size in enumerate(sizes)]
    stream = b""
    for index, tensor in enumerate(sent):
        headers, data = pack_tensors([tensor])
        stream += b"".join(encode_frame(Answered(index, headers, index * 1_000), data))
    frames = feed(Assembler(), stream, max(piece, 1 + len(stream) // 2000))
    assert [frame.message for frame in frames] == [
        Answered(index, (TensorHeader("x", Datatype.UINT8, t.shape, len(t.data)),), index * 1_000)
        for index, t in enumerate(sent)
    ]
    assert [bytes(frame.payload) for frame in frames] == [bytes(tensor.data) for tensor in sent]


@FEW
@given(lost=st.lists(st.booleans(), min_size=1, max_size=5), piece=st.integers(1, 100_000))
def test_data_for_which_there_is_no_memory_is_passed_over(lost: list[bool], piece: int) -> None:
    """However the stream is cut, its message comes all the same, and so does whatever follows."""
    sent = [Tensor("x", Datatype.UINT8, (70_001 + one,), bytes([one + 1]) * (70_001 + one)) for one in range(len(lost))]
    stream, turns = b"", iter(lost)
    for number, tensor in enumerate(sent):
        headers, data = pack_tensors([tensor])
        stream += b"".join(encode_frame(Answered(number, headers, 0), data)) + b"".join(encode_frame(Unloaded(number)))

    def room(size: int) -> bytearray:
        if next(turns):
            raise MemoryError
        return bytearray(size)

    frames = feed(Assembler(room), stream, max(piece, 1 + len(stream) // 2000))
    assert [frame.message for frame in frames[1::2]] == [Unloaded(number) for number in range(len(lost))]
    assert [frame.message.id for frame in frames[::2]] == list(range(len(lost)))  # type: ignore[union-attr]
    assert [frame.lost for frame in frames[::2]] == lost
    assert [bytes(frame.payload) for frame in frames[::2]] == [
        b"" if gone else bytes(tensor.data) for gone, tensor in zip(lost, sent, strict=True)
    ]


@FEW
@given(data=st.binary(max_size=300))
def test_any_bytes_give_frames_or_a_refusal(data: bytes) -> None:
    """Nothing but our own refusals leaves the assembler, whatever a compromised child sends."""
    try:
        feed(Assembler(), data, len(data) or 1)
        feed(Assembler(), raw(data), 4096)
    except InputError as error:
        assert error.reason in {"bad_frame", "frame_too_large"}


@pytest.mark.parametrize(
    "sizes", [(MAX_IPC_HEADER_BYTES + 1, 0), (1, MAX_IPC_PAYLOAD_BYTES + 1), (2**32 - 1, 2**32 - 1)]
)
def test_sizes_are_refused_before_memory_is_taken(sizes: tuple[int, int]) -> None:
    """The eight bytes of a prefix are enough to refuse a frame."""
    with pytest.raises(TooLargeError) as caught:
        feed(Assembler(), struct.pack("<II", *sizes), 8)
    assert caught.value.reason == "frame_too_large"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        msgspec.msgpack.encode(["unloaded"]),
        msgspec.msgpack.encode(["unloaded", 1, 2]),
        msgspec.msgpack.encode(["unloaded", -1]),
        msgspec.msgpack.encode(["unloaded", True]),
        msgspec.msgpack.encode(["unknown", 1]),
        msgspec.msgpack.encode({"id": 1}),
        msgspec.msgpack.encode(["unloaded", 1]) + b"\x00",
        msgspec.msgpack.encode(["hello", b"short", []]),
        msgspec.msgpack.encode(["failed", 1, "engine_failed", None, "x" * 501]),
        *(msgspec.msgpack.encode(["failed", 1, "engine_failed", reason, ""]) for reason in REASONS_THAT_ARE_NONE),
        b"\x91" * 5000,
    ],
)
def test_headers_have_one_form(header: bytes) -> None:
    """Missing, unknown, ill-typed and trailing values, and nesting without end, are refused."""
    with pytest.raises(MalformedError) as caught:
        feed(Assembler(), raw(header), 4096)
    assert caught.value.reason == "bad_frame"


@pytest.mark.parametrize("size", [3, 5])
def test_tensors_fill_the_payload(size: int) -> None:
    """Data that no tensor claims, or that a tensor claims beyond the end, is refused."""
    with pytest.raises(MalformedError):
        unpack_tensors([TensorHeader("x", Datatype.UINT8, (4,), 4)], memoryview(bytes(size)))


def test_large_tensors_are_not_copied() -> None:
    """A tensor is sent from where it lies."""
    data = bytearray(1 << 20)
    headers, parts = pack_tensors([Tensor("x", Datatype.UINT8, (1 << 20,), data)])
    buffers = encode_frame(Answered(1, headers, 0), parts)
    data[0] = 7
    assert memoryview(buffers[1])[0] == 7


def test_errors_travel_with_their_class_and_reason() -> None:
    """A refusal of the child is the same refusal in the parent."""
    error = error_of(failure(1, EngineError("no", reason="run_failed")))
    assert isinstance(error, EngineError)
    assert (error.message, error.reason) == ("no", "run_failed")


def test_the_child_cannot_speak_for_the_parent() -> None:
    """A class that is the parent's to raise, such as one about identity, is not taken from the child."""
    assert error_of(failure(1, UnauthenticatedError("no"))) is None
    assert error_of(Failed(1, "no_such_class", None, "no")) is None


def test_messages_are_told_apart() -> None:
    """Two messages of equal members differ by their tag."""
    assert encode_frame(Unloaded(1)) != encode_frame(Unload(1, 1))
