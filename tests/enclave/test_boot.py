"""From nothing to a ready instance, against a real custodian, and against one that cheats."""

import asyncio
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL
from tests.enclave.site import Hold, Site, children

from aigovtool.attestation.binding import Expectation, require_bound
from aigovtool.attestation.model import Unchecked
from aigovtool.crypto.sign import Envelope, SigningKey, open_by_any, seal
from aigovtool.enclave import boot as boot_module
from aigovtool.enclave.app import EnclaveOptions, attester_for
from aigovtool.enclave.boot import Instance, boot
from aigovtool.enclave.clock import ElapsedClock
from aigovtool.enclave.engines.lanes import threads
from aigovtool.enclave.kept_package import discard_damaged, manifest_of
from aigovtool.enclave.memory import memory_bounds
from aigovtool.errors import (
    AIGovToolError,
    ConfigurationError,
    ForbiddenError,
    PackageError,
    ReattestRequiredError,
    SignatureInvalidError,
    VerificationError,
)
from aigovtool.ids import ConsumerId, ModelId, Nonce, digest_of
from aigovtool.ledger.entry import AttestationRefused
from aigovtool.protocol import commands as acts
from aigovtool.protocol import release
from aigovtool.protocol.tensor import Datatype, Tensor
from aigovtool.testing.simulated_tee import wiring


@pytest.mark.parametrize(
    ("tee", "allow", "reason"), [("simulated", False, "simulated_refused"), ("auto", True, "attester_none_found")]
)
def test_the_simulated_tee_is_never_a_default(tee: str, allow: bool, reason: str, tmp_path: Path) -> None:  # noqa: FBT001
    """Not without the opt-in, and not in place of a real one that is absent."""
    options = EnclaveOptions(
        tee=tee,
        allow_simulated=allow,
        borrower_file=tmp_path,
        models=(MODEL,),
        host="127.0.0.1",
        port=0,
        cache=tmp_path,
    )
    with pytest.raises(ConfigurationError) as caught:
        attester_for(options.tee, allow_simulated=options.allow_simulated)
    assert caught.value.reason == reason


async def test_a_boot_ends_with_a_loaded_model_and_bound_evidence(site: Site) -> None:
    """The key travelled to the engine; evidence for a consumer binds its nonce, this TLS key and this model."""
    instance = await boot(site.party, [MODEL], wiring.platform(), site.link, site.cache)
    try:
        assert list(instance.models) == [MODEL]
        assert (await site.bench.kinds())[-2:] == ["Attested", "KeyReleased"]
        nonce = Nonce("cd" * 32)
        claims, evidence = instance.session_evidence(release.session_audience("ward7"), nonce)
        verified = wiring.verifier().examine(evidence, site.bench.now_ms).genuine()
        expected = Expectation(
            role="session",
            audience=release.session_audience("ward7"),
            nonce=nonce,
            tls_spki=claims.tls_spki,
            instance=instance.instance,
            custodian_root=site.bench.custodian.keys.custodian,
            configuration=(site.party.configuration(),),
            appraisal_policy=Unchecked(reason="the custodian's"),
            manifests=(site.bench.manifest,),
        )
        require_bound(claims, verified.report_data, expected)
        assert claims.tls_spki == instance.tls_spki
        assert instance.simulated
    finally:
        await instance.engine.kill_and_wait()


# --- Loads that take long ----------------------------------------------------------------------


class SlowWorld(ElapsedClock):
    """An elapsed clock that also counts the time that a test says has passed."""

    passed_ms = 0

    def now_ms(self) -> int:
        """Return what has passed, by the real clocks and by the test's word."""
        return super().now_ms() + SlowWorld.passed_ms


@pytest.fixture
def takes(site: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, int]], None]:
    """Return a function by which an answer, or the fetching of a package, takes so many milliseconds."""
    monkeypatch.setattr(boot_module, "ElapsedClock", SlowWorld)
    monkeypatch.setattr(SlowWorld, "passed_ms", 0)

    def slowly(times: dict[str, int]) -> None:
        async def fetched(*arguments: Any) -> Path:
            SlowWorld.passed_ms += times.get("fetch", 0)
            return await fetch(*arguments)

        fetch = site.link.fetch
        site.link.fetch = fetched  # type: ignore[method-assign, assignment]
        for path in times.keys() - {"fetch"}:
            site.link.changes[path] = partial(late, times[path])

    def late(milliseconds: int, answer: object) -> object:
        SlowWorld.passed_ms += milliseconds
        return answer

    return slowly


