"""Renewal: reports in, leases out, the same answer for the same request."""

import re
from typing import Any

import msgspec
import pytest
from sqlalchemy import event, text
from tests.custodian.conftest import (
    BORROWER,
    CONSUMER,
    MODEL,
    OTHER,
    STRANGER,
    YEAR_MS,
    Bench,
    Enclave,
    message_id,
    report,
    want,
)

from aigovtool.codec import decode
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.custodian.custodian import Notice
from aigovtool.custodian.hub import Announcement
from aigovtool.custodian.service import renewal, views
from aigovtool.custodian.service.renewal import listener
from aigovtool.custodian.service.reports import sweep, take_reports
from aigovtool.custodian.store import instances
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConflictError, ForbiddenError, SignatureInvalidError
from aigovtool.ids import ConsumerId, ModelId
from aigovtool.ledger import entry
from aigovtool.ledger.budget import BudgetLimit, Scope, Window
from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.policy import GRACE_MS
from aigovtool.ledger.units import Dimension, UnitVector
from aigovtool.protocol import commands as acts
from aigovtool.protocol import messages
from aigovtool.protocol.messages import Deny, DenyCode, Grant, Listen, Report, Wiped

#: As many answered renewals of an instance as are remembered whatever they show.
KEPT = 16
STOP = acts.Stop(target=StopTarget.ALL, value="", reason="drill")


async def row(bench: Bench) -> tuple[int, int]:
    """Return what is posted and pending on the model's budget."""
    (found,) = (await views.show_budgets(bench.custodian)).budgets
    return found.posted, found.pending


async def granted(enclave: Enclave, units: int = 1) -> Grant:
    (grant,) = (await enclave.renew(want(units))).results
    assert isinstance(grant, Grant)
    return grant


async def denied(enclave: Enclave, **wish: object) -> DenyCode:
    (deny,) = (await enclave.renew(want(**wish))).results  # type: ignore[arg-type]
    assert isinstance(deny, Deny)
    return deny.code


# --- Idempotency ---------------------------------------------------------------------------------------------


async def test_the_same_renewal_is_answered_with_the_same_bytes(admitted: Enclave, lent: Bench) -> None:
    """A repeated heartbeat draws nothing more; only the stop state beside the answer is of this moment."""
    await lent.grant(100)
    envelope = admitted.renewal(want())
    first = await renewal.renew(lent.custodian, envelope)
    await lent.command(STOP)
    lines, held = len(await lent.log()), await row(lent)
    again = await renewal.renew(lent.custodian, envelope)
    assert again.answer == first.answer
    assert not admitted.stop_state(first.stop_state).is_wide()
    assert admitted.stop_state(again.stop_state).is_wide()
    assert (len(await lent.log()), await row(lent)) == (lines, held)


async def test_a_request_id_stands_for_one_content(admitted: Enclave, lent: Bench) -> None:
    """The same id with other wants is a conflict; nothing is granted."""
    await lent.grant(100)
    request_id = message_id()
    await renewal.renew(lent.custodian, admitted.renewal(want(), request_id=request_id))
    before = await row(lent)
    with pytest.raises(ConflictError) as caught:
        await renewal.renew(lent.custodian, admitted.renewal(want(), want(), request_id=request_id))
    assert (caught.value.reason, caught.value.status) == ("request_changed", 409)
    assert await row(lent) == before


async def test_a_late_copy_of_an_older_renewal_changes_nothing(admitted: Enclave, lent: Bench) -> None:
    """A frozen custodian that wakes up, or a host that held it back: the answer was given, and nobody waits for it."""
    await lent.grant(1000)
    first, second = admitted.renewal(want(5)), admitted.renewal(want(5))
    await renewal.renew(lent.custodian, first)
    answered = await renewal.renew(lent.custodian, second)
    lines, held = len(await lent.log()), await row(lent)
    with pytest.raises(ConflictError) as caught:
        await renewal.renew(lent.custodian, first)
    assert (caught.value.reason, caught.value.status) == ("request_superseded", 409)
    assert (await renewal.renew(lent.custodian, second)).answer == answered.answer
    assert (len(await lent.log()), await row(lent)) == (lines, held)


