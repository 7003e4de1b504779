"""Requests for more budget: filed once, shown to their owner, decided by an operator."""

from typing import Any

import msgspec
import pytest
from tests.custodian.conftest import (
    BORROWER,
    CONSUMER,
    MODEL,
    OTHER,
    STRANGER,
    Bench,
    Enclave,
    message_id,
    report,
    want,
)

from aigovtool.crypto.identity import Identity, IdentityKind
from aigovtool.crypto.sign import SigningKey
from aigovtool.custodian.service import asks, views
from aigovtool.custodian.store import asks as stored
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import AIGovToolError, ConflictError, ForbiddenError, InvalidValueError, NotFoundError
from aigovtool.ids import ConsumerId, ModelId
from aigovtool.ledger import entry
from aigovtool.ledger.budget import BudgetLimit, Scope, Window
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.units import Dimension
from aigovtool.protocol import commands as acts
from aigovtool.protocol.commands import AskRequest, AskState
from aigovtool.protocol.messages import Deny, DenyCode, Grant
from aigovtool.protocol.views import OwnBudget

OWN = Scope(model=MODEL, borrower=BORROWER, consumer=CONSUMER)


def consumer(bench: Bench, name: ConsumerId = CONSUMER) -> Identity:
    return bench.identity(IdentityKind.CONSUMER, name, bench.consumers[name])


def borrower(bench: Bench) -> Identity:
    return bench.identity(IdentityKind.BORROWER, BORROWER, bench.enrolment[BORROWER])


def ask(scope: Scope = OWN, **changes: Any) -> AskRequest:
    made = AskRequest(ask_id=message_id(), scope=scope, units=10, reason="more patients")
    return msgspec.structs.replace(made, **changes)


def decide(ask_id: Any, *, approve: bool = True, units: int | None = None) -> acts.DecideAsk:
    return acts.DecideAsk(ask_id=ask_id, approve=approve, units=units, reason="decided")


def rooms_of(budget: OwnBudget) -> dict[str, int | None]:
    return {room.dimension.value: room.units for room in budget.rooms}


async def exhaust(enclave: Enclave) -> None:
    """Use up a budget of one unit."""
    await enclave.bench.grant(1)
    (grant,) = (await enclave.renew(want())).results
    assert isinstance(grant, Grant)
    await enclave.renew(reports=(report(grant.lease_id, seq=1, used=1, final=True),))


# --- By the enclave ------------------------------------------------------------------------------------------


async def test_an_exhausted_budget_files_one_request(admitted: Enclave, lent: Bench) -> None:
    """However often the enclave comes back, one request is open for its path, and it names the consumer."""
    await exhaust(admitted)
    for _ in range(3):
        (deny,) = (await admitted.renew(want(7, ask=True))).results
        assert isinstance(deny, Deny)
        assert deny.code is DenyCode.EXHAUSTED
    (filed,) = (await views.show_asks(lent.custodian)).asks
    assert (filed.role, filed.name, filed.scope, filed.units) == (PartyRole.CONSUMER, CONSUMER, OWN, 7)
    assert (await lent.kinds()).count("Asked") == 1


async def test_nothing_is_asked_that_the_enclave_did_not_ask(admitted: Enclave, lent: Bench) -> None:
    """Without its wish, and for another refusal than an empty budget, no request is filed."""
    await admitted.renew(want(ask=True))  # no budget row at all
    await exhaust(admitted)
    await admitted.renew(want())
    await admitted.renew(want(consumer=STRANGER, ask=True))
    assert (await views.show_asks(lent.custodian)).asks == []


async def test_a_decided_request_makes_room_for_a_new_one(admitted: Enclave, lent: Bench) -> None:
    """After a denial the next exhausted heartbeat files another."""
    await exhaust(admitted)
    await admitted.renew(want(ask=True))
    (filed,) = (await views.show_asks(lent.custodian)).asks
    await lent.command(decide(filed.ask_id, approve=False))
    await admitted.renew(want(ask=True))
    states = sorted(found.state for found in (await views.show_asks(lent.custodian)).asks)
    assert states == ["denied", "open"]


