import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from assurance.__main__ import QUICK_S, quick_share_s, run_one
from assurance.campaign import Campaign, Target
from assurance.catalogue import CAMPAIGNS, campaign_named
from assurance.code_digest import ROOT, code_digest, files_under, libraries, limits
from assurance.failed_seeds import failed_seeds, keep_failed
from assurance.figures import NOTHING, Figures, Span, next_seeds, of_seed, percentile, union
from assurance.runner import batches_of, in_workers, play, until_enough
from assurance.state import State, keep, load_state
from tests.assurance.counting import CAMPAIGN, record
from tests.assurance.working import die, fail, where

# --- Seeds count once --------------------------------------------------------------------------------


def test_seeds_are_joined_and_never_count_twice() -> None:
    """Ranges that touch become one; a seed in two ranges is refused."""
    assert union([Span(start=5, stop=7), Span(start=0, stop=5)]) == [Span(start=0, stop=7)]
    with pytest.raises(ValueError, match="seed 3 would count twice"):
        union([Span(start=0, stop=4), Span(start=3, stop=9)])
    with pytest.raises(ValueError, match="twice"):
        play(CAMPAIGN, [1], float("inf")).plus(play(CAMPAIGN, [1], float("inf")))


def test_new_seeds_fill_the_gaps_first() -> None:
    """An interrupted run leaves gaps, and the next run plays just these and then what follows."""
    done = [Span(start=1, stop=3), Span(start=5, stop=6)]
    assert next_seeds(done, 6) == [0, 3, 4, 6, 7, 8]
    assert next_seeds([], 2) == [0, 1]
    assert next_seeds(done, 0) == []


def test_figures_add_up() -> None:
    """Counts are summed, samples are joined, violations are kept."""
    first, second = play(CAMPAIGN, [0, 1], float("inf")), of_seed(2, violation="overspend: 1 too much")
    total = first.plus(second)
    assert (total.seeds(), total.count("tries"), total.sample("wait_s")) == (3, 4, [0.0, 0.1])
    assert [found.what for found in total.violations] == ["overspend: 1 too much"]


def test_a_percentile_is_one_of_the_values() -> None:
    """Nearest rank: no value is invented between two measured ones."""
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, p) for p in (1, 50, 99, 100)] == [1.0, 50.0, 99.0, 100.0]
    assert percentile([3.0], 99) == 3.0


def test_a_deadline_ends_a_run_between_two_seeds() -> None:
    """What was not played is not counted."""
    assert play(CAMPAIGN, [0, 1], time.monotonic() - 1).seeds() == 0


# --- Workers -----------------------------------------------------------------------------------------


def test_a_campaign_goes_on_until_its_target_is_met_and_not_longer() -> None:
    """The first seeds tell how many it takes; where later ones count for less, more are played."""
    wanted = replace(CAMPAIGN, target=Target(100, "tries"))
    asked: list[int] = []

    def run(seeds: int) -> Figures:
        done = sum(asked)
        asked.append(seeds)
        tries = sum(4 if seed < 10 else 1 for seed in range(done + seeds))
        return Figures(spans=[Span(start=0, stop=done + seeds)], counts={"tries": tries})

    figures = until_enough(wanted, NOTHING, run, float("inf"))
    assert asked[:2] == [wanted.quick, 22]
    assert 100 <= figures.count("tries") <= 110
    assert until_enough(wanted, figures, run, float("inf")) is figures


@pytest.mark.parametrize("greed", [1.0, 0.5, 0.0])
def test_the_short_form_of_all_campaigns_ends_in_time(greed: float) -> None:
    """However much each takes of what it may, none is left without; who is late leaves less to the others."""
    left_s = QUICK_S
    for left in range(len(CAMPAIGNS), 0, -1):
        share_s = quick_share_s(left_s, left)
        assert 10 < share_s <= 40
        left_s -= greed * share_s
    assert left_s >= 0
    assert quick_share_s(-5, 3) == 0
    assert quick_share_s(9, 3) == 3


