"""What a consumer asks of the meter: about one ttl of traffic, and denials that are remembered for a while."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.ids import ConsumerId, ModelId
from aigovtool.ledger.units import ZERO, Dimension, UnitVector, of
from aigovtool.protocol.demand import Demand
from aigovtool.protocol.messages import Deny, DenyCode


def inferences(units: int) -> UnitVector:
    return of(Dimension.INFERENCES, units)


def demand_of(*, minimum: int = 0, **changes: Any) -> Demand:
    return Demand(since_ms=0, least=inferences(1), minimum=inferences(minimum), **changes)


def deny(code: DenyCode, retry_after_ms: int, available: int) -> Deny:
    return Deny(
        model=ModelId("digits"),
        consumer=ConsumerId("anna"),
        code=code,
        available=inferences(available),
        short=Dimension.INFERENCES,
        retry_after_ms=retry_after_ms,
    )


def test_before_any_rate_is_known_a_few_units_are_asked_for() -> None:
    """The first target is small, and never less than what waits or what one request needs."""
    assert demand_of().target(0, 30_000) == inferences(8)
    assert demand_of(waiting=20).target(0, 30_000) == inferences(20)
    assert demand_of(minimum=64).target(0, 30_000) == inferences(64)


def test_the_target_is_a_ttl_of_traffic_and_a_fifth() -> None:
    """Ten units a second for ten seconds: 300 units for a ttl of 30 s, and 20 % more."""
    demand = demand_of()
    demand.take(5_000, inferences(100))
    demand.granted(10_000)
    assert demand.rate_per_s == {Dimension.INFERENCES: pytest.approx(10.0)}
    assert demand.target(10_000, 30_000) == inferences(360)
    assert (demand.taken, demand.since_ms) == (ZERO, 10_000)


def test_a_burst_of_a_moment_is_no_rate() -> None:
    """One request in the first millisecond does not ask for a ttl of a thousand a second."""
    demand = demand_of()
    demand.take(1, inferences(1))
    assert demand.target(1, 30_000) == inferences(8)


def test_traffic_that_grows_is_noticed_before_the_next_grant() -> None:
    """The rate since the last grant counts as soon as a second has passed."""
    demand = demand_of()
    demand.take(1_000, inferences(100))
    assert demand.target(1_000, 30_000) == inferences(3_600)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 1_000), st.integers(0, 1_000))
def test_a_target_covers_what_is_needed(taken: int, now_ms: int, minimum: int, waiting: int) -> None:
    """Whatever the rate, the target is at least the minimum and everybody who waits."""
    demand = demand_of(minimum=minimum, waiting=waiting)
    demand.take(now_ms, inferences(taken))
    assert demand.target(now_ms, 30_000).inferences >= max(minimum, waiting, 1)


@pytest.mark.parametrize(("told_ms", "waited_ms"), [(0, 1_000), (999, 1_000), (5_000, 5_000)])
def test_a_denial_holds_for_a_second_at_least(told_ms: int, waited_ms: int) -> None:
    """A custodian that says "at once" does not start a storm."""
    demand = demand_of(minimum=9)
    demand.refused(100, deny(DenyCode.CAPPED, told_ms, 3))
    assert demand.retry_at_ms == 100 + waited_ms
    assert (demand.denied, demand.available, demand.minimum) == (DenyCode.CAPPED, inferences(3), ZERO)


def test_a_grant_takes_denial_and_ask_back() -> None:
    """After a grant the next exhaustion is a new one, about which may be asked again."""
    demand = demand_of(minimum=9, waiting=1)
    demand.sent(90, ask=True)
    assert (demand.asked_ms, demand.asking, demand.asked) == (90, True, frozenset())
    demand.refused(100, deny(DenyCode.EXHAUSTED, 0, 0))
    assert (demand.asked, demand.asking) == (frozenset({Dimension.INFERENCES}), False)
    demand.need(inferences(9))
    demand.sent(150, ask=False)
    demand.granted(200)
    assert (demand.denied, demand.asked, demand.asking, demand.minimum) == (None, frozenset(), False, ZERO)


def test_only_an_exhaustion_is_asked_about() -> None:
    """A custodian that has units again, held by others, has not asked anybody for more; nor has one that was not to."""
    for code, ask in ((DenyCode.RESERVED, True), (DenyCode.EXHAUSTED, False)):
        demand = demand_of(minimum=9, waiting=1)
        demand.sent(90, ask=ask)
        demand.refused(100, deny(code, 0, 0))
        assert demand.asked == frozenset()


def test_a_wish_is_for_those_who_fit_while_a_denial_stands() -> None:
    """Of those who wait and say what they need after it, and for no more than that; without a denial it is for all."""
    demand = demand_of(minimum=9, waiting=3)
    demand.sent(90, ask=False)
    demand.refused(100, deny(DenyCode.RESERVED, 0, 5))
    for units, wished, target in ((6, 6, 8), (2, 2, 3), (5, 5, 5), (7, 5, 5)):
        demand.need(inferences(units))
        assert demand.wished == inferences(wished)
        assert demand.target(100, 30_000) == inferences(target)
    demand.denied = None
    assert (demand.wished, demand.target(100, 30_000)) == (inferences(7), inferences(8))


def test_several_denials_of_one_answer_leave_the_least() -> None:
    """What none of them would have had is available; the next answer counts for itself."""
    demand = demand_of(minimum=9, waiting=3)
    for at_ms, told, available in ((1, (5, 3, 4), 3), (2, (7,), 7)):
        demand.sent(at_ms, ask=False)
        for units in told:
            demand.refused(at_ms, deny(DenyCode.CAPPED, 0, units))
        assert demand.available == inferences(available)


@pytest.mark.parametrize(
    ("waiting", "minimum", "pressing"), [(1, 4, True), (1, 0, False), (0, 4, False), (0, 0, False)]
)
def test_a_need_counts_while_somebody_waits_and_has_said_it(waiting: int, minimum: int, *, pressing: bool) -> None:
    """After an answer whoever still waits says it again: nothing is asked for on a guess."""
    assert demand_of(waiting=waiting, minimum=minimum).pressing == pressing
