"""A ledger that was restored from a backup: whoever remembers more makes it refuse, until two operators settle."""

import itertools
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import psycopg
import pytest
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL, Bench, Enclave, report, want
from tests.custodian.host_clock import told_by

from aigovtool.codec import decode, encode
from aigovtool.crypto.identity import Identity, IdentityKind
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.custodian.app import open_custodian
from aigovtool.custodian.service import commands, renewal, views
from aigovtool.custodian.service.continuity import leapt
from aigovtool.custodian.store import parties
from aigovtool.custodian.store.records import Party
from aigovtool.custodian.store.transaction import Gap, Head, Transaction
from aigovtool.errors import (
    AIGovToolError,
    ConflictError,
    InvalidValueError,
    LedgerRollbackError,
    LogError,
    NotFoundError,
    SignatureInvalidError,
    TooLargeError,
)
from aigovtool.ids import BorrowerId, ConsumerId, OperatorId, key_id_of
from aigovtool.ledger import entry
from aigovtool.ledger.audit import AuditReport, LoggedEntry, verify_log
from aigovtool.ledger.budget import BudgetLimit, RowKey, Scope, Window, key_now
from aigovtool.ledger.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.merkle import leaf_hash
from aigovtool.ledger.policy import GRACE_MS, Dial, default_policy
from aigovtool.ledger.units import Dimension, UnitVector
from aigovtool.limits import MAX_INTEGER
from aigovtool.protocol import commands as acts
from aigovtool.protocol import messages
from aigovtool.protocol.commands import COMMAND, Act, CommandResult
from aigovtool.protocol.messages import Answer, Deny, DenyCode, Grant, Renew
from aigovtool.protocol.metering import Meter
from aigovtool.protocol.views import Budgets, CheckpointSeen

BUDGET = 1000
MINUTE_MS = 60_000
ROW = RowKey(scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.LIFETIME, bucket_ms=0)
STOP = acts.Stop(target=StopTarget.ALL, value="", reason="drill")


@dataclass
class Backup:
    """A copy of the ledger, as it was when this was made."""

    bench: Bench
    ledger: str | None
    rows: dict[str, list[tuple[object, ...]]]
    file: bytes

    def restore(self) -> None:
        """Put the copy in the place of the ledger, and start the custodian on it."""
        clock = self.bench.custodian.clock
        self.bench.custodian.database.close()
        if self.ledger is None:
            (self.bench.directory / "ledger.db").write_bytes(self.file)
            for leftover in ("ledger.db-wal", "ledger.db-shm"):
                (self.bench.directory / leftover).unlink(missing_ok=True)
        else:
            _put_tables(self.ledger, self.rows)
        self.bench.custodian = open_custodian(self.bench.directory)
        self.bench.custodian.clock = clock


@contextmanager
def _closed(bench: Bench) -> Iterator[None]:
    clock = bench.custodian.clock
    bench.custodian.database.close()
    yield
    bench.custodian = open_custodian(bench.directory)
    bench.custodian.clock = clock


def _tables(ledger: str) -> dict[str, list[tuple[object, ...]]]:
    with psycopg.connect(ledger) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for (name,) in names}


def _put_tables(ledger: str, tables: dict[str, list[tuple[object, ...]]]) -> None:
    with psycopg.connect(ledger) as connection:
        for name, rows in tables.items():
            connection.execute(f"DELETE FROM {name}")
            for row in rows:
                places = ", ".join(["%s"] * len(row))
                connection.execute(f"INSERT INTO {name} VALUES ({places})", row)


def backup(bench: Bench, ledger: str | None) -> Backup:
    """Copy the ledger while no custodian has it open."""
    with _closed(bench):
        file = b"" if ledger else (bench.directory / "ledger.db").read_bytes()
        return Backup(bench, ledger, _tables(ledger) if ledger else {}, file)


@pytest.fixture
async def lent_with_budget(lent: Bench) -> Bench:
    """The custodian lends a model with a budget, and has two operators."""
    await lent.grant(BUDGET)
    return lent


def lifting(epoch: int | None) -> acts.Resume:
    """Return an order that lifts the stop of everything that has this epoch."""
    return acts.Resume(target=StopTarget.ALL, value="", reason="over", epoch=epoch)


@dataclass
class Two:
    """Two operators of one custodian."""

    bench: Bench
    bob_key: SigningKey

    @property
    def bob(self) -> Identity:
        return self.bench.identity(IdentityKind.OPERATOR, "bob", self.bob_key)

    async def command(
        self, act: Act, *keys: SigningKey, sender: Identity | None = None, **changes: object
    ) -> CommandResult:
        envelope = seal(COMMAND, self.bench.order(act, **changes), *(keys or (self.bench.key, self.bob_key)))
        return await commands.execute(self.bench.custodian, sender or self.bob, envelope)

    async def lift(self, **changes: Any) -> CommandResult:
        """Lift the stop of everything that is in force now."""
        (stop,) = (await views.show_stops(self.bench.custodian)).stops
        return await self.command(lifting(stop.epoch), **changes)

    async def settle(self, *charges: acts.RowCharge) -> CommandResult:
        gap = await views.show_gap(self.bench.custodian)
        act = acts.SettleGap(checkpoint=gap.checkpoint or "", charges=list(charges), reason="disk lost")
        return await self.command(act)


@pytest.fixture
async def two(lent_with_budget: Bench) -> Two:
    key = SigningKey.generate()
    await lent_with_budget.add_party(PartyRole.OPERATOR, "bob", key)
    return Two(lent_with_budget, key)


