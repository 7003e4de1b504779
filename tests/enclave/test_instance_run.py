"""The life of an instance: whatever happens, it ends in a wipe that the custodian is told of, and never in between."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import delete
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL
from tests.enclave.site import Hold, Service, Site, asked, served

from aigovtool.custodian.service.views import show_enclaves
from aigovtool.custodian.store import schema
from aigovtool.enclave import instance_run
from aigovtool.enclave.gateway.inference import infer
from aigovtool.enclave.instance_run import Ending
from aigovtool.errors import RefusalError, UnreachableError
from aigovtool.ids import InstanceId
from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol import commands as acts
from aigovtool.protocol import metering
from aigovtool.protocol.messages import Push


@pytest.fixture
async def service(site: Site) -> AsyncIterator[Service]:
    """An instance with a budget of a thousand."""
    await site.bench.add_consumer(CONSUMER, BORROWER)
    await site.bench.grant(1_000)
    async with served(site) as made:
        yield made


def renew_now(site: Site, service: Service) -> None:
    site.bench.custodian.hub.push(service.run.instance.instance, Push(recall=True))


async def state_of(site: Site, instance: InstanceId) -> str:
    shown = await show_enclaves(site.bench.custodian)
    return next(each.state for each in shown.enclaves if each.instance == instance)


async def forgotten(site: Site) -> None:
    """Replace the ledger by one that does not know any instance."""
    await site.bench.custodian.database.run(lambda connection: connection.execute(delete(schema.instances)))


async def wiped(service: Service) -> None:
    """Check that engine and answers are gone, and that nobody is served."""
    run = service.run
    assert run.instance.engine.died.is_set()
    assert len(run.results) == 0
    with pytest.raises(RefusalError):
        run.charging.check(CONSUMER)


# --- A custodian that does not know the instance -----------------------------------------------


async def test_an_instance_that_is_unknown_when_it_renews_is_wiped(site: Site, service: Service) -> None:
    """After a restore its leases are nobody's: it ends and lets the next boot attest, instead of asking for ever."""
    await forgotten(site)
    renew_now(site, service)
    assert await service.ended() is Ending.UNKNOWN
    await wiped(service)


async def test_an_instance_that_is_unknown_shows_what_it_remembers(site: Site, service: Service) -> None:
    """It may be the last one that does: the custodian forgot it with the grants of since."""
    await forgotten(site)
    note = service.run._meter.checkpoint
    shown: list[str] = []
    post = service.run.instance.link.post

    async def watched(path: str, message: Any, answer: Any) -> Any:
        if path == "/v1/checkpoints":
            shown.append(message.checkpoint)
            if len(shown) == 1:
                raise UnreachableError("not now", reason="custodian")
        return await post(path, message, answer)

    service.run.instance.link.post = watched  # type: ignore[method-assign]
    renew_now(site, service)
    assert await service.ended() is Ending.UNKNOWN
    assert shown == [note, note]
    assert note.startswith("aigovtool/")


async def test_an_instance_that_is_unknown_when_it_listens_is_wiped(site: Site, service: Service) -> None:
    """The stream may tell it first."""
    await forgotten(site)
    site.bench.custodian.hub.cut(service.run.instance.instance)
    assert await service.ended() is Ending.UNKNOWN
    await wiped(service)


# --- Tasks that die ----------------------------------------------------------------------------


def break_down(_: object) -> object:
    raise RuntimeError("nobody expects this")


@pytest.mark.parametrize("path", ["/v1/renew", "/v1/listen"])
async def test_a_task_that_dies_of_anything_ends_in_a_wipe(path: str, site: Site, service: Service) -> None:
    """An instance without its heartbeat, or without ears, must not go on serving, whatever the reason is."""
    site.link.changes[path] = break_down
    if path == "/v1/renew":
        renew_now(site, service)
    else:
        site.bench.custodian.hub.cut(service.run.instance.instance)
    assert await service.ended() is Ending.FAULT
    await wiped(service)
    assert await state_of(site, service.run.instance.instance) == "wiped"


async def test_the_death_of_the_engine_ends_in_a_wipe(site: Site, service: Service) -> None:
    """Its keys were drawn at boot: there is no second engine for this instance."""
    await service.run.instance.engine.kill_and_wait()
    assert await service.ended() is Ending.ENGINE_DIED
    await wiped(service)
    assert await state_of(site, service.run.instance.instance) == "wiped"


async def test_an_event_in_the_same_moment_does_not_keep_the_heartbeat_alive(service: Service) -> None:
    """A waiting task that is woken and cancelled at once must end: an instance that cannot end is never wiped."""
    for _ in range(3):
        await asyncio.sleep(0)
    service.run.charging.wake.set()
    service.run._finish(Ending.ENGINE_DIED)
    assert await service.ended() is Ending.ENGINE_DIED
    await wiped(service)


