"""What is being computed on leases: each reservation ends once, in a posting or in nothing.

A second posting is an error, and a `void` of what has ended changes nothing, so that an error handler cannot take back
units for which an answer may have left. A stream goes on in steps: `advance` charges what leaves now, and the rest of
its reservation takes the place of the whole.
"""

from collections.abc import Sequence
from dataclasses import replace

from aigovtool.errors import ConflictError
from aigovtool.ledger.receipt import Receipt, WrittenReceipt
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol.holding import Holding
from aigovtool.protocol.reservation import Reservation
from aigovtool.protocol.shelf import Shelf


class Running:
    """The reservations of one instance that have not ended."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._running: dict[int, Reservation] = {}
        self._numbers = 0

    def start(self, holding: Holding, units: UnitVector) -> Reservation:
        """Debit `units` of a lease, before compute.

        Raises:
            ConflictError: as `Holding.reserve`.
        """
        holding.reserve(units)
        self._shelf.note(holding)
        self._numbers += 1
        reservation = Reservation(
            number=self._numbers,
            lease_id=holding.lease_id,
            model=holding.model,
            consumer=holding.consumer,
            units=units,
        )
        self._running[reservation.number] = reservation
        return reservation

    def lease_of(self, reservation: Reservation) -> Holding:
        """Return the lease that a reservation has debited.

        Raises:
            ConflictError: it has ended (`reservation_ended`).
        """
        if self._running.get(reservation.number) != reservation:
            raise ConflictError("a reservation ends only once", reason="reservation_ended")
        return self._shelf[reservation.lease_id]

    def advance(self, reservation: Reservation, actual: UnitVector) -> Reservation:
        """Charge `actual` units of it, and return the rest of it, which goes on.

        Raises:
            ConflictError: it has ended (`reservation_ended`), or as `Holding.advance`; nothing is charged.
        """
        holding = self.lease_of(reservation)
        holding.advance(reservation.units, actual)
        rest = replace(reservation, units=reservation.units.minus(actual), posted=reservation.posted.plus(actual))
        self._running[reservation.number] = rest
        self._shelf.note(holding)
        return rest

    def post(self, reservation: Reservation, actual: UnitVector, receipt: Receipt | None) -> tuple[Holding, int]:
        """Charge `actual` units of it, free the rest, and return its lease and its number among that lease's receipts.

        Raises:
            ConflictError: it has ended (`reservation_ended`), or as `Holding.post`; nothing is charged.
        """
        holding = self.lease_of(reservation)
        sequence = holding.post(reservation.units, actual, receipt)
        del self._running[reservation.number]
        self._shelf.note(holding)
        return holding, sequence

    def post_several(self, reservation: Reservation, written: Sequence[WrittenReceipt]) -> tuple[Holding, UnitVector]:
        """Charge what these receipts tell of, free the rest of a reservation for several requests.

        Returns:
            The lease, and what was charged to it.

        Raises:
            ConflictError: as `post`; nothing is charged.
        """
        holding = self.lease_of(reservation)
        actual = holding.post_several(reservation.units, written)
        del self._running[reservation.number]
        self._shelf.note(holding)
        return holding, actual

    def void(self, reservation: Reservation, *, failed: bool) -> Holding | None:
        """Charge nothing (more), and return the lease whose units are free again; `None` where it has ended already."""
        if self._running.get(reservation.number) != reservation:
            return None
        holding = self._shelf[reservation.lease_id]
        del self._running[reservation.number]
        holding.void(reservation.units, failed=failed)
        self._shelf.note(holding)
        return holding

    def forget(self) -> None:
        """End everything: the engine is dead, and nothing of it can be released any more."""
        self._running.clear()
