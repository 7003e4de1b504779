"""Counters of enclaves with one rule removed: what is debited, charged and freed, and when a lease is over."""

from collections.abc import Callable
from dataclasses import replace
from functools import reduce

from tests.simulation.enclave import Enclave

from aigovtool.ids import ConsumerId, Digest, MessageId, ModelId
from aigovtool.ledger.receipt import Receipt
from aigovtool.ledger.units import ZERO, Dimension, UnitVector, of
from aigovtool.protocol.messages import Renew, Wiped
from aigovtool.protocol.metering import Meter
from aigovtool.protocol.reservation import Posted, Reservation

# --- The counter -------------------------------------------------------------------------------------


class ChargesAfterOutput(Meter):
    """Looks whether units are there, and debits them only when the answer leaves."""

    def reserve(
        self, now_ms: int, model: ModelId, consumer: ConsumerId, units: UnitVector, request: Digest | None = None
    ) -> Reservation | None:
        reservation = super().reserve(now_ms, model, consumer, units, request)
        if reservation is not None:
            self._owe(reservation, -1)
        return reservation

    def preview(self, reservation: Reservation, actual: UnitVector) -> Posted:
        self._owe(reservation, 1)
        try:
            return super().preview(reservation, actual)
        finally:
            self._owe(reservation, -1)

    def advance(self, now_ms: int, reservation: Reservation, actual: UnitVector) -> Reservation:
        self._owe(reservation, 1)
        rest = reservation
        try:
            rest = super().advance(now_ms, reservation, actual)
        finally:
            self._owe(rest, -1)
        return rest

    def post(self, reservation: Reservation, actual: UnitVector, receipt: Receipt | None = None) -> Posted:
        self._owe(reservation, 1)
        return super().post(reservation, actual, receipt)

    def void(self, reservation: Reservation, *, failed: bool) -> None:
        self._owe(reservation, 1)
        super().void(reservation, failed=failed)

    def _owe(self, reservation: Reservation, sign: int) -> None:
        holding = self._holdings[reservation.lease_id]
        holding.reserved = _raw(lambda d: holding.reserved.get(d) + sign * reservation.units.get(d))
        self._holdings.note(holding)


def _raw(units: Callable[[Dimension], int]) -> UnitVector:
    """Return a vector, also of negative units."""
    return UnitVector(**{dimension.value: units(dimension) for dimension in Dimension})


class PostsLess(Meter):
    """Charges a request as one unit of each dimension, whatever it was."""

    def preview(self, reservation: Reservation, actual: UnitVector) -> Posted:
        return super().preview(reservation, self._least(actual))

    def post(self, reservation: Reservation, actual: UnitVector, receipt: Receipt | None = None) -> Posted:
        return super().post(reservation, self._least(actual), receipt)

    @staticmethod
    def _least(actual: UnitVector) -> UnitVector:
        return _raw(lambda d: min(1, actual.get(d)))


class ChargesInferencesOnly(Meter):
    """Charges nothing of what is metered beside inferences."""

    def preview(self, reservation: Reservation, actual: UnitVector) -> Posted:
        return super().preview(reservation, of(Dimension.INFERENCES, actual.inferences))

    def advance(self, now_ms: int, reservation: Reservation, actual: UnitVector) -> Reservation:
        return super().advance(now_ms, reservation, of(Dimension.INFERENCES, actual.inferences))

    def post(self, reservation: Reservation, actual: UnitVector, receipt: Receipt | None = None) -> Posted:
        return super().post(reservation, of(Dimension.INFERENCES, actual.inferences), receipt)


class FreesTwice(Meter):
    """Gives the units of failed work back twice."""

    def void(self, reservation: Reservation, *, failed: bool) -> None:
        super().void(reservation, failed=failed)
        if (holding := self._holdings.get(reservation.lease_id)) is not None and not holding.closed:
            holding.reserved = _raw(lambda d: holding.reserved.get(d) - reservation.units.get(d))


