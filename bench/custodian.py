"""What a renewal costs a custodian, on each store, with short and long histories side by side.

Custodians of all lengths run at the same time and take turns in short rounds, so that what else happens on the machine
happens to all of them alike.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Final

from aigovtool.codec import Message
from bench.deployment import Deployment
from bench.fleet import Fleet, Latencies

ENCLAVES: Final = 32
#: An enclave with the default ttl of 30 s renews every 10 s.
RENEWAL_S: Final = 10
_ROUNDS: Final = 5


class Renewals(Message):
    """One measurement. Processor time is the custodian's own (`cpu_ms`) and its database server's (`store_cpu_ms`)."""

    store: str
    trading: bool
    log_entries: int
    leases_in_use: int
    renewals: int
    per_s: float
    cpu_ms: float
    store_cpu_ms: float | None
    p50_ms: float
    p99_ms: float

    def total_ms(self) -> float:
        """Return the processor time of both."""
        return self.cpu_ms + (self.store_cpu_ms or 0)

    def enclaves_per_core(self) -> int:
        """Return how many enclaves that renew every ten seconds keep one core busy."""
        return int(RENEWAL_S * 1000 / self.total_ms())


class _Turns:
    """One custodian's share of the rounds."""

    def __init__(self, made: Deployment, fleet: Fleet) -> None:
        self.made = made
        self.fleet = fleet
        self._clear()

    def _clear(self) -> None:
        self.latencies = Latencies()
        self.cpu_s = self.store_cpu_s = self.elapsed_s = 0.0

    async def take(self, renewals: int, *, trading: bool) -> None:
        made = self.made
        cpu_s, store_cpu_s, began = made.cpu_s(), made.store_cpu_s(), time.perf_counter()
        self.latencies.seconds += (await self.fleet.drive(renewals, trading=trading)).seconds
        self.elapsed_s += time.perf_counter() - began
        self.cpu_s += made.cpu_s() - cpu_s
        self.store_cpu_s += made.store_cpu_s() - store_cpu_s

    def result(self, *, trading: bool) -> Renewals:
        done, made = len(self.latencies.seconds), self.made
        found = Renewals(
            store=made.store,
            trading=trading,
            log_entries=made.entries,
            leases_in_use=made.in_use,
            renewals=done,
            per_s=done / self.elapsed_s,
            cpu_ms=1000 * self.cpu_s / done,
            store_cpu_ms=None if made.world.ledger is None else 1000 * self.store_cpu_s / done,
            p50_ms=self.latencies.quantile_ms(0.5),
            p99_ms=self.latencies.quantile_ms(0.99),
        )
        self._clear()
        return found


async def measure(running: list[Deployment], renewals: int) -> list[Renewals]:
    """Measure heartbeats alone, then trade, at custodians that all run now."""
    found = []
    async with AsyncExitStack() as stack:
        turns = [_Turns(made, await stack.enter_async_context(made.fleet(ENCLAVES))) for made in running]
        for trading in (False, True):
            for one in turns:
                await one.fleet.drive(2 * ENCLAVES, trading=trading)  # warm
            for _ in range(_ROUNDS):
                for one in turns:
                    await one.take(renewals // _ROUNDS, trading=trading)
            found += [one.result(trading=trading) for one in turns]
    return found


def renewals_of(running: list[Deployment], renewals: int) -> list[Renewals]:
    """Run `measure`."""
    return asyncio.run(measure(running, renewals))
