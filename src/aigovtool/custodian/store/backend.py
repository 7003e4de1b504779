"""What the database needs of a kind of SQL server: a connection, and a transaction that nobody else writes beside."""

from collections.abc import Callable
from typing import BinaryIO, Protocol

from sqlalchemy import Connection, Engine

from aigovtool.custodian.store.transaction import Transaction


class Backend(Protocol):
    """One ledger on one kind of server."""

    engine: Engine
    #: After a failed commit: may this process connect again, or can nothing of its view be trusted any more?
    reconnects: bool

    def connect(self) -> Connection:
        """Open the connection that writes.

        Raises:
            ConfigurationError: the ledger cannot be used as it is.
        """
        ...

    def begin(self, connection: Connection) -> Transaction:
        """Begin the next transaction, with the ledger's head read and locked."""
        ...

    def copy(self, connection: Connection, between: Callable[[], None]) -> BinaryIO:
        """Copy everything that is committed to a file that nobody else can open; what is committed meanwhile is in it.

        `between` is called again and again on this thread, outside any transaction, and may commit on `connection`;
        what it raises gives the copy up.

        Raises:
            ConflictError: `backup_postgres`: this kind of server is copied by its own programs.
            StorageError: `copy_failed`: the copy could not be written; the ledger is as sound as before.
        """
        ...
