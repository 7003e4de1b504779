"""The demo's processes and commands: everything is done through the command line, as a reader would."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aigovtool.cli.isolation import interpreter
from aigovtool.errors import FaultError

_WAIT_S: Final = 60.0
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def program() -> str:
    """Return how a reader starts this program: by its name where that is found, else by a path that works from here."""
    name = "aigovtool"
    here = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found is not None and Path(found).resolve() == here.resolve():
        return name
    if not here.exists():
        return f"{os.path.relpath(sys.executable)} -m {name}"
    relative = os.path.relpath(here)
    return str(here) if relative.startswith("..") else relative


@contextmanager
def ending_signals() -> Iterator[Callable[[], None]]:
    """Have every signal that ends a program raise KeyboardInterrupt, so that nothing is left behind.

    Yields what makes further signals wait: to be called before tidying up.
    """

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    def ignore() -> None:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)

    before = {number: signal.signal(number, interrupt) for number in _ENDING}
    try:
        yield ignore
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command came to: its exit code and the JSON document that it printed."""

    code: int
    document: dict[str, Any]


def free_port() -> int:
    """Return a loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds.

    Raises:
        FaultError: it does not within a minute.
    """
    deadline = time.monotonic() + _WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise FaultError(f"the demo waited a minute for this: {what}", reason="demo_step")
        time.sleep(0.1)


@dataclass
class Stage:
    """A directory, the processes that run in it, and the operator's file once there is one."""

    directory: Path
    show: Callable[[str], None]
    _processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """Return a file of the demo."""
        return self.directory / name

    def _command(self, words: tuple[str, ...]) -> list[str]:
        # Isolated from the beginning: a server that started itself anew would be no child that can be recognised.
        return [*interpreter(), "-m", "aigovtool.cli.demo.child", str(os.getpid()), *words]

    def _environment(self) -> dict[str, str]:
        operator = self.path("custodian") / "operator.json"
        return {**os.environ, "AIGOVTOOL_OPERATOR": str(operator), "NO_COLOR": "1"}

    def run(self, *words: str, quiet: bool = False, expect: int = 0) -> Outcome:
        """Run one command of the product to its end and return what it printed.

        Raises:
            FaultError: it ended with another exit code than `expect`.
        """
        if not quiet:
            self.show("$ aigovtool " + self._told(words))
        finished = subprocess.run(  # noqa: S603 - our own program
            self._command((*words, "--json")),
            cwd=self.directory,
            env=self._environment(),
            capture_output=True,
            timeout=_WAIT_S,
            check=False,
        )
        outcome = Outcome(finished.returncode, _document(finished.stdout))
        if outcome.code != expect:
            told = outcome.document.get("error") or finished.stderr.decode(errors="replace")[-500:]
            raise FaultError(f"`aigovtool {words[0]}` ended with {outcome.code}: {told}", reason="demo_step")
        return outcome

    def _told(self, words: tuple[str, ...]) -> str:
        return " ".join(word.replace(f"{self.directory}/", "") for word in words)

    def start(self, name: str, *words: str) -> None:
        """Start a command that goes on, with its output in a file."""
        self.show("$ aigovtool " + self._told(words) + " &")
        with self.path(f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603 - our own program
                self._command(words), cwd=self.directory, env=self._environment(), stdout=log, stderr=log
            )

    def says(self, name: str, text: str) -> bool:
        """Return whether a running command has printed `text`.

        Raises:
            FaultError: it has ended.
        """
        log = self.path(f"{name}.log").read_text(errors="replace")
        code = self._processes[name].poll()
        if code is not None and text not in log:
            raise FaultError(f"{name} ended with {code}: {log[-500:]}", reason="demo_step")
        return text in log

    def finish(self, name: str) -> Outcome:
        """Wait for the end of a started command and return what it printed."""
        code = self._processes.pop(name).wait(_WAIT_S)
        return Outcome(code, _document(self.path(f"{name}.log").read_bytes()))

    def close(self) -> None:
        """End every process: politely, then for certain."""
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(8)
            if process.poll() is None:
                process.kill()
                process.wait()


def _document(printed: bytes) -> dict[str, Any]:
    for line in _documents(printed.decode(errors="replace")):
        return line
    return {}


def _documents(text: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    position = text.find("{")
    while position >= 0:
        try:
            value, end = decoder.raw_decode(text, position)
        except ValueError:
            end = position + 1
        else:
            if isinstance(value, dict):
                yield value
        position = text.find("{", end)
