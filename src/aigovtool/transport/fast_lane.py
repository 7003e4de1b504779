"""The requests of one connection that go the fast path (`fast_path`): held until they are whole, handed over, ended.

The guard asks it first with all that the strict reader has accepted. What it does not take, or gives up, goes to the
guard's parser.
"""

from collections.abc import Callable
from typing import Final

from aigovtool.transport.connection import Connection
from aigovtool.transport.fast_path import FastPath, FastRequest, Written, is_ordinary, last
from aigovtool.transport.held import Held
from aigovtool.transport.wire import RequestReader


class FastLane:
    """One connection's; true while it has a request, of which all or a part has come."""

    __slots__ = ("_answered", "_connection", "_fast_path", "_given_up", "_held", "_reader", "ending", "in_use")

    def __init__(
        self,
        fast_path: FastPath,
        reader: RequestReader,
        connection: Connection,
        answered: Callable[[Written], None],
        given_up: Callable[[bytes, bytes], None],
    ) -> None:
        """Begin.

        Args:
            fast_path: what takes the requests.
            reader: of this connection.
            connection: this one.
            answered: is told what is to be sent for a request.
            given_up: is told head and body, or what has come of it, of a request that shall go the way of all others.
        """
        self._fast_path: Final = fast_path
        self._reader: Final = reader
        self._connection: Final = connection
        self._answered: Final = answered
        self._given_up: Final = given_up
        self._held: Final = Held(self._give_up)
        #: A request was taken and is not answered.
        self.in_use = False
        #: The connection is to end with the answer.
        self.ending = False

    def __bool__(self) -> bool:
        """Return whether it has a request."""
        return self.in_use or bool(self._held)

    def begin(self, first: bytes) -> bool:
        """Take a request from its first bytes on, on a connection that has nothing else to do, or return false."""
        head = self._reader.head
        if head is None or not is_ordinary(head):
            return False
        give_back = _nothing if self._fast_path.wants(head) else self._fast_path.room_for(head, self._connection)
        if give_back is None:
            return False
        self._held.begin(first, give_back)
        self._go_on()
        return True

    def add(self, more: bytes) -> bool:
        """Take more of the request that it has, or return false when it has none."""
        if not self._held:
            return False
        self._held.add(more)
        self._go_on()
        return True

    def end(self) -> None:
        """The connection is lost. A request under way has its room until the fast path is done with it."""
        if self.in_use:
            self._held.drop()
        else:
            self._held.end()
        self.in_use = False

    def _go_on(self) -> None:
        """Hand a whole request to the fast path, or else to the parser."""
        head = self._reader.head
        if not self._reader.complete or head is None:
            self._held.wait()
            return
        request = FastRequest(head, self._connection, self._held.whole())
        self.in_use = True
        if self._reader.surplus or self.ending or not self._fast_path.take(request, self._answer):
            self._give_up()

    def _answer(self, answer: Written | None) -> None:
        if not self.in_use:
            self._held.end()
        elif answer is None:
            self._give_up()
        else:
            self._done()
            self._answered(last(answer) if self.ending or self._reader.surplus else answer)

    def _give_up(self) -> None:
        head, body = self._held.head, self._held.whole()
        self._done()
        self._given_up(head, body)

    def _done(self) -> None:
        self.in_use = False
        self._held.end()


def _nothing() -> None:
    """Give back what was not taken."""