def test_each_campaign_plays_something_in_the_short_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose share is used up when old seeds are played; what is short is not spent on starting processes."""
    asked: list[tuple[float, int]] = []

    def run(_campaign: Campaign, _seeds: int, deadline: float, *, workers: int) -> Figures:
        asked.append((deadline, workers))
        return NOTHING

    monkeypatch.setattr("assurance.__main__.run_campaign", run)
    options = argparse.Namespace(quick=True, seeds=None, seconds=None, workers=2)
    before_s = time.monotonic()
    for most_s in (0.001, 60.0, 0.0):
        run_one(CAMPAIGN, options, most_s)
    (little_s, here), (more_s, workers), (late_s, _) = asked
    assert before_s + 0.5 < little_s < more_s - 20
    assert (here, workers) == (0, 2)
    assert late_s <= time.monotonic()


@pytest.mark.parametrize("campaign", CAMPAIGNS, ids=lambda one: one.name)
def test_a_campaign_without_time_says_that_nothing_was_played(
    campaign: Campaign, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would say of figures is not asked: there are none."""
    monkeypatch.setattr("assurance.__main__.run_campaign", lambda *_, **__: NOTHING)
    monkeypatch.setattr("assurance.__main__.replay_failed", lambda _: NOTHING)
    options = argparse.Namespace(quick=True, seeds=1, seconds=None, workers=1)
    assert run_one(campaign, options, 0.0)
    assert "nothing was played" in capsys.readouterr().out


def test_what_takes_too_long_for_the_short_form_is_left_out_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    """It says so, and the long form begins with one seed."""
    slow = replace(CAMPAIGN, quick=0, run=lambda seeds, deadline: pytest.fail("it was played"))
    assert [campaign.name for campaign in CAMPAIGNS if not campaign.quick] == ["attacks", "faults"]
    options = argparse.Namespace(quick=True, seeds=None)
    assert run_one(slow, options, 60.0)
    assert "left out of the short form" in capsys.readouterr().out
    asked: list[int] = []

    def run(seeds: int) -> Figures:
        asked.append(seeds)
        return NOTHING

    until_enough(slow, NOTHING, run, float("inf"))
    assert asked == [1]


def test_a_campaign_whose_first_seeds_count_for_nothing_goes_on() -> None:
    """Short rounds come before those that count; no more of these are played than it takes."""
    wanted = replace(CAMPAIGN, target=Target(3, "rounds"), quick=1)
    asked: list[int] = []

    def run(seeds: int) -> Figures:
        asked.append(seeds)
        done = sum(asked)
        return Figures(spans=[Span(start=0, stop=done)], counts={"rounds": max(0, done - 2)})

    assert until_enough(wanted, NOTHING, run, float("inf")).count("rounds") == 3
    assert asked == [1, 1, 1, 2]


def test_a_campaign_that_counts_nothing_ends() -> None:
    """Neither seeds that count for nothing nor a deadline that is over let it run for ever."""
    nothing = Figures(spans=[Span(start=0, stop=1)])
    assert until_enough(CAMPAIGN, NOTHING, lambda _: nothing, float("inf")) is nothing
    assert until_enough(CAMPAIGN, NOTHING, lambda _: nothing, time.monotonic()) is NOTHING
    runs: list[int] = []

    def in_vain(_seeds: int) -> Figures:
        runs.append(len(runs) + 1)
        return Figures(spans=[Span(start=0, stop=runs[-1])])

    until_enough(CAMPAIGN, NOTHING, in_vain, float("inf"))
    assert len(runs) == 3


def test_seeds_are_shared_out_to_all_workers() -> None:
    """Batches are as large as a campaign wants them, and smaller where a worker would have none."""
    assert list(batches_of([5, 6, 7, 8, 9], 2, 2)) == [[5, 6], [7, 8], [9]]
    assert list(batches_of([5, 6, 7], 100, 2)) == [[5, 6], [7]]
    assert list(batches_of([], 100, 2)) == []


