"""The schema's versions: making a new ledger, and bringing an older one up to this program's version.

Each step is a function from one version to the next and runs in the transaction that opens the ledger, so a ledger is
never left between two versions. A newer ledger than this program knows is refused and left alone.
"""

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, insert, inspect, select, text, update

from aigovtool.codec import encode
from aigovtool.custodian.store.migration_1 import from_1_to_2
from aigovtool.custodian.store.migration_2 import from_2_to_3
from aigovtool.custodian.store.migration_3 import from_3_to_4
from aigovtool.custodian.store.migration_4 import from_4_to_5
from aigovtool.custodian.store.schema import SCHEMA_VERSION, head, metadata
from aigovtool.custodian.store.transaction import Head
from aigovtool.errors import ConfigurationError

_STEPS: Final[dict[int, Callable[[Connection], None]]] = {
    1: from_1_to_2,
    2: from_2_to_3,
    3: from_3_to_4,
    4: from_4_to_5,
}


def create_schema(connection: Connection) -> None:
    """Make the tables of an empty ledger."""
    metadata.create_all(connection)
    connection.execute(insert(head).values(id=1, schema=SCHEMA_VERSION, body=encode(Head())))


def has_schema(connection: Connection) -> bool:
    """Return whether a ledger of any version is there."""
    return bool({"head", "facts"} & set(inspect(connection).get_table_names()))


def require_schema(connection: Connection) -> None:
    """Bring the ledger to this program's version.

    Raises:
        ConfigurationError: there is no ledger, or one of a version that this program does not know.
    """
    version = _version(connection)
    if version is not None and version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"the ledger has schema {version}, this program knows {SCHEMA_VERSION}",
            reason="schema_version",
            fix="use the program that wrote it, or a newer one; it was not changed",
        )
    while version != SCHEMA_VERSION:
        step = None if version is None else _STEPS.get(version)
        if step is None or version is None:
            raise ConfigurationError("this is not a ledger that this program knows", reason="schema_version")
        try:
            step(connection)
        except Exception as error:
            raise ConfigurationError(
                f"the ledger cannot be brought from schema {version} to {version + 1}; it was not changed",
                reason="schema_upgrade",
                fix="open it with the program that wrote it, and report this",
            ) from error
        version += 1
    connection.execute(update(head).values(schema=SCHEMA_VERSION))


def _version(connection: Connection) -> int | None:
    tables = set(inspect(connection).get_table_names())
    if "head" in tables:
        # SQLite gives what is there, whatever the column's type: a damaged file has anything.
        version: object = connection.execute(select(head.c.schema)).scalar_one_or_none()
        return version if isinstance(version, int) else None
    if "facts" in tables:
        # Version 1 kept its number among the facts.
        found = connection.execute(text("SELECT value FROM facts WHERE name = 'schema'")).scalar_one_or_none()
        return int(found) if isinstance(found, bytes) and found.isdigit() else None
    return None
