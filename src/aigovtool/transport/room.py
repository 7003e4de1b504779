"""Room that callers share: places, or bytes, of which each may take its own share, and all together what there is.

Who asks for more than is left is refused at once, with a time to come back, and takes nothing. Nobody takes more than
it leaves to others: so each further caller that fills its share takes half of what is left, and a few that work
together do not shut out the rest, as four with a quarter each did. It costs nothing to announce a body.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aigovtool.errors import OverloadedError


class Room:
    """Places, or bytes, that are given back when whoever took them is done."""

    def __init__(self, per_caller: int, in_all: int, reason: str) -> None:
        self._per_caller: Final = per_caller
        self._in_all: Final = in_all
        self._reason: Final = reason
        self._taken: Final[dict[str, int]] = {}
        self._total = 0

    @contextmanager
    def take(self, caller: str, amount: int) -> Iterator["Share"]:
        """Take `amount`, and give it back at the end.

        Raises:
            OverloadedError: as `claim`.
        """
        share = self.claim(caller, amount)
        try:
            yield share
        finally:
            share.shrink_to(0)

    def claim(self, caller: str, amount: int) -> "Share":
        """Take `amount`, until the share is shrunk to nothing.

        Raises:
            OverloadedError: not so much is left, for this caller or in all, or it would have more than it leaves.
        """
        own, left = self._taken.get(caller, 0) + amount, self._in_all - self._total - amount
        # The last place goes to whoever has none; and nothing is taken from anybody by taking nothing.
        if amount and (own > self._per_caller or left < 0 or own > max(1, left)):
            raise OverloadedError(
                "you have too many requests under way, or this server has",
                reason=self._reason,
                fix="send fewer requests at a time",
                retry_after_s=1,
            )
        share = Share(self, caller, amount)
        self._change(caller, amount)
        return share

    def _change(self, caller: str, change: int) -> None:
        self._total += change
        left = self._taken.get(caller, 0) + change
        if left:
            self._taken[caller] = left
        else:
            self._taken.pop(caller, None)


class Share:
    """What one caller has taken."""

    def __init__(self, room: "Room", caller: str, amount: int) -> None:
        self._room: Final = room
        self._caller: Final = caller
        self._amount = amount

    def shrink_to(self, amount: int) -> None:
        """Give back what is more than `amount`."""
        back = max(0, self._amount - amount)
        self._amount -= back
        self._room._change(self._caller, -back)  # noqa: SLF001 - the other half of `take`
