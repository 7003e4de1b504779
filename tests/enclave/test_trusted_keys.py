"""A running enclave learns the custodian's newer key set, by push or by renewal, and believes no older one again."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from tests.custodian.conftest import BORROWER, CONSUMER, Bench
from tests.enclave.site import Service, Site, served

from aigovtool.crypto.sign import Envelope, SigningKey, seal
from aigovtool.custodian import keys as custodian_keys
from aigovtool.custodian.app import verifiers
from aigovtool.custodian.key_rotation import Role, State, announce, default_root, revoke, show
from aigovtool.custodian.store import instances
from aigovtool.enclave.trusted_keys import TrustedKeys
from aigovtool.errors import SignatureInvalidError, UnreachableError
from aigovtool.ledger.entry import StopTarget
from aigovtool.protocol import commands as acts
from aigovtool.protocol.messages import RenewReply
from aigovtool.protocol.trust import KEY_SET, KeySet

NOW_MS = 1_800_000_000_000


@pytest.fixture
async def service(site: Site) -> AsyncIterator[Service]:
    """An instance with a budget."""
    await site.bench.add_consumer(CONSUMER, BORROWER)
    await site.bench.grant(1_000)
    async with served(site) as made:
        yield made


def taken_up(bench: Bench) -> None:
    """Have the running custodian use the keys that are in its directory now."""
    keys = custodian_keys.load(bench.directory)
    bench.custodian.take_up(keys, verifiers(bench.directory, keys, allow_simulated=True))


def revoked(bench: Bench, role: Role = Role.COMMANDS) -> None:
    key = show(bench.directory).of(role, State.IN_USE)
    revoke(bench.directory, key, default_root(bench.directory), NOW_MS)
    taken_up(bench)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def test_a_set_that_is_announced_on_the_stream_is_fetched_and_believed(site: Site, service: Service) -> None:
    """And its server accepts the new authorities from then on."""
    changes: list[int] = []
    instance = service.run.instance
    instance.keys.changed = lambda: changes.append(len(instance.server_tls().client_authorities or ()))
    announce(site.bench.directory, Role.CREDENTIALS, default_root(site.bench.directory), NOW_MS)
    taken_up(site.bench)
    site.bench.custodian.hub.tell_key_set(2)
    await until(lambda: instance.key_set.version == 2)
    assert changes == [2]
    assert instance.keys.envelope == site.bench.custodian.keys.key_set_envelope


async def test_without_a_stream_it_is_learnt_with_a_renewal_that_the_new_key_signed(site: Site) -> None:
    """The old key is revoked, and nobody told the enclave: the renewal that shows it is not lost."""
    site.link.deaf = True
    site.link.heard.set()
    await site.bench.add_consumer(CONSUMER, BORROWER)
    await site.bench.grant(1_000)
    async with served(site) as service:
        revoked(site.bench)
        seen = len(site.link.paths)
        service.run.charging.wake.set()
        await until(lambda: service.run.instance.key_set.version == 2)
        await until(lambda: site.link.paths[seen:].count("/v1/renew") >= 1)
        assert isinstance(site.link.seen["/v1/renew"], RenewReply)
        assert service.run.ending is None
        assert await service.run.instance.link.get("/v1/key-set", Envelope) == service.run.instance.keys.envelope


async def test_a_stop_under_the_new_key_is_obeyed(site: Site, service: Service) -> None:
    """Revoked and stopped at once: what the enclave was told before the stop makes it believe the stop."""
    revoked(site.bench)
    site.bench.custodian.hub.tell_key_set(2)
    await site.bench.command(acts.Stop(target=StopTarget.ALL, value="", reason="stolen"))
    assert (await service.ended()).value == "stopped"


async def test_a_stop_does_not_wait_for_a_key_set_that_does_not_come(
    site: Site, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host lets the number of a newer set through, and not the set: a stop by a key that is known takes effect."""
    asked, endings = asyncio.Event(), list[object]()

    async def never(_path: str, _answer: type[Envelope]) -> Envelope:
        asked.set()
        try:
            return await asyncio.Future()
        finally:
            endings.append(service.run.ending)  # when it was given up

    monkeypatch.setattr(service.run.instance.link, "get", never)
    site.bench.custodian.hub.tell_key_set(2)
    await asked.wait()
    await site.bench.command(acts.Stop(target=StopTarget.ALL, value="", reason="now"))
    await until(lambda: service.run.ending is not None)
    await until(lambda: bool(endings))
    assert endings == [service.run.ending]


