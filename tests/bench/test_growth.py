"""Nothing that a custodian does often costs more as its history grows: counted, not timed.

SQLite tells how many instructions of its virtual machine a statement runs; whoever reads more rows runs more. The same
renewals and views are counted on a young ledger, and again when it has a past.
"""

import asyncio
import secrets
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from bench.laying import lay_down
from tests.bench.test_history import young
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL, Bench, Enclave, report, want

from aigovtool.crypto.sign import SigningKey
from aigovtool.custodian.app import open_custodian
from aigovtool.custodian.service import proofs, views
from aigovtool.custodian.store import asks, evidence, instances, parties, stops
from aigovtool.custodian.store.instances import Since
from aigovtool.custodian.store.records import Party
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ids import BorrowerId, ConsumerId, InstanceId, MessageId
from aigovtool.ledger.budget import Scope
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.limits import MAX_INTEGER
from aigovtool.protocol.commands import AskState
from aigovtool.protocol.messages import Deny, Grant

ENTRIES, IN_USE, MANY = 5_000, 500, 400
#: A path down a larger tree takes no instruction more; a first stop or request takes a few in each renewal, of which a
#: trade has two.
SLACK = 90
#: A boot counts those of the last ten minutes, of which the older ledger has two more.
SLACK_OF = {"boot": 200}


async def heartbeat(_: Bench, enclave: Enclave) -> None:
    await enclave.renew()


async def trade(_: Bench, enclave: Enclave) -> None:
    (drawn,) = (await enclave.renew(want(8))).results
    assert isinstance(drawn, Grant)
    await enclave.renew(reports=(report(drawn.lease_id, seq=1, used=5, final=True),))


async def refused(_: Bench, enclave: Enclave) -> None:
    (denied,) = (await enclave.renew(want(1, consumer=ConsumerId("nobody"), ask=True))).results
    assert isinstance(denied, Deny)


async def usage(bench: Bench, _: Enclave) -> None:
    await views.show_usage(bench.custodian)


async def budgets(bench: Bench, _: Enclave) -> None:
    await views.show_budgets(bench.custodian)


async def newest_entries(bench: Bench, _: Enclave) -> None:
    size = (await views.show_gap(bench.custodian)).size
    await views.show_log(bench.custodian, size - 10, 10)


async def rare_entries(bench: Bench, _: Enclave) -> None:
    await views.show_kind(bench.custodian, "budget_set", MAX_INTEGER, 10)


async def open_ask(bench: Bench, _: Enclave) -> None:
    scope = Scope(model=MODEL, borrower=BORROWER, consumer=CONSUMER)
    await bench.custodian.database.run(lambda running: asks.open_at(running, scope, 20))


async def some_asks(bench: Bench, _: Enclave) -> None:
    await bench.custodian.database.run(lambda running: asks.everything(running, 2))


async def inclusion(bench: Bench, _: Enclave) -> None:
    await proofs.inclusion(bench.custodian, 3, 8)


async def boot(bench: Bench, _: Enclave) -> None:
    await Enclave(bench).boot()


DONE_OFTEN: list[Callable[[Bench, Enclave], Awaitable[None]]] = [
    heartbeat,
    trade,
    refused,
    usage,
    budgets,
    newest_entries,
    rare_entries,
    open_ask,
    some_asks,
    inclusion,
    boot,
]


async def instructions(bench: Bench, work: Awaitable[None]) -> int:
    """Count what SQLite does for some work."""
    connection = bench.custodian.database._connection
    assert connection is not None
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    done = 0

    def step() -> int:
        nonlocal done
        done += 1
        return 0

    raw.set_progress_handler(step, 1)
    await work
    raw.set_progress_handler(None, 1)
    return done


async def counts(bench: Bench, enclave: Enclave) -> dict[str, int]:
    for one in DONE_OFTEN:
        await one(bench, enclave)  # what is made once, such as a first budget row, is not what this is about
    return {one.__name__: await instructions(bench, one(bench, enclave)) for one in DONE_OFTEN}


def revoke_and_ask(running: Transaction) -> None:
    """Leave many consumers who were stopped and whose credentials ended, of this borrower and others; many requests."""
    now_ms = running.head.clock_ms
    for number in range(MANY):
        borrower = BORROWER if number % 2 else BorrowerId("other")
        name = f"former{number}"
        key = SigningKey.generate().public.raw
        parties.add(
            running,
            Party(
                role=PartyRole.CONSUMER, name=name, borrower=borrower, key=key, not_after_ms=now_ms - 1, revoked=True
            ),
        )
        stops.put(running, StopTarget.CONSUMER, name, 1 + number, active=True)
        state = "open" if number % 3 else "denied"
        asks.add(
            running,
            AskState(
                ask_id=MessageId(secrets.token_hex(16)),
                role=PartyRole.CONSUMER,
                name=name,
                scope=Scope(model=MODEL, borrower=borrower, consumer=ConsumerId(name)),
                units=1,
                reason="",
                at_ms=now_ms,
                state=state,
            ),
        )


def boot_and_die(running: Transaction) -> None:
    """Leave many instances that ended without a word, as a borrower's machine that restarts again and again does."""
    now_ms = running.head.clock_ms
    (known, _), *_ = instances.listed(running, Since(attested_ms=0, heard_ms=0), 1)
    kept = evidence.find(running, known.instance)
    assert kept is not None
    for _ in range(MANY):
        name, key = InstanceId(secrets.token_hex(32)), secrets.token_bytes(32)
        instances.add(running, msgspec.structs.replace(known, instance=name, identity_key=key))
        evidence.add(running, name, kept, now_ms)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int]]:
    """What each takes on a young ledger, and on the same one when it is old."""

    async def play(directory: Path) -> dict[str, tuple[int, int]]:
        bench, enclave = await young(directory, None)
        before = await counts(bench, enclave)
        await bench.custodian.database.run(revoke_and_ask)
        await bench.custodian.database.run(boot_and_die)
        bench.custodian.database.close()
        lay_down(directory, model=MODEL, consumer=CONSUMER, entries=ENTRIES, in_use=IN_USE)
        bench.custodian = open_custodian(directory)
        after = await counts(bench, enclave)
        bench.custodian.database.close()
        return {name: (before[name], after[name]) for name in before}

    return asyncio.run(play(tmp_path_factory.mktemp("growth") / "custodian"))


@pytest.mark.parametrize("work", [one.__name__ for one in DONE_OFTEN])
def test_what_is_done_often_costs_the_same_on_an_old_ledger(counted: dict[str, tuple[int, int]], work: str) -> None:
    """With thousands of entries, hundreds of leases in use, of former consumers, requests and boots as with none."""
    before, after = counted[work]
    assert before > 10
    assert after <= before + SLACK_OF.get(work, SLACK)
