"""Elapsed time by the fastest of several clocks in each interval: slowing some down gains a host nothing."""

import time
from collections.abc import Callable

import pytest

from aigovtool.enclave.clock import ElapsedClock

START_NS = 5_000_000_000
CLOCKS = (time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC_RAW, time.CLOCK_MONOTONIC)
MS = 1_000_000
Set = Callable[..., None]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Set:
    """A host that shows whatever it likes on each clock: `host(0, 250)` sets one, in ms since the start."""
    shown = dict.fromkeys(CLOCKS, START_NS)
    monkeypatch.setattr(time, "clock_gettime_ns", lambda number: shown[number])

    def set_(index: int, elapsed_ms: float) -> None:
        shown[CLOCKS[index]] = START_NS + int(elapsed_ms * MS)

    return set_


def every(host: Set, elapsed_ms: float) -> None:
    for index in range(len(CLOCKS)):
        host(index, elapsed_ms)


def test_several_independent_clocks_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that counts sleep, and one that no time daemon can slew."""
    seen: list[int] = []

    def read(number: int) -> int:
        seen.append(number)
        return START_NS

    monkeypatch.setattr(time, "clock_gettime_ns", read)
    ElapsedClock().now_ms()
    assert {time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC_RAW} <= set(seen)
    assert time.CLOCK_REALTIME not in seen


def test_time_starts_at_zero_and_passes(host: Set) -> None:
    """Milliseconds since the clock was made, rounded down."""
    made = ElapsedClock()
    assert made.now_ms() == 0
    every(host, 1234.9)
    assert made.now_ms() == 1234
    assert not made.tampered


@pytest.mark.parametrize("true", range(3))
def test_one_true_clock_is_enough(true: int, host: Set) -> None:
    """A host that stops all clocks but one stretches nothing."""
    made = ElapsedClock()
    host(true, 30_000)
    assert made.now_ms() == 30_000
    assert not made.tampered


@pytest.mark.parametrize("slowed", range(3))
def test_a_slow_clock_stretches_nothing(slowed: int, host: Set) -> None:
    """At half speed, beside two true ones, for a while."""
    made = ElapsedClock()
    for elapsed in range(0, 10_000, 1000):
        every(host, elapsed)
        host(slowed, elapsed / 2)
        assert made.now_ms() == elapsed


def test_slowing_the_clocks_in_turn_stretches_nothing(host: Set) -> None:
    """One is true in each interval, and never the same: their elapsed times show a third, their steps show all."""
    made = ElapsedClock()
    shown = [0, 0, 0]
    for number in range(1, 31):
        shown[number % 3] += 1000
        for index in range(3):
            host(index, shown[index])
        assert made.now_ms() == 1000 * number
    assert max(shown) == 10_000
    assert not made.tampered


def test_clocks_that_cannot_be_read_at_once_are_no_time(host: Set) -> None:
    """A hundred thousand readings in a second, each a little apart on each clock, do not add up to milliseconds."""
    made = ElapsedClock()
    for number in range(1, 100_001):
        for index in range(3):
            host(index, number / 100 + (0.00005 if number % 3 == index else 0))
        made.now_ms()
    assert 1000 <= made.now_ms() <= 1001
    assert not made.tampered


def test_the_time_told_does_not_go_back_within_an_interval(host: Set) -> None:
    """Half a millisecond that was told stays told when the clock that showed it goes back."""
    made = ElapsedClock()
    every(host, 9.6)
    assert made.now_ms() == 9
    every(host, 10.1)
    assert made.now_ms() == 10
    every(host, 9.7)
    assert made.now_ms() == 10
    assert made.tampered


@pytest.mark.parametrize("index", range(3))
def test_a_clock_that_runs_backwards_is_tampering(index: int, host: Set) -> None:
    """Also when another clock hides it, also by one nanosecond, and for good."""
    made = ElapsedClock()
    every(host, 1000)
    assert made.now_ms() == 1000
    every(host, 2000)
    host(index, 1000 - 0.000001)
    assert made.now_ms() == 2000
    assert made.tampered
    every(host, 3000)
    assert made.now_ms() >= 3000
    assert made.tampered


def test_the_time_told_never_goes_back(host: Set) -> None:
    """Even when every clock does."""
    made = ElapsedClock()
    every(host, 5000)
    assert made.now_ms() == 5000
    every(host, 10)
    assert made.now_ms() == 5000
    assert made.tampered


def test_clocks_with_different_origins_are_compared_by_what_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boot time, raw and slewed monotonic time start elsewhere; only differences count."""
    shown = {number: START_NS * (position + 1) for position, number in enumerate(CLOCKS)}
    monkeypatch.setattr(time, "clock_gettime_ns", lambda number: shown[number])
    made = ElapsedClock()
    for number in shown:
        shown[number] += 700 * MS
    assert made.now_ms() == 700


def test_the_real_clocks_of_this_machine_do_not_look_tampered() -> None:
    """A false alarm would wipe an honest enclave."""
    made = ElapsedClock()
    readings = [made.now_ms() for _ in range(10_000)]
    assert readings == sorted(readings)
    assert not made.tampered
