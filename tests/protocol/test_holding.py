"""A lease in the enclave: units move between free, reserved and used, and a closed counter stays closed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.errors import ConflictError
from aigovtool.ids import ConsumerId, Digest, InstanceId, LeaseId, ModelId, RequestKey
from aigovtool.ledger.receipt import Receipt, WrittenReceipt
from aigovtool.ledger.units import ZERO, Dimension, UnitVector, of, total, vector
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


def written(lease: Holding, *charged: UnitVector, first: int | None = None) -> list[WrittenReceipt]:
    """Return the next receipts of a lease, which tell of these units."""
    digest, sequence = Digest("sha256:" + "f" * 64), lease.sequence + 1 if first is None else first
    return [
        WrittenReceipt(
            Receipt(
                request_key=RequestKey(f"k{number}"),
                request=digest,
                response=digest,
                model=lease.model,
                manifest=digest,
                consumer=lease.consumer,
                units=units,
                remaining=ZERO,
                lease_id=lease.lease_id,
                sequence=number,
                instance=InstanceId("a" * 64),
                tee="simulated",
                at_ms=0,
            )
        )
        for number, units in enumerate(charged, sequence)
    ]


def charge(lease: Holding, reserved: UnitVector, *charged: UnitVector) -> None:
    """Post one charge, or several."""
    if len(charged) == 1:
        lease.post(reserved, *charged)
    else:
        lease.post_several(reserved, written(lease, *charged))


#: A lease in two dimensions, and what is done with it: units may also be less than nothing, which no caller should say.
BOTH = vector({Dimension.INFERENCES: 10, Dimension.COMPUTE_MS: 20})
PARTS = st.builds(UnitVector, inferences=st.integers(-1, 6), compute_ms=st.integers(-1, 9))
ACTS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "advance", "post", "several", "void", "report", "close"]), PARTS, PARTS
    ),
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
            elif act in {"post", "several"} and open_reservations:
                charge(lease, open_reservations[-1], *((part, units) if act == "several" else (part,)))
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
        assert lease.free == (ZERO if lease.closed else lease.units.minus(lease.used).minus(lease.reserved))
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


# --- Several requests on one reservation -----------------------------------------------------------

CHARGED = st.lists(st.builds(UnitVector, inferences=st.integers(0, 3), compute_ms=st.integers(0, 5)), max_size=6)
MOST = vector({Dimension.INFERENCES: 3, Dimension.COMPUTE_MS: 5})


def large() -> Holding:
    lease = holding()
    lease.units = MOST.times(20)
    return lease


@given(CHARGED, CHARGED)
def test_several_receipts_charge_what_they_charge_one_by_one(first: list[UnitVector], then: list[UnitVector]) -> None:
    """Use, number, head and count of answers are the same, and what is left of the reservation is free again."""
    single, several = large(), large()
    for charged in (first, then):
        receipts = written(several, *charged)
        for one in receipts:
            single.reserve(MOST)
            single.post(MOST, one.receipt.units, one.receipt)
        several.reserve(MOST.times(max(1, len(charged))))
        assert several.post_several(several.reserved, receipts) == total(charged)
        single.dirty = True
        assert several == single
        assert several.free == single.free
        assert several.report() == single.report()


def refusals(lease: Holding) -> dict[str, tuple[list[WrittenReceipt], str]]:
    """Return what is no posting of a reservation of six inferences and ten of compute."""
    two, more = vector({Dimension.INFERENCES: 2, Dimension.COMPUTE_MS: 3}), of(Dimension.INFERENCES, 7)
    good = written(lease, two, two, two)
    other = holding()
    other.lease_id, other.sequence = LeaseId("2" * 32), lease.sequence
    return {
        "the last is of another lease": (
            [*good[:2], written(other, two, first=lease.sequence + 3)[0]],
            "wrong_receipt",
        ),
        "all are of another lease": (written(other, two, two), "wrong_receipt"),
        "they begin too late": (good[1:], "wrong_receipt"),
        "they begin too early": (written(lease, two, two, first=lease.sequence), "wrong_receipt"),
        "one is missing": ([good[0], good[2]], "wrong_receipt"),
        "one comes twice": ([good[0], good[0], good[1]], "wrong_receipt"),
        "two are swapped": ([good[1], good[0]], "wrong_receipt"),
        "one is more than was reserved": (written(lease, more), "overspend"),
        "all are more than was reserved": (written(lease, two, two, two, two), "overspend"),
        "one dimension is more than was reserved": (written(lease, *[of(Dimension.COMPUTE_MS, 6)] * 2), "overspend"),
        "they are less than nothing": (written(lease, UnitVector(inferences=-1), ZERO), "overspend"),
    }


@pytest.mark.parametrize("what", refusals(holding()))
def test_several_receipts_are_charged_all_or_none(what: str) -> None:
    """The wall: whatever is wrong with one of them, nothing has changed, and the reservation can still be posted."""
    lease, reserved = large(), vector({Dimension.INFERENCES: 6, Dimension.COMPUTE_MS: 10})
    lease.reserve(MOST)
    lease.post_several(MOST, written(lease, ZERO, of(Dimension.INFERENCES, 1)))
    lease.reserve(reserved)
    before = replace(lease)
    receipts, reason = refusals(lease)[what]
    with pytest.raises(ConflictError) as caught:
        lease.post_several(reserved, receipts)
    assert caught.value.reason == reason
    assert lease == before
    lease.post_several(reserved, written(lease, of(Dimension.INFERENCES, 6)))
    assert (lease.used.inferences, lease.sequence, lease.in_flight, lease.reserved) == (7, 3, 0, ZERO)


def test_several_are_not_posted_on_what_was_not_reserved() -> None:
    """Neither without a reservation, nor for more than all reservations together."""
    lease = large()
    with pytest.raises(ConflictError):
        lease.post_several(MOST, written(lease, MOST))
    lease.reserve(MOST)
    with pytest.raises(ConflictError):
        lease.post_several(MOST.times(2), written(lease, MOST, MOST))
    lease.void(MOST, failed=False)
    lease.close()
    with pytest.raises(ConflictError):
        lease.post_several(ZERO, [])


def test_one_of_several_is_never_less_than_nothing() -> None:
    """As a single posting of less than nothing is refused, also where the sum of all is within the reservation."""
    lease = large()
    lease.reserve(MOST)
    with pytest.raises(ConflictError):
        lease.post_several(MOST, written(lease, UnitVector(inferences=-2), UnitVector(inferences=4)))
