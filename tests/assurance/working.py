"""What worker processes of a test do. It imports little, because each of them begins by importing it."""

import os
import time
from pathlib import Path

from assurance.figures import Figures, Span


def where(seeds: list[int], _: float) -> Figures:
    """Count in which process seeds are played."""
    return Figures(spans=[Span(start=seeds[0], stop=seeds[-1] + 1)], counts={"process": os.getpid()})


def die(seeds: list[int], deadline: float) -> Figures:
    """End the process at seed 4, as the kernel ends one when memory is short."""
    if 4 in seeds:
        os._exit(9)
    return where(seeds, deadline)


def fail(seeds: list[int], deadline: float) -> Figures:
    """Fail at seed 4 in a way that no campaign expects."""
    if 4 in seeds:
        raise RuntimeError("no such seed")
    return where(seeds, deadline)


def tell_and_wait(told: Path, seeds: list[int], deadline: float) -> Figures:
    """Write down which process this is, and stay at work until the deadline."""
    told.with_suffix(".new").write_text(str(os.getpid()))
    told.with_suffix(".new").rename(told)
    while time.monotonic() < deadline:
        time.sleep(0.05)
    return where(seeds, deadline)
