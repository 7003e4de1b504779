"""The frames between the enclave's parent process and its engine child.

```
u32 header bytes | u32 payload bytes | payload: raw tensor data, end to end | header: one msgpack message
```

Both integers are little-endian. The payload comes first so that its first tensor is aligned, and is used where it is.

Rules, because after a bad model the child may be anybody's:

1. Sizes are bounded before memory is allocated; the header before it is decoded.
2. A header is one msgpack array of a known message: no unknown member, no other type, nothing after it.
3. The tensors of a message fill its payload exactly.
4. Anything else is a `MalformedError`; the parent answers it by killing the child, the child by ending.

A model's package travels as a descriptor beside the first byte of its `Load` (SCM_RIGHTS): the child opens no file of
the machine. What it does not do: it owns no socket (`Channel` and `Link` do).
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from aigovtool.codec import text_like
from aigovtool.enclave.engines.sandbox import Layer
from aigovtool.errors import (
    AIGovToolError,
    DeadlineError,
    EngineError,
    FaultError,
    InvalidValueError,
    MalformedError,
    ModelError,
    NotFoundError,
    PackageError,
    SignatureInvalidError,
    TooLargeError,
)
from aigovtool.ids import Digest
from aigovtool.limits import (
    MAX_INFER_BODY_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_RUNS_AT_ONCE,
    MAX_TENSOR_ELEMENTS,
    MAX_TENSOR_NAME_CHARS,
    MAX_TENSOR_RANK,
    MAX_TENSORS,
)
from aigovtool.package.manifest import TensorSpec
from aigovtool.protocol.tensor import Buffer, Datatype, Tensor

MAX_IPC_HEADER_BYTES: Final = MAX_MANIFEST_BYTES  # of a `Loaded`, whose interface has stood in a manifest
MAX_IPC_PAYLOAD_BYTES: Final = MAX_INFER_BODY_BYTES  # both ways: what a request may bring, an answer may carry
MAX_ERROR_CHARS: Final = 500
MAX_GROUP: Final = 64  # runs that may come together
_JOIN_BYTES: Final = 16 << 10  # up to here frames are joined: copying costs less than a longer iovec
_RECEIVE_BYTES: Final = 64 << 10
_PREFIX: Final = struct.Struct("<II")

_Id = Annotated[int, Meta(ge=0)]
_Name = Annotated[str, Meta(min_length=1, max_length=MAX_TENSOR_NAME_CHARS)]
_Reason = Annotated[str, text_like(r"^[a-z0-9_]{1,64}$(?!\n)", "1 to 64 of a-z, 0-9 and '_'")]
_Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Shape = Annotated[tuple[Annotated[int, Meta(ge=0, le=MAX_TENSOR_ELEMENTS)], ...], Meta(max_length=MAX_TENSOR_RANK)]


class _Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages: an array on the wire, so that no member can come twice."""


class TensorHeader(_Record, frozen=True):
    """A tensor without its data; `size_bytes` of the payload are its own, in the order of the message."""

    name: _Name
    datatype: Datatype
    shape: _Shape
    size_bytes: Annotated[int, Meta(ge=0, le=MAX_IPC_PAYLOAD_BYTES)]


_TensorHeaders = Annotated[tuple[TensorHeader, ...], Meta(max_length=MAX_TENSORS)]
_Specs = Annotated[tuple[TensorSpec, ...], Meta(max_length=MAX_TENSORS)]


class Setup(_Record, frozen=True, tag="setup"):
    """Parent to child, first: who the parent is, and how the engine is to be set up."""

    parent_pid: int
    workers: Annotated[int, Meta(ge=1, le=MAX_RUNS_AT_ONCE)]
    intra_op_threads: Annotated[int, Meta(ge=1, le=256)]
    memory_bytes: Annotated[int, Meta(ge=1)] | None
    own_files: bool


class Hello(_Record, frozen=True, tag="hello"):
    """Child to parent, first: the public part of the key born in the child, and the sandbox it is in."""

    public_key: _Bytes32
    layers: tuple[Layer, ...]


class Load(_Record, frozen=True, tag="load"):
    """Load the package whose descriptor comes beside this message; `id` names the model from then on."""

    id: _Id
    wrapped_key: bytes
    info: bytes
    manifest_digest: Digest
    sealer: _Bytes32


class Loaded(_Record, frozen=True, tag="loaded"):
    """The model is ready, and this is what it takes and gives."""

    id: _Id
    inputs: _Specs
    outputs: _Specs


class Limit(_Record, frozen=True):
    """What may leave of one output: the `top_k` largest of each row, the rest 0 or the `lowest`; so many decimals."""

    output: _Name
    top_k: Annotated[int, Meta(ge=1, le=MAX_TENSOR_ELEMENTS)] | None
    lowest: bool
    decimals: Annotated[int, Meta(ge=0, le=15)] | None


