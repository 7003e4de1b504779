"""Request bodies, bounded before they are held in memory.

The declared length is refused before the first byte is asked for (so a client that waits for
`100 Continue` never sends it); an undeclared one is counted while it streams. The idle time between two
pieces is the guard's to bound; the time for the whole body is bounded here.
A long body takes the event loop some milliseconds to parse, in which nobody else is served. So only one is parsed in a
turn of the loop, and what is not likely to be what is expected is refused before (`codec.require_likely`): else one
stranger, with as many bodies as it may have under way, would hold up whoever orders a stop.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from aigovtool.codec import decode, require_likely
from aigovtool.errors import DeadlineError, MalformedError, TooLargeError
from aigovtool.limits import BODY_DEADLINE_S
from aigovtool.transport.whole_body import reader_of

M = TypeVar("M", bound=msgspec.Struct)
#: Of what is likely, so much is parsed in a fifth of a millisecond.
_LONG_BYTES: Final = 16 << 10


class Parser:
    """Parses bodies of one application: short ones at once, and one long one in each turn of the event loop."""

    def __init__(self) -> None:
        self._turn: Final = asyncio.Lock()

    async def parsed(self, body: bytes, kind: type[M], max_bytes: int) -> M:
        """Return a body as a `kind`.

        Raises:
            AIGovToolError: as `codec.decode` and `codec.require_likely`.
        """
        require_likely(body, kind)
        if len(body) <= _LONG_BYTES:
            return decode(body, kind, max_bytes=max_bytes)
        async with self._turn:
            await asyncio.sleep(0)  # the next one gets the lock in this turn of the loop, and parses in another
            return decode(body, kind, max_bytes=max_bytes)


async def read_body(request: Request, max_bytes: int, *, deadline_s: float = BODY_DEADLINE_S) -> bytes:
    """Return the whole body, at most `max_bytes` of it, within `deadline_s`.

    Raises:
        TooLargeError: `body_too_large`, before more than `max_bytes` were held.
        DeadlineError: `body_deadline`.
        MalformedError: `body_truncated` when the client went away.
    """
    check_declared(request, max_bytes)
    whole = None if "content-length" not in request.headers else reader_of(request)
    try:
        async with asyncio.timeout(deadline_s):
            return await (_collected(request, max_bytes) if whole is None else whole())
    except TimeoutError:
        raise DeadlineError(f"the body did not come within {deadline_s:g} s", reason="body_deadline") from None
    except ClientDisconnect:
        raise _truncated() from None


async def _collected(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    async for piece in stream_body(request, max_bytes):
        body += piece
    return bytes(body)


async def stream_body(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield the body in pieces and stop as soon as it is over `max_bytes`; the deadline is the caller's.

    Raises:
        TooLargeError: `body_too_large`.
        MalformedError: `body_truncated` when the client went away.
    """
    check_declared(request, max_bytes)
    total = 0
    try:
        async for piece in request.stream():
            total += len(piece)
            if total > max_bytes:
                raise _too_large(max_bytes)
            yield piece
    except ClientDisconnect:
        raise _truncated() from None


def check_declared(request: Request, max_bytes: int) -> None:
    """Raise `TooLargeError` when the declared length is over `max_bytes`; reads nothing."""
    declared = request.headers.get("content-length")
    # The guard let only plain digits through; anything else is not ours to guess.
    if declared is not None and (not declared.isascii() or not declared.isdigit() or int(declared) > max_bytes):
        raise _too_large(max_bytes)


def _truncated() -> MalformedError:
    return MalformedError("the client went away before the body was complete", reason="body_truncated")


def _too_large(max_bytes: int) -> TooLargeError:
    return TooLargeError(f"the body is over {max_bytes} bytes", reason="body_too_large")
