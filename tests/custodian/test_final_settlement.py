"""Checkpoints of a lost ledger that somebody kept, and shows one by one: whether that holds a custodian down."""

import msgspec
import pytest
from tests.custodian.conftest import MODEL, Bench, Enclave, report, want
from tests.custodian.test_continuity import (
    BUDGET,
    MINUTE_MS,
    ROW,
    STOP,
    Backup,
    Two,
    backup,
    drawn,
    lifting,
    posted,
    spend,
    verified,
)

from aigovtool.codec import encode
from aigovtool.crypto.sign import SigningKey
from aigovtool.custodian.service import renewal, views
from aigovtool.custodian.service.continuity import note_gap
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConflictError, InvalidValueError, LedgerRollbackError, LogError
from aigovtool.ids import MessageId, OperatorId, digest_of
from aigovtool.ledger import entry
from aigovtool.ledger.budget import BudgetLimit, Window
from aigovtool.ledger.entry import PartyRole
from aigovtool.ledger.policy import GRACE_MS
from aigovtool.ledger.units import Dimension
from aigovtool.protocol import commands as acts
from aigovtool.protocol.commands import CommandResult
from aigovtool.protocol.messages import Deny, DenyCode
from aigovtool.protocol.views import CheckpointSeen


@pytest.fixture
async def two(lent: Bench) -> Two:
    """The custodian lends a model with a budget, and has two operators."""
    await lent.grant(BUDGET)
    key = SigningKey.generate()
    await lent.add_party(PartyRole.OPERATOR, "bob", key)
    return Two(lent, key)


async def published(bench: Bench) -> str:
    """Return what a stranger is told: the newest checkpoint."""
    return (await views.show_head(bench.custodian)).checkpoint


async def shows(bench: Bench, note: str) -> bool:
    """Show a checkpoint as a stranger; return whether the custodian refuses to serve for it."""
    try:
        await views.compare(bench.custodian, CheckpointSeen(checkpoint=note))
    except LedgerRollbackError:
        return True
    return False


async def collected(two: Two, ledger: str | None, copy: Backup | None = None) -> list[str]:
    """Restore a ledger that has granted since its copy was made; return what a stranger collected meanwhile."""
    enclave, notes = Enclave(two.bench), []
    await enclave.boot()
    copy = copy or backup(two.bench, ledger)
    for _ in range(4):
        await spend(enclave, 5)
        notes.append(await published(two.bench))
    copy.restore()
    return notes


async def counted(bench: Bench) -> int:
    """Return what is charged or held of the one budget there is."""
    (row,) = (await views.show_budgets(bench.custodian)).budgets
    return row.posted + row.pending


async def final(two: Two, **changes: object) -> CommandResult:
    """Two operators settle the gap for good."""
    gap = await views.show_gap(two.bench.custodian)
    act = acts.SettleGap(checkpoint=gap.checkpoint or "", charges=[], reason="disk lost", final=True)
    return await two.command(msgspec.structs.replace(act, **changes))


async def back_in_service(two: Two, units: int) -> Enclave:
    """Lift the stop, wait until old leases are over, grant budget anew, and let an enclave use some of it."""
    bench = two.bench
    await two.lift()
    await bench.grant(units)
    bench.now_ms += bench.policy.ttl_ms + GRACE_MS
    enclave = Enclave(bench)
    await enclave.boot()
    await drawn(enclave, 1)
    return enclave


async def test_who_charges_what_they_know_settles_again_for_each_larger_checkpoint(
    two: Two, ledger: str | None
) -> None:
    """More may have been used than they knew. So whoever collected checkpoints can show one after the other."""
    bench = two.bench
    for note in await collected(two, ledger):
        await bench.grant(1)
        assert await shows(bench, note)
        with pytest.raises(LedgerRollbackError):
            await bench.grant(1)
        await two.settle(acts.RowCharge(row=ROW, units=5))


@pytest.mark.attack(21)
async def test_after_a_final_settlement_no_stranger_holds_the_custodian_down(two: Two, ledger: str | None) -> None:
    """Whatever checkpoints of what is lost they collected, and show one by one: it grants, and tells of it."""
    bench = two.bench
    first, *larger = await collected(two, ledger)
    assert await shows(bench, first)
    await bench.command(STOP)
    await final(two)
    assert (await views.show_gap(bench.custodian)).shown_since == 0
    enclave = await back_in_service(two, 10)
    entries = len(await bench.log())
    for note in [*larger, *larger, first]:
        assert not await shows(bench, note)
        await enclave.renew(want(1))
    grown = [type(line) for line in (await bench.log())[entries:]]
    assert entry.GapFound not in grown
    gap = await views.show_gap(bench.custodian)
    assert (gap.checkpoint, gap.generation) == (None, 1)
    assert f"\n{gap.shown_since}\n" in larger[-1]
    await verified(bench)


