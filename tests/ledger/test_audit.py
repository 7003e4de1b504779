import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace

from aigovtool.codec import decode, encode
from aigovtool.crypto.sign import SigningKey
from aigovtool.errors import LogError
from aigovtool.ids import (
    BorrowerId,
    ConsumerId,
    Digest,
    InstanceId,
    LeaseId,
    MessageId,
    ModelId,
    OperatorId,
    key_id_of,
)
from aigovtool.ledger.audit import AuditReport, LoggedEntry, verify_log
from aigovtool.ledger.budget import BudgetLimit, RowKey, Scope, Window, bucket_of
from aigovtool.ledger.checkpoint import Checkpoint, parse_checkpoint, sign_checkpoint
from aigovtool.ledger.cosignature import cosign
from aigovtool.ledger.entry import (
    AttestationWithdrawn,
    Attested,
    BudgetSet,
    Charged,
    Command,
    Entry,
    EntryBody,
    Forked,
    Genesis,
    KeyReleased,
    LeaseClosed,
    LeaseExpired,
    LeaseGranted,
    LeaseWrittenOff,
    ModelAdded,
    ModelTermsSet,
    ModelWithdrawn,
    PartyAdded,
    PartyRole,
    Refusable,
    Refused,
    Restored,
    Resumed,
    Stopped,
    StopTarget,
    Wiped,
)
from aigovtool.ledger.merkle import leaf_hash, root_of
from aigovtool.ledger.order_list import ordered_by
from aigovtool.ledger.units import Dimension, UnitVector, of
from aigovtool.limits import MAX_INTEGER

ROOT, LOG_KEY = SigningKey.generate(), SigningKey.generate()
NOON = 1_700_049_600_000
MODEL, BORROWER, CONSUMER = ModelId("xray"), BorrowerId("st-mary"), ConsumerId("radiology")
INSTANCE = InstanceId("ab" * 32)
DIGEST = Digest("sha256:" + "0" * 64)
ALONE = Command(operator=OperatorId("alice"), command_id=MessageId("0" * 32), digest=DIGEST)
#: Signed by two, as any order may be and some must.
COMMAND = replace(ALONE, second=OperatorId("bob"))
NEXT = InstanceId("cd" * 32)
ATTESTED = Attested(instance=INSTANCE, borrower=BORROWER, tee="simulated", measurement="m", result=DIGEST)
RELEASED = KeyReleased(instance=INSTANCE, model=MODEL, manifest=DIGEST)
WIDE, NARROW = Scope(model=MODEL), Scope(model=MODEL, borrower=BORROWER, consumer=CONSUMER)
UNITS = Dimension.INFERENCES
LIMIT = BudgetLimit(scope=WIDE, dimension=UNITS, window=Window.LIFETIME, limit=100)


