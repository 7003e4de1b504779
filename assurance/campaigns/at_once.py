"""The audit log of a real custodian of whom many ask everything at once: an auditor's verifier takes it, always."""

from assurance.campaign import Campaign, Target
from assurance.campaigns.any_order import COVERS, Lives
from assurance.figures import Figures

_LIVES = Lives(steps=200, at_once=True)


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
    run=_LIVES.run,
    replay=_LIVES.replay,
    figure=_figure,
    quick=3,
    steady=False,  # which of two comes first is not drawn
    batch=16,
)
