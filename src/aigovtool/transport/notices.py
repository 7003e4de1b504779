"""Log lines about who was turned away: at a bounded rate, however many come.

Whoever is turned away costs us little; a line for each would cost more, and hide what else the log says. So an address
has one line at once, and then at most one in each period that counts what there was since; only so many addresses have
lines of their own, and the rest share one. In a line there are only so many different things; the rest share a count.

What happened is a name of ours: how a connection ended, or `code/reason` of a refusal. Nothing that a peer chose is in
a line but its address: no path, no name, no message.
"""

import asyncio
import logging
from collections import Counter
from typing import Final

from aigovtool import limits
from aigovtool.errors import AIGovToolError

#: In the place of an address or of what happened, for those that have no line or count of their own.
OTHERS: Final = "others"


class Notices:
    """The lines of one server. To be used within a running event loop, and closed with the server."""

    def __init__(
        self,
        log: logging.Logger,
        *,
        period_s: float = limits.NOTICE_PERIOD_S,
        addresses: int = limits.MAX_NOTICED_ADDRESSES,
    ) -> None:
        """Write to `log`, of each address at most a line in `period_s` seconds, and of so many `addresses`."""
        self._log: Final = log
        self._period_s: Final = period_s
        self._addresses: Final = addresses
        #: What there was since the last line; and when it will be told.
        self._counts: Final[dict[str, Counter[str]]] = {}
        self._timers: Final[dict[str, asyncio.TimerHandle]] = {}

    def note(self, address: str, what: str) -> None:
        """Tell that `what` happened to a connection from `address`: now, or counted later."""
        if address not in self._counts and len(self._counts) >= self._addresses:
            address = OTHERS
        counts = self._counts.get(address)
        if counts is None:
            self._tell(address, Counter({what: 1}))
            self._begin(address)
        else:
            counts[what if what in counts or len(counts) < limits.MAX_NOTICED_KINDS else OTHERS] += 1

    def refusal(self, address: str, error: AIGovToolError) -> None:
        """Tell that a request from `address` was answered with an error."""
        self.note(address, f"{error.code}/{error.reason}" if error.reason else error.code)

    def close(self) -> None:
        """Tell what was not told yet."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for address, counts in self._counts.items():
            self._tell(address, counts)
        self._counts.clear()

    def _begin(self, address: str) -> None:
        self._counts[address] = Counter()
        self._timers[address] = asyncio.get_running_loop().call_later(self._period_s, self._period_over, address)

    def _period_over(self, address: str) -> None:
        counts = self._counts.pop(address)
        del self._timers[address]
        if counts:
            self._tell(address, counts)
            self._begin(address)

    def _tell(self, address: str, counts: Counter[str]) -> None:
        if counts:
            told = " ".join(f"{what}={number}" for what, number in sorted(counts.items()))
            self._log.info("turned_away address=%s %s", address, told)
