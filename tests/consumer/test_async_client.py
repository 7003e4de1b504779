"""The asynchronous face of the same core."""

import asyncio
import time

import pytest
from tests.consumer.conftest import FakeEnclave, World

from aigovtool.consumer import AsyncClient
from aigovtool.errors import BudgetExhaustedError, EvidenceError, ReattestRequiredError, UnreachableError
from aigovtool.ids import Nonce


async def test_the_asynchronous_client_attests_and_asks(world: World, enclave: FakeEnclave) -> None:
    """`async with` attests; many requests may be under way."""
    async with AsyncClient.connect(enclave.url, world.file, allow_simulated=True) as client:
        results = await asyncio.gather(*(client.infer("doubler", [[n, n]]) for n in range(8)))
        assert [result.outputs["y"].tolist() for result in results] == [[[2.0 * n, 2.0 * n]] for n in range(8)]
        assert len(enclave.charged) == 8
        assert client.evidence.tee == "simulated"
        assert client.instance == enclave.instance
        assert client.warnings
        assert (client.key_set_version, client.key_set.version) == (7, 7)
        assert [model.model for model in await client.models()] == ["doubler"]
        await client.attest()


async def test_nothing_is_trusted_before_it_is_awaited(world: World, enclave: FakeEnclave) -> None:
    """`connect` alone has opened no connection."""
    client = AsyncClient.connect(enclave.url, world.file, allow_simulated=True)
    with pytest.raises(ReattestRequiredError):
        _ = client.evidence
    assert not enclave.challenges
    assert await client is client
    assert len(enclave.challenges) == 1
    await client.close()


async def test_replayed_evidence_is_refused_asynchronously_too(world: World, enclave: FakeEnclave) -> None:
    """The checks are in the core."""
    old = enclave.attest("radiology", Nonce("00" * 32))
    enclave.forge_session = lambda _: old
    with pytest.raises(EvidenceError):
        _ = await AsyncClient.connect(enclave.url, world.file, allow_simulated=True)


async def test_relayed_evidence_is_refused_asynchronously_too(world: World, enclave: FakeEnclave) -> None:
    """The certificate of the very connection is seen by this driver as well."""
    middle = world.enclave()
    middle.forge_session = lambda session: enclave.attest("radiology", session.claims.nonce)
    with pytest.raises(EvidenceError) as caught:
        _ = await AsyncClient.connect(middle.url, world.file, allow_simulated=True)
    assert caught.value.reason == "binding_tls_spki"


async def test_a_reboot_is_attested_afresh(world: World, enclave: FakeEnclave) -> None:
    """A failed pin leads to a new attestation, and the request goes on."""
    async with AsyncClient.connect(enclave.url, world.file, allow_simulated=True) as client:
        await client.infer("doubler", [[1, 2]])
        await asyncio.to_thread(enclave.reboot)
        await client.infer("doubler", [[1, 2]])
        assert client.instance == enclave.instance


async def test_a_connection_that_has_ended_is_not_used(world: World, enclave: FakeEnclave) -> None:
    """Nor where the event loop has not heard of it: what is sent there could have been received, for all one knows."""
    async with AsyncClient.connect(enclave.url, world.file, allow_simulated=True) as client:
        for charged in (1, 2, 3):
            await client.infer("doubler", [[1, 2]])
            assert len(enclave.charged) == charged
            enclave.reboot()
            time.sleep(0.1)  # noqa: ASYNC251 - the loop hears nothing meanwhile, and the end has come
        await client.infer("doubler", [[1, 2]])
        assert client.instance == enclave.instance


async def test_lost_answers_and_waiting(world: World, enclave: FakeEnclave) -> None:
    """Repeating and waiting are the core's too."""
    options = {"allow_simulated": True, "clock": world.clock.clock()}
    async with AsyncClient.connect(enclave.url, world.file, **options) as client:  # type: ignore[arg-type]
        enclave.lose_answers = 1
        enclave.refusals = [BudgetExhaustedError("no units are left", retry_after_s=5)]
        await client.infer("doubler", [[1, 2]], wait=True)
        assert world.clock.slept == [5.0]
        assert len(enclave.charged) == 1
        enclave.lose_answers = 2
        with pytest.raises(UnreachableError):
            await client.infer("doubler", [[1, 2]])


async def test_the_custodian_is_asked(world: World, enclave: FakeEnclave) -> None:
    """Budget questions go to the custodian."""
    async with AsyncClient.connect(enclave.url, world.file, allow_simulated=True) as client:
        ask = await client.request_budget(10, "more cases")
        assert (await client.ask_state(ask.ask_id)).state == "open"
        assert (await client.budget()).asks[0].ask_id == ask.ask_id


async def test_a_cancelled_request_can_be_repeated(world: World, enclave: FakeEnclave) -> None:
    """Cancelling leaves the client usable, and the request id repeats without a second charge."""
    async with AsyncClient.connect(enclave.url, world.file, allow_simulated=True) as client:
        task = asyncio.create_task(client.infer("doubler", [[1, 2]], request_id="case-1"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.infer("doubler", [[1, 2]], request_id="case-1")
        assert len(enclave.charged) == 1
