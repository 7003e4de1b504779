"""Real processes on PostgreSQL: `kill -9` of anyone, the database server included, under load."""

import os
import random
import signal
import time
from collections.abc import Iterator

from tests.e2e.world import wait_for

from assurance.campaign import Campaign, Target
from assurance.drills.deployment import CLUSTER_COVERS, Clustered, clustered
from assurance.drills.load import Load, load
from assurance.drills.second import SecondOperator
from assurance.figures import Figures, of_seed
from assurance.machine import load as machine_load

_KILLS, _REPLICAS, _CONSUMERS = 12, 2, 3
_VICTIMS = ("server", "custodian", "enclave", "engine")


class _Broken(Exception):  # noqa: N818 -- a finding
    """What must never be seen."""


def _kill(all_of_them: Clustered, victim: str, number: int) -> None:
    """Kill one process (the server with all its children), and start it again by the same command."""
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


def _check(asking: Load, all_of_them: Clustered, budget: int) -> None:
    """Compare what was answered until now with the ledger, which is read after it."""
    answered = asking.answered()
    charged = all_of_them.world.charged()
    if not answered <= charged <= budget:
        raise _Broken(f"{answered} answers, {charged} units charged, a budget of {budget}")


def _wait_ready(all_of_them: Clustered) -> None:
    for number in range(_REPLICAS):
        wait_for(lambda number=number: all_of_them.cluster.is_ready(number), f"enclave {number} is ready")  # type: ignore[misc]


def _drill(seed: int) -> tuple[dict[str, int], list[str]]:
    """Play one cluster's life and return what was counted, and a trace."""
    chance = random.Random(seed)
    budget = chance.choice((1_000, 10_000, 100_000))
    counts = {"kills": 0, "clusters": 1, **{f"kills of the {victim}": 0 for victim in _VICTIMS}}
    told = [f"budget {budget}"]
    with clustered(replicas=_REPLICAS, budget=budget, ttl_ms=2_000) as all_of_them:
        world, second = all_of_them.world, SecondOperator(all_of_them.world)
        with load(world, _CONSUMERS, pause_s=0.005, ports=tuple(all_of_them.cluster.enclave_ports)) as asking:
            for _ in range(_KILLS):
                time.sleep(chance.uniform(0.05, 1.0))
                victim, number = chance.choice(_VICTIMS), chance.randrange(_REPLICAS)
                _kill(all_of_them, victim, number)
                told.append(f"killed the {victim} {number} after {asking.answered()} answers")
                counts["kills"] += 1
                counts[f"kills of the {victim}"] += 1
                _wait_ready(all_of_them)
                _check(asking, all_of_them, budget)
                second.write_off_dead()
        all_of_them.end_enclaves()
        _check(asking, all_of_them, budget)
        answered, charged = asking.answered(), world.charged()
        outstanding, lost = world.outstanding() + second.written_off, charged - answered
        told.append(
            f"{answered} answered, {charged} charged, {outstanding} outstanding or written off ({second.written_off}), "
            f"{asking.statuses}"
        )
        counts |= {"answers": answered, "charged": charged, "lost": lost, "written off": second.written_off}
        counts["server errors"] = sum(number for status, number in asking.statuses.items() if status >= 500)
        if lost > outstanding:
            raise _Broken(f"{lost} units were lost, and {outstanding} were outstanding or written off; {told}")
    return counts, told


def _run(seeds: list[int], deadline: float) -> Iterator[Figures]:
    for seed in seeds:
        if time.monotonic() >= deadline:
            return
        try:
            counts, _ = _drill(seed)
        except (_Broken, AssertionError) as broken:  # an assertion: the service has not come back in time
            yield of_seed(seed, counts={"clusters": 1}, violation=str(broken))
        else:
            yield of_seed(seed, counts=counts, samples={"load": [machine_load()]})


def _figure(figures: Figures) -> str:
    count, loads = figures.count, figures.sample("load")
    victims = ", ".join(f"{count(f'kills of the {victim}'):,} of {victim}s" for victim in _VICTIMS)
    return (
        f"{count('kills'):,} kills ({victims}) in {count('clusters'):,} clusters under load: {count('answers'):,} "
        "answers, "
        f"{count('charged'):,} units charged, {count('lost'):,} of them lost with killed enclaves, "
        f"two operators wrote off leases of {count('written off'):,} units, used or not; "
        f"{count('server errors'):,} server errors; "
        f"{len(figures.violations)} violations; load of the machine {min(loads, default=0):.1f} to "
        f"{max(loads, default=0):.1f}"
    )


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
    run=_run,
    replay=lambda seed: "\n".join(_drill(seed)[1]),
    figure=_figure,
    quick=1,
    steady=False,
    alone=True,
)
