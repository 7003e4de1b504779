"""A bounded reader of the protobuf wire format, over a seekable file of any size.

Source: https://protobuf.dev/programming-guides/encoding/. It knows nothing of ONNX.

Rules:

1. It moves over the file with one window of 64 KiB. The content of a length-delimited field is never read unless
   the caller asks for it with a bound: two gigabytes of weights cost one seek.
2. Stricter than protobuf, because two readers must not see two models in one file: unknown field numbers, wrong wire
   types, groups, a singular field given twice, integers over 64 bits and lengths past the end are errors.
3. The number of fields is bounded over the reader's life.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final, NamedTuple

from aigovtool.errors import FaultError, ModelError
from aigovtool.limits import MAX_ONNX_FIELDS

VARINT: Final = 0
I64: Final = 1
LEN: Final = 2
I32: Final = 5

_WINDOW_BYTES: Final = 64 << 10
_MAX_VARINT_BYTES: Final = 10
_FIX: Final = "check that the file is a complete ONNX model: onnx.checker.check_model(path) says more"
_WIRE_SIZES: Final = {I64: 8, I32: 4}


@dataclass(frozen=True, slots=True)
class Rule:
    """What is known of one field number: its wire types, and whether it may be repeated.

    `run` matches a run of such fields, so that millions of them can be passed over as one.
    """

    wires: tuple[int, ...]
    repeated: bool = False
    run: re.Pattern[bytes] | None = None


Schema = Mapping[int, Rule]


class Field(NamedTuple):
    """One field: `value` is the integer of a VARINT; `start` and `end` are where its content lies."""

    number: int
    value: int
    start: int
    end: int


def malformed(message: str) -> ModelError:
    """Return the error for bytes that are not an ONNX model."""
    return ModelError(f"not a readable ONNX model: {message}", reason="not_onnx", fix=_FIX)


class WireReader:
    """Reads fields of messages that lie at known ranges of `stream`."""

    def __init__(self, stream: BinaryIO, size_bytes: int, max_fields: int = MAX_ONNX_FIELDS) -> None:
        self._stream: Final = stream
        self._size: Final = size_bytes
        self._fields_left = max_fields
        self._window = b""
        self._base = 0

    def fields(self, start: int, end: int, schema: Schema) -> Iterator[Field]:
        """Yield the fields of the message in `[start, end)`.

        Raises:
            ModelError: with reason `not_onnx` (rule 2) or `too_many_fields` (rule 3).
        """
        seen = 0
        position = start
        while position < end:
            self._count()
            tag, content = self._varint(position, end)
            number = tag >> 3
            rule = schema.get(number)
            if rule is None:
                raise malformed(f"unknown field {number} at byte {position}")
            if tag & 7 not in rule.wires:
                raise malformed(f"field {number} at byte {position} has the wrong wire type")
            if not rule.repeated and seen >> number & 1:
                raise malformed(f"field {number} at byte {position} is given twice")
            seen |= 1 << number
            field, next_position = self._content(number, tag & 7, content, end)
            yield field
            position = next_position if rule.run is None else self._after_run(rule.run, next_position, end)

    def content(self, field: Field, max_bytes: int, what: str) -> bytes:
        """Return the content of a length-delimited field of at most `max_bytes`.

        Raises:
            ModelError: with reason `name_too_long`.
        """
        size = field.end - field.start
        if size > max_bytes:
            raise ModelError(
                f"{what} at byte {field.start} has {size} bytes; at most {max_bytes} are read",
                reason="name_too_long",
                fix="shorten the name and export the model again",
            )
        return self._read(field.start, size)

    def text(self, field: Field, max_bytes: int, what: str) -> str:
        """Return the content of a string field.

        Raises:
            ModelError: with reason `name_too_long`, or `not_onnx` unless it is UTF-8.
        """
        try:
            return self.content(field, max_bytes, what).decode("utf-8")
        except UnicodeDecodeError:
            raise malformed(f"{what} at byte {field.start} is not UTF-8") from None

    def _content(self, number: int, wire: int, start: int, end: int) -> tuple[Field, int]:
        if wire == VARINT:
            value, after = self._varint(start, end)
            return Field(number, value, start, after), after
        if wire == LEN:
            size, start = self._varint(start, end)
        else:
            size = _WIRE_SIZES[wire]
        if size > end - start:
            raise malformed(f"field {number} at byte {start} reaches past its end")
        return Field(number, 0, start, start + size), start + size

    def _varint(self, start: int, end: int) -> tuple[int, int]:
        """Return the integer at `start` and the position after it."""
        data, offset = self._at(start, min(_MAX_VARINT_BYTES, end - start))
        byte = data[offset] if offset < len(data) and start < end else 0x80
        if byte < 0x80:
            return byte, start + 1
        value = 0
        for index in range(min(_MAX_VARINT_BYTES, end - start)):
            byte = data[offset + index]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if value >= 1 << 64:
                    break
                return value, start + index + 1
        raise malformed(f"no integer at byte {start}")

    def _after_run(self, run: re.Pattern[bytes], position: int, end: int) -> int:
        """Return the position after all fields that match `run`; their content is not looked at."""
        while position < end:
            self._count()
            data, offset = self._at(position, min(_WINDOW_BYTES, end - position))
            match = run.match(data, offset, min(len(data), offset + end - position))
            if match is None or match.end() == offset:
                break
            position += match.end() - offset
        return position

    def _count(self) -> None:
        self._fields_left -= 1
        if self._fields_left < 0:
            raise ModelError(
                "the model has too many fields",
                reason="too_many_fields",
                fix="store tensors as raw_data (onnx.numpy_helper.from_array does) and seal again",
            )

    def _at(self, position: int, size: int) -> tuple[bytes, int]:
        """Return a window that holds `[position, position + size)`, and the offset of `position` in it."""
        offset = position - self._base
        if offset < 0 or offset + size > len(self._window):
            self._window = self._read(position, min(max(size, _WINDOW_BYTES), self._size - position))
            self._base = position
            offset = 0
        return self._window, offset

    def _read(self, position: int, size: int) -> bytes:
        try:
            self._stream.seek(position)
            data = self._stream.read(size)
        except OSError as error:
            raise FaultError(f"the model cannot be read: {error.strerror}", reason="io_failed") from None
        if len(data) != size:
            raise malformed(f"it ends at byte {position + len(data)}, within a field")
        return data
