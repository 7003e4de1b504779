"""An enclave at its limit for long is measured as one that is asked for a moment, and looked at meanwhile."""

from bench.hold import Hold, hold
from bench.loading_page import hold_part
from tests.bench.test_targets import measured


def test_a_moment_at_the_limit() -> None:
    """Answers are counted, and both processes were seen; the page says so."""
    found = hold(0.02)
    assert found.point.answers > 10
    assert [len(held) > 3 for held in found.held_bytes] == [True, True]
    assert min(map(min, found.held_bytes)) > 10 << 20
    assert 0.5 < found.growth() < 2
    page = hold_part(found)
    assert f"{found.point.answers:,} answers" in page
    assert "| gateway |" in page
    assert "| engine |" in page


def test_what_fills_in_the_first_third_is_no_growth() -> None:
    """And neither is what is given back; what comes on top in the last third is, of either process."""
    point = hold_of((1, 5, 9, 10, 10, 10, 10, 10, 10), (4,) * 9)
    assert point.growth() == 1
    assert hold_of((4,) * 9, (9, 9, 9, 10, 10, 10, 5, 5, 5)).growth() == 1
    assert hold_of((4,) * 9, (4, 4, 4, 10, 10, 10, 10, 10, 15)).growth() == 1.5


def hold_of(gateway: tuple[int, ...], engine: tuple[int, ...]) -> Hold:
    """Return what was seen of two processes."""
    return Hold(minutes=30, point=measured("aigovtool", "mlp", 32, per_s=1), held_bytes=(gateway, engine))
