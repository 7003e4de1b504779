"""How many runs the engine computes at once: by default, as many as this process has cores for.

A run uses one core, unless whoever runs the enclave gives it several threads. More runs at once than cores make none of
them faster, and each takes memory for what the model computes, and a heap of the C library's: both count against the
engine's bound.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from aigovtool.enclave.control_groups import contents
from aigovtool.enclave.engines.lanes import STACK_BYTES, threads
from aigovtool.limits import MAX_RUNS_AT_ONCE

#: As few as they are chosen by themselves: a long run then never keeps the only turn from all others.
LEAST_RUNS: Final = 2
#: What the engine is to have for each that is chosen by itself: ten times what the heap of a thread reserves.
_BYTES_OF_RUN: Final = 640 << 20
#: The stacks of the models' own threads that do not count against the engine's bound; what is more does.
_MOST_OWN_STACKS: Final = 1 << 30
#: `cpu.max` and its like: microseconds of a period; `max` and -1, which mean no bound, are no such number.
_TIME_RE: Final = re.compile(r"[1-9][0-9]{0,14}")


def runs_at_once(engine_bytes: int) -> int:
    """Return how many runs an engine with so much memory computes at once on this machine."""
    return max(LEAST_RUNS, min(usable_cores(), engine_bytes // _BYTES_OF_RUN, MAX_RUNS_AT_ONCE))


def stack_bytes(runs: int, run_threads: int, models: int) -> int:
    """Return what the stacks of so many runs take that come on top of the engine's bound.

    They are addresses that are hardly used; what else runs take is to keep within the bound. Each model has threads of
    its own, which all of its runs share, beside those that begin them.
    """
    beginning = STACK_BYTES * max(0, threads(runs) - threads(LEAST_RUNS))
    return beginning + min(STACK_BYTES * models * (run_threads - 1), _MOST_OWN_STACKS)


def usable_cores() -> int:
    """Return how many cores this process may use: those it is bound to, and what its control groups leave of them."""
    return max(1, min([len(os.sched_getaffinity(0)), *allowed_cores()]))


def allowed_cores(root: Path = Path("/")) -> Iterator[int]:
    """Yield what each control group of this process allows, in whole cores, a part of one counted as one."""
    for quota in contents(root, "cpu", ("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        times = " ".join(quota).split()
        if len(times) == len(("quota", "period")) and all(map(_TIME_RE.fullmatch, times)):
            used_us, period_us = map(int, times)
            yield -(-used_us // period_us)
