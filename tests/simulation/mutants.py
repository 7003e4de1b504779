"""Protocols with one rule removed each, and what must go wrong with them.

A simulation that finds nothing proves something only if it finds what is wrong. Each of `SAFETY` must violate what its
rule protects; each of `LIVENESS` must leave a consumer with budget unserved after all faults have ended; each of
`WASTE` over-spends nothing, and must hold or lose more units than the real protocol does.
"""

from dataclasses import dataclass

from tests.simulation import mutants_budgets as budgets
from tests.simulation import mutants_counter as counter
from tests.simulation import mutants_enclave as enclave
from tests.simulation import mutants_ledger as ledger
from tests.simulation import mutants_memory as memory
from tests.simulation.waste import SCARCE, USUAL, Day
from tests.simulation.world import Rules


@dataclass(frozen=True)
class Mutant:
    """One rule removed. `kinds` are the violations that may show it; a waste mutant shows none, but wastes in `day`."""

    name: str
    rules: Rules
    kinds: frozenset[str] = frozenset()
    day: Day = USUAL


def _safety(name: str, kinds: str, rules: Rules) -> Mutant:
    return Mutant(name, rules, frozenset(kinds.split()))


SAFETY: tuple[Mutant, ...] = (
    # -- The enclave's counter
    _safety("charges after output", "overspend wall", Rules(meter=counter.ChargesAfterOutput)),
    _safety("posts less than it releases", "overspend", Rules(meter=counter.PostsLess)),
    _safety("a voided reservation comes back twice", "overspend wall receipt", Rules(meter=counter.FreesTwice)),
    _safety("two leases are combined and one is debited", "overspend wall", Rules(meter=counter.CombinesLeases)),
    _safety("closes with work in flight", "overspend", Rules(meter=counter.ClosesEarly)),
    _safety("closing is not one-way", "overspend fork", Rules(meter=counter.UsesClosedLeases)),
    _safety("works on after the wipe", "overspend stop", Rules(enclave=counter.WorksAfterWipe)),
    _safety("state restored after a crash", "overspend fork ledger", Rules(restores_state=True)),
    _safety("only inferences are charged", "overspend", Rules(meter=counter.ChargesInferencesOnly)),
    _safety("a lease of one request serves another", "overspend", Rules(meter=counter.ServesAnyRequest)),
    # -- Streams
    _safety("only the first chunk is gated", "stop", Rules(meter=counter.GatesFirstChunksOnly)),
    _safety("a segment is charged at its end", "overspend", Rules(meter=counter.ChargesStreamsAtTheEnd)),
    # -- Answers and authority
    _safety("a replayed answer is accepted", "overspend stop silence fork rooms", Rules(meter=enclave.AcceptsReplays)),
    _safety(
        "another instance's answer is accepted",
        "overspend stop silence fork rooms",
        Rules(meter=enclave.AcceptsAnyAnswer),
    ),
    _safety("no gate", "stop", Rules(meter=enclave.HasNoGate)),
    _safety("authority never ends", "stop", Rules(meter=enclave.NeverEnds)),
    _safety("authority counts from receipt", "stop silence", Rules(meter=enclave.CountsFromReceipt)),
    _safety("authority counts from the last retry", "stop silence", Rules(meter=enclave.RefreshesRetries)),
    _safety("an older stop state replaces a newer", "stop", Rules(meter=enclave.TakesOldStopStates)),
    _safety("a consumer's stop is not looked at", "stop", Rules(meter=enclave.IgnoresConsumerStops)),
    _safety("no dead-man switch", "silence", Rules(meter=enclave.HasNoDeadManSwitch)),
    # -- Reports
    _safety(
        "reports are differences",
        "overspend fork",
        Rules(meter=enclave.ReportsDifferences, apply=ledger.adds_differences),
    ),
    _safety("a forked instance is refunded", "fork", Rules(custodian=ledger.RefundsForks)),
    _safety("late reports alarm", "fork", Rules(apply=ledger.alarms_at_late_reports)),
    # -- The custodian's arithmetic
    _safety("units held by leases are not counted", "overspend window", Rules(apply=ledger.ignores_what_is_held)),
    _safety(
        "the minimum is granted without room", "overspend cap window", Rules(apply=ledger.always_grants_the_minimum)
    ),
    _safety(
        "only the narrowest row is debited", "overspend ledger window", Rules(apply=ledger.debits_the_narrowest_row)
    ),
    _safety("only the narrowest row is looked at", "overspend window", Rules(apply=ledger.looks_at_the_narrowest_row)),
    _safety("only inferences are looked at", "overspend window cap", Rules(apply=ledger.looks_at_one_dimension)),
    _safety("only inferences are debited", "overspend ledger window", Rules(apply=ledger.debits_one_dimension)),
    _safety("refund on timeout", "overspend ledger window", Rules(apply=ledger.refunds_on_timeout)),
    _safety("a late close refunds twice", "overspend ledger window", Rules(apply=ledger.refunds_every_late_close)),
    _safety("a late close settles once more", "overspend ledger window", Rules(apply=ledger.settles_late_closes)),
    _safety("clonable memory is refunded", "overspend ledger window", Rules(apply=ledger.refunds_clones)),
    _safety(
        "a refund goes to the present window", "overspend ledger window", Rules(custodian=ledger.RefundsPresentWindow)
    ),
    # -- The custodian's transaction
    _safety("reply before commit", "overspend ledger fork window rooms", Rules(custodian=ledger.RepliesBeforeCommit)),
    _safety("a repeated renewal is granted again", "ledger", Rules(custodian=ledger.AnswersAfresh)),
    _safety("an older renewal is granted again", "ledger", Rules(custodian=ledger.CarriesOutOldRenewals)),
    _safety("grants while stopped", "stop", Rules(custodian=ledger.GrantsWhileStopped)),
    _safety("no cap on what is outstanding", "cap", Rules(custodian=ledger.HasNoCap)),
    _safety("expired leases are not outstanding", "cap", Rules(custodian=ledger.ForgetsExpired)),
    # -- Windows and ends
    _safety(
        "a rolling window is its present bucket", "window overspend", Rules(custodian=budgets.IgnoresEarlierBuckets)
    ),
    _safety("the oldest bucket is not counted", "window overspend", Rules(custodian=budgets.IgnoresOldestBucket)),
    _safety("the end of a budget is ignored", "ended", Rules(custodian=budgets.IgnoresEnds)),
    _safety("a lease outlives its budget", "ended", Rules(apply=budgets.outlives_ends)),
    # -- Write-offs
    _safety("refund after a write-off", "ledger", Rules(apply=budgets.refunds_after_write_off)),
    _safety("alarm after a write-off", "fork", Rules(apply=budgets.alarms_after_write_off)),
    _safety("a write-off refunds", "ledger overspend window", Rules(apply=budgets.refunds_write_offs)),
    # -- Several custodians
    _safety("the clock of the slower replica wins", "time window rooms", Rules(custodian=budgets.FollowsEachClock)),
    _safety("replicas do not take turns", "overspend ledger window", Rules(custodian=budgets.TakesNoTurns)),
    # -- What is told
    _safety("rooms are told before the rest is granted", "rooms", Rules(custodian=budgets.TellsRoomsTooEarly)),
    _safety("rooms of ended budgets are told", "rooms", Rules(custodian=budgets.TellsRoomsOfEndedBudgets)),
    _safety("a receipt says more than is left", "receipt", Rules(meter=memory.WritesWrongReceipts)),
    # -- A restored ledger
    _safety("a restored ledger is not noticed", "overspend rollback", Rules(custodian=memory.NoticesNothing)),
    _safety("only sizes are compared, not roots", "overspend rollback", Rules(custodian=memory.ComparesSizes)),
    _safety("a gap is not written down", "overspend rollback", Rules(custodian=memory.WritesNoGapDown)),
    _safety("a settlement explains any loss", "overspend rollback", Rules(custodian=memory.ExplainsAnything)),
    _safety("settled without a quiet period", "quiet", Rules(operators=memory.SettlesWithoutQuiet)),
    _safety("settled without charges", "overspend", Rules(operators=memory.SettlesWithoutCharges)),
    _safety("settled without charging windows", "overspend", Rules(operators=memory.ChargesLifetimesOnly)),
    _safety("a final settlement charges nothing", "overspend", Rules(operators=memory.SettlesForNothing)),
    _safety("a final settlement is undone by what is shown", "lever", Rules(custodian=memory.NeverEnds)),
    _safety("a settlement is followed by refunds", "refund", Rules(custodian=memory.RefundsAfterAll)),
    _safety("the epoch of a restored ledger is that of its past", "stop", Rules(custodian=memory.OrdersFromThePast)),
    _safety("stops of a restored ledger stay as old as it", "stop", Rules(custodian=memory.KeepsOldStops)),
    _safety("an old generation is renewed", "generation", Rules(custodian=memory.KeepsOldGenerations)),
    _safety("an enclave shows no checkpoint", "rollback", Rules(meter=memory.ShowsNothing)),
)

