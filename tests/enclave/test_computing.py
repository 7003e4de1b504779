"""How many runs the engine computes at once: what the machine, its control groups and its memory leave."""

import os
from pathlib import Path

import pytest

from aigovtool.enclave import computing as module
from aigovtool.enclave.computing import LEAST_RUNS, Computing, computing, usable_cores
from aigovtool.limits import MAX_ENGINE_THREADS

AMPLE_BYTES = 1 << 40


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 16 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


def within(root: Path, group: str, *files: tuple[str, str]) -> Path:
    """Make a machine on which this process is in such a group, and say what its files say."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"{group}\n", encoding="ascii")
    for name, said in files:
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{said}\n", encoding="ascii")
    return root


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize(
    ("group", "files", "found"),
    [
        ("0::/", [("cpu.max", "max 100000")], 16),
        ("0::/", [("cpu.max", "400000 100000")], 4),
        ("0::/a/b", [("a/b/cpu.max", "max 100000"), ("a/cpu.max", "250000 100000")], 3),
        ("0::/a", [("a/cpu.max", "50000 100000")], 1),
        ("0::/a", [("a/cpu.max", "6400000 100000")], 16),
        ("4:cpu,cpuacct:/a", [("cpu/a/cpu.cfs_quota_us", "-1"), ("cpu/a/cpu.cfs_period_us", "100000")], 16),
        ("4:cpu,cpuacct:/a", [("cpu/a/cpu.cfs_quota_us", "200000"), ("cpu/a/cpu.cfs_period_us", "100000")], 2),
        ("4:cpu:/a", [("cpu/a/cpu.cfs_quota_us", "200000")], 16),
        ("0::/a", [("a/cpu.max", "200000")], 16),
        ("0::/a", [("a/cpu.max", "200000 0")], 16),
        ("0::/a", [("a/cpu.max", "1 2 3")], 16),
        ("0::/a", [("a/cpu.max", "")], 16),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value),
)
def test_a_bound_of_any_group_holds(group: str, files: list[tuple[str, str]], found: int, tmp_path: Path) -> None:
    """The least of all, a part of a core counted as one; what says nothing bounds nothing."""
    assert usable_cores(within(tmp_path, group, *files)) == found


def test_this_machine_has_as_many_as_it_is_bound_to() -> None:
    """At least one, and no more than there are."""
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("has", "threads", "memory", "runs"),
    [
        (1, 1, AMPLE_BYTES, LEAST_RUNS),
        (2, 1, AMPLE_BYTES, 2),
        (16, 1, AMPLE_BYTES, 16),
        (16, 4, AMPLE_BYTES, 4),
        (16, 16, AMPLE_BYTES, LEAST_RUNS),
        (500, 1, AMPLE_BYTES, MAX_ENGINE_THREADS),
        (16, 1, 4 << 30, 6),
        (16, 1, 1 << 30, LEAST_RUNS),
    ],
)
def test_each_core_has_a_run_if_there_is_memory(
    has: int, threads: int, memory: int, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as there are cores for with their threads; never fewer than two, or one long run kept all others out."""
    monkeypatch.setattr(module, "usable_cores", lambda: has)
    assert computing(memory, threads_per_run=threads) == Computing(runs, threads)


def test_what_is_asked_for_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the enclave knows the models: one at once where each takes half of the memory."""
    monkeypatch.setattr(module, "usable_cores", lambda: 16)
    assert computing(AMPLE_BYTES, 1) == Computing(1, 1)
    assert computing(1 << 30, 40, 3) == Computing(40, 3)


def test_what_more_runs_reserve_does_not_bound_the_models() -> None:
    """Heaps and stacks are addresses that count against the bound of the engine's memory, and are mostly not used."""
    assert (Computing(1, 1).reserved_bytes, Computing(2, 1).reserved_bytes) == (0, 0)
    assert Computing(5, 1).reserved_bytes == Computing(2, 4).reserved_bytes == 240 << 20
