"""Real processes on PostgreSQL: `kill -9` of anyone, the database server included, under load."""

import os
import random
import signal
from functools import partial
from http import HTTPStatus

from tests.e2e.world import wait_for

from assurance.campaign import Campaign, Target
from assurance.drills.deployment import CLUSTER_COVERS, Clustered, clustered
from assurance.drills.killing import BUDGETS, Killing, campaign_of, figure, killing

_KILLS, _REPLICAS, _CONSUMERS = 12, 2, 3
_VICTIMS = ("server", "custodian", "enclave", "engine")


def _kill(all_of_them: Clustered, chance: random.Random) -> tuple[str, str]:
    """Kill one process (the server with all its children), and start it again by the same command."""
    victim, number = chance.choice(_VICTIMS), chance.randrange(_REPLICAS)
    world, cluster = all_of_them.world, all_of_them.cluster
    suffix = str(number) if number else ""
    if victim == "server":
        all_of_them.server.kill()
        all_of_them.server.start()
    elif victim == "engine":
        parent = world.processes[f"enclave{suffix}"].pid
        with open(f"/proc/{parent}/task/{parent}/children", encoding="ascii") as children:  # noqa: PTH123
            engine = int(children.read().split()[0])
        os.kill(engine, signal.SIGKILL)
    else:
        world.kill(f"{victim}{suffix}")
        if victim == "custodian":
            cluster.start_custodian(number) if number else world.start_custodian()
        elif number:
            cluster.start_enclave(number)
        else:
            world.start_enclave(wait=False)
    return victim, f"{victim} {number}"


def _wait_ready(all_of_them: Clustered) -> None:
    wait_for(partial(_can_be_read, all_of_them), "the ledger can be read")
    for number in range(_REPLICAS):
        wait_for(lambda number=number: all_of_them.cluster.is_ready(number), f"enclave {number} is ready")  # type: ignore[misc]


def _can_be_read(all_of_them: Clustered) -> bool:
    """Return whether the custodian has noticed that its database server is another one.

    Whoever asks first after the server's death is told that nothing was written (503), and has to ask again.
    """
    with all_of_them.world.custodian_client() as client:
        return bool(client.get("/v1/budgets").status_code == HTTPStatus.OK)


def _drill(seed: int) -> Killing:
    """Play one cluster's life."""
    chance = random.Random(seed)
    budget = chance.choice(BUDGETS)
    with clustered(replicas=_REPLICAS, budget=budget, ttl_ms=2_000) as all_of_them:
        ports = tuple(all_of_them.cluster.enclave_ports)
        with killing(all_of_them.world, budget, chance, _CONSUMERS, ports) as life:
            life.kill(_KILLS, partial(_kill, all_of_them, chance), partial(_wait_ready, all_of_them))
        all_of_them.end_enclaves()
        life.end()
    return life


CAMPAIGN = Campaign(
    name="server-kills",
    claim="Also when the database server is killed: answers never exceed the budget or the ledger, and no more is lost "
    "than was outstanding.",
    counts=f"SIGKILLs of a PostgreSQL server with all its processes, of one of {_REPLICAS} custodians, of an enclave's "
    f"parent or its engine child, at random moments under {_REPLICAS * _CONSUMERS} consumers without pause, each "
    f"restarted by the same command; {_KILLS} in the life of one cluster with 1,000, 10,000 or 100,000 units. Two "
    "operators "
    "write off what died with enclaves. After each: answers <= posted + pending <= budget. At the end: charged - "
    "answered <= units of leases that nobody closed or that were written off.",
    target=Target(500, "kills"),
    shows_not="power failure of the server's machine (PostgreSQL's own answer to it is not tested here), a standby "
    "that is promoted, two deaths within a second.",
    covers=(*CLUSTER_COVERS, "assurance/campaigns/server_kills.py"),
    run=campaign_of(_drill, "clusters"),
    replay=lambda seed: "\n".join(_drill(seed).told),
    figure=lambda figures: figure(figures, "clusters", _VICTIMS),
    quick=1,
    steady=False,
    alone=True,
)
