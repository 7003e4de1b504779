"""How many units the protocol keeps from being used: charged, and not released.

The figure is a mean over time, in units: at each moment, what all rows are charged less what was released. It counts
what leases hold idle and what was lost for good. It is no fault by itself (a lease must be held to be used), but a rule
that saves units must lower it.
"""

from dataclasses import dataclass

from tests.simulation.scene import SCARCITY, START_MS, WORKDAY, Weather
from tests.simulation.world import Rules, World


@dataclass(frozen=True)
class Day:
    """Weather without malice, and steps of it; `by` is how much more waste (in percent) shows that a rule is gone."""

    name: str
    weather: Weather
    steps: int
    by: int


USUAL = Day("an ordinary day", WORKDAY, 250, by=10)
SCARCE = Day("a day of scarcity", SCARCITY, 120, by=2)
DAYS = (USUAL, SCARCE)


@dataclass(frozen=True)
class Waste:
    """Units that were charged and not released, as a mean over one history, and the units that were released."""

    held: float
    released: int


def waste(seed: int, rules: Rules, day: Day) -> Waste:
    """Play one history and return what was wasted.

    Raises:
        Violation: also a wasteful protocol must not do what must never happen.
    """
    world = World(seed, rules, day.weather).run(day.steps)
    elapsed_ms = max(1, world.scene.ms - START_MS)
    return Waste(world.witness.idle_unit_ms / elapsed_ms, world.witness.released_units)