async def drawn(enclave: Enclave, units: int) -> Grant:
    (result,) = (await enclave.renew(want(units))).results
    assert isinstance(result, Grant)
    return result


async def spend(enclave: Enclave, units: int) -> None:
    grant = await drawn(enclave, units)
    await enclave.renew(reports=(report(grant.lease_id, seq=1, used=units, final=True),))


async def forgotten(two: Two, ledger: str | None) -> Enclave:
    """An enclave that used five units, on a custodian that has forgotten it."""
    enclave = Enclave(two.bench)
    await enclave.boot()
    await spend(enclave, 2)
    copy = backup(two.bench, ledger)
    await spend(enclave, 5)
    copy.restore()
    return enclave


async def posted(bench: Bench) -> int:
    (row,) = (await views.show_budgets(bench.custodian)).budgets
    return row.posted


async def verified(bench: Bench) -> AuditReport:
    page, head = await views.show_log(bench.custodian, 0, 1000), await views.show_head(bench.custodian)
    lines = [LoggedEntry(data=line, leaf=leaf_hash(line)) for line in page.entries]
    return verify_log(lines, head.checkpoint, bench.custodian.keys.key_set.log_keys(), bench.custodian.keys.custodian)


async def test_a_stop_of_a_consumer_does_not_end_with_its_credential(two: Two) -> None:
    """Attack: its enclave wishes for units when it is listed as stopped no more. The log would never verify again."""
    bench, brief = two.bench, ConsumerId("brief")
    act = acts.AddParty(
        role=PartyRole.CONSUMER,
        name=brief,
        key=SigningKey.generate().public.raw,
        borrower=BORROWER,
        valid_for_ms=3_600_000,
    )
    await bench.command(act)
    enclave = Enclave(bench)
    await enclave.boot()
    assert isinstance((await enclave.renew(want(1, consumer=brief))).results[0], Grant)
    await bench.command(acts.Stop(target=StopTarget.CONSUMER, value=brief, reason="incident"))
    for passed_ms, code in ((0, DenyCode.STOPPED), (3_600_000, DenyCode.STOPPED), (1, DenyCode.NO_BUDGET_ROW)):
        bench.now_ms += passed_ms
        (denied,) = (await enclave.renew(want(1, consumer=brief))).results
        assert isinstance(denied, Deny)
        assert denied.code is code
    assert isinstance((await enclave.renew(want(1))).results[0], Grant)  # nobody else is concerned
    assert (await verified(bench)).stops == ((StopTarget.CONSUMER, brief),)


@pytest.mark.parametrize("read", range(1, 7))
async def test_a_machine_that_is_suspended_within_a_renewal_leaves_a_log_that_verifies(read: int, two: Two) -> None:
    """Minutes pass between the clock's readings: what is granted is of the window of its own entry, or of no use."""
    bench, enclave = two.bench, Enclave(two.bench)
    await bench.command(
        acts.SetBudget(
            limit=BudgetLimit(
                scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.ROLLING_HOUR, limit=1_000
            )
        )
    )
    await enclave.boot()
    reads, begun_ms = itertools.count(1), bench.now_ms
    bench.custodian.clock = told_by(lambda: begun_ms + (150_000 if next(reads) > read else 0))
    (granted,) = (await enclave.renew(want(1))).results
    assert isinstance(granted, Grant)
    bench.now_ms = begun_ms + 150_000
    assert (await verified(bench)).unclosed_leases == 1


async def test_nothing_is_logged_that_an_auditor_would_not_read(two: Two) -> None:
    """Attack: one operator names so many borrowers in a model's terms that no copy of the log would verify any more."""
    bench = two.bench
    policy = msgspec.structs.replace(bench.policy, version=bench.policy.version + 1)
    twice = acts.SetModelTerms(model=MODEL, policy=policy, borrowers=[BORROWER, BORROWER])
    with pytest.raises(InvalidValueError) as refused:
        await bench.command(twice)
    assert refused.value.reason == "borrower_twice"
    names = [BorrowerId(f"b{number:062d}") for number in range(1_100)]

    def enrol(transaction: Transaction) -> None:
        for name in names:
            key, until_ms = secrets.token_bytes(32), bench.now_ms + 1
            added = Party(role=PartyRole.BORROWER, name=name, borrower=None, key=key, not_after_ms=until_ms)
            parties.add(transaction, added)

    await bench.custodian.database.run(enrol)
    with pytest.raises(TooLargeError) as larger:
        await bench.command(msgspec.structs.replace(twice, borrowers=names))
    assert larger.value.reason == "entry_too_large"
    (model,) = (await views.show_models(bench.custodian)).models
    assert (model.policy, model.borrowers) == (bench.policy, [BORROWER])
    await bench.command(msgspec.structs.replace(twice, borrowers=names[:900]))
    assert (await verified(bench)).entries == len(await bench.log())


# --- Detection -------------------------------------------------------------------------------------------------


async def test_an_enclave_that_remembers_more_ends_all_grants(two: Two, ledger: str | None) -> None:
    """No renewal, boot, key or order on a ledger that would grant again what it forgot; a stop and views work."""
    enclave = await forgotten(two, ledger)
    bench = two.bench
    for refused in (
        enclave.renew(want(1)),
        enclave.renew(),
        Enclave(bench).boot(),
        enclave.release(),
        bench.grant(1),
        bench.add_borrower(BorrowerId("newcomer")),
    ):
        with pytest.raises(LedgerRollbackError):
            await refused
    assert await posted(bench) == 2
    await bench.command(STOP)
    assert (await views.show_stops(bench.custodian)).stops
    gap = await views.show_gap(bench.custodian)
    assert gap.checkpoint == enclave.checkpoint_seen
    assert gap.lost_size is not None
    assert gap.lost_size > gap.size


