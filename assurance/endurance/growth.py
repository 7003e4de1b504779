"""What processes and files grow by while they are used, and whether it is more than it may be.

Of each process: its own memory (RssAnon: what it has allocated, without files that are mapped), descriptors, threads
and children, so that connections, tasks' sockets and processes that nobody has waited for count as well. Of files:
bytes. All are looked at again and again while one turn of a drill lasts. A turn's sample is the least that was seen
for what comes and goes within it (a connection that is open for a moment is no leak), and the middle for memory.

The rule: of the turns after the first few, in which caches fill, the middle of the last third is no more above the
middle of the first third than a `Limit` says. A leak of one in each turn is found as soon as a third has more turns
than the limit allows in all.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median, median_low
from typing import Final

#: What was seen at one moment, or of one turn, by name ("custodian descriptors").
Seen = dict[str, float]

DESCRIPTORS: Final = "descriptors"
THREADS: Final = "threads"
CHILDREN: Final = "children"
MEMORY: Final = "MiB"
_EVERY_S: Final = 0.05
#: A third of fewer turns than this says nothing.
LEAST_TURNS: Final = 3


@dataclass(frozen=True)
class Limit:
    """By how much something may be above what it was: so much, and so much in each turn between the two."""

    most: float
    in_a_turn: float = 0.0

    def words(self) -> str:
        """Say it."""
        return f"{self.most:,.8g}" + (f" and {self.in_a_turn:,.8g} a turn" if self.in_a_turn else "")


def of_process(name: str, pid: int) -> Seen:
    """Look at a process.

    Raises:
        OSError: it is gone.
    """
    place = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (place / "status").read_text("utf-8", "replace").splitlines())
    children = 0
    for task in (place / "task").iterdir():
        with suppress(OSError):  # a thread that has just ended
            children += len((task / "children").read_text("ascii").split())
    return {
        f"{name} {MEMORY}": int(status["RssAnon"].split()[0]) / 1024,
        f"{name} {DESCRIPTORS}": len(list((place / "fd").iterdir())),
        f"{name} {THREADS}": int(status["Threads"]),
        f"{name} {CHILDREN}": children,
    }


def of_files(name: str, *paths: Path) -> Seen:
    """Add up the bytes of files; one that is not there has none."""
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return {f"{name} bytes": total}


class Watch:
    """Looks again and again, and says of each turn what was seen in it."""

    def __init__(self, look: Callable[[], Seen]) -> None:
        """Look by `look`."""
        self._look: Final = look
        self._lock: Final = threading.Lock()
        self._ended: Final = threading.Event()
        self._moments: list[Seen] = []
        self._failed: Exception | None = None

    def watch(self) -> None:
        """Look until it is ended, or cannot look any more."""
        while not self._ended.wait(_EVERY_S):
            try:
                seen = self._look()
            except (OSError, KeyError, ValueError) as error:
                self._failed = error
                return
            with self._lock:
                self._moments.append(seen)

    def end(self) -> None:
        """Look no more."""
        self._ended.set()

    def turn(self) -> Seen:
        """Return the sample of the turn that ends now, and begin another.

        Raises:
            RuntimeError: a process that was watched has gone.
        """
        with self._lock:
            moments, self._moments = self._moments, []
        if self._failed is not None:
            raise RuntimeError(f"what is watched has gone: {self._failed}") from self._failed
        return sample_of([*moments, self._look()])


def sample_of(moments: Sequence[Seen]) -> Seen:
    """Return one sample of a turn: the middle of memory, the least of what comes and goes, the last of files."""
    found: Seen = {}
    for name in moments[-1]:
        values = [moment[name] for moment in moments]
        kind = name.rpartition(" ")[2]
        found[name] = median(values) if kind == MEMORY else values[-1] if kind == "bytes" else min(values)
    return found


@contextmanager
def watching(look: Callable[[], Seen]) -> Iterator[Watch]:
    """Watch meanwhile."""
    watch = Watch(look)
    thread = threading.Thread(target=watch.watch, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.end()
        thread.join(10)


def growth(samples: Sequence[Seen], name: str) -> tuple[float, float, float]:
    """Return the middle of the first third and of the last, and how many turns lie between these middles."""
    third = len(samples) // 3
    first, last = samples[:third], samples[len(samples) - third :]
    between = len(samples) - third
    return median_low([one[name] for one in first]), median_low([one[name] for one in last]), float(between)


def grown(samples: Sequence[Seen], limits: Mapping[str, Limit]) -> list[str]:
    """Return what grew by more than it may, each in words; `samples` are the turns after the first few.

    Raises:
        ValueError: too few turns, or something was seen that no limit is about.
    """
    if len(samples) < 3 * LEAST_TURNS:
        raise ValueError(f"{len(samples)} turns say nothing of growth")
    found = []
    for name in samples[0]:
        limit = _limit_of(name, limits)
        first, last, between = growth(samples, name)
        allowed = limit.most + limit.in_a_turn * between
        if last - first > allowed:
            found.append(f"{name}: from {first:g} to {last:g} in {between:g} turns; {allowed:g} more are allowed")
    return found


def _limit_of(name: str, limits: Mapping[str, Limit]) -> Limit:
    """Return the limit of this name, or else of its kind, which is its last word."""
    for known in (name, name.rpartition(" ")[2]):
        if known in limits:
            return limits[known]
    raise ValueError(f"no limit is about {name}")
