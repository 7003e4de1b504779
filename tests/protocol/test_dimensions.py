"""Several dimensions and streams: what is known afterwards is reserved at its most, and charged as it was."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.test_metering import (
    ANNA,
    CUSTODIAN,
    INSTANCE,
    MODEL,
    TTL_MS,
    Exchange,
    answer,
    deny,
    grant,
    receipt,
    stop_state,
)

from aigovtool.errors import BudgetExhaustedError, ConflictError, LeaseExpiredError, StoppedError
from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.ledger.receipt import chain
from aigovtool.ledger.units import ZERO, Dimension, UnitVector
from aigovtool.protocol.messages import Answer, Deny, DenyCode, Grant, PathRoom, Renew
from aigovtool.protocol.metering import Meter
from aigovtool.protocol.reservation import Reservation

COMPUTE = Dimension.COMPUTE_MS
POLICY = msgspec.structs.replace(default_policy(Dial.BALANCED, compute_ms=50), wipe_after_ms=90_000)


def units(inferences: int, compute_ms: int) -> UnitVector:
    return UnitVector(inferences=inferences, compute_ms=compute_ms)


WORST = units(1, 50)


def lease(number: int, held: UnitVector) -> Grant:
    return msgspec.structs.replace(grant(number, 1), units=held)


def denied(code: DenyCode, short: Dimension, available: UnitVector = ZERO) -> Deny:
    return msgspec.structs.replace(deny(code), available=available, short=short)


def answered(renew: Renew, *results: Grant | Deny) -> Answer:
    return answer(renew, *results, policy=POLICY)


def leased(*held: UnitVector) -> Exchange:
    """An instance that meters compute beside inferences, with these leases for Anna, drawn at time 0."""
    meter = Meter(
        instance=INSTANCE, custodian=CUSTODIAN, policies={MODEL: POLICY}, stop_state=stop_state(1), admitted_ms=0
    )
    exchange = Exchange(meter)
    renew = exchange.renew(0)
    meter.accept(0, answered(renew, *(lease(number, each) for number, each in enumerate(held, 1))))
    return exchange


def reserve(exchange: Exchange, now_ms: int, wanted: UnitVector = WORST) -> Reservation | None:
    return exchange.meter.reserve(now_ms, MODEL, ANNA, wanted)


def reserved(exchange: Exchange, now_ms: int, wanted: UnitVector = WORST) -> Reservation:
    reservation = reserve(exchange, now_ms, wanted)
    assert reservation is not None
    return reservation


# --- Two dimensions ----------------------------------------------------------------------------


def test_the_worst_case_is_reserved_and_what_it_came_to_is_charged() -> None:
    """Fifty milliseconds are held while it runs; of these eight are charged, and the rest serves others at once."""
    exchange = leased(units(4, 100))
    one, two = reserved(exchange, 1), reserved(exchange, 1)
    assert reserve(exchange, 1) is None
    posted = exchange.meter.post(one, units(1, 8))
    assert posted.remaining == units(100 + 2, 42)
    assert reserve(exchange, 1) is None
    exchange.meter.post(two, units(1, 50))
    assert reserve(exchange, 2) is None  # forty-two milliseconds are not the most of a request
    exchange = leased(units(4, 100))
    exchange.meter.post(reserved(exchange, 1), units(1, 50))
    exchange.meter.post(reserved(exchange, 1), units(1, 0))
    reserved(exchange, 2)


def test_the_report_tells_all_dimensions() -> None:
    """Its units are those that were charged, one dimension as well as the other."""
    exchange = leased(units(4, 200))
    exchange.meter.post(reserved(exchange, 1), units(1, 8))
    exchange.meter.post(reserved(exchange, 1), units(1, 30))
    (report,) = exchange.round_trip(TTL_MS // 3).reports
    assert report.used == units(2, 38)


@pytest.mark.parametrize("actual", [units(2, 0), units(1, 51), UnitVector(inferences=1, input_tokens=1)], ids=str)
def test_more_than_was_reserved_of_any_dimension_cannot_be_posted(actual: UnitVector) -> None:
    """Plenty of one dimension does not pay for another; the request can still end rightly."""
    exchange = leased(units(4, 200))
    reservation = reserved(exchange, 1)
    with pytest.raises(ConflictError) as caught:
        exchange.meter.post(reservation, actual)
    assert caught.value.reason == "overspend"
    exchange.meter.post(reservation, WORST)


def test_a_lease_that_is_too_small_for_another_request_is_given_back() -> None:
    """Three inferences without the compute of one serve nobody: the next renewal closes the lease."""
    exchange = leased(units(4, 90))
    exchange.meter.post(reserved(exchange, 1), units(1, 41))
    (report,) = exchange.renew(2).reports
    assert (report.used, report.final) == (units(1, 41), True)


def test_a_lease_that_is_enough_for_another_request_is_kept() -> None:
    """To the last millisecond."""
    exchange = leased(units(4, 91))
    exchange.meter.post(reserved(exchange, 1), units(1, 41))
    (report,) = exchange.renew(2).reports
    assert not report.final
    exchange.meter.accept(2, answered(exchange.renew(2)))
    reserved(exchange, 3)


def test_what_is_left_is_told_by_dimension() -> None:
    """What leases hold and what the path has left; where no budget limits a dimension the path adds nothing."""
    exchange = leased(units(4, 200))
    rooms = [
        PathRoom(model=MODEL, consumer=ANNA, dimension=Dimension.INFERENCES, units=70),
        PathRoom(model=MODEL, consumer=ANNA, dimension=COMPUTE, units=900),
    ]
    exchange.meter.accept(1, msgspec.structs.replace(answered(exchange.renew(1)), rooms=rooms))
    assert exchange.meter.remaining(MODEL, ANNA) == units(74, 1_100)
    exchange.meter.accept(2, msgspec.structs.replace(answered(exchange.renew(2)), rooms=rooms[1:]))
    assert exchange.meter.remaining(MODEL, ANNA) == units(4, 1_100)


def test_a_preview_in_two_dimensions_is_what_the_posting_comes_to() -> None:
    """The balance in the receipt counts what the request did not use as left."""
    exchange = leased(units(4, 200))
    reservation = reserved(exchange, 1)
    preview = exchange.meter.preview(reservation, units(1, 8))
    assert preview.remaining == units(100 + 3, 192)
    assert exchange.meter.post(reservation, units(1, 8)) == preview


def test_the_next_lease_is_drawn_ahead_when_one_dimension_runs_low() -> None:
    """Inferences are there in plenty; half of the compute is gone."""
    exchange = leased(units(100, 1_000))
    for _ in range(9):
        exchange.meter.post(reserved(exchange, 1), units(1, 50))
    assert not exchange.meter.renew_due(2)
    exchange.meter.post(reserved(exchange, 1), units(1, 50))
    assert exchange.meter.renew_due(2)
    (want,) = exchange.renew(2).wants
    assert want.minimum == WORST
    assert want.target.covers(WORST)


def test_what_was_spared_is_no_traffic() -> None:
    """The target is a ttl of what was used: not of what was reserved for a moment."""
    exchange = leased(units(1_000, 100_000))
    for at in range(100):
        exchange.meter.post(reserved(exchange, at * 100), units(1, 2))
    demand = exchange.meter._wishes._demand[MODEL, ANNA]
    assert demand.taken == units(100, 200)
    # 20 ms of compute a second, for 30 s, and a fifth more.
    assert demand.target(10_000, TTL_MS) == units(360, 720)


def test_work_that_failed_is_no_traffic() -> None:
    """What was given back need not be drawn again: a consumer whose requests all fail draws no larger leases."""
    exchange = leased(units(1_000, 100_000))
    for at in range(100):
        exchange.meter.void(reserved(exchange, at * 100), failed=True)
    demand = exchange.meter._wishes._demand[MODEL, ANNA]
    assert demand.taken == ZERO


def test_exhaustion_names_its_dimension_and_asks_for_it() -> None:
    """Refused without a word to the custodian each time; asked about once, in the dimension that is gone."""
    exchange = leased()
    assert reserve(exchange, 1) is None
    asks = []
    for now_ms in (1, 2, 12_000):
        renew = exchange.renew(now_ms)
        exchange.meter.accept(now_ms, answered(renew, denied(DenyCode.EXHAUSTED, COMPUTE, units(9, 0))))
        asks.append([want.ask for want in renew.wants])
        with pytest.raises(BudgetExhaustedError) as caught:
            reserve(exchange, now_ms + 1)
        assert "compute_ms" in caught.value.message
    assert asks == [[False], [True], [False]]


def test_exhaustion_of_another_dimension_is_asked_about_as_well() -> None:
    """Operators raise what they were asked for, and then compute is gone: they hear of that, too, and once of each."""
    exchange = leased()
    asks = []

    def renewed(now_ms: int, short: Dimension, available: UnitVector) -> None:
        with suppress(BudgetExhaustedError):
            reserve(exchange, now_ms)
        renew = exchange.renew(now_ms)
        exchange.meter.accept(now_ms, answered(renew, denied(DenyCode.EXHAUSTED, short, available)))
        asks.append([want.ask for want in renew.wants])

    for now_ms in (1, 2, 5_000):
        renewed(now_ms, Dimension.INFERENCES, units(0, 900))
    exchange.meter.nudge(5_000, granted=True, recall=False)
    renewed(5_001, COMPUTE, units(9, 0))
    with pytest.raises(BudgetExhaustedError):
        reserve(exchange, 5_002)
    assert exchange.meter.renew_due(5_002)
    for now_ms in (5_002, 12_000):
        renewed(now_ms, COMPUTE, units(9, 0))
    renewed(14_000, Dimension.INFERENCES, units(0, 900))
    assert asks == [[False], [True], [False], [False], [True], [False], [False]]
    with pytest.raises(BudgetExhaustedError):
        reserve(exchange, 14_001)
    assert not exchange.meter.renew_due(14_002)


@pytest.mark.parametrize(("running", "reason"), [(1, "insufficient"), (2, None)])
def test_a_unit_of_another_dimension_at_hand_does_not_make_exhaustion_insufficient(
    running: int, reason: str | None
) -> None:
    """Where compute is left in a lease, a smaller request would do; where only inferences are, none would."""
    exchange = leased(units(5, 100))
    for _ in range(running):
        reserved(exchange, 1)
    assert reserve(exchange, 1, units(1, 70)) is None
    exchange.meter.accept(1, answered(exchange.renew(1), denied(DenyCode.EXHAUSTED, COMPUTE)))
    with pytest.raises(BudgetExhaustedError) as caught:
        reserve(exchange, 2, units(1, 70))
    assert caught.value.reason == reason


# --- Streams -----------------------------------------------------------------------------------


def test_a_stream_is_charged_by_what_has_left() -> None:
    """Chunk after chunk, before each leaves; the last act is a posting with the receipt of all of it."""
    exchange = leased(units(2, 200))
    rest = reserved(exchange, 1, units(1, 100))
    for at, part in enumerate([units(1, 10), units(0, 20), units(0, 5)], 2):
        rest = exchange.meter.advance(at, rest, part)
    assert (rest.units, rest.posted) == (units(0, 65), units(1, 35))
    (report,) = exchange.round_trip(TTL_MS // 3).reports
    assert (report.used, report.ok, report.final) == (units(1, 35), 0, False)
    preview = exchange.meter.preview(rest, units(0, 7))
    last = receipt(preview)
    assert exchange.meter.post(rest, units(0, 7), last) == preview
    assert preview.remaining == units(100 + 1, 158)
    (report,) = exchange.round_trip(TTL_MS // 2).reports
    assert (report.used, report.ok, report.receipts) == (units(1, 42), 1, chain("", last))


def test_a_stream_is_never_charged_more_than_was_reserved() -> None:
    """A chunk beyond the reservation does not leave, charges nothing, and the stream can still end."""
    exchange = leased(units(2, 200))
    rest = exchange.meter.advance(1, reserved(exchange, 1, units(1, 100)), units(1, 90))
    for beyond in (units(0, 11), units(1, 0)):
        with pytest.raises(ConflictError) as caught:
            exchange.meter.advance(2, rest, beyond)
        assert caught.value.reason == "overspend"
    assert exchange.meter.post(rest, units(0, 10)).remaining == units(100 + 1, 100)


def test_what_has_advanced_is_not_the_reservation_that_it_was() -> None:
    """A chunk cannot be taken back, posted twice or released again with the reservation from before it."""
    exchange = leased(units(2, 200))
    before = reserved(exchange, 1, units(1, 100))
    rest = exchange.meter.advance(1, before, units(1, 40))
    for act in (
        lambda: exchange.meter.advance(2, before, ZERO),
        lambda: exchange.meter.post(before, ZERO),
        lambda: exchange.meter.preview(before, ZERO),
    ):
        with pytest.raises(ConflictError) as caught:
            act()
        assert caught.value.reason == "reservation_ended"
    exchange.meter.void(before, failed=True)
    assert exchange.meter.post(rest, units(0, 60)).remaining == units(100 + 1, 100)


def test_the_gate_stands_before_each_chunk() -> None:
    """A stream that a stop cuts keeps what has left charged, releases nothing more, and gives the rest back."""
    exchange = leased(units(2, 200))
    rest = exchange.meter.advance(1, reserved(exchange, 1, units(1, 100)), units(1, 40))
    exchange.meter.apply_stop_state(stop_state(2, (StopTarget.CONSUMER, ANNA)))
    with pytest.raises(StoppedError):
        exchange.meter.advance(2, rest, units(0, 1))
    exchange.meter.void(rest, failed=False)
    assert exchange.meter.remaining(MODEL, ANNA) == units(100 + 1, 160)
    (report,) = exchange.round_trip(3).reports
    assert (report.used, report.ok, report.err) == (units(1, 40), 0, 0)


def test_a_stream_ends_with_the_authority() -> None:
    """A chunk that is ready one ttl later does not leave."""
    exchange = leased(units(2, 200))
    rest = exchange.meter.advance(TTL_MS - 1, reserved(exchange, 1, units(1, 100)), units(1, 40))
    with pytest.raises(LeaseExpiredError):
        exchange.meter.advance(TTL_MS, rest, units(0, 1))


def test_after_a_wipe_no_stream_goes_on() -> None:
    """What had left is in the final report; nothing is added to it, whoever still holds a reservation."""
    exchange = leased(units(2, 200))
    rest = exchange.meter.advance(1, reserved(exchange, 1, units(1, 100)), units(1, 40))
    (statement,) = exchange.meter.wipe()
    assert [(report.used, report.final) for report in statement.reports] == [(units(1, 40), True)]
    with pytest.raises(LeaseExpiredError):
        exchange.meter.advance(2, rest, units(0, 1))
    with pytest.raises(ConflictError):
        exchange.meter._running.advance(rest, units(0, 1))
    with pytest.raises(ConflictError):
        exchange.meter.post(rest, units(0, 1))
    exchange.meter.void(rest, failed=True)
    assert exchange.meter.wipe() == [statement]


PARTS = st.builds(units, st.integers(0, 2), st.integers(0, 40))


@given(st.lists(st.tuples(st.sampled_from(["start", "advance", "advance", "post", "void"]), PARTS), max_size=30))
def test_streams_add_up_whatever_happens(acts: list[tuple[str, UnitVector]]) -> None:
    """Used is what has left, reserved is what may still leave, and together they stay within the lease."""
    exchange = leased(units(6, 150))
    running: list[Reservation] = []
    used = ZERO
    holding = exchange.meter._holdings[grant(1, 1).lease_id]
    for act, part in acts:
        if act == "start":
            if not part.is_zero() and (started := reserve(exchange, 1, part)) is not None:
                running.append(started)
        elif running:
            oldest = running.pop(0)
            if act == "void":
                exchange.meter.void(oldest, failed=False)
            else:
                taken = part.lowest(oldest.units)
                used = used.plus(taken)
                if act == "advance":
                    running.append(exchange.meter.advance(1, oldest, taken))
                else:
                    exchange.meter.post(oldest, taken)
        left = ZERO
        for each in running:
            left = left.plus(each.units)
        assert (holding.used, holding.reserved, holding.in_flight) == (used, left, len(running))
        assert holding.units.covers(used.plus(left))
