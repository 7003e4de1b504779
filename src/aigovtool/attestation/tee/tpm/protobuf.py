"""The wire form of protocol buffers, as much of it as go-tpm-tools' attestations need, read strictly.

Fields are varints or byte strings; groups, fixed-width numbers and unknown fields are errors. Sizes are bounded by the
bytes at hand, and numbers by 64 bits.
"""

from collections.abc import Mapping

from aigovtool.errors import EvidenceError

_VARINT = 0
_BYTES = 2


def read_fields(data: bytes, known: Mapping[int, type[int] | type[bytes]]) -> dict[int, list[int | bytes]]:
    """Return the values of each field of one message, in their order; `known` says which may be there and their types.

    Raises:
        EvidenceError: `bundle_encoding`.
    """
    fields: dict[int, list[int | bytes]] = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if (known.get(number), wire) not in {(int, _VARINT), (bytes, _BYTES)}:
            raise EvidenceError(f"an unexpected field {number} of wire type {wire}", reason="bundle_encoding")
        value, at = _varint(data, at)
        if wire == _VARINT:
            fields.setdefault(number, []).append(value)
            continue
        if value > len(data) - at:
            raise EvidenceError("a field is longer than its message", reason="bundle_encoding")
        fields.setdefault(number, []).append(data[at : at + value])
        at += value
    return fields


def only_bytes(fields: Mapping[int, list[int | bytes]], number: int) -> bytes:
    """Return the value of a field of bytes that is there once, or nothing if it is absent.

    Raises:
        EvidenceError: `bundle_encoding` when it is there twice.
    """
    values = fields.get(number, [])
    if len(values) > 1:
        raise EvidenceError(f"field {number} is there twice", reason="bundle_encoding")
    return values[0] if values and isinstance(values[0], bytes) else b""


def only_number(fields: Mapping[int, list[int | bytes]], number: int) -> int:
    """Return the value of a number that is there once, or 0 if it is absent.

    Raises:
        EvidenceError: `bundle_encoding` when it is there twice.
    """
    values = fields.get(number, [])
    if len(values) > 1:
        raise EvidenceError(f"field {number} is there twice", reason="bundle_encoding")
    return values[0] if values and isinstance(values[0], int) else 0


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends: 7 bits to a byte, the lowest first, at most ten bytes."""
    value = 0
    for index, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, at + index + 1
    raise EvidenceError("a number that does not end, or is too large", reason="bundle_encoding")
