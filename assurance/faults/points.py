"""Every point of a segment at which it can be made to fail: one for each call that a run without faults makes."""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from assurance.faults.examine import Finding, examine
from assurance.faults.process import _LEDGER, ANSWERS, Ended, Fault, Part, Watch, called, words
from assurance.faults.segments import Start


@dataclass(frozen=True)
class Point:
    """One call, and what strace showed of it."""

    part: Part
    watch: Watch
    call: str
    number: int
    seen: str

    def words(self) -> str:
        """Say where it is."""
        return f"{self.part}: {self.call} number {self.number} ({self.seen})"


def points_of(start: Start, directory: Path, *, closing: bool, answers: bool) -> list[Point]:
    """Return all points of opening and serving, and on demand of closing, and between COMMIT and each answer."""
    runs = [(part, _LEDGER) for part in Part if closing or part is not Part.CLOSING]
    runs += [(Part.SERVING, ANSWERS)] if answers else []
    found = []
    for part, watch in runs:
        ended = start.segment.run(directory, part, watch=watch)
        shutil.rmtree(directory)
        if ended.code != 0:
            raise RuntimeError(f"a run without faults ended with {ended.code}")
        numbers: Counter[str] = Counter()
        for line in ended.calls:
            (call,) = called(Ended([], killed=False, code=0, calls=[line])) or [""]
            if call:
                numbers[call] += 1
                found.append(Point(part, watch, call, numbers[call], words(line)))
    return found


@dataclass(frozen=True)
class Outcome:
    """What became of one run that was made to fail."""

    point: Point
    fault: Fault
    ended: Ended
    finding: Finding


def play_points(start: Start, directory: Path, points: list[Point], what: str, *, onwards: bool) -> Iterator[Outcome]:
    """Fail at one point after the other, and examine what is left."""
    for point in points:
        fault = Fault(point.call, point.number, what, onwards)
        ended = start.segment.run(directory, point.part, fault, watch=point.watch)
        finding = examine(start.segment.life, directory, ended.told, start.leases)
        shutil.rmtree(directory)
        yield Outcome(point, fault, ended, finding)
