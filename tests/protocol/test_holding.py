"""A lease in the enclave: units move between free, reserved and used, and a closed counter stays closed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.errors import ConflictError
from aigovtool.ids import ConsumerId, LeaseId, ModelId
from aigovtool.ledger.units import ZERO, Dimension, UnitVector, of, vector
from aigovtool.protocol.holding import Holding


def inferences(units: int) -> UnitVector:
    return of(Dimension.INFERENCES, units)


def holding(units: int = 10) -> Holding:
    return Holding(
        lease_id=LeaseId("1" * 32),
        model=ModelId("digits"),
        consumer=ConsumerId("anna"),
        units=inferences(units),
        expires_ms=30_000,
        least=inferences(1),
    )


#: A lease in two dimensions, and what is done with it: units may also be less than nothing, which no caller should say.
BOTH = vector({Dimension.INFERENCES: 10, Dimension.COMPUTE_MS: 20})
PARTS = st.builds(UnitVector, inferences=st.integers(-1, 6), compute_ms=st.integers(-1, 9))
ACTS = st.lists(
    st.tuples(st.sampled_from(["reserve", "reserve", "advance", "post", "void", "report", "close"]), PARTS, PARTS),
    max_size=40,
)


@given(ACTS)
def test_no_sequence_of_calls_uses_more_than_the_lease(acts: list[tuple[str, UnitVector, UnitVector]]) -> None:
    """Used and reserved units never exceed the lease, reports never shrink, nothing moves after the close."""
    lease, open_reservations, told = holding(), list[UnitVector](), ZERO
    lease.units = BOTH
    for act, units, part in acts:
        closed, used = lease.closed, lease.used
        try:
            if act == "reserve":
                lease.reserve(units)
                open_reservations.append(units)
            elif act == "advance" and open_reservations:
                lease.advance(open_reservations[-1], part)
                open_reservations[-1] = open_reservations[-1].minus(part)
            elif act == "post" and open_reservations:
                lease.post(open_reservations[-1], part)
                open_reservations.pop()
            elif act == "void" and open_reservations:
                lease.void(open_reservations.pop(), failed=False)
            elif act == "report":
                report = lease.report()
                assert report.used == lease.used
                assert report.used.covers(told)
                told = report.used
            elif act == "close":
                lease.close()
        except ConflictError:
            pass
        assert lease.used.covers(used)
        assert lease.units.covers(lease.used.plus(lease.reserved))
        reserved = ZERO
        for each in open_reservations:
            reserved = reserved.plus(each)
        assert lease.reserved == reserved
        assert lease.in_flight == len(open_reservations)
        assert not closed or (lease.closed and lease.used == used)


@pytest.mark.parametrize("units", [0, -1, 11])
def test_a_reservation_beyond_the_lease_is_refused(units: int) -> None:
    """Nothing, less than nothing, and more than all are no reservations."""
    with pytest.raises(ConflictError) as caught:
        holding().reserve(UnitVector(inferences=units))
    assert caught.value.reason == "overspend"


def test_a_closed_lease_reserves_nothing() -> None:
    """Closing is one way: nothing is free any more, whatever the clock says."""
    lease = holding()
    lease.close()
    assert lease.free == ZERO
    assert not lease.usable(0)
    with pytest.raises(ConflictError):
        lease.reserve(inferences(1))
    with pytest.raises(ConflictError):
        lease.post(ZERO, ZERO)


def test_a_lease_with_work_in_flight_cannot_be_closed() -> None:
    """The final report is built after the counter is shut, so nothing may still be counting."""
    lease = holding()
    lease.reserve(inferences(1))
    with pytest.raises(ConflictError) as caught:
        lease.close()
    assert caught.value.reason == "in_flight"
    lease.post(inferences(1), inferences(1))
    lease.close()
    assert lease.report().used.inferences == 1


def test_the_final_report_is_built_once() -> None:
    """Every repetition of it is the same report; earlier ones count up."""
    lease = holding()
    assert [lease.report().seq, lease.report().seq] == [1, 2]
    lease.close()
    final = lease.report()
    assert (final.seq, final.final) == (3, True)
    assert lease.report() is final


def test_a_lease_is_usable_until_its_time_is_over() -> None:
    """The millisecond of expiry is already too late."""
    assert holding().usable(29_999)
    assert not holding().usable(30_000)
    assert not holding(0).usable(0)


def test_a_posting_beyond_its_reservation_is_refused() -> None:
    """Neither more than was reserved nor less than nothing can be posted."""
    for actual in (-1, 3):
        lease = holding()
        lease.reserve(inferences(2))
        with pytest.raises(ConflictError):
            lease.post(inferences(2), UnitVector(inferences=actual))
    with pytest.raises(ConflictError):
        holding().post(inferences(1), inferences(1))
