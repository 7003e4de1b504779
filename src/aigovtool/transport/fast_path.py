"""Small requests of one kind that are answered without a task, an ASGI message or a parser of their own.

A request takes the fast path when nothing about it is out of the ordinary: `wire.RequestReader` has accepted its head,
its body is small, known in length and all there, and the connection has nothing else to do. What takes the requests
(`FastPath`) either has an answer of status 200 for one, or gives it back: then it goes the way of all others, as if it
had come only now. So errors, refusals, waiting and everything rare are in one place, and the fast path cannot say no.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from aigovtool.transport.connection import Connection
from aigovtool.transport.wire import Head

#: Is told the whole answer, head and body; or None when the request shall go the way of all others. Called once.
Answer = Callable[[bytes | None], None]


class FastRequest(NamedTuple):
    """One whole request."""

    head: Head
    connection: Connection
    body: bytes


class FastPath(Protocol):
    """Takes requests of a kind, and answers them in its own time."""

    def wants(self, head: Head) -> bool:
        """Return whether requests like this one are for it: their bodies are held together until they are complete.

        It is asked of ordinary ones alone (`is_ordinary`), and raises nothing; nor does `take`.
        """
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


def ok(lines: str, body: bytes) -> bytes:
    """Return a whole answer of status 200, with these header lines."""
    return f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n{lines}\r\n".encode("latin-1") + body
