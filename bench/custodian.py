"""How many enclaves one custodian sustains, on each store, and whether that falls as its ledger grows."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.e2e import model
from tests.e2e.world import BORROWER, CONSUMER, MODEL, World
from tests.postgres_server import PostgresServer

from aigovtool.codec import Message, decode
from aigovtool.custodian.app import backend, read_settings
from aigovtool.custodian.store.database import Database
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.protocol.party import BorrowerFile
from bench.fleet import Fleet, Latencies
from bench.history import add_closed_leases

ENCLAVES: Final = 32
#: An enclave with the default ttl of 30 s renews every 10 s.
RENEWAL_S: Final = 10
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Renewals(Message):
    """One measurement. Processor time is the custodian's own, without the clients'."""

    store: str
    trading: bool
    closed_leases: int
    log_entries: int
    renewals: int
    per_s: float
    cpu_ms: float
    p50_ms: float
    p99_ms: float
    ledger_mib: int | None

    def enclaves_per_core(self) -> int:
        """Return how many enclaves that renew every ten seconds keep one core busy."""
        return int(RENEWAL_S * 1000 / self.cpu_ms)


def measure(histories: list[int], renewals: int) -> list[Renewals]:
    """Measure both stores at each length of history (closed leases), heartbeats alone and with trade."""
    found = list(_grown("sqlite", None, histories, renewals))
    with PostgresServer() as server:
        found += _grown("postgresql", server.database(), histories, renewals)
    return found


def _grown(store: str, ledger: str | None, histories: list[int], renewals: int) -> Iterator[Renewals]:
    with _world(ledger) as world:
        written = 0
        for wanted in histories:
            _write_history(world, wanted - written)
            written = wanted
            world.start_custodian()
            for trading in (False, True):
                yield asyncio.run(_measured(world, store, written, renewals, trading=trading))
            world.kill("custodian", 15)
            world.processes["custodian"].wait(60)


@contextmanager
def _world(ledger: str | None) -> Iterator[World]:
    directory = Path(tempfile.mkdtemp(prefix="aigovtool-bench-"))
    world = World(directory, ledger=ledger)
    try:
        world.prepare(model.digits_model(), default_policy(Dial.BALANCED))
        world.grant(10**9)
        world.kill("custodian", 15)
        world.processes["custodian"].wait(60)
        yield world
    finally:
        world.close()
        shutil.rmtree(directory)


def _write_history(world: World, count: int) -> None:
    directory = world.directory / "custodian"
    database = Database(backend(directory, read_settings(directory)))
    try:
        add_closed_leases(database, count, borrower=BORROWER, model=MODEL, consumer=CONSUMER)
    finally:
        database.close()


async def _measured(world: World, store: str, closed: int, renewals: int, *, trading: bool) -> Renewals:
    party = decode((world.directory / "borrower.json").read_bytes(), BorrowerFile)
    pid = world.processes["custodian"].pid
    async with Fleet(party, MODEL, CONSUMER, ENCLAVES) as fleet:
        await fleet.drive(2 * ENCLAVES, trading=trading)  # warm
        cpu_s, began = _cpu_s(pid), time.perf_counter()
        latencies: Latencies = await fleet.drive(renewals, trading=trading)
        elapsed_s, cpu_s = time.perf_counter() - began, _cpu_s(pid) - cpu_s
    done = len(latencies.seconds)
    entries = int(world.view("/v1/gap")["size"])
    file = world.directory / "custodian" / "ledger.db"
    return Renewals(
        store=store,
        trading=trading,
        closed_leases=closed,
        log_entries=entries,
        renewals=done,
        per_s=done / elapsed_s,
        cpu_ms=1000 * cpu_s / done,
        p50_ms=latencies.quantile_ms(0.5),
        p99_ms=latencies.quantile_ms(0.99),
        ledger_mib=file.stat().st_size >> 20 if file.exists() else None,
    )


def _cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, in seconds (proc(5): utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
