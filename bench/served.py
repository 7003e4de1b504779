"""Something that answers requests, and what one measurement of it says."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from aigovtool.codec import Message, decode, encode
from bench.load import Plan, Seen

ROOT: Final = Path(__file__).resolve().parent.parent
T = TypeVar("T")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Point(Message):
    """One measurement.

    `cpu_us` is processor time of the server per answer; `generator_share` that of the generator, of one core; memory
    is the server's share of what it maps (PSS), afterwards.
    """

    server: str
    model: str
    connections: int
    per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    generator_share: float
    memory_mib: int
    answers: int
    #: Requests that were not answered with 200: another server's, under more load than it takes.
    failed: int = 0

    @classmethod
    def of(cls, server: str, model: str, connections: int, seen: Seen, *, cpu_s: float, memory_mib: int) -> "Point":
        """Return what a measurement says."""
        return cls(
            server=server,
            model=model,
            connections=connections,
            per_s=seen.answers / seen.seconds,
            cpu_us=1e6 * cpu_s / seen.answers,
            p50_ms=1000 * seen.p50_s,
            p99_ms=1000 * seen.p99_s,
            generator_share=seen.cpu_s / seen.seconds,
            memory_mib=memory_mib,
            answers=seen.answers,
            failed=seen.failed,
        )


@dataclass(frozen=True)
class Served:
    """A server that is up, and the one request that it is asked."""

    name: str
    model: str
    port: int
    head: Path
    body: Path
    pids: Callable[[], Sequence[int]]
    tls: bool = False
    certificate: Path | None = None
    #: It may refuse, so that the others can be measured all the same.
    may_fail: bool = False

    def measure(self, connections: int, seconds: float, per_s: float = 0.0) -> Point:
        """Ask for some seconds: as fast as answers come, or so often.

        Raises:
            RuntimeError: nothing was answered with 200, or not everything although nothing may fail.
        """
        plan = Plan(
            port=self.port,
            connections=connections,
            seconds=seconds,
            per_s=per_s,
            head=str(self.head),
            body=str(self.body),
            tls=self.tls,
            certificate="" if self.certificate is None else str(self.certificate),
        )
        pids = self.pids()
        seen, cpu_s = told("bench.load", plan, lambda: sum(map(processor_s, pids)))
        if (seen.failed and not self.may_fail) or not seen.answers:
            raise RuntimeError(f"{self.name} failed {seen.failed} times; first: {seen.first_failure}")
        return Point.of(self.name, self.model, connections, seen, cpu_s=cpu_s, memory_mib=sum(map(memory_mib, pids)))


class Begun:
    """A process of ours that is ready for what it was told to do."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Hold its pipes; use `begun` instead."""
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("no pipes")
        self.pid: Final = process.pid
        self._stdin, self._stdout = process.stdin, process.stdout

    def told(self, line: bytes) -> bytes:
        """Say a line, and return the line that comes back."""
        self._stdin.write(line + b"\n")
        self._stdin.flush()
        return self._stdout.readline().strip()

    def go(self, kind: type[T]) -> T:
        """Let it do so; return what it says of it.

        Raises:
            RuntimeError: it has ended, and says nothing.
        """
        said = self.told(b"")
        if not said:
            raise RuntimeError("it was broken off")
        return decode(said, kind)


@contextmanager
def begun(module: str, plan: Message) -> Iterator[Begun]:
    """Start a process of ours that does what `plan` says. At the end of the block its standard input is closed.

    Raises:
        RuntimeError: it did not begin.
    """
    with subprocess.Popen(
        [sys.executable, "-m", module], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        made = Begun(process)
        if made.told(encode(plan)) != b"ready":
            raise RuntimeError(f"{module} did not begin")
        yield made


def told(module: str, plan: Message, cpu_s: Callable[[], float]) -> tuple[Seen, float]:
    """Let a process of ours measure by `plan`; return what it saw, and by how much `cpu_s` grew meanwhile."""
    with begun(module, plan) as process:
        before = cpu_s()
        seen = process.go(Seen)
        return seen, cpu_s() - before


def processor_s(pid: int) -> float:
    """Return the processor time that a process has used, in seconds (proc(5): utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_mib(pid: int) -> int:
    """Return a process's share of the memory that it maps."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return int(rollup.split("Pss:")[1].split()[0]) >> 10
