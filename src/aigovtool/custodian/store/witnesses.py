"""Witnesses: who may co-sign checkpoints, and the newest co-signature of each. Rows are never deleted."""

from sqlalchemy import insert, select, update

from aigovtool.codec import encode
from aigovtool.custodian.store.bodies import decoded
from aigovtool.custodian.store.records import Witness
from aigovtool.custodian.store.schema import witnesses
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConflictError
from aigovtool.ids import key_id_of


def add(transaction: Transaction, witness: Witness) -> None:
    """Insert a witness.

    Raises:
        ConflictError: the name or the key was given to one before, retired or not.
    """
    key_id = key_id_of(witness.key)
    taken = (witnesses.c.name == witness.name) | (witnesses.c.key_id == key_id)
    if transaction.execute(select(witnesses.c.name).where(taken)).first():
        raise ConflictError(
            f"the witness name {witness.name}, or its key, was enrolled before",
            reason="witness_exists",
            fix="a witness that was retired, or has lost its key, needs a new name and a new key",
        )
    transaction.execute(insert(witnesses).values(name=witness.name, key_id=key_id, body=encode(witness)))


def find(transaction: Transaction, name: str) -> Witness | None:
    """Return a witness, retired or not."""
    body = transaction.execute(select(witnesses.c.body).where(witnesses.c.name == name)).scalar_one_or_none()
    return None if body is None else decoded(body, Witness)


def everyone(transaction: Transaction) -> list[Witness]:
    """Return all witnesses by name."""
    statement = select(witnesses.c.body).order_by(witnesses.c.name)
    return [decoded(body, Witness) for body in transaction.execute(statement).scalars()]


def active(transaction: Transaction) -> list[Witness]:
    """Return those that are not retired."""
    return [witness for witness in everyone(transaction) if not witness.retired]


def replace(transaction: Transaction, witness: Witness) -> None:
    """Write a changed witness."""
    statement = update(witnesses).where(witnesses.c.name == witness.name)
    transaction.execute(statement.values(body=encode(witness)))