def test_workers_are_processes_and_each_seed_counts_once() -> None:
    """Several batches, none of them played in this process, and the sum has every seed."""
    found = list(in_workers(2, iter([[0, 1], [2, 3], [4]]), where, float("inf")))
    assert os.getpid() not in {one.count("process") for one in found}
    assert union(span for one in found for span in one.spans) == [Span(start=0, stop=5)]


def test_no_batch_begins_after_the_deadline() -> None:
    """What is not begun is not counted."""
    assert list(in_workers(2, iter([[0], [1]]), where, time.monotonic() - 1)) == []


@pytest.mark.parametrize(("work", "why"), [(die, "BrokenProcessPool"), (fail, "no such seed")])
def test_a_worker_that_dies_or_fails_ends_the_campaign(work: Any, why: str) -> None:
    """Its seeds are named and not counted; what another one counted before is."""
    found = []
    with pytest.raises(SystemExit, match=f"not counted: seeds 4 to 5.*{why}"):
        for one in in_workers(1, iter([[0, 1], [2, 3], [4, 5], [6, 7]]), work, float("inf")):
            found.append(one)  # noqa: PERF402 - what came before the failure is looked at
    assert Span(start=0, stop=2) in [span for one in found for span in one.spans]
    assert Span(start=4, stop=6) not in [span for one in found for span in one.spans]


# --- Figures belong to code --------------------------------------------------------------------------


def test_workers_do_not_outlive_a_run_that_is_killed(tmp_path: Path) -> None:
    """However a run ends, nothing of it keeps a core busy afterwards."""
    told = tmp_path / "pid"
    lines = (
        "import functools, pathlib, sys, time",
        "from assurance.runner import in_workers",
        "from tests.assurance.working import tell_and_wait",
        "work = functools.partial(tell_and_wait, pathlib.Path(sys.argv[1]))",
        "print(list(in_workers(1, iter([[0]]), work, time.monotonic() + 120)))",
    )
    with subprocess.Popen([sys.executable, "-c", "\n".join(lines), str(told)], cwd=ROOT) as run:
        try:
            _until(told.exists)
        finally:
            run.kill()
    _until(lambda: not _lives(int(told.read_text())))


