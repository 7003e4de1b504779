"""What the database needs of a kind of SQL server: a connection, and a transaction that nobody else writes beside."""

from typing import Protocol

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
