"""One process whose disk answers one call on the ledger's files with an error: nobody is told a lie."""

import errno
import os
import random
from collections import Counter
from collections.abc import Iterator

from assurance.campaign import Campaign, Target, each_seed
from assurance.campaigns.crash_points import CLOSED_EACH, COVERS
from assurance.faults.examine import answered, unanswered
from assurance.faults.points import Outcome, play_points, points_of
from assurance.faults.process import Part, require_strace
from assurance.faults.segments import LIFE, PARTS, STEPS, folder, start_of
from assurance.figures import Figures, of_seed

_ERRORS = ("EIO", "ENOSPC")
_RIGHT = "StorageError"


def _outcomes(seed: int) -> Iterator[Outcome]:
    """Fail at every call of a segment with one of the errors, once or from there on."""
    require_strace()
    chance = random.Random(seed)
    number, error = seed // len(_ERRORS), _ERRORS[seed % len(_ERRORS)]
    with folder() as where:
        start = start_of(number, where)
        for point in points_of(start, where / "run", closing=number % CLOSED_EACH == 0, answers=False):
            onwards = chance.random() < 0.5
            yield from play_points(start, where / "run", [point], f"error={error}", onwards=onwards)


def _wrong(outcome: Outcome) -> list[str]:
    """Return what this process did wrong, beside what is wrong with its ledger."""
    told = outcome.ended.told
    wrong = list(outcome.finding.wrong)
    failed_at = next((place for place, one in enumerate(told) if one.refused.startswith(_RIGHT)), None)
    if failed_at is not None:
        later = [one for one in told[failed_at:] if one.granted or one.entry is not None]
        wrong += [f"{one.what} was answered after a failed commit of this process" for one in later]
    if outcome.ended.code != 0:
        wrong.append(f"the process ended with {outcome.ended.code} instead of an error to whoever waits")
    silent = [one for one in told if one.begins is not None and not _has_end(outcome, one.number)]
    wrong += [f"{one.what} got neither an answer nor an error" for one in silent]
    return wrong


def _has_end(outcome: Outcome, number: int) -> bool:
    return any(one.number == number and one.begins is None for one in outcome.ended.told)


def _line(outcome: Outcome) -> str:
    told, fault = outcome.ended.told, outcome.fault
    state = "; ".join(_wrong(outcome)) or "sound"
    span = "from there on" if fault.onwards else "once"
    return (
        f"{outcome.point.words()}: {fault.what} {span}; {len(answered(told))} acts answered, {len(unanswered(told))} "
        "told "
        f"of the failure: {state}"
    )


def _figures(seed: int) -> Figures:
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for outcome in _outcomes(seed):
        told = outcome.ended.told
        if not any("INJECTED" in line for line in outcome.ended.calls):
            counts["not reached"] += 1
            continue
        counts["errors"] += 1
        counts[outcome.fault.what.removeprefix("error=")] += 1
        counts["for good"] += outcome.fault.onwards
        counts["acts answered"] += len(answered(told))
        counts["acts refused"] += len(unanswered(told))
        surfaced = outcome.point.part is Part.SERVING and bool(unanswered(told))
        counts["surfaced"] += surfaced
        counts["harmless"] += outcome.point.part is Part.SERVING and not surfaced
        wrong += [f"{outcome.point.words()}, {outcome.fault.what}: {problem}" for problem in _wrong(outcome)]
    return of_seed(seed, counts=dict(counts), violation="; ".join(wrong[:3]) or None)


def _figure(figures: Figures) -> str:
    count = figures.count
    return (
        f"{count('errors'):,} errors ({', '.join(f'{count(name):,} {name}' for name in _ERRORS)}; "
        f"{count('for good'):,} "
        f"lasted) in {figures.seeds():,} segments of lives: {count('acts answered'):,} acts answered, none lost; "
        f"{count('acts refused'):,} told of the failure, none of them twice in the ledger when repeated after the "
        "restart; "
        f"{count('surfaced'):,} errors surfaced while serving, {count('harmless'):,} needed not; "
        f"{len(figures.violations)} segments with a contradiction"
    )


CAMPAIGN = Campaign(
    name="disk-errors",
    claim="A disk that fails at any call ends the grants of that process, loses nothing that was answered, and once "
    "mended serves again.",
    counts=f"processes as in crash-points ({STEPS} steps of a life of {LIFE}), each with one call on the ledger's "
    "files "
    f"answered by {' or '.join(f'{name} ({os.strerror(getattr(errno, name))})' for name in _ERRORS)}, once or from "
    "there on. Whoever waits is told of a StorageError or has its answer; after the first "
    "StorageError of a process nothing more is answered by it; the process does not end by itself in another way. Then "
    "production code opens the files on the mended disk and everything holds that crash-points looks at. One seed is "
    f"one error in one of {PARTS} segments of a life.",
    target=Target(10_000, "errors"),
    shows_not="short writes, reads that fail, wrong data returned by a disk, PostgreSQL's disk; what the HTTP server "
    "says (503) is tested elsewhere. After an error of fsync the kernel may have dropped what it could not write, "
    "which "
    "a simulated error does not do: power-fail drops it.",
    covers=(*COVERS, "assurance/campaigns/crash_points.py", "assurance/campaigns/disk_errors.py"),
    run=each_seed(_figures),
    replay=lambda seed: "\n".join(map(_line, _outcomes(seed))),
    figure=_figure,
    quick=1,
    steady=False,
)