class CombinesLeases(Meter):
    """Serves from one lease what only two together have units for."""

    def reserve(
        self, now_ms: int, model: ModelId, consumer: ConsumerId, units: UnitVector, request: Digest | None = None
    ) -> Reservation | None:
        self.check(now_ms, consumer)
        usable = [holding for holding in self._holdings.open((model, consumer)) if holding.usable(now_ms)]
        together = reduce(UnitVector.plus, (holding.free for holding in usable), ZERO)
        if together.covers(units) and not any(holding.free.covers(units) for holding in usable):
            first = usable[0]
            before, first.units = first.units, first.units.plus(units)
            reservation = self._running.start(first, units)
            first.units = before
            first.reserved = _raw(lambda d: first.reserved.get(d) - units.get(d))
            return reservation
        return super().reserve(now_ms, model, consumer, units, request)


class ServesAnyRequest(Meter):
    """Serves a request from the lease of another one."""

    def reserve(
        self, now_ms: int, model: ModelId, consumer: ConsumerId, units: UnitVector, request: Digest | None = None
    ) -> Reservation | None:
        self.check(now_ms, consumer)
        for holding in self._holdings.open((model, consumer)):
            if holding.serves(now_ms, units):
                return self._running.start(holding, units)
        return super().reserve(now_ms, model, consumer, units, request)


# --- Streams -----------------------------------------------------------------------------------------


class GatesFirstChunksOnly(Meter):
    """Lets a stream go on, once it has begun."""

    def gate(self, now_ms: int, reservation: Reservation) -> None:
        if reservation.posted.is_zero():
            super().gate(now_ms, reservation)


class ChargesStreamsAtTheEnd(Meter):
    """Charges a segment of a stream when its last chunk leaves, and nothing if it is cut before."""

    def advance(self, now_ms: int, reservation: Reservation, actual: UnitVector) -> Reservation:
        self.gate(now_ms, reservation)
        return self._running.advance(reservation, ZERO)


# --- Leases that are over ------------------------------------------------------------------------------


class _OutlivesLeases(Meter):
    """Goes on with work whose lease is gone: nothing is posted for it."""

    def _gone(self, reservation: Reservation) -> bool:
        holding = self._holdings.get(reservation.lease_id)
        return holding is None or holding.closed

    def preview(self, reservation: Reservation, actual: UnitVector) -> Posted:
        if self._gone(reservation):
            return Posted(lease_id=reservation.lease_id, sequence=0, remaining=ZERO)
        return super().preview(reservation, actual)

    def advance(self, now_ms: int, reservation: Reservation, actual: UnitVector) -> Reservation:
        if self._gone(reservation):
            self.gate(now_ms, reservation)
            return replace(reservation, units=reservation.units.minus(actual))
        return super().advance(now_ms, reservation, actual)

    def post(self, reservation: Reservation, actual: UnitVector, receipt: Receipt | None = None) -> Posted:
        if self._gone(reservation):
            return Posted(lease_id=reservation.lease_id, sequence=0, remaining=ZERO)
        return super().post(reservation, actual, receipt)

    def void(self, reservation: Reservation, *, failed: bool) -> None:
        if not self._gone(reservation):
            super().void(reservation, failed=failed)


class ClosesEarly(_OutlivesLeases):
    """Builds the final report of an expired lease although work is in flight on it."""

    def renew(self, now_ms: int, request_id: MessageId) -> Renew:
        for holding in self._holdings.values():
            if now_ms >= holding.expires_ms:
                holding.closed = True
                self._holdings.note(holding)
        return super().renew(now_ms, request_id)


class UsesClosedLeases(_OutlivesLeases):
    """Goes on using a lease after its final report was built."""

    def renew(self, now_ms: int, request_id: MessageId) -> Renew:
        renew = super().renew(now_ms, request_id)
        for holding in self._holdings.values():
            if holding.units != holding.used and now_ms < holding.expires_ms:
                holding.closed = False
                self._holdings.note(holding)
        return renew


class WorksAfterWipe(Enclave):
    """Signs that all is gone before the engine is: work in flight is still answered."""

    def wipe(self) -> None:
        jobs = list(self.jobs)
        super().wipe()
        self.jobs = jobs

    def after_wipe(self, now_ms: int, statements: list[Wiped], start_again: Callable[[Enclave], None]) -> None:
        stops = self.custodian.touching(self.instance, self.borrower)
        for job in self.jobs:
            if job.reservation is not None:
                self.witness.released(
                    self.name,
                    job.reservation,
                    job.reservation.units,
                    request=job.request,
                    borrower=self.borrower,
                    stops=stops,
                )
        self.jobs = []
        super().after_wipe(now_ms, statements, start_again)