class Run(_Record, frozen=True, tag="run"):
    """Run a model until `deadline_ns` (CLOCK_MONOTONIC, which both processes share), or for `compute_ms` (0: as long).

    No outputs means all. `limits` are of outputs of which only a part may leave. `finite`: inputs are numbers only.
    """

    id: _Id
    model: _Id
    deadline_ns: int
    inputs: _TensorHeaders
    outputs: Annotated[tuple[_Name, ...], Meta(max_length=MAX_TENSORS)]
    compute_ms: Annotated[int, Meta(ge=0)] = 0
    limits: Annotated[tuple[Limit, ...], Meta(max_length=MAX_TENSORS)] = ()
    finite: bool = False


class RunGroup(_Record, frozen=True, tag="group"):
    """Run a model `count` times, on inputs of one form that follow each other; the ids of the runs begin with `id`.

    Deadline and `compute_ms` are for all of them. `together`: rows do not depend on each other, so that one may do.
    """

    id: _Id
    model: _Id
    deadline_ns: int
    count: Annotated[int, Meta(ge=1, le=MAX_GROUP)]
    inputs: _TensorHeaders
    outputs: Annotated[tuple[_Name, ...], Meta(max_length=MAX_TENSORS)]
    compute_ms: Annotated[int, Meta(ge=1)]
    limits: Annotated[tuple[Limit, ...], Meta(max_length=MAX_TENSORS)] = ()
    finite: bool = False
    together: bool = False


class Answered(_Record, frozen=True, tag="answered"):
    """The outputs of a run, and how long the engine worked on them, by CLOCK_MONOTONIC."""

    id: _Id
    outputs: _TensorHeaders
    compute_us: Annotated[int, Meta(ge=0)]


class GroupAnswered(_Record, frozen=True, tag="group_answered"):
    """The outputs of runs of a group from `id` on, all of the same form, and the time of each; as `Answered`."""

    id: _Id
    outputs: _TensorHeaders
    compute_us: Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(min_length=1, max_length=MAX_GROUP)]


class Unload(_Record, frozen=True, tag="unload"):
    """Forget a model."""

    id: _Id
    model: _Id


class Unloaded(_Record, frozen=True, tag="unloaded"):
    """The model is forgotten; runs of it that had begun still finish."""

    id: _Id


class Failed(_Record, frozen=True, tag="failed"):
    """The request `id` came to nothing; `code` is an error class of `aigovtool.errors`.

    `reason` is one word: it is told to others, who take no other.
    """

    id: _Id
    code: str
    reason: _Reason | None
    message: Annotated[str, Meta(max_length=MAX_ERROR_CHARS)]


ToChild = Setup | Load | Run | RunGroup | Unload
ToParent = Hello | Loaded | Answered | GroupAnswered | Unloaded | Failed
Message = ToChild | ToParent


class Frame(NamedTuple):
    """A message and the raw tensor data beside it; it is `lost` if there was no memory for that data."""

    message: Message
    payload: memoryview
    lost: bool = False


# The classes that the child may answer with. Others would claim things that are the parent's to say.
_CHILD_ERRORS: Final[dict[str, type[AIGovToolError]]] = {
    error.code: error
    for error in (
        DeadlineError,
        EngineError,
        FaultError,
        InvalidValueError,
        MalformedError,
        ModelError,
        NotFoundError,
        PackageError,
        SignatureInvalidError,
        TooLargeError,
    )
}

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Message)


def encode_frame(message: Message, data: Sequence[Buffer] = ()) -> list[Buffer]:
    """Return the buffers of one frame; large tensor data is not copied.

    Raises:
        TooLargeError: `frame_too_large`.
    """
    header = _encoder.encode(message)
    payload_bytes = sum(len(part) for part in data)
    _check_sizes(len(header), payload_bytes)
    prefix = _PREFIX.pack(len(header), payload_bytes)
    if payload_bytes <= _JOIN_BYTES:
        return [b"".join((prefix, *data, header))]
    return [prefix, *data, header]


def pack_tensors(tensors: Iterable[Tensor]) -> tuple[tuple[TensorHeader, ...], list[Buffer]]:
    """Return the headers of `tensors` and their data, as `encode_frame` takes it."""
    headers: list[TensorHeader] = []
    data: list[Buffer] = []
    for tensor in tensors:
        view = memoryview(tensor.data).cast("B")
        headers.append(TensorHeader(tensor.name, tensor.datatype, tensor.shape, len(view)))
        data.append(view)
    return tuple(headers), data


