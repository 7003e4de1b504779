"""Requests for more budget: filed by enclaves, consumers and borrowers; decided by operators.

A party has a few open at each scope, those of enclaves in its name included, and asks for no more where it has many at
all scopes together: whoever asks again and again must neither fill the ledger nor hide what others ask for.
"""

import secrets
from typing import Final

import msgspec

from aigovtool.crypto.identity import Identity
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.store import asks, budgets, models, parties, stops
from aigovtool.custodian.store.records import Instance, Party
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConflictError, ForbiddenError, NotFoundError
from aigovtool.ids import BorrowerId, ConsumerId, MessageId
from aigovtool.ledger.budget import BudgetRow, Scope, path, rooms
from aigovtool.ledger.entry import Asked, PartyRole, StopTarget
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.ledger.units import Dimension
from aigovtool.limits import MAX_ASKED
from aigovtool.protocol.commands import AskRequest, AskState
from aigovtool.protocol.messages import Want
from aigovtool.protocol.views import DimensionRoom, OwnBudget, OwnView

#: Open requests of a party at one scope: for each dimension one, and some that say more.
_MAX_OPEN: Final = 10
#: And of all models and consumers together: a tenth of what operators are shown.
_MAX_OPEN_IN_ALL: Final = 100
#: At a consumer's scope its borrower asks, too. More than both may have are there only since an earlier version.
_MAX_OPEN_AT_SCOPE: Final = 2 * _MAX_OPEN


def file_by_enclave(
    custodian: Custodian, transaction: Transaction, instance: Instance, want: Want, exhausted: Dimension
) -> None:
    """File one request for a path that is exhausted in a dimension, unless one is open or the consumer has too many."""
    scope = Scope(model=want.model, borrower=instance.borrower, consumer=want.consumer)
    found = asks.open_at(transaction, scope, _MAX_OPEN_AT_SCOPE)
    asked = any(ask.dimension is exhausted for ask in found)
    if not asked and _may_ask(found, PartyRole.CONSUMER, want.consumer):
        ask = AskRequest(
            ask_id=MessageId(secrets.token_hex(16)),
            scope=scope,
            units=min(max(1, want.target.get(exhausted)), MAX_ASKED),
            reason="budget exhausted",
            dimension=exhausted,
        )
        _file(custodian, transaction, ask, PartyRole.CONSUMER, want.consumer)


def _may_ask(found: list[AskState], role: PartyRole, name: str) -> bool:
    own = sum((ask.role, ask.name) == (role, name) for ask in found)
    return own < _MAX_OPEN and len(found) < _MAX_OPEN_AT_SCOPE


def _file(custodian: Custodian, transaction: Transaction, ask: AskRequest, role: PartyRole, name: str) -> AskState:
    state = AskState(
        ask_id=ask.ask_id,
        role=role,
        name=name,
        scope=ask.scope,
        units=ask.units,
        reason=ask.reason,
        dimension=ask.dimension,
        at_ms=custodian.now(transaction),
        state="open",
    )
    asks.add(transaction, state)
    custodian.record(
        transaction,
        Asked(
            ask_id=ask.ask_id,
            role=role,
            name=name,
            scope=ask.scope,
            units=ask.units,
            reason=ask.reason,
            dimension=ask.dimension,
        ),
    )
    return state


def party_of(transaction: Transaction, identity: Identity) -> Party:
    """Return the enrolled party behind a credential.

    Raises:
        ForbiddenError: unknown, revoked, or enrolled with another key.
    """
    party = parties.require(transaction, PartyRole(identity.kind.value), identity.name)
    if party.key != identity.public_key.raw:
        raise ForbiddenError("this credential was replaced", reason="not_enrolled")
    return party


async def file_by_party(custodian: Custodian, identity: Identity, ask: AskRequest) -> AskState:
    """File a request for a consumer's or borrower's own scope; the same id again answers the same.

    Raises:
        ForbiddenError: not enrolled (`not_enrolled`), or neither the caller's own scope nor that of a consumer that a
            borrower has (`not_own_scope`).
        NotFoundError: there is no such model.
        ConflictError: the id was used for another request, perhaps another party's (`ask_changed`), or the caller has
            too many open (`too_many_asks`).
    """

    def job(transaction: Transaction) -> AskState:
        party = party_of(transaction, identity)
        _require_own(transaction, party, ask.scope)
        models.require(transaction, ask.scope.model)
        before = asks.find(transaction, ask.ask_id)
        if before is None:
            _require_few(transaction, party, ask.scope)
            return _file(custodian, transaction, ask, party.role, party.name)
        same = (before.role, before.name, before.scope, before.units, before.reason, before.dimension)
        if same != (party.role, party.name, ask.scope, ask.units, ask.reason, ask.dimension):
            raise ConflictError("this id was used for another request", reason="ask_changed")
        return before

    return await custodian.database.run(job)