async def test_a_renewal_that_hangs_leaves_time_for_another(site: Site, service: Service) -> None:
    """A connection on which nothing comes is given up after a third of the ttl, and the same bytes are sent again."""
    run, held = service.run, Hold()
    run._meter.terms.ttl_ms = 1_000
    site.link.held["/v1/renew"] = held
    renew_now(site, service)
    await held.arrived.wait()
    del site.link.held["/v1/renew"]
    async with asyncio.timeout(8):
        while run._meter.is_renewing:
            await asyncio.wait([run._changed])
    run.charging.check(CONSUMER)


async def test_silence_is_noticed_while_a_try_hangs(
    site: Site, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dead-man switch does not wait until a connection on which nothing comes is given up."""
    monkeypatch.setattr(instance_run, "_TRY_S", (3_600.0, 3_600.0))
    held = site.link.held["/v1/renew"] = Hold()
    renew_now(site, service)
    await held.arrived.wait()
    service.run._meter._contact_ms -= 10**9
    assert await service.ended() is Ending.SILENCE
    await wiped(service)


# --- An orderly end ----------------------------------------------------------------------------


async def used_up(site: Site, service: Service) -> Hold:
    """Use a whole lease, so that another one is granted, and hold back the answer that says so."""
    run = service.run
    held = site.link.held["/v1/renew"] = Hold()
    reserved = asyncio.create_task(
        run.charging.reserve(MODEL, CONSUMER, UnitVector(inferences=8), None, run.instance.clock.now_ms() + 10_000)
    )
    await held.arrived.wait()
    held.let_pass.set()
    run.charging.void(await reserved, failed=False)
    held = site.link.held["/v1/renew"] = Hold()
    await infer(run, asked(run, rows=8))
    await held.arrived.wait()
    assert await site.pending() > 8
    return held


async def test_a_grant_under_way_at_an_orderly_end_is_given_back(site: Site, service: Service) -> None:
    """The end waits a moment for the answer, and reports the new lease unused."""
    held = await used_up(site, service)
    service.run.shut_down()
    for _ in range(5):
        await asyncio.sleep(0)
    held.let_pass.set()
    assert await service.ended() is Ending.SHUTDOWN
    assert (await site.posted(), await site.pending()) == (8, 0)


async def test_an_orderly_end_does_not_wait_for_ever(site: Site, service: Service) -> None:
    """A custodian that does not answer costs a second, and the lease that it granted."""
    await used_up(site, service)
    service.run.shut_down()
    assert await service.ended() is Ending.SHUTDOWN
    assert (await site.posted(), await site.pending() > 0) == (8, True)
    await wiped(service)


async def test_no_renewal_begins_at_an_orderly_end(site: Site, service: Service) -> None:
    """However much somebody who waits would like one: what is granted then would be charged for nothing."""
    run, link = service.run, site.link
    held = link.held["/v1/renew"] = Hold()
    waiting = asyncio.create_task(
        run.charging.reserve(MODEL, CONSUMER, UnitVector(inferences=2_000), None, run.instance.clock.now_ms() + 60_000)
    )
    await held.arrived.wait()
    before = link.paths.count("/v1/renew")
    run.shut_down()
    held.let_pass.set()
    await service.ended()
    with pytest.raises(RefusalError):
        await waiting
    assert link.paths.count("/v1/renew") == before


async def test_every_lease_is_accounted_for_in_as_many_statements_as_it_takes(
    site: Site, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The custodian takes the reports of each, and records one wipe."""
    run = service.run
    for rows in (8, 16, 32):  # each in a lease of its own
        units = UnitVector(inferences=rows)
        run.charging.void(
            await run.charging.reserve(MODEL, CONSUMER, units, None, run.instance.clock.now_ms() + 10_000), failed=False
        )
    assert len(run._meter._holdings) >= 3
    monkeypatch.setattr(metering, "MAX_REPORTS_PER_RENEWAL", 1)
    await service.shut_down()
    assert await site.pending() == 0
    assert not run._meter.has_unreported()
    assert (await site.bench.kinds()).count("Wiped") == 1


# --- Stops -------------------------------------------------------------------------------------


async def stop(site: Site) -> None:
    await site.bench.command(acts.Stop(target=StopTarget.ALL, value="", reason="drill"))


async def test_a_stop_is_pushed(site: Site, service: Service) -> None:
    """Without any renewal."""
    site.link.held["/v1/renew"] = Hold()
    await stop(site)
    assert await service.ended() is Ending.STOPPED
    await wiped(service)
    assert await state_of(site, service.run.instance.instance) == "wiped"


async def test_a_stop_while_nothing_is_heard_is_told_first_of_all(site: Site, service: Service) -> None:
    """Between two streams nothing can be pushed: the first line of the next one says what is stopped."""
    site.link.held["/v1/renew"] = Hold()
    site.link.deaf = True
    site.bench.custodian.hub.cut(service.run.instance.instance)
    await stop(site)
    assert site.bench.custodian.hub.connected() == frozenset()
    service.run.charging.check(CONSUMER)
    site.link.deaf = False
    assert await service.ended() is Ending.STOPPED
    await wiped(service)
