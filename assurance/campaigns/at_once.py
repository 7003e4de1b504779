"""The audit log of a real custodian of whom many ask everything at once: an auditor's verifier takes it, always."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

from assurance.any_order.life import live
from assurance.campaign import Campaign, Target
from assurance.campaigns.any_order import COVERS
from assurance.campaigns.model_machine import Stores
from assurance.faults.segments import folder
from assurance.figures import Figures, of_seed

_STEPS = 200


def _play(seed: int, ledger: str | None) -> tuple[Counter[str], list[str], str | None]:
    with folder() as where:
        counts, told, wrong = live(seed, where / "custodian", _STEPS, ledger, at_once=True)
    return counts, told, wrong and f"{wrong} (on {'PostgreSQL' if ledger else 'SQLite'})"


def _run(seeds: list[int], deadline: float) -> Iterator[Figures]:
    with ExitStack() as stack:
        stores = Stores(stack)
        for seed in seeds:
            if time.monotonic() >= deadline:
                return
            counts, told, wrong = _play(seed, stores.ledger(seed))
            kept = {name: counts[name] for name in ("audits", "entries", "granted", "key", "restored", "SettleGap")}
            yield of_seed(seed, counts={**kept, "acts": len(told)}, violation=wrong)


def _replay(seed: int) -> str:
    with ExitStack() as stack:
        counts, told, wrong = _play(seed, Stores(stack).ledger(seed))
    return "\n".join([*told, str(dict(counts)), wrong or "every audit passed"])


def _figure(figures: Figures) -> str:
    count = figures.count
    return (
        f"{count('audits'):,} audits of logs of {count('entries'):,} entries, {count('acts'):,} acts in all: "
        f"{count('granted'):,} leases granted, {count('key'):,} keys released, {count('restored'):,} restores from "
        f"backups, {count('SettleGap'):,} gaps settled; {len(figures.violations)} logs that an auditor refuses"
    )


CAMPAIGN = Campaign(
    name="at-once",
    claim="However many order and ask at the same moment: the custodian writes no log that an auditor refuses.",
    counts="audits, as in `any-order`, one after each 8 to 16 acts that are begun together: commands of operators, of "
    "whom one may be revoked meanwhile, on the same parties, models, budgets and stops; boots, keys, renewals, wipes; "
    "requests and decisions; witnesses; settlements. Each waits for the ledger several times, and finds it changed by "
    "the others. Between two such rounds clocks leap, keys are rotated, and the custodian is restarted or put back to "
    "a backup. Each fourth life has two custodians on PostgreSQL, and each act comes to one of them.",
    target=Target(5_000, "audits"),
    shows_not="connections of their own for each, or custodians that are killed meanwhile (`server-kills` does that).",
    covers=(*COVERS, "assurance/campaigns/at_once.py"),
    run=_run,
    replay=_replay,
    figure=_figure,
    quick=3,
    steady=False,  # which of two comes first is not drawn
    batch=16,
)