async def test_a_gap_and_what_is_refused_for_it_are_in_the_log(two: Two, ledger: str | None) -> None:
    """When it was found, by which checkpoint, and each order that was refused; then the log verifies still."""
    enclave = await forgotten(two, ledger)
    before = len(await two.bench.log())
    for _ in range(2):
        with pytest.raises(LedgerRollbackError):
            await enclave.renew()
        with pytest.raises(LedgerRollbackError):
            await two.bench.grant(1)
    found, *others = (await two.bench.log())[before:]
    assert isinstance(found, entry.GapFound)
    assert (found.checkpoint, found.lost_generation) == (enclave.checkpoint_seen, 0)
    assert found.lost_size > before
    assert [type(line) for line in others] == [entry.CommandRefused] * 2
    assert {(line.code, line.times) for line in others if isinstance(line, entry.CommandRefused)} == {
        ("ledger_rollback", 1)
    }
    await two.settle()
    await two.bench.grant(1)


async def test_what_was_found_is_remembered_over_a_restart(two: Two, ledger: str | None) -> None:
    """Starting the custodian again does not make it forget that it has forgotten."""
    enclave = await forgotten(two, ledger)
    with pytest.raises(LedgerRollbackError):
        await enclave.renew(want(1))
    with _closed(two.bench):
        pass
    with pytest.raises(LedgerRollbackError):
        await Enclave(two.bench).boot()


async def test_anybody_who_holds_a_newer_checkpoint_can_show_it(two: Two, ledger: str | None) -> None:
    """A consumer, an auditor or a witness need not be an enclave, nor have a credential."""
    enclave = await forgotten(two, ledger)
    with pytest.raises(LedgerRollbackError):
        await views.compare(two.bench.custodian, CheckpointSeen(checkpoint=enclave.checkpoint_seen))
    with pytest.raises(LedgerRollbackError):
        await two.bench.grant(1)


async def test_a_copy_that_went_on_by_itself_is_found_out_by_its_roots(two: Two, ledger: str | None) -> None:
    """Also when it has more entries by now than the checkpoint: they are not the ones that were signed."""
    enclave = await forgotten(two, ledger)
    for _ in range(20):
        await two.bench.grant(1)
    gap = await views.show_gap(two.bench.custodian)
    assert gap.size > open_checkpoint(enclave.checkpoint_seen, two.bench.custodian.keys.key_set.log_keys()).size
    with pytest.raises(LedgerRollbackError):
        await enclave.renew()


async def test_what_the_log_never_signed_stops_nobody(two: Two) -> None:
    """Neither a forged checkpoint, nor another custodian's, nor rubbish; the sender alone is refused."""
    enclave, bench = Enclave(two.bench), two.bench
    await enclave.boot()
    await spend(enclave, 1)
    custodian = bench.custodian.keys.custodian
    far = Checkpoint(custodian=custodian, size=10**6, root=bytes(32))
    stranger = msgspec.structs.replace(far, custodian=key_id_of(b"another"))
    for note in (
        sign_checkpoint(far, SigningKey.generate()),
        sign_checkpoint(stranger, SigningKey.generate()),
        sign_checkpoint(stranger, bench.custodian.keys.log),
        "rubbish",
    ):
        enclave.checkpoint_seen = note
        with pytest.raises(LogError):
            await enclave.renew()
        with pytest.raises(LogError):
            await views.compare(bench.custodian, CheckpointSeen(checkpoint=note))
    await bench.grant(1)


@pytest.mark.parametrize(("size", "generation"), [(MAX_INTEGER, 0), (10, MAX_INTEGER), (MAX_INTEGER, MAX_INTEGER)])
async def test_who_has_the_log_key_cannot_use_up_the_numbers(two: Two, size: int, generation: int) -> None:
    """Epochs and generations follow a checkpoint that is shown: by one of a log that there cannot be nothing moves."""
    keys = two.bench.custodian.keys
    far = Checkpoint(custodian=keys.custodian, size=size, root=bytes(32), generation=generation)
    note = sign_checkpoint(far, keys.log)
    with pytest.raises(LogError) as caught:
        await views.compare(two.bench.custodian, CheckpointSeen(checkpoint=note))
    assert caught.value.reason == "impossible_checkpoint"
    assert (await views.show_gap(two.bench.custodian)).checkpoint is None
    assert (await two.bench.command(STOP)).epoch == 1


async def test_a_gap_that_a_thief_opened_ends(two: Two) -> None:
    """The furthest that a stolen log key can say leaves epochs and generations for as long as anybody orders."""
    bench = two.bench
    keys = bench.custodian.keys
    far = Checkpoint(custodian=keys.custodian, size=bench.now_ms, root=bytes(32), generation=1 << 20)
    with pytest.raises(LedgerRollbackError):
        await views.compare(bench.custodian, CheckpointSeen(checkpoint=sign_checkpoint(far, keys.log)))
    assert (await bench.command(STOP)).epoch == bench.now_ms + 1
    await two.settle()
    assert (await views.show_gap(bench.custodian)).checkpoint is None
    await bench.grant(1)
    await verified(bench)


async def test_every_checkpoint_that_was_given_is_remembered(two: Two) -> None:
    """Old ones and the present one: an honest custodian never accuses itself."""
    enclave, notes = Enclave(two.bench), []
    await enclave.boot()
    for _ in range(10):
        await spend(enclave, 1)
        notes.append(enclave.checkpoint_seen)
    for note in [*notes, (await views.show_head(two.bench.custodian)).checkpoint]:
        await views.compare(two.bench.custodian, CheckpointSeen(checkpoint=note))