async def test_a_renewal_is_known_to_be_old_however_late_it_comes(admitted: Enclave, lent: Bench) -> None:
    """What was granted is in the log, and each later renewal shows that it is: no number of them is forgotten."""
    await lent.grant(1000)
    oldest = admitted.renewal(want(5))
    admitted.checkpoint_seen = admitted.opened(await renewal.renew(lent.custodian, oldest)).checkpoint
    for _ in range(3 * KEPT):
        await admitted.renew()
    held = await row(lent)
    with pytest.raises(ConflictError) as caught:
        await renewal.renew(lent.custodian, oldest)
    assert caught.value.reason == "request_superseded"
    assert await row(lent) == held


async def test_a_renewal_that_was_denied_is_remembered_for_a_while(admitted: Enclave, lent: Bench) -> None:
    """It left no line in the log; its late copy is not granted what has come free since."""
    wish = admitted.renewal(want(5))
    await renewal.renew(lent.custodian, wish)
    for _ in range(KEPT):
        await admitted.renew()
    await lent.grant(1000)
    with pytest.raises(ConflictError) as caught:
        await renewal.renew(lent.custodian, wish)
    assert caught.value.reason == "request_superseded"
    assert await row(lent) == (0, 0)


async def test_a_renewal_is_signed_by_its_instance(admitted: Enclave, lent: Bench) -> None:
    """Neither the borrower nor another instance can draw in its name; a stranger is unknown."""
    await lent.grant(100)
    other = Enclave(lent)
    await other.boot()
    message = decode(admitted.renewal(want()).payload, messages.Renew)
    for key in (lent.enrolment[BORROWER], SigningKey.generate()):
        with pytest.raises(ForbiddenError):
            await renewal.renew(lent.custodian, seal(messages.RENEW, message, key))
    with pytest.raises(SignatureInvalidError) as foreign:
        await renewal.renew(lent.custodian, seal(messages.RENEW, message, other.identity))
    assert foreign.value.reason == "wrong_sender"
    with pytest.raises(ForbiddenError) as caught:
        await renewal.renew(lent.custodian, Enclave(lent).renewal(want()))
    assert caught.value.reason == "unknown_instance"
    assert await row(lent) == (0, 0)


async def test_a_renewal_under_another_kind_is_refused(admitted: Enclave, lent: Bench) -> None:
    """What the instance signed as something else is no renewal, whatever it says."""
    message = decode(admitted.renewal(want()).payload, messages.Renew)
    with pytest.raises(SignatureInvalidError) as caught:
        await renewal.renew(lent.custodian, seal(messages.WIPED, message, admitted.identity))
    assert caught.value.reason == "wrong_kind"


# --- Grants --------------------------------------------------------------------------------------------------


async def test_a_grant_is_held_then_charged_by_its_final_report(admitted: Enclave, lent: Bench) -> None:
    """Pending while it is out; after the final report what was used is posted and the rest is free."""
    await lent.grant(1000)
    grant = await granted(admitted, 5)
    assert grant.units == UnitVector(inferences=5)
    assert await row(lent) == (0, 5)
    answer = await admitted.renew(reports=(report(grant.lease_id, seq=1, used=2),))
    assert [(ack.lease_id, ack.seq) for ack in answer.acks] == [(grant.lease_id, 1)]
    assert await row(lent) == (0, 5)
    await admitted.renew(reports=(report(grant.lease_id, seq=2, used=3, final=True),))
    assert await row(lent) == (3, 0)
    (usage,) = (await views.show_usage(lent.custodian)).usage
    three = UnitVector(inferences=3)
    assert (usage.granted, usage.charged, usage.used) == (UnitVector(inferences=5), three, three)
    assert usage.open_leases == 0


