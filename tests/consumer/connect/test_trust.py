"""The gateway and those that it believes: verified before anything is served, and nothing is sent where it is not."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from tests.consumer.conftest import MANIFEST, MEASUREMENT, MODEL, FakeEnclave, World
from tests.consumer.connect.kit import connected, reason_of

from aigovtool.attestation.model import MeasurementHex
from aigovtool.consumer.connect.evidence_log import Event
from aigovtool.crypto.sign import SigningKey
from aigovtool.errors import (
    AppraisalError,
    ConfigurationError,
    EvidenceError,
    SignatureInvalidError,
    UnauthenticatedError,
    UnreachableError,
)
from aigovtool.ids import digest_of
from aigovtool.testing.simulated_tee.attester import SimulatedPlatform
from aigovtool.testing.simulated_tee.verify import simulated_policy

OFTEN_S = 0.1


async def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Let the loop turn until it holds."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


# -- Before anything is served ------------------------------------------------------------------------


async def test_nothing_is_served_without_a_verified_enclave(world: World, enclave: FakeEnclave) -> None:
    """Its measurements are not those of the policy: the gateway does not start, and says why."""
    enclave.platform = SimulatedPlatform(MeasurementHex("cd" * 48))
    with pytest.raises(AppraisalError):
        async with connected(world, enclave):
            pass
    assert enclave.charged == []


async def test_a_simulated_enclave_is_refused_by_default(world: World, enclave: FakeEnclave) -> None:
    """It protects nothing: it takes the option as well as the policy."""
    with pytest.raises(AppraisalError) as caught:
        async with connected(world, enclave, allow_simulated=False):
            pass
    assert caught.value.reason == "simulated"


async def test_an_enclave_of_another_custodian_is_refused(world: World, enclave: FakeEnclave) -> None:
    """Its key set is signed by another root than that of the consumer file."""
    enclave.key_set = world.key_set(7, root=SigningKey.generate())
    with pytest.raises(SignatureInvalidError):
        async with connected(world, enclave):
            pass


async def test_a_pinned_model_is_that_one_or_none(world: World, enclave: FakeEnclave) -> None:
    """Attack: an enclave that is genuine in all, with another model under the name."""
    with pytest.raises(EvidenceError) as caught:
        async with connected(world, enclave, models={MODEL: digest_of(b"another")}):
            pass
    assert caught.value.reason == "binding_manifests"


async def test_a_policy_that_is_older_than_one_used_before_is_refused(world: World, enclave: FakeEnclave) -> None:
    """Attack: a policy that was withdrawn, for example because a build turned out to be unsafe, is put back."""
    newer = msgspec.structs.replace(simulated_policy(MEASUREMENT), version=5)
    async with connected(world, enclave, policy=newer):
        pass
    with pytest.raises(AppraisalError) as caught:
        async with connected(world, enclave):
            pass
    assert caught.value.reason == "policy_rollback"
    async with connected(world, enclave, policy=newer):
        pass


async def test_two_gateways_do_not_share_a_home(world: World, enclave: FakeEnclave) -> None:
    """Each binds its lines to those before: two at once would tear the log apart."""
    async with connected(world, enclave):
        with pytest.raises(ConfigurationError) as caught:
            async with connected(world, enclave):
                pass
    assert caught.value.reason == "log_in_use"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
async def test_it_listens_on_loopback_alone(host: str, world: World, enclave: FakeEnclave) -> None:
    """Whoever reaches it asks in the consumer's name."""
    with pytest.raises(ConfigurationError) as caught:
        async with connected(world, enclave, host=host):
            pass
    assert caught.value.reason == "not_loopback"


async def test_one_that_is_refused_does_not_keep_the_others_from_serving(world: World, enclave: FakeEnclave) -> None:
    """It is left out, and shown."""
    other = world.enclave()
    other.platform = SimulatedPlatform(MeasurementHex("cd" * 48))
    async with connected(world, other, enclave) as asking:
        assert (await asking.infer()).status_code == 200
        states = {one["enclave"]: one["state"] for one in (await asking.status())["enclaves"]}
    assert states == {other.url: "refused", enclave.url: "verified"}
    assert other.charged == []


