"""Whether something grew that should not have, and that a leak is found: of a real process, and in the life of one."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from assurance.campaigns import soak
from assurance.endurance.growth import LEAST_TURNS, Limit, Seen, grown, of_files, of_process, sample_of, watching
from assurance.endurance.turns import Turn
from assurance.figures import Figures
from tests.e2e.world import wait_for
from tests.observations import Observed

TURNS = 3 * LEAST_TURNS
#: Does one of these at each line: opens a descriptor, takes memory, starts a thread or a child, writes; or nothing.
LEAKING = """
import subprocess, sys, threading, time
kept = []
acts = {
    "nothing": lambda: bytearray(256 << 10),
    "descriptors": lambda: kept.append(open("/dev/null")),
    "MiB": lambda: kept.append(b"x" * (2 << 20)),
    "threads": lambda: threading.Thread(target=time.sleep, args=(600,), daemon=True).start(),
    "children": lambda: kept.append(subprocess.Popen(["true"])),
    "bytes": lambda: open(sys.argv[2], "ab").write(b"x" * 4096),
}
print("up", flush=True)
for line in sys.stdin:
    acts[sys.argv[1]]()
    print("done", flush=True)
"""


@pytest.fixture
def leaking(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that leaks one thing each time that it gets a line."""
    words = [sys.executable, "-c", LEAKING, request.param, str(tmp_path / "log")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


def lived(process: "subprocess.Popen[str]", log: Path) -> list[Seen]:
    """Let a process leak once in each of a few turns, and return what was seen in them."""
    assert process.stdin is not None
    assert process.stdout is not None
    samples = []
    with watching(lambda: of_process("it", process.pid) | of_files("it", log)) as watch:
        for _ in range(TURNS):
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"
            time.sleep(0.06)
            samples.append(watch.turn())
    return samples


LIMITS = {"descriptors": Limit(2), "MiB": Limit(4), "threads": Limit(2), "children": Limit(2), "bytes": Limit(8192)}


@pytest.mark.parametrize("leaking", LIMITS, indirect=True, ids=str)
def test_a_leak_of_one_in_each_turn_is_found_and_named(
    leaking: "subprocess.Popen[str]", tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Of a descriptor, two MiB, a thread, a child that nobody waits for, four KiB of a file: that one, no other."""
    what = request.node.callspec.params["leaking"]
    found = grown(lived(leaking, tmp_path / "log"), LIMITS)
    assert [one.partition(":")[0] for one in found] == [f"it {what}"]


@pytest.mark.parametrize("leaking", ["nothing"], indirect=True)
def test_a_process_that_keeps_nothing_is_left_alone(leaking: "subprocess.Popen[str]", tmp_path: Path) -> None:
    """What is taken and given back is no leak, under the same limits."""
    assert grown(lived(leaking, tmp_path / "log"), LIMITS) == []


@pytest.mark.parametrize("leaking", ["nothing"], indirect=True)
def test_a_process_that_is_gone_is_told(leaking: "subprocess.Popen[str]") -> None:
    """It is not taken for one that holds nothing any more."""
    with watching(lambda: of_process("it", leaking.pid)) as watch:
        watch.turn()
        leaking.kill()
        leaking.wait()
        with pytest.raises((RuntimeError, OSError, KeyError)):
            wait_for(lambda: not watch.turn(), "it is told", seconds=5)


def test_what_comes_and_goes_within_a_turn_is_not_counted() -> None:
    """The least number of descriptors, the middle of memory, the last size of a file."""
    moments: list[Seen] = [
        {"a descriptors": 9, "a MiB": 50.0, "a bytes": 1},
        {"a descriptors": 4, "a MiB": 90.0, "a bytes": 2},
        {"a descriptors": 7, "a MiB": 51.0, "a bytes": 3},
    ]
    assert sample_of(moments) == {"a descriptors": 4, "a MiB": 51.0, "a bytes": 3}


def test_a_slow_leak_is_found_in_a_long_life_only() -> None:
    """A descriptor in ten turns, under noise: not in nine turns, which nobody may take for a proof, but in ninety."""

    def samples(turns: int) -> list[Seen]:
        return [{"a descriptors": 20 + turn // 10 + turn % 3} for turn in range(turns)]

    limits = {"descriptors": Limit(3)}
    assert grown(samples(9), limits) == []
    assert grown(samples(90), limits) == ["a descriptors: from 22 to 28 in 60 turns; 3 more are allowed"]


def test_growth_that_a_limit_allows_by_the_turn_is_allowed() -> None:
    """A log may have a line in each turn, and not two."""
    for lines, found in ((1, 0), (2, 1)):
        samples: list[Seen] = [{"log bytes": 100.0 * lines * turn} for turn in range(30)]
        assert len(grown(samples, {"log bytes": Limit(50, 100)})) == found


def test_few_turns_and_what_no_limit_is_about_are_errors() -> None:
    """Neither is silently a life in which nothing grew."""
    with pytest.raises(ValueError, match="say nothing"):
        grown([{"a MiB": 1.0}] * (TURNS - 1), LIMITS)
    with pytest.raises(ValueError, match="no limit is about a handle"):
        grown([{"a handles": 1.0}] * TURNS, LIMITS)


@pytest.mark.fault(31)
def test_a_short_life_of_a_deployment_leaves_nothing_behind(observed: Observed) -> None:
    """The campaign's drill, with everything that comes and goes in it; in the last turn is what grew."""
    last: Figures | None = None
    seldom = Turn(inferences=10, malformed=5, sessions=2, credentials=1, abandoned=4, strangers=2)
    for figures in soak.live(list(range(soak.WARM_UP + TURNS)), float("inf"), seldom):
        assert figures.violations == []
        last = figures
    assert last is not None
    assert last.count("lives") == 1
    assert last.sample("turns of a life") == [TURNS]
    for name in ("custodian descriptors", "enclave descriptors", "engine descriptors", "engine MiB"):
        assert len(last.sample(f"more {name}")) == 1
    observed.figure("turns of a short life in which nothing grew", TURNS)


def test_a_life_is_compared_once_what_it_must_keep_grows_no_more() -> None:
    """Answers are kept for ten minutes: a long life is looked at after that, one cut off before it not at all."""
    samples: list[Seen] = [{"enclave MiB": float(number)} for number in range(1_200)]
    ages_s = [float(number) for number in range(1_200)]
    assert soak.compared(samples, ages_s) == samples[660:]
    assert soak.compared(samples[:600], ages_s[:600]) == []
    assert soak.compared(samples[:16], ages_s[:16]) == samples[soak.WARM_UP : 16]
