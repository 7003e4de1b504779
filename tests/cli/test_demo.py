"""What `aigovtool demo` refuses, and what it leaves behind when it is stopped."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from aigovtool.cli.demo.stage import program

_CHILD = b"aigovtool.cli.demo.child"


def test_a_directory_that_exists_is_not_played_in(run: Callable[..., Result], tmp_path: Path) -> None:
    """What is there stays as it is; also a directory that cannot be made is an error of the caller's."""
    for directory, reason in ((tmp_path, "file_exists"), (tmp_path / "no" / "x", "no_directory")):
        result = run("demo", "--keep", str(directory))
        assert (result.exit_code, reason in result.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_the_program_is_named_so_that_it_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name where the shell finds it, else by a path that works from where the reader is."""
    here = Path(sys.executable).parent
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(here.parent)
    assert program() == f"{here.name}/aigovtool"
    monkeypatch.chdir(tmp_path)
    assert program() == str(here / "aigovtool")
    monkeypatch.setenv("PATH", str(here))
    assert program() == "aigovtool"


def children_of(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it has just ended
            if _CHILD in words and words[words.index(_CHILD) + 1] == str(parent).encode():
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_demo_that_is_stopped_leaves_no_server(number: signal.Signals, tmp_path: Path) -> None:
    """However it is stopped; and no file either, unless it is killed outright."""
    playing = subprocess.Popen(
        [sys.executable, "-m", "aigovtool", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
    )
    assert playing.stdout is not None
    with playing.stdout as told:
        # When the first party is enrolled, the custodian serves.
        assert any(b"borrower add" in line for line in told)
        servers = [(child, os.pidfd_open(child)) for child in children_of(playing.pid)]
        playing.send_signal(number)
        code = playing.wait(60)
    assert servers
    for _, descriptor in servers:
        ended, _, _ = select.select([descriptor], [], [], 60)
        os.close(descriptor)
        assert ended
    # A child that was just being started is told of its parent's death a moment later.
    deadline = time.monotonic() + 20
    while children_of(playing.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not children_of(playing.pid)
    assert code == (-signal.SIGKILL if number is signal.SIGKILL else 130)
    assert bool(list(tmp_path.iterdir())) == (number is signal.SIGKILL)
