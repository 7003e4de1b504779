"""Real processes: many clients at once spend a budget exactly."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.e2e.model import one_digit
from tests.e2e.world import BORROWER, Connection, World

from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.x509 import from_pem
from aigovtool.ledger.entry import PartyRole
from aigovtool.protocol.commands import AddParty
from aigovtool.transport.tls import unverified_context_for_attestation_only
from assurance.campaign import Campaign, Target
from assurance.drills.deployment import CLUSTER_COVERS, COVERS, clustered, deployment
from assurance.figures import Figures, of_seed
from assurance.machine import load as machine_load

_CLIENTS, _REPLICAS = 64, 3
_VALID_MS = 86_400_000
#: Seeds that the short form plays have short rounds; a round is (requests of each connection, budget).
_SHORT_SEEDS, _SHORT, _FULL = 2, (100, 1_000), (1_000, 10_000)
_RACERS = 32
_MAX_BURSTS = 200


@dataclass
class Round:
    """What came back: final answers by status, how often somebody was told to come again, and what is charged."""

    budget: int
    statuses: Counter[int] = field(default_factory=Counter)
    told_to_wait: int = 0
    charged: int = 0

    def ask(self, connection: Connection, requests: int) -> tuple[Counter[int], int]:
        """Ask until so many requests have an answer or a refusal for good: 429 means to ask again."""
        found: Counter[int] = Counter()
        waited = 0
        while found.total() < requests:
            status = connection.infer(one_digit()).status
            if status == 429:
                waited += 1
                time.sleep(0.05)
            else:
                found[status] += 1
        return found, waited

    def play(self, connections: list[Connection], requests: int) -> None:
        """Let all ask at once."""
        with ThreadPoolExecutor(len(connections)) as pool:
            for statuses, waited in pool.map(lambda one: self.ask(one, requests), connections):
                self.statuses += statuses
                self.told_to_wait += waited

    def wrong(self) -> str | None:
        """Return what is not exact."""
        answers, others = self.statuses[200], {status for status in self.statuses if status not in {200, 402}}
        if (answers, self.charged) == (self.budget, self.budget) and not others:
            return None
        return f"{answers} answers, {self.charged} charged on a budget of {self.budget}; {dict(self.statuses)}"


def _clients(world: World, ports: Sequence[int]) -> list[Connection]:
    """Enrol consumers, and connect them to the enclaves at these ports in turn (evidence is not looked at)."""
    return [_client(world, f"client-{number}", ports[number % len(ports)]) for number in range(_CLIENTS)]


def _client(world: World, name: str, port: int) -> Connection:
    key = SigningKey.generate()
    act = AddParty(role=PartyRole.CONSUMER, name=name, key=key.public.raw, borrower=BORROWER, valid_for_ms=_VALID_MS)
    credential = from_pem((world.command(act).certificate or "").encode())
    connection = Connection(port, unverified_context_for_attestation_only(credential=credential, key=key))
    world.connections.append(connection)
    return connection


def _alone(requests: int, budget: int) -> Round:
    """Play a round with one custodian on SQLite and one enclave."""
    done = Round(budget)
    with deployment(budget=budget, ttl_ms=10_000) as world:
        done.play(_clients(world, [world.enclave_port]), requests)
        world.kill("enclave", 15)
        world.processes["enclave"].wait(60)
        done.charged = world.charged()
    return done


def _together(requests: int, budget: int) -> Round:
    """Play a round with several custodians on one PostgreSQL ledger, each with an enclave."""
    done = Round(budget)
    with clustered(replicas=_REPLICAS, budget=budget, ttl_ms=10_000) as all_of_them:
        done.play(_clients(all_of_them.world, all_of_them.cluster.enclave_ports), requests)
        all_of_them.end_enclaves()
        done.charged = all_of_them.world.charged()
    return done


def _run_rounds(play: Callable[[int, int], Round], seeds: list[int], deadline: float) -> Iterator[Figures]:
    for seed in seeds:
        if time.monotonic() >= deadline:
            return
        requests, budget = _SHORT if seed < _SHORT_SEEDS else _FULL
        done = play(requests, budget)
        counts = {
            "rounds": int(seed >= _SHORT_SEEDS),
            "short rounds": int(seed < _SHORT_SEEDS),
            "requests": done.statuses.total(),
            "answers": done.statuses[200],
            "told to wait": done.told_to_wait,
            "server errors": sum(number for status, number in done.statuses.items() if status >= 500),
        }
        yield of_seed(seed, counts=counts, samples={"load": [machine_load()]}, violation=done.wrong())


def _figure_rounds(figures: Figures) -> str:
    count = figures.count
    return (
        f"{count('rounds'):,} rounds and {count('short rounds'):,} of a tenth: {count('requests'):,} requests, "
        f"{count('answers'):,} answers, {count('server errors'):,} server errors, {count('told to wait'):,} times told "
        f"to ask again; {len(figures.violations)} rounds inexact"
    )


def _campaign(
    name: str, who: str, play: Callable[[int, int], Round], shows_not: str, covers: tuple[str, ...]
) -> Campaign:
    requests, budget = _FULL
    return Campaign(
        name=name,
        claim=f"{_CLIENTS} clients x {requests:,} requests on {budget:,} units get exactly {budget:,} answers "
        f"from {who}.",
        counts="rounds with a fresh deployment each; every client is a consumer of its own, with leases of its own and "
        "one connection. Answers and charged units must both be exactly the budget, and "
        "every other request must be told that the budget is used up (402): no server error, and nothing else. Who is "
        f"told that others hold the units (429) asks again. The first {_SHORT_SEEDS} rounds have a tenth of it all.",
        target=Target(20, "rounds"),
        shows_not=shows_not,
        covers=(*covers, "assurance/campaigns/concurrency.py"),
        run=lambda seeds, deadline: _run_rounds(play, seeds, deadline),
        replay=lambda seed: str(next(iter(_run_rounds(play, [seed], float("inf"))))),
        figure=_figure_rounds,
        quick=1,
        steady=False,
        alone=True,
    )


BUDGET = _campaign(
    "parallel",
    "one custodian on SQLite",
    _alone,
    "more than one enclave, or requests over a real network.",
    COVERS,
)
REPLICAS = _campaign(
    "replicas",
    f"{_REPLICAS} custodians on one PostgreSQL ledger, each with an enclave",
    _together,
    "a server of several machines, or custodians that die during the round (server-kills does that).",
    CLUSTER_COVERS,
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
    alone=True,
)
