"""Cuts lives into segments: each begins where a live ledger was copied, its write-ahead log as long as it was then."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from assurance.faults.examine import read
from assurance.faults.life import Told, begin
from assurance.faults.process import Segment
from assurance.machine import in_memory

#: Steps of one life, and of one segment. A step is one transaction or several.
LIFE, STEPS = 120, 2
PARTS = LIFE // STEPS


@contextmanager
def folder() -> Iterator[Path]:
    """Yield a folder that is gone afterwards; in memory where there is one."""
    with tempfile.TemporaryDirectory(prefix="aigovtool-fault-", dir=in_memory()) as path:
        yield Path(path)


@dataclass(frozen=True)
class Start:
    """A segment, and the leases that its ledger has when it begins."""

    segment: Segment
    leases: set[str]


def start_of(seed: int, where: Path) -> Start:
    """Live up to the segment of this number, and copy the ledger while it is being served."""
    life_number, part = divmod(seed, PARTS)
    directory, copy = where / "live", where / "start"

    async def live() -> Start:
        life = await begin(directory, life_number)
        unheard: list[Told] = []
        life.tell = unheard.append
        await life.steps(part * STEPS)
        custodian = life.custodian
        ledger = await custodian.database.run(lambda transaction: read(custodian, transaction))
        shutil.copytree(directory, copy)
        return Start(Segment(life, copy, STEPS), set(ledger.leases))

    start = asyncio.run(live())
    start.segment.life.custodian.database.close()
    shutil.rmtree(directory)
    return start