async def test_what_the_revoked_key_signs_is_refused_once_the_new_set_is_known(site: Site, service: Service) -> None:
    """A thief's stop state, on the enclave's own stream."""
    instance, old = service.run.instance, site.bench.custodian.keys
    state = await site.bench.custodian.database.run(
        lambda running: site.bench.custodian.stop_state(running, instances.require(running, instance.instance))
    )
    assert instance.open_stop_state(state)
    revoked(site.bench)
    instance.keys.take(site.bench.custodian.keys.key_set_envelope)
    with pytest.raises(SignatureInvalidError) as caught:
        instance.open_stop_state(state)
    assert caught.value.reason == "wrong_key"
    assert old.commands.public not in instance.key_set.command_keys()


async def test_an_instance_attests_again_when_an_authority_for_attestation_keys_was_taken_back(
    site: Site, service: Service
) -> None:
    """Consumers who know the new set would not believe the certificate of before."""
    revoked(site.bench, Role.ATTESTATION)
    assert "/v1/boot/again" not in site.link.paths
    site.bench.custodian.hub.tell_key_set(2)
    await until(lambda: "/v1/boot/again" in site.link.seen)
    assert not service.run.instance.keys.uncertified.is_set()
    assert service.run.ending is None


# -- The set itself ------------------------------------------------------------------------------------------------


@pytest.fixture
def root() -> SigningKey:
    return SigningKey.generate()


def signed(root: SigningKey, version: int, *, by: SigningKey | None = None, issued_at_ms: int = 1) -> Envelope:
    key_set = KeySet(
        custodian=root.public.key_id,
        version=version,
        issued_at_ms=issued_at_ms,
        commands=[root.public.raw],
        log=[],
        credentials=[],
        keystore=bytes(32),
    )
    return seal(KEY_SET, key_set, by or root)


def test_only_a_newer_set_of_the_root_is_believed(root: SigningKey) -> None:
    """An older one, another one of the same number and a stranger's are refused; the same one again is no change."""
    keys = TrustedKeys(root.public, signed(root, 2))
    changes: list[int] = []
    keys.changed = lambda: changes.append(keys.key_set.version)
    refusals = {
        "key_set_rollback": signed(root, 1),
        "key_set_fork": signed(root, 2, issued_at_ms=9),
        "wrong_key": signed(root, 3, by=SigningKey.generate()),
    }
    for reason, envelope in refusals.items():
        with pytest.raises(SignatureInvalidError) as caught:
            keys.take(envelope)
        assert caught.value.reason == reason
    keys.take(signed(root, 2))
    assert (keys.key_set.version, changes) == (2, [])
    keys.take(signed(root, 7))
    assert (keys.key_set.version, changes) == (7, [7])


async def test_a_hint_is_only_a_hint(root: SigningKey) -> None:
    """Nothing is fetched without need, and what cannot be fetched or verified changes nothing."""
    keys = TrustedKeys(root.public, signed(root, 2))
    asked: list[int] = []

    async def unreachable() -> Envelope:
        asked.append(1)
        raise UnreachableError("no answer")

    async def forged() -> Envelope:
        return signed(root, 9, by=SigningKey.generate())

    for version in (0, 1, 2):
        await keys.learn(version, unreachable)
    assert asked == []
    await keys.learn(3, unreachable)
    await keys.learn(9, forged)
    assert (asked, keys.key_set.version) == ([1], 2)
