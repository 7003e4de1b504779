"""How many runs the engine computes at once: by default, as many as this process has cores for.

A run uses one core, or as many as it is given threads. More runs at once than cores make none of them faster, and each
takes memory of its own: for what is reserved for it, and for what the model computes with.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aigovtool.enclave.control_groups import said
from aigovtool.limits import MAX_ENGINE_THREADS

#: As few as they may be chosen by themselves: a long run then never keeps a core from all others.
LEAST_RUNS: Final = 2
#: What one more of them reserves of addresses: a heap of the C library's (64 MiB) and the stacks of two threads.
_RUN_BYTES: Final = 80 << 20
#: So many times as much is to be the engine's, or what is reserved would be a large part of what bounds its memory.
_ROOM: Final = 8
#: `cpu.max` and its like: microseconds of a period; `max` and -1, which mean no bound, are no such number.
_TIME_RE: Final = re.compile(r"[1-9][0-9]{0,14}")


@dataclass(frozen=True, slots=True)
class Computing:
    """How the engine computes: runs at once, and the threads of each."""

    runs_at_once: int = LEAST_RUNS
    threads_per_run: int = 1

    @property
    def reserved_bytes(self) -> int:
        """Addresses that runs beyond the first two, and threads beyond the first, reserve without using them."""
        return _RUN_BYTES * (max(0, self.runs_at_once - LEAST_RUNS) + self.threads_per_run - 1)


def computing(engine_bytes: int, runs_at_once: int | None = None, threads_per_run: int = 1) -> Computing:
    """Return how an engine with so much memory computes on this machine.

    Args:
        engine_bytes: the bound of the engine's memory.
        runs_at_once: 1 to `MAX_ENGINE_THREADS`, where whoever runs the enclave says so; None for as many as fit.
        threads_per_run: 1 to `MAX_ENGINE_THREADS`.
    """
    if runs_at_once is None:
        fit = min(usable_cores() // threads_per_run, engine_bytes // (_ROOM * _RUN_BYTES), MAX_ENGINE_THREADS)
        runs_at_once = max(LEAST_RUNS, fit)
    return Computing(runs_at_once, threads_per_run)


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use: those it is bound to, and what its control groups leave of them."""
    return max(1, min([len(os.sched_getaffinity(0)), *_allowed(root)]))


def _allowed(root: Path) -> Iterator[int]:
    """Yield what the control groups of this process allow, in whole cores, a part of one counted as one."""
    for quota in said(root, "cpu", ("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        times = " ".join(quota).split()
        if len(times) == len(("quota", "period")) and all(map(_TIME_RE.fullmatch, times)):
            used_us, period_us = map(int, times)
            yield -(-used_us // period_us)
