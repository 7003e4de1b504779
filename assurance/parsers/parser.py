"""What a parser under test is, and how the inputs of a seed are made and judged.

An input is changed from a genuine one, given to the product, and judged by an oracle that shares no code with it. What
is wrong: an input that is accepted and should not be, a value that differs from the independent reading, a refusal with
an error that is not among those that the caller expects, anything else that is raised, and unbounded time or memory.

All is drawn from the seed: the same seed makes the same inputs with the same verdicts, in every process.
"""

import time
import traceback
import warnings
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Final

from conformance.malformed import structured

#: An input: what is received, in as many parts as it comes in.
Parts = tuple[bytes, ...]
#: Returns what is wrong with an input that was accepted, or None.
Oracle = Callable[[Parts, object], str | None]
#: Returns what is wrong with a refusal, or None.
RefusalOracle = Callable[[Parts, Exception], str | None]
#: Seconds since whenever.
Clock = Callable[[], float]

#: Inputs of one seed.
INPUTS: Final = 50
#: More than this is told of no seed.
_TOLD: Final = 5
#: Parts are cut here, so that what is measured is not the harness: edits of one input multiply.
MOST_BYTES: Final = 2 << 20
#: Of what each parser is made: a change of these voids the figures of all.
SHARED: Final = (
    "assurance/parsers/campaign.py",
    "assurance/parsers/parser.py",
    "conformance/malformed/der.py",
    "conformance/malformed/edits.py",
    "conformance/malformed/structured.py",
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of input of a parser.

    Attributes:
        name: of the kind.
        genuine: inputs that are accepted as they are.
        edit: makes another input of a genuine one.
        read: the product; refuses by raising.
        wrong: the oracle for what was accepted.
        refusals: the errors by which it may refuse.
        refused_wrongly: the oracle for what was refused, where there is one.
        weight: how often it is chosen.
    """

    name: str
    genuine: tuple[Parts, ...]
    edit: Callable[[Parts, Random], Parts]
    read: Callable[[Parts], object]
    wrong: Oracle
    refusals: tuple[type[Exception], ...]
    refused_wrongly: RefusalOracle = lambda _parts, _error: None
    weight: int = 1


@dataclass(frozen=True, kw_only=True)
class Parser:
    """A parser of bytes from outside. `claim`, `counts` and `shows_not` are for the page; `covers` are its own files.

    `make` makes its kinds, once in a process. `most_mib` bounds by how much the memory of a process may grow.
    """

    name: str
    claim: str
    counts: str
    shows_not: str
    covers: tuple[str, ...]
    make: Callable[[], tuple[Kind, ...]]
    most_mib: int = 64

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of inputs, each accepted once, so that what is loaded for the first input is no input's fault."""
        made = self.make()
        for kind in made:
            for parts in kind.genuine:
                kind.read(parts)
        return made

    @cached_property
    def began_mib(self) -> float:
        """The memory of this process when it had judged nothing but genuine inputs."""
        return peak_mib()


@dataclass(frozen=True)
class Input:
    """The input of this number among those of a seed."""

    number: int
    kind: Kind
    parts: Parts

    def called(self) -> str:
        """Return how it is named where it is told of."""
        return f"{self.kind.name}, input {self.number}, sha256 {digest(self.parts)}"

    def shown(self) -> str:
        """Return the whole of it, each part in base64."""
        parts = "\n".join(f"  part {at}: {b64encode(part).decode()}" for at, part in enumerate(self.parts))
        return f"{self.called()}\n{parts}"


@dataclass(frozen=True)
class Verdict:
    """How an input was received: what is wrong, if anything is, and how long the processor worked on it."""

    accepted: bool
    problem: str | None
    seconds: float


@dataclass
class Outcome:
    """What was counted with the inputs of one seed."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[str, Input]] = field(default_factory=list)
    slowest_s: float = 0.0

    def add(self, made: Input, verdict: Verdict) -> None:
        """Count one more."""
        self.counts["inputs"] += 1
        self.counts[f"of {made.kind.name}"] += 1
        self.counts["accepted" if verdict.accepted else "refused"] += verdict.problem is None
        self.slowest_s = max(self.slowest_s, verdict.seconds)
        if verdict.problem is not None:
            self.wrong.append((verdict.problem, made))

    def told(self) -> str | None:
        """Return what was wrong, in one line; None if nothing was."""
        return "; ".join(f"{problem} ({made.called()})" for problem, made in self.wrong[:_TOLD]) or None


def digest(parts: Parts) -> str:
    """Return the digest of an input, in hexadecimal; parts cannot be cut elsewhere and give the same."""
    state = sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "big") + part)
    return state.hexdigest()


def inputs_of(parser: Parser, seed: int) -> Iterator[Input]:
    """Yield the inputs of a seed; what an edit left as it was is none."""
    chance = Random(seed)
    weights = [kind.weight for kind in parser.kinds]
    for number in range(INPUTS):
        (kind,) = chance.choices(parser.kinds, weights)
        genuine = chance.choice(kind.genuine)
        own = Random(chance.getrandbits(64))  # so that what one input draws changes no other
        parts = tuple(part[:MOST_BYTES] for part in kind.edit(genuine, own))
        if parts not in kind.genuine:
            yield Input(number, kind, parts)


def judged(made: Input, clock: Clock = time.process_time) -> Verdict:
    """Give an input to the product, and judge what comes of it. Only the product is timed, by what it computes."""
    kind, since = made.kind, clock()
    try:
        value = kind.read(made.parts)
    except kind.refusals as error:
        seconds = clock() - since
        problem = _asked(partial(kind.refused_wrongly, made.parts, error))
        return Verdict(accepted=False, problem=problem, seconds=seconds)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - that none comes is what is claimed; a panic in Rust is no Exception
        return Verdict(accepted=False, problem=_raised(error), seconds=clock() - since)
    seconds = clock() - since
    return Verdict(accepted=True, problem=_asked(partial(kind.wrong, made.parts, value)), seconds=seconds)


def _asked(oracle: Callable[[], str | None]) -> str | None:
    """Return what an oracle says; one that fails is looked into as well."""
    try:
        return oracle()
    except Exception as error:  # noqa: BLE001 - what it cannot read is not what it should be
        return f"not understood by the oracle, which {_raised(error)}"


def _raised(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/aigovtool/" in frame.filename] or frames
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
    return f"raised {type(error).__name__} at {where}: {str(error)[:80]!r}"


def play(parser: Parser, seed: int, clock: Clock = time.process_time) -> Outcome:
    """Make the inputs of a seed and have each judged."""
    found = Outcome()
    with warnings.catch_warnings(action="ignore"):  # what libraries think of a malformed input is no part of a verdict
        _ = parser.began_mib if parser.kinds else 0.0
        for made in inputs_of(parser, seed):
            found.add(made, judged(made, clock))
    return found


def replayed(parser: Parser, seed: int) -> str:
    """Return what is wrong with the inputs of a seed, each of those whole, and what was counted."""
    found = play(parser, seed)
    wrong = [f"{problem}: {made.shown()}" for problem, made in found.wrong]
    return "\n".join([*wrong, f"{dict(sorted(found.counts.items()))}", f"slowest {found.slowest_s:.4f} s"])


def grown_mib(parser: Parser) -> float:
    """Return by how much the most memory of this process has grown since it had judged nothing but genuine inputs."""
    return peak_mib() - parser.began_mib


def peak_mib() -> float:
    """Return the most memory that this process has had, in MiB, from the kernel's account of it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def edit_one(parts: Parts, chance: Random) -> Parts:
    """Change one part, by what it is seen to be, once or a few times."""
    changed = list(parts)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        at = chance.randrange(len(changed))
        changed[at] = structured.edit(changed[at], chance)
    return tuple(changed)