def _require_own(transaction: Transaction, party: Party, scope: Scope) -> None:
    if party.role is PartyRole.CONSUMER:
        own = scope.consumer == party.name and scope.borrower == party.borrower
    else:
        own = scope.borrower == party.name and (scope.consumer is None or _has(transaction, party, scope.consumer))
    if not own:
        raise ForbiddenError("a party asks for its own budget only", reason="not_own_scope")


def _has(transaction: Transaction, borrower: Party, name: ConsumerId) -> bool:
    consumer = parties.find(transaction, PartyRole.CONSUMER, name)
    return consumer is not None and not consumer.revoked and consumer.borrower == borrower.name


def _require_few(transaction: Transaction, party: Party, scope: Scope) -> None:
    of_borrower = asks.open_of(transaction, BorrowerId(party.borrower or party.name))
    if sum((ask.role, ask.name) == (party.role, party.name) for ask in of_borrower) >= _MAX_OPEN_IN_ALL:
        raise ConflictError(
            f"{_MAX_OPEN_IN_ALL} requests of yours are open",
            reason="too_many_asks",
            fix="wait until an operator has decided on some of them",
        )
    if not _may_ask(asks.open_at(transaction, scope, _MAX_OPEN_AT_SCOPE), party.role, party.name):
        raise ConflictError(
            f"{_MAX_OPEN} requests of yours for this budget are open",
            reason="too_many_asks",
            fix="wait until an operator has decided on them",
        )


async def show(custodian: Custodian, identity: Identity, ask_id: MessageId) -> AskState:
    """Return one of the caller's own requests."""

    def job(transaction: Transaction) -> AskState:
        party = party_of(transaction, identity)
        found = asks.find(transaction, ask_id)
        if found is None or not _is_own(party, found):
            raise NotFoundError("there is no such request for budget", reason="no_such_ask")
        return found

    return await custodian.database.run(job)


def _is_own(party: Party, ask: AskState) -> bool:
    return party.name == (ask.scope.consumer if party.role is PartyRole.CONSUMER else ask.scope.borrower)


async def own_view(custodian: Custodian, identity: Identity) -> OwnView:
    """Return what a consumer or borrower may know of itself."""

    def job(transaction: Transaction) -> OwnView:
        party = party_of(transaction, identity)
        return OwnView(
            name=party.name,
            role=party.role,
            budgets=_own_budgets(custodian, transaction, party),
            asks=_own_asks(transaction, party),
        )

    return await custodian.database.run(job)


def _own_asks(transaction: Transaction, party: Party) -> list[AskState]:
    if party.borrower is None:
        return asks.of_borrower(transaction, BorrowerId(party.name))
    name = ConsumerId(party.name)
    return asks.at(transaction, [path(one.model, party.borrower, name)[-1] for one in models.everything(transaction)])


def _own_budgets(custodian: Custodian, transaction: Transaction, party: Party) -> list[OwnBudget]:
    borrower = BorrowerId(party.borrower or party.name)
    stopped = {(stop.target, stop.value) for stop in stops.active(transaction)}
    found = []
    for model in models.everything(transaction):
        if borrower not in model.borrowers:
            continue
        scopes = path(model.model, borrower, ConsumerId(party.name))[: 3 if party.borrower else 2]
        now_ms = custodian.now(transaction)
        rows = budgets.rows_on(transaction, scopes, now_ms)
        aims = {
            (StopTarget.ALL, ""),
            (StopTarget.MODEL, model.model),
            (StopTarget.BORROWER, borrower),
            (StopTarget.CONSUMER, party.name),
        }
        found.append(
            OwnBudget(
                model=model.model,
                manifest=model.manifest_digest,
                rooms=_own_rooms(model.policy, rows, now_ms),
                withdrawn=model.withdrawn,
                stopped=bool(aims & stopped),
            )
        )
    return found


def _own_rooms(policy: ServingPolicy, rows: list[BudgetRow], now_ms: int) -> list[DimensionRoom]:
    """Return what is left of each dimension that is metered: nothing where no budget was set."""
    counted = {row.key.dimension for row in rows}
    left = {**{dimension: 0 for dimension in policy.counts if dimension not in counted}, **rooms(rows, now_ms)}
    return [DimensionRoom(dimension=dimension, units=left.get(dimension)) for dimension in policy.counts]


def decided(ask: AskState, *, approved: bool, units: int, operator: str, reason: str) -> AskState:
    """Return a request as an operator decided it."""
    state = "approved" if approved else "denied"
    return msgspec.structs.replace(ask, state=state, granted=units, decided_by=operator, decision=reason)