async def test_requests_of_an_enclave_count_as_its_consumers(admitted: Enclave, lent: Bench) -> None:
    """Who has as many open as it may have gets no further one through an enclave, which is answered all the same."""
    await exhaust(admitted)
    for _ in range(10):
        await asks.file_by_party(lent.custodian, consumer(lent), ask(dimension=Dimension.COMPUTE_MS))
    (deny,) = (await admitted.renew(want(ask=True))).results
    assert isinstance(deny, Deny)
    assert deny.code is DenyCode.EXHAUSTED
    shown = (await views.show_asks(lent.custodian)).asks
    assert {found.dimension for found in shown} == {Dimension.COMPUTE_MS}
    await lent.command(decide(shown[0].ask_id, approve=False))
    await admitted.renew(want(ask=True))
    assert sum(found.dimension is Dimension.INFERENCES for found in (await views.show_asks(lent.custodian)).asks) == 1


async def test_a_ledger_that_was_flooded_before_is_not_slowed_by_it(admitted: Enclave, lent: Bench) -> None:
    """However many are open at a scope, a renewal reads a few of them; no further one is filed there."""
    await exhaust(admitted)

    def flood(transaction: Transaction) -> int:
        for _ in range(100):
            stored.add(transaction, state(role=PartyRole.BORROWER, name=BORROWER, dimension=Dimension.COMPUTE_MS))
        return len(stored.open_at(transaction, OWN, 20))

    assert await lent.custodian.database.run(flood) == 20
    await admitted.renew(want(ask=True))
    with pytest.raises(ConflictError) as caught:
        await asks.file_by_party(lent.custodian, consumer(lent), ask())
    assert caught.value.reason == "too_many_asks"
    assert (await lent.kinds()).count("Asked") == 0


def state(**changes: Any) -> AskState:
    made = AskState(
        ask_id=message_id(),
        role=PartyRole.CONSUMER,
        name=CONSUMER,
        scope=OWN,
        units=1,
        reason="r",
        at_ms=1,
        state="open",
    )
    return msgspec.structs.replace(made, **changes)


# --- By a party ----------------------------------------------------------------------------------------------


async def test_a_party_has_ten_requests_open_at_a_scope(lent: Bench) -> None:
    """More would fill the ledger and hide those of others; what is refused leaves no line in the log."""
    filed = [ask(units=number + 1) for number in range(10)]
    for one in filed:
        await asks.file_by_party(lent.custodian, consumer(lent), one)
    lines = len(await lent.log())
    for dimension in Dimension.INFERENCES, Dimension.COMPUTE_MS:
        with pytest.raises(ConflictError) as caught:
            await asks.file_by_party(lent.custodian, consumer(lent), ask(dimension=dimension))
        assert (caught.value.reason, caught.value.status) == ("too_many_asks", 409)
        assert caught.value.fix
    again = await asks.file_by_party(lent.custodian, consumer(lent), filed[0])
    assert again.ask_id == filed[0].ask_id
    assert len(await lent.log()) == lines
    await asks.file_by_party(lent.custodian, borrower(lent), ask())  # whose own line is not the consumer's
    await asks.file_by_party(
        lent.custodian, consumer(lent, STRANGER), ask(Scope(model=MODEL, borrower=OTHER, consumer=STRANGER))
    )
    await lent.command(decide(filed[3].ask_id, approve=False))
    await asks.file_by_party(lent.custodian, consumer(lent), ask())


async def test_a_party_has_a_hundred_requests_open_in_all(lent: Bench) -> None:
    """Attack: ten for each of its many consumers and models would push all that others ask for out of what is shown."""
    for number in range(11):
        await lent.add_consumer(ConsumerId(f"ward{100 + number}"), BORROWER)
    scopes = [Scope(model=MODEL, borrower=BORROWER, consumer=ConsumerId(f"ward{100 + number}")) for number in range(11)]
    filed = [ask(scope) for scope in scopes[:10] for _ in range(10)]
    for one in filed:
        await asks.file_by_party(lent.custodian, borrower(lent), one)
    with pytest.raises(ConflictError) as caught:
        await asks.file_by_party(lent.custodian, borrower(lent), ask(scopes[10]))
    assert caught.value.reason == "too_many_asks"
    await asks.file_by_party(lent.custodian, consumer(lent), ask())  # whose own are others
    await lent.command(decide(filed[0].ask_id, approve=False))
    await asks.file_by_party(lent.custodian, borrower(lent), ask(scopes[10]))


