"""The table of attacks tells what tests saw: what was not tried, failed, was skipped or saw little is not refused."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from assurance.__main__ import complaints
from assurance.attacks.attack import Attack, Fault
from assurance.attacks.catalogue import ATTACKS, FAULTS
from assurance.attacks.recorder import MAX_FAILURE_CHARS
from assurance.attacks.verdict import Played, faults, read_record
from assurance.campaigns.attacks import Trials, play, surroundings, tried
from assurance.catalogue import campaign_named
from assurance.code_digest import ROOT
from assurance.figures import NOTHING
from assurance.machine import this_machine
from assurance.state import Record, keep, load_state
from tests import product_process
from tests.effort import LONG, effort

REPLAY = Attack(
    1, "again", "refused", "sent twice", ("evidence_not_genuine: nonce_replayed",), ("attestation_refused",)
)
SEEN = Played(
    test="tests/attacks/test_again.py::test_again",
    outcome="passed",
    properties=[("attack", "1"), ("refusal", REPLAY.refusals[0]), ("entry", REPLAY.entries[0]), ("figure", "sent: 2")],
)


def marked(mark: str) -> Iterator[int]:
    """Yield the numbers of all marks of this name in the tests."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if f".{mark}(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == mark:
                yield from (int(ast.literal_eval(one)) for one in node.args)


@pytest.mark.parametrize("attacks", [ATTACKS, FAULTS], ids=["attacks", "faults"])
def test_each_known_attack_is_described_and_tried(attacks: tuple[Attack, ...]) -> None:
    """What has no words yet has no test yet, and the other way round; a mark without an attack is a mistake, too."""
    assert [one.number for one in attacks] == list(range(1, len(attacks) + 1))
    tried = set(marked(attacks[0].mark))
    assert tried == {one.number for one in attacks if one.tried}
    assert [one.title for one in attacks if one.tried and not (one.name and one.answer)] == []


def test_there_are_as_many_as_were_found() -> None:
    """The threat model lists 44 attacks, the reading of the predecessor 48 faults."""
    assert (len(ATTACKS), len(FAULTS)) == (44, 48)
    assert all(isinstance(one, Fault) for one in FAULTS)


def test_what_was_seen_as_documented_is_refused() -> None:
    """Its test passed, and saw the refusal and the entry."""
    assert faults(REPLAY, [SEEN]) == []


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ([], "nothing tries it"),
        ([SEEN, Played(test="t", outcome="skipped", properties=[("attack", "1")])], "t skipped"),
        ([SEEN, Played(test="t", outcome="failed", properties=[("attack", "1")])], "t failed"),
        ([Played(test="t", outcome="passed", properties=[("attack", "2")])], "nothing tries it"),
        ([Played(test="t", outcome="passed", properties=SEEN.properties[:2])], "no test saw the entry"),
        ([Played(test="t", outcome="passed", properties=SEEN.properties[:1])], "no test saw the refusal"),
    ],
    ids=["not tried", "skipped", "failed", "another", "no entry", "no refusal"],
)
def test_what_was_not_seen_is_not_refused(record: list[Played], why: str) -> None:
    """An attack never counts by what the catalogue says of it."""
    assert why in "; ".join(faults(REPLAY, record))


def test_a_table_tells_what_every_round_saw() -> None:
    """Both rounds must hold; what belongs to a later part is neither refused nor missing."""
    later = replace(REPLAY, number=2, later="the dashboard")
    trials = Trials((REPLAY, later), "refused")
    good, bad = trials.figures(0, [SEEN]), trials.figures(1, [])
    assert (good.violations, [one.seed for one in bad.violations]) == ([], [1])
    assert trials.figure(good) == "1 of 1 refused, by 1 tests; 1 concern parts that are not there yet"
    assert trials.figure(good.plus(bad)) == "0 of 1 refused, by 0 tests; 1 concern parts that are not there yet"
    first, second = trials.table(good).rows
    assert first[0] == "atk-01"
    assert first[4:] == ["`evidence_not_genuine: nonce_replayed`; sent: 2", "`attestation_refused`", "1", "**refused**"]
    assert second[-1] == "later: the dashboard"
    assert trials.table(good.plus(bad)).rows[0][-1] == "not shown"


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> list[Played]:
    """What a run of one test of each kind wrote down."""
    tmp_path = tmp_path_factory.mktemp("run")
    (tmp_path / "test_it.py").write_text(_TESTS, encoding="utf-8")
    record = tmp_path / "record.json"
    options = ["-p", "no:cacheprovider", "-p", "no:randomly", "-p", "assurance.attacks.recorder", "-q", "-m", "attack"]
    command = [sys.executable, "-m", "pytest", *options, "--record", str(record), "-c", str(ROOT / "pyproject.toml")]
    subprocess.run([*command, str(tmp_path / "test_it.py")], cwd=ROOT, capture_output=True, check=False)
    return read_record(record)


