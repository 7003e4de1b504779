"""What is common to campaigns that kill real processes under load: the life of a deployment, and what must hold in it.

After each kill: answers <= posted + pending <= budget. At the end, when all enclaves have stopped in good order: what
was charged and not answered is no more than what nobody closed or two operators have written off.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.e2e.world import World

from assurance.campaign import Run, each_seed
from assurance.drills.load import Load, load
from assurance.drills.second import SecondOperator
from assurance.figures import Figures, of_seed
from assurance.machine import load as machine_load

BUDGETS = (1_000, 10_000, 100_000)


class Broken(Exception):  # noqa: N818 -- a finding
    """What must never be seen."""


@dataclass
class Killing:
    """One deployment that is asked while its processes are killed, what was counted, and a trace."""

    world: World
    asking: Load
    budget: int
    chance: random.Random
    second: SecondOperator
    counts: dict[str, int] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def kill(self, times: int, one: Callable[[], tuple[str, str]], wait_ready: Callable[[], None]) -> None:
        """Kill so many, each by `one`, which returns a kind of victim and its name; all are ready before the next."""
        for _ in range(times):
            time.sleep(self.chance.uniform(0.05, 1.0))
            kind, name = one()
            self.told.append(f"killed the {name} after {self.asking.answered()} answers")
            for counted in ("kills", f"kills of the {kind}"):
                self.counts[counted] = self.counts.get(counted, 0) + 1
            wait_ready()
            self.check()
            self.second.write_off_dead()

    def check(self) -> None:
        """Compare what was answered until now with the ledger, which is read after it."""
        answered = self.asking.answered()
        charged = self.world.charged()
        if not answered <= charged <= self.budget:
            raise Broken(f"{answered} answers, {charged} units charged, a budget of {self.budget}")

    def end(self) -> None:
        """Add up, now that every enclave has closed what it still had."""
        self.check()
        answered, charged, statuses = self.asking.answered(), self.world.charged(), self.asking.statuses
        outstanding, lost = self.world.outstanding() + self.second.written_off, charged - answered
        self.told.append(
            f"{answered} answered, {charged} charged, {outstanding} outstanding or written off "
            f"({self.second.written_off}), {statuses}"
        )
        self.counts |= {
            "answers": answered,
            "charged": charged,
            "lost": lost,
            "broken": self.asking.broken,
            "written off": self.second.written_off,
            "server errors": sum(number for status, number in statuses.items() if status >= 500),
        }
        if lost > outstanding:
            raise Broken(f"{lost} units were lost, and {outstanding} were outstanding or written off; {self.told}")


@contextmanager
def killing(
    world: World, budget: int, chance: random.Random, consumers: int, ports: tuple[int | None, ...] = (None,)
) -> Iterator[Killing]:
    """Yield a deployment that is asked by so many consumers of each enclave until the block ends."""
    second = SecondOperator(world)
    with load(world, consumers, pause_s=0.005, ports=ports) as asking:
        yield Killing(world, asking, budget, chance, second, told=[f"budget {budget}"])


def campaign_of(drill: Callable[[int], Killing], lives: str) -> Run:
    """Return the run that plays one life after another."""

    def figures_of(seed: int) -> Figures:
        try:
            done = drill(seed)
        except (Broken, AssertionError) as broken:  # an assertion: the service has not come back in time
            return of_seed(seed, counts={lives: 1}, violation=str(broken))
        return of_seed(seed, counts={lives: 1, **done.counts}, samples={"load": [machine_load()]})

    figures_of.__module__ = drill.__module__
    return each_seed(figures_of)


def figure(figures: Figures, lives: str, victims: tuple[str, ...]) -> str:
    """Say what was counted."""
    count, loads = figures.count, figures.sample("load")
    killed = ", ".join(f"{count(f'kills of the {victim}'):,} of the {victim}" for victim in victims)
    return (
        f"{count('kills'):,} kills ({killed}) in {count(lives):,} {lives} under load: {count('answers'):,} answers, "
        f"{count('charged'):,} units charged, {count('lost'):,} of them lost with killed enclaves (two operators wrote "
        f"off leases of {count('written off'):,} units, used or not), {count('server errors'):,} server errors; "
        f"{len(figures.violations)} violations; load of the machine {min(loads, default=0):.1f} to "
        f"{max(loads, default=0):.1f}"
    )