async def test_only_the_largest_checkpoint_is_written_down(two: Two, ledger: str | None) -> None:
    """Nobody makes the ledger write, and wait for its disk, by showing it what it was shown before."""
    bench = two.bench
    first, *larger = await collected(two, ledger)
    assert await shows(bench, first)
    await bench.command(STOP)
    await final(two)

    async def writes(note: str) -> bool:
        def noted(running: Transaction) -> bool:
            note_gap(bench.custodian, running, note)
            return running.head is not running.stored

        return await bench.custodian.database.run(noted)

    assert [await writes(note) for note in (larger[0], larger[-1])] == [True, True]
    assert not any([await writes(note) for note in (first, *larger)])


async def test_a_final_settlement_leaves_nothing_of_any_budget(two: Two, ledger: str | None) -> None:
    """Nothing that was used and is forgotten is granted again, in no window, until it is granted anew."""
    bench = two.bench
    for window in (Window.HOUR, Window.ROLLING_HOUR):
        limit = BudgetLimit(scope=ROW.scope, dimension=Dimension.INFERENCES, window=window, limit=BUDGET)
        await bench.command(acts.SetBudget(limit=limit))
    notes = await collected(two, ledger)
    bench.now_ms += 5 * MINUTE_MS
    assert await shows(bench, notes[0])
    await bench.command(STOP)
    await final(two)
    rooms = {row.key.window: row.room for row in (await views.show_budgets(bench.custodian)).budgets}
    assert rooms == {Window.LIFETIME: 0, Window.HOUR: 0, Window.ROLLING_HOUR: 0}
    log = await bench.log()
    assert sum(isinstance(line, entry.Charged) for line in log) == 3
    (restored,) = (line for line in log if isinstance(line, entry.Restored))
    assert restored.final
    await two.lift()
    bench.now_ms += bench.policy.ttl_ms + GRACE_MS
    enclave = Enclave(bench)
    await enclave.boot()
    (denied,) = (await enclave.renew(want(1))).results
    assert isinstance(denied, Deny)
    assert denied.code is DenyCode.EXHAUSTED
    await verified(bench)


@pytest.mark.parametrize("for_good", [True, False])
async def test_what_an_old_lease_gives_back_is_not_granted_again(
    two: Two, ledger: str | None, *, for_good: bool
) -> None:
    """It was given back before, in what is lost, and granted to somebody else: its host plays the report once more.

    So a lease that the copy knows as open is charged in full, and the log that says otherwise does not verify. Also
    where operators charged what the lost balances say more than those of the copy: they count it as given back.
    """
    bench = two.bench
    enclave, other = Enclave(bench), Enclave(bench)
    await enclave.boot()
    await other.boot()
    grant = await drawn(enclave, 10)
    copy = backup(bench, ledger)
    closing = enclave.renewal(reports=(report(grant.lease_id, seq=1, used=2, final=True),))
    await renewal.renew(bench.custodian, closing)
    await spend(other, 8)
    note, lost = await published(bench), await counted(bench)
    copy.restore()
    assert await shows(bench, note)
    if for_good:
        await bench.command(STOP)
        await final(two)
    elif units := lost - await counted(bench):
        await two.settle(acts.RowCharge(row=ROW, units=units))
    else:
        await two.settle()
    await renewal.renew(bench.custodian, closing)
    (row,) = (await views.show_budgets(bench.custodian)).budgets
    assert (row.posted, row.pending) == (BUDGET if for_good else lost, 0)
    (closed,) = (line for line in await bench.log() if isinstance(line, entry.LeaseClosed))
    assert (closed.used.inferences, closed.charged.inferences) == (2, 10)
    await verified(bench)