def _lives(worker: int) -> bool:
    """Whether the process runs; one that has ended and was not yet collected has no command line."""
    try:
        return b"spawn_main" in Path(f"/proc/{worker}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it does not come to hold"
        time.sleep(0.05)


def test_a_change_of_the_code_voids_its_figures() -> None:
    """Figures are added for the same digest only, and those of other code are dropped."""
    state = State().plus(record(of_seed(0, counts={"tries": 1})))
    state = state.plus(record(of_seed(1, counts={"tries": 1})))
    assert state.figures("counting", "d").count("tries") == 2
    assert state.figures("counting", "other") == NOTHING
    changed = state.plus(record(of_seed(0, counts={"tries": 1}), digest="other"))
    assert changed.figures("counting", "d") == NOTHING
    assert changed.figures("counting", "other").count("tries") == 1


def test_the_digest_sees_every_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another content, another name, another file and another library all change it; compiled files do not."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "a.py").write_text("1")
    seen = [code_digest(["code"], tmp_path)]
    (folder / "a.pyc").write_text("x")
    assert code_digest(["code"], tmp_path) == seen[0]
    (folder / "a.py").write_text("2")
    seen.append(code_digest(["code"], tmp_path))
    (folder / "a.py").rename(folder / "b.py")
    seen.append(code_digest(["code"], tmp_path))
    (folder / "c.py").write_text("")
    seen.append(code_digest(["code"], tmp_path))
    assert libraries(["code"], tmp_path) == []
    (folder / "c.py").write_text("def f():\n    import httpx\n    import json, aigovtool.codec\n")
    found = libraries(["code"], tmp_path)
    assert f"httpx=={version('httpx')}" in found
    assert {"anyio", "httpcore", "idna"} <= {line.partition("==")[0] for line in found}
    assert not {"json", "aigovtool", "sqlalchemy", "rich"} & {line.partition("==")[0] for line in found}
    seen.append(code_digest(["code"], tmp_path))
    monkeypatch.setattr("assurance.code_digest.version", lambda name: "0")
    seen.append(code_digest(["code"], tmp_path))
    assert len(set(seen)) == len(seen)
    with pytest.raises(FileNotFoundError):
        code_digest(["nothing"], tmp_path)


def test_a_limit_counts_by_its_value_where_it_is_imported(tmp_path: Path) -> None:
    """Another limit voids nothing that does not use it; one that is used does, also through the whole module."""
    code, bounds = tmp_path / "code", tmp_path / "src" / "aigovtool" / "limits.py"
    code.mkdir()
    bounds.parent.mkdir(parents=True)
    bounds.write_text("MOST = 4 * 2\nOTHER = 1\n")
    (code / "a.py").write_text("def f():\n    from aigovtool.limits import MOST\n")
    assert limits(["code"], tmp_path) == ["MOST=8"]
    before = code_digest(["code"], tmp_path)
    bounds.write_text("# eight\nMOST = 8\nOTHER = 2\nANOTHER = 3\n")
    assert code_digest(["code"], tmp_path) == before
    bounds.write_text("MOST = 9\nOTHER = 2\n")
    assert code_digest(["code"], tmp_path) != before
    for whole in ("from aigovtool import limits", "import aigovtool.limits as bounds"):
        (code / "a.py").write_text(whole)
        assert limits(["code"], tmp_path) == ["MOST=9", "OTHER=2"]
    (code / "a.py").write_text("from aigovtool.limits import LEAST")
    with pytest.raises(KeyError):
        limits(["code"], tmp_path)


@pytest.mark.parametrize("campaign", CAMPAIGNS, ids=lambda one: one.name)
def test_a_campaign_covers_its_own_code(campaign: Campaign) -> None:
    """A campaign that is made easier voids its figures too, and a list of failed seeds voids nothing."""
    covered = {path.name for path in files_under(campaign.covers)}
    module = campaign.run.__module__.rsplit(".", maxsplit=1)[-1]
    assert f"{module}.py" in covered
    assert "failed_seeds.json" not in covered


def test_the_state_survives_its_file(tmp_path: Path) -> None:
    """What was counted is there after a restart; no file means nothing was counted."""
    folder = tmp_path / "deep" / "state"
    nowhere = tmp_path / "nothing.json"
    assert load_state(folder, nowhere) == State()
    figures = of_seed(4, counts={"tries": 1}, samples={"wait_s": [0.5]})
    keep(record(figures), folder, nowhere)
    keep(record(of_seed(5)), folder, nowhere)
    (kept,) = load_state(folder, nowhere).records
    assert kept.figures == figures.plus(of_seed(5))
    keep(record(figures, digest="other"), folder, nowhere)
    (kept,) = load_state(folder, nowhere).records
    assert kept.figures == figures


def test_failed_seeds_are_kept_once_and_in_order(tmp_path: Path) -> None:
    """The list only grows."""
    path = tmp_path / "failed.json"
    path.write_text("{}")
    keep_failed("a", [9, 2], path)
    keep_failed("a", [2, 5], path)
    assert failed_seeds("a", path) == [2, 5, 9]
    assert failed_seeds("b", path) == []


def test_an_unknown_campaign_is_refused() -> None:
    """A misspelt name must not look like a campaign that found nothing."""
    with pytest.raises(SystemExit, match="no campaign 'overspent'"):
        campaign_named("overspent")