@dataclass
class Writer:
    """Writes a log as a custodian does, honest or not."""

    entries: list[Entry] = field(default_factory=list)
    leases: int = 0
    epoch: int = 0
    #: Who holds what is granted.
    instance: InstanceId = INSTANCE

    def add(self, body: EntryBody, *, later_ms: int = 1000, **changes: Any) -> None:
        """Append one entry; each order has an identifier of its own, and what a settlement charges has that of it."""
        at_ms = self.entries[-1].at_ms + later_ms if self.entries else NOON
        entry = Entry(index=len(self.entries), at_ms=at_ms, generation=0, body=self._numbered(body))
        self.entries.append(replace(entry, **changes))

    def _numbered(self, body: EntryBody) -> Any:
        command = ordered_by(body)
        if command is None or command.command_id != ALONE.command_id:
            return body
        number, before = len(self.entries), self.entries[-1].body if self.entries else None
        if isinstance(body, Charged) and isinstance(before, Restored | Charged):
            return replace(body, command=replace(command, command_id=before.command.command_id))
        return replace(body, command=replace(command, command_id=MessageId(f"{number + 1:032x}")))

    def enrol(
        self, role: PartyRole, name: str, command: Command | None = ALONE, borrower: BorrowerId | None = None
    ) -> None:
        """Enrol a party."""
        key = key_id_of(f"{role} {name}".encode())
        self.add(PartyAdded(role=role, name=name, key=key, borrower=borrower, not_after_ms=NOON, command=command))

    def admit(self, instance: InstanceId) -> None:
        """Admit an enclave, which holds what is granted from then on."""
        self.instance = instance
        self.add(replace(ATTESTED, instance=instance))

    def wait(self, later_ms: int) -> None:
        """Let time pass, to an entry that changes nothing."""
        refused = Refused(role=Refusable.BORROWER, name=BORROWER, act="boot", code="forbidden", reason="")
        self.add(refused, later_ms=later_ms)

    def begin(self, *also: Dimension, second: bool = True) -> None:
        """Found the log, enrol whom it takes, admit an enclave, and lend the model.

        That meters inferences and what is named. `second`: there are two operators.
        """
        self.add(Genesis(custodian=ROOT.public.key_id))
        self.enrol(PartyRole.OPERATOR, "alice", None)
        if second:
            self.enrol(PartyRole.OPERATOR, "bob")
        self.enrol(PartyRole.BORROWER, BORROWER)
        self.enrol(PartyRole.CONSUMER, CONSUMER, borrower=BORROWER)
        self.admit(INSTANCE)
        added = ModelAdded(
            model=MODEL,
            manifest=DIGEST,
            package=DIGEST,
            package_bytes=1,
            sealer=ROOT.public.key_id,
            policy=DIGEST,
            command=ALONE,
            also=also,
        )
        self.add(added)

    def limit(self, scope: Scope, units: int | None, window: Window = Window.LIFETIME) -> None:
        """Set a limit."""
        limit = BudgetLimit(scope=scope, dimension=UNITS, window=window, limit=units)
        self.add(BudgetSet(limit=limit, command=ALONE))

    def grant(
        self,
        units: int,
        rows: list[RowKey] | None = None,
        vector: UnitVector | None = None,
        request: Digest | None = None,
    ) -> LeaseId:
        """Grant a lease."""
        self.leases += 1
        lease = LeaseId(f"{self.leases:032x}")
        body = LeaseGranted(
            lease_id=lease,
            instance=self.instance,
            borrower=BORROWER,
            model=MODEL,
            consumer=CONSUMER,
            units=of(UNITS, units) if vector is None else vector,
            rows=self.rows() if rows is None else rows,
            request=request,
        )
        self.add(body)
        return lease

    def rows(self) -> list[RowKey]:
        """Return the rows that a grant now must debit."""
        limits = {(e.body.limit.scope, e.body.limit.window) for e in self.entries if isinstance(e.body, BudgetSet)}
        now_ms = self.entries[-1].at_ms + 1000
        return [
            RowKey(scope=scope, dimension=UNITS, window=window, bucket_ms=bucket_of(window, now_ms))
            for scope, window in sorted(limits, key=repr)
        ]

    def close(self, lease: LeaseId, used: int, *, charged: int | None = None, late: bool = False) -> None:
        """Close a lease."""
        vector = of(UNITS, used if charged is None else charged)
        self.add(
            LeaseClosed(lease_id=lease, late=late, used=of(UNITS, used), charged=vector, ok=used, err=0, receipts="")
        )

    def stop(self, target: StopTarget, value: str) -> None:
        """Stop something."""
        self.epoch += 1
        self.add(Stopped(target=target, value=value, epoch=self.epoch, command=ALONE))

    def resume(self, target: StopTarget, value: str, command: Command = COMMAND) -> None:
        """Resume something."""
        self.epoch += 1
        self.add(Resumed(target=target, value=value, epoch=self.epoch, command=command))

    def lines(self) -> list[LoggedEntry]:
        """Return the copy of the log."""
        return [LoggedEntry(data=encode(entry), leaf=entry.leaf()) for entry in self.entries]

    def note(self, key: SigningKey = LOG_KEY, *, generation: int = 0) -> str:
        """Return the signed checkpoint."""
        root = root_of([entry.leaf() for entry in self.entries])
        size = len(self.entries)
        checkpoint = Checkpoint(custodian=ROOT.public.key_id, size=size, root=root, generation=generation)
        return sign_checkpoint(checkpoint, key)

    def verify(self, lines: list[LoggedEntry] | None = None, note: str | None = None) -> AuditReport:
        """Verify it."""
        chosen = self.lines() if lines is None else lines
        return verify_log(chosen, note or self.note(), [LOG_KEY.public], ROOT.public.key_id)


def begun(*, second: bool = True) -> Writer:
    log = Writer()
    log.begin(second=second)
    log.limit(WIDE, 100)
    log.limit(NARROW, 50, Window.DAY)
    return log


def honest() -> Writer:
    """Every kind of transition once: key, close, expiry, late refund, stop, resume, a raised limit, a full budget."""
    log = begun()
    log.add(ATTESTED)
    log.add(RELEASED)
    first, second, third = log.grant(10), log.grant(20), log.grant(5)
    log.close(first, 4)
    log.add(LeaseExpired(lease_id=second))
    log.close(second, 15, late=True)
    log.close(third, 2, charged=5)
    log.stop(StopTarget.MODEL, MODEL)
    log.add(Wiped(instance=INSTANCE, epoch=1))
    log.resume(StopTarget.MODEL, MODEL)
    log.admit(NEXT)
    log.add(replace(RELEASED, instance=NEXT))
    log.limit(WIDE, 60)
    log.grant(26)
    return log


def test_balances_are_recomputed_from_the_entries_alone() -> None:
    """4 used, 15 after a late refund, 5 charged in full although 2 were used, 26 still held."""
    report = honest().verify()
    balances = {row.key.scope: (row.limit, row.posted, row.pending) for row in report.rows}
    assert balances == {WIDE: (60, 24, 26), NARROW: (50, 24, 26)}
    assert (report.leases, report.unclosed_leases, report.stops) == (4, 1, ())


def test_an_empty_log_verifies_as_empty() -> None:
    """A checkpoint of size 0 over no entries is consistent."""
    assert Writer().verify().entries == 0


LENGTH = len(honest().entries)
NUMBERS = range(LENGTH)


@pytest.mark.parametrize("number", NUMBERS)
def test_an_altered_entry_is_named(number: int) -> None:
    """Every bit pattern but the recorded one is another entry."""
    log = honest()
    for position in range(0, len(log.lines()[number].data), 7):
        lines = log.lines()
        data = bytearray(lines[number].data)
        data[position] ^= 1
        lines[number] = LoggedEntry(data=bytes(data), leaf=lines[number].leaf)
        with pytest.raises(LogError, match=rf"^entry {number}: ") as refused:
            log.verify(lines)
        assert refused.value.reason == "altered"


@pytest.mark.parametrize("number", NUMBERS)
def test_a_dropped_entry_is_named(number: int) -> None:
    """The entry after it does not continue the numbering, or the end is missing."""
    log = honest()
    with pytest.raises(LogError, match=rf"^entry {number}: "):
        log.verify(log.lines()[:number] + log.lines()[number + 1 :])


