"""One writer, group commit, and an exclusive hold on the file.

All work on the database is a function of a `Connection` and runs on one thread. Jobs that wait at the same
time share one transaction; each runs in a savepoint of its own, so that one refusal does not undo another's
work, and nobody is answered before COMMIT has returned (leases spec section 4).

SQLite is opened in WAL mode with `locking_mode=EXCLUSIVE` and `synchronous=FULL` on exactly one connection:
the WAL-reset bug of SQLite 3.7.0 to 3.51.2 needs two, and a second custodian on the same file cannot start.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from aigovtool.custodian.store import facts
from aigovtool.custodian.store.schema import SCHEMA_VERSION, metadata
from aigovtool.errors import AIGovToolError, ConfigurationError, OverloadedError, StorageError

T = TypeVar("T")
Job = Callable[[Connection], T]

_LOG: Final = logging.getLogger(__name__)
#: Jobs in one transaction. More would delay the first of them; 64 already amortise the fsync.
_GROUP: Final = 64
_QUEUE: Final = 10_000


class Database:
    """The ledger's file. `run` is the only way to it."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open the database.

        Raises:
            ConfigurationError: absent or present against `create`, held by another process, or written by a
                newer version of this program.
        """
        if create == path.exists():
            raise ConfigurationError(f"{path} {'already exists' if create else 'does not exist'}", reason="database")
        self._engine: Final = create_engine(f"sqlite:///{path}", poolclass=StaticPool, connect_args=_CONNECT)
        event.listen(self._engine, "connect", _configure)
        self._jobs: Final[queue.Queue[tuple[Job[object], Future[object]] | None]] = queue.Queue(_QUEUE)
        self._connection = self._open(path, create=create)
        self.failed = threading.Event()
        self._thread: Final = threading.Thread(target=self._work, name="ledger-writer", daemon=True)
        self._thread.start()

    def _open(self, path: Path, *, create: bool) -> Connection:
        try:
            connection = self._engine.connect()
            connection.execute(text("BEGIN EXCLUSIVE"))
            if create:
                metadata.create_all(connection)
                facts.put_int(connection, facts.SCHEMA, SCHEMA_VERSION)
            version = facts.get_int(connection, facts.SCHEMA)
            connection.commit()
        except SQLAlchemyError as error:
            self._engine.dispose()
            raise ConfigurationError(
                f"the ledger {path} cannot be opened: {_cause(error)}",
                reason="database_locked" if "locked" in str(error) else "database",
                fix="stop the other custodian that holds this ledger, or use PostgreSQL for several",
            ) from None
        if version != SCHEMA_VERSION:
            connection.close()
            self._engine.dispose()
            raise ConfigurationError(
                f"the ledger has schema {version}, this program knows {SCHEMA_VERSION}", reason="schema_version"
            )
        return connection

    async def run(self, job: Job[T]) -> T:
        """Run `job` in a transaction and return its result once it is durable.

        Raises:
            StorageError: when the commit failed; nothing happened, and the custodian must restart.
            OverloadedError: when too many jobs wait.
        """
        return await asyncio.wrap_future(self.submit(job))

    def submit(self, job: Job[T]) -> Future[T]:
        """Queue `job` from any thread."""
        future: Future[T] = Future()
        if self.failed.is_set():
            future.set_exception(_storage_failed())
            return future
        try:
            self._jobs.put_nowait((job, future))  # type: ignore[arg-type]
        except queue.Full:
            future.set_exception(OverloadedError("the ledger's queue is full", retry_after_s=1))
        return future

    def close(self) -> None:
        """Finish queued jobs and release the file."""
        self._jobs.put(None)
        self._thread.join()
        self._connection.close()
        self._engine.dispose()

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            group = [first]
            stop = False
            while len(group) < _GROUP and not self._jobs.empty():
                following = self._jobs.get()
                if following is None:
                    stop = True
                    break
                group.append(following)
            self._commit(group)
            if stop:
                return

    def _commit(self, group: list[tuple[Job[object], Future[object]]]) -> None:
        # From here on a caller that goes away can no longer cancel its job, so that every future takes its result.
        group = [(job, future) for job, future in group if future.set_running_or_notify_cancel()]
        if self.failed.is_set():  # queued while the failure was being told: nothing is written after one
            self._give_up(group)
            return
        outcomes: list[tuple[Future[object], object, BaseException | None]] = []
        try:
            self._connection.execute(text("BEGIN IMMEDIATE"))
            for job, future in group:
                outcomes.append((future, *self._savepoint(job)))
            self._connection.commit()
        except (SQLAlchemyError, sqlite3.Error) as error:
            # After a failed write or fsync nothing in this process's view of the file can be trusted.
            _LOG.critical("ledger_commit_failed", extra={"cause": _cause(error)})
            self.failed.set()
            self._give_up(group)
            return
        for future, result, error_ in outcomes:
            if error_ is None:
                future.set_result(result)
            else:
                future.set_exception(error_)

    def _savepoint(self, job: Job[object]) -> tuple[object, BaseException | None]:
        try:
            with self._connection.begin_nested():
                return job(self._connection), None
        except (SQLAlchemyError, sqlite3.Error):
            raise
        except AIGovToolError as error:
            return None, error
        except Exception as error:  # noqa: BLE001 - one caller's defect must not undo the others' work
            _LOG.exception("ledger_job_failed")
            return None, error

    def _give_up(self, group: list[tuple[Job[object], Future[object]]]) -> None:
        for _, future in group:
            future.set_exception(_storage_failed())
        while not self._jobs.empty():
            waiting = self._jobs.get()
            if waiting is None:
                self._jobs.put(None)  # `close` waits for the writer to see this
                return
            if waiting[1].set_running_or_notify_cancel():
                waiting[1].set_exception(_storage_failed())


_CONNECT: Final = {"check_same_thread": False, "timeout": 2.0, "isolation_level": None}


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    for pragma in (
        "locking_mode=EXCLUSIVE",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "trusted_schema=OFF",
        "cell_size_check=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _cause(error: Exception) -> str:
    return str(getattr(error, "orig", error))


def _storage_failed() -> StorageError:
    return StorageError(
        "the ledger could not be written; nothing was granted", fix="check the disk, then restart the custodian"
    )
