"""Somebody at a terminal: runs a verb on a pseudo-terminal and types when it asks."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

from tests.product_process import environment

_SECONDS: Final = 60.0
#: The process itself makes the terminal its own: nothing of ours runs between a fork and an exec, whatever threads
#: there are.
_LOG_IN: Final = """
import os, sys
os.login_tty(0)
os.execv(sys.executable, [sys.executable, "-m", "aigovtool", *sys.argv[1:]])
"""


def typed(arguments: Sequence[str], answers: Sequence[tuple[str, str]], **more: str) -> tuple[int, str]:
    """Run a verb; whenever it prints the next question, type the answer. Return its exit code and what it printed."""
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-c", _LOG_IN, *arguments]
    here = environment(NO_COLOR="1", **more)
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=here) as process:
        os.close(theirs)
        try:
            shown, left = _talk(terminal, list(answers))
        finally:
            os.close(terminal)  # whoever still waits for an answer is ended by that
    assert not left, shown
    return process.returncode, shown


def _talk(terminal: int, left: list[tuple[str, str]]) -> tuple[str, list[tuple[str, str]]]:
    """Answer until the other end is closed; return what was shown, and the answers that nobody asked for."""
    shown, asked = b"", 0
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                shown += os.read(terminal, 4096)
            except OSError:  # it has ended
                break
        if left and left[0][0].encode() in shown[asked:]:
            asked = len(shown)
            os.write(terminal, left.pop(0)[1].encode() + b"\n")
    return shown.decode(), left
