"""New sessions are real ones, and where a quote takes long, one answers all who wait."""

import pytest
from bench.sessions import AT_ONCE, CONSUMERS, Sessions, measure
from bench.sessions_page import sessions_part
from bench.targets import TARGETS, Found, reached


def test_sessions_are_opened() -> None:
    """Each costs both sides processor time, and all who may ask at once do."""
    found = measure(0.0, 1.0)
    assert found.at_once == AT_ONCE * CONSUMERS
    assert found.per_minute > 60
    assert found.enclave_cpu_ms > 0.1
    assert found.consumer_cpu_ms > 0.1
    assert 0 < found.p50_s <= found.p99_s


def test_a_slow_quote_is_waited_for_and_shared() -> None:
    """No session is opened faster than a quote is made, and more of them than quotes that fit into the time."""
    found = measure(0.5, 2.0)
    assert found.p50_s > 0.5
    assert found.per_minute > 60 / 0.5 * 2


@pytest.mark.parametrize(("slow", "met"), [(1_001.0, True), (999.0, False)])
def test_the_slower_counts(slow: float, *, met: bool) -> None:
    """A target is met where it is met with slow quotes as well; what was not measured is not met."""
    sessions = [made(0.0, 8_000.0), made(1.0, slow)]
    [target] = [one for one in reached(Found(sessions=sessions)) if one.name.startswith("new sessions")]
    assert (target.measured, target.met) == (slow, met)
    [target] = [one for one in reached(Found()) if one.name.startswith("new sessions")]
    assert (target.measured, target.met) == (None, False)
    assert len(TARGETS) == len(reached(Found()))


def test_the_page_says_what_was_measured() -> None:
    """A line for each kind of quote."""
    page = sessions_part([made(0.0, 8_000.0), made(1.0, 1_600.4)])
    assert "64 sessions are opened" in page
    assert "| 0 | 8,000 | 2.5 | 7.0 | 0.40 | 0.90 |" in page
    assert "| 1 | 1,600 | 2.5 | 7.0 | 0.40 | 0.90 |" in page


def made(quote_s: float, per_minute: float) -> Sessions:
    """Return a measurement."""
    return Sessions(
        quote_s=quote_s,
        at_once=64,
        per_minute=per_minute,
        enclave_cpu_ms=2.5,
        consumer_cpu_ms=7.0,
        p50_s=0.4,
        p99_s=0.9,
    )