WIPE_AFTER_MS = 600_000


@pytest.mark.parametrize("times", [{"/v1/boot": 599_000, "fetch": 599_000}, {"fetch": 86_400_000}])
async def test_an_instance_that_took_long_to_boot_is_not_wiped_for_it(
    times: dict[str, int], site: Site, takes: Callable[[dict[str, int]], None]
) -> None:
    """The custodian was heard at the last release of a key: before that there was nothing to wipe."""
    takes(times)
    instance = await site.boot()
    try:
        assert instance.clock.now_ms() >= sum(times.values())
        assert not instance.meter.must_wipe(instance.clock.now_ms())
        assert not instance.meter.must_wipe(instance.clock.now_ms() + WIPE_AFTER_MS - 60_000)
        assert instance.meter.must_wipe(instance.clock.now_ms() + WIPE_AFTER_MS)
    finally:
        await instance.engine.kill_and_wait()


async def test_the_release_that_counts_is_the_time_of_asking(
    site: Site, takes: Callable[[dict[str, int]], None]
) -> None:
    """An answer that was held back for an hour says nothing of that hour."""
    takes({"/v1/release": WIPE_AFTER_MS - 5_000})
    instance = await site.boot()
    try:
        assert not instance.meter.must_wipe(instance.clock.now_ms())
        assert instance.meter.must_wipe(instance.clock.now_ms() + 5_000)
    finally:
        await instance.engine.kill_and_wait()


@pytest.mark.parametrize("left_ms", [0, 200])
async def test_a_model_that_loads_longer_than_silence_may_last_is_wiped_while_it_loads(
    left_ms: int, site: Site, takes: Callable[[dict[str, int]], None]
) -> None:
    """Nobody was heard all that time: it fails closed, and says what an operator can do."""
    before = children()
    takes({"/v1/release": WIPE_AFTER_MS - left_ms})
    late = site.link.changes["/v1/release"]

    def never_loads(answer: object) -> object:
        (engine,) = children() - before
        os.kill(int(engine), signal.SIGSTOP)
        return late(answer)

    site.link.changes["/v1/release"] = never_loads
    async with asyncio.timeout(20):
        with pytest.raises(ConfigurationError) as caught:
            await site.boot()
    assert caught.value.reason == "load_too_long"
    assert MODEL in caught.value.message
    assert "600 s" in caught.value.message
    assert "operator" in str(caught.value.fix)
    assert children() <= before