# -- While it serves ----------------------------------------------------------------------------------


async def test_an_enclave_that_boots_again_is_verified_anew_unnoticed(world: World, enclave: FakeEnclave) -> None:
    """Another instance, another TLS key: the program sees an answer, the log a line."""
    async with connected(world, enclave) as asking:
        assert (await asking.infer()).status_code == 200
        enclave.reboot()
        assert (await asking.infer()).status_code == 200
        assert asking.events() == [Event.VERIFIED] * 2
        before, after = (line.seen for line in asking.told())
    assert before is not None
    assert after is not None
    assert before.instance != after.instance
    assert before.tls_key != after.tls_key
    assert len(enclave.charged) == 2


async def test_an_enclave_that_boots_again_with_other_measurements_gets_nothing(
    world: World, enclave: FakeEnclave
) -> None:
    """Attack: the borrower replaces the enclave by another build, under load."""
    async with connected(world, enclave) as asking:
        assert (await asking.infer()).status_code == 200
        enclave.platform = SimulatedPlatform(MeasurementHex("cd" * 48))
        enclave.reboot()
        answers = [await asking.infer() for _ in range(3)]
        ready = await asking.program.get("/v2/health/ready")
        assert asking.events() == [Event.VERIFIED, Event.REFUSED]
    assert all(answer.status_code >= 400 for answer in answers)
    assert reason_of(answers[0]) == reason_of(answers[-1])
    assert ready.status_code == 503
    assert len(enclave.charged) == 1


async def test_a_model_with_another_digest_gets_nothing(world: World, enclave: FakeEnclave) -> None:
    """Attack: a genuine enclave with another model under the name that was asked before."""
    async with connected(world, enclave) as asking:
        assert (await asking.infer()).status_code == 200
        enclave.manifests = {MODEL: digest_of(b"another")}
        enclave.reboot()
        answer = await asking.infer()
        lines = asking.told()
    assert (answer.status_code >= 400, reason_of(answer)) == (True, "model_changed")
    assert len(enclave.charged) == 1
    assert [line.seen.models[MODEL] for line in lines if line.seen is not None][-1] == digest_of(b"another")


async def test_an_enclave_that_does_not_take_this_consumer_any_more_is_not_said_to_be_ready(
    world: World, enclave: FakeEnclave
) -> None:
    """Its certificate has ended, as far as the enclave knows: told with what to do, in status and log."""
    ended = UnauthenticatedError("the credential has expired", reason="credential_expired", fix="believe me")
    async with connected(world, enclave) as asking:
        assert (await asking.infer()).status_code == 200
        enclave.refusals = [ended]
        answer = await asking.infer()
        ready = await asking.program.get("/v2/health/ready")
        (shown,) = (await asking.status())["enclaves"]
        assert asking.events() == [Event.VERIFIED, Event.UNREACHABLE]
        assert (await asking.infer()).status_code == 200
        assert (await asking.status())["enclaves"][0]["state"] == "verified"
    assert (answer.status_code, reason_of(answer), ready.status_code) == (401, "credential_expired", 503)
    assert "by the clock of this machine" in answer.json()["fix"]
    assert (shown["state"], shown["reason"]) == ("unreachable", "credential_expired")


async def test_a_key_set_that_was_seen_before_a_restart_does_not_go_back(world: World, enclave: FakeEnclave) -> None:
    """Attack: whoever stole a key of the custodian's that was revoked since waits until the gateway is started anew."""
    enclave.key_set = world.key_set(9)
    async with connected(world, enclave):
        pass
    enclave.key_set = world.key_set(8)
    with pytest.raises(SignatureInvalidError) as caught:
        async with connected(world, enclave):
            pass
    assert caught.value.reason == "key_set_rollback"
    assert "revoked" in (caught.value.fix or "")


