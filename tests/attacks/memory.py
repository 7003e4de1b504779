"""The memory of processes, from outside: how much they hold, and what lies in it."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_PIECE_BYTES: Final = 8 << 20
#: Pieces overlap by so much, so that nothing that is no longer than this is missed where two of them meet.
_OVERLAP_BYTES: Final = 64


def _kib(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [one for one in lines if one.startswith(f"{name}:")]
    return int(line.split()[1])


def resident_mib(*pids: int) -> float:
    """Return how much memory processes hold now, together."""
    return sum(_kib(pid, "VmRSS") for pid in pids) / 1024


def peak_mib(pid: int) -> float:
    """Return the most memory that a process has held since `forget_peak`."""
    return _kib(pid, "VmHWM") / 1024


def forget_peak(pid: int) -> None:
    """Begin to measure the peak anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _mapped(pid: int, *, files: bool) -> Iterator[tuple[int, int]]:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        where, rights, *rest = line.split()
        own = "w" in rights or rest[2] == "0"
        if rights.startswith("r") and "[v" not in line and (own or files):
            first, last = (int(end, 16) for end in where.split("-"))
            yield first, last


def memory_of(pid: int, *, files: bool = True) -> Iterator[bytes]:
    """Yield what a process has in its memory, in pieces; without `files` only what no file that it maps has, too.

    The process is not stopped meanwhile.

    Raises:
        PermissionError: this user may not look: the process has forbidden it, and only root may anyway.
    """
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for first, last in _mapped(pid, files=files):
            for start in range(first, last, _PIECE_BYTES):
                with suppress(OSError, OverflowError):  # unmapped meanwhile
                    memory.seek(start)
                    yield memory.read(min(_PIECE_BYTES + _OVERLAP_BYTES, last - start))


def lying_in(pid: int, *wanted: bytes) -> set[bytes]:
    """Return which of these bytes lie anywhere in the memory of a process."""
    left = set(wanted)
    for piece in memory_of(pid):
        left -= {one for one in left if one in piece}
        if not left:
            break
    return set(wanted) - left
