"""What an answer is read from is closed, however the sending ends."""

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from aigovtool.errors import StorageError
from aigovtool.transport.source import SourceResponse, begun


class Opened:
    """Something open, of three chunks."""

    def __init__(self) -> None:
        self.closed = False
        self.fails = False

    def begin(self) -> None:
        """Read the first of them."""
        if self.fails:
            raise StorageError("no", reason="package_unreadable")

    def chunks(self) -> Iterator[bytes]:
        """Yield them."""
        yield from (b"a", b"b", b"c")

    def close(self) -> None:
        """Note it."""
        self.closed = True


async def send_through(source: Opened, most: int) -> list[Any]:
    """Send a source to a peer that takes so many messages and is gone then."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if len(sent) == most:
            raise ConnectionResetError
        sent.append(message)

    response = SourceResponse(source, headers={"content-length": "3"})
    scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
    await response(scope, receive, send)
    return sent


async def test_a_source_is_sent_and_closed() -> None:
    """All of it, and then it is free."""
    source = Opened()
    sent = await send_through(source, 99)
    assert b"".join(message.get("body", b"") for message in sent) == b"abc"
    assert source.closed


@pytest.mark.parametrize("most", [0, 1, 2])
async def test_a_peer_that_goes_away_leaves_nothing_open(most: int) -> None:
    """Before the first byte, and in the middle: a package is not held by everybody who ever began to load it."""
    source = Opened()
    with pytest.raises((ConnectionResetError, ClientDisconnect, ExceptionGroup)):
        await send_through(source, most)
    assert source.closed


@pytest.mark.parametrize("fails", [False, True])
async def test_a_source_that_cannot_be_begun_is_closed_and_one_that_can_stays_open(fails: bool) -> None:  # noqa: FBT001
    """Whoever asked is told why: once the answer has begun it could only break off."""
    source = Opened()
    source.fails = fails
    if not fails:
        assert await begun(source) is source
    else:
        with pytest.raises(StorageError):
            await begun(source)
    assert source.closed is fails
