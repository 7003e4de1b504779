"""One process, killed at every single call that changes its ledger's files: what it had answered is there."""

from collections import Counter
from collections.abc import Iterator

from assurance.campaign import Campaign, Target, each_seed
from assurance.faults.points import Outcome, play_points, points_of
from assurance.faults.process import require_strace
from assurance.faults.segments import LIFE, PARTS, STEPS, folder, start_of
from assurance.figures import Figures, of_seed

#: The ledger is closed in order at the end of each third segment only: that writes the same pages as a checkpoint.
CLOSED_EACH = 3
#: What a life goes through: not the HTTP surface, nor what is asked of vendors and TPMs. How a package is sealed, and
#: the evidence that a life's enclaves are admitted on, are the same in each, and change nothing in a ledger.
_PLAYED = (
    *("app.py", "clock.py", "custodian.py", "hub.py", "keys.py", "refusals.py", "senders.py", "service", "store"),
    *("timekeeping.py", "witness_keys.py"),
)
COVERS = (
    "src/aigovtool/codec.py",
    "src/aigovtool/crypto",
    *(f"src/aigovtool/custodian/{name}" for name in _PLAYED),
    "src/aigovtool/errors.py",
    "src/aigovtool/ids.py",
    "src/aigovtool/ledger",
    "src/aigovtool/protocol",
    "tests/custodian/conftest.py",
    "tests/custodian/host_clock.py",
    "assurance/faults",
)


def _outcomes(seed: int) -> Iterator[Outcome]:
    require_strace()
    with folder() as where:
        start = start_of(seed, where)
        points = points_of(start, where / "run", closing=seed % CLOSED_EACH == 0, answers=True)
        yield from play_points(start, where / "run", points, "signal=SIGKILL", onwards=False)


def _line(outcome: Outcome) -> str:
    finding, told = outcome.finding, outcome.ended.told
    state = "; ".join(finding.wrong) or "sound"
    end = "killed" if outcome.ended.killed else "not reached"
    return (
        f"{outcome.point.words()}: {end} after {len(told)} lines; {finding.repeated} acts repeated, {finding.happened} "
        f"of which had happened: {state}"
    )


def _figures(seed: int) -> Figures:
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for outcome in _outcomes(seed):
        if not outcome.ended.killed:  # the other random identifiers of this run made one call fewer
            counts["not reached"] += 1
            continue
        counts["points"] += 1
        counts[f"points of {outcome.point.part}"] += 1
        counts[f"points at {outcome.point.call}"] += 1
        counts["acts answered"] += sum(one.begins is None for one in outcome.ended.told)
        counts["acts repeated"] += outcome.finding.repeated
        counts["happened unanswered"] += outcome.finding.happened
        wrong += [f"{outcome.point.words()}: {problem}" for problem in outcome.finding.wrong]
    return of_seed(seed, counts=dict(counts), violation="; ".join(wrong[:3]) or None)


def _figure(figures: Figures) -> str:
    count = figures.count
    kinds = sorted((name for name in figures.counts if name.startswith("points at ")), key=count, reverse=True)
    calls = ", ".join(f"{count(name):,} at {name.removeprefix('points at ')}" for name in kinds)
    return (
        f"{count('points'):,} crash points in {figures.seeds():,} segments of lives ({calls}; "
        f"{count('points of closing'):,} "
        f"while the ledger was closed): {count('acts answered'):,} acts answered before a crash, none lost; "
        f"{count('acts repeated'):,} unanswered ones repeated, {count('happened unanswered'):,} of which had been "
        f"granted, none twice; {len(figures.violations)} segments with a contradiction"
    )


CAMPAIGN = Campaign(
    name="crash-points",
    claim="Killed at any call that changes the ledger's files, a custodian has kept everything that it had answered, "
    "and grants nothing twice.",
    counts=f"processes that live {STEPS} steps (each of one to four transactions) of a life of {LIFE}, with grants, "
    "reports, "
    "closes, expiry, stops, limits and write-offs of three enclaves on rows of all levels, and are killed with SIGKILL "
    "as they enter one pwrite64, fdatasync, ftruncate or unlink of the ledger's files, or between COMMIT and an "
    "answer: "
    "one process for each call. Then production code opens the files: each acknowledged lease, report, command and "
    "checkpoint is there; the unanswered requests, sent again, leave no lease that nobody was told of; rows and usage "
    "equal the sum of the leases, no row is above its limit, the log verifies and gives the same balances, clock and "
    f"epoch did not go back, and the next renewal is served. One seed is one of {PARTS} segments of a life.",
    target=Target(10_000, "points"),
    shows_not="a loss of power: what a killed process wrote is in the kernel's memory and survives it (power-fail "
    "drops "
    "that); a kernel that dies; PostgreSQL; the HTTP server around the use cases.",
    covers=(*COVERS, "assurance/campaigns/crash_points.py"),
    run=each_seed(_figures),
    replay=lambda seed: "\n".join(map(_line, _outcomes(seed))),
    figure=_figure,
    quick=1,
    steady=False,
)
