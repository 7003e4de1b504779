"""Parties: who holds a credential. Rows are never deleted; a revoked name is not given out again."""

from sqlalchemy import Connection, insert, select, update

from aigovtool.codec import decode, encode
from aigovtool.custodian.store.records import Party
from aigovtool.custodian.store.schema import parties
from aigovtool.errors import ConflictError, ForbiddenError
from aigovtool.ledger.entry import PartyRole


def add(connection: Connection, party: Party) -> None:
    """Insert a party.

    Raises:
        ConflictError: the name or the key is taken already.
    """
    taken = (parties.c.role == party.role.value) & (parties.c.name == party.name)
    if connection.execute(select(parties.c.name).where(taken | (parties.c.key == party.key))).first():
        raise ConflictError(f"a {party.role} named {party.name}, or its key, exists already", reason="party_exists")
    connection.execute(
        insert(parties).values(role=party.role.value, name=party.name, key=party.key, body=encode(party))
    )


def find(connection: Connection, role: PartyRole, name: str) -> Party | None:
    """Return a party, revoked or not."""
    statement = select(parties.c.body).where(parties.c.role == role.value, parties.c.name == name)
    body = connection.execute(statement).scalar_one_or_none()
    return None if body is None else decode(body, Party)


def require(connection: Connection, role: PartyRole, name: str) -> Party:
    """Return a party that may act.

    Raises:
        ForbiddenError: unknown or revoked (an outsider cannot tell which).
    """
    party = find(connection, role, name)
    if party is None or party.revoked:
        raise ForbiddenError(f"{role} {name} is not enrolled", reason="not_enrolled")
    return party


def replace(connection: Connection, party: Party) -> None:
    """Write a changed party."""
    condition = (parties.c.role == party.role.value) & (parties.c.name == party.name)
    connection.execute(update(parties).where(condition).values(key=party.key, body=encode(party)))


def everyone(connection: Connection) -> list[Party]:
    """Return all parties."""
    statement = select(parties.c.body).order_by(parties.c.role, parties.c.name)
    return [decode(body, Party) for body in connection.execute(statement).scalars()]
