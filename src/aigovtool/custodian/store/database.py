"""One writer and group commit, over SQLite or PostgreSQL.

All work on the ledger is a function of a `Transaction` and runs on one thread. Jobs that wait at the same time share
one transaction; each runs in a savepoint of its own, so that one refusal does not undo another's work, and nobody is
answered before COMMIT has returned (leases spec section 4).

Callers have turns (`turns`), and a transaction ends early when its jobs take long: nobody delays the others by more
than a job or two of its own.

Whoever is not known waits in a line of its own (`run_open`), from which a few are taken into each transaction:
however many come, they delay each other, and nobody's renewal.

A copy of the ledger is made on that thread too, between groups of jobs: whoever waits is served while it goes on.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, BinaryIO, Final, NamedTuple, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, PendingRollbackError

from aigovtool.custodian.store.backend import Backend
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.custodian.store.turns import NOBODY, Turns, caller
from aigovtool.errors import AIGovToolError, OverloadedError, StorageError

T = TypeVar("T")
Job = Callable[[Transaction], T]
_Copying = tuple[Job[object], "Future[tuple[BinaryIO, object]]"]

_LOG: Final = logging.getLogger(__name__)
#: Jobs in one transaction. More would delay the first of them; 64 already amortise the fsync.
_GROUP: Final = 64
#: After so long no further job joins a transaction: who came meanwhile may be next. A hundred usual ones take less.
_LONG_S: Final = 0.1
_QUEUE: Final = 10_000
#: Jobs in one transaction that anybody may cause, and how many of them wait: some milliseconds, and a second or so.
_OPEN_GROUP: Final = 4
_OPEN_QUEUE: Final = 256


class _Wake:
    """Has the writer look at its other lines."""


class _Waiting(NamedTuple):
    """A job, who waits for it, and in whose line."""

    job: Job[object]
    future: "Future[object]"
    caller: str = NOBODY


class Database:
    """The ledger. `run` is the only way to it."""

    def __init__(self, backend: Backend) -> None:
        """Open the ledger.

        Raises:
            ConfigurationError: it cannot be used as it is.
        """
        self.backend: Final = backend
        self._jobs: Final[Turns[_Waiting | _Wake]] = Turns(_QUEUE)
        self._open_jobs: Final[queue.Queue[_Waiting]] = queue.Queue(_OPEN_QUEUE)
        self._copies: Final[queue.SimpleQueue[_Copying]] = queue.SimpleQueue()
        self._connection: Connection | None = backend.connect()
        #: Set when nothing can be written any more until the custodian is started again.
        self.failed = threading.Event()
        #: The ledger's time as of the newest transaction here; 0 before the first.
        self.clock_ms = 0
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

    async def run_open(self, job: Job[T]) -> T:
        """Run a job that anybody may cause, whose caller is not known: in its turn among such jobs, a few at a time.

        Raises:
            StorageError, OverloadedError: as `run`; the line of such jobs is a short one.
        """
        return await asyncio.wrap_future(self._submit(job, known=False))

    def submit(self, job: Job[T]) -> "Future[T]":
        """Queue `job` from any thread, in the line of whoever asks for it."""
        return self._submit(job, known=True)

    def _submit(self, job: Job[T], *, known: bool) -> "Future[T]":
        future: Future[Any] = Future()
        if self.failed.is_set():
            future.set_exception(_storage_failed())
            return future
        waiting = _Waiting(job, future, caller())
        try:
            if known:
                self._jobs.put(waiting, waiting.caller)
            else:
                self._open_jobs.put_nowait(waiting)
        except queue.Full:
            future.set_exception(OverloadedError("too many wait for the ledger", retry_after_s=1))
            return future
        if not known:
            self._wake()
            if self.failed.is_set():
                _tell_failed(_taken(self._open_jobs))
        return future

    def _wake(self) -> None:
        with suppress(queue.Full):  # then it has enough to do, and looks all the same
            self._jobs.put(_Wake())

    def copy(self, job: Job[T]) -> "Future[tuple[BinaryIO, T]]":
        """Copy the ledger while other jobs go on; `job` is then run on exactly what the copy holds.

        The future gives the copy, in a file that has no name, and what `job` returned. It raises what `Backend.copy`
        and `job` raise, and `StorageError` when the ledger fails or is closed meanwhile.
        """
        future: Future[tuple[BinaryIO, T]] = Future()
        self._copies.put((job, future))  # type: ignore[arg-type]
        self._wake()
        if self.failed.is_set():
            self._give_up_copies()
        return future

    def close(self) -> None:
        """Finish queued jobs and release the ledger."""
        self._jobs.end()
        self._thread.join()
        self._disconnect()
        self.backend.engine.dispose()

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            self._serve_group(first)
            while not self._jobs.ending() and not self._copies.empty():
                self._copy(*self._copies.get())
        _tell_failed(_taken(self._open_jobs))
        self._give_up_copies()

    def _serve_group(self, first: "_Waiting | _Wake") -> None:
        """Serve a job and those that wait with it."""
        group: list[_Waiting] = []
        following: _Waiting | _Wake | None = first
        while following is not None:
            if not isinstance(following, _Wake):
                group.append(following)
            if len(group) == _GROUP or self._jobs.empty():
                break
            following = self._jobs.get()
        self._serve(group, _taken(self._open_jobs, _OPEN_GROUP))
        if not self._jobs.ending() and not self._open_jobs.empty():
            self._wake()  # behind whoever has come meanwhile

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
        self._serve([_Waiting(job, asked)])
        failure = asked.exception()
        if failure is None:
            future.set_result((file, asked.result()))
        else:
            file.close()
            future.set_exception(failure)

    def _between(self) -> None:
        """Serve who waits, while a copy is made; give the copy up when the ledger fails or is closed."""
        if not self._jobs.empty() and (first := self._jobs.get()) is not None:
            self._serve_group(first)
        if self._jobs.ending() or self.failed.is_set():
            raise _storage_failed()

    def _give_up_copies(self) -> None:
        while not self._copies.empty():
            try:
                _, future = self._copies.get_nowait()
            except queue.Empty:
                return
            if future.set_running_or_notify_cancel():
                future.set_exception(_storage_failed())

    def _serve(self, known: list[_Waiting], strangers: Sequence[_Waiting] = ()) -> None:
        known, strangers = _begun(known), _begun(strangers)
        group = [*known[:1], *strangers, *known[1:]]
        if self.failed.is_set():  # queued while the failure was being told: nothing is written after one
            self._give_up(group)
            return
        if not group:
            return
        try:
            outcomes = self._commit(group, least=1 + len(strangers))
        except BaseException as error:  # noqa: BLE001 - a writer that ended here would leave everybody waiting for ever
            self._lost(group, error)
            return
        self._jobs.put_back([(one.caller, one) for one in group[len(outcomes) :]])
        for one, (result, failure) in zip(group, outcomes, strict=False):
            if failure is None:
                one.future.set_result(result)
            else:
                one.future.set_exception(failure)

    def _commit(self, group: list[_Waiting], *, least: int) -> list[tuple[object, Exception | None]]:
        """Run the first jobs of a group, as many as there is time for, and return what they came to once durable."""
        if self._connection is None:
            self._connection = self.backend.connect()
        transaction = self.backend.begin(self._connection)
        outcomes: list[tuple[object, Exception | None]] = []
        long_s = time.monotonic() + _LONG_S
        for one in group:
            outcomes.append(_attempt(transaction, one.job))
            if len(outcomes) >= least and time.monotonic() > long_s:
                break
        transaction.flush()
        self._connection.commit()
        self.clock_ms = transaction.head.clock_ms
        return outcomes

    def _lost(self, group: list[_Waiting], error: BaseException) -> None:
        """The transaction is not known to be durable: nobody of the group is told that it is."""
        _let_go(error)
        _LOG.critical("ledger_commit_failed", extra={"cause": str(getattr(error, "orig", error)).strip()[:200]})
        self._disconnect()
        if self.backend.reconnects:
            _tell_failed(group)
        else:
            self.failed.set()
            self._give_up(group)

    def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:
                connection.close()
            except Exception:  # noqa: BLE001 - it is given up anyway, and the writer must go on to say so
                _LOG.warning("ledger_close_failed")

    def _give_up(self, group: list[_Waiting]) -> None:
        """Tell a group, and everybody who waits behind it."""
        _tell_failed([*group, *_taken(self._open_jobs)])
        while not self._jobs.empty():
            waiting = self._jobs.get()
            if isinstance(waiting, _Waiting):
                _tell_failed([waiting])


def _attempt(transaction: Transaction, job: Job[object]) -> tuple[object, Exception | None]:
    """Run one job in a savepoint; a failure that is its own leaves the others' work standing."""
    mark = transaction.mark()
    transaction.now_ms = None
    try:
        result = job(transaction)
        transaction.keep()
    except (IntegrityError, DataError) as error:
        # A wall of the schema held: the statement was refused, the server is sound.
        failure: Exception = StorageError("the ledger refused an impossible value", reason="constraint")
        _LOG.error("ledger_constraint", extra={"cause": str(error.orig).strip()[:200]})
    except (DBAPIError, PendingRollbackError, sqlite3.Error):
        raise  # the server or the file has said it: nothing of this transaction can be relied on
    except AIGovToolError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - one caller's defect must not undo the others' work
        _LOG.exception("ledger_job_failed")
        _let_go(error)
        failure = error
    else:
        return result, None
    transaction.back_to(mark)
    return None, failure