async def test_an_unreported_lease_is_charged_in_full_and_refunded_once(admitted: Enclave, lent: Bench) -> None:
    """After ttl and grace the silence costs all of it; a late final report gives back what was not used."""
    await lent.grant(1000)
    grant = await granted(admitted, 5)
    lent.now_ms += grant.ttl_ms + GRACE_MS
    assert await row(lent) == (0, 5)
    lent.now_ms += 1
    assert await row(lent) == (5, 0)
    late = report(grant.lease_id, seq=1, used=2, final=True)
    await admitted.renew(reports=(late,))
    assert await row(lent) == (2, 0)
    await admitted.renew(reports=(late,))
    assert await row(lent) == (2, 0)
    kinds = await lent.kinds()
    assert [kind for kind in kinds if kind.startswith("Lease")] == ["LeaseGranted", "LeaseExpired", "LeaseClosed"]


async def test_a_borrower_whose_credential_has_ended_draws_nothing(lent: Bench) -> None:
    """Its last leases end with its credential; what is attested for longer is to attest again, and cannot."""
    await lent.grant(100)
    lent.now_ms += YEAR_MS - 1_000
    last = Enclave(lent)
    await last.boot()
    answer = await last.renew(want())
    (grant,) = answer.results
    assert isinstance(grant, Grant)
    assert (grant.ttl_ms, answer.ttl_ms) == (1_000, 1_000)
    known = await last.record()
    longer = msgspec.structs.replace(known, valid_until_ms=known.valid_until_ms + YEAR_MS)
    lent.now_ms += 1_000
    answer = await last.renew(want())
    (deny,) = answer.results
    assert isinstance(deny, Deny)
    assert (deny.code, answer.ttl_ms) == (DenyCode.REATTEST, 0)
    await lent.custodian.database.run(lambda transaction: instances.replace(transaction, longer))
    lent.now_ms += 1
    assert await denied(last) is DenyCode.REATTEST


async def test_a_consumer_of_another_borrower_draws_nothing(admitted: Enclave, lent: Bench) -> None:
    """An enclave serves its own borrower's consumers only; an unknown one is the same to it."""
    await lent.grant(100)
    for consumer in (STRANGER, ConsumerId("ghost")):
        assert await denied(admitted, consumer=consumer) is DenyCode.NO_BUDGET_ROW
    assert await row(lent) == (0, 0)


async def test_without_a_budget_row_nothing_is_granted(admitted: Enclave) -> None:
    """Absent means deny."""
    assert await denied(admitted) is DenyCode.NO_BUDGET_ROW


async def test_a_model_that_was_not_admitted_draws_nothing(admitted: Enclave) -> None:
    """Only the models of the admission."""
    assert await denied(admitted, model=ModelId("other")) is DenyCode.STOPPED


async def test_every_row_of_the_path_counts(admitted: Enclave, lent: Bench) -> None:
    """The narrowest row decides, and a refusal leaves the wider ones untouched."""
    await lent.grant(1000)
    scope = Scope(model=MODEL, borrower=BORROWER, consumer=CONSUMER)
    row_limit = BudgetLimit(scope=scope, dimension=Dimension.INFERENCES, window=Window.DAY, limit=0)
    await lent.command(acts.SetBudget(limit=row_limit))
    assert await denied(admitted) is DenyCode.EXHAUSTED
    pending = [found.pending for found in (await views.show_budgets(lent.custodian)).budgets]
    assert pending == [0, 0]


async def test_many_wants_of_one_request_never_exceed_the_budget(admitted: Enclave, lent: Bench) -> None:
    """Wants are granted one after the other; what one holds is gone for the next."""
    await lent.grant(4)
    results = (await admitted.renew(*[want() for _ in range(10)])).results
    units = sum(result.units.inferences for result in results if isinstance(result, Grant))
    assert 1 <= units <= 4
    assert await row(lent) == (0, units)


