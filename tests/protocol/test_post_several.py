"""Requests that are charged together: to the meter they are as many that were charged one by one."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.test_dimensions import WORST, leased, units
from tests.protocol.test_metering import ANNA, MODEL, Exchange, deny, grant, in_parts, receipt

from aigovtool.codec import encode
from aigovtool.errors import ConflictError
from aigovtool.ids import LeaseId, RequestKey
from aigovtool.ledger.receipt import WrittenReceipt
from aigovtool.ledger.units import ZERO, UnitVector, total
from aigovtool.protocol.messages import DenyCode
from aigovtool.protocol.metering import Meter
from aigovtool.protocol.reservation import Posted, Reservation

#: What a request turned out to take, of one inference and 50 ms at most.
CHARGED = st.lists(st.builds(units, st.integers(0, 1), st.integers(0, 50)), min_size=1, max_size=8)


#: What the custodian says that the path has beside its leases.
LEFT = 100


def written(posted: Posted, charged: Sequence[UnitVector]) -> list[WrittenReceipt]:
    """Return receipts of these units, the first of which is the one that was previewed."""
    first = receipt(replace(posted, remaining=ZERO))
    return [
        WrittenReceipt(
            msgspec.structs.replace(first, units=each, sequence=number, request_key=RequestKey(f"k{number}"))
        )
        for number, each in enumerate(charged, posted.sequence)
    ]


def reserved(meter: Meter, wanted: UnitVector) -> Reservation:
    reservation = meter.reserve(1, MODEL, ANNA, wanted)
    assert reservation is not None
    return reservation


@given(CHARGED, CHARGED)
def test_several_are_to_the_meter_what_they_are_one_by_one(first: list[UnitVector], then: list[UnitVector]) -> None:
    """What is left, what is wished for, and what the custodian is told, whichever units each of them took."""
    single, several = leased(units(20, 500), units(20, 900)), leased(units(20, 500), units(20, 900))
    for charged in (first, then):
        reservation = reserved(several.meter, WORST.times(len(charged)))
        receipts = written(several.meter.preview(reservation, total(charged)), charged)
        assert several.meter.post_several(reservation, receipts) == total(charged)
        # On the lease that serves all of them at once.
        for each in receipts:
            wanted = single.meter._running.start(single.meter._holdings[reservation.lease_id], WORST)
            single.meter._wishes.of((MODEL, ANNA), 1).take(1, WORST)
            single.meter._wishes.of((MODEL, ANNA), 1).wanted_ms = 1
            single.meter.post(wanted, each.receipt.units, each.receipt)
        assert several.meter.remaining(MODEL, ANNA) == single.meter.remaining(MODEL, ANNA)
        assert several.meter._holdings.values() == single.meter._holdings.values()
        assert several.meter._wishes.get((MODEL, ANNA)) == single.meter._wishes.get((MODEL, ANNA))
        assert several.meter.renew_due(2) == single.meter.renew_due(2)
    assert encode(several.renew(2)) == encode(single.renew(2))


def test_what_several_did_not_take_is_free_again_and_not_reckoned_as_used() -> None:
    """For the next request at once, and for the size of the next lease."""
    exchange = leased(units(4, 200))
    reservation = reserved(exchange.meter, WORST.times(4))
    assert exchange.meter.reserve(1, MODEL, ANNA, WORST) is None
    posted = exchange.meter.preview(reservation, units(3, 30))
    assert (posted.sequence, posted.remaining.inferences, posted.remaining.compute_ms) == (1, LEFT + 1, 170)
    exchange.meter.post_several(reservation, written(posted, [units(1, 10)] * 3))
    assert exchange.meter.remaining(MODEL, ANNA) == posted.remaining
    demand = exchange.meter._wishes.get((MODEL, ANNA))
    assert demand is not None
    assert demand.taken == units(3, 30)
    assert reserved(exchange.meter, units(1, 170)).lease_id == reservation.lease_id


def test_whoever_waits_is_asked_for_when_several_are_done() -> None:
    """As with single ones: a denial for what this instance's own work held does not stand any longer."""
    exchange = Exchange()
    exchange.round_trip(0, grant(1, 10))
    reservation = exchange.reserved(1_000, 10)
    assert exchange.reserve(1_001) is None
    exchange.round_trip(1_001, deny(DenyCode.RESERVED, retry_after_ms=20_000))
    assert exchange.reserve(1_002) is None
    exchange.meter.waiting(MODEL, ANNA, 1)
    assert not exchange.meter.renew_due(1_003)
    receipts = written(exchange.meter.preview(reservation, units(10, 0)), [units(5, 0)] * 2)
    exchange.meter.post_several(reservation, receipts)
    assert exchange.meter.renew_due(1_004)
    (report,) = exchange.round_trip(1_004, grant(2, 1)).reports
    assert (report.used.inferences, report.ok, report.final) == (10, 2, True)


