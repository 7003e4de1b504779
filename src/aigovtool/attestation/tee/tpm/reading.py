"""A reader of big-endian structures that reads no byte twice and leaves none (TPM 2.0 Library, Part 2, section 4)."""

from typing import Final

from aigovtool.errors import EvidenceError


class Reader:
    """Reads one structure from its first byte to its last.

    Every method raises `EvidenceError` with the reason that the reader was made with.
    """

    def __init__(self, data: bytes, what: str, reason: str) -> None:
        self._data: Final = data
        self._what: Final = what
        self._reason: Final = reason
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes; there must be so many."""
        if not 0 <= size <= len(self._data) - self._at:
            raise self.bad("ends too early")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        """Return the next unsigned integer of `size` bytes, big-endian."""
        return int.from_bytes(self.take(size))

    def sized(self, most: int) -> bytes:
        """Return the content of a TPM2B: a length of two bytes, at most `most`, and so many bytes."""
        size = self.number(2)
        if size > most:
            raise self.bad(f"has a part of {size} bytes; at most {most} are read")
        return self.take(size)

    def end(self) -> None:
        """Require that nothing is left."""
        if self._at != len(self._data):
            raise self.bad(f"has {len(self._data) - self._at} bytes after its end")

    def bad(self, problem: str) -> EvidenceError:
        """Return the error that says what is wrong with the structure."""
        return EvidenceError(f"{self._what} {problem}", reason=self._reason)