def _let_go(error: BaseException) -> None:
    """Free what the failed frames still hold: an answer that is half read keeps a SQLite file locked after its end."""
    one: BaseException | None = error
    while one is not None:
        traceback.clear_frames(one.__traceback__)
        one = one.__cause__ or one.__context__


def _begun(group: Iterable[_Waiting]) -> list[_Waiting]:
    """Return those whose callers still wait; from here on a caller that goes away cannot cancel its job any more.

    So every future takes its result. One that was put back has begun already.
    """
    return [one for one in group if one.future.running() or one.future.set_running_or_notify_cancel()]


def _taken(line: "queue.Queue[_Waiting]", most: int = _OPEN_QUEUE) -> list[_Waiting]:
    """Take up to `most` jobs out of a line."""
    taken: list[_Waiting] = []
    while len(taken) < most:
        try:
            taken.append(line.get_nowait())
        except queue.Empty:
            break
    return taken


def _tell_failed(group: list[_Waiting]) -> None:
    for _, future, _ in group:
        if future.running() or future.set_running_or_notify_cancel():
            future.set_exception(_storage_failed())


def _storage_failed() -> StorageError:
    return StorageError(
        "the ledger could not be written; nothing was granted",
        fix="check the database and its disk; a custodian on SQLite must then be restarted",
        retry_after_s=2,
    )
