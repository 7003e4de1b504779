"""Answers that are read from something that must be closed, however the sending ends."""

from collections.abc import Iterator, Mapping
from typing import Final, Protocol, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Source(Protocol):
    """An open file, or something like one."""

    def chunks(self) -> Iterator[bytes]:
        """Yield its content, each chunk in a thread."""
        ...

    def close(self) -> None:
        """Free what it holds; also while a chunk is being read."""
        ...


class Begun(Source, Protocol):
    """A source of which the first is read before anything is answered."""

    def begin(self) -> None:
        """Read the first of it, or raise."""
        ...


B = TypeVar("B", bound=Begun)


async def begun(source: B) -> B:
    """Return a source that has begun, in a thread like the rest of it; one that cannot is closed.

    Raises:
        AIGovToolError: as its `begin` does: whoever asked is told so, where later the answer could only break off.
    """
    try:
        await run_in_threadpool(source.begin)
    except BaseException:
        source.close()
        raise
    return source


class SourceResponse(StreamingResponse):
    """Sends a source, and closes it: also when the peer goes away, or the server ends."""

    def __init__(self, source: Source, *, status_code: int = 200, headers: Mapping[str, str]) -> None:
        """Send `source` as bytes; `headers` say how many."""
        super().__init__(
            source.chunks(), status_code=status_code, headers=headers, media_type="application/octet-stream"
        )
        self._source: Final = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._source.close()
