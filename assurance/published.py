"""`docs/assurance.json`: what was counted, so that anybody can check the page, and go on counting from it.

Samples are tallied: a value and how often it was seen, to two digits. The least and the greatest stay as they were
measured, so that no bound is kept or broken by rounding.
"""

from collections import Counter
from pathlib import Path
from typing import Final

from msgspec import field

from aigovtool.codec import Message, decode, encode
from assurance.code_digest import ROOT
from assurance.figures import Figures, Found, Span
from assurance.machine import Machine
from assurance.table import Table

JSON_PATH: Final = ROOT / "docs" / "assurance.json"
_MAX_BYTES: Final = 16 << 20
_DIGITS: Final = 2


class Tallied(Message):
    """Figures with each sample as pairs of a value and how often it was seen, in the order of the values."""

    spans: list[Span]
    counts: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    violations: list[Found] = field(default_factory=list)
    seconds: float = 0.0

    def seeds(self) -> int:
        """Return how many seeds were played."""
        return sum(span.stop - span.start for span in self.spans)

    def figures(self) -> Figures:
        """Return them as a campaign goes on from them."""
        samples = {
            name: [value for value, times in pairs for _ in range(times)] for name, pairs in self.samples.items()
        }
        return Figures(
            spans=self.spans, counts=self.counts, samples=samples, violations=self.violations, seconds=self.seconds
        )


class Line(Message):
    """One campaign as it is published. Its digest says of which code; without seeds nothing was counted of any."""

    name: str
    claim: str
    counts: str
    target: str
    figure: str
    status: str
    shows_not: str
    covers: list[str]
    digest: str
    commit: str
    machine: Machine | None
    broken: list[str]
    figures: Tallied
    table: Table | None = None


class Published(Message):
    """The whole page."""

    lines: list[Line] = field(default_factory=list)

    def line(self, campaign: str) -> Line | None:
        """Return what is published of a campaign."""
        return next((line for line in self.lines if line.name == campaign), None)


def tallied(figures: Figures) -> Tallied:
    """Return figures as they are published: without what a developer reads to understand a violation."""
    return Tallied(
        spans=figures.spans,
        counts=figures.counts,
        samples={name: _tally(values) for name, values in figures.samples.items()},
        violations=[Found(seed=one.seed, what=one.what) for one in figures.violations],
        seconds=round(figures.seconds, 1),
    )


def _tally(values: list[float]) -> list[tuple[float, int]]:
    extremes = {min(values, default=0.0), max(values, default=0.0)}
    rounded = (value if value in extremes else float(f"{value:.{_DIGITS}g}") for value in values)
    return sorted(Counter(rounded).items())


def read(path: Path = JSON_PATH) -> Published:
    """Return what was published last; nothing if there is no such file."""
    return decode(path.read_bytes(), Published, max_bytes=_MAX_BYTES) if path.exists() else Published()


def write(published: Published, path: Path = JSON_PATH) -> None:
    """Write the file."""
    path.write_bytes(encode(published) + b"\n")