@pytest.mark.parametrize("number", range(LENGTH - 1))
def test_swapped_entries_are_named(number: int) -> None:
    """Order is part of what was signed."""
    log, lines = honest(), honest().lines()
    lines[number], lines[number + 1] = lines[number + 1], lines[number]
    with pytest.raises(LogError, match=rf"^entry {number}: "):
        log.verify(lines)


@pytest.mark.parametrize("number", NUMBERS)
def test_an_inserted_entry_is_named(number: int) -> None:
    """A copy of an entry directly after it, as a replayed grant would be."""
    log, lines = honest(), honest().lines()
    with pytest.raises(LogError, match=rf"^entry {number + 1}: "):
        log.verify([*lines[: number + 1], lines[number], *lines[number + 1 :]])


def test_an_entry_after_the_signed_end_is_named() -> None:
    """Also one that continues the log without any fault, as one that came after the checkpoint would."""
    log = honest()
    note = log.note()
    log.limit(WIDE, 70)
    with pytest.raises(LogError, match=rf"^entry {LENGTH}: ") as refused:
        log.verify(note=note)
    assert refused.value.reason == "too_many"


@pytest.mark.parametrize("number", NUMBERS)
def test_a_truncated_log_is_named(number: int) -> None:
    """The checkpoint says how long the log is."""
    log = honest()
    with pytest.raises(LogError, match=rf"^entry {number}: it is missing") as refused:
        log.verify(log.lines()[:number])
    assert refused.value.reason == "truncated"


@pytest.mark.parametrize("number", NUMBERS)
def test_an_entry_changed_with_its_hash_fails_at_the_root(number: int) -> None:
    """Recorded hashes prove nothing: whoever fits them to a forged entry still has no signature."""
    log = honest()
    entry = replace(log.entries[number], at_ms=log.entries[number].at_ms + 1)
    lines = log.lines()
    lines[number] = LoggedEntry(data=encode(entry), leaf=entry.leaf())
    with pytest.raises(LogError) as refused:
        log.verify(lines)
    assert refused.value.reason == "root"


def test_a_second_encoding_of_an_entry_is_refused() -> None:
    """White space changes nothing in meaning and everything in the hash, even when both were signed."""
    log, lines = honest(), honest().lines()
    data = lines[3].data.replace(b",", b", ", 1)
    lines[3] = LoggedEntry(data=data, leaf=leaf_hash(data))
    root = root_of([line.leaf for line in lines])
    note = sign_checkpoint(Checkpoint(custodian=ROOT.public.key_id, size=len(lines), root=root), LOG_KEY)
    with pytest.raises(LogError, match=r"^entry 3: ") as refused:
        log.verify(lines, note)
    assert refused.value.reason == "malformed"


def test_a_checkpoint_by_another_key_or_custodian_is_refused() -> None:
    """Anybody can build a tree; only the custodian's log key makes it the log."""
    log = honest()
    with pytest.raises(LogError) as refused:
        log.verify(note=log.note(SigningKey.generate()))
    assert refused.value.reason == "checkpoint"
    with pytest.raises(LogError) as refused:
        verify_log(log.lines(), log.note(), [LOG_KEY.public], SigningKey.generate().public.key_id)
    assert refused.value.reason == "wrong_custodian"


# --- A custodian that signs whatever it likes -------------------------------------------------------


def overspend(log: Writer) -> None:
    log.grant(30)
    log.grant(21)


def overspend_after_lowering(log: Writer) -> None:
    log.grant(5)
    log.limit(WIDE, 4)
    log.grant(1)


def granted_while_stopped(log: Writer) -> None:
    log.stop(StopTarget.BORROWER, BORROWER)
    log.grant(1)


def granted_after_a_fork(log: Writer) -> None:
    log.add(Forked(instance=INSTANCE, lease_id=log.grant(1), epoch=7))
    log.grant(1)


def granted_after_a_fork_was_lifted(log: Writer) -> None:
    log.add(Forked(instance=INSTANCE, lease_id=log.grant(1), epoch=7))
    log.epoch = 7
    log.resume(StopTarget.ENCLAVE, INSTANCE)
    log.grant(1)


def refunded_after_a_fork(log: Writer) -> None:
    lease = log.grant(9)
    log.add(Forked(instance=INSTANCE, lease_id=lease, epoch=7))
    log.close(lease, 1)


def admitted_again_after_a_fork(log: Writer) -> None:
    log.add(Forked(instance=INSTANCE, lease_id=log.grant(1), epoch=7))
    log.epoch = 7
    log.resume(StopTarget.ENCLAVE, INSTANCE)
    log.add(ATTESTED)


def a_key_while_all_is_stopped(log: Writer) -> None:
    log.add(ATTESTED)
    log.stop(StopTarget.ALL, "")
    log.add(RELEASED)


def a_key_of_a_stopped_model(log: Writer) -> None:
    log.add(ATTESTED)
    log.stop(StopTarget.MODEL, MODEL)
    log.add(RELEASED)


def a_key_for_a_stopped_borrower(log: Writer) -> None:
    log.add(ATTESTED)
    log.stop(StopTarget.BORROWER, BORROWER)
    log.add(RELEASED)


def a_key_for_a_stopped_enclave(log: Writer) -> None:
    log.add(ATTESTED)
    log.stop(StopTarget.ENCLAVE, INSTANCE)
    log.add(RELEASED)


