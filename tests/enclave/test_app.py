"""The life of an enclave's process around its instances."""

import asyncio
import logging
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL
from tests.enclave.site import Site, asked

from aigovtool.attestation.model import TeeType
from aigovtool.enclave import app, roster
from aigovtool.enclave.attesters import detect
from aigovtool.enclave.boot import Instance
from aigovtool.enclave.gateway.inference import infer
from aigovtool.enclave.memory import LEAST_BYTES, MemoryBounds
from aigovtool.enclave.roster import TRIES
from aigovtool.errors import (
    AIGovToolError,
    ConfigurationError,
    ConflictError,
    ForbiddenError,
    OverloadedError,
    PackageError,
    UnreachableError,
)
from aigovtool.ids import ConsumerId, ModelId, key_id_of
from aigovtool.protocol.release import NotServed
from aigovtool.transport.server import bind_loopback


async def test_an_enclave_that_is_told_to_end_while_it_boots_serves_nobody(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instance that has just booted is wiped in good order, engine and all."""
    booted: list[Instance] = []

    async def boot(*_: object, **__: object) -> Instance:
        booted.append(await site.boot())
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.1)
        return booted[0]

    monkeypatch.setattr(app, "boot", boot)
    monkeypatch.setattr(app, "CustodianLink", lambda _: site.link)
    options = app.EnclaveOptions(
        tee="simulated",
        allow_simulated=True,
        borrower_file=tmp_path / "borrower.json",
        models=(),
        host="127.0.0.1",
        port=0,
        cache=tmp_path,
    )
    enclave = app._Enclave(
        options,
        site.party,
        app.attester_for(options.tee, allow_simulated=options.allow_simulated),
        bind_loopback(),
        None,
    )
    async with asyncio.timeout(20):
        await enclave.run()
    (instance,) = booted
    assert instance.engine.died.is_set()


@pytest.mark.parametrize(
    ("tee", "reason"),
    [("sev-snp", "swap"), ("auto", "swap"), ("tpm", "missing_key_file"), ("simulated", "missing_key_file")],
)
def test_memory_that_is_encrypted_is_not_swapped_in_the_clear(
    tee: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An enclave of such a platform does not start where it may be; without encryption nothing is lost by it."""

    def swapping() -> None:
        raise ConfigurationError("swap", reason="swap")

    monkeypatch.setattr(app, "require_no_plain_swap", swapping)
    monkeypatch.setattr(app, "attester_for", lambda *_, **__: None)
    monkeypatch.setattr(app, "keep_to_itself", lambda: None)  # it is for whole processes: tests/crypto/test_memory.py
    options = app.EnclaveOptions(
        tee=tee,
        allow_simulated=True,
        borrower_file=tmp_path / "absent.json",
        models=(),
        host="127.0.0.1",
        port=0,
        cache=tmp_path,
    )
    with pytest.raises(ConfigurationError) as caught:
        app.serve(options)
    assert caught.value.reason == reason


@pytest.mark.parametrize(("reason", "tries"), [("attester_absent", 1), ("attester_provider", 1), ("elsewhere", 5)])
async def test_a_platform_that_is_not_here_is_not_waited_for(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str, tries: int
) -> None:
    """No waiting mends a host that is no such guest; other failures may pass."""
    tried: list[None] = []

    async def boot(*_: object, **__: object) -> Instance:
        tried.append(None)
        raise ConfigurationError("no", reason=reason)

    monkeypatch.setattr(app, "boot", boot)
    monkeypatch.setattr(app, "_BACKOFF_S", (0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(app, "CustodianLink", lambda _: site.link)
    options = app.EnclaveOptions(
        tee="simulated",
        allow_simulated=True,
        borrower_file=tmp_path / "borrower.json",
        models=(),
        host="127.0.0.1",
        port=0,
        cache=tmp_path,
    )
    attester = app.attester_for(options.tee, allow_simulated=True)
    with pytest.raises(ConfigurationError):
        await app._Enclave(options, site.party, attester, bind_loopback(), None).run()
    assert len(tried) == tries


SMALL = MemoryBounds(
    has=1 << 30,
    engine_addresses=3 << 29,
    bodies=128 << 20,
    bodies_per_consumer=64 << 20,
    unread=6 << 20,
    unread_per_consumer=2 << 20,
    kept=0,
    kept_per_consumer=0,
    ids=10,
    ids_per_consumer=1,
)


async def test_on_a_small_machine_an_enclave_holds_less_and_says_that_it_is_too_little(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine's addresses, bodies, answers not taken and kept, and ids: each by what the machine has."""
    await site.bench.add_consumer(CONSUMER, BORROWER)
    await site.bench.grant(10)
    monkeypatch.setattr(app, "memory_bounds", lambda: SMALL)
    enclave = enclave_for(site, tmp_path, monkeypatch, MODEL)
    life = asyncio.create_task(enclave.run())
    async with asyncio.timeout(20):
        while (run := enclave._run) is None or not run.ready.is_set():  # noqa: ASYNC110 -- it tells nobody
            await asyncio.sleep(0.01)
    engine = run.instance.engine
    assert resource.prlimit(engine.pid, resource.RLIMIT_AS) == (SMALL.engine_addresses,) * 2
    with run.bodies.take("ann", 64 << 20), pytest.raises(OverloadedError) as refused:
        run.bodies.claim("ben", (64 << 20) + 1)
    assert refused.value.reason == "open_bodies"
    for own, others in ((3 << 20, 0), (3 << 19, 4 << 20)):  # more than its share, and more than is left
        holding = engine.unread.hold(CONSUMER, own), engine.unread.hold(ConsumerId("ben"), others)
        with holding[0], holding[1], pytest.raises(OverloadedError) as refused:
            await infer(run, asked(run, repeatable=False))
        assert refused.value.reason == "answers_not_taken"
    await infer(run, asked(run, "k1"))
    with pytest.raises(ConflictError) as evicted:  # nothing is kept
        await infer(run, asked(run, "k1"))
    assert evicted.value.reason == "result_evicted"
    with pytest.raises(OverloadedError) as refused:  # and one id remembered
        await infer(run, asked(run, "k2"))
    assert refused.value.reason == "request_keys"
    enclave._shut_down()
    await asyncio.wait_for(life, 20)
    (warned,) = [vars(record) for record in caplog.records if record.message == "little_memory"]
    assert (warned["levelno"], warned["has_mib"], warned["least_mib"]) == (logging.WARNING, 1_024, LEAST_BYTES >> 20)


# --- Several models ----------------------------------------------------------------------------

A, B = ModelId("a"), ModelId("b")


def enclave_for(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *models: ModelId) -> app._Enclave:
    """Return an enclave for these models, which waits for nothing between two boots."""
    monkeypatch.setattr(app, "_BACKOFF_S", (0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(app, "CustodianLink", lambda _: site.link)
    options = app.EnclaveOptions(
        tee="simulated",
        allow_simulated=True,
        borrower_file=tmp_path / "borrower.json",
        models=models,
        host="127.0.0.1",
        port=0,
        cache=tmp_path,
    )
    attester = app.attester_for(options.tee, allow_simulated=True)
    return app._Enclave(options, site.party, attester, bind_loopback(), None)


async def test_with_no_model_left_it_ends_with_the_reason(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other is set aside; the last one fails as that of an enclave for one model does."""
    booted: list[tuple[list[ModelId], list[ModelId]]] = []

    async def boot(
        _party: object,
        models: list[ModelId],
        *_: object,
        aside: tuple[NotServed, ...],
        blame: Callable[[ModelId, AIGovToolError], None],
        **__: object,
    ) -> Instance:
        booted.append((models, [one.model for one in aside]))
        error = PackageError("damaged", reason=f"damaged_{models[0]}")
        blame(models[0], error)
        raise error

    monkeypatch.setattr(app, "boot", boot)
    with pytest.raises(PackageError) as caught:
        await enclave_for(site, tmp_path, monkeypatch, A, B).run()
    assert caught.value.reason == "damaged_b"
    assert booted == [([A, B], [])] * TRIES + [([B], [A])] * 5


async def test_a_custodian_that_is_away_sets_nothing_aside(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does one that refuses the whole enclave: however often, all models are asked for."""
    booted: list[list[ModelId]] = []

    async def boot(_party: object, models: list[ModelId], *_: object, **__: object) -> Instance:
        booted.append(models)
        raise UnreachableError("away", reason="custodian") if len(booted) < 20 else ForbiddenError("", reason="x")

    monkeypatch.setattr(app, "boot", boot)
    with pytest.raises(ForbiddenError):
        await enclave_for(site, tmp_path, monkeypatch, A, B).run()
    assert booted == [[A, B]] * 20


async def test_an_engine_is_started_with_as_many_runs_and_threads_as_was_said(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What whoever runs the enclave has chosen is what it boots with."""
    seen: list[tuple[object, object]] = []

    async def boot(*_: object, at_once: object, run_threads: object, **__: object) -> Instance:
        seen.append((at_once, run_threads))
        raise ForbiddenError("", reason="x")

    monkeypatch.setattr(app, "boot", boot)
    enclave = enclave_for(site, tmp_path, monkeypatch, A)
    usual = enclave._options
    for options in (usual, replace(usual, runs_at_once=5, threads_per_run=7)):
        monkeypatch.setattr(enclave, "_options", options)
        with pytest.raises(ForbiddenError):
            await enclave.run()
    assert seen == [(None, 1), (5, 7)]


async def test_what_was_set_aside_is_tried_again_by_a_new_boot(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its time has come the instance ends in good order, and the next one is asked to serve it as well."""
    booted: list[list[ModelId]] = []

    async def boot(
        _party: object,
        models: list[ModelId],
        *_: object,
        blame: Callable[[ModelId, AIGovToolError], None],
        **__: object,
    ) -> Instance:
        booted.append(models)
        if len(booted) == 1:
            error = PackageError("damaged", reason="download_digest")
            blame(A, error)
            raise error
        if len(booted) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return await site.boot()

    monkeypatch.setattr(app, "boot", boot)
    monkeypatch.setattr(roster, "TRIES", 1)
    monkeypatch.setattr(roster, "LEAST_S", 1.0)
    monkeypatch.setattr(roster, "_BOOTS", 0)
    async with asyncio.timeout(30):
        await enclave_for(site, tmp_path, monkeypatch, A, MODEL).run()
    assert booted == [[A, MODEL], [MODEL], [A, MODEL]]
    assert await site.pending() == 0


def test_what_was_found_is_logged_as_text(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """For people and for programs that read logs: one line with each platform by its name."""
    found = [
        detect.Finding(TeeType.NITRO, usable=True, detail="there"),
        detect.Finding(TeeType.TPM, False, "not there"),
    ]
    monkeypatch.setattr(detect, "look", lambda: found)
    caplog.set_level("INFO", "aigovtool")
    app.attester_for("auto", allow_simulated=False)
    (record,) = [one for one in caplog.records if one.getMessage() == "tee_chosen"]
    assert vars(record)["found"] == "nitro: there; tpm: not there"


@pytest.mark.parametrize("sealers", [1, 2])
async def test_that_models_of_several_sealers_share_an_engine_is_said_once(
    sealers: int, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever takes the engine over by one of them has the others: who serves them should know. Of one's own, not."""
    instance = await site.boot()
    await instance.engine.kill_and_wait()
    mine = instance.models[MODEL]
    keys = [mine.offer.sealer, bytes(32)]
    offers = {name: msgspec.structs.replace(mine.offer, sealer=keys[at % sealers]) for at, name in enumerate((A, B))}
    both = replace(instance, models={name: replace(mine, offer=offer) for name, offer in offers.items()})

    async def boot(*_: object, **__: object) -> Instance:
        return both

    monkeypatch.setattr(app, "boot", boot)
    enclave = enclave_for(site, tmp_path, monkeypatch, A, B)
    for _ in range(2):
        await enclave._boot_once(site.link, [])
    enclave._listener.close()
    warned = [vars(record)["models"] for record in caplog.records if record.message == "several_sealers"]
    first, second = (key_id_of(key)[:12] for key in keys)
    assert warned == [f"{first}: a; {second}: b"] * (sealers - 1)
