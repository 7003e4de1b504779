"""The push stream: no moment exists in which a stop is neither in its first line nor pushed after it."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar, cast

import pytest
from tests.custodian.conftest import Bench, Enclave

from aigovtool.codec import decode
from aigovtool.custodian.api import _lines
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ledger.entry import StopTarget
from aigovtool.protocol import commands as acts
from aigovtool.protocol.messages import Push

T = TypeVar("T")


class Pausing:
    """The ledger; around the first transaction after `at` was set, something else happens."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.before: Any = None
        self.after: Any = None

    async def run(self, job: Callable[[Transaction], T]) -> T:
        before, self.before = self.before, None
        after, self.after = self.after, None
        if before is not None:
            await before()
        result = await self.database.run(job)
        if after is not None:
            await after()
        return result


async def stopped_by(enclave: Enclave, stream: Any, lines: int) -> bool:
    """Return whether one of the first lines carries the stop; a line that does not come counts as none."""
    for _ in range(lines):
        line = await asyncio.wait_for(anext(stream), 4)
        push = decode(line.strip(), Push)
        if push.stop_state is not None and enclave.stop_state(push.stop_state).is_wide():
            return True
    return False


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_stop_while_the_stream_opens_is_not_lost(moment: str, lent: Bench, admitted: Enclave) -> None:
    """Just before the state is read it is in the first line; just after that, it is in the second."""
    custodian, instance = lent.custodian, await admitted.record()
    pausing = Pausing(custodian.database)
    custodian.database = cast("Database", pausing)

    async def stop() -> None:
        await lent.command(acts.Stop(target=StopTarget.ALL, value="", reason="drill"))

    setattr(pausing, moment, stop)
    stream = _lines(custodian, instance)
    try:
        assert await stopped_by(admitted, stream, 1 if moment == "before" else 2)
    finally:
        await stream.aclose()  # type: ignore[attr-defined]
        custodian.database = pausing.database
