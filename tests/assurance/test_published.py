"""What is published of a campaign, and that counting goes on from there."""

from dataclasses import replace
from pathlib import Path

import pytest
from assurance.catalogue import CAMPAIGNS
from assurance.code_digest import code_digest
from assurance.figures import Figures, Span, of_seed
from assurance.machine import this_machine
from assurance.published import Published, tallied
from assurance.runner import play
from assurance.state import Record, State, keep, load_state
from tests.assurance.counting import CAMPAIGN, record

from assurance import published, report


@pytest.mark.parametrize(
    ("figures", "status"),
    [
        (play(CAMPAIGN, [0, 1], float("inf")), "so far"),
        (play(CAMPAIGN, [0, 1, 2], float("inf")), "met"),
        (play(CAMPAIGN, [7, 8, 9], float("inf")), "BROKEN"),
        (play(CAMPAIGN, [0, 1, 2], float("inf")).plus(of_seed(9, violation="x")), "BROKEN"),
    ],
)
def test_a_status_is_what_was_counted(figures: Figures, status: str) -> None:
    """Too few is "so far"; a violation or a bound that is not kept is broken, however much was counted."""
    assert CAMPAIGN.status(figures) == status


def test_the_page_is_made_of_the_json_alone() -> None:
    """Nobody has edited the published page: it is, byte for byte, what the published figures give."""
    assert report.page(published.read()) + "\n" == report.PAGE_PATH.read_text(encoding="utf-8")


def test_the_page_says_of_which_figures_the_code_has_changed() -> None:
    """A figure of other code than there is now is neither met nor so far, also where nothing was counted since.

    Which libraries others need can depend on the version of Python, so lines that were counted with another one are
    left to whoever has that.
    """
    here = this_machine().python.rpartition(".")[0]
    digests = {campaign.name: code_digest(campaign.covers) for campaign in CAMPAIGNS}
    wrong = {
        line.name: line.status
        for line in published.read().lines
        if line.machine is not None
        and line.machine.python.rpartition(".")[0] == here
        and (line.status == report.EARLIER) != (line.digest != digests[line.name])
    }
    assert wrong == {}, "python -m assurance --restate"


def test_the_page_shows_what_is_broken() -> None:
    """A violation is printed with its seed, next to the figure."""
    state = State().plus(
        Record(
            campaign="counting",
            digest=code_digest(CAMPAIGN.covers),
            commit="c",
            machine=this_machine(),
            figures=of_seed(4, counts={"tries": 9}, violation="overspend: 1 too much"),
        )
    )
    page = report.page(report.publish((CAMPAIGN,), state, Published()))
    assert "**BROKEN**" in page
    assert "**Broken**: seed 4: overspend: 1 too much" in page
    other = report.page(report.publish((replace(CAMPAIGN, name="other"),), state, Published()))
    assert "none for this code" in other


def test_what_was_counted_of_earlier_code_is_shown_as_such() -> None:
    """It stays on the page, with its commit, and is neither met nor so far; what is counted anew takes its place."""
    old = report.publish((CAMPAIGN,), State().plus(record(of_seed(4, counts={"tries": 9}), "older")), Published())
    assert old.lines[0].status == "not run"
    counted = State().plus(record(of_seed(4, counts={"tries": 9}), code_digest(CAMPAIGN.covers)))
    met = report.publish((CAMPAIGN,), counted, Published())
    changed = replace(CAMPAIGN, covers=("assurance/figures.py", "assurance/state.py"))
    (line,) = report.publish((changed,), counted, met).lines
    assert (line.status, line.figure, line.digest) == ("earlier code", "9 tries", met.lines[0].digest)
    (again,) = report.publish((changed,), State().plus(record(of_seed(5), code_digest(changed.covers))), met).lines
    assert (again.status, again.figure) == ("so far", "0 tries")


def test_counting_goes_on_from_what_is_published(tmp_path: Path) -> None:
    """A clone that counted nothing itself adds to the published figures of the same code, and plays no seed of them."""
    digest = code_digest(CAMPAIGN.covers)
    first = play(CAMPAIGN, [0, 1], float("inf"))
    path = tmp_path / "assurance.json"
    published.write(report.publish((CAMPAIGN,), State().plus(record(first, digest)), Published()), path)
    one, other = tmp_path / "one", tmp_path / "other"
    assert load_state(one, path).figures("counting", digest).spans == first.spans
    keep(record(play(CAMPAIGN, [2], float("inf")), digest), one, path)
    figures = load_state(one, path).figures("counting", digest)
    assert (figures.spans, figures.count("tries")) == ([Span(start=0, stop=3)], 6)
    assert figures.sample("wait_s") == [0.0, 0.1, 0.2]
    # What lies here of other code, or fewer seeds of the same, does not hide what is published.
    keep(record(of_seed(9, counts={"tries": 1}), "older"), other, path)
    assert load_state(other, path).figures("counting", digest) == load_state(tmp_path / "no", path).figures(
        "counting", digest
    )
    assert load_state(other, path).figures("counting", "older").seeds() == 1


def test_a_published_sample_keeps_its_extremes() -> None:
    """What lies between is told to two digits, as often as it was seen; a bound is held by what was measured."""
    waits = [0.123456, 1.23456, 1.2341, 60.9996]
    told = tallied(of_seed(0, samples={"wait_s": waits}, violation="one", why="of many lines"))
    assert told.samples == {"wait_s": [(0.123456, 1), (1.2, 2), (60.9996, 1)]}
    assert told.figures().sample("wait_s") == [0.123456, 1.2, 1.2, 60.9996]
    assert [(one.what, one.why) for one in told.violations] == [("one", "")]
