"""Schema 1 to 2: the head in a row of its own, roots and subtrees beside the log, keys and scopes to search by.

A migration is history: it speaks the SQL and the JSON of its two versions and imports nothing that later versions may
change, except hashing, which may not change at all. Version 1 existed on SQLite only.
"""

import base64
import json
from hashlib import sha256
from typing import Any, Final

from sqlalchemy import Connection, text

from aigovtool.ledger.merkle import Frontier

_NODE_LEVEL: Final = 5
_HEAD_FACTS: Final = ("schema", "epoch", "generation", "clock_ms", "log_frontier")


def from_1_to_2(connection: Connection) -> None:
    """Run the step."""
    _head(connection)
    _log(connection)
    _parties(connection)
    _instances(connection)
    _limits(connection)
    _rows(connection)
    _leases(connection)
    _stops(connection)


def _head(connection: Connection) -> None:
    def fact(name: str, absent: Any) -> Any:  # noqa: ANN401 - any JSON
        statement = text("SELECT value FROM facts WHERE name = :name").bindparams(name=name)
        value = connection.execute(statement).scalar_one_or_none()
        return absent if value is None else json.loads(value)

    body = {
        "clock_ms": fact("clock_ms", 0),
        "epoch": fact("epoch", 0),
        "frontier": fact("log_frontier", {"roots": [], "size": 0}),
        "generation": fact("generation", 0),
    }
    connection.execute(
        text(
            "CREATE TABLE head (id INTEGER NOT NULL CHECK (id = 1), schema INTEGER NOT NULL, body BLOB NOT NULL, "
            "PRIMARY KEY (id))"
        )
    )
    encoded = json.dumps(body, separators=(",", ":"), sort_keys=True).encode()
    connection.execute(text("INSERT INTO head VALUES (1, 2, :body)").bindparams(body=encoded))
    for name in _HEAD_FACTS:
        connection.execute(text("DELETE FROM facts WHERE name = :name").bindparams(name=name))


def _log(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE log ADD COLUMN root BLOB NOT NULL DEFAULT x''"))
    connection.execute(
        text(
            "CREATE TABLE log_nodes (level INTEGER NOT NULL, idx BIGINT NOT NULL, hash BLOB NOT NULL, "
            "PRIMARY KEY (level, idx))"
        )
    )
    frontier = Frontier()
    for index, leaf in connection.execute(text("SELECT idx, leaf FROM log ORDER BY idx")).all():
        frontier, completed = frontier.grow(leaf)
        connection.execute(
            text("UPDATE log SET root = :root WHERE idx = :idx").bindparams(root=frontier.root(), idx=index)
        )
        for tree in completed:
            if tree.level >= _NODE_LEVEL:
                values = {"level": tree.level, "idx": tree.index, "hash": tree.hash}
                connection.execute(text("INSERT INTO log_nodes VALUES (:level, :idx, :hash)").bindparams(**values))


def _parties(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE parties RENAME TO parties_1"))
    connection.execute(
        text(
            "CREATE TABLE parties (role VARCHAR(10) NOT NULL, name VARCHAR(63) NOT NULL, key_id VARCHAR(64) NOT NULL, "
            "body BLOB NOT NULL, PRIMARY KEY (role, name), UNIQUE (key_id))"
        )
    )
    for role, name, key, body in connection.execute(text("SELECT role, name, key, body FROM parties_1")).all():
        values = {"role": role, "name": name, "key_id": _key_id(key), "body": body}
        connection.execute(text("INSERT INTO parties VALUES (:role, :name, :key_id, :body)").bindparams(**values))
    connection.execute(text("DROP TABLE parties_1"))


def _instances(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE instances ADD COLUMN key_id VARCHAR(64) NOT NULL DEFAULT ''"))
    for instance, body in connection.execute(text("SELECT instance, body FROM instances")).all():
        key_id = _key_id(base64.b64decode(json.loads(body)["identity_key"]))
        statement = text("UPDATE instances SET key_id = :key_id WHERE instance = :instance")
        connection.execute(statement.bindparams(key_id=key_id, instance=instance))
    connection.execute(text("CREATE INDEX instances_by_key ON instances (key_id)"))


def _limits(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE budget_limits ADD COLUMN scope VARCHAR(300) NOT NULL DEFAULT ''"))
    for key in connection.execute(text("SELECT key FROM budget_limits")).scalars().all():
        scope = key.rsplit(" ", 2)[0]  # the key is: scope, dimension, window
        statement = text("UPDATE budget_limits SET scope = :scope WHERE key = :key")
        connection.execute(statement.bindparams(scope=scope, key=key))
    connection.execute(text("CREATE INDEX limits_by_scope ON budget_limits (scope)"))


def _rows(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE budget_rows ADD COLUMN limit_key VARCHAR(400) NOT NULL DEFAULT ''"))
    connection.execute(text("ALTER TABLE budget_rows ADD COLUMN bucket_ms BIGINT NOT NULL DEFAULT 0"))
    for key in connection.execute(text("SELECT key FROM budget_rows")).scalars().all():
        row = json.loads(key)
        scope = json.dumps(row["scope"], separators=(",", ":"))
        values = {
            "limit_key": f"{scope} {row['dimension']} {row['window']}",
            "bucket_ms": row["bucket_ms"],
            "key": key,
        }
        statement = text("UPDATE budget_rows SET limit_key = :limit_key, bucket_ms = :bucket_ms WHERE key = :key")
        connection.execute(statement.bindparams(**values))
    connection.execute(text("CREATE INDEX rows_by_limit ON budget_rows (limit_key, bucket_ms)"))


def _leases(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE leases ADD COLUMN entry_idx BIGINT NOT NULL DEFAULT 0"))
    for index, body in connection.execute(text("SELECT idx, body FROM log")).all():
        entry = json.loads(body)["body"]
        if entry["kind"] == "lease_granted":
            statement = text("UPDATE leases SET entry_idx = :index WHERE lease_id = :lease_id")
            connection.execute(statement.bindparams(index=index, lease_id=entry["lease_id"]))


def _stops(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE stops ADD COLUMN borrower VARCHAR(63)"))
    connection.execute(text("ALTER TABLE stops ADD COLUMN until_ms BIGINT"))
    for name, body in connection.execute(text("SELECT name, body FROM parties WHERE role = 'consumer'")).all():
        party = json.loads(body)
        statement = text(
            "UPDATE stops SET borrower = :borrower, until_ms = :until WHERE target = 'consumer' AND value = :name"
        )
        values = {"borrower": party["borrower"], "until": party["not_after_ms"], "name": name}
        connection.execute(statement.bindparams(**values))


def _key_id(key: bytes) -> str:
    return sha256(key).hexdigest()
