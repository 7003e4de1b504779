"""Parties: who holds a credential. Rows are never deleted; a revoked name is not given out again."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import bindparam, insert, select, update

from aigovtool.codec import encode
from aigovtool.custodian.store.bodies import decoded
from aigovtool.custodian.store.records import Party
from aigovtool.custodian.store.schema import parties
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConflictError, ForbiddenError
from aigovtool.ids import KeyId, key_id_of
from aigovtool.ledger.entry import PartyRole

_OF_ROLE: Final = select(parties.c.body).where(parties.c.role == bindparam("of_role"))
_FIND: Final = _OF_ROLE.where(parties.c.name == bindparam("wanted"))
_AMONG: Final = _OF_ROLE.where(parties.c.name.in_(bindparam("names", expanding=True)))


def add(transaction: Transaction, party: Party) -> None:
    """Insert a party.

    Raises:
        ConflictError: the name or the key is taken already.
    """
    taken = (parties.c.role == party.role.value) & (parties.c.name == party.name)
    if transaction.execute(select(parties.c.name).where(taken | (parties.c.key_id == key_id_of(party.key)))).first():
        raise ConflictError(
            f"the {party.role} name {party.name}, or its key, was given out before", reason="party_exists"
        )
    transaction.execute(
        insert(parties).values(role=party.role.value, name=party.name, key_id=key_id_of(party.key), body=encode(party))
    )


def find(transaction: Transaction, role: PartyRole, name: str) -> Party | None:
    """Return a party, revoked or not."""
    body = transaction.execute(_FIND, {"of_role": role.value, "wanted": name}).scalar_one_or_none()
    return None if body is None else decoded(body, Party)


def by_key(transaction: Transaction, role: PartyRole, key_id: KeyId) -> Party | None:
    """Return the party whose key has this identifier, revoked or not."""
    statement = select(parties.c.body).where(parties.c.role == role.value, parties.c.key_id == key_id)
    body = transaction.execute(statement).scalar_one_or_none()
    return None if body is None else decoded(body, Party)


def among(transaction: Transaction, role: PartyRole, names: Sequence[str]) -> list[Party]:
    """Return those of `names` that were ever enrolled, revoked or not."""
    if not names:
        return []
    bodies = transaction.execute(_AMONG, {"of_role": role.value, "names": list(names)}).scalars()
    return [decoded(body, Party) for body in bodies]


def of_role(transaction: Transaction, role: PartyRole) -> list[Party]:
    """Return all parties of a role, revoked or not."""
    bodies = transaction.execute(_OF_ROLE, {"of_role": role.value}).scalars()
    return [decoded(body, Party) for body in bodies]


def require(transaction: Transaction, role: PartyRole, name: str) -> Party:
    """Return a party that may act.

    Raises:
        ForbiddenError: unknown or revoked (an outsider cannot tell which).
    """
    party = find(transaction, role, name)
    if party is None or party.revoked:
        raise ForbiddenError(f"{role} {name} is not enrolled", reason="not_enrolled")
    return party


def replace(transaction: Transaction, party: Party) -> None:
    """Write a changed party."""
    condition = (parties.c.role == party.role.value) & (parties.c.name == party.name)
    transaction.execute(update(parties).where(condition).values(key_id=key_id_of(party.key), body=encode(party)))


def everyone(transaction: Transaction) -> list[Party]:
    """Return all parties."""
    statement = select(parties.c.body).order_by(parties.c.role, parties.c.name)
    return [decoded(body, Party) for body in transaction.execute(statement).scalars()]
