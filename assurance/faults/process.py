"""A process that lives a part of a ledger's life and is made to fail at one system call on the ledger's files.

The process is forked from one that has everything loaded, so that a run costs milliseconds. Before the part in
question `strace` is attached to all its threads; it looks only at calls that name or hold one of the ledger's files,
and kills the process as it enters the N-th of a kind, or answers that call with an error in the kernel's place. The
process tells what was answered through a pipe, after the answer's future was resolved.
"""

import asyncio
import logging
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from tests.custodian.host_clock import told_by

from aigovtool.codec import decode, encode
from aigovtool.custodian.hub import Hub
from aigovtool.custodian.senders import Senders
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.sqlite import Sqlite
from assurance.faults.life import Life, Told

#: Everything that changes a file or makes a change last.
CALLS = (
    "write",
    "pwrite64",
    "pwritev",
    "fallocate",
    "ftruncate",
    "fsync",
    "fdatasync",
    "sync_file_range",
    "rename",
    "renameat2",
    "unlink",
    "unlinkat",
)
#: The writer wakes the event loop through a socket: after COMMIT, before anybody is answered.
ANSWER = "sendto"
_LINE_RE = re.compile(r"(\d+) +(\w+)\((.*)")
_ATTACH_S = 20.0


class Part(StrEnum):
    """The part of a life in which the process fails."""

    OPENING = "opening"
    SERVING = "serving"
    CLOSING = "closing"


@dataclass(frozen=True)
class Fault:
    """What happens at the `number`-th call of a kind: `signal=SIGKILL`, or `error=EIO`, there or from there on."""

    call: str
    number: int
    what: str
    onwards: bool = False

    def option(self) -> str:
        """Say it to strace."""
        return f"inject={self.call}:{self.what}:when={self.number}{'+' if self.onwards else ''}"


@dataclass(frozen=True)
class Ended:
    """What a process told, how it ended, and the calls it made on the ledger's files, one line each."""

    told: list[Told]
    killed: bool
    code: int
    calls: list[str]


@dataclass(frozen=True)
class Watch:
    """Which calls are looked at: those of these kinds, on the ledger's files or on whatever."""

    calls: tuple[str, ...] = CALLS
    files: bool = True

    def options(self, directory: Path, *, data: bool) -> list[str]:
        """Say it to strace."""
        paths = [*ledger_paths(directory), *([directory / "told"] if data else [])] if self.files else []
        chosen = ["-e", f"trace={','.join(self.calls)}", "-y"]
        chosen += ["-xx", "-s", "1000000"] if data else ["-s", "0"]
        return [*chosen, *(part for path in paths for part in ("-P", str(path)))]


_LEDGER = Watch()
#: The moments between COMMIT and the answer.
ANSWERS = Watch((ANSWER,), files=False)


def require_strace() -> None:
    """Refuse to count anything where nothing can be made to fail.

    Raises:
        SystemExit: strace is not installed.
    """
    if shutil.which("strace") is None:
        raise SystemExit("strace is not installed: scripts/debian-packages.sh installs it")


def ledger_paths(directory: Path) -> list[Path]:
    """Return what SQLite may write: the file, its log and index, and the directory that names them."""
    names = ("ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db-journal")
    return [directory, *(directory / name for name in names)]


@dataclass(frozen=True)
class Segment:
    """Some steps of a life that begin with the ledger in `start`, a copy taken while it was served."""

    life: Life
    start: Path
    steps: int

    def run(
        self, directory: Path, part: Part, fault: Fault | None = None, *, data: bool = False, watch: Watch = _LEDGER
    ) -> Ended:
        """Live it in a copy at `directory`; with `data` every byte is recorded, and what is told lies in a file."""
        shutil.copytree(self.start, directory)
        ready, told, go = os.pipe(), os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            os.close(told[0])
            self._be(directory, part, ready[1], told[1], go[0], in_file=data)
        os.close(told[1])
        os.read(ready[0], 1)
        log = directory.with_suffix(".strace")
        tracer = _attach(child, [*watch.options(directory, data=data), "-o", str(log)], fault)
        os.write(go[1], b"g")
        heard = _read_all(told[0])
        _, status = os.waitpid(child, 0)
        tracer.wait()
        for end in (*ready, told[0], *go):
            os.close(end)
        if data:
            heard = (directory / "told").read_bytes()
        lines = log.read_text(encoding="latin-1").splitlines()
        log.unlink()
        calls = [line for line in lines if _LINE_RE.match(line) or "resumed" in line]
        return Ended(
            told=[decode(line, Told) for line in heard.splitlines()],
            killed=os.WIFSIGNALED(status),
            code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status),
            calls=calls,
        )

    def _be(self, directory: Path, part: Part, ready: int, told: int, go: int, *, in_file: bool) -> None:
        """Be the process, and never return."""
        code = 70
        try:
            logging.disable(logging.CRITICAL)
            if in_file:
                told = os.open(directory / "told", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

            def wait_here(where: Part) -> None:
                if where is part:
                    os.write(ready, b"r")
                    os.read(go, 1)

            wait_here(Part.OPENING)
            life = self.life
            # Keys, imports and settings are there already; only the ledger is opened afresh.
            backend = Sqlite(directory / "ledger.db")
            database, hub, senders = Database(backend), Hub(), Senders()
            life.bench.custodian = replace(
                life.custodian, database=database, hub=hub, senders=senders, newest_note=None
            )
            life.custodian.clock = told_by(lambda: life.bench.now_ms)
            life.tell = lambda line: _write_all(told, encode(line) + b"\n")
            wait_here(Part.SERVING)
            if part is not Part.OPENING:
                asyncio.run(life.steps(self.steps))
            wait_here(Part.CLOSING)
            if part is Part.CLOSING or in_file:
                life.custodian.database.close()
            code = 0
        finally:
            os._exit(code)


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _read_all(file: int) -> bytes:
    parts = []
    while part := os.read(file, 1 << 16):
        parts.append(part)
    whole = b"".join(parts)
    return whole[: whole.rfind(b"\n") + 1]  # a line that was cut off was not told


def _attach(pid: int, options: list[str], fault: Fault | None) -> subprocess.Popen[bytes]:
    """Attach strace to every thread of a process, and return once it holds them all."""
    command = ["strace", "-f", "-p", str(pid), *options]
    command += [] if fault is None else ["-e", fault.option()]
    tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + _ATTACH_S
    while not _held(pid, tracer.pid):
        if tracer.poll() is not None or time.monotonic() > deadline:
            raise OSError(f"strace cannot attach: {' '.join(command)}")
        time.sleep(0.0005)
    return tracer


def _held(pid: int, tracer: int) -> bool:
    threads = list(Path(f"/proc/{pid}/task").iterdir())
    return all(f"TracerPid:\t{tracer}\n" in (thread / "status").read_text(encoding="ascii") for thread in threads)


def words(line: str) -> str:
    """Return a call as strace saw it, without its thread and folder."""
    return re.sub(r'^\d+ +|"[^"]*"\.*, |/[^>]*/(?=[^/>]*>)|"/[^"]*/', "", line)


def called(ended: Ended) -> Counter[str]:
    """Return how many calls of each kind a process made."""
    found = (_LINE_RE.match(line) for line in ended.calls)
    return Counter(match[2] for match in found if match)
