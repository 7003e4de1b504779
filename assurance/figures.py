"""What a campaign has counted: sums, samples and violations, for a set of seeds. Two of them add up."""

import math
from collections.abc import Iterable

from msgspec import field

from aigovtool.codec import Message


class Span(Message):
    """Seeds from `start` up to, and without, `stop`."""

    start: int
    stop: int


class Found(Message):
    """A broken promise, and the seed that shows it again.

    `why` is what a developer reads to understand it, of many lines: it is kept and printed, and not published.
    """

    seed: int
    what: str
    why: str = ""


class Figures(Message):
    """Partial or accumulated results. `spans` never overlap, so that no seed counts twice."""

    spans: list[Span]
    counts: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    violations: list[Found] = field(default_factory=list)
    seconds: float = 0.0

    def seeds(self) -> int:
        """Return how many seeds were played."""
        return sum(span.stop - span.start for span in self.spans)

    def count(self, name: str) -> int:
        """Return a sum; what never happened is 0."""
        return self.counts.get(name, 0)

    def sample(self, name: str) -> list[float]:
        """Return all values of a sample."""
        return self.samples.get(name, [])

    def plus(self, other: "Figures") -> "Figures":
        """Return the sum.

        Raises:
            ValueError: when a seed would count twice.
        """
        counts = {name: self.count(name) + other.count(name) for name in {*self.counts, *other.counts}}
        samples = {name: [*self.sample(name), *other.sample(name)] for name in {*self.samples, *other.samples}}
        return Figures(
            spans=union([*self.spans, *other.spans]),
            counts=dict(sorted(counts.items())),
            samples=dict(sorted(samples.items())),
            violations=[*self.violations, *other.violations],
            seconds=self.seconds + other.seconds,
        )


NOTHING = Figures(spans=[])


def of_seed(
    seed: int,
    *,
    counts: dict[str, int] | None = None,
    samples: dict[str, list[float]] | None = None,
    violation: str | None = None,
    why: str = "",
) -> Figures:
    """Return the figures of one seed."""
    return Figures(
        spans=[Span(start=seed, stop=seed + 1)],
        counts=counts or {},
        samples=samples or {},
        violations=[] if violation is None else [Found(seed=seed, what=violation, why=why)],
    )


def union(spans: Iterable[Span]) -> list[Span]:
    """Join spans that touch.

    Raises:
        ValueError: when two overlap.
    """
    joined: list[Span] = []
    for span in sorted(spans, key=lambda one: one.start):
        if joined and span.start < joined[-1].stop:
            raise ValueError(f"seed {span.start} would count twice")
        if joined and span.start == joined[-1].stop:
            joined[-1] = Span(start=joined[-1].start, stop=span.stop)
        else:
            joined.append(span)
    return joined


def next_seeds(done: list[Span], number: int) -> list[int]:
    """Return the `number` lowest seeds that were not played yet."""
    found: list[int] = []
    seed = 0
    for span in [*union(done), None]:
        stop = seed + number if span is None else span.start
        found.extend(range(seed, min(stop, seed + number - len(found))))
        if span is None or len(found) >= number:
            break
        seed = span.stop
    return found[:number]


def percentile(values: list[float], percent: float) -> float:
    """Return the nearest-rank percentile: the least value that `percent` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
