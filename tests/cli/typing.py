"""Somebody at a terminal: runs a verb on a pseudo-terminal and types when it asks."""

import os
import pty
import select
import sys
import time
from collections.abc import Sequence

from tests.product_process import environment

_SECONDS = 60.0


def typed(arguments: Sequence[str], answers: Sequence[tuple[str, str]], **more: str) -> tuple[int, str]:
    """Run a verb; whenever it prints the next question, type the answer. Return its exit code and what it printed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, "-m", "aigovtool", *arguments], environment(NO_COLOR="1", **more))
    shown, asked = b"", 0
    deadline = time.monotonic() + _SECONDS
    left = list(answers)
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                shown += os.read(terminal, 4096)
            except OSError:  # the other end is closed: it has ended
                break
        if left and left[0][0].encode() in shown[asked:]:
            asked = len(shown)
            os.write(terminal, left.pop(0)[1].encode() + b"\n")
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert not left, shown.decode()
    return os.waitstatus_to_exitcode(status), shown.decode()
