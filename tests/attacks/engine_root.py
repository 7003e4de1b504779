"""Paths that are none of the machine's: an engine's child has a root of its own, in memory (`private_files`)."""

import re
from pathlib import Path
from typing import Final

#: What it tells the kernel of itself, what it makes in its root, and the graph of a model there.
_OF_A_CHILD: Final = re.compile(r"/proc/self/(oom_score_adj|setgroups|uid_map|gid_map)|proc/self/maps|/[0-9]+/\.graph")


def of_the_machine(path: str) -> bool:
    """Return whether a path that was opened leads to a file of the machine; none of it has those names."""
    if _OF_A_CHILD.fullmatch(path) is None:
        return True
    return path.endswith(".graph") and Path(path).exists()
