"""A set of 64-bit digests, each with a mark, in a fixed piece of memory: 12 bytes for each that it is made for.

A digest lies in one of two buckets that its own bits choose: in the first, or where that is nearly full, in the emptier
of the two. Buckets are wide and the table is never more than three quarters full, so that practically none finds both
full; what does is kept beside the table. Whoever uses it says which marks are in use: what bears another one is not
there, and `sweep` frees such places little by little. A mark can be used again once all places were swept since
(`lap`).

The memory is asked for with the first digest, and the kernel gives each page when it is written to. One flat piece of
it is also nothing that Python's garbage collector looks at, again and again, as it does at millions of objects.
"""

from collections.abc import Collection
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Final

#: Bytes of a digest: bits drawn evenly that nobody can guess, so that some of them can choose buckets.
DIGEST_BYTES: Final = 8
_SLOTS: Final = 64
_FULL: Final = 0.75
_FREE: Final = 0
#: A bucket whose first free place is here or later is nearly full.
_CROWDED: Final = 48
#: Places that one step of `sweep` looks at.
_STEP: Final = 64 << 10


class IdTable:
    """A table for `most` digests; marks are from 1 to 255."""

    def __init__(self, most: int) -> None:
        self._buckets: Final = max(2, -(-int(most / _FULL) // _SLOTS))
        self._memory: tuple[mmap, mmap] | None = None
        self._beside: Final[dict[bytes, int]] = {}
        self._in_use: Collection[int] = ()
        self._kept: bytes = bytes(256)
        #: Steps of `sweep` so far; and how many of them look at all places.
        self.steps = 0
        self.lap: Final = -(-_SLOTS * self._buckets // _STEP)

    def use(self, marks: Collection[int]) -> None:
        """Say which marks are in use from now on."""
        self._in_use = marks
        self._kept = bytes(mark if mark in marks else _FREE for mark in range(256))
        for digest in [digest for digest, mark in self._beside.items() if mark not in marks]:
            del self._beside[digest]

    def add(self, digest: bytes, mark: int) -> None:
        """Remember a digest; it is found as long as its mark is in use."""
        digests, marks = self._memory or self._begin()
        number = int.from_bytes(digest, "little")
        place = self._first(number)
        free = marks[place : place + _SLOTS].find(_FREE)
        if not 0 <= free < _CROWDED:
            other = self._second(number)
            place, free = max((place, free), (other, marks[other : other + _SLOTS].find(_FREE)), key=_ease)
        if free < 0:
            self._beside[digest] = mark
            return
        slot = place + free
        digests[DIGEST_BYTES * slot : DIGEST_BYTES * (slot + 1)] = digest
        marks[slot] = mark

    def has(self, digest: bytes) -> bool:
        """Return whether a digest is remembered under one of the marks that are in use."""
        if self._memory is None:
            return False
        digests, marks = self._memory
        number = int.from_bytes(digest, "little")
        for place in (self._first(number), self._second(number)):
            bucket = digests[DIGEST_BYTES * place : DIGEST_BYTES * (place + _SLOTS)]
            at = bucket.find(digest)
            while at >= 0:
                if at % DIGEST_BYTES == 0 and marks[place + at // DIGEST_BYTES] in self._in_use:
                    return True
                at = bucket.find(digest, at + 1)
        return digest in self._beside

    def sweep(self) -> None:
        """Free some of the places whose marks are not in use, and the next ones the next time, round and round."""
        if self._memory is not None:
            marks, first = self._memory[1], self.steps % self.lap * _STEP
            piece = marks[first : first + _STEP]
            marks[first : first + len(piece)] = piece.translate(self._kept)
        self.steps += 1

    def clear(self) -> None:
        """Forget everything, and give the memory back."""
        for memory in self._memory or ():
            memory.close()
        self._memory = None
        self._beside.clear()

    def _begin(self) -> tuple[mmap, mmap]:
        slots, kind = _SLOTS * self._buckets, MAP_PRIVATE | MAP_ANONYMOUS
        self._memory = mmap(-1, DIGEST_BYTES * slots, flags=kind), mmap(-1, slots, flags=kind)
        return self._memory

    def _first(self, number: int) -> int:
        """Return where the first bucket of a digest begins."""
        return number % self._buckets * _SLOTS

    def _second(self, number: int) -> int:
        return (number >> 32) % self._buckets * _SLOTS


def _ease(found: tuple[int, int]) -> int:
    """Return how early a bucket has a free place: the earlier, the emptier; none is the least."""
    free = found[1]
    return -1 if free < 0 else _SLOTS - free
