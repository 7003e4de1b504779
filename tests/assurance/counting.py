"""A campaign that counts two tries for each seed, and what was counted in it."""

import time
from collections.abc import Iterator

from assurance.campaign import Bound, Campaign, Target
from assurance.figures import Figures, of_seed
from assurance.machine import this_machine
from assurance.state import Record


def counting(seeds: list[int], deadline: float) -> Iterator[Figures]:
    for seed in seeds:
        if time.monotonic() < deadline:
            yield of_seed(seed, counts={"tries": 2}, samples={"wait_s": [seed / 10]})


CAMPAIGN = Campaign(
    name="counting",
    claim="Counting works.",
    counts="tries",
    target=Target(6, "tries", (Bound("wait_s", 50, 0.5),)),
    shows_not="anything else",
    covers=("assurance/figures.py",),
    run=counting,
    replay=str,
    figure=lambda figures: f"{figures.count('tries')} tries",
    quick=3,
)


def record(figures: Figures, digest: str = "d") -> Record:
    return Record(campaign="counting", digest=digest, commit="c", machine=this_machine(), figures=figures)
