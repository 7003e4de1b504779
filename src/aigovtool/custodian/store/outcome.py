"""What a job of the ledger comes to, for whoever waits for it: a thread, or a task of an event loop.

A thread waits on a `concurrent.futures.Future`. A task could too (`asyncio.wrap_future`), which makes two futures, a
condition with two locks and four callbacks for each job: a thirtieth of what a heartbeat costs. Both are used alike by
the writer's thread, which first takes hold of a job: until then whoever waits for it may go away, and it is not run.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Generic, Protocol, TypeVar

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Outcome(Protocol[T_contra]):
    """What the writer needs of whoever waits; `concurrent.futures.Future` has it."""

    def running(self) -> bool:
        """Return whether the writer has taken hold of the job."""
        ...

    def set_running_or_notify_cancel(self) -> bool:
        """Take hold of the job; return whether somebody still waits for it. Called once, by the writer alone."""
        ...

    def set_result(self, result: T_contra, /) -> None:
        """Tell what it came to. Called once, by whoever has taken hold of it."""
        ...

    def set_exception(self, exception: BaseException, /) -> None:
        """Tell why it came to nothing. Called once, by whoever has taken hold of it."""
        ...


class TaskOutcome(Generic[T]):
    """Told by any thread, awaited by one task of the event loop in which it was made."""

    __slots__ = ("_awaited", "_loop", "_running", "_unclaimed")

    def __init__(self) -> None:
        """Begin to wait."""
        self._loop: Final = asyncio.get_running_loop()
        self._awaited: Final[asyncio.Future[T]] = self._loop.create_future()
        #: Whoever pops it decides whether the job is run: `list.pop` is atomic.
        self._unclaimed: Final = [None]
        self._running = False

    async def get(self) -> T:
        """Wait for it; raises what it failed of. If whoever waits is cancelled, a job that has not begun is not run."""
        try:
            return await self._awaited
        except asyncio.CancelledError:
            self._claim()
            raise

    def running(self) -> bool:
        """See `Outcome`."""
        return self._running

    def set_running_or_notify_cancel(self) -> bool:
        """See `Outcome`."""
        self._running = self._claim()
        return self._running

    def set_result(self, result: T, /) -> None:
        """See `Outcome`."""
        self._tell(self._awaited.set_result, result)

    def set_exception(self, exception: BaseException, /) -> None:
        """See `Outcome`."""
        self._tell(self._awaited.set_exception, exception)

    def _claim(self) -> bool:
        try:
            self._unclaimed.pop()
        except IndexError:
            return False
        return True

    def _tell(self, settle: Callable[[Any], None], value: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._settle, settle, value)

    def _settle(self, settle: Callable[[Any], None], value: object) -> None:
        if not self._awaited.done():
            settle(value)
