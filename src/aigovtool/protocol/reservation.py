"""What one request holds of a lease and what it came to, and the line of those who wait for that.

There is a line for each (model, consumer). Whenever there may be units, those in it try in the order in which they
came, and only then who comes now: nobody overtakes. Who needs more than any lease has left is passed over and keeps its
place. It does not block the others, because a lease that is too small for it does not grow; and those who came later
do not starve it, because the lease that is drawn for it (the meter asks for one, again and again) is its before theirs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from aigovtool.ids import ConsumerId, Digest, LeaseId, ModelId
from aigovtool.ledger.units import ZERO, UnitVector
from aigovtool.protocol.holding import PathKey

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reservation:
    """Units debited for one request or one segment of a stream; ends in exactly one `post` or `void`.

    `number` is its own for good. `posted` are units of it that were charged already, for chunks that have left.
    """

    number: int
    lease_id: LeaseId
    model: ModelId
    consumer: ConsumerId
    units: UnitVector
    posted: UnitVector = ZERO


@dataclass(frozen=True, slots=True)
class Posted:
    """What a posting came to: the receipt's number in its lease, and the units left as far as known."""

    lease_id: LeaseId
    sequence: int
    remaining: UnitVector


@dataclass(eq=False, frozen=True, slots=True)
class Waiting(Generic[T]):
    """A request in line, and where its outcome goes."""

    path: PathKey
    units: UnitVector
    request: Digest | None
    outcome: T


class Line(Generic[T]):
    """Those who wait. `offer` lets one of them try, and returns whether it waits on; then it is still in line."""

    def __init__(self, offer: Callable[[Waiting[T]], bool]) -> None:
        self._offer = offer
        self._by_path: dict[PathKey, dict[Waiting[T], None]] = {}
        self._freed: dict[PathKey, None] = {}

    def __len__(self) -> int:
        return sum(len(line) for line in self._by_path.values())

    def join(self, one: Waiting[T]) -> None:
        """Take the last place."""
        self._by_path.setdefault(one.path, {})[one] = None

    def leave(self, one: Waiting[T]) -> bool:
        """Give up a place; return whether there was one."""
        line = self._by_path.get(one.path, {})
        if one not in line:
            return False
        del line[one]
        if not line:
            del self._by_path[one.path]
            self._freed.pop(one.path, None)
        return True

    def came_free(self, path: PathKey) -> None:
        """Take notice that units may be free again; `serve_freed` follows, before anybody else tries to have them."""
        if path in self._by_path:
            self._freed[path] = None

    def serve_freed(self) -> None:
        """Let those try for whom units may have come free, unless one who needs no more has just done so in vain."""
        freed, self._freed = self._freed, {}
        for path in freed:
            in_vain: list[UnitVector] = []
            for one in tuple(self._by_path.get(path, ())):
                if not any(one.units.covers(units) for units in in_vain) and self._offer(one):
                    in_vain.append(one.units)

    def serve_all(self) -> None:
        """Let everybody try: there is news of any kind."""
        self._freed.clear()
        for one in [one for line in self._by_path.values() for one in line]:
            self._offer(one)
