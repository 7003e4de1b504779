"""A borrower's host beside a real custodian, in one process: what the tests of boot and of a run start from."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL, Bench, make_bench

from aigovtool.attestation.attester import Attester
from aigovtool.codec import Message
from aigovtool.crypto.x509 import to_pem
from aigovtool.custodian.api import custodian_application
from aigovtool.custodian.service import views
from aigovtool.enclave.boot import Instance, boot
from aigovtool.enclave.custodian_link import CustodianLink
from aigovtool.enclave.gateway.asked import Asked
from aigovtool.enclave.instance_run import Ending, InstanceRun
from aigovtool.errors import AIGovToolError, UnreachableError
from aigovtool.ids import ModelId, RequestKey
from aigovtool.protocol.messages import Push
from aigovtool.protocol.party import BorrowerFile, CustodianAddress
from aigovtool.testing.simulated_tee import wiring
from aigovtool.transport.server import HttpServer, bind_loopback
from aigovtool.transport.tls import server_context

T = TypeVar("T")
Change = Callable[[object], object]


class Hold:
    """An answer that is held back: whether one has come, and whether it may pass."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.let_pass = asyncio.Event()


class Meddler(CustodianLink):
    """A way to the custodian on which somebody replaces answers or holds them back, although the TLS is right.

    `changes` are by path, and may raise; `held` answers came from the custodian and wait; `deaf` opens no push stream.
    """

    def __init__(self, address: CustodianAddress) -> None:
        super().__init__(address)
        self.changes: dict[str, Change] = {}
        self.seen: dict[str, object] = {}
        self.held: dict[str, Hold] = {}
        self.deaf = False
        self.paths: list[str] = []
        self.heard = asyncio.Event()

    async def post(self, path: str, message: Message, answer: type[T]) -> T:
        """Pass on what the change of this path makes of the answer, when it may pass."""
        self.paths.append(path)
        given = await super().post(path, message, answer)
        self.seen[path] = given
        if path in self.held:
            self.held[path].arrived.set()
            await self.held[path].let_pass.wait()
        change = self.changes.get(path)
        changed = given if change is None else change(given)
        assert isinstance(changed, answer)
        return changed

    async def listen(self, message: Message) -> AsyncIterator[Push]:
        """Pass on the lines, unless nothing is heard."""
        if self.deaf:
            raise UnreachableError("no stream", reason="custodian")
        if (change := self.changes.get("/v1/listen")) is not None:
            change(None)
        async for line in super().listen(message):
            self.heard.set()
            yield line


def children() -> set[str]:
    me = os.getpid()
    return set(Path(f"/proc/{me}/task/{me}/children").read_text().split())


@dataclass
class Site:
    """A borrower's host: its party file, its cache, and the link to its custodian."""

    bench: Bench
    party: BorrowerFile
    link: Meddler
    cache: Path
    models: list[ModelId] = field(default_factory=lambda: [MODEL])

    async def boot(
        self,
        party: BorrowerFile | None = None,
        models: list[ModelId] | None = None,
        attester: Attester | None = None,
    ) -> Instance:
        maker = attester or wiring.platform()
        return await boot(party or self.party, models or self.models, maker, self.link, self.cache)

    async def posted(self) -> int:
        """Return what the custodian has charged for good."""
        return sum(row.posted for row in (await views.show_budgets(self.bench.custodian)).budgets)

    async def pending(self) -> int:
        """Return what leases hold at the custodian."""
        return sum(row.pending for row in (await views.show_budgets(self.bench.custodian)).budgets)

    async def refused(self, error: type[AIGovToolError], reason: str, party: BorrowerFile | None = None) -> None:
        """Expect a refusal that leaves no engine behind."""
        before = children()
        with pytest.raises(error) as caught:
            await self.boot(party)
        assert caught.value.reason == reason
        assert children() <= before


@asynccontextmanager
async def open_site(directory: Path, **changes: Any) -> AsyncIterator[Site]:
    """Start a custodian that lends one model to one borrower, and yield the borrower's host.

    `changes` are of the bench: another graph, or other terms.
    """
    bench = make_bench(directory / "custodian")
    for name, value in changes.items():
        setattr(bench, name, value)
    added = await bench.add_borrower(BORROWER)
    await bench.command(bench.upload())
    keys, cache = bench.custodian.keys, directory / "cache"
    cache.mkdir(mode=0o700)
    app = custodian_application(bench.custodian, clock_ms=lambda: bench.now_ms)
    with bind_loopback() as listener:
        tls = server_context([keys.tls_certificate], keys.tls, [keys.credentials_ca])
        async with HttpServer(app, listener, tls):
            address = CustodianAddress(
                url=f"https://127.0.0.1:{listener.getsockname()[1]}",
                root=keys.root.raw,
                tls_ca=to_pem(keys.tls_ca).decode(),
            )
            party = BorrowerFile(
                borrower=BORROWER,
                custodian=address,
                certificate=added.certificate or "",
                enrolment_key=bench.enrolment[BORROWER].to_secret().reveal(),
            )
            link = Meddler(address)
            try:
                yield Site(bench, party, link, cache)
            finally:
                await link.close()
    bench.custodian.database.close()


@dataclass
class Service:
    """An instance that runs, and what became of it."""

    run: InstanceRun
    life: "asyncio.Task[Ending]"

    async def ended(self) -> Ending:
        """Wait until the instance has ended by itself; return why."""
        return await asyncio.wait_for(asyncio.shield(self.life), 20)

    async def shut_down(self) -> None:
        """End the instance in good order."""
        self.run.shut_down()
        await asyncio.wait_for(self.life, 20)


@asynccontextmanager
async def served(site: Site, attester: Attester | None = None) -> AsyncIterator[Service]:
    """Boot an instance, run it until it is ready and listens, and shut it down in good order."""
    run = InstanceRun(await site.boot(attester=attester))
    service = Service(run, asyncio.create_task(run.run()))
    try:
        await asyncio.wait_for(run.ready.wait(), 20)
        await asyncio.wait_for(site.link.heard.wait(), 20)
        yield service
    finally:
        await service.shut_down()


def asked(run: InstanceRun, key: str = "k1", *, rows: int = 1, salt: bytes = b"", repeatable: bool = True) -> Asked:
    """Return a request of the consumer for some rows of the model, whose outputs are its inputs."""
    tensor = {"name": "x", "shape": [rows, 2], "datatype": "FP32", "data": [1.0, 2.0] * rows}
    return Asked(
        model=run.instance.models[MODEL],
        consumer=CONSUMER,
        key=RequestKey(key),
        repeatable=repeatable,
        salt=salt,
        body=json.dumps({"inputs": [tensor]}).encode(),
        header_length=None,
    )
