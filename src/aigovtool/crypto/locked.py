"""Memory for keys: it is never written to swap or to a core file, and is empty in a process that was forked.

Pages are locked (mlock), left out of dumps (MADV_DONTDUMP) and given to children as zeros (MADV_WIPEONFORK). These are
few, so that the usual limit (RLIMIT_MEMLOCK) allows them where all memory of a process (`memory.lock`) is too much, as
in an engine that has given up its capabilities. Where not even these may be locked, they are given all the same.

It holds what this program keeps of a key. Libraries copy keys while they use them, and TLS keeps one of its own.

Sources: Linux man pages mlock(2), madvise(2), getrandom(2), getrlimit(2).
"""

import ctypes
import mmap
import os
import sys
import threading
from typing import Final

#: A key has a few dozen bytes: many share a block, and a process locks few blocks.
_BLOCK_BYTES: Final = 16 << 10
_PIECE_BYTES: Final = 64
#: MADV_DONTDUMP and MADV_WIPEONFORK of Linux; Python's `mmap` does not name the second.
_ADVICE: Final = (16, 18) if sys.platform == "linux" else ()

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Block:
    """Pages that hold nothing but what is taken of them here."""

    def __init__(self, size: int) -> None:
        self.pages: Final = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.used = 0
        place, length = ctypes.c_void_p(_address(self.pages)), ctypes.c_size_t(size)
        for advice in _ADVICE:
            _libc.madvise(place, length, ctypes.c_int(advice))
        _libc.mlock(place, length)

    def take(self, size: int) -> memoryview:
        self.used += size
        return memoryview(self.pages)[self.used - size : self.used]


class _Arena:
    def __init__(self, most: int) -> None:
        self._most: Final = most
        # A collection of garbage gives pieces back, and may come in the middle of `take`.
        self._lock: Final = threading.RLock()
        self._free: Final[dict[int, list[memoryview]]] = {}
        self._block: _Block | None = None

    def take(self, size: int) -> memoryview:
        """Return memory of at least this size, all zeros; `give_back` it as it is, with no other view of it left."""
        whole = max(1, -(-size // _PIECE_BYTES)) * _PIECE_BYTES
        if whole > self._most:
            return _Block(whole).take(whole)
        with self._lock:
            if free := self._free.get(whole):
                return free.pop()
            if self._block is None or self._block.used + whole > self._most:
                self._block = _Block(self._most)
            return self._block.take(whole)

    def give_back(self, piece: memoryview) -> None:
        """Overwrite with zeros what `take` has returned, and keep it for the next."""
        # No name of this module is used: it may be the interpreter's last act.
        piece[:] = bytes(len(piece))
        if len(piece) <= self._most:  # a larger one has pages of its own, which end with it
            with self._lock:
                self._free.setdefault(len(piece), []).append(piece)


_ARENA: Final = _Arena(_BLOCK_BYTES)
take: Final = _ARENA.take
give_back: Final = _ARENA.give_back


def fill_randomly(piece: memoryview) -> None:
    """Fill memory from the operating system's randomness, without a copy elsewhere where that is possible."""
    if not piece:
        return
    size, getrandom = len(piece), getattr(_libc, "getrandom", None)
    if getrandom is None or getrandom(ctypes.c_void_p(_address(piece)), ctypes.c_size_t(size), 0) != size:
        piece[:] = os.urandom(size)


def _address(memory: mmap.mmap | memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
