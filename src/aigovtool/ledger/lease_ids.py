"""Identifiers of leases, many millions of them, in 24 to 48 bytes each.

Whoever replays a log must know for ever which identifiers were used, and nothing else of a lease that is over. A set of
strings would take ten times as much. This is a hash table with open addressing in one block of memory. Where an
identifier stands depends on Python's keyed hash of it, so that whoever wrote a log cannot make all of them collide.
"""

from typing import Final

from aigovtool.ids import LeaseId

_WIDTH: Final = 16
_EMPTY: Final = bytes(_WIDTH)
_FIRST_SLOTS: Final = 64


class LeaseIds:
    """A set that only grows."""

    __slots__ = ("_count", "_has_zero", "_mask", "_table")

    def __init__(self) -> None:
        self._mask = _FIRST_SLOTS - 1
        self._table = bytearray(_WIDTH * _FIRST_SLOTS)
        self._count = 0
        self._has_zero = False  # the one identifier that looks like an empty slot

    def __len__(self) -> int:
        return self._count + self._has_zero

    def __contains__(self, lease_id: LeaseId) -> bool:
        raw = bytes.fromhex(lease_id)
        if raw == _EMPTY:
            return self._has_zero
        at = self._place(raw)
        return self._table[at : at + _WIDTH] == raw

    def add(self, lease_id: LeaseId) -> None:
        """Add an identifier, which may be there already."""
        raw = bytes.fromhex(lease_id)
        if raw == _EMPTY:
            self._has_zero = True
            return
        at = self._place(raw)
        if self._table[at : at + _WIDTH] == raw:
            return
        self._table[at : at + _WIDTH] = raw
        self._count += 1
        if 3 * self._count > 2 * (self._mask + 1):
            self._grow()

    def _place(self, raw: bytes) -> int:
        """Return the offset of the slot that holds `raw`, or of the empty one where it belongs."""
        table, mask = self._table, self._mask
        slot = hash(raw) & mask
        while (found := table[_WIDTH * slot : _WIDTH * slot + _WIDTH]) != raw and found != _EMPTY:
            slot = (slot + 1) & mask
        return _WIDTH * slot

    def _grow(self) -> None:
        before = self._table
        self._mask = 2 * (self._mask + 1) - 1
        self._table = bytearray(_WIDTH * (self._mask + 1))
        for offset in range(0, len(before), _WIDTH):
            raw = bytes(before[offset : offset + _WIDTH])
            if raw != _EMPTY:
                at = self._place(raw)
                self._table[at : at + _WIDTH] = raw
