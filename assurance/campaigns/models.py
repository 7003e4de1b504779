"""Malformed models at the engine of an enclave: whatever a custodian lends, the enclave refuses it and lives on."""

import asyncio
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

from onnx import ModelProto

from assurance.campaign import Bound, Campaign, Target
from assurance.figures import Figures, of_seed, percentile
from assurance.models.edits import malformed
from assurance.models.engine import LOAD_MS, RUN_MS, Outcome, Trial
from assurance.models.graphs import SOURCES

#: Models of one seed.
MODELS: Final = 20
_PAGE_MIB: Final = os.sysconf("SC_PAGE_SIZE") / 2**20
_SLOWEST_S: Final = (LOAD_MS + RUN_MS) / 1000 + 10
_MOST_MIB: Final = 128


def memory_mib() -> float:
    """Return how much memory this process, the parent, holds now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_MIB


def descriptors() -> int:
    """Return how many descriptors this process, the parent, holds now."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def judged(trial: Trial, seed: int, graphs: tuple[ModelProto, ...]) -> list[tuple[str, Outcome]]:
    """Return what came of the models of a seed, each with the names of its edits."""
    found = []
    for number in range(MODELS):
        chance = Random(f"{seed} {number}")
        made_of = chance.choice(graphs)
        data, edits = malformed(made_of, chance)
        found.append((f"model {number} ({made_of.graph.name}: {edits})", await trial.judge(data, made_of)))
    return found


def _graphs(seed: int) -> tuple[ModelProto, ...]:
    return SOURCES[seed % len(SOURCES)]()


def _run(seeds: list[int], deadline: float) -> Iterator[Figures]:
    with tempfile.TemporaryDirectory(prefix="aigovtool-models-") as folder, asyncio.Runner() as runner:
        loop_s = runner.get_loop().time
        trial, held = Trial(Path(folder)), descriptors()
        grown_mib = 0.0
        try:
            for seed in seeds:
                if loop_s() >= deadline:
                    return
                graphs = _graphs(seed)
                before_mib = memory_mib()
                outcomes = runner.run(judged(trial, seed, graphs))
                grown_mib += memory_mib() - before_mib
                yield _figures(seed, outcomes, grown_mib, _kept(held, trial, runner))
        finally:
            runner.run(trial.end())


def _kept(held: int, trial: Trial, runner: asyncio.Runner) -> str | None:
    """End the child, after which a parent has as many descriptors as before the first."""
    runner.run(trial.end())
    now = descriptors()
    return f"the parent holds {now} descriptors and not {held}" if now != held else None


def _figures(seed: int, outcomes: list[tuple[str, Outcome]], grown_mib: float, kept: str | None) -> Figures:
    came = Counter(f"came: {outcome.came}" for _, outcome in outcomes)
    wrong = [f"{what}: {outcome.wrong}" for what, outcome in outcomes if outcome.wrong]
    return of_seed(
        seed,
        counts={"models": len(outcomes), **came},
        samples={
            "slowest_s": [round(max(outcome.seconds for _, outcome in outcomes), 2)],
            "grown_mib": [round(grown_mib, 1)],
        },
        violation="; ".join([*wrong, *([kept] if kept else [])]) or None,
    )


def _replay(seed: int) -> str:
    with tempfile.TemporaryDirectory(prefix="aigovtool-models-") as folder, asyncio.Runner() as runner:
        trial = Trial(Path(folder))
        try:
            outcomes = runner.run(judged(trial, seed, _graphs(seed)))
        finally:
            runner.run(trial.end())
    return "\n".join(
        f"{what}: {one.came}, {one.seconds:.2f} s; {one.wrong or 'nothing wrong'}" for what, one in outcomes
    )


def _figure(figures: Figures) -> str:
    came = {name.removeprefix("came: "): number for name, number in figures.counts.items() if name.startswith("came: ")}
    told = ", ".join(f"{number:,} {name}" for name, number in sorted(came.items(), key=lambda one: -one[1]))
    slowest, grown = figures.sample("slowest_s"), figures.sample("grown_mib")
    return (
        f"{figures.count('models'):,} malformed models: {told}. The parent lived on after each; slowest "
        f"{max(slowest, default=0):.1f} s (half of all seeds within {percentile(slowest or [0.0], 50):.1f} s), "
        f"its memory grew by {max(grown, default=0):.0f} MiB at most"
    )


CAMPAIGN = Campaign(
    name="models",
    claim="A malformed model, though authenticated by whoever lends it, is refused with a typed error or loaded; if "
    "it ends the engine's process, the enclave knows and lives on.",
    counts=f"models made of those of the ONNX distribution (exports, networks, a case of each operator) and of our "
    f"own, changed in attributes, shapes, types, operators, constants, wiring, names, nesting, versions and bytes, "
    f"{MODELS} a seed; sealed as a hostile custodian would and loaded by the real engine in its sandbox; what loads is "
    "run once.",
    target=Target(
        10_000,
        "models",
        (Bound("slowest_s", 100, _SLOWEST_S, "s"), Bound("grown_mib", 100, _MOST_MIB, "MiB more in a parent")),
    ),
    shows_not="that a model cannot take over the engine's process: that is what its sandbox is for. A model may be "
    f"loaded for ten minutes in the product, here for {LOAD_MS // 1000} s. The edits are not guided by which code they "
    "reach.",
    covers=(
        "src/aigovtool/codec.py",
        "src/aigovtool/crypto",
        "src/aigovtool/enclave/engines",
        "src/aigovtool/enclave/turns.py",
        "src/aigovtool/enclave/unread.py",
        "src/aigovtool/errors.py",
        "src/aigovtool/ids.py",
        "src/aigovtool/package",
        "src/aigovtool/protocol/tensor.py",
        "src/aigovtool/regular_file.py",
        "src/aigovtool/transport/room.py",
        "src/aigovtool/transport/rounds.py",
        "assurance/models",
        "assurance/campaigns/models.py",
        "assurance/parsers/protobuf.py",
        "conformance/malformed/edits.py",
    ),
    run=_run,
    replay=_replay,
    figure=_figure,
    quick=5,
    batch=10,
    steady=False,
)
