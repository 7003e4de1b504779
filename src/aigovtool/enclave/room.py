"""Room that consumers share: each may take its own share of it, and all together not more than there is.

Used for requests that wait for units and for bodies in memory. Who asks for more than is left is refused at once, with
a time to come back, and takes nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aigovtool.errors import OverloadedError
from aigovtool.ids import ConsumerId


class Room:
    """Places, or bytes, that are given back when whoever took them is done."""

    def __init__(self, per_consumer: int, in_all: int, reason: str) -> None:
        self._per_consumer: Final = per_consumer
        self._in_all: Final = in_all
        self._reason: Final = reason
        self._taken: Final[dict[ConsumerId, int]] = {}
        self._total = 0

    @contextmanager
    def take(self, consumer: ConsumerId, amount: int) -> Iterator["Share"]:
        """Take `amount`, and give it back at the end.

        Raises:
            OverloadedError: there is not so much left, for this consumer or in all.
        """
        if self._taken.get(consumer, 0) + amount > self._per_consumer or self._total + amount > self._in_all:
            raise OverloadedError(
                "this consumer has too many requests under way, or the enclave has",
                reason=self._reason,
                fix="send fewer requests at a time",
                retry_after_s=1,
            )
        share = Share(self, consumer, amount)
        self._change(consumer, amount)
        try:
            yield share
        finally:
            share.shrink_to(0)

    def _change(self, consumer: ConsumerId, change: int) -> None:
        self._total += change
        left = self._taken.get(consumer, 0) + change
        if left:
            self._taken[consumer] = left
        else:
            self._taken.pop(consumer, None)


class Share:
    """What one consumer has taken."""

    def __init__(self, room: "Room", consumer: ConsumerId, amount: int) -> None:
        self._room: Final = room
        self._consumer: Final = consumer
        self._amount = amount

    def shrink_to(self, amount: int) -> None:
        """Give back what is more than `amount`."""
        back = max(0, self._amount - amount)
        self._amount -= back
        self._room._change(self._consumer, -back)  # noqa: SLF001 - the other half of `take`
