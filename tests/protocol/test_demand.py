"""What a consumer asks of the meter: about one ttl of traffic, and denials that are remembered for a while."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.protocol.demand import Demand
from aigovtool.protocol.messages import DenyCode


def test_before_any_rate_is_known_a_few_units_are_asked_for() -> None:
    """The first target is small, and never less than what waits or what one request needs."""
    assert Demand(since_ms=0).target(0, 30_000) == 8
    assert Demand(since_ms=0, waiting=20).target(0, 30_000) == 20
    assert Demand(since_ms=0, minimum=64).target(0, 30_000) == 64


def test_the_target_is_a_ttl_of_traffic_and_a_fifth() -> None:
    """Ten units a second for ten seconds: 300 units for a ttl of 30 s, and 20 % more."""
    demand = Demand(since_ms=0)
    demand.take(5_000, 100)
    demand.granted(10_000)
    assert demand.rate_per_s == pytest.approx(10.0)
    assert demand.target(10_000, 30_000) == 360
    assert (demand.taken, demand.since_ms) == (0, 10_000)


def test_a_burst_of_a_moment_is_no_rate() -> None:
    """One request in the first millisecond does not ask for a ttl of a thousand a second."""
    demand = Demand(since_ms=0)
    demand.take(1, 1)
    assert demand.target(1, 30_000) == 8


def test_traffic_that_grows_is_noticed_before_the_next_grant() -> None:
    """The rate since the last grant counts as soon as a second has passed."""
    demand = Demand(since_ms=0)
    demand.take(1_000, 100)
    assert demand.target(1_000, 30_000) == 3_600


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 1_000), st.integers(0, 1_000))
def test_a_target_covers_what_is_needed(taken: int, now_ms: int, minimum: int, waiting: int) -> None:
    """Whatever the rate, the target is at least the minimum and everybody who waits."""
    demand = Demand(since_ms=0, minimum=minimum, waiting=waiting)
    demand.take(now_ms, taken)
    assert demand.target(now_ms, 30_000) >= max(minimum, waiting, 1)


@pytest.mark.parametrize(("told_ms", "waited_ms"), [(0, 1_000), (999, 1_000), (5_000, 5_000)])
def test_a_denial_holds_for_a_second_at_least(told_ms: int, waited_ms: int) -> None:
    """A custodian that says "at once" does not start a storm."""
    demand = Demand(since_ms=0, minimum=9)
    demand.refused(100, DenyCode.CAPPED, told_ms, 3)
    assert demand.retry_at_ms == 100 + waited_ms
    assert (demand.denied, demand.available, demand.minimum) == (DenyCode.CAPPED, 3, 0)


def test_a_grant_takes_denial_and_ask_back() -> None:
    """After a grant the next exhaustion is a new one, about which may be asked again."""
    demand = Demand(since_ms=0, minimum=9, asked=True, asking=True)
    demand.refused(100, DenyCode.EXHAUSTED, 0, 0)
    assert (demand.asked, demand.asking) == (True, False)
    demand.asking = True
    demand.granted(200)
    assert (demand.denied, demand.asked, demand.asking, demand.minimum) == (None, False, False, 0)


@pytest.mark.parametrize(
    ("waiting", "minimum", "pressing"), [(1, 4, True), (1, 0, False), (0, 4, False), (0, 0, False)]
)
def test_a_need_counts_while_somebody_waits_and_has_said_it(waiting: int, minimum: int, *, pressing: bool) -> None:
    """After an answer whoever still waits says it again: nothing is asked for on a guess."""
    assert Demand(since_ms=0, waiting=waiting, minimum=minimum).pressing == pressing
