"""The audit log of a real custodian to whom everything happens in any order: an auditor's verifier takes it, always."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from assurance.any_order.life import live
from assurance.campaign import Campaign, Target
from assurance.campaigns import crash_points
from assurance.campaigns.model_machine import Stores
from assurance.faults.segments import folder
from assurance.figures import Figures, of_seed

_KEPT = ("audits", "crimes", "entries", "granted", "key", "restored", "SettleGap")
#: Of lives whose acts come one after another, and of those in which they come at once.
COVERS = (
    *crash_points.COVERS,
    "src/aigovtool/operator/audit_file.py",
    "src/aigovtool/custodian/key_rotation.py",
    "src/aigovtool/custodian/timekeeping.py",
    "src/aigovtool/custodian/time_order.py",
    "tests/postgres_server.py",
    "assurance/any_order",
    "assurance/campaigns/model_machine.py",
    "assurance/campaigns/any_order.py",
)


@dataclass(frozen=True)
class Lives:
    """Lives of so many steps, one for each seed; `at_once`: many of their acts are begun together (`live`)."""

    steps: int
    at_once: bool = False

    def run(self, seeds: list[int], deadline: float) -> Iterator[Figures]:
        """Play seeds, each fourth on PostgreSQL."""
        with ExitStack() as stack:
            stores = Stores(stack)
            for seed in seeds:
                if time.monotonic() >= deadline:
                    return
                counts, told, wrong = self._play(seed, stores.ledger(seed))
                kept = {name: counts[name] for name in _KEPT}
                yield of_seed(seed, counts={**kept, "acts": len(told)}, violation=wrong)

    def replay(self, seed: int) -> str:
        """Play one seed, and tell of it."""
        with ExitStack() as stack:
            counts, told, wrong = self._play(seed, Stores(stack).ledger(seed))
        return "\n".join([*told, str(dict(counts)), wrong or "every audit passed"])

    def _play(self, seed: int, ledger: str | None) -> tuple[Counter[str], list[str], str | None]:
        with folder() as where:
            counts, told, wrong = live(seed, where / "custodian", self.steps, ledger, at_once=self.at_once)
        return counts, told, wrong and f"{wrong} (on {'PostgreSQL' if ledger else 'SQLite'})"


_LIVES = Lives(steps=250)


def _figure(figures: Figures) -> str:
    count = figures.count
    return (
        f"{count('audits'):,} audits of logs of {count('entries'):,} entries, {count('acts'):,} acts in all: "
        f"{count('granted'):,} leases granted, {count('key'):,} keys released, {count('restored'):,} restores from "
        f"backups, {count('SettleGap'):,} gaps settled; {count('crimes'):,} crimes put in; "
        f"{len(figures.violations)} honest logs that an auditor refuses, or others that it takes"
    )


CAMPAIGN = Campaign(
    name="any-order",
    claim="Whatever is ordered, asked and lost in whatever order: the custodian writes no log that an auditor refuses.",
    counts=f"audits, one after every ten of the {_LIVES.steps} acts of a life: every command, of operators who may be "
    "revoked or expired, of one or of two, some late or twice; parties enrolled for minutes or for years; boots, keys, "
    "renewals with reports that are true or false, wipes; budgets in all windows, with ends, of two dimensions; stops; "
    "witnesses; new log keys; clocks that step, leap and are confirmed, a machine that is suspended in the middle of "
    "things; restarts, backups that are put back, settlements with charges. Each fourth life has two custodians on "
    "PostgreSQL. An audit is the export and the verifier of the command line, as whoever holds checkpoints that were "
    "given out: its balances and stops are the ledger's, and the books reconcile. At the end crimes of a custodian "
    "that has its log key are put into the log: orders by whoever is no operator, or twice; leases for others, beyond "
    "budgets or of wrong windows; refunds too large; enclaves of nobody. One that is taken is a violation.",
    target=Target(20_000, "audits"),
    shows_not="logs of earlier versions, what only orders and reports themselves could show, or several jobs at once "
    "(`at-once`).",
    covers=COVERS,
    run=_LIVES.run,
    replay=_LIVES.replay,
    figure=_figure,
    quick=3,
    batch=16,  # one PostgreSQL server for them all
)
