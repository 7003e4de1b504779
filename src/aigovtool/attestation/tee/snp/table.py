"""The table in which a host passes certificates to its guest (AMD GHCB 56421, SNP Extended Guest Request).

Entries of GUID, offset and length, ended by one of zeros; then the contents. Linux hands it out as the `auxblob` of
configfs-tsm. The host fills it, so nothing in it is believed before it is verified; but every byte has its place:
contents neither overlap nor lie in the entries, and what lies between and behind them is zero.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from aigovtool.errors import EvidenceError

_ENTRY_BYTES: Final = 24
#: One of each kind.
_MOST_ENTRIES: Final = 5


class Content(StrEnum):
    """What an entry holds."""

    ARK = "ark"
    ASK = "ask"  # an ASVK too, where the leaf is a VLEK
    VCEK = "vcek"
    VLEK = "vlek"
    CRL = "crl"


# GUIDs lie in the table in the order of their text (RFC 9562), not in the mixed order of UEFI.
_CONTENTS: Final = {
    UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae").bytes: Content.ARK,
    UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782").bytes: Content.ASK,
    UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes: Content.VCEK,
    UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1").bytes: Content.VLEK,
    UUID("92f81bc3-5811-4d3d-97ff-d19f88dc67ea").bytes: Content.CRL,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One part of the table: what it is said to be, and its bytes."""

    content: Content
    data: bytes


def looks_like_table(data: bytes) -> bool:
    """Return whether `data` begins with a known GUID, or with the zeros of an empty table."""
    return data[:16] in _CONTENTS or (len(data) >= _ENTRY_BYTES and not any(data[:_ENTRY_BYTES]))


def read_table(data: bytes) -> tuple[Entry, ...]:
    """Return the entries of a table in their order; there may be none.

    Raises:
        EvidenceError: `table_entry` for an entry that is unknown, there twice, empty, or not within the table;
            `table_overlap`; `table_padding` for bytes without a place.
    """
    found: list[tuple[Content, int, int]] = []
    for content, start, end in _entries(data):
        if content in {one for one, _, _ in found} or len(found) == _MOST_ENTRIES:
            raise EvidenceError(f"the certificate table has {content} twice", reason="table_entry")
        found.append((content, start, end))
    _require_whole(data, [(0, (len(found) + 1) * _ENTRY_BYTES), *((start, end) for _, start, end in found)])
    return tuple(Entry(content, data[start:end]) for content, start, end in found)


def _entries(data: bytes) -> Iterator[tuple[Content, int, int]]:
    for at in range(0, len(data), _ENTRY_BYTES):
        entry = data[at : at + _ENTRY_BYTES]
        if len(entry) == _ENTRY_BYTES and not any(entry):
            return
        content = _CONTENTS.get(entry[:16])
        start, length = int.from_bytes(entry[16:20], "little"), int.from_bytes(entry[20:24], "little")
        if content is None or not length or start + length > len(data):
            raise EvidenceError("the certificate table has a bad entry", reason="table_entry")
        yield content, start, start + length
    raise EvidenceError("the certificate table does not end", reason="table_entry")


def _require_whole(data: bytes, ranges: list[tuple[int, int]]) -> None:
    """Require that the ranges do not overlap, and that all other bytes are zero."""
    position = 0
    for start, end in sorted(ranges):
        if start < position:
            raise EvidenceError("parts of the certificate table overlap", reason="table_overlap")
        _require_zero(data[position:start])
        position = end
    _require_zero(data[position:])


def _require_zero(gap: bytes) -> None:
    if any(gap):
        raise EvidenceError("the certificate table has bytes without a place", reason="table_padding")
