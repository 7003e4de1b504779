"""Processes that a benchmark looks at from outside."""

from pathlib import Path


def family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    children = [int(one) for file in Path(f"/proc/{pid}/task").glob("*/children") for one in file.read_text().split()]
    return [pid, *(later for child in children for later in family(child))]
