"""Processes in time namespaces of their own: elapsed time that the kernel itself shows otherwise, to whoever asks it.

What test_clocks.py changes, the C library tells; here it is the kernel, also where a library asks it by itself. A
namespace cannot slow time or stop it: it says where time began, for each of two clocks apart.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest
from tests.attacks.clocks import YEAR_S
from tests.attacks.deployments import Around, Deployment, answered_until_used_up, deployed
from tests.observations import Observed

from aigovtool.ledger.entry import StopTarget
from aigovtool.testing.fault_proxy import FaultProxy, fault_proxy

TTL_S = 1.0
SLACK_S = 0.25
#: So slow that the units at hand, half of the smallest lease at least, outlast the bound: time must end the service.
PAUSE_S = 0.35
_CLOCKS: Final = "import time; print(time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME))"


def shifted(monotonic_s: int, boottime_s: int) -> tuple[str, ...]:
    """Return how a command begins whose clocks of elapsed time began elsewhere; what it starts has the same."""
    return ("unshare", "--time", "--monotonic", str(monotonic_s), "--boottime", str(boottime_s))


pytestmark = [pytest.mark.attack(16), pytest.mark.needs("clocks")]


def test_such_a_process_has_other_clocks() -> None:
    """Otherwise what follows would show nothing: both are ahead by as much as was asked for, each by its own."""
    words = [*shifted(YEAR_S, 2 * YEAR_S), sys.executable, "-c", _CLOCKS]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    monotonic, boottime = map(float, done.stdout.split())
    assert 0 <= monotonic - time.clock_gettime(time.CLOCK_MONOTONIC) - YEAR_S + 5 < 10
    assert 0 <= boottime - time.clock_gettime(time.CLOCK_BOOTTIME) - 2 * YEAR_S + 5 < 10


@contextmanager
def cabled(directory: Path, around: dict[str, Around]) -> Iterator[tuple[Deployment, FaultProxy]]:
    """Yield a deployment whose enclave reaches its custodian through a proxy; processes are started as is said."""
    proxies: list[FaultProxy] = []

    def prepare(world: Deployment) -> None:
        world.around = around
        proxy = made.enter_context(fault_proxy("127.0.0.1", world.custodian_port))
        world.custodian_seen_at = proxy.port
        proxies.append(proxy)

    with ExitStack() as made:
        world = made.enter_context(deployed(directory, ttl_ms=int(TTL_S * 1000), prepare=prepare))
        yield world, proxies[0]


def test_where_time_began_decides_over_nothing(tmp_path: Path, body: bytes, observed: Observed) -> None:
    """An enclave whose clocks are a year and two ahead, and a custodian's three and one: budget, ttl and stop hold."""
    around = {
        "enclave": Around(words=shifted(YEAR_S, 2 * YEAR_S)),
        "custodian": Around(words=shifted(3 * YEAR_S, YEAR_S)),
    }
    with cabled(tmp_path / "world", around) as (world, cable):
        instance = world.view("/v1/enclaves")["enclaves"][0]["instance"]
        consumer, connection = world.new_consumer(12)
        answered, refusal = answered_until_used_up(connection, body, 40)
        assert (answered, refusal.json()["code"]) == (12, "budget_exhausted")
        assert world.charged_to(consumer) == 12
        _, connection = world.new_consumer(10**6)
        assert connection.infer(body).status == 200
        cable.drop()
        cut_s, last_s = time.monotonic(), 0.0
        world.stop(StopTarget.ALL)
        while (answer := connection.infer(body)).status == 200:
            last_s = time.monotonic()
            time.sleep(PAUSE_S)
        assert observed.refusal(answer.json()) == "lease_expired"
        assert last_s - cut_s <= TTL_S + SLACK_S
        cable.heal()
        world.wait_for(lambda: world.view("/v1/enclaves")["enclaves"][0]["state"] == "wiped", "the stop arrives")
        assert world.view("/v1/enclaves")["enclaves"][0]["instance"] == instance
        observed.figure("s until the last answer, with clocks years ahead", round(max(0.0, last_s - cut_s), 2))


def test_an_engine_with_another_clock_than_its_enclave_gets_no_unit(
    tmp_path: Path, body: bytes, observed: Observed
) -> None:
    """A year ahead, every deadline is over for it: runs are refused with a type, uncharged, and nobody is ended."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {" ".join(shifted(YEAR_S, YEAR_S))} {sys.executable} "$@"\n')
    python.chmod(0o755)
    with cabled(tmp_path / "world", {"enclave": Around(python=str(python))}) as (world, _):
        consumer, connection = world.new_consumer(50)
        engine = world.engine_pid()
        for _ in range(5):
            answer = connection.infer(body)
            assert answer.status == 504
            observed.refusal(answer.json())
        assert world.engine_pid() == engine
        assert world.processes["enclave"].poll() is None
        world.kill("enclave", 15)
        world.processes["enclave"].wait(30)
        assert world.charged_to(consumer) == 0