async def test_a_borrower_asks_for_consumers_that_are_there(lent: Bench) -> None:
    """Not for one that was never enrolled, is another's, or was revoked: nobody could decide on it."""
    revoked = ConsumerId("ward8")
    await lent.add_consumer(revoked, BORROWER)
    await asks.file_by_party(
        lent.custodian, borrower(lent), ask(Scope(model=MODEL, borrower=BORROWER, consumer=revoked))
    )
    await lent.command(acts.RevokeParty(role=PartyRole.CONSUMER, name=revoked))
    for name in (ConsumerId("ghost"), STRANGER, revoked):
        with pytest.raises(ForbiddenError) as caught:
            await asks.file_by_party(
                lent.custodian, borrower(lent), ask(Scope(model=MODEL, borrower=BORROWER, consumer=name))
            )
        assert caught.value.reason == "not_own_scope"
    assert (await lent.kinds()).count("Asked") == 1


async def test_open_requests_are_shown_first_however_many_were_decided(lent: Bench) -> None:
    """To operators and to whoever asked: the newest of all kinds would push out what waits for a decision."""
    mine, theirs = ask(), ask(Scope(model=MODEL, borrower=BORROWER))
    await asks.file_by_party(lent.custodian, consumer(lent), mine)
    await asks.file_by_party(lent.custodian, borrower(lent), theirs)

    def decide_many(transaction: Transaction) -> None:
        for number in range(1_200):
            later = {"at_ms": lent.now_ms + 1 + number, "state": "denied"}
            stored.add(transaction, state(**later))
            stored.add(
                transaction, state(**later, name=STRANGER, scope=Scope(model=MODEL, borrower=OTHER, consumer=STRANGER))
            )

    await lent.custodian.database.run(decide_many)
    shown = (await views.show_asks(lent.custodian)).asks
    assert {found.ask_id for found in shown[:2]} == {mine.ask_id, theirs.ask_id}
    assert [found.at_ms for found in shown[2:]] == sorted((found.at_ms for found in shown[2:]), reverse=True)
    assert len(shown) == 1_000
    own = (await asks.own_view(lent.custodian, consumer(lent))).asks
    assert (own[0].ask_id, len(own)) == (mine.ask_id, 1_000)
    assert {found.name for found in own} == {CONSUMER}
    assert max(found.at_ms for found in own) == lent.now_ms + 1_200
    whole = (await asks.own_view(lent.custodian, borrower(lent))).asks
    assert {found.ask_id for found in whole[:2]} == {mine.ask_id, theirs.ask_id}
    assert {found.scope.borrower for found in whole} == {BORROWER}
    other = (await asks.own_view(lent.custodian, consumer(lent, STRANGER))).asks
    assert {found.name for found in other} == {STRANGER}


async def test_the_same_request_is_filed_once(lent: Bench) -> None:
    """A retry gets the same answer and no second line in the log."""
    request = ask()
    first = await asks.file_by_party(lent.custodian, consumer(lent), request)
    assert await asks.file_by_party(lent.custodian, consumer(lent), request) == first
    assert (await lent.kinds()).count("Asked") == 1
    assert await asks.show(lent.custodian, consumer(lent), request.ask_id) == first


async def test_an_id_stands_for_one_request_of_one_party(lent: Bench) -> None:
    """The same id with other content, or by another party, is a conflict that shows nothing of the first."""
    request = ask()
    await asks.file_by_party(lent.custodian, consumer(lent), request)
    foreign = Scope(model=MODEL, borrower=OTHER, consumer=STRANGER)
    for who, again in (
        (consumer(lent), ask(ask_id=request.ask_id, units=11)),
        (consumer(lent), ask(ask_id=request.ask_id, reason="another")),
        (consumer(lent, STRANGER), ask(foreign, ask_id=request.ask_id)),
        (borrower(lent), request),
    ):
        with pytest.raises(ConflictError) as caught:
            await asks.file_by_party(lent.custodian, who, again)
        assert caught.value.reason == "ask_changed"
        assert "patients" not in caught.value.message
    assert len((await views.show_asks(lent.custodian)).asks) == 1


