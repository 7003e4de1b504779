"""Who answers at the enclave's address is replaced under a gateway that serves: programs get a reason, nobody a prompt.

The host leads connections to whom it likes. All are real processes, and each has a budget for this very consumer, so
that a request that reached the wrong one would be charged there.
"""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.e2e.commandline import aigovtool
from tests.e2e.gateways import Gateway, connecting
from tests.e2e.party_files import consumer_file
from tests.e2e.twins import ANOTHER_BUILD, Replaceable, Twin, beside, replaceable
from tests.e2e.world import MODEL, World, wait_for

from aigovtool.attestation.model import MeasurementHex
from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.consumer import Client
from aigovtool.consumer.connect.evidence_log import Event
from aigovtool.errors import EvidenceError
from aigovtool.protocol import commands
from aigovtool.testing.simulated_tee.attester import measure
from aigovtool.testing.simulated_tee.verify import simulated_policy

OFTEN = ("--allow-simulated", "--verify-every", 5)
#: The next look at an enclave by the schedule is after the test.
SELDOM = ("--allow-simulated", "--verify-every", 3600)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, digits_model: bytes) -> Iterator[Replaceable]:
    """A deployment whose consumers can be led elsewhere; its custodian accepts another build as well."""
    with replaceable(tmp_path_factory.mktemp("lender") / "world", digits_model) as made:
        both: AppraisalPolicy = simulated_policy(measure(), ANOTHER_BUILD, version=2)
        made.world.command(commands.SetAppraisalPolicy(policy=both))
        yield made


@pytest.fixture(scope="module")
def twin(site: Replaceable, tmp_path_factory: pytest.TempPathFactory, digits_model: bytes) -> Iterator[Twin]:
    """The same custodian's, with another model under the same name."""
    folder = tmp_path_factory.mktemp("twin") / "world"
    with beside(folder, site.world, digits_model, same_custodian=True) as made:
        yield made


@pytest.fixture(scope="module")
def stranger(site: Replaceable, tmp_path_factory: pytest.TempPathFactory, digits_model: bytes) -> Iterator[Twin]:
    """A deployment of another custodian, with the same names for everything."""
    folder = tmp_path_factory.mktemp("stranger") / "world"
    with beside(folder, site.world, digits_model, same_custodian=False) as made:
        yield made


@pytest.fixture(autouse=True)
def as_before(site: Replaceable) -> Iterator[None]:
    """Everybody is led to the enclave that was lent to, of the build that it is, before and after each test."""
    yield
    site.world.measured.write_text(measure())
    site.lead_to(site.world)


@pytest.fixture
def credential(site: Replaceable) -> Path:
    """The consumer's file."""
    return consumer_file(site.world)


def refused(answer: httpx.Response) -> tuple[int, str, str]:
    """Return what a program is told: status, code, reason; and that there is something to do about it."""
    told = answer.json()
    assert told["fix"], told
    assert told["error"] == told["detail"]
    return answer.status_code, told["code"], told["reason"]


def statuses(gateway: Gateway, body: bytes) -> set[int]:
    """Ask so often at once that both of two enclaves are asked; return what came of it."""
    with ThreadPoolExecutor(8) as pool:
        return set(pool.map(lambda _: gateway.infer(body).status_code, range(32)))


def answers_again(gateway: Gateway, body: bytes) -> bool:
    """Return whether a program gets an answer."""
    return gateway.infer(body).status_code == 200


def reboot(world: Twin, build: MeasurementHex) -> None:
    """End the enclave in an orderly way, and boot another build of it."""
    world.kill("enclave", 15)
    world.processes["enclave"].wait(30)
    world.measured.write_text(build)
    world.start_enclave()


# -- Another model under the name ---------------------------------------------------------------------