def a_key_of_a_model_that_was_withdrawn(log: Writer) -> None:
    log.add(ATTESTED)
    log.add(ModelWithdrawn(model=MODEL, epoch=7, command=COMMAND))
    log.add(RELEASED)


def a_key_for_nobody_that_was_admitted(log: Writer) -> None:
    log.add(replace(RELEASED, instance=NEXT))


def a_key_for_an_enclave_that_is_wiped(log: Writer) -> None:
    log.add(ATTESTED)
    log.add(Wiped(instance=INSTANCE, epoch=0))
    log.add(RELEASED)


def a_key_for_an_enclave_that_is_not_acceptable(log: Writer) -> None:
    log.add(ATTESTED)
    log.add(AttestationWithdrawn(instance=INSTANCE, borrower=BORROWER, code="evidence", reason="revoked"))
    log.add(RELEASED)


def a_key_of_another_package(log: Writer) -> None:
    log.add(ATTESTED)
    log.add(replace(RELEASED, manifest=Digest("sha256:" + "1" * 64)))


def admitted_while_all_is_stopped(log: Writer) -> None:
    log.stop(StopTarget.ALL, "")
    log.add(ATTESTED)


def admitted_while_its_borrower_is_stopped(log: Writer) -> None:
    log.stop(StopTarget.BORROWER, BORROWER)
    log.add(ATTESTED)


def lent_to_another(log: Writer) -> None:
    log.add(ATTESTED)
    log.add(ModelTermsSet(model=MODEL, policy=DIGEST, borrowers=[BorrowerId("clinic")], epoch=7, command=COMMAND))


def granted_to_who_is_not_lent_it_any_more(log: Writer) -> None:
    lent_to_another(log)
    log.grant(1)


def a_key_for_who_is_not_lent_it_any_more(log: Writer) -> None:
    lent_to_another(log)
    log.add(RELEASED)


def another_package_under_a_models_name(log: Writer) -> None:
    added = next(entry.body for entry in log.entries if isinstance(entry.body, ModelAdded))
    log.add(replace(added, manifest=Digest("sha256:" + "1" * 64), command=ALONE))


def a_row_left_out(log: Writer) -> None:
    log.grant(1, rows=log.rows()[:1])


def a_row_twice(log: Writer) -> None:
    log.grant(1, rows=[*log.rows(), log.rows()[0]])


def no_row_at_all(log: Writer) -> None:
    log.grant(1, rows=[])


def units_that_nobody_counts(log: Writer) -> None:
    log.grant(1, vector=UnitVector(inferences=1, compute_ms=1))


def yesterdays_window(log: Writer) -> None:
    day = 86_400_000
    log.grant(
        1, rows=[k if k.window is Window.LIFETIME else replaced(k, bucket_ms=k.bucket_ms - day) for k in log.rows()]
    )


def a_lease_twice(log: Writer) -> None:
    log.grant(1)
    log.leases = 0
    log.grant(1)


def a_lease_again_when_it_is_over(log: Writer) -> None:
    log.close(log.grant(1), 1)
    log.leases -= 1
    log.grant(1)


def a_close_twice(log: Writer) -> None:
    lease = log.grant(1)
    log.close(lease, 1)
    log.close(lease, 0)


def an_expiry_after_a_close(log: Writer) -> None:
    lease = log.grant(1)
    log.close(lease, 1)
    log.add(LeaseExpired(lease_id=lease))


def a_refund_of_a_lease_that_never_expired(log: Writer) -> None:
    log.close(log.grant(2), 1, late=True)


def more_use_than_units(log: Writer) -> None:
    log.close(log.grant(2), 3)


def a_charge_below_the_use(log: Writer) -> None:
    log.close(log.grant(5), 3, charged=1)


def an_unknown_lease(log: Writer) -> None:
    log.close(LeaseId("f" * 32), 0)


def time_goes_back(log: Writer) -> None:
    log.grant(1)
    log.add(LeaseExpired(lease_id=LeaseId(f"{1:032x}")), later_ms=-5)


def a_second_genesis(log: Writer) -> None:
    log.add(Genesis(custodian=ROOT.public.key_id))


def an_unknown_model(log: Writer) -> None:
    log.entries = [entry for entry in log.entries if not isinstance(entry.body, ModelAdded)]
    log.entries = [replace(entry, index=index) for index, entry in enumerate(log.entries)]
    log.grant(1)


def a_dimension_is_left_out(log: Writer) -> None:
    log.entries.clear()
    log.begin(Dimension.COMPUTE_MS)
    log.limit(WIDE, 100)
    log.add(BudgetSet(limit=replace(LIMIT, dimension=Dimension.COMPUTE_MS), command=COMMAND))
    log.grant(1, rows=[RowKey(scope=WIDE, dimension=UNITS, window=Window.LIFETIME, bucket_ms=0)])


def a_dimension_too_many(log: Writer) -> None:
    compute = replace(LIMIT, dimension=Dimension.COMPUTE_MS)
    log.add(BudgetSet(limit=compute, command=COMMAND))
    key = RowKey(scope=WIDE, dimension=Dimension.COMPUTE_MS, window=Window.LIFETIME, bucket_ms=0)
    log.grant(1, rows=[*log.rows(), key], vector=UnitVector(inferences=1, compute_ms=1))


def what_a_model_meters_changes(log: Writer) -> None:
    added = next(entry.body for entry in log.entries if isinstance(entry.body, ModelAdded))
    log.add(replace(added, also=(Dimension.COMPUTE_MS,), command=ALONE))


