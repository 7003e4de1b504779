"""Single values of the ledger: counters, the clock, the log's frontier, the policies in force."""

from typing import Final, TypeVar

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from aigovtool.codec import decode, encode
from aigovtool.custodian.store.schema import facts

T = TypeVar("T")

SCHEMA: Final = "schema"
EPOCH: Final = "epoch"
GENERATION: Final = "generation"
CLOCK: Final = "clock_ms"
FRONTIER: Final = "log_frontier"
KEY_SET: Final = "key_set"
APPRAISAL_POLICY: Final = "appraisal_policy"


def get(connection: Connection, name: str, kind: type[T]) -> T | None:
    """Return a value, or `None` when it was never set."""
    value = connection.execute(select(facts.c.value).where(facts.c.name == name)).scalar_one_or_none()
    return None if value is None else decode(value, kind)


def put(connection: Connection, name: str, value: object) -> None:
    """Set a value."""
    encoded = encode(value)
    statement = insert(facts).values(name=name, value=encoded)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": encoded}))


def get_int(connection: Connection, name: str) -> int:
    """Return a counter; 0 when it was never set."""
    return get(connection, name, int) or 0


def put_int(connection: Connection, name: str, value: int) -> None:
    """Set a counter."""
    put(connection, name, value)


def next_epoch(connection: Connection) -> int:
    """Advance and return the epoch: once per stop, resume, revocation and policy change."""
    epoch = get_int(connection, EPOCH) + 1
    put_int(connection, EPOCH, epoch)
    return epoch


def advance_clock(connection: Connection, now_ms: int) -> int:
    """Return the ledger's time: never less than any time it has seen before."""
    stored = get_int(connection, CLOCK)
    if now_ms > stored:
        put_int(connection, CLOCK, now_ms)
        return now_ms
    return stored