async def test_a_model_that_has_changed_is_looked_at_again_soon(world: World, enclave: FakeEnclave) -> None:
    """Not at the next turn of the schedule: when the right one is back it is served; and the log has a line of each."""
    async with connected(world, enclave, verify_every_s=3600) as asking:
        assert (await asking.infer()).status_code == 200
        enclave.manifests = {MODEL: digest_of(b"another")}
        enclave.reboot()
        assert [reason_of(await asking.infer()) for _ in range(3)] == ["model_changed"] * 3
        assert (await asking.program.post("/v2/repository/index", content=b"{}")).json() == []
        (shown,) = (await asking.status())["enclaves"]
        assert (shown["state"], shown["reason"]) == ("verified", "model_changed")
        await asyncio.sleep(0.5)
        assert len(enclave.challenges) <= 3  # each costs it a quote
        enclave.manifests = {MODEL: MANIFEST}
        await until(lambda: asking.events()[-1] is Event.VERIFIED)
        assert (await asking.infer()).status_code == 200
        assert "reason" not in (await asking.status())["enclaves"][0]
        assert asking.events() == [Event.VERIFIED, Event.VERIFIED, Event.REFUSED, Event.VERIFIED]
    assert len(enclave.charged) == 2


async def test_evidence_that_is_not_accepted_any_more_ends_it_within_the_period(
    world: World, enclave: FakeEnclave
) -> None:
    """The enclave does not boot again; only what it proves has changed. Nothing is sent once it was looked at."""
    async with connected(world, enclave, verify_every_s=OFTEN_S) as asking:
        assert (await asking.infer()).status_code == 200
        enclave.platform = SimulatedPlatform(MeasurementHex("cd" * 48))
        await until(lambda: Event.REFUSED in asking.events())
        answer = await asking.infer()
        assert answer.status_code >= 400
        assert len(enclave.charged) == 1
        enclave.platform = SimulatedPlatform(MEASUREMENT)
        await until(lambda: asking.events()[-1] is Event.VERIFIED)
        assert (await asking.infer()).status_code == 200


async def test_another_root_of_the_custodian_ends_it(world: World, enclave: FakeEnclave) -> None:
    """Attack: the custodian's keys are replaced by somebody's own while the gateway serves."""
    async with connected(world, enclave, verify_every_s=OFTEN_S) as asking:
        enclave.key_set = world.key_set(8, root=SigningKey.generate())
        await until(lambda: Event.REFUSED in asking.events())
        answer = await asking.infer()
        assert (answer.status_code, reason_of(answer)) == (403, "wrong_key")
        assert "another custodian" in answer.json()["fix"]
    assert enclave.charged == []


async def test_it_is_verified_again_with_a_nonce_of_its_own_each_time(world: World, enclave: FakeEnclave) -> None:
    """Fresh evidence, not the same again; and as long as nothing changes the log says nothing."""
    async with connected(world, enclave, verify_every_s=OFTEN_S) as asking:
        await until(lambda: len(enclave.challenges) >= 4)
        assert asking.events() == [Event.VERIFIED]
    assert len(set(enclave.challenges)) == len(enclave.challenges)


async def test_one_that_was_not_there_is_found_when_it_comes(world: World, enclave: FakeEnclave) -> None:
    """It is tried again after two seconds, and then more and more rarely."""
    other = world.enclave()
    other.platform = SimulatedPlatform(MeasurementHex("cd" * 48))
    async with connected(world, other, enclave, verify_every_s=3600) as asking:
        other.platform = SimulatedPlatform(MEASUREMENT)
        await until(lambda: asking.events().count(Event.VERIFIED) == 2)


async def test_nobody_there_at_all(world: World, enclave: FakeEnclave) -> None:
    """The gateway does not start, and says which address does not answer."""
    enclave.served.stop()
    with pytest.raises(UnreachableError):
        async with connected(world, enclave):
            pass