async def test_an_enclave_of_afterwards_is_refunded(two: Two, ledger: str | None) -> None:
    """What is granted since the settlement is known: what is not used of it comes back as ever."""
    bench = two.bench
    assert await shows(bench, (await collected(two, ledger))[0])
    await bench.command(STOP)
    await final(two)
    enclave = await back_in_service(two, BUDGET)
    before = await posted(bench)
    grant = await drawn(enclave, 5)
    await enclave.renew(reports=(report(grant.lease_id, seq=1, used=2, final=True),))
    assert await posted(bench) == before + 2
    await verified(bench)


async def test_nobody_makes_a_final_order_void(two: Two, ledger: str | None) -> None:
    """A stranger shows a larger checkpoint between the two signatures: everything is charged all the same."""
    bench = two.bench
    first, second, *_, last = await collected(two, ledger)
    assert await shows(bench, first)
    await bench.command(STOP)
    signed = (await views.show_gap(bench.custodian)).checkpoint or ""
    assert await shows(bench, second)
    with pytest.raises(ConflictError) as caught:
        await final(two, checkpoint=signed, final=False)
    assert caught.value.reason == "gap_changed"
    await final(two, checkpoint=signed)
    restored = next(line for line in await bench.log() if isinstance(line, entry.Restored))
    assert restored.checkpoint == second
    assert not await shows(bench, last)


async def test_an_order_for_another_generation_is_void(two: Two, ledger: str | None) -> None:
    """Its operators did not know that a settlement is forgotten as well; and what it names must be a checkpoint."""
    bench = two.bench
    copy = backup(bench, ledger)
    (old, *_) = await collected(two, ledger, copy)
    assert await shows(bench, old)
    signed = (await views.show_gap(bench.custodian)).checkpoint or ""
    await two.settle()
    newer = await published(bench)
    copy.restore()
    assert await shows(bench, newer)
    await bench.command(STOP)
    with pytest.raises(ConflictError) as caught:
        await final(two, checkpoint=signed)
    assert caught.value.reason == "gap_changed"
    with pytest.raises(LogError):
        await final(two, checkpoint="rubbish")
    await final(two)
    assert (await views.show_gap(bench.custodian)).generation == 2
    assert not await shows(bench, old)


async def test_only_what_is_stopped_is_settled_for_good(two: Two, ledger: str | None) -> None:
    """Nobody is asked again what is forgotten. The stop lasts until two lift it, by an order of afterwards."""
    bench = two.bench
    assert await shows(bench, (await collected(two, ledger))[0])
    with pytest.raises(ConflictError) as caught:
        await final(two)
    assert caught.value.reason == "not_stopped"
    await bench.command(acts.Stop(target=entry.StopTarget.MODEL, value=MODEL, reason="drill"))
    with pytest.raises(ConflictError):
        await final(two)
    before = (await bench.command(STOP)).epoch
    charge = acts.RowCharge(row=ROW, units=1)
    with pytest.raises(InvalidValueError) as twice:
        await final(two, charges=[charge])
    assert twice.value.reason == "charged_twice"
    assert (await views.show_gap(bench.custodian)).generation == 0
    await final(two)
    with pytest.raises(ConflictError) as stale:
        await two.command(lifting(before))
    assert stale.value.reason == "stop_changed"
    (present,) = {stop.epoch for stop in (await views.show_stops(bench.custodian)).stops}
    await two.command(lifting(present))


async def test_a_ledger_that_is_lost_again_has_a_gap_again(two: Two, ledger: str | None) -> None:
    """What is final is what was lost then: what its new generation signs is remembered, as ever."""
    bench = two.bench
    notes = await collected(two, ledger)
    assert await shows(bench, notes[0])
    await bench.command(STOP)
    await final(two)
    copy = backup(bench, ledger)
    await back_in_service(two, 10)
    note = await published(bench)
    copy.restore()
    assert not await shows(bench, notes[-1])
    assert await shows(bench, note)
    with pytest.raises(LedgerRollbackError):
        await bench.grant(1)


async def test_what_was_stored_before_there_were_final_settlements_is_read() -> None:
    """An order and an entry without the member are as they were, byte for byte."""
    command = entry.Command(operator=OperatorId("alice"), command_id=MessageId("0" * 32), digest=digest_of(b""))
    order = acts.SettleGap(checkpoint="note", charges=[], reason="r")
    restored = entry.Restored(generation=1, checkpoint="note", lost_size=1, command=command)
    for body in (order, restored):
        assert b"final" not in encode(body)
        assert b'"final":true' in encode(msgspec.structs.replace(body, final=True))
