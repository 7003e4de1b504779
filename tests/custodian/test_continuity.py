"""A ledger that was restored from a backup: whoever remembers more makes it refuse, until two operators settle."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import psycopg
import pytest
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL, Bench, Enclave, report, want

from aigovtool.crypto.identity import Identity, IdentityKind
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.custodian.app import open_custodian
from aigovtool.custodian.service import commands, views
from aigovtool.errors import (
    AIGovToolError,
    ConflictError,
    LedgerRollbackError,
    LogError,
    NotFoundError,
    SignatureInvalidError,
)
from aigovtool.ids import BorrowerId, OperatorId, key_id_of
from aigovtool.ledger import entry
from aigovtool.ledger.audit import AuditReport, LoggedEntry, verify_log
from aigovtool.ledger.budget import BudgetLimit, RowKey, Scope, Window
from aigovtool.ledger.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.merkle import leaf_hash
from aigovtool.ledger.policy import GRACE_MS
from aigovtool.ledger.units import Dimension, UnitVector
from aigovtool.protocol import commands as acts
from aigovtool.protocol.commands import COMMAND, Act, CommandResult
from aigovtool.protocol.messages import Deny, DenyCode, Grant
from aigovtool.protocol.views import CheckpointSeen

BUDGET = 1000
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
        clock = self.bench.custodian.time_ms
        self.bench.custodian.database.close()
        if self.ledger is None:
            (self.bench.directory / "ledger.db").write_bytes(self.file)
            for leftover in ("ledger.db-wal", "ledger.db-shm"):
                (self.bench.directory / leftover).unlink(missing_ok=True)
        else:
            _put_tables(self.ledger, self.rows)
        self.bench.custodian = open_custodian(self.bench.directory)
        self.bench.custodian.time_ms = clock


@contextmanager
def _closed(bench: Bench) -> Iterator[None]:
    clock = bench.custodian.time_ms
    bench.custodian.database.close()
    yield
    bench.custodian = open_custodian(bench.directory)
    bench.custodian.time_ms = clock


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
    issued_at_ms = two.bench.now_ms
    two.bench.now_ms += 86_400_000
    await two.command(STOP, issued_at_ms=issued_at_ms)
    two.bench.now_ms += 1
    with pytest.raises(SignatureInvalidError):
        await two.command(STOP, issued_at_ms=issued_at_ms)


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
