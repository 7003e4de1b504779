"""A request body that is taken whole, once it is all there.

ASGI hands a body out in pieces, each with a turn of the event loop and a task that is woken for it, and has the peer
wait as long as the application has 64 KiB to take. Who wants nothing before the last byte pays that for nothing: half a
millisecond for a picture. So a handler that has accepted the declared length may have the pieces collected as they come
in, and be woken once. The guard's deadlines go on meanwhile.
"""

import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from starlette.requests import ClientDisconnect, HTTPConnection
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from aigovtool.transport.pieces import Pieces

#: Key in `scope["extensions"]` under which the guard puts what reads a whole body.
EXTENSION: Final = "aigovtool.whole_body"
Read = Callable[[], Awaitable[bytes]]


class WholeBody:
    """The body of one request: what came before `read` is in the cycle of uvicorn's, what comes after it is here.

    Whoever handles the request finds it by `reader_of`.
    """

    def __init__(self, cycle: RequestResponseCycle, flow: FlowControl) -> None:
        #: Not kept by this: the cycle has the scope, which has what reads the body.
        self._cycle: Final = weakref.ref(cycle)
        self._flow: Final = flow
        self._pieces: Final = Pieces()
        self._collects = self._was_read = False
        cast("dict[str, Any]", cycle.scope).setdefault("extensions", {})[EXTENSION] = self.read

    def add(self, piece: bytes) -> bool:
        """Return whether a piece is taken here; else it is the application's."""
        if self._collects:
            self._pieces.add(piece)
        return self._collects

    async def read(self) -> bytes:
        """Return the body when it is all there; how large that may become is the caller's to check before.

        Raises:
            ClientDisconnect: the client went away.
            RuntimeError: it was read before.
        """
        cycle = self._cycle()
        if cycle is None:
            raise ClientDisconnect
        if self._was_read:
            raise RuntimeError("the body was read before")
        self._was_read = True
        if cycle.waiting_for_100_continue and not cycle.transport.is_closing():
            cycle.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        self._pieces.add(bytes(cycle.body))
        cycle.body, self._collects = bytearray(), True
        self._flow.resume_reading()
        try:
            while cycle.more_body and not cycle.disconnected and not cycle.response_complete:
                cycle.message_event.clear()
                await cycle.message_event.wait()
            if cycle.disconnected or cycle.response_complete:
                raise ClientDisconnect
            return self._pieces.joined()
        finally:
            self._collects = False
            self._pieces.clear()


def reader_of(request: HTTPConnection) -> Read | None:
    """Return what reads the whole body of a request that came through the guard; None for one that came another way."""
    extensions = cast("dict[str, object]", request.scope.get("extensions") or {})
    reader = extensions.get(EXTENSION)
    return cast("Read", reader) if callable(reader) else None
