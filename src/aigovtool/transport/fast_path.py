"""Small requests of one kind that are answered without a task, an ASGI message or a parser of their own.

A request takes the fast path when nothing about it is out of the ordinary: `wire.RequestReader` has accepted its head,
its body is small, or has room, its length is known, all of it is there, and the connection has nothing else to do. What
takes the requests (`FastPath`) either has an answer of status 200 for one, or gives it back: then it goes the way of
all others, as if it had come only now. So errors, refusals, waiting and everything rare are in one place, and the fast
path cannot say no.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from aigovtool.transport.connection import Connection
from aigovtool.transport.wire import Head

#: A whole answer, head and body, as it is written: who listens on the line can tell how many bytes each write has.
Written = tuple[bytes, ...]
#: Is told the answer; or None when the request shall go the way of all others. Called once.
Answer = Callable[[Written | None], None]


class FastRequest(NamedTuple):
    """One whole request."""

    head: Head
    connection: Connection
    body: bytes


class FastPath(Protocol):
    """Takes requests of a kind, and answers them in its own time."""

    def wants(self, head: Head) -> bool:
        """Return whether requests like this one are for it: their bodies are held together until they are complete.

        They are so small that nobody counts them. It is asked of ordinary ones alone (`is_ordinary`), and raises
        nothing; nor do `room_for` and `take`.
        """
        ...

    def room_for(self, head: Head, connection: Connection) -> Callable[[], None] | None:
        """Return what gives back the room for a larger one, which is for it; None if it is not, or there is no room."""
        ...

    def take(self, request: FastRequest, answer: Answer) -> bool:
        """Return whether it takes this one; then it calls `answer` later, once, whatever happens."""
        ...


def is_ordinary(head: Head) -> bool:
    """Return whether a request may take a fast path at all: its length is known, and the connection goes on."""
    fields = head.fields
    return (
        head.length is not None
        and b"expect" not in fields
        and fields.get(b"connection", b"keep-alive") == b"keep-alive"
    )


def ok(lines: str, body: bytes, *, as_others: bool = False) -> Written:
    """Return a whole answer of status 200, with these header lines.

    Args:
        lines: each with its end.
        body: what follows the head.
        as_others: in the two writes in which an answer goes that did not take the fast path, so that sizes on the line
            do not tell which way it took. One write costs less.
    """
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n{lines}\r\n".encode("latin-1")
    return (head, body) if as_others else (head + body,)


def last(answer: Written) -> Written:
    """Return an answer that says that it is the last one on its connection (RFC 9112, section 9.6)."""
    first, *others = answer
    return (first.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1), *others)
