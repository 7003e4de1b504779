"""Requests for more budget, and the operator commands that were carried out."""

from sqlalchemy import Connection, insert, select, update

from aigovtool.codec import decode, encode
from aigovtool.custodian.store.schema import asks, commands
from aigovtool.errors import ConflictError, NotFoundError
from aigovtool.ids import Digest, MessageId
from aigovtool.ledger.budget import Scope
from aigovtool.protocol.commands import AskState, CommandResult


def add(connection: Connection, ask: AskState) -> None:
    """Insert a request."""
    values = {"ask_id": ask.ask_id, "state": ask.state, "scope": _scope(ask.scope), "at_ms": ask.at_ms}
    connection.execute(insert(asks).values(**values, body=encode(ask)))


def find(connection: Connection, ask_id: MessageId) -> AskState | None:
    """Return a request."""
    body = connection.execute(select(asks.c.body).where(asks.c.ask_id == ask_id)).scalar_one_or_none()
    return None if body is None else decode(body, AskState)


def require(connection: Connection, ask_id: MessageId) -> AskState:
    """Return a request.

    Raises:
        NotFoundError: there is none with this id.
    """
    found = find(connection, ask_id)
    if found is None:
        raise NotFoundError("there is no such request for budget", reason="no_such_ask")
    return found


def open_at(connection: Connection, scope: Scope) -> AskState | None:
    """Return an open request at a scope."""
    statement = select(asks.c.body).where(asks.c.scope == _scope(scope), asks.c.state == "open")
    body = connection.execute(statement).scalars().first()
    return None if body is None else decode(body, AskState)


def replace(connection: Connection, ask: AskState) -> None:
    """Write a decided request."""
    connection.execute(update(asks).where(asks.c.ask_id == ask.ask_id).values(state=ask.state, body=encode(ask)))


def everything(connection: Connection, limit: int = 1000) -> list[AskState]:
    """Return requests, newest first."""
    statement = select(asks.c.body).order_by(asks.c.at_ms.desc()).limit(limit)
    return [decode(body, AskState) for body in connection.execute(statement).scalars()]


def done(connection: Connection, command_id: MessageId, digest: Digest) -> CommandResult | None:
    """Return the result of a command that was carried out before.

    Raises:
        ConflictError: the same command id came with another content.
    """
    found = connection.execute(select(commands).where(commands.c.command_id == command_id)).one_or_none()
    if found is None:
        return None
    if found.digest != digest:
        raise ConflictError("a command id was used for another command", reason="command_changed")
    return decode(found.result, CommandResult)


def remember(connection: Connection, command_id: MessageId, digest: Digest, result: CommandResult) -> None:
    """Keep the result of a command."""
    connection.execute(insert(commands).values(command_id=command_id, digest=digest, result=encode(result)))


def _scope(scope: Scope) -> str:
    return encode(scope).decode()
