"""Who waits for the ledger: a line for each caller, and callers in turn.

A caller is whoever has proven to be somebody: a party by its certificate, and all enclaves of a borrower together. One
that asks for more than the ledger can do delays itself, and everybody else by one of its jobs at a time. Without turns
a borrower's two hundred longest renewals would stand before the stop that an operator orders (ADR 0027).
"""

import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Generic, TypeVar

T = TypeVar("T")
#: The custodian itself.
NOBODY: Final = ""
#: Whoever is not known, where that does not wait in the line of its own (`Database.run_open`).
STRANGERS: Final = "strangers"
_CALLER: Final[ContextVar[str]] = ContextVar("aigovtool_ledger_caller", default=NOBODY)


def party(role: str, name: str) -> str:
    """Return whose line it is that a party has, which has shown its certificate."""
    return f"{role} {name}"


def enclaves_of(borrower: str) -> str:
    """Return whose line it is that all enclaves of a borrower share: each boot would be a new caller else."""
    return f"enclaves of {borrower}"


def caller() -> str:
    """Return in whose line what is asked of the ledger here waits."""
    return _CALLER.get()


@contextmanager
def in_line_of(name: str) -> Iterator[None]:
    """Have what is asked of the ledger within wait in the line of a caller, who has proven to be that."""
    before = _CALLER.set(name)
    try:
        yield
    finally:
        _CALLER.reset(before)


class Turns(Generic[T]):
    """What waits, by caller, and after all of it an end. Threads may share it.

    Args:
        most: how many may wait; what must not be lost is taken all the same.
    """

    def __init__(self, most: int) -> None:
        self._most: Final = most
        self._some: Final = threading.Condition()
        #: In the order of their turns; no line is empty.
        self._lines: Final[OrderedDict[str, deque[T]]] = OrderedDict()
        self._count = 0
        self._ended = False

    def put(self, item: T, name: str = NOBODY) -> None:
        """Add one to the end of a caller's line.

        Raises:
            queue.Full: too many wait.
        """
        with self._some:
            if self._count >= self._most:
                raise queue.Full
            self._lines.setdefault(name, deque()).append(item)
            self._count += 1
            self._some.notify()

    def put_back(self, items: Sequence[tuple[str, T]]) -> None:
        """Give back what was taken, in that order: it is next, each in its line."""
        with self._some:
            for name, item in reversed(items):
                self._lines.setdefault(name, deque()).appendleft(item)
                self._lines.move_to_end(name, last=False)
            self._count += len(items)
            self._some.notify()

    def end(self) -> None:
        """Let the end come after all that waits."""
        with self._some:
            self._ended = True
            self._some.notify()

    def get(self) -> T | None:
        """Wait, and return what is first in the line whose turn it is; None for the end, each time from then on."""
        with self._some:
            self._some.wait_for(lambda: self._lines or self._ended)
            if not self._lines:
                return None
            name, line = next(iter(self._lines.items()))
            item = line.popleft()
            self._count -= 1
            if line:
                self._lines.move_to_end(name)
            else:
                del self._lines[name]
            return item

    def ending(self) -> bool:
        """Return whether the end was told, whatever waits before it."""
        with self._some:
            return self._ended

    def empty(self) -> bool:
        """Return whether nothing waits; the end is not counted."""
        with self._some:
            return not self._lines
