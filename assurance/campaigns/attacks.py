"""The known attacks, and the faults of the predecessor: each tried by the tests that bear its number."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.effort import LONG

from assurance.attacks import catalogue
from assurance.attacks.attack import Attack
from assurance.attacks.verdict import Played, failures, faults, read_record, seen
from assurance.campaign import Campaign, Target
from assurance.code_digest import ROOT
from assurance.figures import Figures, of_seed
from assurance.table import Table

#: The product's processes are played as they are, and without everything that Python may leave out (`-OO`).
OPTIMIZED: Final = "AIGOVTOOL_TESTS_OPTIMIZE"
_MARK_RE: Final = re.compile(r"\bmark\.(?:attack|fault)\(")
_LEVELS: Final = ("0", "2")
_HEAD: Final = ["", "Tried", "What happens instead", "How", "Seen", "Audit log", "Tests", "Result"]


def surroundings(optimize: str) -> dict[str, str]:
    """Return the environment of a round: how the product's processes are played, and that tests try all they can."""
    return {**os.environ, OPTIMIZED: optimize, LONG: "1"}


def play(mark: str, optimize: str) -> list[Played]:
    """Play the marked tests and return what they recorded.

    Raises:
        RuntimeError: pytest wrote no record; with the end of what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="aigovtool-attacks-") as folder:
        path = Path(folder) / "record.json"
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "assurance.attacks.recorder", "-q"]
        done = subprocess.run(
            [*command, "-m", mark, "--record", str(path)],
            cwd=ROOT,
            env=surroundings(optimize),
            capture_output=True,
            text=True,
            check=False,
        )
        if not path.exists():
            raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return read_record(path)


@dataclass(frozen=True)
class Trials:
    """A list of attacks under one mark; `refused` is the word for one that came to nothing."""

    attacks: tuple[Attack, ...]
    refused: str

    def run(self, seeds: list[int], deadline: float) -> Iterator[Figures]:
        """Play rounds: one per seed, each a run of all tests that bear the mark."""
        for seed in seeds:
            if time.monotonic() >= deadline:
                return
            yield self.figures(seed, play(self.attacks[0].mark, _LEVELS[seed % len(_LEVELS)]))

    def replay(self, seed: int) -> str:
        """Play one round and return what broke."""
        figures = next(self.run([seed], float("inf")))
        wrong = [words for one in figures.violations for words in (one.what, one.why) if words]
        return "\n".join([self.figure(figures), *wrong])

    def figures(self, seed: int, record: list[Played]) -> Figures:
        """Return what one round showed: what was seen of each attack, and why any does not count as refused."""
        counts = {"rounds": 1, "tests": len(record)}
        wrong: list[str] = []
        for attack in self.attacks:
            found = faults(attack, record)
            counts |= seen(attack, record)
            counts[f"{attack.title} held"] = int(not found and not attack.later)
            wrong += found
        return of_seed(seed, counts=counts, violation="; ".join(wrong) or None, why=failures(record))

    def figure(self, figures: Figures) -> str:
        """Return the figure in words."""
        later = sum(bool(one.later) for one in self.attacks)
        held = sum(self._held(one, figures) for one in self.attacks)
        beside = f"; {later} concern parts that are not there yet" if later else ""
        tests = figures.count("tests") // max(1, figures.seeds())
        return f"{held} of {len(self.attacks) - later} {self.refused}, by {tests:,} tests{beside}"

    def table(self, figures: Figures) -> Table:
        """Return a row for each attack."""
        return Table(head=_HEAD, rows=[self._row(one, figures) for one in self.attacks])

    def _held(self, attack: Attack, figures: Figures) -> bool:
        return 0 < figures.seeds() == figures.count(f"{attack.title} held")

    def _row(self, attack: Attack, figures: Figures) -> list[str]:
        def noted(name: str) -> list[str]:
            start = f"{attack.title} {name} "
            return [one.removeprefix(start) for one in figures.counts if one.startswith(start)]

        result = f"**{self.refused}**" if self._held(attack, figures) else "not shown"
        return [
            attack.title,
            attack.name,
            attack.answer,
            attack.tried,
            "; ".join([f"`{one}`" for one in noted("refusal")] + noted("figure")),
            ", ".join(f"`{one}`" for one in noted("entry")),
            str(figures.count(f"{attack.title} tests") // max(1, figures.seeds())),
            f"later: {attack.later}" if attack.later else result,
        ]


def tried(root: Path = ROOT) -> list[str]:
    """Return what is played, or used by what is: of the tests of campaigns and benchmarks only those with a mark."""
    found = [path for path in (root / "tests").iterdir() if path.name not in {"assurance", "bench", "__pycache__"}]
    found += [
        path
        for path in (*(root / "tests/assurance").glob("*.py"), *(root / "tests/bench").glob("*.py"))
        if not path.name.startswith("test_") or _MARK_RE.search(path.read_text(encoding="utf-8"))
    ]
    return sorted(path.relative_to(root).as_posix() for path in found)


def _campaign(name: str, claim: str, counts: str, trials: Trials) -> Campaign:
    return Campaign(
        name=name,
        claim=claim,
        counts=f"{counts} In every second round all processes of the product run under `python -OO`, which leaves "
        "assertions and docstrings out. What was seen is noted by the tests themselves; an attack counts when all "
        "its tests passed and every refusal and entry that is documented for it was seen.",
        target=Target(len(_LEVELS), "rounds"),
        shows_not="attacks that nobody thought of; hardware; whoever has physical access to a genuine TEE.",
        covers=(
            "src/aigovtool",
            *tried(),
            "conformance",
            *(f"assurance/{name}" for name in ("attacks", "endurance", "models", "parsers", "campaigns/attacks.py")),
        ),
        run=trials.run,
        replay=trials.replay,
        figure=trials.figure,
        table=trials.table,
        quick=0,  # a round takes minutes
        steady=False,
        alone=True,
    )


ATTACKS = _campaign(
    "attacks",
    "Every known attack on a lent model is refused, for the reason that is documented, or comes to nothing.",
    "attacks that were tried, most of them against running processes, by hosts, consumers, thieves and strangers.",
    Trials(catalogue.ATTACKS, "refused"),
)
FAULTS = _campaign(
    "faults",
    "No fault of the predecessor is in this product.",
    "faults that were found in the proof of concept before this product and in what it was built on.",
    Trials(catalogue.FAULTS, "absent"),
)
