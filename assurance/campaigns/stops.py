"""Real processes: how soon a stop takes effect, online and when nobody can be reached."""

import random
import signal
import time
from collections.abc import Callable, Iterator

from tests.e2e.model import one_digit
from tests.e2e.world import BORROWER, CONSUMER, MODEL, World

from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.policy import CLOCK_RATE_ERROR_PPM
from assurance.campaign import Bound, Campaign, Target
from assurance.drills.deployment import COVERS, deployment
from assurance.drills.load import Load, load
from assurance.figures import Figures, of_seed, percentile
from assurance.machine import load as machine_load

_CONSUMERS = 2
_TARGETS = (
    (StopTarget.ALL, ""),
    (StopTarget.MODEL, str(MODEL)),
    (StopTarget.BORROWER, str(BORROWER)),
    (StopTarget.CONSUMER, str(CONSUMER)),
)
_TTL_S = 2.0
_SLACK_S = 0.25
_WARM_UP_S = 1.5 * _TTL_S
_FREEZE_BOUND_S = _TTL_S * (1 + CLOCK_RATE_ERROR_PPM / 1_000_000) + _SLACK_S


def _wait(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {seconds} s: {what}")
        time.sleep(0.02)


# --- Online ------------------------------------------------------------------------------------------


def _stop_once(world: World, asking: Load, target: StopTarget, value: str) -> dict[str, list[float]]:
    """Stop under load; return when, after the command's return, the last answer and the first refusal arrived."""
    before = asking.answered()
    _wait(lambda: asking.answered() > before + 5, "answers before the stop")
    refusals = len(asking.refused_s)
    sent_s = time.monotonic()
    world.stop(target, value)
    stopped_s = time.monotonic()
    _wait(lambda: len(asking.refused_s) > refusals, "a refusal after the stop")
    time.sleep(0.3)  # an answer that were released late would arrive in this time
    last_s, first_s = asking.answered_s[-1], asking.refused_s[refusals]
    answered = asking.answered()
    world.resume(target, value)
    _wait(lambda: asking.answered() > answered, "answers after the resumption")
    return {
        "last_answer_after_stop_s": [max(0.0, last_s - stopped_s)],
        "first_refusal_s": [max(0.0, first_s - stopped_s)],
        "since_command_was_sent_s": [first_s - sent_s],
        "load": [machine_load()],
    }


def _run_stops(seeds: list[int], deadline: float) -> Iterator[Figures]:
    with deployment(budget=10_000_000, ttl_ms=30_000) as world, load(world, _CONSUMERS, pause_s=0.002) as asking:
        for seed in seeds:
            if time.monotonic() >= deadline:
                return
            target, value = random.Random(seed).choice(_TARGETS)
            try:
                samples = _stop_once(world, asking, target, value)
            except AssertionError as error:  # this deployment is of no more use
                yield of_seed(seed, counts={"stops": 1}, violation=f"stop of {target.value}: {error}")
                return
            yield of_seed(seed, counts={"stops": 1, f"stops of {target.value}": 1}, samples=samples)


def _spread(values: list[float], scale: float = 1000) -> str:
    p50, p99, most = (percentile(values, p) * scale for p in (50, 99, 100))
    return f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, at most {most:.0f} ms"


def _figure_stops(figures: Figures) -> str:
    loads, sample = figures.sample("load"), figures.sample
    kinds = ", ".join(f"{figures.count(f'stops of {t.value}'):,} of {t.value}" for t, _ in _TARGETS)
    return (
        f"{figures.count('stops'):,} stops ({kinds}). Last answer after the command's return: "
        f"{_spread(sample('last_answer_after_stop_s'))}. First refusal after it: {_spread(sample('first_refusal_s'))}; "
        f"after the command was sent: {_spread(sample('since_command_was_sent_s'))}. "
        f"Load of the machine {min(loads):.1f} to {max(loads):.1f}"
    )


ONLINE = Campaign(
    name="stops",
    claim="A stop takes effect within a second.",
    counts=f"stops of everything, the model, the borrower or the consumer under {_CONSUMERS} consumers that ask "
    "without pause, each resumed afterwards; times as the consumer sees them, from when the operator's command has "
    "returned (a stop that was in effect before counts as 0).",
    target=Target(1_000, "stops", (Bound("last_answer_after_stop_s", 99, 1.0), Bound("first_refusal_s", 99, 1.0))),
    shows_not="a network between the parties. A host that withholds the stop is the next campaign's.",
    covers=(*COVERS, "assurance/campaigns/stops.py"),
    run=_run_stops,
    replay=lambda seed: str(next(iter(_run_stops([seed], float("inf"))))),
    figure=_figure_stops,
    quick=60,
    batch=50,
    steady=False,
    alone=True,
)


# --- Out of reach ------------------------------------------------------------------------------------


def _freeze_custodian(world: World) -> tuple[float, str]:
    """Freeze the custodian under load; return when, after that, the last answer arrived, and what was refused then."""
    with load(world, 1, pause_s=0.01) as asking:
        # Leases grow with the traffic of a ttl: only then would units last for longer than authority does.
        since_s = time.monotonic()
        _wait(lambda: asking.answered() > 5 and time.monotonic() - since_s > _WARM_UP_S, "answers before the freeze")
        refusals = len(asking.refused_s)
        frozen_s = time.monotonic()
        world.kill("custodian", signal.SIGSTOP)
        _wait(lambda: len(asking.refused_s) > refusals + 5, "refusals after the ttl", 30)
        last_s = asking.answered_s[-1] - frozen_s
    code = str(world.connect().infer(one_digit()).json()["code"])
    world.kill("custodian", signal.SIGCONT)
    world.wait_for(lambda: world.connect().infer(one_digit()).status == 200, "the service comes back")
    return last_s, code


def _freeze_enclave(world: World) -> int:
    """Freeze the enclave for longer than its ttl, and the custodian too; return how many answers came afterwards."""
    connections = [world.connect() for _ in range(8)]
    answers = sum(connection.infer(one_digit()).status == 200 for connection in connections)
    if answers != len(connections):
        raise AssertionError("no answers before the freeze")
    world.kill("enclave", signal.SIGSTOP)
    world.kill("custodian", signal.SIGSTOP)
    time.sleep(_TTL_S + 0.1)
    world.kill("enclave", signal.SIGCONT)
    late = sum(connection.infer(one_digit()).status == 200 for connection in connections)
    world.kill("custodian", signal.SIGCONT)
    world.wait_for(lambda: world.connect().infer(one_digit()).status == 200, "the service comes back")
    return late


def _run_freezes(seeds: list[int], deadline: float) -> Iterator[Figures]:
    with deployment(budget=10_000_000, ttl_ms=int(_TTL_S * 1000)) as world:
        for seed in seeds:
            if time.monotonic() >= deadline:
                return
            if seed % 2:
                late = _freeze_enclave(world)
                wrong = f"{late} answers of an enclave that was frozen for longer than its ttl" if late else None
                yield of_seed(seed, counts={"freezes": 1, "enclave frozen": 1}, violation=wrong)
                continue
            last_s, code = _freeze_custodian(world)
            wrong = None
            if last_s > _FREEZE_BOUND_S or code != "lease_expired":
                wrong = f"the last answer came {last_s:.3f} s after the custodian was frozen, then {code}"
            yield of_seed(
                seed,
                counts={"freezes": 1, "custodian frozen": 1},
                samples={"last_answer_after_freeze_s": [last_s], "load": [machine_load()]},
                violation=wrong,
            )


def _figure_freezes(figures: Figures) -> str:
    last, loads = figures.sample("last_answer_after_freeze_s"), figures.sample("load")
    spread = f"{percentile(last, 50):.2f} s (p50), {max(last):.2f} s (at most)" if last else "not measured"
    return (
        f"{figures.count('custodian frozen'):,} times the custodian: last answer after {spread}, bound "
        f"{_FREEZE_BOUND_S:.3f} s; {figures.count('enclave frozen'):,} times the enclave: 0 answers after it thawed; "
        f"{len(figures.violations)} violations; load of the machine {min(loads, default=0):.1f} to "
        f"{max(loads, default=0):.1f}"
    )


OFFLINE = Campaign(
    name="freezes",
    claim="Without its custodian an enclave answers for one ttl and not longer, and not at all if it slept through it.",
    counts=f"SIGSTOPs of the custodian under load (ttl {_TTL_S:g} s; the last answer must arrive within ttl x (1 + "
    f"{CLOCK_RATE_ERROR_PPM} ppm) + {_SLACK_S} s), and of enclave and custodian for longer than the ttl.",
    target=Target(1_000, "freezes"),
    shows_not="a suspended virtual machine, or a host that falsifies the enclave's clocks.",
    covers=(*COVERS, "assurance/campaigns/stops.py"),
    run=_run_freezes,
    replay=lambda seed: str(next(iter(_run_freezes([seed], float("inf"))))),
    figure=_figure_freezes,
    quick=6,
    batch=20,
    steady=False,
    alone=True,
)
