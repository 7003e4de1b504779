"""What the gateway does with the meter: reserve, gate, charge, give back; and who waits for units stands in line.

The meter itself neither waits nor knows of tasks. Here whoever finds no units waits for them in the order of coming,
asks for a renewal to be made, and tries again at any news.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from aigovtool import limits
from aigovtool.enclave.clock import ElapsedClock
from aigovtool.errors import RefusalError
from aigovtool.ids import ConsumerId, Digest, ModelId
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.ledger.receipt import Receipt, WrittenReceipt
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol.metering import Meter
from aigovtool.protocol.reservation import Line, Posted, Reservation, Waiting
from aigovtool.transport.room import Room

#: How long somebody waits for news before trying without any: denials age.
_PATIENCE_S: Final = 0.5

_Waiting = Waiting[asyncio.Future[Reservation]]


class Charging:
    """The charging of one instance. `wake` is set when a renewal is due earlier than the next heartbeat."""

    def __init__(self, meter: Meter, clock: ElapsedClock, on_tampered: Callable[[], None]) -> None:
        self._meter: Final = meter
        self._clock: Final = clock
        self._on_tampered: Final = on_tampered
        self._queue = Room(limits.MAX_WAITING_REQUESTS_PER_CONSUMER, limits.MAX_WAITING_REQUESTS, "too_many_waiting")
        self._line: Final = Line(self._offer)
        self.wake: Final = asyncio.Event()

    async def reserve(
        self, model: ModelId, consumer: ConsumerId, units: UnitVector, request: Digest | None, deadline_ms: int
    ) -> Reservation:
        """Debit units for a request, waiting for a lease while one may come and the deadline allows it.

        Raises:
            RefusalError: why not.
            OverloadedError: `too_many_waiting`.
        """
        reservation = self.reserve_now(model, consumer, units, request)
        if reservation is not None:
            return reservation
        with self._queue.take(consumer, 1):
            outcome = asyncio.get_running_loop().create_future()
            return await self._waited(Waiting((model, consumer), units, request, outcome), deadline_ms)

    def reserve_now(
        self, model: ModelId, consumer: ConsumerId, units: UnitVector, request: Digest | None = None
    ) -> Reservation | None:
        """Debit units for a request, if that needs no waiting.

        Raises:
            RefusalError: why not.
        """
        self._line.serve_freed()  # who waits comes first
        reservation = self._meter.attempt(self._clock.now_ms(), model, consumer, units, request)
        if reservation is not None:
            self._wake_if_due()
        return reservation

    async def _waited(self, one: _Waiting, deadline_ms: int) -> Reservation:
        self._meter.waiting(*one.path, 1, one.request, one.units)
        self._line.join(one)
        try:
            while self._offer(one):
                self.wake.set()
                await asyncio.wait([one.outcome], timeout=self._patience_s(deadline_ms))
                self._line.serve_freed()
            return one.outcome.result()
        except BaseException:
            # A reservation that came in the same moment is nobody's.
            if one.outcome.done() and one.outcome.exception() is None:
                self.void(one.outcome.result(), failed=False)
            raise
        finally:
            self._leave(one)

    def _offer(self, one: _Waiting) -> bool:
        """Let somebody who waits try; return whether it waits on."""
        if one.outcome.done():
            return False
        try:
            reservation = self._meter.reserve(self._clock.now_ms(), *one.path, one.units, one.request)
        except Exception as error:  # noqa: BLE001 - it is told to whom it concerns
            one.outcome.set_exception(error)
        else:
            if reservation is None:
                return True
            one.outcome.set_result(reservation)
        self._leave(one)
        return False

    def _leave(self, one: _Waiting) -> None:
        if self._line.leave(one):
            self._meter.waiting(*one.path, -1, one.request)

    def _patience_s(self, deadline_ms: int) -> float:
        """Return how long to wait for news before trying without any: denials age."""
        left_s = (deadline_ms - self._clock.now_ms()) / 1000
        if left_s <= 0:
            raise RefusalError("no units came in time", reason="no_lease_in_time", retry_after_s=1)
        return min(left_s, _PATIENCE_S)

    def _wake_if_due(self) -> None:
        if self._meter.renew_due(self._clock.now_ms()):
            self.wake.set()

    def check(self, consumer: ConsumerId) -> None:
        """Raise unless answers may be released to this consumer right now."""
        self.look_at_clock()
        self._meter.check(self._clock.now_ms(), consumer)

    def terms(self, model: ModelId) -> ServingPolicy:
        """Return the terms of a model, as of the newest answer that gave authority."""
        return self._meter.terms[model]

    def preview(self, reservation: Reservation, actual: UnitVector) -> Posted:
        """Return what posting `actual` units of a reservation will come to, for the receipt."""
        return self._meter.preview(reservation, actual)

    def gate_and_post(self, reservation: Reservation, receipt: Receipt) -> None:
        """Gate, then charge what the receipt says.

        Nothing that can fail, and no await, lies between this and the release of the answer.

        Raises:
            RefusalError: the answer must not be released; nothing was charged.
        """
        self._gate(reservation)
        self._meter.post(reservation, receipt.units, receipt)
        self._posted(reservation, receipt.units)

    def gate_and_post_several(self, reservation: Reservation, written: Sequence[WrittenReceipt]) -> None:
        """Gate several answers to one consumer, then charge what their receipts say; as `gate_and_post`.

        Raises:
            RefusalError: none of the answers must be released; nothing was charged.
        """
        self._gate(reservation)
        self._posted(reservation, self._meter.post_several(reservation, written))

    def _gate(self, reservation: Reservation) -> None:
        self.look_at_clock()
        self._meter.gate(self._clock.now_ms(), reservation)

    def _posted(self, reservation: Reservation, units: UnitVector) -> None:
        if units != reservation.units:
            self._line.came_free((reservation.model, reservation.consumer))
        # Whom the rest serves is served after this, and before whoever comes then.
        asyncio.get_running_loop().call_soon(self._moved)

    def void(self, reservation: Reservation, *, failed: bool) -> None:
        """Charge nothing, unless the reservation was posted."""
        self._meter.void(reservation, failed=failed)
        self._line.came_free((reservation.model, reservation.consumer))
        self._moved()

    def _moved(self) -> None:
        self._line.serve_freed()
        self._wake_if_due()

    def serve_all(self) -> None:
        """Let everybody who waits try, because there is news, and have a renewal made if it is due now."""
        self._line.serve_all()
        self._wake_if_due()

    def look_at_clock(self) -> None:
        """End all authority when the clock has been tampered with."""
        self._clock.now_ms()
        if self._clock.tampered:
            self._meter.end_authority()
            self._on_tampered()
