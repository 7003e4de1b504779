"""Rules of the log that hold whoever signed it: what is for good, what takes two operators, what a restore says."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.ledger.test_audit import (
    ALONE,
    ATTESTED,
    BORROWER,
    COMMAND,
    CONSUMER,
    DIGEST,
    INSTANCE,
    LOG_KEY,
    MODEL,
    ROOT,
    UNITS,
    WIDE,
    Writer,
    begun,
    lost_note,
    restored,
)

from aigovtool.codec import decode, encode
from aigovtool.crypto.sign import SigningKey
from aigovtool.errors import AIGovToolError, LogError
from aigovtool.ids import BorrowerId, LeaseId, MessageId, ModelId, digest_of
from aigovtool.ledger.budget import BudgetLimit, RowKey, Scope, Window
from aigovtool.ledger.checkpoint import Checkpoint, sign_checkpoint
from aigovtool.ledger.entry import (
    AppraisalPolicySet,
    BudgetSet,
    Charged,
    Command,
    Entry,
    EntryBody,
    Forked,
    GapFound,
    LeaseClosed,
    LeaseExpired,
    LeaseGranted,
    LeaseWrittenOff,
    ModelAdded,
    ModelTermsSet,
    ModelWithdrawn,
    PartyAdded,
    PartyRevoked,
    PartyRole,
    Refusable,
    Refused,
    Restored,
    Resumed,
    Stopped,
    StopTarget,
    Wiped,
    WitnessEnrolled,
    WitnessRetired,
)
from aigovtool.ledger.order_list import ordered_by
from aigovtool.ledger.replay import Replay
from aigovtool.ledger.units import Dimension, UnitVector, of

ROW = RowKey(scope=WIDE, dimension=UNITS, window=Window.LIFETIME, bucket_ms=0)
#: Signed by one operator twice.
TWICE = replace(COMMAND, second=COMMAND.operator)


def reason(log: Writer) -> str | None:
    """Return why a log is refused; it must be for its last entry."""
    with pytest.raises(LogError, match=rf"^entry {len(log.entries) - 1}: ") as refused:
        log.verify(note=log.note(generation=log.entries[-1].generation))
    return refused.value.reason


def accepted(log: Writer) -> bool:
    report = log.verify(note=log.note(generation=log.entries[-1].generation))
    return report.entries == len(log.entries)


# --- For good ----------------------------------------------------------------------------------------


def revoked(role: PartyRole, name: str) -> EntryBody:
    return PartyRevoked(role=role, name=name, epoch=1, command=COMMAND)


@pytest.mark.parametrize(
    ("ended", "target", "name"),
    [
        (revoked(PartyRole.CONSUMER, CONSUMER), StopTarget.CONSUMER, CONSUMER),
        (revoked(PartyRole.BORROWER, BORROWER), StopTarget.BORROWER, BORROWER),
        (ModelWithdrawn(model=MODEL, epoch=1, command=COMMAND), StopTarget.MODEL, MODEL),
    ],
    ids=["consumer", "borrower", "model"],
)
def test_what_is_revoked_or_withdrawn_is_never_resumed(ended: EntryBody, target: StopTarget, name: str) -> None:
    """Attack: a stop that is for good is lifted like any other, and leases are granted again."""
    for stopped_before in (False, True):
        log = begun()
        log.grant(1)
        log.add(ended)
        log.epoch = 1
        if stopped_before:
            log.stop(target, name)
        log.resume(target, name)
        assert reason(log) == "for_good"


def test_what_is_revoked_is_granted_nothing() -> None:
    """Also when everything else is resumed; and an operator's end stops nobody else."""
    log = begun()
    enrol(log, CONSUMER, COMMAND)
    log.add(revoked(PartyRole.OPERATOR, CONSUMER))
    log.epoch = 1
    log.grant(1)
    log.stop(StopTarget.ALL, "")
    log.add(PartyRevoked(role=PartyRole.CONSUMER, name=CONSUMER, epoch=2, command=COMMAND))
    log.resume(StopTarget.ALL, "")
    assert accepted(log)
    log.grant(1)
    assert reason(log) == "granted_while_stopped"


