"""What one request holds of a lease, and what it came to."""

from dataclasses import dataclass

from aigovtool.ids import ConsumerId, LeaseId, ModelId


@dataclass(frozen=True, slots=True)
class Reservation:
    """Units debited for one request; ends in exactly one `post` or `void`. `number` is its own for good."""

    number: int
    lease_id: LeaseId
    model: ModelId
    consumer: ConsumerId
    units: int


@dataclass(frozen=True, slots=True)
class Posted:
    """What a posting came to: the receipt's number in its lease, and the units left as far as known."""

    lease_id: LeaseId
    sequence: int
    remaining: int