async def test_packages_are_all_there_before_the_first_key_is_asked_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that waits in memory for the download of another one would hear nobody meanwhile."""
    other = ModelId("second")
    monkeypatch.setattr(sys.modules[type(site.bench).__module__], "MODEL", other)
    await site.bench.command(site.bench.upload())
    order: list[str] = []
    fetch = site.link.fetch

    async def fetched(*arguments: Any) -> Path:
        order.append("fetch")
        return await fetch(*arguments)

    def released(answer: object) -> object:
        order.append("release")
        return answer

    site.link.fetch = fetched  # type: ignore[method-assign, assignment]
    site.link.changes["/v1/release"] = released
    site.models = [MODEL, other]
    instance = await site.boot()
    await instance.engine.kill_and_wait()
    assert order == ["fetch", "fetch", "release", "release"]


def test_what_took_the_place_of_a_damaged_package_is_an_error_of_the_cache(tmp_path: Path) -> None:
    """A directory cannot be removed as a file can; the enclave says so and tries again, as with any unusable cache."""
    package, place = tmp_path / "opened", tmp_path / "place"
    package.write_bytes(b"damaged")
    place.mkdir()
    with package.open("rb") as opened, pytest.raises(ConfigurationError) as refused:
        discard_damaged(place, opened.fileno(), digest_of(b"whole"))
    assert refused.value.reason == "cache"


@pytest.mark.parametrize("where", ["end", "signature"])
async def test_a_damaged_package_in_the_cache_is_downloaded_anew(where: str, site: Site) -> None:
    """One boot fails, and finds out that the file is not what its name says; the next one does not meet it again."""
    await (await site.boot()).engine.kill_and_wait()
    (cached,) = site.cache.iterdir()
    genuine = cached.read_bytes()
    at = len(genuine) - 20 if where == "end" else genuine.index(b'"sig":"') + 7
    cached.write_bytes(genuine[:at] + b"A" * 20 + genuine[at + 20 :])
    with pytest.raises(VerificationError) as caught:
        await site.boot()
    assert isinstance(caught.value, SignatureInvalidError) is (where == "signature")
    assert not cached.exists()
    await (await site.boot()).engine.kill_and_wait()
    assert cached.read_bytes() == genuine


async def test_the_engine_of_an_instance_has_a_bound_of_memory(site: Site) -> None:
    """The kernel knows it, of the child itself (RLIMIT_AS)."""
    instance = await boot(site.party, [MODEL], wiring.platform(), site.link, site.cache, at_once=2)
    try:
        assert resource.prlimit(instance.engine.pid, resource.RLIMIT_AS) == (memory_bounds().engine_addresses,) * 2
    finally:
        await instance.engine.kill_and_wait()


async def test_an_engine_has_as_many_threads_for_a_run_as_it_is_told_to(site: Site) -> None:
    """Each model has its own, beside the one that begins a run, with room for their stacks alone."""
    usual = await boot(site.party, [MODEL], wiring.platform(), site.link, site.cache, at_once=2)
    wide = await boot(site.party, [MODEL], wiring.platform(), site.link, site.cache, at_once=2, run_threads=4)
    try:
        bound = memory_bounds().engine_addresses + 3 * (8 << 20)
        assert resource.prlimit(wide.engine.pid, resource.RLIMIT_AS) == (bound, bound)
        async with asyncio.timeout(20):  # the others are started when it has said hello
            while [threads_of(one) for one in (usual, wide)] != [threads(2), threads(2) + 3]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        await asyncio.gather(*(one.engine.kill_and_wait() for one in (usual, wide)))


def threads_of(instance: Instance) -> int:
    """Return how many threads an engine has beside the watchdog."""
    return len(os.listdir(f"/proc/{instance.engine.pid}/task")) - 1  # noqa: PTH208


@pytest.mark.parametrize("at_once", [1, 24])
async def test_an_engine_computes_as_many_runs_at_once_as_it_is_told_to(at_once: int, site: Site) -> None:
    """With threads for all of them in its sandbox, with room for their stacks alone, and with its answers as ever."""
    instance = await boot(site.party, [MODEL], wiring.platform(), site.link, site.cache, at_once=at_once)
    pid, model = instance.engine.pid, instance.models[MODEL].loaded
    try:
        bound = memory_bounds().engine_addresses + max(0, 2 * (at_once - 2)) * (8 << 20)
        assert resource.prlimit(pid, resource.RLIMIT_AS) == (bound, bound)
        inputs = [Tensor("x", Datatype.FP32, (1, 2), struct.pack("<2f", number, -number)) for number in range(100)]
        runs = (instance.engine.run(model, [one], [], 20_000, consumer=ConsumerId(CONSUMER)) for one in inputs)
        assert [bytes(ran.outputs[0].data) for ran in await asyncio.gather(*runs)] == [one.data for one in inputs]
        async with asyncio.timeout(20):  # they are started when it has said hello
            while len(os.listdir(f"/proc/{pid}/task")) < threads(at_once):  # noqa: ASYNC110, PTH208 -- nobody tells
                await asyncio.sleep(0.01)
    finally:
        await instance.engine.kill_and_wait()


async def test_a_refused_boot_leaves_no_engine(site: Site) -> None:
    """The child, with its HPKE key, is gone before the error is told."""
    site.models = [ModelId("other")]
    before = children()
    with pytest.raises(AIGovToolError) as caught:
        await site.boot()
    assert caught.value.code == "not_found"
    assert children() <= before


async def test_a_wrong_enrolment_key_is_refused(site: Site) -> None:
    """Another borrower's party file, or a stale one, boots nothing."""
    party = msgspec.structs.replace(site.party, enrolment_key=SigningKey.generate().to_secret().reveal())
    await site.refused(ForbiddenError, "not_enrolled", party)


@pytest.mark.fault(4, 19)
async def test_a_custodian_with_another_root_is_not_obeyed(site: Site) -> None:
    """The TLS address may be right: the key set must be signed by the pinned root."""
    custodian = msgspec.structs.replace(site.party.custodian, root=SigningKey.generate().public.raw)
    await site.refused(SignatureInvalidError, "wrong_key", msgspec.structs.replace(site.party, custodian=custodian))


