"""How many runs the engine computes at once: what the machine, its control groups and its memory leave."""

import os
from pathlib import Path

import pytest

from aigovtool.enclave import computing
from aigovtool.enclave.computing import LEAST_RUNS, allowed_cores, runs_at_once, stack_bytes, usable_cores
from aigovtool.limits import MAX_RUNS_AT_ONCE

AMPLE_BYTES = 1 << 40


def within(root: Path, group: str, *files: tuple[str, str]) -> Path:
    """Make a machine on which this process is in such a group, and say what its files say."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"{group}\n", encoding="ascii")
    for name, said in files:
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{said}\n", encoding="ascii")
    return root


@pytest.mark.parametrize(
    ("group", "files", "found"),
    [
        ("0::/", [("cpu.max", "max 100000")], set()),
        ("0::/", [("cpu.max", "400000 100000")], {4}),
        (
            "0::/a/b",
            [("a/b/cpu.max", "max 100000"), ("a/cpu.max", "250000 100000"), ("cpu.max", "700000 100000")],
            {3, 7},
        ),
        ("0::/a", [("a/cpu.max", "50000 100000")], {1}),
        ("0::/a", [("a/cpu.max", "100000 100000")], {1}),
        ("4:cpu,cpuacct:/a", [("cpu/a/cpu.cfs_quota_us", "-1"), ("cpu/a/cpu.cfs_period_us", "100000")], set()),
        ("4:cpu,cpuacct:/a", [("cpu/a/cpu.cfs_quota_us", "200001"), ("cpu/a/cpu.cfs_period_us", "100000")], {3}),
        ("4:cpu:/a", [("cpu/a/cpu.cfs_quota_us", "200000")], set()),
        ("0::/a", [("a/cpu.max", "200000")], set()),
        ("0::/a", [("a/cpu.max", "200000 0")], set()),
        ("0::/a", [("a/cpu.max", "1 2 3")], set()),
        ("0::/a", [("a/cpu.max", "")], set()),
    ],
    ids=str,
)
def test_what_groups_allow(group: str, files: list[tuple[str, str]], found: set[int], tmp_path: Path) -> None:
    """Each of them, a part of a core counted as one; what says nothing allows everything."""
    assert set(allowed_cores(within(tmp_path, group, *files))) == found


@pytest.mark.parametrize(("bound", "allowed", "usable"), [(16, [], 16), (16, [3, 7], 3), (2, [3, 7], 2), (16, [0], 1)])
def test_the_least_bound_holds(bound: int, allowed: list[int], usable: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the cores that a process is bound to, and of those that groups allow; there is always one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)))
    monkeypatch.setattr(computing, "allowed_cores", lambda: iter(allowed))
    assert usable_cores() == usable


def test_this_machine_has_as_many_as_it_is_bound_to() -> None:
    """At least one, and no more than there are."""
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("has", "memory", "runs"),
    [
        (1, AMPLE_BYTES, LEAST_RUNS),
        (2, AMPLE_BYTES, 2),
        (16, AMPLE_BYTES, 16),
        (500, AMPLE_BYTES, MAX_RUNS_AT_ONCE),
        (16, 4 << 30, 6),
        (16, 1 << 30, LEAST_RUNS),
    ],
)
def test_each_core_has_a_run_if_there_is_memory(
    has: int, memory: int, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never fewer than two, or one long run would keep the only turn from all others."""
    monkeypatch.setattr(computing, "usable_cores", lambda: has)
    assert runs_at_once(memory) == runs


def test_stacks_come_on_top_of_what_the_engine_may_take() -> None:
    """Of threads that begin runs all; of the models' own so much at the most that the bound is still one."""
    stack = 8 << 20
    assert stack_bytes(1, 1, 5) == stack_bytes(2, 1, 5) == 0
    assert stack_bytes(24, 1, 5) == 2 * 22 * stack
    assert stack_bytes(2, 4, 1) == 3 * stack
    assert stack_bytes(24, 4, 5) == (2 * 22 + 3 * 5) * stack
    assert stack_bytes(2, 64, 100) == 1 << 30