@pytest.mark.parametrize(
    "scope",
    [
        Scope(model=MODEL),
        Scope(model=MODEL, borrower=BORROWER),
        Scope(model=MODEL, borrower=BORROWER, consumer=ConsumerId("ward8")),
        Scope(model=MODEL, borrower=OTHER, consumer=CONSUMER),
    ],
)
async def test_a_consumer_asks_for_itself_only(scope: Scope, lent: Bench) -> None:
    """Not for everybody, its borrower, a colleague, or itself under another borrower."""
    with pytest.raises(ForbiddenError) as caught:
        await asks.file_by_party(lent.custodian, consumer(lent), ask(scope))
    assert caught.value.reason == "not_own_scope"


async def test_a_borrower_asks_for_itself_and_its_consumers(lent: Bench) -> None:
    """But for nobody else's."""
    for scope in (OWN, Scope(model=MODEL, borrower=BORROWER)):
        await asks.file_by_party(lent.custodian, borrower(lent), ask(scope))
    for scope in (Scope(model=MODEL), Scope(model=MODEL, borrower=OTHER)):
        with pytest.raises(ForbiddenError):
            await asks.file_by_party(lent.custodian, borrower(lent), ask(scope))


async def test_a_party_sees_its_own_requests_only(lent: Bench) -> None:
    """Another's request does not exist for it, whoever knows the id."""
    request = ask()
    await asks.file_by_party(lent.custodian, consumer(lent), request)
    assert (await asks.show(lent.custodian, borrower(lent), request.ask_id)).ask_id == request.ask_id
    for ask_id in (request.ask_id, message_id()):
        with pytest.raises(NotFoundError) as caught:
            await asks.show(lent.custodian, consumer(lent, STRANGER), ask_id)
        assert caught.value.reason == "no_such_ask"


async def test_a_revoked_or_replaced_credential_asks_nothing(lent: Bench) -> None:
    """A certificate outlives its holder's enrolment; the ledger does not."""
    imposter = lent.identity(IdentityKind.CONSUMER, CONSUMER, SigningKey.generate())
    with pytest.raises(ForbiddenError):
        await asks.own_view(lent.custodian, imposter)
    await lent.command(acts.RevokeParty(role=PartyRole.CONSUMER, name=CONSUMER))
    for attempt in (
        asks.file_by_party(lent.custodian, consumer(lent), ask()),
        asks.show(lent.custodian, consumer(lent), message_id()),
        asks.own_view(lent.custodian, consumer(lent)),
    ):
        with pytest.raises(ForbiddenError) as caught:
            await attempt
        assert caught.value.reason == "not_enrolled"


async def test_a_request_for_an_unknown_model_is_refused(lent: Bench) -> None:
    """Nobody can decide on it."""
    scope = Scope(model=ModelId("other"), borrower=BORROWER, consumer=CONSUMER)
    with pytest.raises(NotFoundError):
        await asks.file_by_party(lent.custodian, consumer(lent), ask(scope))


async def test_the_own_view_shows_the_least_room_and_stops(lent: Bench) -> None:
    """A consumer sees what is left for it on its narrowest row, its requests, and whether it is stopped."""
    await lent.grant(50)
    limit = BudgetLimit(scope=OWN, dimension=Dimension.INFERENCES, window=Window.DAY, limit=20)
    await lent.command(acts.SetBudget(limit=limit))
    request = ask()
    await asks.file_by_party(lent.custodian, consumer(lent), request)
    await lent.command(acts.Stop(target=StopTarget.CONSUMER, value=CONSUMER, reason="drill"))
    own = await asks.own_view(lent.custodian, consumer(lent))
    assert [(budget.model, rooms_of(budget), budget.stopped) for budget in own.budgets] == [
        (MODEL, {"inferences": 20}, True)
    ]
    assert [found.ask_id for found in own.asks] == [request.ask_id]
    whole = await asks.own_view(lent.custodian, borrower(lent))
    assert [(rooms_of(budget), budget.stopped) for budget in whole.budgets] == [({"inferences": 50}, False)]
    other = await asks.own_view(lent.custodian, consumer(lent, STRANGER))
    assert (other.budgets, other.asks) == ([], [])  # this model is not lent to its borrower


