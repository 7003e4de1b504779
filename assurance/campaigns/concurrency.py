"""Real processes: many connections at once spend a budget exactly."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.e2e.model import one_digit
from tests.e2e.world import Connection, World

from assurance.campaign import Campaign, Target
from assurance.drills.deployment import COVERS, deployment
from assurance.figures import Figures, of_seed
from assurance.machine import load as machine_load

_CONNECTIONS, _REQUESTS, _BUDGET = 64, 200, 1_000
_RACERS = 32
_MAX_BURSTS = 200


def _round() -> tuple[list[int], int]:
    """Return every status that came back, and what the ledger charges once the enclave has closed its leases."""
    with deployment(budget=_BUDGET, ttl_ms=10_000) as world:
        connections = [world.connect() for _ in range(_CONNECTIONS)]

        def ask(connection: Connection) -> list[int]:
            return [connection.infer(one_digit()).status for _ in range(_REQUESTS)]

        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            statuses = [status for found in pool.map(ask, connections) for status in found]
        world.kill("enclave", 15)
        world.processes["enclave"].wait(60)
        return statuses, world.charged()


def _run_budget(seeds: list[int], deadline: float) -> Iterator[Figures]:
    for seed in seeds:
        if time.monotonic() >= deadline:
            return
        statuses, charged = _round()
        answers, errors = statuses.count(200), sum(status >= 500 for status in statuses)
        wrong = (answers, charged, errors) != (_BUDGET, _BUDGET, 0)
        yield of_seed(
            seed,
            counts={"rounds": 1, "requests": len(statuses), "answers": answers, "server errors": errors},
            samples={"load": [machine_load()]},
            violation=f"{answers} answers, {charged} charged, {errors} server errors" if wrong else None,
        )


BUDGET = Campaign(
    name="parallel",
    claim=f"{_CONNECTIONS} connections of one consumer x {_REQUESTS} requests on {_BUDGET:,} units get exactly "
    f"{_BUDGET:,} answers.",
    counts="rounds with a fresh deployment each; answers and charged units must both be exactly the budget, and no "
    "request may end in a server error (5xx).",
    target=Target(20, "rounds"),
    shows_not="more than one enclave, or requests over a real network.",
    covers=(*COVERS, "assurance/campaigns/concurrency.py"),
    run=_run_budget,
    replay=lambda _: str(next(iter(_run_budget([0], float("inf"))))),
    figure=lambda figures: (
        f"{figures.count('rounds'):,} rounds, {figures.count('requests'):,} requests, {figures.count('answers'):,} "
        f"answers, {figures.count('server errors'):,} server errors; {len(figures.violations)} rounds inexact"
    ),
    quick=1,
    steady=False,
    workers=1,
)


# --- One unit ----------------------------------------------------------------------------------------


def _race(connections: list[Connection], pool: ThreadPoolExecutor) -> int:
    """Return how many of one request per connection, all at once, were answered."""
    return sum(pool.map(lambda connection: connection.infer(one_digit()).status == 200, connections))


def _race_for_one(world: World, connections: list[Connection], pool: ThreadPoolExecutor) -> tuple[int, int]:
    """Add one unit and race for it until it is gone; return all answers, and the bursts that it took.

    A burst may come before the enclave has heard of the new unit, and is refused as a whole then.
    """
    world.grant(1)
    for burst in range(1, _MAX_BURSTS + 1):
        if answers := _race(connections, pool):
            return answers + _race(connections, pool), burst
    return 0, _MAX_BURSTS


def _run_one(seeds: list[int], deadline: float) -> Iterator[Figures]:
    with deployment(budget=1) as world, ThreadPoolExecutor(_RACERS) as pool:
        connections = [world.connect() for _ in range(_RACERS)]
        while not _race(connections, pool):  # the unit that the deployment began with
            pass
        for seed in seeds:
            if time.monotonic() >= deadline:
                return
            answers, bursts = _race_for_one(world, connections, pool)
            yield of_seed(
                seed,
                counts={"races": 1, "bursts": bursts, "requests": (bursts + 1) * _RACERS},
                violation=None if answers == 1 else f"{answers} answers for one unit",
            )


ONE_UNIT = Campaign(
    name="one-unit",
    claim=f"{_RACERS} parallel requests on one unit get one answer.",
    counts=f"races of {_RACERS} connections, each for one unit that an operator has just added; bursts are repeated "
    "until the unit is gone, and once more.",
    target=Target(1_000, "races"),
    shows_not="more than one enclave.",
    covers=(*COVERS, "assurance/campaigns/concurrency.py"),
    run=_run_one,
    replay=lambda _: str(next(iter(_run_one([0], float("inf"))))),
    figure=lambda figures: (
        f"{figures.count('races'):,} races, {figures.count('requests'):,} requests; "
        f"{len(figures.violations)} with more or less than one answer"
    ),
    quick=50,
    batch=50,
    steady=False,
    workers=1,
)
