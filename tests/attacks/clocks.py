"""Clocks of real processes, in the hands of a test: slower, still, and stepped while they run.

A library in front of the C library's (clock.c, built by gcc when it is needed) tells a process what the test says. What
the kernel does by itself, such as timeouts of epoll, goes by true time: a host that slows the clocks of a machine would
slow that, too, and the process would do less. An engine child is under the same clocks as its parent.
"""

import mmap
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.attacks.deployments import Around

_SOURCE = Path(__file__).with_name("clock.c")
_LAYOUT = struct.Struct("=Qqqq")
YEAR_S = 365 * 86_400


@cache
def _library(directory: Path) -> Path:
    built = directory / "clock.so"
    command = [
        "gcc",
        "-Wall",
        "-Werror",
        "-O1",
        "-shared",
        "-fPIC",
        "-o",
        str(built),
        str(_SOURCE),
        "-ldl",
        "-lpthread",
    ]
    subprocess.run(command, check=True)
    return built


class Clock:
    """The clocks of whatever is started in `around`. They are true until something else is said."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "clock"
        self._path.write_bytes(bytes(mmap.PAGESIZE))
        with self._path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self._version, self._permille, self._wall_s, self._elapsed_s = 0, 1000, 0, 0
        self._tell()
        environment = {"LD_PRELOAD": str(_library(directory)), "TESTED_CLOCK": str(self._path)}
        python = directory / "python"
        words = " ".join(f"{name}={value}" for name, value in environment.items())
        python.write_text(f'#!/bin/sh\nexec env {words} {sys.executable} "$@"\n')
        python.chmod(0o755)
        self.around = Around(environment=environment, python=str(python))

    def pass_at(self, rate: float) -> None:
        """Let time pass so fast: 1 is true, 0 stands still."""
        self._permille = round(rate * 1000)
        self._tell()

    def step(self, *, wall_s: int = 0, elapsed_s: int = 0) -> None:
        """Make the wall clock, and the clocks of elapsed time, jump."""
        self._wall_s += wall_s
        self._elapsed_s += elapsed_s
        self._tell()

    def mend(self, *, elapsed: bool = False) -> None:
        """Let time pass as it should from now on, and take back what the wall clock was off.

        What elapsed time was off is taken back where no process is running: for one that is, it would be another step.
        """
        self._permille, self._wall_s = 1000, 0
        self._elapsed_s = 0 if elapsed else self._elapsed_s
        self._tell()

    def _tell(self) -> None:
        self._version += 1
        numbers = self._version, self._permille, self._wall_s * 10**9, self._elapsed_s * 10**9
        self._shared[: _LAYOUT.size] = _LAYOUT.pack(*numbers)

    def close(self) -> None:
        """Let go of the file."""
        self._shared.close()
