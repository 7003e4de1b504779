import random
from pathlib import Path

import pytest
from assurance.campaign import Bound
from assurance.campaigns.mutants import SAFETY, WASTE
from assurance.campaigns.tampering import Copy, judge, resign, tamper_with
from assurance.figures import Figures, Span
from assurance.predecessor import measure
from assurance.tampering import TAMPERINGS, Tampering
from tests.simulation import mutants


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    folder: Path = tmp_path_factory.mktemp("log")
    return Copy(1, folder / "log.jsonl")


def test_every_tampering_with_every_entry_is_detected_and_named() -> None:
    """One whole log with all kinds of entries; what the untouched log gives are the balances of the ledger."""
    counts, wrong = tamper_with(0, steps=30)
    assert wrong == []
    assert counts["detected"] == counts["tamperings"] > 1_000


def test_a_tampering_that_changes_nothing_would_be_reported_as_missed(copy: Copy) -> None:
    """The search would notice a reader who notices nothing."""
    nothing = Tampering("left alone", lambda lines, number, chance: lines, lambda number: {number})
    problem, named = judge(copy, copy.lines, 3, nothing)
    assert problem == "entry 3 left alone: not detected"
    assert not named


def test_naming_another_entry_would_be_reported(copy: Copy) -> None:
    """It is not enough that something is refused."""
    dropped = [*copy.lines[:5], *copy.lines[6:]]
    wrong = Tampering("dropped", TAMPERINGS[3].edit, lambda number: {number + 1})
    problem, _ = judge(copy, dropped, 5, wrong)
    assert problem is not None
    assert problem.startswith("entry 5 dropped: not named, but: entry 5:")


def test_a_reader_who_compares_nothing_would_be_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older and rewritten copies are genuine in themselves: only the checkpoint that a reader holds shows them."""
    copy = Copy(1, tmp_path / "log.jsonl", 20)
    verify = copy.verify
    monkeypatch.setattr(copy, "verify", lambda lines, header=None, seen=(): verify(lines, header))
    counts, wrong = resign(copy, random.Random(1))
    shown = counts["an older copy shown"] + counts["rewritten and signed again"]
    assert len(wrong) == shown > len(copy.lines)
    assert all(what.endswith("not detected by a reader who holds a checkpoint") for what in wrong)


def test_the_predecessors_counter_loses_debits() -> None:
    """The comparison compares with something that really happens."""
    outcome = measure(8, 100)
    assert outcome.requests == 800
    assert outcome.lost() > 0


def test_a_mutant_that_nobody_catches_breaks_the_promise() -> None:
    """Not one may be missed once all histories were played; before that, nothing is said."""
    names = [mutant.name for mutant in (*mutants.SAFETY, *mutants.LIVENESS)]
    counts = {"histories of each": 200, **{f"mutant: {name}": 3 for name in names[1:]}}
    figures = Figures(spans=[Span(start=0, stop=200)], counts=counts)
    assert SAFETY.broken(figures) == [f"not caught: {names[0]}"]
    few = Figures(spans=[Span(start=0, stop=9)], counts={**counts, "histories of each": 9})
    assert SAFETY.broken(few) == []


def test_a_rule_that_saves_nothing_breaks_the_promise() -> None:
    """A waste mutant must waste measurably more than the protocol."""
    held = {f"held: {mutant.day.name}": 1_000 for mutant in mutants.WASTE}
    more = {f"mutant: {mutant.name}": 2_000 for mutant in mutants.WASTE}
    more[f"mutant: {mutants.WASTE[0].name}"] = 1_000
    figures = Figures(spans=[Span(start=0, stop=240)], counts={"histories of each": 240, **held, **more})
    assert WASTE.broken(figures) == [f"{mutants.WASTE[0].name} wastes +0.0 %"]


def test_a_bound_is_a_promise_about_the_slowest() -> None:
    """One slow answer in a hundred keeps a p99; two do not."""
    bound = Bound("wait_s", 99, 1.0)
    one, two = [0.1] * 99 + [9.0], [0.1] * 98 + [9.0, 9.0]
    assert bound.holds(Figures(spans=[], samples={"wait_s": one}))
    assert not bound.holds(Figures(spans=[], samples={"wait_s": two}))
