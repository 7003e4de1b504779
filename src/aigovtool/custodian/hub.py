"""The open streams to enclaves. Pushing is an optimisation: expiry is the guarantee."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aigovtool.ids import InstanceId
from aigovtool.protocol.messages import Push

#: A stream that does not take this many lines is cut; the enclave opens a new one and renews.
_BACKLOG = 64
_RECALL_EVERY_S = 1.0


class Hub:
    """Queues of lines to push, by instance. To be used on the event loop only."""

    def __init__(self) -> None:
        self._streams: dict[InstanceId, asyncio.Queue[Push | None]] = {}
        self._recalled_s = float("-inf")

    @contextmanager
    def listen(self, instance: InstanceId) -> Iterator[asyncio.Queue[Push | None]]:
        """Register the stream of an instance; a newer one replaces it. `None` in the queue ends it."""
        self.cut(instance)
        stream: asyncio.Queue[Push | None] = asyncio.Queue(_BACKLOG)
        self._streams[instance] = stream
        try:
            yield stream
        finally:
            if self._streams.get(instance) is stream:
                del self._streams[instance]

    def connected(self) -> frozenset[InstanceId]:
        """Return who listens."""
        return frozenset(self._streams)

    def push(self, instance: InstanceId, line: Push) -> None:
        """Queue a line; a stream that does not keep up is cut."""
        stream = self._streams.get(instance)
        if stream is None:
            return
        try:
            stream.put_nowait(line)
        except asyncio.QueueFull:
            self.cut(instance)

    def push_all(self, line: Push) -> None:
        """Queue a line on every stream."""
        for instance in list(self._streams):
            self.push(instance, line)

    def recall(self) -> None:
        """Ask every enclave to give back idle leases, because somebody needs the units; at most once a second."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._recalled_s >= _RECALL_EVERY_S:
            self._recalled_s = now_s
            self.push_all(Push(recall=True))

    def cut(self, instance: InstanceId) -> None:
        """End a stream."""
        stream = self._streams.pop(instance, None)
        if stream is not None:
            while not stream.empty():
                stream.get_nowait()
            stream.put_nowait(None)