# --- Decisions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("units", "room"), [(None, 10), (3, 3), (25, 25)])
async def test_an_approval_raises_the_limits_on_the_path(units: int | None, room: int, lent: Bench) -> None:
    """By what was asked, or by what the operator says; rows beside the path stay."""
    await lent.command(acts.SetBudget(limit=_limit(0, Scope(model=MODEL))))
    await lent.command(acts.SetBudget(limit=_limit(0, OWN)))
    await lent.command(acts.SetBudget(limit=_limit(0, Scope(model=MODEL, borrower=OTHER))))
    request = ask()
    await asks.file_by_party(lent.custodian, consumer(lent), request)
    result = await lent.command(decide(request.ask_id, units=units))
    rooms = {row.key.scope: row.room for row in (await views.show_budgets(lent.custodian)).budgets}
    assert rooms == {Scope(model=MODEL): room, OWN: room, Scope(model=MODEL, borrower=OTHER): 0}
    state = await asks.show(lent.custodian, consumer(lent), request.ask_id)
    assert (state.state, state.granted, state.decided_by) == ("approved", room, "alice")
    assert isinstance((await lent.log())[result.entry], entry.AskDecided)


def _limit(units: int, scope: Scope, window: Window = Window.LIFETIME, end_ms: int | None = None) -> BudgetLimit:
    return BudgetLimit(scope=scope, dimension=Dimension.INFERENCES, window=window, limit=units, not_after_ms=end_ms)


async def approved(bench: Bench, units: int = 10) -> dict[tuple[str, str], int | None]:
    """File a request of the consumer's, approve it, and return the limits then."""
    request = ask(units=units)
    await asks.file_by_party(bench.custodian, consumer(bench), request)
    await bench.command(decide(request.ask_id))
    return await limits(bench)


async def limits(bench: Bench) -> dict[tuple[str, str], int | None]:
    rows = (await views.show_budgets(bench.custodian)).budgets
    return {(row.key.scope.level().value, row.key.window.value): row.limit for row in rows}


async def test_what_others_share_is_not_raised_while_it_has_room(lent: Bench) -> None:
    """An operator who approves for one consumer does not lift the ceiling of a whole model with each approval."""
    await lent.command(acts.SetBudget(limit=_limit(9_000, Scope(model=MODEL))))
    await lent.command(acts.SetBudget(limit=_limit(0, OWN)))
    assert await approved(lent, 500) == {("model", "lifetime"): 9_000, ("model_borrower_consumer", "lifetime"): 500}
    assert await approved(lent, 8_400) == {("model", "lifetime"): 9_000, ("model_borrower_consumer", "lifetime"): 8_900}
    assert await approved(lent, 200) == {("model", "lifetime"): 9_100, ("model_borrower_consumer", "lifetime"): 9_100}


async def test_an_approval_makes_exactly_so_many_more_usable(admitted: Enclave, lent: Bench) -> None:
    """Beside what was left, and also where a limit was set below what is used."""
    await exhaust(admitted)
    await lent.command(acts.SetBudget(limit=_limit(0, Scope(model=MODEL))))
    assert await approved(lent, 10) == {("model", "lifetime"): 11}
    assert (await views.show_budgets(lent.custodian)).budgets[0].room == 10
    assert await approved(lent, 7) == {("model", "lifetime"): 18}


async def test_an_approval_leaves_an_end_where_it_is(lent: Bench) -> None:
    """Also one that has passed: the request is decided, and nothing is granted until somebody sets another end."""
    end_ms = lent.now_ms + 10
    await lent.command(acts.SetBudget(limit=_limit(0, Scope(model=MODEL), end_ms=end_ms)))
    await lent.command(acts.SetBudget(limit=_limit(0, OWN)))
    lent.now_ms = end_ms
    assert await approved(lent, 5) == {("model", "lifetime"): 5, ("model_borrower_consumer", "lifetime"): 5}
    ends = {row.key.scope: row.not_after_ms for row in (await views.show_budgets(lent.custodian)).budgets}
    assert ends == {Scope(model=MODEL): end_ms, OWN: None}


async def test_an_approval_of_nothing_is_refused(lent: Bench) -> None:
    """Zero is no way to say "as much as was asked for"."""
    await lent.grant(1)
    request = ask()
    await asks.file_by_party(lent.custodian, consumer(lent), request)
    await _refused(lent, decide(request.ask_id, units=0), InvalidValueError, "no_units")
    assert await limits(lent) == {("model", "lifetime"): 1}
    await lent.command(decide(request.ask_id, approve=False, units=0))


