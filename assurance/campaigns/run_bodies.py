"""Malformed inferences at a running enclave: each is answered, or refused by a typed error, and none is charged."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.attacks.deployments import deployed
from tests.attacks.laborious import echo_model
from tests.e2e.world import World

from assurance.campaign import Campaign, Target
from assurance.endurance.bodies import Thrown, throw
from assurance.figures import Figures, of_seed

#: Bodies of a seed.
_BODIES: Final = 500
_STATUSES: Final = (200, 400, 404, 409, 411, 413, 415, 422)


def live(seeds: list[int], deadline: float) -> Iterator[Figures]:
    """Send the bodies of each seed to one deployment; with the last one the charge is compared with the answers."""
    with (
        tempfile.TemporaryDirectory(prefix="aigovtool-bodies-") as folder,
        deployed(Path(folder), budget=10**9, model=echo_model(), ttl_ms=30_000) as world,
    ):
        engine, inferences = world.engine_pid(), 0
        held: tuple[int, Thrown] | None = None
        for seed in seeds:
            if time.monotonic() >= deadline:
                break
            if held is not None:
                yield _figures(*held)
            held = seed, throw(world, seed, _BODIES)
            inferences += held[1].inferences
            if world.processes["enclave"].poll() is not None or world.engine_pid() != engine:
                held[1].wrong.append("a process has ended")
                break
        if held is not None:
            held[1].wrong.extend(_charged_wrongly(world, inferences))
            yield _figures(*held)


def _charged_wrongly(world: World, inferences: int) -> Iterator[str]:
    """Yield what is wrong with the ledger, once the enclave has closed what it had."""
    world.kill("enclave", 15)
    world.processes["enclave"].wait(60)
    posted = world.posted()
    if posted != inferences:
        yield f"{posted} units are charged for {inferences} inferences"


def _figures(seed: int, thrown: Thrown) -> Figures:
    statuses = {f"answered {status}": number for status, number in thrown.statuses.items()}
    counts = {"bodies": sum(thrown.statuses.values()), **statuses, **{f"by {one}": 1 for one in thrown.refusals}}
    return of_seed(seed, counts=counts, violation="; ".join(thrown.wrong[:3]) or None)


def _figure(figures: Figures) -> str:
    found = ", ".join(f"{figures.count(f'answered {one}'):,} with {one}" for one in _STATUSES)
    reasons = sum(name.startswith("by ") for name in figures.counts)
    return (
        f"{figures.count('bodies'):,} bodies answered: {found}; refused for {reasons} reasons; "
        f"{len(figures.violations)} violations"
    )


def _replay(seed: int) -> str:
    (figures,) = live([seed], float("inf"))
    return "\n".join([_figure(figures), *(found.what for found in figures.violations)])


CAMPAIGN = Campaign(
    name="run-bodies",
    claim="No body of an inference makes an enclave fail: it is answered, or refused by a typed error, uncharged.",
    counts="bodies that were changed from good ones, in JSON and in the binary form: shapes, sizes, datatypes, names, "
    "wishes and elements that do not fit each other, JSON bent as JSON, and bytes changed, cut, doubled and moved; "
    "sent over TLS to one enclave's process with a consumer's credential, on four connections at once. Each is "
    "answered with 200 or a problem document with a 4xx; enclave and engine are the same processes at the end, and "
    "exactly what was answered is charged.",
    target=Target(100_000, "bodies"),
    shows_not="whether what is accepted is read rightly: http-bodies shows that, in memory, with an oracle.",
    covers=(
        "src/aigovtool",
        "tests/attacks/deployments.py",
        "tests/attacks/laborious.py",
        "tests/e2e/model.py",
        "tests/e2e/orders.py",
        "tests/e2e/party_files.py",
        "tests/e2e/world.py",
        "tests/product_process.py",
        "assurance/endurance/bodies.py",
        "assurance/parsers/inference.py",
        "assurance/parsers/parser.py",
        "assurance/parsers/reading.py",
        "assurance/parsers/tensor_reading.py",
        "conformance/malformed/der.py",
        "conformance/malformed/edits.py",
        "conformance/malformed/structured.py",
        "assurance/campaigns/run_bodies.py",
    ),
    run=live,
    replay=_replay,
    figure=_figure,
    quick=4,
    batch=100,
    steady=False,
    alone=True,
)
