"""A request that is held for the fast path, with the room that it takes and a time by which it is to be whole."""

from collections.abc import Callable
from typing import Final

from aigovtool.transport.deadline import Deadline
from aigovtool.transport.pieces import Pieces

#: Who needs longer to send a request has it go the way of all others, where a body has its deadline and its refusal.
HELD_S: Final = 10.0
_END: Final = b"\r\n\r\n"


class Held:
    """What has come of one request of a connection; false while nothing is held."""

    __slots__ = ("_body", "_give_back", "_late", "head")

    def __init__(self, on_late: Callable[[], None]) -> None:
        """Hold nothing; `on_late` is called when what is held has not been asked for whole in time."""
        #: The head, with its end.
        self.head = b""
        self._body: Final = Pieces()
        self._late: Final = Deadline(on_late)
        self._give_back: Callable[[], None] | None = None

    def __bool__(self) -> bool:
        """Return whether anything is held."""
        return bool(self.head)

    def begin(self, first: bytes, give_back: Callable[[], None]) -> None:
        """Hold a head and what came with it; `give_back` is called once when nothing of it is held any more."""
        end = first.find(_END) + len(_END)
        self.head, self._give_back = first[:end], give_back
        if end < len(first):
            self._body.add(first[end:])

    def add(self, more: bytes) -> None:
        """Hold more of the body."""
        self._body.add(more)

    def wait(self) -> None:
        """Have it be late some time after the first time that this was called."""
        if not self._late.is_set:
            self._late.set(HELD_S)

    def whole(self) -> bytes:
        """Return what is held of the body, which is never late from now on."""
        self._late.clear()
        return self._body.joined()

    def drop(self) -> None:
        """Hold nothing; the room is still taken, by whoever was told all of it."""
        self._late.clear()
        self.head = b""
        self._body.clear()

    def end(self) -> None:
        """Hold nothing, and take no room."""
        self.drop()
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()
