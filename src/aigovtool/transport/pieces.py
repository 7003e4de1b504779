"""What has come of something in pieces, kept until it is whole."""

from typing import Final

#: Smaller ones are put together as they come: kept apart, those of one byte each would take 50 times their size.
_SMALL_BYTES: Final = 4 << 10


class Pieces:
    """Pieces, put together once."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: Final[list[bytes | bytearray]] = []

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self._pieces)

    def add(self, piece: bytes) -> None:
        """Keep the next one."""
        pieces = self._pieces
        if not piece:
            return
        if len(piece) >= _SMALL_BYTES or not pieces:
            pieces.append(piece)
        elif isinstance(pieces[-1], bytearray):
            pieces[-1] += piece
        else:
            pieces.append(bytearray(piece))

    def joined(self) -> bytes:
        """Return all of them as one, which is kept in their place; a single one is not copied."""
        if len(self._pieces) != 1 or not isinstance(self._pieces[0], bytes):
            self._pieces[:] = [b"".join(self._pieces)]
        return bytes(self._pieces[0])

    def clear(self) -> None:
        """Keep none."""
        self._pieces.clear()
