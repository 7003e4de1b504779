"""Simulated histories of the production ledger and meter: nothing is over-spent, and service comes back."""

import time
from collections.abc import Iterator

from tests.simulation.history import history, trace
from tests.simulation.scene import Violation
from tests.simulation.world import RECOVERY_MS, STEPS

from assurance.campaign import Bound, Campaign, Target
from assurance.figures import Figures, of_seed, percentile

#: What an enclave's meter and a custodian say to each other; boots, orders and views are not played.
_PLAYED = (
    *("agenda", "demand", "holding", "messages", "metering", "refusals"),
    *("reservation", "running", "shelf", "stop", "terms", "wishes"),
)
#: The ledger's arithmetic and what is signed of it; its auditor is not played.
_LEDGER = (
    *("answers", "book", "budget", "checkpoint", "entry", "gap"),
    *("inputs", "lease", "lease_ids", "merkle", "policy", "units"),
)
COVERS = (
    "src/aigovtool/codec.py",
    "src/aigovtool/crypto/sign.py",
    "src/aigovtool/custodian/custodian.py",
    "src/aigovtool/custodian/service/continuity.py",
    "src/aigovtool/custodian/service/grants.py",
    "src/aigovtool/custodian/store/renewals.py",
    "src/aigovtool/custodian/store/transaction.py",
    "src/aigovtool/errors.py",
    "src/aigovtool/ids.py",
    *(f"src/aigovtool/ledger/{name}.py" for name in _LEDGER),
    *(f"src/aigovtool/protocol/{name}.py" for name in _PLAYED),
    "tests/simulation",
)


def _run(seeds: list[int], deadline: float) -> Iterator[Figures]:
    for seed in seeds:
        if time.monotonic() >= deadline:
            return
        try:
            world, waits_ms = history(seed)
        except Violation as violation:
            yield of_seed(seed, counts={"histories": 1}, violation=str(violation))
            continue
        seen = world.seen
        yield of_seed(
            seed,
            counts={
                "histories": 1,
                "steps": STEPS,
                "released units": seen["released"],
                "leases": seen["granted"],
                "crashes": seen["crash"],
                "restarts": seen["restart"],
                "suspensions": seen["suspend"],
                "stops": seen["stop"],
                "leaps": seen["leap"],
                "late reports of written-off leases": seen["written_off_reported"],
                "restores": seen["restore"],
                "settlements": seen["settled"],
                "not heard": seen["unheard"],
                "histories with a unit twice": int(world.witness.released_twice() > 0),
                "units twice": world.witness.released_twice(),
                "recoveries": len(waits_ms),
            },
            samples={"recovery_s": [wait / 1000 for wait in waits_ms.values()]},
        )


def _figure(figures: Figures) -> str:
    waits, count = figures.sample("recovery_s"), figures.count
    told = f"{count('histories'):,} histories, {len(figures.violations)} violations"
    if not waits:
        return told
    return (
        f"{told}; {count('released units'):,} units released on {count('leases'):,} leases through "
        f"{count('crashes'):,} crashes, {count('restarts'):,} kills of the custodian between COMMIT and reply, "
        f"{count('suspensions'):,} suspensions, {count('stops'):,} stops, {count('leaps'):,} leaps of a clock by up to "
        f"an hour, and {count('late reports of written-off leases'):,} final reports of written-off leases. "
        f"{count('restores'):,} ledgers were restored and {count('settlements'):,} gaps settled: no unit was granted "
        f"twice once somebody who remembers was heard; before anybody was, {count('units twice'):,} units were, in "
        f"{count('histories with a unit twice'):,} histories. {count('recoveries'):,} consumers served again after "
        f"p50 {percentile(waits, 50):.1f} s, p99 {percentile(waits, 99):.1f} s, at most {max(waits):.1f} s"
    )


CAMPAIGN = Campaign(
    name="overspend",
    claim="No history over-spends a budget, outlives the bound of a stop, or leaves a consumer with budget unserved.",
    counts=(
        f"histories of {STEPS} steps of 5 enclaves of 2 borrowers with 3 consumers and 3 custodians on one ledger, "
        "with the production code of ledger and meter, through loss, repetition, reordering, misdelivery, delay to "
        "40 s, crashes, suspensions to 60 s, custodian restarts and clock jumps, stops and hosts that withhold them, "
        "write-offs, and a ledger that is restored from an old copy and settled. After each step: released <= charged "
        "on each lease, released <= limit on each row, rows equal the sum of their leases and charges, no hour, no "
        "rolling span and no ended budget over-granted, not by what a settled ledger has forgotten either, the cap on "
        "what is outstanding, the bound of each stop, the dead-man switch, no alarm, what consumers are told to be "
        "left, and that a ledger which was shown what it forgot grants nothing until it is settled and quiet. After "
        f"the last fault: each consumer with budget is served within {RECOVERY_MS // 1000} s (two ttl)."
    ),
    target=Target(100_000, "histories", (Bound("recovery_s", 100, RECOVERY_MS / 1000 + 1),)),
    shows_not=(
        "what the store, the sockets and the processes do (the drills below do); clonable memory that is really "
        "cloned, a frozen clock of an enclave, windows of a ledger that was restored with a clock behind what it had "
        "forgotten, and that a restored ledger grants nothing twice before anybody who remembers is heard: that is "
        "counted."
    ),
    covers=(*COVERS, "assurance/campaigns/overspend.py"),
    run=_run,
    replay=trace,
    figure=_figure,
    quick=500,
    batch=20,
)
