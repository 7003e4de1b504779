"""What earlier runs reached stands beside the run that is published, under their own names."""

import msgspec
from bench.earlier import MOST, Earlier, earlier_part
from bench.report import published
from bench.targets import Target
from bench.yardstick import Yardstick, this_yardstick

YARDSTICK = Yardstick(additions_s=0.5, aes_gcm_per_s=3e9, sha256_per_s=1e9)


def target(name: str, measured: float | None) -> Target:
    """Return a target."""
    return Target(name=name, target=2, stretch=1, at_most=True, measured=measured, met=False)


def test_each_figure_stands_under_the_run_that_it_is_of() -> None:
    """A target that a run did not measure, or did not have, is empty there."""
    last = Earlier.of("c2", "2026-02-02", [target("a", 4.0), target("b", None)], YARDSTICK)
    first = Earlier.of("c1", "2026-01-01", [target("b", 5.0)], None)
    lines = earlier_part([target("a", 3.0), target("b", 1.0)], [last, first]).splitlines()
    assert "| what | target | this run | c2, 2026-02-02 | c1, 2026-01-01 |" in lines
    assert "| a | at most 2 | 3 | 4 |  |" in lines
    assert "| b | at most 2 | 1 |  | 5 |" in lines


def test_how_fast_a_machine_was_is_said_where_it_is_known() -> None:
    """Times of two machines say nothing to each other without it."""
    known, unknown = (Earlier.of(name, "2026-01-01", [], found) for name, found in (("c2", YARDSTICK), ("c1", None)))
    page = earlier_part([], [known, unknown])
    assert "Of c2: one core takes 0.50 s for ten million additions in Python, encrypts 3.0 GB a second" in page
    assert "Of c1" not in page


def test_a_run_that_is_published_leaves_what_the_last_one_reached() -> None:
    """The newest first, and not for ever."""
    before = published()
    many = [msgspec.structs.replace(before, commit=f"c{number}") for number in range(MOST + 2)]
    made = before
    for one in many:
        made = one.after(made)
    assert [one.commit for one in made.earlier] == [f"c{number}" for number in range(MOST, 0, -1)]
    reached = {one.name: one.measured for one in before.targets if one.measured is not None}
    assert made.earlier[0].measured == reached


def test_a_machine_is_measured() -> None:
    """All three are there: none is nothing."""
    found = this_yardstick()
    assert min(found.additions_s, found.aes_gcm_per_s, found.sha256_per_s) > 0
