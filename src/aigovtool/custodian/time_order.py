"""Confirming a leap of the clock in the custodian's directory: whoever holds that is believed here, as always."""

from pathlib import Path

from aigovtool.custodian.app import backend, read_settings
from aigovtool.custodian.clock import system_time_ms
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.timekeeping import TimeAccepted, accept


def look_at_time(directory: Path) -> TimeAccepted:
    """Return the ledger's time, and what it would be if it were confirmed now; nothing is changed.

    Raises:
        ConfigurationError: the ledger cannot be opened; on SQLite also while a custodian serves it.
    """
    database = Database(backend(directory, read_settings(directory)))
    try:
        before_ms = database.submit(lambda transaction: transaction.head.clock_ms).result()
    finally:
        database.close()
    return TimeAccepted(before_ms=before_ms, accepted_ms=system_time_ms())


def accept_time(directory: Path) -> TimeAccepted:
    """Confirm that this host's clock is right.

    On SQLite the custodian must be stopped. On PostgreSQL all that share the ledger believe it at once.

    Raises:
        ConflictError: it is not ahead of the ledger's time.
        ConfigurationError: the ledger cannot be opened.
    """
    database = Database(backend(directory, read_settings(directory)))
    try:
        return database.submit(accept).result()
    finally:
        database.close()
