"""SQLite: the embedded ledger, one file, one process.

WAL mode with `locking_mode=EXCLUSIVE` and `synchronous=FULL` on exactly one connection: the WAL-reset bug of SQLite
3.7.0 to 3.51.2 needs two, and a second custodian on the same file cannot start. After a failed write or fsync nothing
in this process's view of the file can be trusted, so it is never tried again on the same connection.
"""

import sqlite3
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from aigovtool.custodian.store.migration import create_schema, require_schema
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConfigurationError

_CONNECT: Final = {"check_same_thread": False, "timeout": 2.0, "isolation_level": None}
_PRAGMAS: Final = (
    "locking_mode=EXCLUSIVE",
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "trusted_schema=OFF",
    "cell_size_check=ON",
)


class Sqlite:
    """The ledger in one file."""

    reconnects = False

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Name the file.

        Raises:
            ConfigurationError: absent or present against `create`.
        """
        if create == path.exists():
            raise ConfigurationError(f"{path} {'already exists' if create else 'does not exist'}", reason="database")
        self.engine: Engine = create_engine(f"sqlite:///{path}", poolclass=StaticPool, connect_args=_CONNECT)
        self._path: Final = path
        self._create: Final = create
        event.listen(self.engine, "connect", _configure)

    def connect(self) -> Connection:
        """Open the file, hold it alone, and bring its schema up to date.

        Raises:
            ConfigurationError: held by another process, no ledger, or written by a newer version of this program.
        """
        try:
            connection = self.engine.connect()
            connection.execute(text("BEGIN EXCLUSIVE"))
            if self._create:
                create_schema(connection)
            require_schema(connection)
            connection.commit()
        except ConfigurationError:
            self.engine.dispose()
            raise
        except SQLAlchemyError as error:
            self.engine.dispose()
            raise ConfigurationError(
                f"the ledger {self._path} cannot be opened: {getattr(error, 'orig', error)}",
                reason="database_locked" if "locked" in str(error) else "database",
                fix="stop the other custodian that holds this ledger, or use PostgreSQL for several",
            ) from None
        return connection

    def begin(self, connection: Connection) -> Transaction:
        """Begin; the file is ours alone, so the head needs no further lock."""
        connection.execute(text("BEGIN IMMEDIATE"))
        transaction = Transaction(connection)
        transaction.load_head(lock=False)
        return transaction


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
