"""What was let go of is given back, locked or not; each in a process of its own, since heaps are the process's."""

import subprocess
import sys
from typing import Final

import pytest

PROBE: Final = """
import ctypes, re, sys
from pathlib import Path
from aigovtool.enclave.engines import heaps

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
locked, in_pieces = (word == "yes" for word in sys.argv[1:])
assert not locked or libc.mlockall(1 | 2 | 4) == 0
libc.free(libc.malloc(30 << 20))  # a large model was there before: from now on pieces lie in the heap

def own_mib():
    return int(re.search(r"RssAnon:[^0-9]*([0-9]+)", Path("/proc/self/status").read_text())[1]) >> 10

def pieces():
    before, taken = own_mib(), []
    for _ in range(640):
        taken.append(libc.malloc(100_000))
        ctypes.memset(taken[-1], 1, 100_000)
    libc.malloc(100_000)  # and kept: what lies at the end of a heap is given back in any case
    for piece in taken:
        libc.free(piece)
    heaps.trim()
    return own_mib() - before

with heaps.in_pieces(locked=in_pieces):
    inside = pieces()
print(inside < 20, pieces() < 20)
"""


def kept(*, locked: bool, in_pieces: bool) -> list[str]:
    """Return whether little was kept of what was taken within the block, and after it."""
    words = ["yes" if word else "no" for word in (locked, in_pieces)]
    run = subprocess.run(
        [sys.executable, "-I", "-c", PROBE, *words], capture_output=True, text=True, check=False, timeout=60
    )
    assert not run.returncode, run.stderr
    return run.stdout.split()


@pytest.mark.parametrize("in_pieces", [True, False])
def test_what_is_not_locked_is_given_back(*, in_pieces: bool) -> None:
    """The library does so when it is asked."""
    assert kept(locked=False, in_pieces=in_pieces) == ["True", "True"]


@pytest.mark.needs("root")
def test_what_is_locked_is_given_back_in_pieces() -> None:
    """And only so: without that the kernel refuses it. Afterwards heaps are as they were, since mapping takes time."""
    assert kept(locked=True, in_pieces=True) == ["True", "False"]
    assert kept(locked=True, in_pieces=False)[0] == "False"