# --- Two operators -----------------------------------------------------------------------------------


def a_restore(log: Writer, command: Command) -> None:
    restored(log, command=command)


def a_charge(log: Writer, command: Command) -> None:
    restored(log).add(Charged(row=ROW, units=1, command=command), generation=1)


def a_write_off(log: Writer, command: Command) -> None:
    lease = log.grant(1)
    log.add(LeaseExpired(lease_id=lease))
    log.add(LeaseWrittenOff(lease_id=lease, command=command))


def a_third_operator(log: Writer, command: Command) -> None:
    enrol(log, "carol", command)


def a_lifted_stop(log: Writer, command: Command) -> None:
    log.stop(StopTarget.ALL, "")
    log.resume(StopTarget.ALL, "", command)


def another_policy(log: Writer, command: Command) -> None:
    log.add(AppraisalPolicySet(version=2, digest=digest_of(b"policy"), command=command))


def enrol(log: Writer, name: str, command: Command | None, role: PartyRole = PartyRole.OPERATOR) -> None:
    log.enrol(role, name, command)


@pytest.mark.parametrize("act", [a_restore, a_charge, a_write_off, a_third_operator, a_lifted_stop, another_policy])
def test_what_takes_two_operators_names_two(act: Callable[[Writer, Command], None]) -> None:
    """One is not enough, nor one who is named twice: the log would say what no custodian does."""
    for command in (ALONE, TWICE):
        log = begun()
        act(log, command)
        assert reason(log) == "needs_second"
    log = begun()
    act(log, COMMAND)
    assert accepted(log)


def test_one_operator_lifts_stops_while_there_is_no_other() -> None:
    """And says which enclaves are accepted: there is nobody to ask."""
    log = begun(second=False)
    log.stop(StopTarget.ALL, "")
    log.resume(StopTarget.ALL, "", ALONE)
    log.add(AppraisalPolicySet(version=2, digest=digest_of(b"policy"), command=ALONE))
    assert accepted(log)


def test_one_operator_enrols_the_second_and_nobody_beyond() -> None:
    """Who was revoked still counts; whoever holds the custodian's directory orders nothing; others need one only."""
    log = begun()
    log.add(PartyRevoked(role=PartyRole.OPERATOR, name="bob", epoch=0, command=ALONE))
    enrol(log, "st-john", ALONE, PartyRole.BORROWER)
    enrol(log, "dave", None)
    assert accepted(log)
    enrol(log, "erin", ALONE)
    assert reason(log) == "needs_second"


# --- Restores ----------------------------------------------------------------------------------------


def test_nothing_is_granted_between_the_finding_of_a_gap_and_its_settlement() -> None:
    """Attack: a custodian that knew it had forgotten something lends on. Stops and refusals are no lending."""
    log = begun()
    log.add(GapFound(checkpoint=lost_note(99), lost_generation=0, lost_size=99))
    log.add(Refused(role=Refusable.BORROWER, name="north", act="boot", code="forbidden", reason="", times=3))
    log.add(Stopped(target=StopTarget.ALL, value="", epoch=1_000, command=COMMAND))
    enrol(log, "zoe", None)
    assert accepted(log)
    log.grant(1)
    assert reason(log) == "gap"
    log = begun()
    log.add(GapFound(checkpoint=lost_note(99), lost_generation=0, lost_size=99))
    restored(log)
    assert accepted(log)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"lost_size": 98}, "wrong_gap"),
        ({"lost_generation": 1}, "wrong_gap"),
        ({"checkpoint": lost_note(99, key=SigningKey.generate())}, "checkpoint"),
    ],
)
def test_a_gap_is_found_by_a_signed_checkpoint(changes: dict[str, Any], why: str) -> None:
    """Nobody may stop a custodian's service with a note that it never signed, nor explain a pause by one."""
    log = begun()
    found = GapFound(checkpoint=lost_note(99), lost_generation=0, lost_size=99)
    log.add(replace(found, **changes))
    assert reason(log) == why