# --- Settlement ------------------------------------------------------------------------------------------------


async def test_a_settled_ledger_charges_the_gap_and_waits_for_old_leases(two: Two, ledger: str | None) -> None:
    """A new generation; nothing is granted before every lease that may be out is over, and then only what is left."""
    enclave, bench = await forgotten(two, ledger), two.bench
    with pytest.raises(LedgerRollbackError):
        await enclave.renew()
    await two.settle(acts.RowCharge(row=ROW, units=5))
    assert await posted(bench) == 7
    answer = await enclave.renew(want(1))  # its old note is explained now
    assert (answer.generation, answer.ttl_ms) == (1, 0)
    (denied,) = answer.results
    assert isinstance(denied, Deny)
    assert denied.code is DenyCode.REATTEST
    fresh = Enclave(bench)
    await fresh.boot()
    (quiet,) = (await fresh.renew(want(1))).results
    assert isinstance(quiet, Deny)
    assert (quiet.code, quiet.retry_after_ms) == (DenyCode.RESERVED, bench.policy.ttl_ms + GRACE_MS)
    bench.now_ms += bench.policy.ttl_ms + GRACE_MS
    grant = await drawn(fresh, 5)
    assert grant.units.inferences == 5
    assert await posted(bench) == 7


async def test_the_log_of_a_settled_ledger_verifies(two: Two, ledger: str | None) -> None:
    """It says who settled what, and every balance follows from it, the charges included."""
    enclave, bench = await forgotten(two, ledger), two.bench
    with pytest.raises(LedgerRollbackError):
        await enclave.renew()
    await two.settle(acts.RowCharge(row=ROW, units=5))
    assert [row.posted for row in (await verified(bench)).rows if row.key == ROW] == [7]
    restored, charged = (await bench.log())[-2:]
    assert isinstance(restored, entry.Restored)
    assert restored.checkpoint == enclave.checkpoint_seen
    assert {restored.command.operator, restored.command.second} == {"alice", "bob"}
    assert charged == entry.Charged(row=ROW, units=5, command=restored.command)


async def test_a_window_that_was_only_looked_at_can_be_charged(two: Two, ledger: str | None) -> None:
    """What was granted from it is forgotten, so the log knows no debit; it verifies all the same."""
    hourly = BudgetLimit(scope=ROW.scope, dimension=Dimension.INFERENCES, window=Window.HOUR, limit=BUDGET)
    await two.bench.command(acts.SetBudget(limit=hourly))
    enclave, bench = await forgotten(two, ledger), two.bench
    bench.now_ms += 2 * 3_600_000
    with pytest.raises(LedgerRollbackError):
        await enclave.renew()
    rows = [row.key for row in (await views.show_budgets(bench.custodian)).budgets]
    await two.settle(*(acts.RowCharge(row=row, units=5) for row in rows))
    report_ = await verified(bench)
    assert {row.key: row.posted for row in report_.rows if row.key in rows} == {
        row: 7 if row.window is Window.LIFETIME else 5 for row in rows
    }


async def test_a_window_is_charged_where_it_was_used(two: Two, ledger: str | None) -> None:
    """Also a bucket of which the restored ledger knows nothing; none that has not begun, or that is no bucket."""
    limit = BudgetLimit(scope=ROW.scope, dimension=Dimension.INFERENCES, window=Window.ROLLING_HOUR, limit=BUDGET)
    await two.bench.command(acts.SetBudget(limit=limit))
    enclave, bench = await forgotten(two, ledger), two.bench
    bench.now_ms += 10 * MINUTE_MS
    with pytest.raises(LedgerRollbackError):
        await enclave.renew()
    used = key_now(limit, bench.now_ms - 5 * MINUTE_MS)
    for bucket_ms in (key_now(limit, bench.now_ms + 5 * MINUTE_MS).bucket_ms, used.bucket_ms + 1):
        with pytest.raises(NotFoundError) as caught:
            await two.settle(acts.RowCharge(row=msgspec.structs.replace(used, bucket_ms=bucket_ms), units=5))
        assert caught.value.reason == "no_budget_row"
    await two.settle(acts.RowCharge(row=used, units=BUDGET - 1))
    bench.now_ms += bench.policy.ttl_ms + GRACE_MS
    fresh = Enclave(bench)
    await fresh.boot()
    (denied,) = (await fresh.renew(want(2))).results
    assert isinstance(denied, Deny)
    assert [row.posted for row in (await verified(bench)).rows if row.key == used] == [BUDGET - 1]
    bench.now_ms += 61 * MINUTE_MS
    assert (await drawn(fresh, 2)).units.inferences == 2


async def test_a_larger_loss_than_was_settled_is_a_new_gap(two: Two, ledger: str | None) -> None:
    """Operators settled what they were shown; who remembers still more is heard."""
    enclave = Enclave(two.bench)
    await enclave.boot()
    copy = backup(two.bench, ledger)
    await spend(enclave, 1)
    early = enclave.checkpoint_seen
    await spend(enclave, 1)
    copy.restore()
    with pytest.raises(LedgerRollbackError):
        await views.compare(two.bench.custodian, CheckpointSeen(checkpoint=early))
    await two.settle()
    await views.compare(two.bench.custodian, CheckpointSeen(checkpoint=early))
    with pytest.raises(LedgerRollbackError):
        await enclave.renew()


