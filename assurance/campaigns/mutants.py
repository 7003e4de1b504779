"""Protocols with one rule removed: the simulation must catch each, or its silence means nothing."""

import time
from collections.abc import Iterator

from tests.simulation import mutants
from tests.simulation.history import history, trace
from tests.simulation.mutants import Mutant
from tests.simulation.scene import Violation
from tests.simulation.waste import DAYS, Day, waste
from tests.simulation.world import PRODUCTION, World

from assurance.campaign import Campaign, Target
from assurance.campaigns.overspend import COVERS
from assurance.figures import Figures, of_seed

_SEEDS, _QUICK = 200, 60
#: A day of scarcity is short, and what shows on it is small.
_SEEDS_OF_WASTE = 240


def _caught(mutant: Mutant, seed: int) -> bool:
    """Return whether the simulation sees this mutant in this history.

    Raises:
        Violation: it saw something, but not what the missing rule protects.
    """
    try:
        if mutant in mutants.LIVENESS:
            history(seed, mutant.rules)
        else:
            World(seed, mutant.rules).run()
    except Violation as violation:
        if violation.kind not in mutant.kinds:
            raise Violation(violation.kind, f"by the mutant {mutant.name!r}: {violation}") from None
        return True
    return False


def _run(seeds: list[int], deadline: float) -> Iterator[Figures]:
    for seed in seeds:
        if time.monotonic() >= deadline:
            return
        try:
            caught = {f"mutant: {one.name}": int(_caught(one, seed)) for one in _ALL}
        except Violation as violation:
            yield of_seed(seed, counts={"histories of each": 1}, violation=str(violation))
            continue
        yield of_seed(seed, counts={"histories of each": 1, **caught})


_ALL = (*mutants.SAFETY, *mutants.LIVENESS)


def _figure(figures: Figures) -> str:
    caught = {one.name: figures.count(f"mutant: {one.name}") for one in _ALL}
    safe = sum(caught[one.name] > 0 for one in mutants.SAFETY)
    live = sum(caught[one.name] > 0 for one in mutants.LIVENESS)
    hardest = min(caught, key=lambda name: caught[name])
    missed = [name for name, times in caught.items() if not times]
    return (
        f"{safe} of {len(mutants.SAFETY)} mutants of safety and {live} of {len(mutants.LIVENESS)} of liveness caught "
        f"in {figures.seeds():,} histories of each; the hardest, {hardest!r}, in {caught[hardest]} of them"
        + (f"; NOT caught: {', '.join(missed)}" if missed else "")
    )


def _replay(seed: int) -> str:
    told = []
    for mutant in _ALL:
        last = trace(seed, mutant.rules).splitlines()[-1]
        told.append(f"{mutant.name:<52} {last if 'WITNESS' in last else 'not caught'}")
    return "\n".join(told)


class _Mutants(Campaign):
    """Not to be caught is a broken promise, once enough histories were played."""

    def broken(self, figures: Figures) -> list[str]:
        missed = [one.name for one in _ALL if not figures.count(f"mutant: {one.name}")]
        return [*super().broken(figures), *(f"not caught: {name}" for name in missed if self.enough(figures))]


SAFETY = _Mutants(
    name="mutants",
    claim="The simulation catches every protocol from which one rule was removed.",
    counts="mutants, each a removal of one rule "
    f"({len(mutants.SAFETY)} of safety, {len(mutants.LIVENESS)} of liveness), and the histories in which the witness "
    "reports what that rule protects.",
    target=Target(_SEEDS, "histories of each"),
    shows_not="that rules which nobody thought of removing are covered.",
    covers=(*COVERS, "assurance/campaigns/mutants.py"),
    run=_run,
    replay=_replay,
    figure=_figure,
    quick=_QUICK,
    batch=5,
)


# --- Waste -------------------------------------------------------------------------------------------


def _milliunits(seed: int) -> dict[str, int]:
    base = {day: waste(seed, PRODUCTION, day) for day in DAYS}
    found = {f"held: {day.name}": round(1000 * one.held) for day, one in base.items()}
    found |= {f"released: {day.name}": one.released for day, one in base.items()}
    for mutant in mutants.WASTE:
        found[f"mutant: {mutant.name}"] = round(1000 * waste(seed, mutant.rules, mutant.day).held)
    return found


def _run_waste(seeds: list[int], deadline: float) -> Iterator[Figures]:
    for seed in seeds:
        if time.monotonic() >= deadline:
            return
        yield of_seed(seed, counts={"histories of each": 1, **_milliunits(seed)})


def _more(figures: Figures, mutant: Mutant) -> float:
    """Return by how many percent a mutant wastes more than the protocol."""
    return 100 * (figures.count(f"mutant: {mutant.name}") / max(1, figures.count(f"held: {mutant.day.name}")) - 1)


def _figure_waste(figures: Figures) -> str:
    def held(day: Day) -> str:
        units = figures.count(f"held: {day.name}") / 1000 / max(1, figures.seeds())
        return f"{units:.1f} units held idle ({figures.count(f'released: {day.name}') / figures.seeds():.0f} released)"

    days = "; ".join(f"on {day.name} {held(day)}" for day in DAYS)
    more = ", ".join(f"{one.name} +{_more(figures, one):.0f} %" for one in mutants.WASTE)
    return f"{days}, as a mean over {figures.seeds():,} histories; without a rule that saves units: {more}"


class _Wasters(Campaign):
    """A mutant that wastes no more than the protocol shows that its rule, or the figure, is worth nothing."""

    def broken(self, figures: Figures) -> list[str]:
        if not self.enough(figures):
            return super().broken(figures)
        idle = [one for one in mutants.WASTE if _more(figures, one) < one.day.by]
        return [*super().broken(figures), *(f"{one.name} wastes {_more(figures, one):+.1f} %" for one in idle)]


WASTE = _Wasters(
    name="waste",
    claim="Little is charged without being released, and each rule that saves units does.",
    counts="units that are charged and not released at a moment, as a mean over time; and how much more of them there "
    f"are without one of {len(mutants.WASTE)} rules (at least {', '.join(f'{d.by} % on {d.name}' for d in DAYS)}).",
    target=Target(_SEEDS_OF_WASTE, "histories of each"),
    shows_not="what real traffic wastes: that depends on its shape, the dial and the ttl.",
    covers=(*COVERS, "assurance/campaigns/mutants.py"),
    run=_run_waste,
    replay=lambda seed: "\n".join(f"{name:<56} {number}" for name, number in _milliunits(seed).items()),
    figure=_figure_waste,
    quick=_QUICK,
    batch=5,
)