def an_epoch_goes_back(log: Writer) -> None:
    log.epoch = 5
    log.stop(StopTarget.ALL, "")
    log.epoch = 2
    log.resume(StopTarget.ALL, "")


def replaced(key: RowKey, **changes: Any) -> RowKey:
    return replace(key, **changes)


CRIMES: list[tuple[Callable[[Writer], None], str]] = [
    (overspend, "overspend"),
    (overspend_after_lowering, "overspend"),
    (granted_while_stopped, "granted_while_stopped"),
    (granted_after_a_fork, "granted_while_stopped"),
    (granted_after_a_fork_was_lifted, "forked"),
    (refunded_after_a_fork, "forked"),
    (admitted_again_after_a_fork, "forked"),
    (a_key_while_all_is_stopped, "released_while_stopped"),
    (a_key_of_a_stopped_model, "released_while_stopped"),
    (a_key_for_a_stopped_borrower, "released_while_stopped"),
    (a_key_for_a_stopped_enclave, "released_while_stopped"),
    (a_key_of_a_model_that_was_withdrawn, "released_while_stopped"),
    (a_key_for_nobody_that_was_admitted, "not_admitted"),
    (a_key_for_an_enclave_that_is_wiped, "not_admitted"),
    (a_key_for_an_enclave_that_is_not_acceptable, "not_admitted"),
    (a_key_of_another_package, "unknown_model"),
    (admitted_while_all_is_stopped, "admitted_while_stopped"),
    (admitted_while_its_borrower_is_stopped, "admitted_while_stopped"),
    (granted_to_who_is_not_lent_it_any_more, "not_lent"),
    (a_key_for_who_is_not_lent_it_any_more, "not_lent"),
    (another_package_under_a_models_name, "model_twice"),
    (a_row_left_out, "wrong_rows"),
    (a_row_twice, "wrong_rows"),
    (no_row_at_all, "wrong_rows"),
    (units_that_nobody_counts, "wrong_rows"),
    (yesterdays_window, "wrong_window"),
    (a_lease_twice, "lease_twice"),
    (a_lease_again_when_it_is_over, "lease_twice"),
    (a_close_twice, "inconsistent"),
    (an_expiry_after_a_close, "inconsistent"),
    (a_refund_of_a_lease_that_never_expired, "wrong_close"),
    (more_use_than_units, "wrong_close"),
    (a_charge_below_the_use, "wrong_charge"),
    (an_unknown_lease, "unknown_lease"),
    (time_goes_back, "order"),
    (a_second_genesis, "genesis"),
    (an_unknown_model, "unknown_model"),
    (a_dimension_is_left_out, "wrong_rows"),
    (a_dimension_too_many, "wrong_rows"),
    (what_a_model_meters_changes, "model_twice"),
    (an_epoch_goes_back, "epoch"),
]


@pytest.mark.parametrize(("crime", "reason"), CRIMES)
def test_a_signed_log_that_breaks_a_rule_is_refused(crime: Callable[[Writer], None], reason: str) -> None:
    """The custodian's signature is no excuse: the entry that breaks the rule is the last one, and is named."""
    log = begun()
    crime(log)
    with pytest.raises(LogError, match=rf"^entry {len(log.entries) - 1}: ") as refused:
        log.verify()
    assert refused.value.reason == reason


def test_a_log_begins_with_its_own_custodian() -> None:
    """A genesis by somebody else, or none, is refused at entry 0."""
    foreign, headless = Writer(), Writer()
    foreign.add(Genesis(custodian=SigningKey.generate().public.key_id))
    headless.limit(WIDE, 1)
    for log in (foreign, headless):
        with pytest.raises(LogError, match=r"^entry 0: "):
            log.verify()


def test_a_full_budget_and_a_lowered_limit_are_no_crime() -> None:
    """What is exactly full is not over, and a limit below what is used only ends granting."""
    log = begun()
    log.grant(50)
    log.limit(WIDE, 3)
    report = log.verify()
    assert {row.limit: row.pending for row in report.rows} == {3: 50, 50: 50}


def test_an_explicit_unlimited_budget_is_debited_too() -> None:
    """No limit is a decision, and its use is counted all the same."""
    log = begun()
    log.limit(WIDE, None)
    log.close(log.grant(40), 40)
    assert {(row.limit, row.posted) for row in log.verify().rows} == {(None, 40), (50, 40)}


def test_a_new_day_has_a_new_row() -> None:
    """Units belong to the window in which they were granted."""
    log = begun()
    log.grant(50)
    log.wait(86_400_000)
    log.grant(50)
    assert sorted(row.pending for row in log.verify().rows) == [50, 50, 100]


def hourly(limit: int) -> Writer:
    """A log with one budget for a rolling hour, beginning at the full hour."""
    log = Writer()
    log.begin()
    log.limit(WIDE, limit, Window.ROLLING_HOUR)
    return log


def test_a_rolling_window_counts_its_earlier_buckets() -> None:
    """What was granted half an hour before is still in the hour; after the hour it is not."""
    log = hourly(5)
    lease = log.grant(5)
    log.close(lease, 3)
    log.wait(1_800_000)
    log.grant(2)
    log.wait(1_860_000)
    log.grant(3)
    assert log.verify().leases == 3


@pytest.mark.parametrize("minutes", [1, 30, 59])
def test_an_overspent_rolling_hour_is_named(minutes: int) -> None:
    """However the grants lie in it."""
    log = hourly(5)
    log.grant(4)
    log.wait(minutes * 60_000)
    log.grant(2)
    with pytest.raises(LogError) as caught:
        log.verify()
    assert caught.value.reason == "overspend"
    assert caught.value.message.startswith(f"entry {len(log.entries) - 1}:")


