"""Requests for more budget, and the operator commands that were carried out."""

from collections.abc import Iterable
from typing import Final

from sqlalchemy import ColumnElement, insert, select, true, update

from aigovtool.codec import encode
from aigovtool.custodian.store.bodies import decoded
from aigovtool.custodian.store.schema import OPEN, asks, commands
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConflictError, NotFoundError
from aigovtool.ids import BorrowerId, Digest, MessageId
from aigovtool.ledger.budget import Scope
from aigovtool.protocol.commands import AskState, CommandResult

#: Requests shown at once: the open ones first, so that what was decided never hides them.
_SHOWN: Final = 1_000


def add(transaction: Transaction, ask: AskState) -> None:
    """Insert a request."""
    values = {"ask_id": ask.ask_id, "state": ask.state, "scope": _scope(ask.scope), "at_ms": ask.at_ms}
    transaction.execute(insert(asks).values(**values, body=encode(ask)))


def find(transaction: Transaction, ask_id: MessageId) -> AskState | None:
    """Return a request."""
    body = transaction.execute(select(asks.c.body).where(asks.c.ask_id == ask_id)).scalar_one_or_none()
    return None if body is None else decoded(body, AskState)


def require(transaction: Transaction, ask_id: MessageId) -> AskState:
    """Return a request.

    Raises:
        NotFoundError: there is none with this id.
    """
    found = find(transaction, ask_id)
    if found is None:
        raise NotFoundError("there is no such request for budget", reason="no_such_ask")
    return found


def open_at(transaction: Transaction, scope: Scope, limit: int) -> list[AskState]:
    """Return up to `limit` open requests at a scope, in any dimension."""
    statement = select(asks.c.body).where(asks.c.scope == _scope(scope), asks.c.state == "open").limit(limit)
    return [decoded(body, AskState) for body in transaction.execute(statement).scalars()]


def open_of(transaction: Transaction, borrower: BorrowerId) -> list[AskState]:
    """Return the open requests for a borrower and its consumers."""
    statement = select(asks.c.body).where(OPEN, _is_of(borrower))
    return [decoded(body, AskState) for body in transaction.execute(statement).scalars()]


def replace(transaction: Transaction, ask: AskState) -> None:
    """Write a decided request."""
    transaction.execute(update(asks).where(asks.c.ask_id == ask.ask_id).values(state=ask.state, body=encode(ask)))


def everything(transaction: Transaction, limit: int = _SHOWN) -> list[AskState]:
    """Return requests: the open ones, then those that were decided; of either the newest first."""
    return _shown(transaction, true(), limit)


def at(transaction: Transaction, scopes: Iterable[Scope]) -> list[AskState]:
    """Return requests at these scopes, in the order of `everything`."""
    return _shown(transaction, asks.c.scope.in_([_scope(scope) for scope in scopes]), _SHOWN)


def of_borrower(transaction: Transaction, borrower: BorrowerId) -> list[AskState]:
    """Return requests for a borrower and its consumers, in the order of `everything`."""
    return _shown(transaction, _is_of(borrower), _SHOWN)


def _is_of(borrower: BorrowerId) -> ColumnElement[bool]:
    return asks.c.scope.contains(f'"borrower":{encode(borrower).decode()}', autoescape=True)


def _shown(transaction: Transaction, which: ColumnElement[bool], limit: int) -> list[AskState]:
    found: list[AskState] = []
    # One after the other, so that each follows an index: sorting both together would read all that was ever asked.
    for state in (OPEN, asks.c.state != "open"):
        statement = select(asks.c.body).where(which, state).order_by(asks.c.at_ms.desc()).limit(limit - len(found))
        found += [decoded(body, AskState) for body in transaction.execute(statement).scalars()]
    return found


def done(transaction: Transaction, command_id: MessageId, digest: Digest) -> CommandResult | None:
    """Return the result of a command that was carried out before.

    Raises:
        ConflictError: the same command id came with another content.
    """
    found = transaction.execute(select(commands).where(commands.c.command_id == command_id)).one_or_none()
    if found is None:
        return None
    if found.digest != digest:
        raise ConflictError("a command id was used for another command", reason="command_changed")
    return decoded(found.result, CommandResult)


def remember(transaction: Transaction, command_id: MessageId, digest: Digest, result: CommandResult) -> None:
    """Keep the result of a command."""
    transaction.execute(insert(commands).values(command_id=command_id, digest=digest, result=encode(result)))


def _scope(scope: Scope) -> str:
    return encode(scope).decode()
