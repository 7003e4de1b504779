"""The open streams to enclaves. Pushing is an optimisation: expiry is the guarantee."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from aigovtool.codec import Message
from aigovtool.custodian.store.records import Instance
from aigovtool.ids import InstanceId, ModelId
from aigovtool.ledger.entry import StopTarget
from aigovtool.protocol.messages import Push
from aigovtool.protocol.stop import concerns

#: A stream that does not take this many lines is cut; the enclave opens a new one and renews.
_BACKLOG: Final = 64
_RECALL_EVERY_S: Final = 1.0

Stream = asyncio.Queue["Push | None"]


class Announcement(Message):
    """One thing to tell: a stop set or lifted, a budget raised, units wanted back."""

    stop: StopTarget | None = None
    value: str = ""
    granted: ModelId | None = None
    recall: ModelId | None = None


@dataclass(frozen=True, slots=True)
class _Listener:
    instance: Instance
    asked_ms: int
    stream: Stream = field(default_factory=lambda: asyncio.Queue(_BACKLOG))

    @property
    def models(self) -> list[ModelId]:
        """Those that it serves, and those that it was refused: it renews when these are lent, and learns of that."""
        return [*self.instance.models, *(refused.model for refused in self.instance.refused)]


class Hub:
    """Queues of lines to push, by instance. To be used on the event loop only."""

    def __init__(self) -> None:
        self._listeners: dict[InstanceId, _Listener] = {}
        self._recalled_s: dict[ModelId, float] = {}

    def is_newest(self, instance: InstanceId, asked_ms: int) -> bool:
        """Return whether an instance has no stream open that it asked for at this time, or later."""
        listener = self._listeners.get(instance)
        return listener is None or listener.asked_ms < asked_ms

    @contextmanager
    def listen(self, instance: Instance, asked_ms: int = 0) -> Iterator[Stream]:
        """Register the stream of an instance; a newer one replaces it. `None` in the queue ends it.

        `asked_ms` is when the instance asked for it, by its own time, which never goes back: a copy of an older message
        of it gets a stream that has ended, and the open one stays.
        """
        listener = _Listener(instance, asked_ms)
        if not self.is_newest(instance.instance, asked_ms):
            listener.stream.put_nowait(None)
            yield listener.stream
            return
        self.cut(instance.instance)
        self._listeners[instance.instance] = listener
        try:
            yield listener.stream
        finally:
            if self._listeners.get(instance.instance) is listener:
                del self._listeners[instance.instance]

    def connected(self) -> frozenset[InstanceId]:
        """Return who listens."""
        return frozenset(self._listeners)

    def concerned(self, target: StopTarget, value: str) -> list[InstanceId]:
        """Return the listeners that a stop of `target` may concern."""
        return [
            one.instance.instance
            for one in self._listeners.values()
            if concerns(
                target,
                value,
                instance=one.instance.instance,
                borrower=one.instance.borrower,
                models=one.models,
            )
        ]

    def push(self, instance: InstanceId, line: Push) -> None:
        """Queue a line; a stream that does not keep up is cut."""
        listener = self._listeners.get(instance)
        if listener is None:
            return
        try:
            listener.stream.put_nowait(line)
        except asyncio.QueueFull:
            self.cut(instance)

    def tell_key_set(self, version: int) -> None:
        """Tell every enclave which key set is served now."""
        for instance in self.connected():
            self.push(instance, Push(key_set=version))

    def granted(self, model: ModelId) -> None:
        """Tell every enclave that serves a model that its budget was raised."""
        for instance in self._serving(model):
            self.push(instance, Push(granted=True))

    def recall(self, model: ModelId) -> None:
        """Ask for idle leases of a model, because somebody needs the units; at most once a second."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._recalled_s.get(model, float("-inf")) >= _RECALL_EVERY_S:
            self._recalled_s[model] = now_s
            for instance in self._serving(model):
                self.push(instance, Push(recall=True))

    def _serving(self, model: ModelId) -> list[InstanceId]:
        return [name for name, one in self._listeners.items() if model in one.models]

    def cut(self, instance: InstanceId) -> None:
        """End a stream."""
        listener = self._listeners.pop(instance, None)
        if listener is not None:
            while not listener.stream.empty():
                listener.stream.get_nowait()
            listener.stream.put_nowait(None)
