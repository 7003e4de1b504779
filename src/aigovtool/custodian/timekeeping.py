"""What a custodian does by its clock: whose credential lasts, what it says of a leap, and how a person confirms one."""

import logging
from collections.abc import Callable
from typing import Final

from aigovtool.codec import Message
from aigovtool.custodian.clock import HostClock, clock_leapt, system_time_ms
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.store import facts, log
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConflictError
from aigovtool.ids import Millis
from aigovtool.ledger.entry import ClockAccepted

_LOG: Final = logging.getLogger(__name__)
#: How often it is said again of a clock that it is wrong. It is looked at every five seconds.
_SAID_AGAIN: Final = 60


class TimeAccepted(Message):
    """What was confirmed: the ledger's time before, and from then on."""

    before_ms: Millis
    accepted_ms: Millis


async def ledger_clock(custodian: Custodian) -> Callable[[], int]:
    """Return the clock by which credentials are judged: the ledger's, which never goes back, also over restarts.

    It follows the host's clock where that is believed. One that is put back would else revive what has ended, and one
    that leaps would end what lasts.

    Raises:
        StorageError: the ledger cannot be read.
    """
    await custodian.database.run(custodian.now)
    return lambda: custodian.clock.read(custodian.database.clock_ms)


def host_time_ms(transaction: Transaction) -> int:
    """Return the ledger's time, for an order in the directory of a custodian that need not be serving.

    Raises:
        ClockLeaptError: this host's clock is further ahead than a custodian is ever off.
    """
    clock, before_ms = HostClock(), transaction.head.clock_ms
    clock.begin(before_ms, facts.server_time_ms(transaction))
    now_ms = clock.read(before_ms)
    if clock.leapt_ms:
        raise clock_leapt(clock.leapt_ms)
    return facts.advance_clock(transaction, now_ms)


def accept(transaction: Transaction) -> TimeAccepted:
    """Let the ledger's time go on from what this host's clock shows, however far ahead that is. It never goes back.

    Raises:
        ConflictError: it is not ahead of the ledger's time (`clock_not_ahead`).
    """
    before_ms, accepted_ms = transaction.head.clock_ms, system_time_ms()
    if accepted_ms <= before_ms:
        raise ConflictError("this host's clock is not ahead of the ledger's time", reason="clock_not_ahead")
    log.append(transaction, facts.advance_clock(transaction, accepted_ms), ClockAccepted(before_ms=before_ms))
    return TimeAccepted(before_ms=before_ms, accepted_ms=accepted_ms)


class ClockTeller:
    """Says in the server's log that the host's clock is not believed, now and then, and when it is again."""

    def __init__(self, clock: HostClock) -> None:
        self._clock: Final = clock
        self._told = ""
        self._looks = 0

    def look(self) -> None:
        """Say what is to be said, if anything."""
        leapt_ms, behind_ms = self._clock.leapt_ms, self._clock.behind_ms
        found = "clock_leapt" if leapt_ms else "clock_put_back" if behind_ms else ""
        if found == self._told and (not found or self._looks < _SAID_AGAIN):
            self._looks += 1
            return
        self._told, self._looks = found, 1
        off_s = (leapt_ms or behind_ms) // 1000
        if leapt_ms:
            fix = "nothing is granted; set the clock right, or confirm it with `aigovtool custodian accept-time`"
            _LOG.critical(found, extra={"ahead_s": off_s, "fix": fix})
        elif behind_ms:
            _LOG.error(found, extra={"behind_s": off_s, "fix": "time goes on without it; set the clock right"})
        else:
            _LOG.warning("clock_believed_again")
