"""What the C library keeps of memory that was let go of, and what is done so that it keeps little.

Making a session takes up to a model more than it holds at its end, in pieces; and of what was unloaded the pieces stay.
The GNU C library gives back what lies at the end of a heap, and with `malloc_trim` whole pages in between. But not of
memory that is locked: the kernel refuses the call by which it does (`madvise`). There all but small pieces are mapped
one by one while a model is loaded, and so given back one by one, then or when it is unloaded.

Other C libraries do neither.

Sources: Linux man pages mallopt(3), malloc_trim(3), madvise(2) (MADV_DONTNEED, EINVAL).
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_libc: Final = ctypes.CDLL(None)
# Parameters of mallopt, from malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
#: While a model is loaded.
_PIECES_BYTES: Final = 64 << 10
#: Otherwise. The library raises its threshold by itself to as much, but not once it was set.
_USUAL_BYTES: Final = 32 << 20


def share(workers: int) -> None:
    """Have spare threads share the heaps of the others: each of its own would be 64 MiB of what bounds the child."""
    _set(_M_ARENA_MAX, workers + 1)


def trim() -> None:
    """Give back what is not used: of a load that is half a model, for ever, otherwise."""
    malloc_trim = getattr(_libc, "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(ctypes.c_size_t(0))


@contextmanager
def in_pieces(*, locked: bool) -> Iterator[None]:
    """Map what is taken within this block one by one, where memory is locked."""
    if not locked:
        yield
        return
    _set(_M_MMAP_THRESHOLD, _PIECES_BYTES)
    try:
        yield
    finally:
        _set(_M_MMAP_THRESHOLD, _USUAL_BYTES)
        _set(_M_TRIM_THRESHOLD, 2 * _USUAL_BYTES)  # as the library does


def _set(parameter: int, value: int) -> None:
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(parameter, value)
