"""What worker processes of a test do. It imports little, because each of them begins by importing it."""

import os

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
