"""The real custodian beside a small model of its ledger: step by step, on both stores, they say and hold the same."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

from tests.postgres_server import PostgresServer

from aigovtool.errors import AIGovToolError
from aigovtool.ledger.policy import Dial
from assurance.campaign import Campaign, Target
from assurance.campaigns.crash_points import COVERS
from assurance.faults.segments import folder
from assurance.figures import Figures, of_seed
from assurance.ledger_life import step
from assurance.ledger_pair import Divergence, Pair
from assurance.machine import in_memory

_STEPS = 250
#: Each fourth history is played on PostgreSQL, which is the slower one.
_ON_POSTGRESQL = 4


class Stores:
    """SQLite, or a PostgreSQL server that is started when the first history needs it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._server: PostgresServer | None = None

    def ledger(self, seed: int) -> str | None:
        """Return the address of an empty ledger; none means SQLite."""
        if seed % _ON_POSTGRESQL != _ON_POSTGRESQL - 1:
            return None
        if self._server is None:
            self._server = self._stack.enter_context(PostgresServer(in_memory()))
        self._server.reclaim()
        return self._server.database()


def _play(seed: int, ledger: str | None) -> tuple[Counter[str], list[str], str | None]:
    """Return what was counted, what was done, and where the two differ."""
    chance = random.Random(seed)
    store = "PostgreSQL" if ledger else "SQLite"
    with folder() as where:
        compute = chance.random() < 0.5
        pair = Pair(where / "custodian", ledger, chance.choice(list(Dial)), compute=compute)
        wrong = None
        try:
            while pair.steps < _STEPS:
                step(pair, chance)
            pair.look_at_all()
        except (Divergence, AIGovToolError) as found:
            wrong = f"step {pair.steps} on {store}: {type(found).__name__} {found}"
        finally:
            pair.close()
        states = Counter(lease.state for lease in pair.model.leases.values())
        counts = Counter({"steps": pair.steps, store: pair.steps, "leases": len(pair.model.leases)})
        counts["in two dimensions"] = compute * pair.steps
        counts.update({f"lease {state}": number for state, number in states.items()})
        counts.update({f"wish {outcome}": number for outcome, number in pair.outcomes.items()})
        return counts, [f"{number}: {line}" for number, line in enumerate(pair.told)], wrong


def _run(seeds: list[int], deadline: float) -> Iterator[Figures]:
    with ExitStack() as stack:
        stores = Stores(stack)
        for seed in seeds:
            if time.monotonic() >= deadline:
                return
            counts, _, wrong = _play(seed, stores.ledger(seed))
            yield of_seed(seed, counts=dict(counts), violation=wrong)


def _replay(seed: int) -> str:
    with ExitStack() as stack:
        counts, told, wrong = _play(seed, Stores(stack).ledger(seed))
    return "\n".join([*told, str(dict(counts)), wrong or "no divergence"])


def _figure(figures: Figures) -> str:
    count = figures.count
    wishes = ", ".join(
        f"{count(name):,} {name.removeprefix('wish ')}"
        for name in sorted((name for name in figures.counts if name.startswith("wish ")), key=count, reverse=True)
    )
    states = ", ".join(
        f"{count(f'lease {state}'):,} {state.replace('_', ' ')}"
        for state in ("closed", "closed_late", "expired", "written_off", "pending")
    )
    return (
        f"{count('steps'):,} steps ({count('SQLite'):,} on SQLite, {count('PostgreSQL'):,} on PostgreSQL; "
        f"{count('in two dimensions'):,} where compute is metered, too), "
        f"{len(figures.violations)} divergences; wishes: {wishes}; {count('leases'):,} leases at the end: {states}"
    )


CAMPAIGN = Campaign(
    name="model-machine",
    claim="The custodian does what a model of 300 lines of plain arithmetic says, at each step, on both stores.",
    counts=f"steps of histories of {_STEPS}: grants and limits in all seven windows at all levels, with ends, of "
    "inferences and, in half of the histories, of compute as well; wishes, honest, repeated and contradictory reports, "
    "late ones, expiry, requests for more and their decisions, stops and resumes, write-offs, boots, restarts, and up "
    "to 300 days that pass, under each dial. After each: every answer (units, ttl, code, what is short, rooms, epoch), "
    "every row, lease, stop, open request and running total of the custodian is the model's; at the end the log "
    "verifies and gives the same balances.",
    target=Target(1_000_000, "steps"),
    shows_not="several custodians or several jobs at once on one ledger, non-refundable instances, tokens, "
    "a change of generation; and nothing that specification and model have wrong alike.",
    covers=(
        *COVERS,
        "tests/postgres_server.py",
        "assurance/model_ledger.py",
        "assurance/ledger_life.py",
        "assurance/ledger_pair.py",
        "assurance/campaigns/model_machine.py",
    ),
    run=_run,
    replay=_replay,
    figure=_figure,
    quick=4,
    batch=16,  # one PostgreSQL server for them all
)
