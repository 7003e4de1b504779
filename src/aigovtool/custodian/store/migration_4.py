"""Schema 4 to 5: the evidence of admitted instances is kept, so that it can be judged again.

A migration is history: it speaks the SQL of its two versions, and imports nothing that later versions may change.
"""

from typing import Final

from sqlalchemy import Connection, text

#: Of instances that an earlier version admitted there is no evidence: they are judged again when they attest again.
_STATEMENTS: Final = {
    "sqlite": (
        "CREATE TABLE evidence (instance VARCHAR(64) NOT NULL, attested_at_ms BIGINT NOT NULL, body BLOB NOT NULL, "
        "PRIMARY KEY (instance))"
    ),
    "postgresql": (
        "CREATE TABLE evidence (instance VARCHAR(64) NOT NULL, attested_at_ms BIGINT NOT NULL, body BYTEA NOT NULL, "
        "PRIMARY KEY (instance))"
    ),
}


def from_4_to_5(connection: Connection) -> None:
    """Run the step."""
    connection.execute(text(_STATEMENTS[connection.dialect.name]))
    connection.execute(text("CREATE INDEX evidence_by_time ON evidence (attested_at_ms)"))
