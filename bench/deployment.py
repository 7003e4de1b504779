"""One custodian with a ledger of a chosen length, in a process of its own, and what that process costs."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg
from tests.e2e import model
from tests.e2e.world import CONSUMER, MODEL, World

from aigovtool.codec import decode
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.protocol.party import BorrowerFile
from bench.fleet import Fleet
from bench.laying import lay_down
from bench.served import processor_s

_BUDGET: Final = 10**9
#: How a custodian calls itself at the server (`store.postgres`).
_ITS_SERVER_PROCESS: Final = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'aigovtool-custodian' AND datname = current_database()"
)


@dataclass
class Deployment:
    """A custodian that lends one model to one borrower, and its history."""

    store: str
    world: World
    entries: int = 0
    in_use: int = 0
    #: Log entries written per second of processor time, where a history was laid down.
    laid_per_cpu_s: float | None = None
    #: From the start of the process to the first answer: by the clock, and of processor time.
    start_s: float = 0.0
    start_cpu_s: float = 0.0
    _server_pids: list[int] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        """The custodian's directory."""
        return self.world.directory / "custodian"

    @property
    def party(self) -> BorrowerFile:
        """What the borrower's enclaves are given."""
        return decode((self.world.directory / "borrower.json").read_bytes(), BorrowerFile)

    def fleet(self, size: int) -> Fleet:
        """Return enclaves of the borrower."""
        return Fleet(self.party, MODEL, CONSUMER, size)

    def grow(self, *, entries: int, in_use: int) -> None:
        """Bring a stopped custodian's log to at least `entries`, and have `in_use` leases not closed."""
        began_s = time.process_time()
        past = lay_down(self.directory, model=MODEL, consumer=CONSUMER, entries=entries, in_use=in_use - self.in_use)
        made = past.tree.size - past.begun_at
        if made >= 100_000:  # a short one says nothing
            self.laid_per_cpu_s = made / (time.process_time() - began_s)
        self.in_use = in_use

    def start(self) -> None:
        """Start the custodian's process."""
        began_s = time.perf_counter()
        self.world.start_custodian()
        self.start_s, self.start_cpu_s = time.perf_counter() - began_s, self.cpu_s()
        self.entries = int(self.world.view("/v1/gap")["size"])
        if self.world.ledger is not None:
            with psycopg.connect(self.world.ledger) as connection:
                self._server_pids = [int(pid) for (pid,) in connection.execute(_ITS_SERVER_PROCESS)]

    def stop(self) -> None:
        """End it in order."""
        self.world.kill("custodian", 15)
        self.world.processes["custodian"].wait(120)

    def cpu_s(self) -> float:
        """Return the processor time of the custodian's process, in seconds."""
        return processor_s(self.world.processes["custodian"].pid)

    def store_cpu_s(self) -> float:
        """Return that of the server's processes which work for it alone; nothing on SQLite."""
        return sum(processor_s(pid) for pid in self._server_pids)

    def size_mib(self) -> int:
        """Return what the ledger takes on disk."""
        if self.world.ledger is None:
            return (self.directory / "ledger.db").stat().st_size >> 20
        with psycopg.connect(self.world.ledger) as connection:
            found = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        return 0 if found is None else int(found[0]) >> 20


@contextmanager
def deployed(store: str, ledger: str | None) -> Iterator[Deployment]:
    """Make a stopped custodian on which one enclave was admitted. What it wrote is removed in the end."""
    directory = Path(tempfile.mkdtemp(prefix="aigovtool-bench-"))
    world = World(directory, ledger=ledger)
    try:
        # The longest leases: a hundred thousand that are not closed must not expire while others are measured.
        world.prepare(model.digits_model(), default_policy(Dial.ISLAND))
        world.grant(_BUDGET)
        made = Deployment(store, world)
        asyncio.run(_admit_one(made))
        made.stop()
        yield made
    finally:
        world.close()
        shutil.rmtree(directory)


async def _admit_one(made: Deployment) -> None:
    async with made.fleet(1):
        pass
