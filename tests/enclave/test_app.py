"""The life of an enclave's process around its instances."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from tests.enclave.site import Site

from aigovtool.enclave import app
from aigovtool.enclave.boot import Instance
from aigovtool.transport.server import bind_loopback


async def test_an_enclave_that_is_told_to_end_while_it_boots_serves_nobody(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instance that has just booted is wiped in good order, engine and all."""
    booted: list[Instance] = []

    async def boot(*_: object) -> Instance:
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