def test_a_charge_follows_a_restore() -> None:
    """Attack: a budget is used up by a charge, though the ledger has forgotten nothing."""
    log = begun()
    log.add(Charged(row=ROW, units=1, command=COMMAND))
    assert reason(log) == "no_restore"


def another_custodians() -> str:
    other = Checkpoint(custodian=SigningKey.generate().public.key_id, size=99, root=bytes(32))
    return sign_checkpoint(other, LOG_KEY)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"checkpoint": "not a note at all"}, "checkpoint"),
        ({"checkpoint": lost_note(98)}, "wrong_restore"),
        ({"checkpoint": lost_note(99, generation=1)}, "wrong_restore"),
        ({"checkpoint": lost_note(99, generation=2)}, "wrong_restore"),
        ({"lost_size": 10**9}, "wrong_restore"),
        ({"checkpoint": lost_note(99, key=SigningKey.generate())}, "checkpoint"),
        ({"checkpoint": another_custodians()}, "wrong_custodian"),
    ],
    ids=["no note", "smaller", "its own generation", "a later one", "more lost", "by another key", "another log"],
)
def test_a_restore_shows_the_signed_checkpoint_of_what_is_lost(changes: dict[str, Any], why: str) -> None:
    """It excuses what others remember, and so it excuses no more than the custodian itself had signed."""
    log = begun()
    restored(log, **changes)
    assert reason(log) == why


# --- Charges -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [one for one in Dimension if one is not UNITS])
def test_a_lease_is_charged_in_what_it_was_granted_in_alone(dimension: Dimension) -> None:
    """Attack: a charge in a dimension that no row counts, so that no balance would show it."""
    log = begun()
    lease = log.grant(5)
    both = of(UNITS, 1).plus(of(dimension, 9))
    log.add(LeaseClosed(lease_id=lease, late=False, used=of(UNITS, 1), charged=both, ok=1, err=0, receipts=""))
    assert reason(log) == "wrong_charge"


# --- Whatever is signed ------------------------------------------------------------------------------

