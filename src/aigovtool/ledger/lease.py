"""The custodian's record of a lease, and the table of its states.

```
pending ── final report ──────────> closed        held units become what was used; the rest is free
pending ── ttl + grace passed ────> expired       charged in full
expired ── final report, once ────> closed_late   what was not used is refunded
expired ── two operators ─────────> written_off   stays charged; its holder is given up
```

Every other move is an error. Refunds need a final report signed by the instance that holds the lease,
and never happen for a TEE whose memory the host can copy (leases spec rule 4).
"""

from enum import StrEnum
from typing import Final

from aigovtool.codec import Message
from aigovtool.errors import ConflictError
from aigovtool.ids import BorrowerId, ConsumerId, Digest, InstanceId, LeaseId, Millis, ModelId, Units
from aigovtool.ledger.budget import RowKey
from aigovtool.ledger.units import ZERO, UnitVector


class LeaseState(StrEnum):
    """Where a lease is in its life."""

    PENDING = "pending"
    CLOSED = "closed"
    EXPIRED = "expired"
    CLOSED_LATE = "closed_late"
    WRITTEN_OFF = "written_off"


class LeaseEvent(StrEnum):
    """What can happen to a lease."""

    FINAL_REPORT = "final_report"
    TIME_OVER = "time_over"
    WRITE_OFF = "write_off"


TRANSITIONS: Final[dict[tuple[LeaseState, LeaseEvent], LeaseState]] = {
    (LeaseState.PENDING, LeaseEvent.FINAL_REPORT): LeaseState.CLOSED,
    (LeaseState.PENDING, LeaseEvent.TIME_OVER): LeaseState.EXPIRED,
    (LeaseState.EXPIRED, LeaseEvent.FINAL_REPORT): LeaseState.CLOSED_LATE,
    (LeaseState.EXPIRED, LeaseEvent.WRITE_OFF): LeaseState.WRITTEN_OFF,
}


def next_state(state: LeaseState, event: LeaseEvent) -> LeaseState:
    """Return the state after `event`.

    Raises:
        ConflictError: when the table has no such move.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ConflictError(f"a {state} lease cannot take {event}", reason="illegal_transition") from None


class Lease(Message):
    """One lease as the custodian keeps it. `rows` are exactly the budget rows that it debited.

    `request` is the salted digest of the one request that it is for, if its model is lent in bound mode.
    """

    lease_id: LeaseId
    instance: InstanceId
    borrower: BorrowerId
    model: ModelId
    manifest: Digest
    consumer: ConsumerId
    units: UnitVector
    rows: list[RowKey]
    granted_at_ms: Millis
    ttl_ms: Millis
    grace_ms: Millis
    policy: Digest
    refundable: bool
    state: LeaseState = LeaseState.PENDING
    seq: Units = 0
    seen: UnitVector = ZERO
    ok: Units = 0
    err: Units = 0
    report: Digest | None = None
    request: Digest | None = None

    def overdue(self, now_ms: int) -> bool:
        """Return whether the custodian no longer waits for a final report."""
        return self.state is LeaseState.PENDING and now_ms > self.granted_at_ms + self.ttl_ms + self.grace_ms

    def unclosed(self) -> bool:
        """Return whether the holder may still use units of this lease, as far as anyone can know."""
        return self.state in {LeaseState.PENDING, LeaseState.EXPIRED}
