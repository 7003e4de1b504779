"""Meters and enclaves with one rule removed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
from tests.simulation.enclave import Enclave

from aigovtool.ids import LeaseId, MessageId
from aigovtool.ledger.units import ZERO, UnitVector
from aigovtool.protocol import wishes
from aigovtool.protocol.demand import Demand
from aigovtool.protocol.holding import Holding, PathKey
from aigovtool.protocol.messages import Answer, Renew, Report, Want, Wiped
from aigovtool.protocol.metering import Meter
from aigovtool.protocol.reservation import Reservation
from aigovtool.protocol.stop import StopState
from aigovtool.protocol.wishes import Wishes

# --- Answers and authority ---------------------------------------------------------------------------


class AcceptsReplays(Meter):
    """Takes an answer although no renewal of that name is outstanding."""

    def accept(self, now_ms: int, answer: Answer) -> None:
        if self._outstanding is None:
            self.renew(now_ms, answer.request_id)
        super().accept(now_ms, answer)


class AcceptsAnyAnswer(Meter):
    """Does not look for whom an answer is, nor to what."""

    def accept(self, now_ms: int, answer: Answer) -> None:
        outstanding = self._outstanding
        if outstanding is not None:
            asked = outstanding.renew.request_id
            answer = msgspec.structs.replace(answer, instance=self.instance, request_id=asked)
        super().accept(now_ms, answer)

    def apply_stop_state(self, state: StopState) -> bool:
        return super().apply_stop_state(msgspec.structs.replace(state, instance=self.instance))


class HasNoGate(Meter):
    """Releases whatever was started while there was authority."""

    def gate(self, now_ms: int, reservation: Reservation) -> None:
        pass


class NeverEnds(Meter):
    """Serves as long as there are units."""

    def authority_left_ms(self, now_ms: int) -> int:
        return 1_000


class CountsFromReceipt(Meter):
    """Counts authority from when the answer came instead of when it was asked for."""

    def accept(self, now_ms: int, answer: Answer) -> None:
        if self._outstanding is not None:
            self._outstanding = replace(self._outstanding, sent_ms=now_ms)
        super().accept(now_ms, answer)


class RefreshesRetries(Meter):
    """Counts authority from the latest repetition of a renewal instead of from the first."""

    def renew(self, now_ms: int, request_id: MessageId) -> Renew:
        renew = super().renew(now_ms, request_id)
        if self._outstanding is not None:
            self._outstanding = replace(self._outstanding, sent_ms=now_ms)
        return renew


class TakesOldStopStates(Meter):
    """Takes every stop state for the newest, so that a late one lifts a stop."""

    def apply_stop_state(self, state: StopState) -> bool:
        self._stop_state = msgspec.structs.replace(self._stop_state, epoch=0, scope_epoch=0)
        return super().apply_stop_state(state)


class IgnoresConsumerStops(Meter):
    """Stops for nothing less than everything."""

    def apply_stop_state(self, state: StopState) -> bool:
        return super().apply_stop_state(state if state.is_wide() else msgspec.structs.replace(state, stops=[]))


class HasNoDeadManSwitch(Meter):
    """Keeps model and keys for as long as nobody says anything."""

    def must_wipe(self, now_ms: int) -> bool:
        return self._stop_state.is_wide()


# --- Reports -----------------------------------------------------------------------------------------


class ReportsDifferences(Meter):
    """Reports what was used since the last report instead of all that was used."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._told: dict[LeaseId, tuple[int, UnitVector]] = {}
        self._sent: dict[LeaseId, UnitVector] = {}

    def renew(self, now_ms: int, request_id: MessageId) -> Renew:
        repeated = self._outstanding
        renew = super().renew(now_ms, request_id)
        if repeated is None and self._outstanding is not None:
            renew = msgspec.structs.replace(renew, reports=[self._difference(report) for report in renew.reports])
            self._outstanding = replace(self._outstanding, renew=renew)
        return renew

    def wipe(self) -> list[Wiped]:
        return [
            msgspec.structs.replace(statement, reports=[self._difference(r) for r in statement.reports])
            for statement in super().wipe()
        ]

    def _difference(self, report: Report) -> Report:
        seq, before = self._told.get(report.lease_id, (0, ZERO))
        if report.seq > seq:
            self._told[report.lease_id] = (report.seq, report.used)
            self._sent[report.lease_id] = report.used.minus(before)
        return msgspec.structs.replace(report, used=self._sent[report.lease_id])