NUMBERS = st.sampled_from([0, 1, 2, 5, 2**53 - 1])
LEASES = st.sampled_from([LeaseId("0" * 32), LeaseId("0" * 31 + "1"), LeaseId("f" * 32)])
COMMANDS = st.sampled_from([ALONE, TWICE, COMMAND])
MODELS = st.sampled_from([MODEL, ModelId("faces")])
SCOPES = st.one_of(
    st.builds(Scope, model=MODELS),
    st.builds(Scope, model=MODELS, borrower=st.just(BORROWER), consumer=st.sampled_from([None, CONSUMER])),
)
DIMENSIONS = st.sampled_from([UNITS, Dimension.COMPUTE_MS])
WINDOWS = st.sampled_from(list(Window))
ROWS = st.builds(RowKey, scope=SCOPES, dimension=DIMENSIONS, window=WINDOWS, bucket_ms=NUMBERS) | st.just(ROW)
LIMITS = st.builds(
    BudgetLimit,
    scope=SCOPES,
    dimension=DIMENSIONS,
    window=WINDOWS,
    limit=st.none() | NUMBERS,
    not_after_ms=st.none() | NUMBERS,
)
VECTORS = st.builds(UnitVector, inferences=NUMBERS, compute_ms=st.just(0) | NUMBERS)
NOTES = st.sampled_from(["", "x", "\ud7ff\n\n", lost_note(1), lost_note(2, generation=1), lost_note(2**53 - 1)])
KEYS = st.sampled_from(["", "w+00000000+", "w1.example+00000000+" + "A" * 44, "w1.example+ffffffff+" + "B" * 44])
PARTIES = {"role": st.sampled_from(list(PartyRole)), "name": st.sampled_from(["", CONSUMER, BORROWER])}
STOPS: dict[str, Any] = {
    "target": st.sampled_from(list(StopTarget)),
    "value": st.sampled_from(["", MODEL, CONSUMER, INSTANCE]),
    "epoch": NUMBERS,
    "command": COMMANDS,
}
BODIES: st.SearchStrategy[EntryBody] = st.one_of(
    st.builds(
        ModelAdded,
        model=MODELS,
        manifest=st.just(DIGEST),
        package=st.just(DIGEST),
        package_bytes=NUMBERS,
        sealer=st.just(ROOT.public.key_id),
        policy=st.just(DIGEST),
        command=COMMANDS,
        also=st.sampled_from([(), (Dimension.COMPUTE_MS,), (UNITS, UNITS)]),
    ),
    st.builds(BudgetSet, limit=LIMITS, command=COMMANDS),
    st.builds(
        LeaseGranted,
        lease_id=LEASES,
        instance=st.just(INSTANCE),
        borrower=st.just(BORROWER),
        model=MODELS,
        consumer=st.just(CONSUMER),
        units=VECTORS,
        rows=st.lists(ROWS, max_size=3),
    ),
    st.builds(
        LeaseClosed,
        lease_id=LEASES,
        late=st.booleans(),
        used=VECTORS,
        charged=VECTORS,
        ok=NUMBERS,
        err=NUMBERS,
        receipts=st.just(""),
    ),
    st.builds(LeaseExpired, lease_id=LEASES),
    st.builds(LeaseWrittenOff, lease_id=LEASES, command=COMMANDS),
    st.builds(Restored, generation=NUMBERS, checkpoint=NOTES, lost_size=NUMBERS, command=COMMANDS),
    st.builds(Charged, row=ROWS, units=NUMBERS, command=COMMANDS),
    st.builds(Forked, instance=st.just(INSTANCE), lease_id=LEASES, epoch=NUMBERS),
    st.builds(
        PartyAdded,
        **PARTIES,
        key=st.just(ROOT.public.key_id),
        borrower=st.none(),
        not_after_ms=NUMBERS,
        command=st.none() | COMMANDS,
    ),
    st.builds(PartyRevoked, **PARTIES, epoch=NUMBERS, command=COMMANDS),
    st.builds(
        ModelTermsSet,
        model=MODELS,
        policy=st.just(DIGEST),
        borrowers=st.just([BORROWER]),
        epoch=NUMBERS,
        command=COMMANDS,
        more_leaves=st.booleans(),
    ),
    st.builds(ModelWithdrawn, model=MODELS, epoch=NUMBERS, command=COMMANDS),
    st.builds(Stopped, **STOPS),
    st.builds(Resumed, **STOPS),
    st.sampled_from([ATTESTED, replace(ATTESTED, borrower=BorrowerId("clinic")), Wiped(instance=INSTANCE, epoch=0)]),
    st.builds(WitnessEnrolled, witness=KEYS, command=COMMANDS),
    st.builds(WitnessRetired, name=KEYS, command=COMMANDS),
)


@settings(max_examples=150)
@given(st.lists(st.tuples(BODIES, NUMBERS), max_size=30))
def test_whatever_an_entry_says_it_is_taken_or_refused_by_name(drawn: list[tuple[EntryBody, int]]) -> None:
    """Nothing that can be decoded ends in an error of the program; whatever is refused is left out of the rest."""
    replay, at_ms, begun_with = Replay(), 0, Writer()
    begun_with.begin()
    for entry in begun_with.entries:
        if not isinstance(entry.body, ModelAdded):
            replay.take(replace(entry, at_ms=0))
    for index, (body, later_ms) in enumerate(drawn, start=len(begun_with.entries)):
        at_ms = min(at_ms + later_ms, 2**53 - 1)
        generation = body.generation if isinstance(body, Restored) else replay.generation
        entry = Entry(index=index, at_ms=at_ms, generation=generation, body=body)
        if (command := ordered_by(body)) is not None and later_ms:  # another order, mostly
            other: Any = {"command": replace(command, command_id=MessageId(f"{index:032x}"))}
            entry = replace(entry, body=replace(body, **other))
        before = deepcopy(replay)
        try:
            replay.take(decode(encode(entry), Entry))
        except AIGovToolError:
            replay = before
    assert all(row.posted >= 0 and row.pending >= 0 for row in replay.budgets.rows.values())
