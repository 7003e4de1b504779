"""A long life under load: whatever comes and goes, nothing stays behind."""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

from tests.e2e.world import World

from aigovtool.limits import RESULT_RETENTION_MS
from assurance.campaign import Campaign, Target
from assurance.drills.deployment import COVERS, deployment
from assurance.endurance.growth import (
    CHILDREN,
    DESCRIPTORS,
    LEAST_TURNS,
    MEMORY,
    THREADS,
    Limit,
    Seen,
    grown,
    growth,
    of_files,
    of_process,
    watching,
)
from assurance.endurance.turns import Soak, Turn
from assurance.figures import Figures, of_seed
from assurance.machine import load as machine_load

_TTL_MS: Final = 1_000
_BUDGET: Final = 10**12
#: Turns in which caches fill, at the beginning of each life.
WARM_UP: Final = 4
#: Until then an enclave keeps more and more of what it must: answers to request ids for ten minutes, and of those that
#: were dropped the id for up to one more. How much that is depends on how fast a machine answers.
SETTLED_S: Final = RESULT_RETENTION_MS / 1000 + 60
#: In so few turns it is little.
FEW_TURNS: Final = 100
#: By how much the last third of a life may be above its first. SQLite begins its write-ahead log anew at 4 MiB. The
#: ledger is the record of what happened: it grows with renewals and leases, and with nothing else.
LIMITS: Final = {
    DESCRIPTORS: Limit(6),
    THREADS: Limit(2),
    CHILDREN: Limit(0),
    MEMORY: Limit(8),
    "write-ahead log bytes": Limit(5 << 20),
    "logs bytes": Limit(4096, 256),
    "ledger bytes": Limit(256 << 10, 16 << 10),
}


def look(world: World, pids: dict[str, int]) -> Seen:
    """Look at all processes and files of a deployment."""
    found: Seen = {}
    for name, pid in pids.items():
        found |= of_process(name, pid)
    ledger = world.directory / "custodian" / "ledger.db"
    found |= of_files("write-ahead log", ledger.with_name("ledger.db-wal"))
    found |= of_files("ledger", ledger)
    return found | of_files("logs", *(world.directory / f"{name}.log" for name in ("custodian", "enclave")))


def live(seeds: list[int], deadline: float, often: Turn | None = None) -> Iterator[Figures]:
    """Play a turn for each seed in the life of one deployment; the last one bears what grew in it."""
    with deployment(budget=_BUDGET, ttl_ms=_TTL_MS) as world, Soak(world, often or Turn()) as soak:
        pids = {name: world.processes[name].pid for name in ("custodian", "enclave")} | {"engine": world.engine_pid()}
        samples: list[Seen] = []
        ages_s: list[float] = []
        began_s = time.monotonic()
        held: Figures | None = None
        with watching(lambda: look(world, pids)) as watch:
            for seed in seeds:
                if time.monotonic() >= deadline:
                    break
                if held is not None:
                    yield held
                before, wrong = Counter(soak.counts), len(soak.wrong)
                soak.turn()
                samples.append(watch.turn())
                ages_s.append(time.monotonic() - began_s)
                held = of_seed(
                    seed, counts=dict(soak.counts - before), violation="; ".join(soak.wrong[wrong:][:3]) or None
                )
        if held is not None:
            yield ended(held, compared(samples, ages_s))


def compared(samples: list[Seen], ages_s: list[float]) -> list[Seen]:
    """Return the turns of a life that are compared; none if it ended while what must be kept was still growing."""
    settled = [sample for sample, age_s in zip(samples, ages_s, strict=True) if age_s >= SETTLED_S]
    if len(settled) >= 3 * LEAST_TURNS:
        return settled
    return samples[WARM_UP:] if len(samples) <= FEW_TURNS else []


def ended(last: Figures, samples: list[Seen]) -> Figures:
    """Return the figures of a life's last turn, with what grew in that life."""
    if len(samples) < 3 * LEAST_TURNS:
        return last
    (seed,) = [span.start for span in last.spans]
    more = {
        "turns of a life": [float(len(samples))],
        "load": [machine_load()],
        **{f"more {name}": [_more(samples, name)] for name in samples[0]},
    }
    found = "; ".join([*(one.what for one in last.violations), *grown(samples, LIMITS)])
    return of_seed(seed, counts={**last.counts, "lives": 1}, samples=more, violation=found or None)


def _more(samples: list[Seen], name: str) -> float:
    first, last, _ = growth(samples, name)
    return last - first


def _figure(figures: Figures) -> str:
    count, sample = figures.count, figures.sample
    kinds = ("inferences", "attestations", "credentials", "malformed", "strangers", "abandoned", "killed consumers")
    done = ", ".join(f"{count(kind):,} {kind}" for kind in kinds)
    grew = ", ".join(
        f"{name.removeprefix('more ')} {max(values):+,.4g}"
        for name, values in figures.samples.items()
        if "more" in name
    )
    return (
        f"{count('requests'):,} requests ({done}) in {count('lives'):,} lives, the longest of "
        f"{max(sample('turns of a life'), default=0):,.0f} turns. From the first to the last third of a life at most: "
        f"{grew}; {len(figures.violations)} violations"
    )


def _replay(seed: int) -> str:
    """Live as long as the short form; turns are all alike, whatever their seed."""
    figures = [*live([*range(seed, seed + CAMPAIGN.quick)], float("inf"))]
    return "\n".join([_figure(figures[-1]), *(found.what for one in figures for found in one.violations)])


CAMPAIGN = Campaign(
    name="soak",
    claim="However long a deployment is used, whoever comes and goes: nothing stays behind that grows.",
    counts="requests in the lives of a custodian, an enclave and its engine, in turns that are all alike: consumers "
    "that stay, that attest anew and leave, that have their certificates renewed, that send malformed bodies or no "
    "credential, that are gone in the middle of a request, or are killed; a renewal every third of a second. Of each "
    "process memory of its own, descriptors, threads and children, and the bytes of the ledger, its write-ahead log "
    "and all logs, are looked at twenty times a second. Of the turns of a life after eleven minutes (answers to "
    "request ids are kept for ten), or in the short form after the first few, the middle of the last third is above "
    "that of the first by at most: " + ", ".join(f"{name} {one.words()}" for name, one in LIMITS.items()) + ".",
    target=Target(2_500_000, "requests"),
    shows_not="growth that takes longer than the longest life, or is below the limits; what a stop or a new engine "
    "leaves (the kills and stops show that these come back). The ledger grows with what is written into it.",
    covers=(*COVERS, "assurance/endurance/growth.py", "assurance/endurance/turns.py", "assurance/campaigns/soak.py"),
    run=live,
    replay=_replay,
    figure=_figure,
    quick=16,
    batch=10_000,
    steady=False,
    alone=True,
)
