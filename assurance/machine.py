"""The machine that a figure was made on, in the words that a reader needs to judge a time."""

import os
import platform
from pathlib import Path

from aigovtool.codec import Message

_MEMORY = Path("/dev/shm")  # noqa: S108 - folders of their own are made in it


class Machine(Message):
    """Cores, memory, kernel and Python, and how busy the machine was (one-minute load) at the end of a run."""

    cores: int
    ram_gib: int
    kernel: str
    python: str
    load: float

    def words(self) -> str:
        """Say it in one line."""
        return (
            f"{self.cores} cores, {self.ram_gib} GiB, Linux {self.kernel}, Python {self.python}; "
            f"load {self.load:.1f} at the end"
        )


def this_machine() -> Machine:
    """Return what can be said about this machine now."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        ram_gib=round(pages * size / 2**30),
        kernel=platform.release(),
        python=platform.python_version(),
        load=load(),
    )


def load() -> float:
    """Return the one-minute load average."""
    return float(Path("/proc/loadavg").read_text(encoding="ascii").split()[0])


def in_memory() -> Path | None:
    """Return where files lie in memory, if there is such a place: for what needs no disk."""
    return _MEMORY if _MEMORY.is_dir() else None