def test_a_run_records_what_its_tests_saw(played: list[Played]) -> None:
    """Of marked tests only, whatever else is in the file; also of those that were skipped or failed."""
    assert [(one.test.rpartition("::")[2], one.outcome) for one in played] == [
        ("test_failing", "failed"),
        ("test_left_out", "skipped"),
        ("test_seeing", "passed"),
    ]
    assert played[2].properties == [("attack", "1"), ("attack", "3"), ("refusal", "malformed: bare_lf")]


def test_a_round_that_breaks_tells_why(played: list[Played], tmp_path: Path) -> None:
    """The end of what pytest said of each test that did not pass is printed, and kept with the figures."""
    figures = Trials((REPLAY,), "refused").figures(0, played)
    (found,) = figures.violations
    assert "test_failing failed, at call: " in found.why
    assert " this is why" in found.why
    assert "test_left_out skipped, at setup: " in found.why
    assert "not here" in found.why
    assert "test_seeing" not in found.why
    assert all(len(one.failure) <= MAX_FAILURE_CHARS + len("teardown: ") for one in played)
    told = list(complaints(campaign_named("attacks"), NOTHING, figures))
    assert f"BROKEN: seed 0: {found.what}" in told
    assert found.why in told
    keep(Record(campaign="attacks", digest="d", commit="c", machine=this_machine(), figures=figures), tmp_path)
    assert load_state(tmp_path).figures("attacks", "d").violations == [found]


_TESTS = """
import pytest

@pytest.mark.attack(3, 1)
def test_seeing(request):
    request.node.user_properties.append(("refusal", "malformed: bare_lf"))

@pytest.mark.attack(1)
def test_failing():
    raise ValueError("x" * 10_000 + " this is why")

@pytest.mark.attack(1)
@pytest.mark.skip(reason="not here")
def test_left_out():
    pass

def test_another():
    pass
"""


@pytest.mark.parametrize("folder", ["assurance", "bench"])
def test_figures_are_of_every_file_with_a_marked_test(folder: str, tmp_path: Path) -> None:
    """Also where most tests bear none, and with what they share; a change of the others voids nothing."""
    place = tmp_path / "tests" / folder
    place.mkdir(parents=True)
    (tmp_path / "tests" / "attacks").mkdir()
    (place / "test_marked.py").write_text("@pytest.mark." + "attack(7)\n")
    (place / "test_other.py").write_text("def test_something():\n")
    (place / "shared.py").write_text("")
    assert tried(tmp_path) == sorted(["tests/attacks", f"tests/{folder}/shared.py", f"tests/{folder}/test_marked.py"])


def test_a_round_plays_the_long_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the suite tries some hundred times is tried as often as the table says."""
    monkeypatch.delenv(LONG, raising=False)
    assert effort(100, campaign=1_000) == 100
    for name, value in surroundings("2").items():
        monkeypatch.setenv(name, value)
    assert effort(100, campaign=1_000) == 1_000
    assert product_process.environment()["PYTHONOPTIMIZE"] == "2"


def test_without_a_record_a_round_is_no_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pytest that cannot start is an error of the campaign, not an attack that was refused."""
    monkeypatch.setattr("assurance.campaigns.attacks.ROOT", Path("/nowhere"))
    with pytest.raises((RuntimeError, OSError)):
        play("attack", "0")
