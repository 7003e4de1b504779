"""Requests of one consumer that came together: one reservation, and a receipt for each."""

from aigovtool.ids import Digest, RequestKey
from aigovtool.ledger.receipt import Receipt, WrittenReceipt
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol.metering import Meter
from aigovtool.protocol.reservation import Posted, Reservation

_DIGEST = Digest("sha256:" + "0" * 64)


def shares(units: UnitVector, requests: int) -> list[UnitVector]:
    """Return what each of some requests of one row took of what all of them did."""
    each, rest = divmod(units.compute_ms, requests)
    return [UnitVector(inferences=1, compute_ms=each + (number < rest)) for number in range(requests)]


def post_several(meter: Meter, reservation: Reservation, parts: list[UnitVector], posted: Posted) -> UnitVector:
    """Charge each part with a receipt of its own; return what was charged."""
    receipts = [
        Receipt(
            request_key=RequestKey(f"r{number}"),
            request=_DIGEST,
            response=_DIGEST,
            model=reservation.model,
            manifest=_DIGEST,
            consumer=reservation.consumer,
            units=part,
            remaining=posted.remaining,
            lease_id=posted.lease_id,
            sequence=posted.sequence + number,
            instance=meter.instance,
            tee="simulated",
            at_ms=0,
        )
        for number, part in enumerate(parts)
    ]
    return meter.post_several(reservation, [WrittenReceipt(receipt) for receipt in receipts])
