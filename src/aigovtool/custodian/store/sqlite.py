"""SQLite: the embedded ledger, one file, one process.

WAL mode with `locking_mode=EXCLUSIVE` and `synchronous=FULL` on exactly one connection: the WAL-reset bug of SQLite
3.7.0 to 3.51.2 needs two, and a second custodian on the same file cannot start. After a failed write or fsync nothing
in this process's view of the file can be trusted, so it is never tried again on the same connection.

Nobody else can read the file, so a backup is made here, by SQLite's online backup through that same connection. It
copies some pages, lets the jobs that wait be served, and goes on: what they commit through the connection that is
copied goes into the copy too, so it never begins anew and is of the moment at which it ends. It lies on the ledger's
own disk until it is sent, so it leaves some of that free: on a full disk the custodian would end.
"""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from errno import ENOSPC
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO, Final

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from aigovtool.custodian.store.migration import create_schema, require_schema
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConfigurationError, StorageError

#: Pages copied at once: 1 MiB, some milliseconds in which nobody else is served.
_PAGES_AT_ONCE: Final = 256
#: What a copy leaves free: a hundred thousand grants and more, while it is made and sent.
_RESERVE_BYTES: Final = 256 << 20
_COPY_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
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
        #: The transaction that was begun last since the file was opened.
        self._last: Transaction | None = None
        event.listen(self.engine, "connect", _configure)

    def connect(self) -> Connection:
        """Open the file, hold it alone, and bring its schema up to date.

        Raises:
            ConfigurationError: held by another process, no ledger, or written by a newer version of this program.
        """
        try:
            connection = self.engine.connect()
            connection.execute(text("BEGIN EXCLUSIVE"))
            self._remove_copies()
            if self._create:
                create_schema(connection)
            require_schema(connection)
            connection.commit()
            self._last = None
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
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        transaction = Transaction(connection)
        # Nobody else writes, and after a transaction that was not committed none begins: the head is what it was left.
        if self._last is None:
            transaction.load_head(lock=False)
        else:
            transaction.head = transaction.stored = self._last.stored
        self._last = transaction
        return transaction

    def copy(self, connection: Connection, between: Callable[[], None]) -> BinaryIO:
        """Copy the ledger to a file beside it that has no name any more when this returns.

        Raises:
            StorageError: `copy_failed`; also where it would leave the ledger too little space.
        """
        source: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
        path = self._path.with_name(f"{self._path.name}.copy-{token_hex(8)}")
        try:
            _require_space(path.parent, _size_of(source))
            file = os.fdopen(os.open(path, _COPY_FLAGS, 0o600), "rb")
            try:
                _copy_pages(source, path, between)
            except BaseException:
                file.close()
                raise
            finally:
                path.unlink()
        except (sqlite3.Error, OSError) as error:
            raise StorageError(
                f"the ledger could not be copied: {error}",
                reason="copy_failed",
                fix=f"see that there is space in {path.parent}, where a copy is made before it is sent: as much as the "
                f"ledger takes, and {_RESERVE_BYTES >> 20} MiB that stay free; check the disk",
            ) from None
        return file

    def _remove_copies(self) -> None:
        """Remove what a custodian that was killed while it copied left behind; the ledger is ours alone now."""
        for left in self._path.parent.glob(f"{self._path.name}.copy-*"):
            left.unlink(missing_ok=True)


def _size_of(source: sqlite3.Connection) -> int:
    (pages,), (page_bytes,) = (source.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    return int(pages) * int(page_bytes)


def _require_space(directory: Path, wanted_bytes: int) -> None:
    if shutil.disk_usage(directory).free < wanted_bytes + _RESERVE_BYTES:
        raise OSError(ENOSPC, os.strerror(ENOSPC), str(directory))


def _copy_pages(source: sqlite3.Connection, path: Path, between: Callable[[], None]) -> None:
    def progress(status: int, _remaining: int, _total: int) -> None:
        if status != sqlite3.SQLITE_DONE:  # what is committed after the last page would not be copied
            _require_space(path.parent, 0)  # the ledger grows meanwhile, and others write to this disk
            between()

    with closing(sqlite3.connect(path, isolation_level=None)) as target:
        # A copy that a crash cuts off is worth nothing, so it needs neither a journal nor a sync.
        target.execute("PRAGMA journal_mode=OFF")
        target.execute("PRAGMA synchronous=OFF")
        source.backup(target, pages=_PAGES_AT_ONCE, progress=progress, sleep=0.01)


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
