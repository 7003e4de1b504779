"""The simulation catches a protocol with one rule removed; otherwise its silence would mean nothing."""

from functools import cache

import pytest
from tests.simulation.history import history, trace
from tests.simulation.mutants import LIVENESS, SAFETY, WASTE, Mutant
from tests.simulation.scene import Violation
from tests.simulation.waste import SCARCE, USUAL, Day, waste
from tests.simulation.world import PRODUCTION, World

SEEDS = 60
# One history in fifty shows the rarest failure to recover.
SEEDS_TO_RECOVER = 200
# A day of scarcity is short, and what shows on it is small.
SEEDS_OF_A_DAY = {USUAL: 30, SCARCE: 240}


@cache
def wasted_by_the_protocol(day: Day) -> float:
    return sum(waste(seed, PRODUCTION, day).held for seed in range(SEEDS_OF_A_DAY[day]))


def first_violation(mutant: Mutant, *, recovering: bool) -> tuple[int, Violation] | None:
    for seed in range(SEEDS_TO_RECOVER if recovering else SEEDS):
        try:
            history(seed, mutant.rules) if recovering else World(seed, mutant.rules).run()
        except Violation as violation:
            return seed, violation
    return None


def test_there_are_mutants_enough() -> None:
    """At least twenty rules of safety, and all names differ."""
    names = [mutant.name for mutant in (*SAFETY, *LIVENESS, *WASTE)]
    assert len(SAFETY) >= 20
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("mutant", SAFETY, ids=lambda mutant: mutant.name)
def test_a_protocol_without_this_rule_is_unsafe(mutant: Mutant) -> None:
    """What the rule protects is violated within the same seeds, and the trace ends with it."""
    found = first_violation(mutant, recovering=False)
    assert found is not None
    seed, violation = found
    assert violation.kind in mutant.kinds
    assert str(violation) in trace(seed, mutant.rules).splitlines()[-1]


@pytest.mark.parametrize("mutant", LIVENESS, ids=lambda mutant: mutant.name)
def test_a_protocol_without_this_rule_does_not_recover(mutant: Mutant) -> None:
    """A consumer with budget is not served again within two ttl of the last fault."""
    found = first_violation(mutant, recovering=True)
    assert found is not None
    assert found[1].kind in mutant.kinds


@pytest.mark.parametrize("mutant", WASTE, ids=lambda mutant: mutant.name)
def test_a_protocol_without_this_rule_wastes_units(mutant: Mutant) -> None:
    """Nothing is over-spent, and more is charged without being released than by the real protocol."""
    held = sum(waste(seed, mutant.rules, mutant.day).held for seed in range(SEEDS_OF_A_DAY[mutant.day]))
    assert held > wasted_by_the_protocol(mutant.day) * (100 + mutant.day.by) / 100
