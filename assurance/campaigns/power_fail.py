"""The power fails: whatever of the unsynced writes is lost or torn, what had been answered is there."""

import shutil
from collections import Counter
from collections.abc import Iterator

from assurance.campaign import Campaign, Target, each_seed
from assurance.campaigns.crash_points import COVERS
from assurance.faults.examine import Finding, answered, examine
from assurance.faults.power import Cut, cuts, events_of, put
from assurance.faults.process import Part, require_strace
from assurance.faults.segments import LIFE, PARTS, STEPS, folder, start_of
from assurance.figures import Figures, of_seed


def _outcomes(seed: int) -> Iterator[tuple[Cut, Finding]]:
    require_strace()
    with folder() as where:
        start = start_of(seed, where)
        directory = where / "run"
        ended = start.segment.run(directory, Part.SERVING, data=True)
        if ended.code != 0:
            raise RuntimeError(f"a run without faults ended with {ended.code}")
        shutil.rmtree(directory)
        shutil.copytree(start.segment.start, directory)
        for cut in cuts(start.segment.start, events_of(ended.calls), seed):
            put(directory, cut)
            yield cut, examine(start.segment.life, directory, cut.told, start.leases)


def _words(cut: Cut) -> str:
    last = cut.last
    where = f"{last.call} of {last.file}" + (f", {len(last.data)} bytes at {last.offset}" if last.data else "")
    return f"after call {cut.after} ({where}), unsynced writes {cut.kind}"


def _line(cut: Cut, finding: Finding) -> str:
    state = "; ".join(finding.wrong) or "sound"
    return (
        f"{_words(cut)}: {len(answered(cut.told))} acts answered, {finding.repeated} repeated, {finding.happened} of "
        f"which had happened: {state}"
    )


def _figures(seed: int) -> Figures:
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for cut, finding in _outcomes(seed):
        counts["cuts"] += 1
        counts[cut.kind] += 1
        counts["acts answered"] += len(answered(cut.told))
        counts["acts repeated"] += finding.repeated
        counts["happened unanswered"] += finding.happened
        wrong += [f"{_words(cut)}: {problem}" for problem in finding.wrong]
    return of_seed(seed, counts=dict(counts), violation="; ".join(wrong[:3]) or None)


def _figure(figures: Figures) -> str:
    count = figures.count
    return (
        f"{count('cuts'):,} power failures in {figures.seeds():,} segments of lives ({count('lost'):,} with every "
        "unsynced "
        f"write lost, {count('torn'):,} with some sectors of them): {count('acts answered'):,} acts answered before, "
        "none "
        f"lost; {count('acts repeated'):,} unanswered ones repeated, {count('happened unanswered'):,} of which had "
        "been "
        f"granted, none twice; {len(figures.violations)} segments with a contradiction"
    )


CAMPAIGN = Campaign(
    name="power-fail",
    claim="Whatever a failure of the power leaves of unsynced writes, everything that was answered is there.",
    counts=f"moments of a process that lives {STEPS} steps of a life of {LIFE} as in crash-points and then closes its "
    "ledger: after each write, truncation, sync and removal of its files, and after each answer. Every byte and every "
    "sync was recorded; the files are rebuilt with all that was written after the last sync of its file lost (lost), "
    "or "
    "with each 512-byte sector of it kept or lost by chance (torn), opened by production code, and everything holds "
    "that "
    f"crash-points looks at. One seed is one of {PARTS} segments of a life.",
    target=Target(10_000, "cuts"),
    shows_not="a disk or a controller that says it has synced and has not; sectors that are neither old nor new; file "
    "systems that lose a name after its file was synced; PostgreSQL, which has its own answer to all this.",
    covers=(*COVERS, "assurance/campaigns/crash_points.py", "assurance/campaigns/power_fail.py"),
    run=each_seed(_figures),
    replay=lambda seed: "\n".join(_line(cut, finding) for cut, finding in _outcomes(seed)),
    figure=_figure,
    quick=1,
    steady=False,
)