@pytest.mark.parametrize("window", [Window.HOUR, Window.ROLLING_HOUR])
def test_a_window_is_over_once_the_next_one_was_in_use(window: Window) -> None:
    """Attack: as a line may be later than its decision, a limit is used up in this window, and then in the one before.

    Decisions are made one after the other: none is of an earlier window than one before it.
    """

    def granted(*buckets: int) -> Writer:
        log = hourly(100)
        log.entries.pop()
        log.limit(WIDE, 5, window)
        log.wait(-log.entries[-1].at_ms % 3_600_000 + 20_000)
        for back in buckets:
            width_ms = 60_000 if window is Window.ROLLING_HOUR else 3_600_000
            log.grant(5, rows=[replaced(row, bucket_ms=row.bucket_ms - back * width_ms) for row in log.rows()])
        return log

    for honest_one in ((0,), (1,), (1, 0)):
        if window is Window.HOUR or len(honest_one) == 1:
            assert granted(*honest_one).verify().leases == len(honest_one)
    with pytest.raises(LogError) as caught:
        granted(0, 1).verify()
    assert caught.value.reason == "wrong_window"


def test_a_grant_after_the_end_of_its_budget_is_named() -> None:
    """A minute is allowed between the decision and its line, no more."""
    log = begun()
    limit = BudgetLimit(scope=WIDE, dimension=UNITS, window=Window.LIFETIME, limit=50, not_after_ms=NOON + 120_000)
    log.add(BudgetSet(limit=limit, command=COMMAND))
    log.grant(1)
    log.wait(NOON + 190_000 - log.entries[-1].at_ms)
    log.grant(1)
    with pytest.raises(LogError) as caught:
        log.verify()
    assert caught.value.reason == "budget_ended"


def lost_note(size: int, *, generation: int = 0, key: SigningKey = LOG_KEY) -> str:
    """Return a checkpoint of entries that no copy has."""
    lost = Checkpoint(custodian=ROOT.public.key_id, size=size, root=bytes(32), generation=generation)
    return sign_checkpoint(lost, key)


def restored(log: Writer, at: int = 1, **changes: Any) -> Writer:
    """Begin generation 1 after a restore from a backup, in an entry of generation `at`."""
    body = Restored(generation=1, checkpoint=lost_note(99), lost_size=99, command=COMMAND)
    log.add(replace(body, **changes), generation=at)
    return log


def test_a_restored_ledger_goes_on_in_a_new_generation() -> None:
    """What was forgotten is charged, also beyond a limit; what was lost in crashes is written off."""
    log = begun()
    lease = log.grant(10)
    log.add(LeaseExpired(lease_id=lease))
    restored(log)
    wide = next(key for key in log.rows() if key.scope == WIDE)
    log.add(Charged(row=wide, units=200, command=COMMAND), generation=1)
    log.add(LeaseWrittenOff(lease_id=lease, command=COMMAND), generation=1)
    report = log.verify(note=log.note(generation=1))
    assert {row.posted for row in report.rows if row.key == wide} == {210}
    assert report.unclosed_leases == 0


def test_a_bucket_that_nothing_was_debited_from_can_be_charged() -> None:
    """The grants from it are what was forgotten; it must have begun, and be a bucket."""
    hour_ms = 3_600_000
    bucket_ms = NOON // hour_ms * hour_ms + 2 * hour_ms

    def charged(bucket_ms: int) -> Writer:
        log = begun()
        log.limit(WIDE, 5, Window.HOUR)
        restored(log)
        key = RowKey(scope=WIDE, dimension=UNITS, window=Window.HOUR, bucket_ms=bucket_ms)
        log.add(Charged(row=key, units=7, command=COMMAND), generation=1, later_ms=2 * hour_ms)
        return log

    log = charged(bucket_ms)
    assert [row.posted for row in log.verify(note=log.note(generation=1)).rows if row.key.bucket_ms == bucket_ms] == [7]
    for wrong in (bucket_ms + 1, bucket_ms + hour_ms, 2**53 - 1):
        log = charged(wrong)
        with pytest.raises(LogError) as caught:
            log.verify(note=log.note(generation=1))
        assert caught.value.reason == "wrong_window"


@pytest.mark.parametrize(
    "crime",
    [
        lambda log: log.add(Wiped(instance=INSTANCE, epoch=0), generation=1),
        lambda log: restored(log, at=0),
        lambda log: restored(log, at=2),
        lambda log: [restored(log) for _ in range(2)],
    ],
    ids=["unexplained", "the old one", "another than it says", "twice"],
)
def test_a_generation_that_is_not_explained_is_named(crime: Callable[[Writer], object]) -> None:
    """A new generation begins with the entry that says what was lost, and only there."""
    log = begun()
    crime(log)
    with pytest.raises(LogError) as caught:
        log.verify(note=log.note(generation=log.entries[-1].generation))
    assert caught.value.reason == "generation"


def test_a_key_goes_to_who_attested_in_this_generation() -> None:
    """A restored ledger does not know what became of those that it admitted: they attest anew."""
    log = begun()
    log.add(ATTESTED)
    restored(log)
    log.add(RELEASED, generation=1)
    with pytest.raises(LogError) as caught:
        log.verify(note=log.note(generation=1))
    assert caught.value.reason == "not_admitted"
    log.entries.pop()
    log.add(replace(ATTESTED, instance=NEXT), generation=1)
    log.add(replace(RELEASED, instance=NEXT), generation=1)
    assert log.verify(note=log.note(generation=1)).machines == ((("simulated", None), 3),)


