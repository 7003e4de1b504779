"""Real processes: `kill -9` of anyone at any moment under load loses units at most, and never gives more answers."""

import random
from functools import partial

from tests.e2e.world import World

from assurance.campaign import Campaign, Target
from assurance.drills.deployment import COVERS, deployment
from assurance.drills.killing import BUDGETS, Killing, campaign_of, figure, killing

_KILLS = 20
_CONSUMERS = 4
_VICTIMS = ("enclave", "engine", "custodian")


def _kill(world: World, chance: random.Random) -> tuple[str, str]:
    """Kill one process, and start it again by the same command; the engine child is started by its parent."""
    victim = chance.choice(_VICTIMS)
    if victim == "engine":
        world.kill_engine()
    else:
        world.kill(victim)
    if victim == "custodian":
        world.start_custodian()
    elif victim == "enclave":
        world.start_enclave(wait=False)
    return victim, victim


def _drill(seed: int) -> Killing:
    """Play one deployment's life."""
    chance = random.Random(seed)
    budget = chance.choice(BUDGETS)
    with deployment(budget=budget, ttl_ms=1_000) as world:
        with killing(world, budget, chance, _CONSUMERS) as life:
            life.kill(_KILLS, partial(_kill, world, chance), world.wait_ready)
        world.kill("enclave", 15)  # in good order: it closes every lease that it still has
        world.processes["enclave"].wait(60)
        life.end()
    return life


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
    run=campaign_of(_drill, "deployments"),
    replay=lambda seed: "\n".join(_drill(seed).told),
    figure=lambda figures: figure(figures, "deployments", _VICTIMS),
    quick=1,
    steady=False,
    alone=True,
)