async def test_a_backup_from_before_a_settlement_is_found_out(two: Two, ledger: str | None) -> None:
    """A note of a generation that this ledger has not reached is newer, whatever its size."""
    enclave = await forgotten(two, ledger)
    with pytest.raises(LedgerRollbackError):
        await enclave.renew()
    copy = backup(two.bench, ledger)
    await two.settle()
    note = (await views.show_head(two.bench.custodian)).checkpoint
    copy.restore()
    with pytest.raises(LedgerRollbackError):
        await views.compare(two.bench.custodian, CheckpointSeen(checkpoint=note))
    await two.settle()
    assert (await views.show_gap(two.bench.custodian)).generation == 2


async def test_operators_settle_what_they_were_shown(two: Two, ledger: str | None) -> None:
    """Not a gap that is not there, not an older one than is known by now, and only rows that exist."""
    nothing = acts.SettleGap(checkpoint="note", charges=[], reason="r")
    with pytest.raises(ConflictError) as caught:
        await two.command(nothing)
    assert caught.value.reason == "no_gap"
    enclave = await forgotten(two, ledger)
    with pytest.raises(LedgerRollbackError):
        await enclave.renew()
    with pytest.raises(ConflictError) as caught:
        await two.command(nothing)
    assert caught.value.reason == "gap_changed"
    elsewhere = msgspec.structs.replace(ROW, bucket_ms=7)
    with pytest.raises(NotFoundError):
        await two.settle(acts.RowCharge(row=elsewhere, units=1))
    assert (await views.show_gap(two.bench.custodian)).generation == 0


async def test_no_charge_makes_a_number_that_nobody_can_read(two: Two, ledger: str | None) -> None:
    """Each is at most as much as a limit can have, and so is what they come to; else none of it happens."""
    enclave, bench = await forgotten(two, ledger), two.bench
    with pytest.raises(LedgerRollbackError):
        await enclave.renew()
    spent = await posted(bench)
    most = MAX_INTEGER - spent
    with pytest.raises(InvalidValueError) as caught:
        await two.settle(acts.RowCharge(row=ROW, units=most + 1))
    assert caught.value.reason == "charge_too_large"
    assert await posted(bench) == spent
    assert (await views.show_gap(bench.custodian)).checkpoint is not None
    await two.settle(acts.RowCharge(row=ROW, units=most))
    assert await posted(bench) == MAX_INTEGER
    assert decode(encode(await views.show_budgets(bench.custodian)), Budgets)


async def test_an_order_charges_each_budget_once(two: Two, ledger: str | None) -> None:
    """The second operator could else be shown one charge of a budget, and sign another one beside it."""
    enclave, bench = await forgotten(two, ledger), two.bench
    with pytest.raises(LedgerRollbackError):
        await enclave.renew()
    spent = await posted(bench)
    with pytest.raises(InvalidValueError) as caught:
        await two.settle(*(acts.RowCharge(row=ROW, units=units) for units in (900, 1)))
    assert caught.value.reason == "charged_twice"
    assert await posted(bench) == spent
    assert (await views.show_gap(bench.custodian)).checkpoint is not None


async def test_all_that_remains_can_be_charged_of_the_largest_budget(two: Two, ledger: str | None) -> None:
    """What is left of it, beside what is spent and what leases hold, is never too much."""
    largest = BudgetLimit(scope=ROW.scope, dimension=ROW.dimension, window=ROW.window, limit=MAX_INTEGER)
    await two.bench.command(acts.SetBudget(limit=largest))
    holder = Enclave(two.bench)
    await holder.boot()
    await drawn(holder, 7)
    enclave, bench = await forgotten(two, ledger), two.bench
    with pytest.raises(LedgerRollbackError):
        await enclave.renew()
    (shown,) = (await views.show_budgets(bench.custodian)).budgets
    assert (shown.pending, shown.room) == (7, MAX_INTEGER - 7 - shown.posted)
    room = shown.room or 0
    with pytest.raises(InvalidValueError):
        await two.settle(acts.RowCharge(row=ROW, units=room + 1))
    await two.settle(acts.RowCharge(row=ROW, units=room))
    (shown,) = (await views.show_budgets(bench.custodian)).budgets
    assert (shown.posted + shown.pending, shown.room) == (MAX_INTEGER, 0)


async def lost_again(two: Two, size: int) -> None:
    """Write a gap down as if somebody had shown a checkpoint of this size."""

    def gap(transaction: Transaction) -> None:
        head = transaction.head
        found = Gap(checkpoint=f"note {size}", generation=head.generation, size=size, found_at_ms=head.clock_ms)
        transaction.head = msgspec.structs.replace(head, gap=found)

    await two.bench.custodian.database.run(gap)


async def quiet_ms(two: Two) -> int:
    return (await views.show_gap(two.bench.custodian)).quiet_until_ms - two.bench.now_ms


async def test_a_second_settlement_does_not_end_the_quiet_of_the_first(two: Two) -> None:
    """What was granted for long before the first may still be used, whatever the terms are by now."""
    bench = two.bench
    island = default_policy(Dial.ISLAND, version=2)
    await two.command(acts.SetModelTerms(model=MODEL, policy=island, borrowers=[BORROWER]))
    await lost_again(two, 500)
    await two.settle()
    assert await quiet_ms(two) == island.ttl_ms + GRACE_MS
    strict = default_policy(Dial.STRICT, version=3)
    await bench.command(acts.SetModelTerms(model=MODEL, policy=strict, borrowers=[BORROWER]))
    await lost_again(two, 600)
    await two.settle()
    assert await quiet_ms(two) == island.ttl_ms + GRACE_MS


