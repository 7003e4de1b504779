"""One writer and group commit, over SQLite or PostgreSQL.

All work on the ledger is a function of a `Transaction` and runs on one thread. Jobs that wait at the same time share
one transaction; each runs in a savepoint of its own, so that one refusal does not undo another's work, and nobody is
answered before COMMIT has returned (leases spec section 4).

A copy of the ledger is made on that thread too, between groups of jobs: whoever waits is served while it goes on.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import BinaryIO, Final, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from aigovtool.custodian.store.backend import Backend
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import AIGovToolError, OverloadedError, StorageError

T = TypeVar("T")
Job = Callable[[Transaction], T]
_Waiting = tuple[Job[object], "Future[object]"]
_Copying = tuple[Job[object], "Future[tuple[BinaryIO, object]]"]

_LOG: Final = logging.getLogger(__name__)
#: Jobs in one transaction. More would delay the first of them; 64 already amortise the fsync.
_GROUP: Final = 64
_QUEUE: Final = 10_000


class Database:
    """The ledger. `run` is the only way to it."""

    def __init__(self, backend: Backend) -> None:
        """Open the ledger.

        Raises:
            ConfigurationError: it cannot be used as it is.
        """
        self.backend: Final = backend
        self._jobs: Final[queue.Queue[_Waiting | None]] = queue.Queue(_QUEUE)
        self._copies: Final[queue.SimpleQueue[_Copying]] = queue.SimpleQueue()
        self._connection: Connection | None = backend.connect()
        #: Set when nothing can be written any more until the custodian is started again.
        self.failed = threading.Event()
        self._thread: Final = threading.Thread(target=self._work, name="ledger-writer", daemon=True)
        self._thread.start()

    async def run(self, job: Job[T]) -> T:
        """Run `job` in a transaction and return its result once it is durable.

        Raises:
            StorageError: when the commit failed. Nothing happened, or (if the server was lost during COMMIT) it is
                not known: the same request again is safe, because every request carries its own identifier.
            OverloadedError: when too many jobs wait.
        """
        return await asyncio.wrap_future(self.submit(job))

    def submit(self, job: Job[T]) -> "Future[T]":
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

    def copy(self, job: Job[T]) -> "Future[tuple[BinaryIO, T]]":
        """Copy the ledger while other jobs go on; `job` is then run on exactly what the copy holds.

        The future gives the copy, in a file that has no name, and what `job` returned. It raises what `Backend.copy`
        and `job` raise, and `StorageError` when the ledger fails or is closed meanwhile.
        """
        future: Future[tuple[BinaryIO, T]] = Future()
        self._copies.put((job, future))  # type: ignore[arg-type]
        self.submit(_nothing)  # wakes the writer
        if self.failed.is_set():
            self._give_up_copies()
        return future

    def close(self) -> None:
        """Finish queued jobs and release the ledger."""
        self._jobs.put(None)
        self._thread.join()
        self._disconnect()
        self.backend.engine.dispose()

    def _work(self) -> None:
        ending = False
        while not ending and (first := self._jobs.get()) is not None:
            ending = self._serve_group(first)
            while not ending and not self._copies.empty():
                self._copy(*self._copies.get())
        self._give_up_copies()

    def _serve_group(self, first: _Waiting) -> bool:
        """Serve a job and those that wait with it; return whether the end was among them."""
        group, ending = [first], False
        while len(group) < _GROUP and not self._jobs.empty():
            following = self._jobs.get()
            if following is None:
                ending = True
                break
            group.append(following)
        self._serve(group)
        return ending

    def _copy(self, job: Job[object], future: "Future[tuple[BinaryIO, object]]") -> None:
        if not future.set_running_or_notify_cancel():
            return
        if self.failed.is_set():
            future.set_exception(_storage_failed())
            return
        try:
            if self._connection is None:  # lost, and not needed since
                self._connection = self.backend.connect()
            file = self.backend.copy(self._connection, self._between)
        except Exception as error:  # noqa: BLE001 - a copy that fails must not end the one writer
            future.set_exception(error)
            return
        # Nobody else was served since the copy ended: the job finds what is in it.
        asked: Future[object] = Future()
        self._serve([(job, asked)])
        failure = asked.exception()
        if failure is None:
            future.set_result((file, asked.result()))
        else:
            file.close()
            future.set_exception(failure)

    def _between(self) -> None:
        """Serve who waits, while a copy is made; give the copy up when the ledger fails or is closed."""
        if not self._jobs.empty():
            first = self._jobs.get()
            if first is None or self._serve_group(first):
                self._jobs.put(None)  # for `_work`
                raise _storage_failed()
        if self.failed.is_set():
            raise _storage_failed()

    def _give_up_copies(self) -> None:
        while not self._copies.empty():
            try:
                _, future = self._copies.get_nowait()
            except queue.Empty:
                return
            if future.set_running_or_notify_cancel():
                future.set_exception(_storage_failed())

    def _serve(self, group: list[_Waiting]) -> None:
        # From here on a caller that goes away can no longer cancel its job, so that every future takes its result.
        group = [(job, future) for job, future in group if future.set_running_or_notify_cancel()]
        if self.failed.is_set():  # queued while the failure was being told: nothing is written after one
            self._give_up(group)
            return
        try:
            outcomes = self._commit(group)
        except (SQLAlchemyError, sqlite3.Error, AIGovToolError) as error:
            self._lost(group, error)
            return
        for (_, future), (result, failure) in zip(group, outcomes, strict=True):
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)

    def _commit(self, group: list[_Waiting]) -> list[tuple[object, Exception | None]]:
        if self._connection is None:
            self._connection = self.backend.connect()
        transaction = self.backend.begin(self._connection)
        outcomes = [_attempt(transaction, job) for job, _ in group]
        transaction.flush()
        self._connection.commit()
        return outcomes

    def _lost(self, group: list[_Waiting], error: Exception) -> None:
        """The transaction is not known to be durable: nobody of the group is told that it is."""
        _LOG.critical("ledger_commit_failed", extra={"cause": str(getattr(error, "orig", error)).strip()[:200]})
        self._disconnect()
        if self.backend.reconnects:
            for _, future in group:
                future.set_exception(_storage_failed())
        else:
            self.failed.set()
            self._give_up(group)

    def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:
                connection.close()
            except (SQLAlchemyError, sqlite3.Error):
                _LOG.warning("ledger_close_failed")

    def _give_up(self, group: list[_Waiting]) -> None:
        for _, future in group:
            future.set_exception(_storage_failed())
        while not self._jobs.empty():
            waiting = self._jobs.get()
            if waiting is None:
                self._jobs.put(None)  # `close` waits for the writer to see this
                return
            if waiting[1].set_running_or_notify_cancel():
                waiting[1].set_exception(_storage_failed())


def _attempt(transaction: Transaction, job: Job[object]) -> tuple[object, Exception | None]:
    """Run one job in a savepoint; a failure that is its own leaves the others' work standing."""
    mark = transaction.mark()
    try:
        with transaction.connection.begin_nested():
            return job(transaction), None
    except (IntegrityError, DataError) as error:
        # A wall of the schema held: the statement was refused, the server is sound.
        failure: Exception = StorageError("the ledger refused an impossible value", reason="constraint")
        _LOG.error("ledger_constraint", extra={"cause": str(error.orig).strip()[:200]})
    except (SQLAlchemyError, sqlite3.Error):
        raise
    except AIGovToolError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - one caller's defect must not undo the others' work
        _LOG.exception("ledger_job_failed")
        failure = error
    transaction.back_to(mark)
    return None, failure


def _nothing(_transaction: Transaction) -> None:
    """Do nothing."""


def _storage_failed() -> StorageError:
    return StorageError(
        "the ledger could not be written; nothing was granted",
        fix="check the database and its disk; a custodian on SQLite must then be restarted",
        retry_after_s=2,
    )
