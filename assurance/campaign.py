"""What a campaign is: a claim, what is counted, how much is enough, what it does not show, and how to run it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps

from assurance.figures import Figures, percentile
from assurance.table import Table

#: Plays some seeds and yields the figures of each as soon as it has them; stops between two once `deadline` (of
#: `time.monotonic`, which all processes share) has passed.
Run = Callable[[list[int], float], Iterator[Figures]]


def each_seed(figures_of: Callable[[int], Figures]) -> Run:
    """Return the run that plays one seed after another."""

    @wraps(figures_of)  # it belongs to the module of its campaign
    def run(seeds: list[int], deadline: float) -> Iterator[Figures]:
        for seed in seeds:
            if time.monotonic() >= deadline:
                return
            yield figures_of(seed)

    return run


@dataclass(frozen=True)
class Bound:
    """A promise about a sample: this percentile is below this value."""

    sample: str
    percent: float
    below: float
    unit: str = "s"

    def holds(self, figures: Figures) -> bool:
        """Return whether the promise is kept by what was measured."""
        values = figures.sample(self.sample)
        return not values or percentile(values, self.percent) < self.below

    def words(self) -> str:
        """Say it."""
        name = "maximum" if self.percent == 100 else f"p{self.percent:g}"
        return f"{name} of {self.sample.replace('_', ' ')} < {self.below:g} {self.unit}"


@dataclass(frozen=True)
class Target:
    """At least so many of what is counted, no violation, and every bound kept."""

    at_least: int
    counted: str
    bounds: tuple[Bound, ...] = ()

    def words(self) -> str:
        """Say it."""
        number = f"{self.at_least:,} {self.counted}, 0 violations"
        return "; ".join([number, *(bound.words() for bound in self.bounds)])


@dataclass(frozen=True)
class Campaign:
    """One claim and the search for what would break it.

    `covers` are the files and folders under test, with the campaign's own code: their digest owns the figures.
    `quick` is how many seeds the short form plays at most, or 0 where one alone takes too long for it. A `steady`
    campaign gives the same result for the same seed everywhere, so that a seed that failed is kept as a regression
    test. One that is `alone` starts real processes under load: a second worker beside it would disturb what it
    measures. Of all others each worker plays whole batches.
    """

    name: str
    claim: str
    counts: str
    target: Target
    shows_not: str
    covers: tuple[str, ...]
    run: Run
    replay: Callable[[int], str]
    figure: Callable[[Figures], str]
    quick: int
    batch: int = 1
    steady: bool = True
    alone: bool = False
    table: Callable[[Figures], Table] | None = None

    def broken(self, figures: Figures) -> list[str]:
        """Return every promise that is broken, in words."""
        found = [f"seed {one.seed}: {one.what}" for one in figures.violations]
        bounds = [f"not kept: {bound.words()}" for bound in self.target.bounds if not bound.holds(figures)]
        return [*found, *bounds]

    def enough(self, figures: Figures) -> bool:
        """Return whether as much was counted as the target says."""
        return figures.count(self.target.counted) >= self.target.at_least

    def status(self, figures: Figures) -> str:
        """Return "met", "so far" or "BROKEN"."""
        if self.broken(figures):
            return "BROKEN"
        return "met" if self.enough(figures) else "so far"
