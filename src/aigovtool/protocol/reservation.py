"""What one request holds of a lease, and what it came to."""

from dataclasses import dataclass

from aigovtool.ids import ConsumerId, LeaseId, ModelId
from aigovtool.ledger.units import ZERO, UnitVector


@dataclass(frozen=True, slots=True)
class Reservation:
    """Units debited for one request or one segment of a stream; ends in exactly one `post` or `void`.

    `number` is its own for good. `posted` are units of it that were charged already, for chunks that have left.
    """

    number: int
    lease_id: LeaseId
    model: ModelId
    consumer: ConsumerId
    units: UnitVector
    posted: UnitVector = ZERO


@dataclass(frozen=True, slots=True)
class Posted:
    """What a posting came to: the receipt's number in its lease, and the units left as far as known."""

    lease_id: LeaseId
    sequence: int
    remaining: UnitVector
