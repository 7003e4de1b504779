"""Schema 3 to 4: older renewals are known to be old; open requests and whoever holds units have indices of their own.

A migration is history: it speaks the SQL of its two versions, and imports nothing that later versions may change.
"""

from typing import Final

from sqlalchemy import Connection, text

#: Of the renewals that version 3 answered the newest alone is known.
_STATEMENTS: Final = (
    "ALTER TABLE answers ADD COLUMN earlier VARCHAR(528) NOT NULL DEFAULT ''",
    "ALTER TABLE answers ADD COLUMN shown_generation BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE answers ADD COLUMN shown_size BIGINT NOT NULL DEFAULT 0",
    "CREATE INDEX usage_held ON usage_units (model, borrower, dimension, held) WHERE held > 0",
    "CREATE INDEX asks_open ON asks (at_ms) WHERE state = 'open'",
)


def from_3_to_4(connection: Connection) -> None:
    """Run the step."""
    for statement in _STATEMENTS:
        connection.execute(text(statement))
