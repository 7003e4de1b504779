"""The push stream: no moment exists in which a stop is neither in its first line nor pushed after it.

With several custodians it is the relay that brings what the others announce; nothing that it hears ends it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import psycopg
import pytest
from tests.custodian.conftest import BORROWER, MODEL, Bench, Enclave, make_bench, message_id
from tests.postgres_server import PostgresServer

from aigovtool.codec import decode, encode
from aigovtool.custodian.api import _lines
from aigovtool.custodian.custodian import Notice
from aigovtool.custodian.hub import Announcement, Stream
from aigovtool.custodian.relay import relay
from aigovtool.custodian.service import views
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.transaction import CHANNEL, Transaction
from aigovtool.errors import LedgerRollbackError
from aigovtool.ledger.checkpoint import Checkpoint, sign_checkpoint
from aigovtool.ledger.entry import StopTarget
from aigovtool.protocol import commands as acts
from aigovtool.protocol.messages import Push
from aigovtool.protocol.views import CheckpointSeen

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


async def test_a_copy_of_an_older_request_for_a_stream_cuts_none(lent: Bench, admitted: Enclave) -> None:
    """Also where both come at once, so that neither was open when the other was looked at: the newer one stays."""
    hub, instance = lent.custodian.hub, await admitted.record()
    with hub.listen(instance, 5) as stream:
        for asked_ms in (5, 4):
            with hub.listen(instance, asked_ms) as copy:
                assert copy.get_nowait() is None
        hub.push(instance.instance, Push(granted=True))
        assert stream.get_nowait() == Push(granted=True)
        with hub.listen(instance, 6) as newer:
            assert stream.get_nowait() is None
            assert newer.empty()
            assert hub.connected() == {instance.instance}
    assert hub.connected() == frozenset()


async def test_a_gap_that_a_stranger_shows_is_told_to_those_who_listen(admitted: Enclave, lent: Bench) -> None:
    """The other custodians hear of the new epoch by the transaction; the enclaves that listen here must, too."""
    custodian = lent.custodian
    forgotten = Checkpoint(custodian=custodian.keys.custodian, size=10_000, root=bytes(32))
    shown = CheckpointSeen(checkpoint=sign_checkpoint(forgotten, custodian.keys.log))
    with custodian.hub.listen(await admitted.record()) as stream:
        with pytest.raises(LedgerRollbackError):
            await views.compare(custodian, shown)
        line = stream.get_nowait()
        assert line is not None
        assert line.stop_state is not None
        assert admitted.stop_state(line.stop_state).epoch >= 10_000
        with pytest.raises(LedgerRollbackError):
            await views.compare(custodian, shown)
        assert stream.empty()


# --- From the other custodians on the same ledger ---------------------------------------------------------------


@dataclass
class Relayed:
    """A custodian on PostgreSQL that relays, and the stream of an enclave that listens to it."""

    bench: Bench
    stream: Stream
    address: str
    relaying: asyncio.Task[None]

    async def next_push(self) -> Push:
        line = await asyncio.wait_for(self.stream.get(), 20)
        assert line is not None
        return line

    def send(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.address, autocommit=True) as connection:
            return connection.execute(statement.encode(), values).fetchall()

    def notify(self, payload: str) -> None:
        self.send("SELECT pg_notify(%s, %s)", CHANNEL, payload)

    def recall(self) -> None:
        """Announce what can be told from a stop, as another custodian does."""
        self.notify(encode(Notice(origin=message_id(), announcement=Announcement(recall=MODEL))).decode())


@pytest.fixture
async def relayed(tmp_path: Path, postgres_server: PostgresServer) -> AsyncIterator[Relayed]:
    address = postgres_server.database()
    bench = make_bench(tmp_path / "custodian", ledger=address)
    await bench.add_borrower(BORROWER)
    await bench.command(bench.upload())
    enclave = Enclave(bench)
    await enclave.boot()
    with bench.custodian.hub.listen(await enclave.record()) as stream:
        made = Relayed(bench, stream, address, asyncio.create_task(relay(bench.custodian, address)))
        assert (await made.next_push()).stop_state is not None  # it cannot know what came before it listened
        yield made
        assert not made.relaying.done()
        made.relaying.cancel()
        await asyncio.gather(made.relaying, return_exceptions=True)
    bench.custodian.database.close()


@pytest.mark.parametrize(
    "payload",
    ["", "nonsense", "[" * 99, f'{{"origin":"{"0" * 32}","announcement":{{"stop":"all","value":"","new":1}}}}'],
    ids=["empty", "text", "deep", "newer"],
)
async def test_a_notice_that_cannot_be_read_is_taken_for_a_stop(payload: str, relayed: Relayed) -> None:
    """A newer custodian sends one, or any role of the database: every enclave gets its state, and the relay goes on."""
    relayed.notify(payload)
    assert (await relayed.next_push()).stop_state is not None
    relayed.recall()
    assert (await relayed.next_push()).recall


async def test_a_relay_that_lost_its_connection_pushes_everybodys_state(relayed: Relayed) -> None:
    """It cannot know what it missed; what comes afterwards comes as before."""
    killed = relayed.send("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%'")
    assert killed == [(True,)]
    assert (await relayed.next_push()).stop_state is not None
    relayed.recall()
    assert (await relayed.next_push()).recall


async def test_an_error_that_nobody_expected_does_not_end_the_relay(
    relayed: Relayed, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and everybody's state is pushed once it is over: no stop is lost between custodians."""

    async def break_down() -> None:
        custodian.database = database
        raise ZeroDivisionError

    custodian, database = relayed.bench.custodian, relayed.bench.custodian.database
    pausing = Pausing(database)
    pausing.before = break_down
    custodian.database = cast("Database", pausing)
    relayed.notify(encode(Notice(origin=message_id(), announcement=Announcement(stop=StopTarget.ALL))).decode())
    assert (await relayed.next_push()).stop_state is not None
    relayed.recall()
    assert (await relayed.next_push()).recall
    assert "relay_failed" in {record.message for record in caplog.records}