async def test_the_admission_of_another_boot_is_refused(site: Site) -> None:
    """A replayed admission names another instance and another nonce, however genuine it is."""
    first = await boot(site.party, [MODEL], wiring.platform(), site.link, site.cache)
    await first.engine.kill_and_wait()
    old = site.link.seen["/v1/boot"]
    site.link.changes["/v1/boot"] = lambda _: old
    await site.refused(SignatureInvalidError, "wrong_admission")


@pytest.mark.fault(19)
async def test_the_key_release_of_another_boot_is_refused(site: Site) -> None:
    """It is wrapped to another engine, and says so under its signature."""
    first = await boot(site.party, [MODEL], wiring.platform(), site.link, site.cache)
    await first.engine.kill_and_wait()
    old = site.link.seen["/v1/release"]
    site.link.changes["/v1/release"] = lambda _: old
    await site.refused(SignatureInvalidError, "wrong_release")


async def changed_while_it_boots(site: Site) -> None:
    """Lend the model on other terms once an enclave was admitted, and before it asks for the key."""
    held = site.link.held["/v1/boot"]
    await held.arrived.wait()
    before = site.bench.policy
    terms = msgspec.structs.replace(before, version=before.version + 1, ttl_ms=before.ttl_ms - 1_000)
    await site.bench.command(acts.SetModelTerms(model=MODEL, policy=terms, borrowers=[BORROWER]))
    held.let_pass.set()


async def test_a_key_under_other_terms_than_those_of_the_admission_is_refused(site: Site) -> None:
    """They were changed in between, and the enclave would keep to the old ones: so it starts again, on the new ones."""
    site.link.held["/v1/boot"] = Hold()
    await asyncio.gather(changed_while_it_boots(site), site.refused(ReattestRequiredError, "terms_changed"))
    instance = await boot(site.party, [MODEL], wiring.platform(), site.link, site.cache)
    await instance.engine.kill_and_wait()


async def test_a_key_does_not_open_under_another_policy(site: Site) -> None:
    """Not even when the signed release says what the enclave expects: the policy is in the key's own context."""
    told, keys = site.bench.policy.digest(), site.bench.custodian.keys

    def lie(answer: object) -> object:
        assert isinstance(answer, Envelope)
        released = open_by_any(answer, release.RELEASE, release.KeyRelease, keys.key_set.command_keys())
        assert released.policy != told
        return seal(release.RELEASE, msgspec.structs.replace(released, policy=told), keys.commands)

    site.link.held["/v1/boot"], site.link.changes["/v1/release"] = Hold(), lie
    await asyncio.gather(changed_while_it_boots(site), site.refused(SignatureInvalidError, "wrong_context"))


@pytest.mark.parametrize(("path", "other"), [("/v1/boot", "/v1/release"), ("/v1/release", "/v1/boot")])
async def test_an_answer_of_another_kind_is_refused(path: str, other: str, site: Site) -> None:
    """Both are signed by the custodian, and neither can be taken for the other."""
    first = await boot(site.party, [MODEL], wiring.platform(), site.link, site.cache)
    await first.engine.kill_and_wait()
    swapped = site.link.seen[other]
    site.link.changes[path] = lambda _: swapped
    await site.refused(SignatureInvalidError, "wrong_kind")


async def test_a_borrower_cannot_ask_in_anothers_name(site: Site) -> None:
    """Its key is known, the name is not its own: refused before any evidence is made, and logged of who signed."""
    party = msgspec.structs.replace(site.party, borrower="nobody")
    await site.refused(SignatureInvalidError, "wrong_sender", party)
    refused = [line for line in await site.bench.log() if isinstance(line, AttestationRefused)]
    assert [(line.borrower, line.reason) for line in refused] == [(site.party.borrower, "wrong_sender")]


async def test_the_manifest_of_a_served_model_is_the_one_that_is_proven(site: Site) -> None:
    """Whoever asks gets the bytes whose digest is in the evidence."""
    instance = await site.boot()
    try:
        served = instance.models[MODEL]
        assert digest_of(served.manifest) == served.offer.manifest
    finally:
        await instance.engine.kill_and_wait()


def test_a_package_that_was_changed_since_it_was_loaded_gives_no_manifest(tmp_path: Path) -> None:
    """Attack: the disk is the borrower's, and the file is another one a moment later."""
    package = tmp_path / "package"
    package.write_bytes(b"no package at all")
    with package.open("rb") as opened, pytest.raises(PackageError):
        manifest_of(opened.fileno(), digest_of(b"whole"))