LIVENESS: tuple[Mutant, ...] = (
    _safety("a lost renewal is not repeated", "dead", Rules(meter=enclave.NeverRepeats)),
    _safety("a denial stands for ever", "dead", Rules(meter=enclave.NeverAsksAgain)),
    _safety("the statement of a wipe is sent once", "dead", Rules(enclave=enclave.SaysItOnce)),
    _safety("whoever was refused admission does not come back", "dead", Rules(enclave=enclave.StaysUnattested)),
    _safety("a hint during a renewal is forgotten", "dead hint", Rules(meter=memory.ForgetsHints)),
    _safety("an unknown instance goes on asking", "dead", Rules(enclave=memory.WaitsForWhoForgotIt)),
)

WASTE: tuple[Mutant, ...] = (
    Mutant("never closes idle leases", Rules(meter=enclave.KeepsIdleLeases), day=SCARCE),
    Mutant("never closes expired leases", Rules(meter=enclave.KeepsExpiredLeases)),
    Mutant("does not recall", Rules(recalls=False), day=SCARCE),
    Mutant("draws twice the target", Rules(meter=enclave.DrawsTwice)),
    Mutant("holds four leases instead of two", Rules(meter=enclave.HoldsFour)),
    Mutant("wipes without final reports", Rules(meter=enclave.WipesSilently)),
    Mutant("no refund for a late close", Rules(apply=ledger.refunds_no_late_close)),
)
