"""How many unknown machines each borrower may have us ask vendors about: a report names a chip without any proof."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aigovtool.errors import UnreachableError

#: A borrower that starts so many new machines at once is served; the next ones wait for their turn.
MOST: Final = 128
#: One more each half minute: 120 an hour.
_EACH_MS: Final = 30_000


@dataclass(slots=True)
class _Left:
    count: float
    at_ms: int


class Allowances:
    """What each borrower has left; borrowers are enrolled, so there are few."""

    def __init__(self, time_ms: Callable[[], int]) -> None:
        self._time_ms: Final = time_ms
        self._left: dict[str, _Left] = {}

    def take(self, borrower: str) -> None:
        """Take one of what a borrower has left.

        Raises:
            UnreachableError: nothing is left now (`too_many_machines`).
        """
        now_ms = self._time_ms()
        left = self._left.setdefault(borrower, _Left(MOST, now_ms))
        left.count = min(MOST, left.count + max(0, now_ms - left.at_ms) / _EACH_MS)
        left.at_ms = now_ms
        if left.count < 1:
            raise UnreachableError(
                "this borrower's evidence names too many machines that are not known here",
                reason="too_many_machines",
                fix="try again in a minute",
                retry_after_s=60,
            )
        left.count -= 1