async def test_an_approval_that_would_help_nobody_is_refused(lent: Bench) -> None:
    """Where a window is what limits the path, lifetime units on top cannot be used; the refusal names the window."""
    await lent.grant(100)
    await lent.command(acts.SetBudget(limit=_limit(0, OWN, Window.ROLLING_DAY)))
    request = ask()
    await asks.file_by_party(lent.custodian, consumer(lent), request)
    with pytest.raises(ConflictError) as caught:
        await lent.command(decide(request.ask_id))
    assert caught.value.reason == "window_exhausted"
    assert "rolling_day" in caught.value.message
    assert "budget set" in (caught.value.fix or "")
    before = {("model", "lifetime"): 100, ("model_borrower_consumer", "rolling_day"): 0}
    assert await limits(lent) == before
    assert (await asks.show(lent.custodian, consumer(lent), request.ask_id)).state == "open"
    await lent.command(acts.SetBudget(limit=_limit(10, OWN, Window.ROLLING_DAY)))
    await lent.command(decide(request.ask_id))  # which can be granted now, without raising anything
    assert await limits(lent) == {**before, ("model_borrower_consumer", "rolling_day"): 10}
    assert (await asks.show(lent.custodian, consumer(lent), request.ask_id)).granted == 10


async def test_a_lifetime_that_is_exhausted_is_raised_whatever_the_windows_leave(lent: Bench) -> None:
    """The units are for the days to come, too."""
    await lent.command(acts.SetBudget(limit=_limit(0, Scope(model=MODEL))))
    await lent.command(acts.SetBudget(limit=_limit(0, OWN, Window.DAY)))
    assert await approved(lent, 10) == {("model", "lifetime"): 10, ("model_borrower_consumer", "day"): 0}


async def test_a_path_with_windows_alone_has_nothing_to_raise(lent: Bench) -> None:
    """The refusal names the window there, too."""
    await lent.command(acts.SetBudget(limit=_limit(3, OWN, Window.DAY)))
    request = ask()
    await asks.file_by_party(lent.custodian, consumer(lent), request)
    await _refused(lent, decide(request.ask_id), ConflictError, "window_exhausted")


async def test_a_denial_raises_nothing(lent: Bench) -> None:
    """Also when units were named by mistake."""
    await lent.grant(1)
    request = ask()
    await asks.file_by_party(lent.custodian, consumer(lent), request)
    await lent.command(decide(request.ask_id, approve=False, units=100))
    (row,) = (await views.show_budgets(lent.custodian)).budgets
    assert row.limit == 1
    shown = await asks.show(lent.custodian, consumer(lent), request.ask_id)
    assert (shown.state, shown.decided_by) == ("denied", "alice")
    assert shown.decision == "decided"  # whoever asked may know why not


async def test_a_request_is_decided_once(lent: Bench) -> None:
    """A second decision, even a different one, changes nothing; neither does one on nothing."""
    await lent.grant(1)
    request = ask()
    await asks.file_by_party(lent.custodian, consumer(lent), request)
    await lent.command(decide(request.ask_id))
    for ask_id, error, reason in (
        (request.ask_id, ConflictError, "already_decided"),
        (message_id(), NotFoundError, "no_such_ask"),
    ):
        await _refused(lent, decide(ask_id, approve=False), error, reason)
    (row,) = (await views.show_budgets(lent.custodian)).budgets
    assert row.limit == 11


async def test_an_approval_without_a_row_to_raise_is_refused(lent: Bench) -> None:
    """The request stays open, and the operator is told what to do."""
    request = ask()
    await asks.file_by_party(lent.custodian, consumer(lent), request)
    await _refused(lent, decide(request.ask_id), NotFoundError, "no_budget_row")
    assert (await asks.show(lent.custodian, consumer(lent), request.ask_id)).state == "open"


async def _refused(bench: Bench, act: acts.DecideAsk, error: type[AIGovToolError], reason: str) -> None:
    with pytest.raises(error) as caught:
        await bench.command(act)
    assert caught.value.reason == reason
