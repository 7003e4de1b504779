"""Real processes: `kill -9` of anyone at any moment under load loses units at most, and never gives more answers."""

import random
import time
from collections.abc import Iterator

from tests.e2e.world import World

from assurance.campaign import Campaign, Target
from assurance.drills.deployment import COVERS, deployment
from assurance.drills.load import Load, load
from assurance.drills.second import SecondOperator
from assurance.figures import Figures, of_seed
from assurance.machine import load as machine_load

_KILLS = 20
_CONSUMERS = 4
_VICTIMS = ("enclave", "engine", "custodian")


class _Broken(Exception):  # noqa: N818 -- a finding
    """What must never be seen."""


def _kill(world: World, victim: str) -> None:
    """Kill one process, and start it again by the same command; the engine child is started by its parent."""
    if victim == "engine":
        world.kill_engine()
        return
    world.kill(victim)
    if victim == "custodian":
        world.start_custodian()
    else:
        world.start_enclave(wait=False)


def _check(asking: Load, world: World, budget: int) -> None:
    """Compare what was answered until now with the ledger, which is read after it."""
    answered = asking.answered()
    charged = world.charged()
    if answered > budget or charged > budget:
        raise _Broken(f"{answered} answers and {charged} units charged on a budget of {budget}")
    if charged < answered:
        raise _Broken(f"{answered} answers, and only {charged} units charged")


def _drill(seed: int) -> tuple[dict[str, int], list[str]]:
    """Play one deployment's life and return what was counted, and a trace."""
    chance = random.Random(seed)
    budget = chance.choice((1_000, 10_000, 100_000))
    counts = {"kills": 0, "deployments": 1, **{f"kills of the {victim}": 0 for victim in _VICTIMS}}
    told: list[str] = [f"budget {budget}"]
    with deployment(budget=budget, ttl_ms=1_000) as world:
        second = SecondOperator(world)
        with load(world, _CONSUMERS, pause_s=0.005) as asking:
            for _ in range(_KILLS):
                time.sleep(chance.uniform(0.05, 1.0))
                victim = chance.choice(_VICTIMS)
                _kill(world, victim)
                told.append(f"killed the {victim} after {asking.answered()} answers")
                counts["kills"] += 1
                counts[f"kills of the {victim}"] += 1
                world.wait_ready()
                _check(asking, world, budget)
                second.write_off_dead()
        world.kill("enclave", 15)  # in good order: it closes every lease that it still has
        world.processes["enclave"].wait(60)
        _check(asking, world, budget)
        answered, charged = asking.answered(), world.charged()
        outstanding = world.outstanding() + second.written_off
        told.append(f"{answered} answered, {charged} charged, {outstanding} outstanding, {asking.statuses}")
        counts |= {"answers": answered, "charged": charged, "lost": charged - answered, "broken": asking.broken}
        counts["written off"] = second.written_off
        counts["server errors"] = sum(number for status, number in asking.statuses.items() if status >= 500)
        if charged - answered > outstanding:
            raise _Broken(
                f"{charged - answered} units were lost, and {outstanding} were outstanding or written off; {told}"
            )
    return counts, told


def _run(seeds: list[int], deadline: float) -> Iterator[Figures]:
    for seed in seeds:
        if time.monotonic() >= deadline:
            return
        try:
            counts, _ = _drill(seed)
        except (_Broken, AssertionError) as broken:  # an assertion: the service has not come back in time
            yield of_seed(seed, counts={"deployments": 1}, violation=str(broken))
        else:
            yield of_seed(seed, counts=counts, samples={"load": [machine_load()]})


def _figure(figures: Figures) -> str:
    count, loads = figures.count, figures.sample("load")
    victims = ", ".join(f"{count(f'kills of the {victim}'):,} of the {victim}" for victim in _VICTIMS)
    return (
        f"{count('kills'):,} kills ({victims}) in {count('deployments'):,} deployments under load: "
        f"{count('answers'):,} answers, {count('charged'):,} units charged, {count('lost'):,} of them lost with killed "
        f"enclaves (two operators wrote off leases of {count('written off'):,} units, used or not), "
        f"{count('server errors'):,} server errors; {len(figures.violations)} violations; load of the "
        f"machine {min(loads, default=0):.1f} to {max(loads, default=0):.1f}"
    )


CAMPAIGN = Campaign(
    name="kills",
    claim="Whoever is killed, whenever: answers never exceed the budget or the ledger, and no more is lost than was "
    "outstanding.",
    counts="SIGKILLs of the enclave's parent, its engine child or the custodian at random moments under "
    f"{_CONSUMERS} consumers without pause, each restarted by the same command; {_KILLS} in the life of one "
    "deployment with 1,000, 10,000 or 100,000 units. After each: answers <= posted + pending <= budget. At the end: "
    "charged - answered <= units of leases that nobody closed, or that two operators have written off meanwhile.",
    target=Target(2_000, "kills"),
    shows_not="power failure and disk faults (crash-points, disk-errors and power-fail show those), or two deaths "
    "within "
    "a second.",
    covers=(*COVERS, "assurance/campaigns/kills.py"),
    run=_run,
    replay=lambda seed: "\n".join(_drill(seed)[1]),
    figure=_figure,
    quick=1,
    steady=False,
    alone=True,
)