async def test_the_longest_ttl_that_was_ever_lent_for_is_waited_for(two: Two) -> None:
    """Also when the terms are shorter since: the ledger cannot know when its last lease of that kind was granted."""
    bench = two.bench
    for policy in (default_policy(Dial.ISLAND, version=2), default_policy(Dial.STRICT, version=3)):
        await two.command(acts.SetModelTerms(model=MODEL, policy=policy, borrowers=[BORROWER]))
    with _closed(bench):
        pass
    await lost_again(two, 500)
    await two.settle()
    assert await quiet_ms(two) == default_policy(Dial.ISLAND).ttl_ms + GRACE_MS


async def test_what_an_earlier_program_waits_for_is_waited_for(two: Two) -> None:
    """It noted no terms that were replaced, but until when nothing is granted."""
    until_ms = two.bench.now_ms + 10 * 3_600_000
    head = await two.bench.custodian.database.run(lambda transaction: transaction.head)
    assert head.longest_ttl_ms == 0

    def waits(transaction: Transaction) -> None:
        transaction.head = msgspec.structs.replace(transaction.head, quiet_until_ms=until_ms)

    await two.bench.custodian.database.run(waits)
    await lost_again(two, 500)
    await two.settle()
    assert await quiet_ms(two) == 10 * 3_600_000


# --- Stops of a restored ledger ------------------------------------------------------------------------------------


@dataclass
class Knowing:
    """A live enclave that heard of stops which the ledger has forgotten since, and its meter."""

    enclave: Enclave
    meter: Meter

    async def hears(self, bench: Bench) -> bool:
        """Take the stop state of this moment; return whether it must wipe itself."""
        state = await renewal.stop_state_of(bench.custodian, self.enclave.instance)
        return self.meter.apply_stop_state(self.enclave.stop_state(state))


async def stop_twice(bench: Bench) -> None:
    target, value = StopTarget.CONSUMER, CONSUMER
    for _ in range(2):
        stopped = await bench.command_of_two(acts.Stop(target=target, value=value, reason="drill"))
        await bench.command_of_two(acts.Resume(target=target, value=value, reason="over", epoch=stopped.epoch))


async def knowing(two: Two, ledger: str | None, *, shows: bool = True) -> Knowing:
    """Restore a ledger that has forgotten four epochs, which a live enclave knows; perhaps not by a checkpoint."""
    enclave = Enclave(two.bench)
    state = enclave.stop_state((await enclave.boot()).stop_state)
    await drawn(enclave, 1)
    meter = Meter(
        instance=enclave.instance,
        custodian=two.bench.custodian.keys.custodian,
        policies={MODEL: two.bench.policy},
        stop_state=state,
        admitted_ms=0,
    )
    known = Knowing(enclave, meter)
    copy = backup(two.bench, ledger)
    await stop_twice(two.bench)
    assert not await known.hears(two.bench)
    assert (meter.stop_state.scope_epoch, meter.stop_state.epoch) == (4, 4)
    if shows:
        await enclave.renew()
    copy.restore()
    return known


async def test_a_stop_while_there_is_a_gap_reaches_live_enclaves(two: Two, ledger: str | None) -> None:
    """Its epoch is above every one that the lost ledger gave out, whatever the restored one remembers."""
    known = await knowing(two, ledger)
    with pytest.raises(LedgerRollbackError):
        await known.enclave.renew()
    assert not await known.hears(two.bench)
    await two.bench.command(STOP)
    assert await known.hears(two.bench)
    # And it is lifted for whoever comes after the settlement; the log with its leap of epochs verifies.
    await two.settle()
    await two.lift()
    await Enclave(two.bench).boot()
    await verified(two.bench)


async def test_a_stop_from_before_the_gap_was_noticed_reaches_live_enclaves_then(two: Two, ledger: str | None) -> None:
    """Nobody had shown what is forgotten: it is made newer, and pushed to whoever listens, when somebody does."""
    known = await knowing(two, ledger)
    await two.bench.command(STOP)
    assert not await known.hears(two.bench)
    with two.bench.custodian.hub.listen(await known.enclave.record()) as stream:
        with pytest.raises(LedgerRollbackError):
            await known.enclave.renew()
        pushed = [stream.get_nowait() for _ in range(stream.qsize())]
    states = [line.stop_state for line in pushed if line is not None and line.stop_state is not None]
    assert [known.meter.apply_stop_state(known.enclave.stop_state(state)) for state in states] == [True]


async def test_a_consumers_stop_is_not_made_newer_by_itself(two: Two, ledger: str | None) -> None:
    """That would lift the forgotten stops of other consumers at enclaves that still know them."""
    night = ConsumerId("night")
    await two.bench.add_consumer(night, BORROWER)
    known = await knowing(two, ledger)
    await two.bench.command(acts.Stop(target=StopTarget.CONSUMER, value=night, reason="drill"))
    stopped = await two.command(acts.Stop(target=StopTarget.MODEL, value=MODEL, reason="drill"))
    # Neither is one that was lifted.
    await two.command(acts.Resume(target=StopTarget.MODEL, value=MODEL, reason="drill", epoch=stopped.epoch))
    with pytest.raises(LedgerRollbackError):
        await known.enclave.renew()
    await known.hears(two.bench)
    assert (known.meter.stop_state.scope_epoch, known.meter.stop_state.stops) == (4, [])
    await two.bench.command(acts.Stop(target=StopTarget.CONSUMER, value=night, reason="again"))
    await known.hears(two.bench)
    assert [stop.value for stop in known.meter.stop_state.stops] == [night]


