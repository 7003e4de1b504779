"""How an answer leaves: whole if it is small, in pieces if it is large, and the same bytes and headers either way."""

from typing import Any

import pytest

from aigovtool.enclave.gateway.api import response_of
from aigovtool.enclave.results import Answered

PIECE = 256 << 10


async def sent(answered: Answered) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Return the headers and the pieces of the body that a server is handed."""
    events: list[Any] = []

    async def send(event: Any) -> None:
        events.append(event)

    async def receive() -> Any:
        raise NotImplementedError

    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "method": "POST", "headers": []}
    await response_of(answered)(scope, receive, send)
    return dict(events[0]["headers"]), [bytes(event["body"]) for event in events[1:] if event["body"]]


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 3 * PIECE])
async def test_a_large_answer_leaves_in_pieces(size: int) -> None:
    """Sixty-four megabytes in one piece would hold up the event loop, and lie in memory twice."""
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    headers, pieces = await sent(Answered(body, (("content-type", "application/octet-stream"), ("x-y", "z"))))
    assert b"".join(pieces) == body
    assert all(len(piece) <= PIECE for piece in pieces)
    assert (headers[b"content-length"], headers[b"x-y"]) == (str(size).encode(), b"z")
    assert headers[b"content-type"] == b"application/octet-stream"