def test_a_checkpoint_of_another_generation_is_refused() -> None:
    """A note from before a restore does not vouch for what came after."""
    log = begun()
    restored(log)
    with pytest.raises(LogError) as caught:
        log.verify(note=log.note(generation=0))
    assert caught.value.reason == "generation"


def test_a_lease_is_written_off_once_and_only_when_it_has_expired() -> None:
    """The table of states holds in the log too, and a charge names a budget that exists."""

    def crimes(log: Writer, lease: LeaseId) -> list[EntryBody]:
        nowhere = replaced(log.rows()[0], scope=Scope(model=ModelId("no")))
        return [
            LeaseWrittenOff(lease_id=lease, command=COMMAND),
            LeaseWrittenOff(lease_id=LeaseId("f" * 32), command=COMMAND),
            Charged(row=nowhere, units=1, command=COMMAND),
        ]

    for number, reason in enumerate(("inconsistent", "unknown_lease", "unknown_row")):
        log = begun()
        lease = log.grant(10)
        restored(log).add(crimes(log, lease)[number], generation=1)
        with pytest.raises(LogError) as caught:
            log.verify(note=log.note(generation=1))
        assert caught.value.reason == reason


# --- Checkpoints that the reader holds -------------------------------------------------------------------------


def verified(log: Writer, *seen: str, generation: int = 0) -> AuditReport:
    note = log.note(generation=generation)
    return verify_log(log.lines(), note, [LOG_KEY.public], ROOT.public.key_id, seen=seen)


def test_a_log_extends_every_checkpoint_that_was_signed_of_it() -> None:
    """Of any size, the empty one and its own included, in any order."""
    log, notes = Writer(), []
    notes.append(log.note())
    for entry in honest().entries:
        log.entries.append(entry)
        notes.append(log.note())
    assert verified(log, *notes[::-1]).lost == ()


def test_an_old_but_genuine_copy_is_refused_by_whoever_remembers_more() -> None:
    """It verifies by itself: that something is missing only a newer checkpoint can show."""
    log = honest()
    newer = log.note()
    del log.entries[-3:]
    assert verified(log).entries == len(log.entries)
    with pytest.raises(LogError) as caught:
        verified(log, newer)
    assert caught.value.reason == "rollback"


def test_a_rewritten_log_is_refused_by_whoever_remembers_another() -> None:
    """Signed again by the log's own key, and longer than what the reader saw: the custodian told two stories."""
    log = begun()
    log.grant(1)
    told = log.note()
    log.entries.pop()
    log.grant(2)
    log.grant(3)
    with pytest.raises(LogError) as caught:
        verified(log, told)
    assert caught.value.reason == "rewritten"


def test_what_was_lost_by_a_restore_is_reported_and_no_more_than_that_is_excused() -> None:
    """The log says itself how much it has forgotten; a larger loss than it admits is a rewritten log."""
    log = begun()
    for units in range(1, 4):
        log.grant(units)
    told = log.note()
    size = len(log.entries)
    del log.entries[-2:]
    for admitted, excused in ((size, True), (size - 1, False)):
        restored_log = Writer(entries=list(log.entries))
        restored(restored_log, checkpoint=lost_note(admitted), lost_size=admitted)
        if excused:
            assert [one.size for one in verified(restored_log, told, generation=1).lost] == [size]
        else:
            with pytest.raises(LogError):
                verified(restored_log, told, generation=1)


def test_a_restore_excuses_no_generation_that_its_checkpoint_does_not_reach() -> None:
    """As the custodian, which takes what was signed in a later generation for another loss."""
    log = begun()
    restored(log)
    body = Restored(generation=4, checkpoint=lost_note(90, generation=2), lost_size=90, command=COMMAND)
    log.add(body, generation=4)
    assert len(verified(log, lost_note(90, generation=2), lost_note(80, generation=1), generation=4).lost) == 2
    with pytest.raises(LogError) as caught:
        verified(log, lost_note(80, generation=3), generation=4)
    assert caught.value.reason == "rewritten"


def test_what_came_with_the_copy_is_not_what_the_reader_holds() -> None:
    """Both may be lost, both must fit; only the reader's own are reported to be lost, and each is called what it is."""
    log = begun()
    kept = log.note()
    restored(log)
    note = log.note(generation=1)
    arguments: Any = {"keys": [LOG_KEY.public], "custodian": ROOT.public.key_id}
    report = verify_log(log.lines(), note, **arguments, seen=[kept], cosigned=[lost_note(40), lost_note(41)])
    assert report.lost == ()
    report = verify_log(log.lines(), note, **arguments, seen=[kept, lost_note(40)], cosigned=[lost_note(40)])
    assert [one.size for one in report.lost] == [40]
    for held, called in (("seen", "you hold"), ("cosigned", "came with")):
        more: Any = {held: [lost_note(100)]}
        with pytest.raises(LogError, match=called) as caught:
            verify_log(log.lines(), note, **arguments, **more)
        assert caught.value.reason == "rewritten"


