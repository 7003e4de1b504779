"""The table of a lease's states: four moves, and no other."""

from itertools import product

import msgspec
import pytest

from aigovtool.errors import ConflictError
from aigovtool.ids import BorrowerId, ConsumerId, Digest, InstanceId, LeaseId, ModelId
from aigovtool.ledger.lease import Lease, LeaseEvent, LeaseState, next_state
from aigovtool.ledger.units import Dimension, of

LEGAL = {
    (LeaseState.PENDING, LeaseEvent.FINAL_REPORT): LeaseState.CLOSED,
    (LeaseState.PENDING, LeaseEvent.TIME_OVER): LeaseState.EXPIRED,
    (LeaseState.EXPIRED, LeaseEvent.FINAL_REPORT): LeaseState.CLOSED_LATE,
    (LeaseState.EXPIRED, LeaseEvent.WRITE_OFF): LeaseState.WRITTEN_OFF,
}
LEASE = Lease(
    lease_id=LeaseId("1" * 32),
    instance=InstanceId("a" * 64),
    borrower=BorrowerId("north"),
    model=ModelId("digits"),
    manifest=Digest("sha256:" + "d" * 64),
    consumer=ConsumerId("anna"),
    units=of(Dimension.INFERENCES, 5),
    rows=[],
    granted_at_ms=1_000,
    ttl_ms=30_000,
    grace_ms=5_000,
    policy=Digest("sha256:" + "e" * 64),
    refundable=True,
)


@pytest.mark.parametrize(("state", "event"), list(product(LeaseState, LeaseEvent)))
def test_a_lease_moves_as_the_table_says_and_not_otherwise(state: LeaseState, event: LeaseEvent) -> None:
    """Each of the fifteen pairs of state and event: four moves, eleven refusals."""
    if (state, event) in LEGAL:
        assert next_state(state, event) is LEGAL[state, event]
    else:
        with pytest.raises(ConflictError) as caught:
            next_state(state, event)
        assert caught.value.reason == "illegal_transition"


@pytest.mark.parametrize("state", list(LeaseState))
def test_only_pending_and_expired_leases_may_still_be_in_use(state: LeaseState) -> None:
    """An expired lease is charged, but its holder may not know: it stays outstanding until it is closed."""
    lease = msgspec.structs.replace(LEASE, state=state)
    assert lease.unclosed() is (state in {LeaseState.PENDING, LeaseState.EXPIRED})


@pytest.mark.parametrize(("now_ms", "overdue"), [(0, False), (31_000, False), (36_000, False), (36_001, True)])
def test_a_lease_is_overdue_after_ttl_and_grace(now_ms: int, overdue: bool) -> None:  # noqa: FBT001 -- expected
    """The last millisecond of the grace still belongs to the holder."""
    assert LEASE.overdue(now_ms) is overdue


@pytest.mark.parametrize("state", [state for state in LeaseState if state is not LeaseState.PENDING])
def test_a_lease_is_charged_for_time_once(state: LeaseState) -> None:
    """What is closed or expired is never overdue again."""
    assert not msgspec.structs.replace(LEASE, state=state).overdue(10**12)
