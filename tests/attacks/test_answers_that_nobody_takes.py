"""Attack 34: a consumer that asks for large answers and does not read them, so that the enclave has to keep them."""

import http.client
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.attacks.deployments import Deployment, deployed
from tests.attacks.laborious import asked, laborious_model
from tests.attacks.memory import resident_mib
from tests.e2e.world import MODEL
from tests.observations import Observed

MIB = 1 << 20
#: So large is an answer, and so many are asked for: an enclave runs nothing for who has over 128 MiB of them.
LARGE_BYTES = 32 * MIB
ASKED = 12


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment whose model gives back what it is sent, however much, for one unit."""
    with deployed(tmp_path_factory.mktemp("unread"), model=laborious_model(), ttl_ms=30_000) as world:
        yield world


def begun(world: Deployment, name: str) -> http.client.HTTPResponse:
    """Return a large answer of which a new consumer has read one MiB."""
    large, headers = asked(bytes(LARGE_BYTES))
    link = world.add_consumer(name).connect()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    link.link.request("POST", f"/v2/models/{MODEL}/infer", large, headers=named)
    answer = link.link.getresponse()
    assert (answer.status, len(answer.read(MIB))) == (200, MIB)
    return answer


def the_rest(answer: http.client.HTTPResponse) -> int:
    """Return how many bytes more come of an answer."""
    came = 0
    with suppress(OSError, http.client.HTTPException):
        while piece := answer.read1(MIB):
            came += len(piece)
    return came


def test_an_answer_that_is_read_slowly_does_not_leave_after_a_stop(world: Deployment) -> None:
    """It was charged before, and most of it is with the enclave still: that stays there, whoever asked for it."""
    answer = begun(world, "slow")
    world.stop()
    world.wait_for(lambda: bool(world.entries("wiped")), "the enclave is wiped")
    assert the_rest(answer) < LARGE_BYTES // 2


def test_a_stop_holds_also_where_the_engine_has_died_before(tmp_path: Path) -> None:
    """An instance that has ended hears of no stop: what it has not sent by the end of its authority stays with it.

    It goes on serving such an answer until there is another instance, which a stop prevents.
    """
    with deployed(tmp_path, model=laborious_model(), ttl_ms=1_000) as world:
        answer = begun(world, "slow")
        world.kill_engine()
        world.stop()
        # Refused over and over, for longer than the authority of before lasts.
        world.wait_for(lambda: world.log_of("enclave").count("boot_failed") >= 4, "there is no other instance")
        assert the_rest(answer) < LARGE_BYTES // 2


@pytest.mark.attack(34)
def test_answers_that_nobody_takes_do_not_fill_the_memory(world: Deployment, observed: Observed) -> None:
    """Soon nothing more is run for a consumer that takes none of its answers; others are served meanwhile.

    So is it, once it has taken its answers or gone away.
    """
    pid = world.processes["enclave"].pid
    small, small_headers = asked(bytes(4))
    large, headers = asked(bytes(LARGE_BYTES))
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    assert world.connect().infer(small, **small_headers).status == 200
    sloth, before = world.add_consumer("sloth"), resident_mib(pid)
    links, heads = [sloth.connect() for _ in range(ASKED)], []
    for link in links:
        link.link.request("POST", f"/v2/models/{MODEL}/infer", large, headers=named)
        heads.append(link.link.getresponse())
    refused = [json.loads(head.read()) for head in heads if head.status == 429]
    assert [head.status for head in heads] == [200] * 4 + [429] * (ASKED - 4)
    assert {observed.refusal(problem) for problem in refused} == {"overloaded: answers_not_taken"}
    grown = resident_mib(pid) - before
    assert grown < 7 * LARGE_BYTES / MIB
    prompt = world.add_consumer("prompt").connect()
    assert prompt.infer(small, **small_headers).status == 200
    for link in links:
        link.close()
    again = sloth.connect()
    world.wait_for(lambda: again.infer(small, **small_headers).status == 200, "it is served again")
    observed.figure("MiB of answers that were not taken", 4 * LARGE_BYTES // MIB)
    observed.figure("MiB by which the enclave grew", round(grown))