def test_another_digest_of_a_model_that_was_not_pinned_gets_nothing(
    site: Replaceable, twin: Twin, credential: Path, tmp_path: Path, body: bytes
) -> None:
    """Refused by the digest first seen, in log and status; when the right one is back it serves, without a restart."""
    with connecting(tmp_path, credential, site.url, options=SELDOM) as gateway:
        assert gateway.infer(body).status_code == 200
        first = gateway.told()[-1]
        site.lead_to(twin)
        changed = gateway.infer(body, "case-1")
        assert refused(changed) == (403, "evidence_not_genuine", "model_changed")
        refused_line = gateway.wait_for_event(Event.REFUSED, "model_changed")
        other = gateway.told()[-2]
        assert first.seen is not None
        assert other.seen is not None
        for digest in (first.seen.models[MODEL], other.seen.models[MODEL]):
            assert digest in changed.json()["detail"]
            assert digest in refused_line.why
        shown = gateway.enclave()
        assert (shown["state"], shown["reason"]) == ("verified", "model_changed")
        assert "case-1" not in str(shown)
        assert gateway.program.get(f"/v2/models/{MODEL}/ready").status_code == 403
        assert gateway.program.post("/v2/repository/index", content=b"{}").json() == []
        site.lead_to(site.world)
        wait_for(lambda: answers_again(gateway, body), "it is verified again long before the schedule", 60)
        assert "reason" not in gateway.enclave()
        assert [line.event for line in gateway.told()] == [
            Event.VERIFIED,
            Event.VERIFIED,
            Event.REFUSED,
            Event.VERIFIED,
        ]
    assert twin.charged() == 0


def test_another_digest_of_a_pinned_model_gets_nothing(
    site: Replaceable, twin: Twin, credential: Path, tmp_path: Path, body: bytes
) -> None:
    """The pin holds from the first connection on: at the start, and while it serves."""
    probe = ("connect", "--enclave", site.url, "--credential", credential, "--listen", "127.0.0.1:0", *OFTEN)
    with connecting(tmp_path, credential, site.url, options=OFTEN) as gateway:
        seen = gateway.told()[-1].seen
    assert seen is not None
    pinned = ("--model", f"{MODEL}={seen.models[MODEL]}")
    with connecting(tmp_path, credential, site.url, options=(*OFTEN, *pinned)) as gateway:
        assert gateway.infer(body).status_code == 200
        site.lead_to(twin)
        assert refused(gateway.infer(body)) == (403, "evidence_not_genuine", "binding_manifests")
        assert not gateway.is_ready()
        gateway.wait_for_event(Event.REFUSED, "binding_manifests")
        assert gateway.enclave()["state"] == "refused"
        assert (
            "binding_manifests" in aigovtool(*probe, *pinned, "--home", tmp_path / "other", code=5, timeout_s=60).stderr
        )
        site.lead_to(site.world)
        wait_for(lambda: answers_again(gateway, body), "it serves again")
    assert twin.charged() == 0


def test_a_client_of_the_library_tells_the_two_models_apart_as_well(
    site: Replaceable, twin: Twin, credential: Path, body: bytes
) -> None:
    """By the digest first seen, and by a pin: the same refusals, and nothing is charged."""
    picture = np.array(json.loads(body)["inputs"][0]["data"], np.float32).reshape(1, 64)
    with Client.connect(site.url, credential, allow_simulated=True) as client:
        client.infer(MODEL, picture)
        pins: dict[str, str] = {MODEL: client.models()[0].manifest}
        with Client.connect(site.url, credential, allow_simulated=True, models=pins) as pinned:
            site.lead_to(twin)
            for one, reason in ((client, "model_changed"), (pinned, "binding_manifests")):
                with pytest.raises(EvidenceError) as caught:
                    one.infer(MODEL, picture)
                assert caught.value.reason == reason
                assert caught.value.fix
    assert twin.charged() == 0


# -- Another custodian --------------------------------------------------------------------------------


