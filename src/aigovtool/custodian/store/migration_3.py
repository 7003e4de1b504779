"""Schema 3 to 4: an older renewal is known to be old, and what a borrower holds is summed over those who hold it.

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
)


def from_3_to_4(connection: Connection) -> None:
    """Run the step."""
    for statement in _STATEMENTS:
        connection.execute(text(statement))
