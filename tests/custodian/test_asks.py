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
from aigovtool.errors import AIGovToolError, ConflictError, ForbiddenError, NotFoundError
from aigovtool.ids import ConsumerId, ModelId
from aigovtool.ledger import entry
from aigovtool.ledger.budget import BudgetLimit, Scope, Window
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.units import Dimension
from aigovtool.protocol import commands as acts
from aigovtool.protocol.commands import AskRequest
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


# --- By a party ----------------------------------------------------------------------------------------------


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


def _limit(units: int, scope: Scope) -> BudgetLimit:
    return BudgetLimit(scope=scope, dimension=Dimension.INFERENCES, window=Window.LIFETIME, limit=units)


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