def test_a_checkpoint_of_a_state_that_the_log_was_never_in_is_refused() -> None:
    """Attack: size and root are those of the log, and the generation is one that it did not have then."""
    log = begun()
    for size in (0, 2):
        root = root_of([entry.leaf() for entry in log.entries[:size]])
        held = Checkpoint(custodian=ROOT.public.key_id, size=size, root=root, generation=7)
        with pytest.raises(LogError) as caught:
            verified(log, sign_checkpoint(held, LOG_KEY))
        assert caught.value.reason == "never_signed"
    with pytest.raises(LogError) as caught:
        Writer().verify(note=Writer().note(generation=7))
    assert caught.value.reason == "generation"


@pytest.mark.parametrize("key", [LOG_KEY, SigningKey.generate()], ids=["ours", "another"])
def test_a_checkpoint_that_is_held_must_be_of_this_log(key: SigningKey) -> None:
    """A forged one, or another custodian's, proves nothing against anybody."""
    other = Checkpoint(custodian=SigningKey.generate().public.key_id, size=1, root=bytes(32))
    with pytest.raises(LogError) as caught:
        verified(honest(), sign_checkpoint(other, key))
    assert caught.value.reason in {"wrong_custodian", "checkpoint"}


# --- Whatever is signed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", list(Window))
def test_a_time_beyond_every_calendar_is_a_time(window: Window) -> None:
    """Attack: an entry of the year 287,396 under a budget of any window; no reader breaks off at it."""
    log = begun()
    limit = BudgetLimit(scope=WIDE, dimension=UNITS, window=window, limit=5)
    log.add(BudgetSet(limit=limit, command=COMMAND), at_ms=2**53 - 2_000)
    log.grant(5)
    assert log.verify().leases == 1


def test_every_number_in_a_log_may_be_any_number() -> None:
    """Whatever a custodian signs, an auditor says yes or names what is wrong with it."""
    log = honest()
    log.grant(1)
    restored(log).add(Charged(row=log.rows()[0], units=3, command=COMMAND), generation=1)
    for number, entry in enumerate(log.entries):
        data = encode(entry)
        for found in re.finditer(rb'":(\d+)', data):
            for other in (b"0", b"1", b"%d" % MAX_INTEGER):
                changed = decode(data[: found.start(1)] + other + data[found.end(1) :], Entry)
                forged = Writer(entries=[*log.entries[:number], changed, *log.entries[number + 1 :]])
                with contextlib.suppress(LogError):
                    forged.verify(note=forged.note(generation=forged.entries[-1].generation))


# --- What to do ----------------------------------------------------------------------------------------------


def refusals() -> Iterator[LogError]:
    """Break a log in every way of this file."""
    other = SigningKey.generate()
    whole, log = honest().lines(), honest()
    altered = [*whole[:3], LoggedEntry(data=whole[3].data[:-1] + b"x", leaf=whole[3].leaf), *whole[4:]]
    spaced = LoggedEntry(data=b" " + whole[3].data, leaf=leaf_hash(b" " + whole[3].data))
    forged = replace(log.entries[3], at_ms=log.entries[3].at_ms + 1)
    changed = [*whole[:3], LoggedEntry(data=encode(forged), leaf=forged.leaf()), *whole[4:]]
    foreign = sign_checkpoint(Checkpoint(custodian=other.public.key_id, size=1, root=bytes(32)), LOG_KEY)
    root = root_of([entry.leaf() for entry in log.entries])
    never = Checkpoint(custodian=ROOT.public.key_id, size=len(whole), root=root, generation=1)
    attempts: list[tuple[list[LoggedEntry], str, list[str]]] = [
        (altered, log.note(), []),
        ([*whole[:3], spaced, *whole[4:]], log.note(), []),
        (changed, log.note(), []),
        (whole[:-1], log.note(), []),
        ([*whole, whole[-1]], log.note(), []),
        (whole[:2] + whole[3:], log.note(), []),
        (whole, log.note(generation=1), []),
        (whole, log.note(other), []),
        (whole, foreign, []),
        (whole, log.note(), [foreign]),
        (whole, log.note(), [lost_note(1)]),
        (whole, log.note(), [lost_note(99)]),
        (whole, log.note(), [sign_checkpoint(never, LOG_KEY)]),
        (whole, log.note() + cosign(parse_checkpoint(log.note()).text(), "w.example", other, 1), []),
    ]
    for crime, _ in CRIMES:
        log = begun()
        crime(log)
        attempts.append((log.lines(), log.note(), []))
    for lines, note, seen in attempts:
        with pytest.raises(LogError) as caught:
            verify_log(lines, note, [LOG_KEY.public], ROOT.public.key_id, seen=seen)
        yield caught.value


def test_every_refusal_says_what_to_do() -> None:
    """Whoever reads it is no author of this program, and holds a copy that is worth nothing."""
    found = list(refusals())
    assert [error.reason for error in found if not error.fix] == []
    assert {error.reason for error in found} >= {
        *(reason for _, reason in CRIMES),
        *("altered", "malformed", "root", "truncated", "too_many", "index", "generation", "checkpoint"),
        *("wrong_custodian", "rewritten", "rollback", "never_signed", "cosignature"),
    }


@pytest.mark.parametrize("seen", [lost_note(99), lost_note(1), "aigovtool/rubbish"])
def test_a_checkpoint_that_does_not_fit_is_called_by_its_name(seen: str) -> None:
    """A reader who holds many must be told which; the first one fits."""
    log = honest()
    arguments: Any = {"seen": [log.note(), seen], "names": ["monday.txt", "tuesday.txt"]}
    with pytest.raises(LogError, match=r"tuesday\.txt") as caught:
        verify_log(log.lines(), log.note(), [LOG_KEY.public], ROOT.public.key_id, **arguments)
    assert "monday" not in caught.value.message
