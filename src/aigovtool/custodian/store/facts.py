"""Single values of the ledger: the counters of its head, and the policies in force."""

from typing import Final, TypeVar

import msgspec
from sqlalchemy import func, select

from aigovtool.codec import decode, encode
from aigovtool.custodian.store.schema import facts
from aigovtool.custodian.store.transaction import Transaction

T = TypeVar("T")

APPRAISAL_POLICY: Final = "appraisal_policy"
#: The epoch to which the ledger leapt when it learnt last what it had forgotten.
FORGOTTEN_UP_TO: Final = "forgotten_up_to"


def get(transaction: Transaction, name: str, kind: type[T]) -> T | None:
    """Return a value, or `None` when it was never set."""
    value = transaction.execute(select(facts.c.value).where(facts.c.name == name)).scalar_one_or_none()
    return None if value is None else decode(value, kind)


def put(transaction: Transaction, name: str, value: object) -> None:
    """Set a value."""
    transaction.upsert(facts, {"name": name}, {"value": encode(value)})


def epoch(transaction: Transaction) -> int:
    """Return the epoch."""
    return transaction.head.epoch


def generation(transaction: Transaction) -> int:
    """Return the generation: it grows when a restored ledger is put back into service."""
    return transaction.head.generation


def next_epoch(transaction: Transaction) -> int:
    """Advance and return the epoch: once per stop, resume, revocation and policy change."""
    transaction.head = msgspec.structs.replace(transaction.head, epoch=transaction.head.epoch + 1)
    return transaction.head.epoch


def advance_clock(transaction: Transaction, now_ms: int) -> int:
    """Return the ledger's time: never less than any time it has seen before."""
    if now_ms > transaction.head.clock_ms:
        transaction.head = msgspec.structs.replace(transaction.head, clock_ms=now_ms)
    return transaction.head.clock_ms


def server_time_ms(transaction: Transaction) -> int | None:
    """Return what the clock of the database's server shows; None where the ledger is a file of this host."""
    if transaction.connection.dialect.name != "postgresql":
        return None
    seconds = transaction.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one()
    return int(seconds * 1000)
