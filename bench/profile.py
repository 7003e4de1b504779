"""Where the processor time of an enclave goes that is asked as fast as it answers.

The main thread of the parent is interrupted as often as the clock ticks while it works (some hundred times a second),
and what it was in is counted: the function, with whatever C it called. What the engine child takes is measured as a
whole beside it. A sample costs some microseconds, which is nothing against what is between two.
"""

import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.e2e.world import ENCLAVE_PROGRAM, wait_for

from aigovtool.codec import Message
from bench.graphs import GRAPHS, Graph
from bench.lent import lent
from bench.served import Served, processor_s
from bench.tables import table

_PROGRAM: Final = """
import collections, json, os, pathlib, signal

counts, running = collections.Counter(), []

def sample(number, frame):
    if frame is not None:
        counts[frame.f_globals.get("__name__", "?") + "|" + frame.f_code.co_qualname] += 1

def begin_or_end(number, frame):
    if not running:
        running.append(True)
        counts.clear()
        signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
        return
    running.clear()
    signal.setitimer(signal.ITIMER_PROF, 0)
    out = pathlib.Path(os.environ["AIGOVTOOL_BENCH_PROFILE"])
    out.with_suffix(".part").write_text(json.dumps(counts))
    out.with_suffix(".part").rename(out)

signal.signal(signal.SIGPROF, sample)
signal.signal(signal.SIGUSR1, begin_or_end)
"""
#: What the first of these that a module's name begins with is for.
_PARTS: Final[Mapping[str, str]] = {
    "asyncio.sslproto": "TLS (asyncio, OpenSSL)",
    "ssl": "TLS (asyncio, OpenSSL)",
    "asyncio": "event loop and sockets (asyncio)",
    "selectors": "event loop and sockets (asyncio)",
    "aigovtool.transport": "HTTP",
    "uvicorn": "HTTP",
    "starlette": "HTTP",
    "aigovtool.enclave.engines": "to the engine and back",
    "aigovtool.enclave.gateway.batch": "receipts, and what is sent",
    "aigovtool.ledger.receipt": "receipts, and what is sent",
    "aigovtool.ledger.merkle": "receipts, and what is sent",
    "aigovtool.crypto.sign": "receipts, and what is sent",
    "aigovtool.enclave.gateway.answer": "receipts, and what is sent",
    "aigovtool.enclave.gateway": "reading requests",
    "aigovtool.protocol.infer_body": "reading requests",
    "aigovtool.protocol.oip": "reading requests",
    "aigovtool.protocol.tensor": "reading requests",
    "aigovtool.protocol": "metering",
    "aigovtool.ledger": "metering",
    "aigovtool.enclave": "metering",
}
_REST: Final = "the rest"
_MOST_FUNCTIONS: Final = 12
#: Of each model: over how many connections it is asked.
MODELS: Final[Mapping[str, int]] = {"mlp": 32, "resnet50": 8}
_SECONDS: Final = 6.0


class Share(Message):
    """So much of the parent's processor time was spent in this."""

    name: str
    share: float


class Profile(Message):
    """One model: microseconds of processor time for an answer, of parent and engine, and what the parent did."""

    model: str
    connections: int
    parent_us: float
    engine_us: float
    samples: int
    parts: tuple[Share, ...]
    functions: tuple[Share, ...]


def profile(model: str, connections: int, graph: Graph | None = None, seconds: float = _SECONDS) -> Profile:
    """Ask an enclave as fast as it answers, and look at what it does meanwhile."""
    with TemporaryDirectory(prefix="aigovtool-bench-") as folder:
        out = Path(folder) / "counts"
        with _told_where(out), lent(graph or GRAPHS[model](), program=_PROGRAM + ENCLAVE_PROGRAM) as enclave:
            parent, engine = enclave.pids()
            answers, (parent_s, engine_s) = _asked(enclave, connections, seconds, parent, engine)
            os.kill(parent, signal.SIGUSR1)
            wait_for(out.exists, "the profile is written")
        counts: dict[str, int] = json.loads(out.read_text(encoding="utf-8"))
    return made(model, connections, counts, parent_us=1e6 * parent_s / answers, engine_us=1e6 * engine_s / answers)


def _asked(
    enclave: Served, connections: int, seconds: float, parent: int, engine: int
) -> tuple[int, tuple[float, float]]:
    enclave.measure(connections, 1.0)  # what is made at the first request is made
    os.kill(parent, signal.SIGUSR1)
    before = processor_s(parent), processor_s(engine)
    point = enclave.measure(connections, seconds)
    return point.answers, (processor_s(parent) - before[0], processor_s(engine) - before[1])


@contextmanager
def _told_where(out: Path) -> Iterator[None]:
    os.environ["AIGOVTOOL_BENCH_PROFILE"] = str(out)
    try:
        yield
    finally:
        del os.environ["AIGOVTOOL_BENCH_PROFILE"]


def made(model: str, connections: int, counts: Mapping[str, int], *, parent_us: float, engine_us: float) -> Profile:
    """Return what was counted, as shares: by module and function, `module|function`."""
    total = max(1, sum(counts.values()))
    parts: dict[str, int] = {}
    for place, count in counts.items():
        part = part_of(place.partition("|")[0])
        parts[part] = parts.get(part, 0) + count
    functions = {place.replace("|", ": "): count for place, count in counts.items()}
    return Profile(
        model=model,
        connections=connections,
        parent_us=parent_us,
        engine_us=engine_us,
        samples=total,
        parts=_shares(parts, total),
        functions=_shares(functions, total)[:_MOST_FUNCTIONS],
    )


def part_of(module: str) -> str:
    """Return what a module is for."""
    found = [name for name in _PARTS if module == name or module.startswith((f"{name}.", f"{name}_"))]
    return _PARTS[max(found, key=len)] if found else _REST


def _shares(counts: Mapping[str, int], total: int) -> tuple[Share, ...]:
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return tuple(Share(name=name, share=count / total) for name, count in ordered)


_PART: Final = """\
### What remains

Processor time for one answer, everything on, as fast as answers come: of the parent, which meters, and of the engine
child, which computes. Of the parent's, what it was in when the clock interrupted it ({samples} times); a function's
share has the C in it that it calls, and *TLS* the copies that asyncio makes.

"""


def profile_part(profiles: tuple[Profile, ...]) -> str:
    """Return what the page says of it."""
    said = _PART.format(samples=" and ".join(f"{one.samples:,}" for one in profiles))
    names = [f"{one.model}, {one.connections} connections" for one in profiles]
    parts = dict.fromkeys(share.name for one in profiles for share in one.parts)
    rows = [
        ("engine child", *(f"{one.engine_us:,.0f} us" for one in profiles)),
        ("parent", *(f"{one.parent_us:,.0f} us" for one in profiles)),
        *((f"- {name}", *(_of(one, name) for one in profiles)) for name in parts),
    ]
    told = [said, table(("", *names), rows)]
    for one, name in zip(profiles, names, strict=True):
        functions = ((f"`{share.name}`", f"{share.share:.1%}") for share in one.functions)
        told.append(f"\n{name}, the functions with most:\n\n" + table(("function", "of the parent"), functions))
    return "".join(told)


def _of(one: Profile, part: str) -> str:
    shares = [share.share for share in one.parts if share.name == part]
    return f"{shares[0]:.1%}, {shares[0] * one.parent_us:,.0f} us" if shares else ""