async def test_wants_of_one_renewal_share_what_their_instance_may_hold(admitted: Enclave, lent: Bench) -> None:
    """What was granted to the first of them counts for the next, as if each had a renewal of its own."""
    await lent.grant(1_000)
    share = 1_000 * lent.policy.max_unclosed_percent_per_instance // 100
    batch = msgspec.structs.replace(want(), minimum=UnitVector(inferences=100))
    results = (await admitted.renew(*[batch] * 6)).results
    assert [result.units.inferences for result in results if isinstance(result, Grant)] == [100] * (share // 100)
    assert {result.code for result in results if isinstance(result, Deny)} == {DenyCode.CAPPED}
    assert await row(lent) == (0, share // 100 * 100)


async def test_an_expired_attestation_draws_nothing(admitted: Enclave, lent: Bench) -> None:
    """At the end of its validity an instance is told to attest again, with no time left to live on."""
    await lent.grant(100)
    lent.now_ms += lent.policy.max_attestation_age_ms
    answer = await admitted.renew(want())
    (deny,) = answer.results
    assert isinstance(deny, Deny)
    assert (deny.code, answer.ttl_ms) == (DenyCode.REATTEST, 0)


async def test_no_lease_outlives_the_attestation(admitted: Enclave, lent: Bench) -> None:
    """Near its end a lease gets only the time that is left."""
    await lent.grant(100)
    lent.now_ms += lent.policy.max_attestation_age_ms - 1_000
    answer = await admitted.renew(want())
    (grant,) = answer.results
    assert isinstance(grant, Grant)
    assert (grant.ttl_ms, answer.ttl_ms) == (1_000, 1_000)


@pytest.mark.parametrize("target", list(StopTarget))
async def test_a_stop_ends_grants_and_a_resume_brings_them_back(
    target: StopTarget, admitted: Enclave, lent: Bench
) -> None:
    """Each kind of target; the reports of a stopped instance are still taken."""
    await lent.grant(1000)
    grant = await granted(admitted, 2)
    value = {
        StopTarget.ALL: "",
        StopTarget.MODEL: MODEL,
        StopTarget.BORROWER: BORROWER,
        StopTarget.CONSUMER: CONSUMER,
        StopTarget.ENCLAVE: admitted.instance,
    }[target]
    await lent.command(acts.Stop(target=target, value=value, reason="drill"))
    answer = await admitted.renew(want(), reports=(report(grant.lease_id, seq=1, used=1, final=True),))
    (deny,) = answer.results
    assert isinstance(deny, Deny)
    assert deny.code is DenyCode.STOPPED
    assert (answer.ttl_ms == 0) is (target is not StopTarget.CONSUMER)
    assert await row(lent) == (1, 0)
    await lent.command(acts.Resume(target=target, value=value, reason="drill over"))
    await granted(admitted)


# --- Forks and foreign leases --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "second",
    [
        pytest.param({"seq": 1, "used": 2}, id="same-number-other-content"),
        pytest.param({"seq": 2, "used": 0}, id="counter-went-back"),
        pytest.param({"seq": 2, "used": 6}, id="more-than-granted"),
    ],
)
async def test_a_forked_instance_is_stopped(second: dict[str, Any], admitted: Enclave, lent: Bench) -> None:
    """Reports that one honest counter cannot make show two copies: no further unit for either."""
    await lent.grant(1000)
    grant = await granted(admitted, 5)
    await admitted.renew(reports=(report(grant.lease_id, seq=1, used=1),))
    answer = await admitted.renew(want(), reports=(report(grant.lease_id, **second),))
    (deny,) = answer.results
    assert isinstance(deny, Deny)
    assert (deny.code, answer.ttl_ms) == (DenyCode.STOPPED, 0)
    (view,) = (await views.show_enclaves(lent.custodian)).enclaves
    assert view.state == "forked"
    assert any(isinstance(body, entry.Forked) for body in await lent.log())
    # A resume lifts the stop, but a forked instance stays what it is.
    await lent.command(acts.Resume(target=StopTarget.ENCLAVE, value=admitted.instance, reason="r"))
    assert await denied(admitted) is DenyCode.STOPPED


async def forked(enclave: Enclave) -> tuple[Grant, Grant]:
    """Draw two leases, and report on the second; the report that contradicts this is `lie(second)`."""
    leases = await granted(enclave, 8), await granted(enclave, 8)
    await enclave.renew(reports=(report(leases[1].lease_id, seq=1, used=6),))
    return leases


def lie(grant: Grant) -> Report:
    return report(grant.lease_id, seq=2, used=5)


@pytest.mark.parametrize("first", [True, False], ids=["found-first", "found-last"])
async def test_nothing_is_refunded_once_a_fork_is_found(first: bool, admitted: Enclave, lent: Bench) -> None:  # noqa: FBT001
    """Not by the message that shows it, wherever the contradiction stands in it, by later ones or by a wipe."""
    await lent.grant(1000)
    other, told = await forked(admitted)
    closing = report(other.lease_id, seq=1, used=0, final=True)
    found = await admitted.renew(reports=(lie(told), closing) if first else (closing, lie(told)))
    assert len(found.acks) == 2
    assert await row(lent) == (0, 16)
    later = (closing, report(told.lease_id, seq=3, used=6, final=True))
    assert [ack.seq for ack in (await admitted.renew(reports=later)).acks] == [1, 3]
    statement = Wiped(instance=admitted.instance, epoch=0, reports=list(later))
    await renewal.wiped(lent.custodian, seal(messages.WIPED, statement, admitted.identity))
    assert await row(lent) == (0, 16)
    lent.now_ms += told.ttl_ms + GRACE_MS + 1
    assert await row(lent) == (16, 0)
    await admitted.renew(reports=later)
    await lent.command_of_two(acts.WriteOff(instance=admitted.instance, reason="two copies"))
    assert await row(lent) == (16, 0)
    kinds = await lent.kinds()
    assert (kinds.count("Forked"), kinds.count("LeaseClosed"), kinds.count("LeaseWrittenOff")) == (1, 0, 2)


async def test_a_copy_that_has_fallen_behind_still_gives_itself_away(admitted: Enclave, lent: Bench) -> None:
    """It shows an older checkpoint than the other one and is refused; what it reports still contradicts."""
    await lent.grant(1000)
    _, told = await forked(admitted)
    await admitted.renew()
    admitted.checkpoint_seen = ""
    closing = report(told.lease_id, seq=2, used=6, final=True)
    with pytest.raises(ConflictError):
        await renewal.renew(lent.custodian, admitted.renewal(want(), reports=(closing,)))
    assert ("Forked" in await lent.kinds(), await row(lent)) == (False, (0, 16))
    with lent.custodian.hub.listen(await admitted.record()) as stream:
        with pytest.raises(ConflictError) as caught:
            await renewal.renew(lent.custodian, admitted.renewal(want(), reports=(closing, lie(told))))
        assert stream.qsize() == 1
    assert caught.value.reason == "request_superseded"
    assert ((await lent.kinds()).count("Forked"), await row(lent)) == (1, (0, 16))
    assert (await admitted.record()).state == "forked"


async def test_reports_of_one_message_are_taken_one_after_the_other(admitted: Enclave, lent: Bench) -> None:
    """Two on one lease add up, and two that contradict each other show a fork like two in different messages."""
    await lent.grant(1000)
    one, other = await granted(admitted, 8), await granted(admitted, 8)
    closing = report(one.lease_id, seq=2, used=3, final=True)
    await admitted.renew(reports=(report(one.lease_id, seq=1, used=2), closing))
    assert await row(lent) == (3, 8)
    later = (report(other.lease_id, seq=1, used=6), report(other.lease_id, seq=2, used=5, final=True))
    await admitted.renew(reports=later)
    assert ((await lent.kinds()).count("Forked"), await row(lent)) == (1, (3, 8))


async def test_a_fork_is_written_down_once(admitted: Enclave, lent: Bench) -> None:
    """However many contradictions the copies send: the log, and the epoch, are not theirs to move."""
    await lent.grant(1000)
    _, told = await forked(admitted)
    for _ in range(2):
        await admitted.renew(reports=tuple(report(told.lease_id, seq=10 + n, used=n % 2) for n in range(100)))
    assert (await lent.kinds()).count("Forked") == 1
    assert admitted.stop_state(await renewal.stop_state_of(lent.custodian, admitted.instance)).epoch == 1


@pytest.mark.parametrize("how", ["renewal", "wipe"])
async def test_a_fork_is_pushed_to_whoever_listens(how: str, admitted: Enclave, lent: Bench) -> None:
    """The copy that did not tell on the other is stopped at once as well, whichever custodian it listens to."""
    await lent.grant(1000)
    _, told = await forked(admitted)
    with lent.custodian.hub.listen(await admitted.record()) as stream:
        if how == "renewal":
            await admitted.renew(reports=(lie(told),))
        else:
            statement = Wiped(instance=admitted.instance, epoch=0, reports=[lie(told)])
            await renewal.wiped(lent.custodian, seal(messages.WIPED, statement, admitted.identity))
        pushed = [stream.get_nowait() for _ in range(stream.qsize())]
    states = [line.stop_state for line in pushed if line is not None]
    assert [state is not None and admitted.stop_state(state).is_wide() for state in states] == [True]


async def test_a_fork_is_told_to_the_other_custodians(admitted: Enclave, lent: Bench) -> None:
    """In the transaction that finds it, so that it is told exactly when it is durable."""
    await lent.grant(1000)
    _, told = await forked(admitted)
    instance, custodian = await admitted.record(), lent.custodian

    def told_in(transaction: Transaction) -> list[Announcement]:
        take_reports(custodian, transaction, instance, [lie(told)])
        return [decode(notice, Notice).announcement for notice in transaction.notices]

    notices = await custodian.database.run(told_in)
    assert notices == [Announcement(stop=StopTarget.ENCLAVE, value=admitted.instance)]


async def test_a_repeated_report_is_not_a_fork(admitted: Enclave, lent: Bench) -> None:
    """The same report again, or an older one that was overtaken, changes nothing."""
    await lent.grant(1000)
    grant = await granted(admitted, 5)
    first, second = report(grant.lease_id, seq=1, used=1), report(grant.lease_id, seq=2, used=2)
    await admitted.renew(reports=(first, second))
    await admitted.renew(reports=(second, first))
    (view,) = (await views.show_enclaves(lent.custodian)).enclaves
    assert view.state == "live"


async def test_a_report_on_a_foreign_lease_changes_nothing(admitted: Enclave, lent: Bench) -> None:
    """One instance cannot close, or spend, the lease of another; an unknown lease is passed over."""
    await lent.grant(1000)
    grant = await granted(admitted, 5)
    other = Enclave(lent)
    await other.boot()
    lines = len(await lent.log())
    await other.renew(
        reports=(report(grant.lease_id, seq=1, used=5, final=True), report(message_id(), seq=1, used=1, final=True))
    )
    assert await row(lent) == (0, 5)
    assert len(await lent.log()) == lines


# --- Wipe and listen -----------------------------------------------------------------------------------------


async def test_a_wipe_closes_what_it_reports_and_ends_the_instance(admitted: Enclave, lent: Bench) -> None:
    """Final reports are taken, the statement is logged once, and nothing is granted afterwards."""
    await lent.grant(1000)
    grant = await granted(admitted, 5)
    final = report(grant.lease_id, seq=1, used=2, final=True)
    statement = Wiped(instance=admitted.instance, epoch=0, reports=[final])
    for _ in range(2):
        await renewal.wiped(lent.custodian, seal(messages.WIPED, statement, admitted.identity))
    assert await row(lent) == (2, 0)
    assert (await lent.kinds()).count("Wiped") == 1
    assert await denied(admitted) is DenyCode.STOPPED
    (view,) = (await views.show_enclaves(lent.custodian)).enclaves
    assert (view.state, view.outstanding) == ("wiped", UnitVector())


async def test_a_wipe_is_signed_by_its_instance(admitted: Enclave, lent: Bench) -> None:
    """Nobody else can end an instance, or close its leases, by saying that it was wiped."""
    statement = Wiped(instance=admitted.instance, epoch=0, reports=[])
    other = Enclave(lent)
    await other.boot()
    with pytest.raises(ForbiddenError):
        await renewal.wiped(lent.custodian, seal(messages.WIPED, statement, lent.enrolment[BORROWER]))
    with pytest.raises(SignatureInvalidError):
        await renewal.wiped(lent.custodian, seal(messages.WIPED, statement, other.identity))
    assert "Wiped" not in await lent.kinds()


async def test_only_an_instance_opens_its_own_stream(admitted: Enclave, lent: Bench) -> None:
    """The stream is for whoever holds the identity key."""
    listen = Listen(instance=admitted.instance, nonce=message_id(), at_ms=lent.now_ms)
    instance, asked_ms = await listener(lent.custodian, seal(messages.LISTEN, listen, admitted.identity))
    assert (instance.instance, asked_ms) == (admitted.instance, lent.now_ms)
    with pytest.raises(ForbiddenError):
        await listener(lent.custodian, seal(messages.LISTEN, listen, SigningKey.generate()))


async def test_the_sweep_charges_overdue_leases_without_any_heartbeat(admitted: Enclave, lent: Bench) -> None:
    """A borrower that never comes back does not keep its units pending for ever."""
    await lent.grant(1000)
    grant = await granted(admitted, 5)
    lent.now_ms += grant.ttl_ms + GRACE_MS + 1
    custodian = lent.custodian
    await custodian.database.run(lambda connection: sweep(custodian, connection, custodian.now(connection)))
    assert (await lent.kinds())[-1] == "LeaseExpired"


async def test_the_stop_of_another_borrower_disturbs_nobody(admitted: Enclave, lent: Bench) -> None:
    """It moves the epoch, but not the scope epoch of this instance."""
    before = admitted.stop_state((await renewal.renew(lent.custodian, admitted.renewal())).stop_state)
    await lent.command(acts.Stop(target=StopTarget.BORROWER, value=OTHER, reason="drill"))
    after = admitted.stop_state((await renewal.renew(lent.custodian, admitted.renewal())).stop_state)
    assert (after.epoch, after.scope_epoch, after.stops) == (before.epoch + 1, before.scope_epoch, [])


async def test_units_that_another_enclave_holds_are_recalled(admitted: Enclave, lent: Bench) -> None:
    """Who is told *reserved* makes the custodian ask all enclaves, once a second at most, for what lies idle."""
    await lent.grant(1)
    await granted(admitted)
    other = Enclave(lent)
    await other.boot()
    with lent.custodian.hub.listen(await admitted.record()) as stream:
        assert await denied(other) is DenyCode.RESERVED
        assert await denied(other) is DenyCode.RESERVED
        pushed = [stream.get_nowait() for _ in range(stream.qsize())]
    assert [line.recall for line in pushed if line is not None] == [True]


#: Tables of one row, which are read whole.
ONE_ROW = ("head",)


async def test_no_statement_of_a_renewal_reads_a_table_from_end_to_end(admitted: Enclave, lent: Bench) -> None:
    """Heartbeat, draw, report, refusal and sweep: whatever they ask of the ledger, an index can answer."""
    database = lent.custodian.database
    asked: dict[str, Any] = {}

    def listen(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, executemany: Any) -> None:
        if not executemany and statement.split(maxsplit=1)[0] in {"SELECT", "UPDATE", "DELETE"}:
            asked[statement] = parameters

    rolling = BudgetLimit(scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.ROLLING_DAY, limit=10)
    await lent.command(acts.SetBudget(limit=rolling))
    await lent.grant(2)
    event.listen(database.backend.engine, "before_cursor_execute", listen)
    first, second = await granted(admitted), await granted(admitted)
    await admitted.renew(reports=(report(first.lease_id, seq=1, used=1, final=True),))
    lent.now_ms += second.ttl_ms + GRACE_MS + 1
    await admitted.renew()
    assert [await denied(admitted, ask=True) for _ in range(2)] == [DenyCode.EXHAUSTED] * 2
    event.remove(database.backend.engine, "before_cursor_execute", listen)

    def plans(transaction: Transaction) -> dict[str, str]:
        explain = "EXPLAIN QUERY PLAN"
        if transaction.connection.dialect.name == "postgresql":
            # A small table is always read whole; what matters is that an index could answer.
            transaction.execute(text("SET LOCAL enable_seqscan = off"))
            explain = "EXPLAIN"
        run = transaction.connection.exec_driver_sql
        return {query: str(run(f"{explain} {query}", with_).all()) for query, with_ in asked.items()}

    found = await database.run(plans)
    assert len(found) >= 15
    for query, plan in found.items():
        read = set(re.findall(r"(?:SCAN|Seq Scan on) (\w+)", plan)) - {*ONE_ROW, "anon_1"}
        assert not read, (query, plan)
