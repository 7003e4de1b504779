"""The connections of one client: which to use for a channel, and when they may be closed.

Several threads or tasks share them, and any of them may find that the enclave proves another certificate now. What it
replaces then may still carry the questions of others: each was paid for, and its answer is on the way. And a descriptor
that is closed while a thread reads from it may be that of somebody else's file a moment later. So what is replaced is
closed by whoever uses it last.

It closes nothing itself: the drivers do, each in its way, what it hands out for that.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from aigovtool.consumer.exchange import Channel, Peer

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Pool(Generic[T]):
    """The connections of one channel, and how many exchanges use them now; no new one does once it is `replaced`."""

    channel: Channel
    transport: T
    users: int = 0
    replaced: bool = False


class Pools(Generic[T]):
    """The pools of one client: one for each peer, but for those for attestation only, which nobody shares."""

    def __init__(self, make: Callable[[Channel], T]) -> None:
        self._make: Final = make
        self._lock: Final = threading.Lock()
        self._current: Final[dict[Peer, Pool[T]]] = {}

    def take(self, channel: Channel) -> tuple[Pool[T], list[T]]:
        """Return the pool to use for `channel` until `leave`, and what is to be closed now."""
        if not channel.is_kept:
            return Pool(channel, self._make(channel), users=1, replaced=True), []
        with self._lock:
            known = self._current.get(channel.peer)
            if known is not None and known.channel == channel:
                known.users += 1
                return known, []
            pool = self._current[channel.peer] = Pool(channel, self._make(channel), users=1)
            return pool, _unused([] if known is None else [known])

    def leave(self, pool: Pool[T]) -> list[T]:
        """Note that an exchange is over; return what is to be closed now."""
        with self._lock:
            pool.users -= 1
            return [pool.transport] if pool.replaced and not pool.users else []

    def leave_all(self) -> list[T]:
        """Have no pool used again; return what is to be closed now."""
        with self._lock:
            known = list(self._current.values())
            self._current.clear()
            return _unused(known)


def _unused(pools: list[Pool[T]]) -> list[T]:
    """Mark pools as replaced, and return the connections of those that nobody uses."""
    for pool in pools:
        pool.replaced = True
    return [pool.transport for pool in pools if not pool.users]