def test_an_enclave_of_another_custodian_gets_nothing(
    site: Replaceable, stranger: World, credential: Path, tmp_path: Path, body: bytes
) -> None:
    """It does not take this consumer's certificate, and says nothing; the program is told what that may mean."""
    with connecting(tmp_path, credential, site.url, options=SELDOM) as gateway:
        assert gateway.infer(body).status_code == 200
        site.lead_to(stranger)
        told = gateway.infer(body)
        assert told.status_code in {401, 503}
        assert told.json()["reason"] in {"hung_up", "credential_refused"}
        assert "custodian" in told.json()["fix"]
        assert not gateway.is_ready()
        gateway.wait_for_event(Event.UNREACHABLE)
        site.lead_to(site.world)
        wait_for(lambda: answers_again(gateway, body), "it serves again")
    assert stranger.charged() == 0


@pytest.mark.parametrize("who", ["twin", "stranger"])
def test_programs_are_served_by_the_other_enclave_meanwhile(
    *, who: str, request: pytest.FixtureRequest, site: Replaceable, credential: Path, tmp_path: Path, body: bytes
) -> None:
    """One of two addresses is taken over: nobody who asks notices, the status shows it, and nothing is sent there."""
    other: World = request.getfixturevalue(who)
    with connecting(tmp_path, credential, site.url, site.world.url, options=SELDOM) as gateway:
        assert statuses(gateway, body) == {200}
        site.lead_to(other)
        time.sleep(0.5)  # the gateway hears that its connections have ended
        assert statuses(gateway, body) == {200}
        assert gateway.enclave()["reason"] in {"model_changed", "hung_up", "credential_refused"}
        assert gateway.is_ready()
        (listed,) = gateway.program.post("/v2/repository/index", content=b"{}").json()
        assert listed["name"] == MODEL
    assert other.charged() == 0


# -- Other evidence -----------------------------------------------------------------------------------


def test_an_enclave_of_a_build_that_the_custodian_accepts_and_the_consumer_does_not_gets_nothing(
    site: Replaceable, credential: Path, tmp_path: Path, body: bytes
) -> None:
    """Attack: the host boots another build, which is lent to; the consumer's own policy has no entry for it."""
    world = site.world
    with connecting(tmp_path, credential, site.url, options=SELDOM) as gateway:
        assert gateway.infer(body).status_code == 200
        reboot(world, ANOTHER_BUILD)
        told = gateway.infer(body)
        assert refused(told) == (403, "evidence_unacceptable", "measurements")
        assert ANOTHER_BUILD in told.json()["detail"]
        assert not gateway.is_ready()
        gateway.wait_for_event(Event.REFUSED, "measurements")
        spent = world.charged()
        assert {gateway.infer(body).status_code for _ in range(5)} == {403}
        reboot(world, measure())
        assert world.charged() == spent
        wait_for(lambda: answers_again(gateway, body), "it serves again")


def test_evidence_that_changes_in_mid_session_ends_the_forwarding_on_schedule(
    site: Replaceable, credential: Path, tmp_path: Path, body: bytes
) -> None:
    """Same instance, same key, same connection; what its platform says now is not accepted. Within a period it ends."""
    with connecting(tmp_path, credential, site.url, options=OFTEN) as gateway:
        assert gateway.infer(body).status_code == 200
        instance = gateway.enclave()["instance"]
        site.world.measured.write_text(ANOTHER_BUILD)
        line = gateway.wait_for_event(Event.REFUSED, "measurements", 20)
        assert ANOTHER_BUILD in line.why
        told = gateway.infer(body)
        assert refused(told) == (403, "evidence_unacceptable", "measurements")
        assert not gateway.is_ready()
        answered = len(gateway.receipts())
        assert {gateway.infer(body).status_code for _ in range(5)} == {403}
        assert len(gateway.receipts()) == answered
        site.world.measured.write_text(measure())
        gateway.wait_for_event(Event.VERIFIED)
        assert gateway.infer(body).status_code == 200
        assert gateway.enclave()["instance"] == instance
