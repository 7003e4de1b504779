"""Ends runs at their deadlines: one thread for all of them, woken only when a deadline comes nearer.

Starting and finishing a run costs no thread switch while deadlines are alike: the watchdog sleeps until the
nearest one that it has seen, and looks again then.
"""

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol


class Terminable(Protocol):
    """What can be told to end; ONNX Runtime's `RunOptions`."""

    terminate: bool


class Guard:
    """One run under watch. `expired` says whether it was told to end."""

    __slots__ = ("_watchdog", "deadline_ns", "expired", "target", "thread")

    def __init__(self, watchdog: "Watchdog", target: Terminable, deadline_ns: int) -> None:
        self._watchdog: Final = watchdog
        self.target: Final = target
        self.deadline_ns: Final = deadline_ns
        self.expired = False
        self.thread: Final = threading.get_ident()

    def release(self) -> None:
        """Stop watching; harmless when the deadline has passed."""
        self._watchdog.forget(self)


class Watchdog:
    """The thread, and the runs that it watches."""

    def __init__(self) -> None:
        self._wake: Final = threading.Condition()
        self._guards: Final[set[Guard]] = set()
        self._next_ns: int | None = None
        self._late: Callable[[int], None] | None = None

    def start(self, late: Callable[[int], None] | None = None) -> None:
        """Start the thread, which ends with the process; it tells `late` which threads' runs it has told to end."""
        self._late = late
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def guard(self, target: Terminable, deadline_ns: int) -> Guard:
        """Set `target.terminate` at `deadline_ns` (CLOCK_MONOTONIC) unless the guard is released before."""
        guard = Guard(self, target, deadline_ns)
        with self._wake:
            self._guards.add(guard)
            if self._next_ns is None or deadline_ns < self._next_ns:
                self._next_ns = deadline_ns
                self._wake.notify()
        return guard

    def forget(self, guard: Guard) -> None:
        """Stop watching `guard`."""
        with self._wake:
            self._guards.discard(guard)

    def _watch(self) -> None:
        with self._wake:
            while True:
                now = time.monotonic_ns()
                for guard in [guard for guard in self._guards if guard.deadline_ns <= now]:
                    guard.expired = True
                    guard.target.terminate = True
                    self._guards.discard(guard)
                    if self._late is not None:
                        self._late(guard.thread)
                self._next_ns = min((guard.deadline_ns for guard in self._guards), default=None)
                self._wake.wait(None if self._next_ns is None else (self._next_ns - now) / 1e9)