def test_a_lease_that_several_leave_idle_is_given_back_for_who_needs_more() -> None:
    """As single ones do: what is left of it and what others hold are drawn as one."""
    exchange = in_parts(3)
    busy = exchange.reserved(1, 2)
    assert exchange.reserve(1, 5) is None
    exchange.meter.waiting(MODEL, ANNA, 1)
    exchange.round_trip(1, deny(DenyCode.RESERVED))
    assert exchange.reserve(2, 5) is None
    assert not exchange.meter.renew_due(2)
    posted = exchange.meter.preview(busy, units(1, 0))
    exchange.meter.post_several(busy, written(posted, [units(1, 0), ZERO]))
    assert exchange.meter.renew_due(3)
    (report,) = exchange.renew(3).reports
    assert (report.used.inferences, report.ok, report.final) == (1, 2, True)


Spoil = Callable[[list[WrittenReceipt]], list[WrittenReceipt]]


def spoilt(number: int, **members: object) -> Spoil:
    def spoil(receipts: list[WrittenReceipt]) -> list[WrittenReceipt]:
        made = list(receipts)
        made[number] = WrittenReceipt(msgspec.structs.replace(made[number].receipt, **members))
        return made

    return spoil


SPOILT: dict[str, Spoil] = {
    "another lease": spoilt(1, lease_id=LeaseId("9" * 32)),
    "another number": spoilt(0, sequence=2),
    "a gap": lambda receipts: [receipts[0], receipts[2]],
    "another order": lambda receipts: receipts[::-1],
    "more than was reserved": spoilt(2, units=units(2, 0)),
    "more time than was reserved": spoilt(2, units=units(1, 151)),
}


@pytest.mark.parametrize("what", SPOILT)
def test_several_are_charged_all_or_none(what: str) -> None:
    """Nothing of it is seen by anybody, and the reservation can still be posted, or given back."""
    for posts in (True, False):
        exchange = leased(units(10, 500))
        reservation = reserved(exchange.meter, WORST.times(3))
        posted = exchange.meter.preview(reservation, WORST.times(3))
        good = written(posted, [units(1, 0)] * 3)
        holding, demand = exchange.meter._holdings[reservation.lease_id], exchange.meter._wishes.get((MODEL, ANNA))
        before = replace(holding), copy(demand), exchange.meter.remaining(MODEL, ANNA)
        with pytest.raises(ConflictError) as caught:
            exchange.meter.post_several(reservation, SPOILT[what](good))
        assert caught.value.reason == ("overspend" if what.startswith("more") else "wrong_receipt")
        assert (holding, demand, exchange.meter.remaining(MODEL, ANNA)) == before
        if posts:
            exchange.meter.post_several(reservation, good)
        else:
            exchange.meter.void(reservation, failed=False)
        assert holding.used == (units(3, 0) if posts else ZERO)
        assert (holding.reserved, holding.in_flight, holding.ok) == (ZERO, 0, 3 if posts else 0)


def test_a_reservation_for_several_ends_once() -> None:
    """Attack: receipts for an answer whose units were given back, or were paid with another answer already."""
    exchange = leased(units(20, 900))

    def again(reservation: Reservation) -> None:
        holding = exchange.meter._holdings[reservation.lease_id]
        posted, before = Posted(reservation.lease_id, holding.sequence + 1, ZERO), replace(holding)
        with pytest.raises(ConflictError) as caught:
            exchange.meter.post_several(reservation, written(posted, [units(1, 0)] * 2))
        assert caught.value.reason == "reservation_ended"
        assert holding == before

    reservation = reserved(exchange.meter, WORST.times(2))
    posted = exchange.meter.preview(reservation, ZERO)
    exchange.meter.post_several(reservation, written(posted, [units(1, 0)] * 2))
    again(reservation)
    with pytest.raises(ConflictError):
        exchange.meter.post(reservation, units(1, 0))
    exchange.meter.void(reservation, failed=True)
    assert exchange.meter._holdings[reservation.lease_id].err == 0
    for end in (
        lambda one: exchange.meter.void(one, failed=False),
        lambda one: exchange.meter.post(one, units(1, 1)),
        lambda one: exchange.meter.wipe(),
    ):
        reservation = reserved(exchange.meter, WORST.times(2))
        end(reservation)
        again(reservation)