def test_without_a_clock_the_log_tells_how_far_the_epoch_leaps() -> None:
    """Each epoch has an entry; where both tell, the later counts, and none is ever taken back."""
    for epoch, size, clock_ms, leaps_to in ((3, 50, 10, 50), (3, 50, 70, 70), (90, 50, 70, 90)):
        assert leapt(Head(epoch=epoch, clock_ms=clock_ms), size).epoch == leaps_to


async def says(enclave: Enclave, epoch: int) -> Answer:
    """Renew as an instance that has a stop state of this epoch."""
    request = msgspec.structs.replace(decode(enclave.renewal().payload, Renew), epoch=epoch)
    envelope = seal(messages.RENEW, request, enclave.identity)
    return enclave.opened(await renewal.renew(enclave.bench.custodian, envelope))


async def test_an_instance_that_knows_a_later_epoch_is_believed(two: Two, ledger: str | None) -> None:
    """A stop was pushed to it, and the ledger was lost before it renewed: there is no gap, and stops reach it."""
    known = await knowing(two, ledger, shows=False)
    answer = await says(known.enclave, known.meter.stop_state.epoch)
    assert answer.epoch > known.meter.stop_state.scope_epoch
    await two.bench.command(STOP)
    assert await known.hears(two.bench)


async def test_no_instance_moves_the_epoch_beyond_the_time(two: Two) -> None:
    """Epochs do not outrun the clock: one that says it knows of such a one is wrong, and nothing moves."""
    enclave = Enclave(two.bench)
    await enclave.boot()
    for epoch in (MAX_INTEGER, two.bench.now_ms + 1):
        assert (await says(enclave, epoch)).epoch == 0


async def test_a_ledger_that_is_restored_twice_is_still_obeyed(two: Two, ledger: str | None) -> None:
    """Its second stop is newer than the first, of which the second copy knows nothing either."""
    known = await knowing(two, ledger)
    copy = backup(two.bench, ledger)
    for _ in range(2):
        two.bench.now_ms += 1_000
        with pytest.raises(LedgerRollbackError):
            await known.enclave.renew()
        await two.bench.command(acts.Stop(target=StopTarget.CONSUMER, value=CONSUMER, reason="drill"))
        before = known.meter.stop_state.scope_epoch
        await known.hears(two.bench)
        assert known.meter.stop_state.scope_epoch > before
        copy.restore()


async def test_a_settlement_brings_the_epoch_to_its_time(two: Two, ledger: str | None) -> None:
    """Also of a copy that had the gap already, and of which no instance has shown anything since."""
    known = await knowing(two, ledger)
    with pytest.raises(LedgerRollbackError):
        await known.enclave.renew()
    copy = backup(two.bench, ledger)
    for _ in range(3):
        await two.bench.command(acts.Stop(target=StopTarget.CONSUMER, value=CONSUMER, reason="drill"))
    await known.hears(two.bench)
    copy.restore()
    two.bench.now_ms += MINUTE_MS
    await two.command(STOP)
    await two.settle()
    assert await known.hears(two.bench)
    await verified(two.bench)


async def test_a_copy_that_has_the_gap_already_is_obeyed_as_well(two: Two, ledger: str | None) -> None:
    """Nothing new is found in it; what was ordered after it was made is left behind all the same."""
    known = await knowing(two, ledger)
    with pytest.raises(LedgerRollbackError):
        await known.enclave.renew()
    copy = backup(two.bench, ledger)
    for _ in range(3):
        await two.bench.command(acts.Stop(target=StopTarget.CONSUMER, value=CONSUMER, reason="drill"))
    await known.hears(two.bench)
    copy.restore()
    await two.bench.command(STOP)
    assert not await known.hears(two.bench)
    two.bench.now_ms += 2 * MINUTE_MS
    with pytest.raises(LedgerRollbackError):
        await known.enclave.renew()
    assert await known.hears(two.bench)


# --- Two operators -----------------------------------------------------------------------------------------------


async def test_some_acts_need_two_operators(two: Two) -> None:
    """One alone is told how to find the other; the refusal is in the log."""
    for act in (
        acts.SettleGap(checkpoint="note", charges=[], reason="r"),
        acts.WriteOff(instance=Enclave(two.bench).instance, reason="r"),
    ):
        with pytest.raises(ConflictError) as caught:
            await two.bench.command(act)
        assert caught.value.reason == "needs_second"
        assert caught.value.fix
    refusals = [line for line in await two.bench.log() if isinstance(line, entry.CommandRefused)]
    assert [line.reason for line in refusals] == ["needs_second", "needs_second"]


async def test_a_second_signature_is_another_operators(two: Two) -> None:
    """Not one's own again, not a stranger's, not a borrower's, not a revoked operator's; and a signer sends it."""
    bench, act = two.bench, acts.Stop(target=StopTarget.ALL, value="", reason="r")
    carol = SigningKey.generate()
    await bench.add_party(PartyRole.OPERATOR, "carol", carol)
    for keys in (
        (bench.key, bench.key),
        (bench.key, SigningKey.generate()),
        (bench.key, bench.enrolment[BORROWER]),
        (bench.key, two.bob_key, carol),
    ):
        with pytest.raises(SignatureInvalidError):
            await two.command(act, *keys, sender=bench.alice)
    with pytest.raises(SignatureInvalidError):
        await two.command(act, bench.key, carol, sender=two.bob)
    await bench.command(acts.RevokeParty(role=PartyRole.OPERATOR, name="carol"))
    with pytest.raises(SignatureInvalidError):
        await two.command(act, bench.key, carol, sender=bench.alice)
    assert not (await views.show_stops(bench.custodian)).stops
    await two.command(act)
    last = (await bench.log())[-1]
    assert isinstance(last, entry.Stopped)
    assert (last.command.operator, last.command.second) == ("alice", "bob")


