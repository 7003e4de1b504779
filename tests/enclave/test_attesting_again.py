"""An instance that serves attests again in good time, with the keys that it has; nobody who asks notices."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.custodian.conftest import BORROWER, CONSUMER
from tests.enclave.site import Service, Site, asked, open_site, served

from aigovtool.enclave import again
from aigovtool.enclave.gateway.inference import infer
from aigovtool.enclave.instance_run import Ending
from aigovtool.errors import UnreachableError
from aigovtool.ids import Nonce
from aigovtool.ledger.entry import Attested, StopTarget
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.protocol import commands as acts

LIFE_MS = 2_000


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A custodian under whose terms an attestation lasts two seconds."""
    terms = msgspec.structs.replace(default_policy(Dial.BALANCED, ttl_ms=1_000), max_attestation_age_ms=LIFE_MS)
    async with open_site(tmp_path, policy=terms) as made:
        await made.bench.add_consumer(CONSUMER, BORROWER)
        await made.bench.grant(1_000)
        yield made


async def ticking(site: Site) -> None:
    """Let the custodian's time go by."""
    while True:
        await asyncio.sleep(0.05)
        site.bench.now_ms += 50


@pytest.fixture
async def service(site: Site) -> AsyncIterator[Service]:
    clock = asyncio.create_task(ticking(site))
    async with served(site) as made:
        yield made
    clock.cancel()


async def attested(site: Site) -> int:
    return sum(isinstance(line, Attested) for line in await site.bench.log())


async def until(count: int, site: Site) -> None:
    async with asyncio.timeout(20):
        while await attested(site) < count:  # noqa: ASYNC110 - the custodian tells nobody
            await asyncio.sleep(0.05)


async def test_an_instance_outlives_its_attestation(site: Site, service: Service) -> None:
    """Three lives of an attestation, one instance, one engine, and answers all the time; sessions show the newest."""
    run = service.run
    first, began_ms = run.instance.admission, run.instance.custodian_time_ms()
    for number in range(6):
        await infer(run, asked(run, f"k{number}"))
        await until(2 + number // 2, site)
    assert run.instance.admission.valid_until_ms > first.valid_until_ms + LIFE_MS
    assert run.instance.admission.instance == first.instance
    claims, _ = run.instance.session_evidence(run.instance.claims.audience, Nonce("ab" * 32))
    assert claims.appraisal_policy == run.instance.claims.appraisal_policy
    assert abs(run.instance.custodian_time_ms() - began_ms - (site.bench.now_ms - first.server_time_ms)) < LIFE_MS
    assert not run.instance.engine.died.is_set()


async def test_a_custodian_that_is_away_is_asked_again(
    site: Site, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: a host that cuts the way when an attestation is due; as long as it lasts, it is tried."""
    monkeypatch.setattr(again, "_LEAST_S", 0.05)
    failures = 0

    def away(given: object) -> object:
        nonlocal failures
        failures += 1
        if failures < 4:
            raise UnreachableError("cut", reason="custodian")
        return given

    site.link.changes["/v1/boot/challenge"] = away
    await until(2, site)
    assert failures >= 4
    assert service.run.ending is None


async def test_who_cannot_attest_again_ends_with_its_attestation(site: Site, service: Service) -> None:
    """The time that was left is all there is: then it gets no lease any more, and is wiped."""

    def never(_given: object) -> object:
        raise UnreachableError("cut", reason="custodian")

    site.link.changes["/v1/boot/challenge"] = never
    assert await service.ended() is Ending.REATTEST
    assert await attested(site) == 1


async def test_a_stop_that_comes_with_an_attestation_is_taken(site: Site, service: Service) -> None:
    """Nothing that is stopped goes on by attesting."""
    await site.bench.command(acts.Stop(target=StopTarget.ALL, value="", reason="drill"))
    assert await service.ended() is Ending.STOPPED
