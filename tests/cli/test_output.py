"""Where the output goes may be full, closed, or of few letters: that is said, and is never a traceback."""

import json
import os
import signal
import subprocess
import sys
from errno import EACCES
from pathlib import Path

import pytest
from tests.product_process import INTERRUPTIBLE, environment

from aigovtool.cli.model.description import read_description
from aigovtool.cli.verb import DIRECTORY
from aigovtool.errors import ConfigurationError, TooLargeError

_PROGRAM = (sys.executable, "-m", "aigovtool")


def shell(words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run the program as a shell does, with the redirections of `words`."""
    line = f"{' '.join(_PROGRAM)} {words}"
    return subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=cwd,
        env={**environment(), **variables},
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "words", ["version", "version --json", "--help", "--version", "completion bash", "doctor --json"]
)
def test_a_disk_that_is_full_is_said_and_no_bug(words: str, tmp_path: Path) -> None:
    """With the exit code of a part of the system that failed, for people and for programs."""
    found = shell(f"{words} >/dev/full", tmp_path)
    assert found.returncode == 7
    assert found.stderr.decode().splitlines()[-1] == "error: the output cannot be written: No space left on device"
    assert b"Traceback" not in found.stderr
    assert b"Exception ignored" not in found.stderr


def test_what_nobody_hears_is_still_done(tmp_path: Path) -> None:
    """Closed streams, each and all of them; a reader that has had enough is no failure either."""
    for closed in (">&-", "2>&-", "<&-", ">&- 2>&- <&-"):
        found = shell(f"version --json {closed}", tmp_path)
        assert (found.returncode, found.stderr) == (0, b"")
        assert bool(found.stdout) == (closed in {"2>&-", "<&-"})
    assert shell("bogus >&- 2>&-", tmp_path).returncode == 2
    assert shell("--help | head -1", tmp_path).stderr == b""


def test_a_closed_stream_is_no_file_of_ours(tmp_path: Path) -> None:
    """Attack: with standard error closed, the next file that is opened would get its number, and warnings with it."""
    words = f"enclave evidence --tee simulated --allow-simulated -o {tmp_path / 'evidence.json'} >&- 2>&-"
    assert shell(words, tmp_path).returncode == 0
    assert json.loads((tmp_path / "evidence.json").read_bytes())["tee"] == "simulated"


def test_a_file_name_that_is_not_unicode_is_told(tmp_path: Path) -> None:
    """To people with a mark in its place, to programs with the escape that means just that name."""
    name = b"caf\xe9.json"
    words: list[str | bytes] = [*_PROGRAM, "renew", name]
    told = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, timeout=60, check=False)
    document = subprocess.run(
        [*words, "--json"], cwd=tmp_path, env=environment(), capture_output=True, timeout=60, check=False
    )
    assert (told.returncode, document.returncode) == (2, 2)
    assert "caf?.json" in told.stderr.decode()
    assert os.fsdecode(name) in json.loads(document.stdout)["error"]["message"]


def test_letters_that_a_terminal_does_not_have_are_escaped(tmp_path: Path) -> None:
    """For programs so that they mean the same; for people as a mark."""
    words = 'renew "Röntgen.json"'
    document = shell(f"{words} --json", tmp_path, PYTHONIOENCODING="ascii")
    assert "Röntgen.json" in json.loads(document.stdout)["error"]["message"]
    told = shell(words, tmp_path, PYTHONIOENCODING="ascii")
    assert (told.returncode, b"R?ntgen.json" in told.stderr) == (2, True)


@pytest.mark.parametrize(
    "words",
    [
        f"custodian show {'x' * 300}",
        f"custodian certificate {'x' * 300}",
        f"custodian serve {'x' * 300}",
        f"endorsements add {'x' * 300} answers.json",
        "custodian show ''",
        "model add '' --borrower b",
        f"connect log --home {'x' * 300}",
    ],
)
def test_what_no_file_can_be_called_is_refused_as_such(words: str, tmp_path: Path) -> None:
    """Empty, or too long."""
    found = shell(words, tmp_path)
    assert (found.returncode, b"bad_path" in found.stderr) == (2, True)


def test_what_is_not_ours_to_see_is_told_apart_from_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As root nothing is out of sight, so the system's answer is given here."""

    def refused(path: str) -> None:
        raise PermissionError(EACCES, "Permission denied", path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "lstat", refused)
        with pytest.raises(ConfigurationError, match=r"'custodian' cannot be used: Permission denied") as caught:
            DIRECTORY.convert("custodian", None, None)
    assert (caught.value.reason, "be the user" in (caught.value.fix or "")) == ("bad_path", True)


@pytest.mark.parametrize(
    "words",
    ["usage --follow nan", "connect status --watch nan", "connect --enclave x --credential y --verify-every nan"],
)
def test_no_number_of_seconds_is_none(words: str, tmp_path: Path) -> None:
    """It is within no bounds, and beyond none."""
    found = shell(words, tmp_path)
    assert (found.returncode, b"'nan' is no number of seconds" in found.stderr) == (2, True)


def test_a_description_without_end_is_not_read_to_its_end() -> None:
    """Attack on patience: a device that gives bytes for ever."""
    with pytest.raises(TooLargeError):
        read_description(Path("/dev/zero"))


_INTERRUPTED = """
import os, signal, sys
import aigovtool.cli.{module} as module
def interrupted(*_, **__):
    os.kill(os.getpid(), signal.SIGINT)
module.{name} = interrupted
from aigovtool.cli import main
sys.argv = ["aigovtool", "version"]
main()
"""


@pytest.mark.parametrize(
    ("module", "name", "code", "told"),
    [
        ("isolation", "isolate", -signal.SIGINT, ""),
        ("version", "Version", 130, "error: interrupted"),
    ],
)
def test_ctrl_c_is_no_traceback_whenever_it_comes(module: str, name: str, code: int, told: str, tmp_path: Path) -> None:
    """While the program is still being loaded, it ends without a word; once it runs, it says so."""
    words = [*INTERRUPTIBLE, sys.executable, "-c", _INTERRUPTED.format(module=module, name=name)]
    found = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, timeout=60, check=False)
    assert (found.returncode, found.stderr.decode().strip()) == (code, told)