# --- Liveness ----------------------------------------------------------------------------------------


class NeverRepeats(Meter):
    """Sends a renewal once, and waits."""

    def renew_due(self, now_ms: int) -> bool:
        return self._outstanding is None and super().renew_due(now_ms)


class _WishesOtherwise(Meter):
    """Asks for units by other rules."""

    kind: type[Wishes] = Wishes

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._wishes = self.kind(self._holdings, self.terms)
        self._wishes.stop(self.stopped)


class _DeniedForEver(Wishes):
    def _wants_more(self, now_ms: int, path: PathKey, demand: Demand) -> bool:
        return demand.denied is None and super()._wants_more(now_ms, path, demand)

    def refuse(self, now_ms: int, path: PathKey, units: UnitVector, next_renew_ms: int) -> None:
        self._demand[path].retry_at_ms = now_ms + 1_000
        super().refuse(now_ms, path, units, next_renew_ms)

    def allow(self) -> None:
        pass


class NeverAsksAgain(_WishesOtherwise):
    """Takes every denial for the last word."""

    kind: type[Wishes] = _DeniedForEver


class SaysItOnce(Enclave):
    """Sends the statement of its wipe once, and does not begin anew before it is acknowledged."""

    def after_wipe(self, now_ms: int, statements: list[Wiped], start_again: Callable[[Enclave], None]) -> None:
        self.wiped_ms = now_ms
        if not statements or not self.__dict__.get("said"):
            self.__dict__["said"] = now_ms - self.sent_ms > 2_000
            super().after_wipe(now_ms, statements, start_again)


class StaysUnattested(Enclave):
    """Waits, once refused admission, for somebody to start it by hand."""

    def act(self, start_again: Callable[[Enclave], None]) -> None:
        if not self.refused:
            super().act(start_again)


# --- Waste -------------------------------------------------------------------------------------------


class KeepsIdleLeases(Meter):
    """Returns nothing when it is asked to."""

    def nudge(self, now_ms: int, *, granted: bool, recall: bool) -> None:
        super().nudge(now_ms, granted=granted, recall=False)


class KeepsExpiredLeases(Meter):
    """Closes only what is used up."""

    def _closable(self, now_ms: int, *, recalled: bool) -> list[Holding]:
        return [holding for holding in super()._closable(now_ms, recalled=recalled) if holding.free.is_zero()]


class _TwiceTheTarget(Wishes):
    def wants(self, now_ms: int) -> list[Want]:
        return [msgspec.structs.replace(want, target=want.target.plus(want.target)) for want in super().wants(now_ms)]


class DrawsTwice(_WishesOtherwise):
    """Asks for twice what its rate suggests."""

    kind: type[Wishes] = _TwiceTheTarget


class _TwiceTheLeases(Wishes):
    def _wants_more(self, now_ms: int, path: PathKey, demand: Demand) -> bool:
        if self._terms.get(path[0]) is None or path[1] in self._stopped:
            return False
        usable = [holding for holding in self._shelf.open(path) if holding.usable(now_ms)]
        active = demand.wanted_ms is not None and now_ms - demand.wanted_ms <= self._terms.ttl_ms
        return (active or demand.waiting > 0) and len(usable) < 2 * wishes._OPEN_LEASES


class HoldsFour(_WishesOtherwise):
    """Keeps four leases of a consumer open, and draws the next before any is used."""

    kind: type[Wishes] = _TwiceTheLeases


class WipesSilently(Meter):
    """Wipes without saying what was used."""

    def wipe(self) -> list[Wiped]:
        return [msgspec.structs.replace(statement, reports=[]) for statement in super().wipe()]
