"""What the control groups of this process say: its own, and all those that they are in.

A limit of any of them holds, so whoever looks for one takes the least.

Source: Linux, cgroups(7); kernel documentation, Control Group v2, "Memory" and "CPU".
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_OF_PROCESS: Final = Path("proc/self/cgroup")
_CGROUPS: Final = Path("sys/fs/cgroup")


def contents(root: Path, controller: str, names: tuple[str, ...], names_v1: tuple[str, ...]) -> Iterator[list[str]]:
    """Yield the contents of these files in each group that has them all, whoever's it is.

    Args:
        root: where the file system begins.
        controller: its name, for example `memory`.
        names: the files as version 2 names them.
        names_v1: as version 1 does, each in the hierarchy of the controller.
    """
    try:
        lines = os.fsdecode((root / _OF_PROCESS).read_bytes()).split("\n")  # a group's name may be any bytes
    except OSError:
        lines = []
    for line in ("0::/", *lines):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        base = root / _CGROUPS / controller if controllers else root / _CGROUPS
        within = Path(path.lstrip("/"))
        for place in (within, *within.parents):
            try:
                yield [
                    (base / place / name).read_text(encoding="ascii").strip()
                    for name in (names_v1 if controllers else names)
                ]
            except (OSError, ValueError):
                continue