def unpack_tensors(headers: Iterable[TensorHeader], payload: memoryview) -> list[Tensor]:
    """Return the tensors of a message, as views of its payload (rule 3). Their data is not looked at.

    Raises:
        MalformedError: `bad_frame`.
    """
    tensors: list[Tensor] = []
    offset = 0
    for header in headers:
        end = offset + header.size_bytes
        tensors.append(Tensor(header.name, header.datatype, header.shape, payload[offset:end]))
        offset = end
    if offset != len(payload):
        raise MalformedError("the tensors of a frame do not fill its payload", reason="bad_frame")
    return tensors


class Assembler:
    """Cuts what one side receives into frames: receive into `buffer()`, then call `received(n)`.

    Small frames share one buffer of 64 KiB; a larger one is received into the memory in which it stays. Where there is
    none, its data is read and thrown away: whoever asked can be told, and what follows is read as ever.
    """

    def __init__(self, room: Callable[[int], bytearray] = bytearray) -> None:
        """Begin; `room` gives memory, or raises `MemoryError`."""
        self._room: Final = room
        self._small: Final = bytearray(_RECEIVE_BYTES)
        self._view: Final = memoryview(self._small)
        self._start = 0
        self._end = 0
        self._large: bytearray | None = None
        self._large_header_bytes = 0
        self._large_filled = 0
        self._skip = 0
        self._lost = False

    def buffer(self) -> memoryview:
        """Return where the next bytes belong; never empty."""
        if self._skip:
            return self._view[: self._skip]
        if self._large is not None:
            return memoryview(self._large)[self._large_filled :]
        return self._view[self._end :]

    def received(self, count: int) -> list[Frame]:
        """Take note of `count` bytes in `buffer()` and return the frames that are complete now.

        Raises:
            MalformedError: `bad_frame`.
            TooLargeError: `frame_too_large`.
        """
        if self._skip:
            self._skip -= count
            return []
        if self._large is None:
            self._end += count
            return self._cut()
        self._large_filled += count
        if self._large_filled < len(self._large):
            return []
        body, self._large = self._large, None
        return [_decode_frame(body, self._large_header_bytes)._replace(lost=self._lost)]

    def _cut(self) -> list[Frame]:
        frames: list[Frame] = []
        while self._end - self._start >= _PREFIX.size:
            header_bytes, payload_bytes = _PREFIX.unpack_from(self._small, self._start)
            _check_sizes(header_bytes, payload_bytes)
            first = self._start + _PREFIX.size
            last = first + header_bytes + payload_bytes
            if last <= self._end:
                frames.append(_decode_frame(self._small[first:last], header_bytes))
                self._start = last
            elif last - self._start > _RECEIVE_BYTES:
                self._begin_large(first, header_bytes, payload_bytes)
                break
            else:
                break
        self._make_room()
        return frames

    def _begin_large(self, first: int, header_bytes: int, payload_bytes: int) -> None:
        here = self._end - first
        try:
            self._large, self._lost = self._room(header_bytes + payload_bytes), False
        except MemoryError:
            self._large, self._lost = bytearray(header_bytes), True
            self._skip = max(0, payload_bytes - here)
            first, here = min(self._end, first + payload_bytes), max(0, here - payload_bytes)
        self._large_header_bytes, self._large_filled = header_bytes, here
        self._large[:here] = self._view[first : self._end]
        self._start = self._end

    def _make_room(self) -> None:
        rest = self._end - self._start
        if rest and (self._start == 0 or self._end < _RECEIVE_BYTES // 2):
            return
        self._small[:rest] = self._small[self._start : self._end]
        self._start, self._end = 0, rest


def _check_sizes(header_bytes: int, payload_bytes: int) -> None:
    if header_bytes > MAX_IPC_HEADER_BYTES or payload_bytes > MAX_IPC_PAYLOAD_BYTES:
        raise TooLargeError("a frame is over its bounds", reason="frame_too_large")


def _decode_frame(body: bytearray, header_bytes: int) -> Frame:
    view = memoryview(body)
    split = len(body) - header_bytes
    try:
        return Frame(_decoder.decode(view[split:]), view[:split])
    except (msgspec.MsgspecError, AIGovToolError, RecursionError, UnicodeDecodeError):
        raise MalformedError("a frame does not hold a message", reason="bad_frame") from None


def failure(request: int, error: AIGovToolError) -> Failed:
    """Return the message that tells the parent of `error`."""
    return Failed(request, error.code, error.reason, error.message[:MAX_ERROR_CHARS])


def error_of(message: Failed) -> AIGovToolError | None:
    """Return the error that the child reports, or None for a class that is not the child's to report."""
    kind = _CHILD_ERRORS.get(message.code)
    return None if kind is None else kind(message.message, reason=message.reason)


def check_time(answered: Answered, passed_ns: int) -> None:
    """Refuse an answer to a question that was put `passed_ns` ago, if more work is said to have gone into it.

    Raises:
        MalformedError: `bad_frame`.
    """
    if answered.compute_us * 1_000 > passed_ns:
        raise MalformedError("it claims to have worked before it was asked", reason="bad_frame")
