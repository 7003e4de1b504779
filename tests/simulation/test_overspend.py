"""The production ledger and the production meter, joined by a hostile world, never release more than was granted.

One seed is one history: messages are lost, repeated, reordered, delayed up to 40 s and delivered to the wrong enclave;
enclaves crash, are suspended for up to a minute and come back; three custodians with clocks of their own take turns on
one ledger, are killed between COMMIT and reply, and their clocks jump, by much of an hour too; operators stop, resume,
raise limits and write leases off; the ledger is restored from old copies and settled; a host withholds every message
from the moment of a stop. After each step the witness compares the ledger with what was released.
"""

from collections import Counter

import pytest
from tests.simulation.history import history, trace
from tests.simulation.logbook import LoggingCustodian
from tests.simulation.scene import Violation
from tests.simulation.world import Rules, World

from aigovtool.ledger.replay import Replay

SEEDS = 60
LOGS = 12


def test_no_history_overspends_outlives_a_stop_or_leaves_a_consumer_unserved() -> None:
    """In 60 histories every check holds after each step and service comes back; everything that can happen did."""
    seen: Counter[str] = Counter()
    recovered = 0
    for seed in range(SEEDS):
        try:
            world, waits_ms = history(seed)
        except Violation:
            pytest.fail(trace(seed))
        seen += world.seen
        recovered += len(waits_ms)
    happened = (
        "released granted recorded ignored expired closed closed_late exhausted reserved capped insufficient "
        "budget_exhausted budget_reserved lease_capped lease_expired stopped discarded refused_not_outstanding "
        "refused_wrong_instance lost repeated repeated_answer censored crash suspend restart unreachable stop resume "
        "recall wipe hinted rooms budget_ended leap written_off written_off_reported restore gap settled charged quiet "
        "final unknown unacknowledged superseded segment chunk cut clone fork_found"
    )
    assert [name for name in happened.split() if not seen[name]] == []
    assert recovered > SEEDS


def test_a_history_is_determined_by_its_seed() -> None:
    """The same seed gives the same history, so that a finding can be repeated, and watching it changes nothing."""
    (first, waits), (second, again) = history(7), history(7, tracing=True)
    assert (first.seen, first.scene.ms, first.custodian.ledger) == (
        second.seen,
        second.scene.ms,
        second.custodian.ledger,
    )
    assert waits == again
    assert second.scene.lines


def test_an_auditor_comes_to_the_same_balances_from_the_log_alone() -> None:
    """Every entry of a history obeys the auditor's rules, restores and charges included."""
    generations = set()
    for seed in range(LOGS):
        ledger = World(seed, Rules(custodian=LoggingCustodian)).run().custodian.ledger
        replay = Replay()
        for entry in ledger.entries:
            replay.take(entry)
        used = {key: (row.posted, row.pending) for key, row in ledger.rows.items() if row.posted or row.pending}
        assert used == {
            k: (row.posted, row.pending) for k, row in replay.budgets.rows.items() if row.posted or row.pending
        }
        generations.add(replay.generation)
    assert len(generations) > 1
