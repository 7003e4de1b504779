"""What processes hold that no disk has: their own pages, and files in memory. They are looked at from outside.

Pages of files on a disk are not counted: the kernel drops them when others need the room. Files in memory count even
where they are not mapped, once, whoever holds them.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

#: Where a descriptor of a file in memory leads (memfd_create(2), shm_open(3)).
_FILES: Final = ("/memfd:", "/dev/shm/")  # noqa: S108 - it is read where they lie, nothing is put there


def held_bytes(pids: Sequence[int]) -> int:
    """Return what some processes hold together.

    Raises:
        OSError: one of them is gone.
    """
    own = mapped = roots = 0
    files: dict[tuple[int, int], int] = {}
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        own += _kib(status, "RssAnon:")
        files.update(_files(pid))
        root = _root(pid)
        if root is None:
            mapped += _kib(status, "RssShmem:")
        else:  # what it has mapped of that, as often as it likes, is there once
            roots += root
    return (own << 10) + roots + max(mapped << 10, sum(files.values()))


def _kib(status: str, name: str) -> int:
    _, there, rest = status.partition(name)
    if not there:  # of a process that has ended and was not waited for
        raise ProcessLookupError
    return int(rest.split(maxsplit=1)[0])


def _files(pid: int) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield files in memory, by what they are known by, and their sizes; none where that is not ours to see."""
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            if str(descriptor.readlink()).startswith(_FILES):
                found = descriptor.stat()
                yield (found.st_dev, found.st_ino), found.st_blocks * 512
    except (PermissionError, FileNotFoundError):  # another user's; or closed meanwhile
        return


def _root(pid: int) -> int | None:
    """Return what lies in the file system in memory that is the root of a process, where it has one of its own."""
    root = Path(f"/proc/{pid}/root")
    try:
        device = root.stat().st_dev
        if device != Path("/").stat().st_dev:  # mounted nowhere, so no list says of what kind it is
            found = os.statvfs(root)
            return (found.f_blocks - found.f_bfree) * found.f_frsize
    except PermissionError:  # another user's; root alone sees that of an engine
        pass
    return None


@contextmanager
def watched(pids: Sequence[int], every_s: float) -> Iterator[list[int]]:
    """Look at what some processes hold while the block runs; the list grows with what was seen, in bytes.

    It has what they held before the block as its first, and ends when one of them is gone.
    """
    seen = [held_bytes(pids)]
    over = threading.Event()

    def look() -> None:
        while not over.wait(every_s):
            try:
                seen.append(held_bytes(pids))
            except OSError:  # whoever waits for the process hears of it
                return

    thread = threading.Thread(target=look, name="memory", daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
