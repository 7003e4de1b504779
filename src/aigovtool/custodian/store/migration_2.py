"""Schema 2 to 3: units in each dimension, witnesses, and nothing that a renewal asks is answered from history.

A migration is history: it speaks the SQL and the JSON of its two versions, and imports nothing that later versions may
change. Version 2 metered one dimension of a model, which its policy names.
"""

import json
import re
from typing import Final

from sqlalchemy import Connection, text

_INDICES: Final = (
    "DROP INDEX open_by_borrower",
    "CREATE INDEX stops_by_borrower ON stops (borrower, epoch)",
    "CREATE INDEX stops_listed ON stops (borrower, until_ms) WHERE active",
    "DROP INDEX asks_by_state",
    "CREATE INDEX asks_by_scope ON asks (scope, state)",
    "CREATE INDEX asks_by_time ON asks (at_ms)",
)
#: Version 3 finds all other kinds by name.
_EVERYDAY: Final = {b"lease_granted", b"lease_closed"}
#: An entry begins with three numbers and its kind. Few are read at a time, or PostgreSQL would lose its patience.
_KIND_RE: Final = re.compile(rb'\{"index":\d+,"at_ms":\d+,"generation":\d+,"body":\{"kind":"([a-z_]{1,40})"')
_AT_ONCE: Final = 20_000
_DIMENSIONS: Final = ("inferences", "input_tokens", "output_tokens", "cached_tokens", "compute_ms")


def from_2_to_3(connection: Connection) -> None:
    """Run the step."""
    dimensions = _dimensions(connection)
    _usage(connection, dimensions)
    _leases(connection, dimensions)
    for statement in _INDICES:
        connection.execute(text(statement))
    _witnesses(connection)
    _kinds(connection)


def _dimensions(connection: Connection) -> dict[str, str]:
    found = connection.execute(text("SELECT model, body FROM models")).all()
    dimensions = {model: json.loads(bytes(body))["policy"]["dimension"] for model, body in found}
    for model, dimension in dimensions.items():
        if dimension in {"output_tokens", "compute_ms"}:
            raise ValueError(f"{model} meters {dimension} alone, which no enclave could: withdraw it first")
    return dimensions


def _leases(connection: Connection, dimensions: dict[str, str]) -> None:
    for dimension in _DIMENSIONS:
        connection.execute(text(f"ALTER TABLE leases ADD COLUMN {dimension} BIGINT NOT NULL DEFAULT 0"))
    for model, dimension in dimensions.items():
        statement = text(f"UPDATE leases SET {dimension} = units WHERE model = :model")  # noqa: S608 - one of ours
        connection.execute(statement.bindparams(model=model))
    _drop(connection, "leases", "units")


def _usage(connection: Connection, dimensions: dict[str, str]) -> None:
    connection.execute(
        text(
            "CREATE TABLE usage_units (model VARCHAR(63) NOT NULL, borrower VARCHAR(63) NOT NULL, "
            "consumer VARCHAR(63) NOT NULL, dimension VARCHAR(16) NOT NULL, granted BIGINT NOT NULL, "
            "charged BIGINT NOT NULL, used BIGINT NOT NULL, held BIGINT NOT NULL, "
            "PRIMARY KEY (model, borrower, consumer, dimension))"
        )
    )
    for model, dimension in dimensions.items():
        statement = text(
            "INSERT INTO usage_units SELECT model, borrower, consumer, :dimension, granted, charged, used, "
            "(SELECT coalesce(sum(leases.units), 0) FROM leases WHERE leases.model = usage.model "
            "AND leases.borrower = usage.borrower AND leases.consumer = usage.consumer "
            "AND leases.state IN ('pending', 'expired')) FROM usage WHERE model = :model"
        )
        connection.execute(statement.bindparams(model=model, dimension=dimension))
    for column in ("granted", "charged", "used"):
        _drop(connection, "usage", column)


def _drop(connection: Connection, table: str, column: str) -> None:
    connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))


def _witnesses(connection: Connection) -> None:
    binary = "BYTEA" if connection.dialect.name == "postgresql" else "BLOB"
    connection.execute(
        text(
            "CREATE TABLE witnesses (name VARCHAR(100) NOT NULL, key_id VARCHAR(64) NOT NULL, "
            f"body {binary} NOT NULL, PRIMARY KEY (name), UNIQUE (key_id))"
        )
    )


def _kinds(connection: Connection) -> None:
    connection.execute(
        text("CREATE TABLE log_kinds (kind VARCHAR(40) NOT NULL, idx BIGINT NOT NULL, PRIMARY KEY (kind, idx))")
    )
    size = int(connection.execute(text("SELECT coalesce(max(idx), -1) + 1 FROM log")).scalar_one())
    read = text("SELECT idx, substr(body, 1, 160) FROM log WHERE idx >= :first AND idx < :last")
    write = text("INSERT INTO log_kinds VALUES (:kind, :idx)")
    for first in range(0, size, _AT_ONCE):
        found = connection.execute(read.bindparams(first=first, last=first + _AT_ONCE)).all()
        kinds = [(index, _kind_of(bytes(beginning))) for index, beginning in found]
        rare = [{"kind": kind.decode(), "idx": index} for index, kind in kinds if kind not in _EVERYDAY]
        if rare:
            connection.execute(write, rare)


def _kind_of(beginning: bytes) -> bytes:
    match = _KIND_RE.match(beginning)
    if match is None:
        raise ValueError("this is no entry of an audit log")
    return match[1]