async def test_the_author_of_a_command_signed_it(two: Two) -> None:
    """A command in somebody's name that two others signed is nobody's."""
    with pytest.raises(SignatureInvalidError):
        await two.command(STOP, operator=OperatorId("carol"))


async def test_a_cosigned_command_may_wait_a_day(two: Two) -> None:
    """The second operator may be elsewhere; one alone has five minutes."""
    await two.bench.command(STOP)
    issued_at_ms = two.bench.now_ms
    two.bench.now_ms += 86_400_000
    await two.lift(issued_at_ms=issued_at_ms)
    await two.bench.command(STOP)
    two.bench.now_ms += 1
    with pytest.raises(SignatureInvalidError) as refused:
        await two.lift(issued_at_ms=issued_at_ms)
    assert refused.value.reason == "stale_command"


async def test_an_order_lifts_the_stop_that_it_was_signed_for(two: Two) -> None:
    """A second operator who keeps one back lifts with it neither a later stop nor, after a restore, the same again."""
    first = (await two.bench.command(STOP)).epoch
    kept = seal(COMMAND, two.bench.order(lifting(first)), two.bench.key, two.bob_key)
    await two.lift()
    second = (await two.bench.command(STOP)).epoch
    for act in (lifting(first), lifting((second or 0) + 1)):
        with pytest.raises(ConflictError) as refused:
            await two.command(act)
        assert refused.value.reason == "stop_changed"
    with pytest.raises(ConflictError):
        await commands.execute(two.bench.custodian, two.bob, kept)
    with pytest.raises(InvalidValueError) as unnamed:
        await two.command(lifting(None))
    assert unnamed.value.reason == "stop_not_named"
    assert [stop.epoch for stop in (await views.show_stops(two.bench.custodian)).stops] == [second]
    await two.lift()


async def test_no_instance_makes_an_order_of_two_void(two: Two) -> None:
    """A hostile one says that it knows later epochs, as often as it likes: the stop is the one that was ordered."""
    enclave = Enclave(two.bench)
    await enclave.boot()
    await two.bench.command(acts.Stop(target=StopTarget.MODEL, value=MODEL, reason="another"))
    first = (await two.bench.command(STOP)).epoch
    assert first is not None
    saved = lifting(first)
    present = first
    for _ in range(2):
        two.bench.now_ms += 1_000
        await says(enclave, two.bench.now_ms)
        (present,) = {stop.epoch for stop in (await views.show_stops(two.bench.custodian)).stops}
        assert present == two.bench.now_ms
    for other in (first - 1, present + 1):
        with pytest.raises(ConflictError) as refused:
            await two.command(lifting(other))
        assert refused.value.reason == "stop_changed"
    await two.command(saved)
    again = (await two.bench.command(STOP)).epoch
    assert again is not None
    two.bench.now_ms += 1_000
    await says(enclave, two.bench.now_ms)
    for other in (first, present, again - 1):
        with pytest.raises(ConflictError) as refused:
            await two.command(lifting(other))
        assert refused.value.reason == "stop_changed"
    await two.command(lifting(again))


async def test_a_stop_that_is_ordered_again_is_not_lifted_by_an_order_from_before(two: Two) -> None:
    """Whoever stops what is stopped already has a reason that the order's authors did not know."""
    first = (await two.bench.command(STOP)).epoch
    await two.bench.command(STOP)
    with pytest.raises(ConflictError) as refused:
        await two.command(lifting(first))
    assert refused.value.reason == "stop_changed"


# --- Written off -------------------------------------------------------------------------------------------------


async def test_leases_lost_in_crashes_are_written_off_by_two(two: Two) -> None:
    """They stay charged, and no longer count against what the borrower may hold."""
    bench = two.bench
    lost = Enclave(bench)
    await lost.boot()
    grant = await drawn(lost, 10)
    bench.now_ms += grant.ttl_ms + GRACE_MS + 1
    assert await posted(bench) == 10
    act = acts.WriteOff(instance=lost.instance, reason="host burnt")
    assert (await views.show_enclaves(bench.custodian)).enclaves[0].outstanding == UnitVector(inferences=10)
    await two.command(act)
    assert (await views.show_enclaves(bench.custodian)).enclaves[0].outstanding == UnitVector()
    assert await posted(bench) == 10
    (usage,) = (await views.show_usage(bench.custodian)).usage
    assert (usage.consumer, usage.charged, usage.open_leases) == (CONSUMER, UnitVector(inferences=10), 0)
    # Should it come back after all, it accuses nobody and is refunded nothing.
    await lost.renew(reports=(report(grant.lease_id, seq=1, used=3, final=True),))
    assert await posted(bench) == 10
    assert "Forked" not in await bench.kinds()
    with pytest.raises(NotFoundError):
        await two.command(act)


async def test_a_lease_that_may_still_be_closed_is_not_written_off(two: Two) -> None:
    """Pending ones are left alone, and an unknown enclave has none."""
    enclave = Enclave(two.bench)
    await enclave.boot()
    await drawn(enclave, 10)
    for instance in (enclave.instance, Enclave(two.bench).instance):
        with pytest.raises(AIGovToolError):
            await two.command(acts.WriteOff(instance=instance, reason="r"))
    assert "LeaseWrittenOff" not in await two.bench.kinds()
