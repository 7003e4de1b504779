"""The shells complete verbs and options, as click makes them."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from tests.e2e.commandline import aigovtool
from tests.product_process import environment


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed_for_each_shell(shell: str) -> None:
    """It calls this program back, by its name."""
    script = aigovtool("completion", shell).stdout
    assert "_AIGOVTOOL_COMPLETE" in script
    assert "aigovtool" in script
    assert json.loads(aigovtool("completion", shell, "--json").stdout)["script"].strip() == script.strip()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("aigovtool con", {"connect", "consumer"}),
        ("aigovtool connect ", {"serve", "log", "status", "receipt"}),
        ("aigovtool infer --inp", {"--input"}),
        ("aigovtool completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_the_program_completes_what_was_begun(words: str, expected: set[str]) -> None:
    """What the script asks it, as bash does."""
    asked = environment(
        _AIGOVTOOL_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(len(words.split(" ")) - 1)
    )
    done = subprocess.run(
        [sys.executable, "-c", "from aigovtool.cli import main; main()"],
        env=asked, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = {line.partition(",")[2] for line in done.stdout.splitlines()}
    assert expected <= found


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_takes_the_script() -> None:
    """It is one that bash understands."""
    script = aigovtool("completion", "bash").stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, env=dict(os.environ), timeout=20)
