"""One enclave whose messages reach several custodians on one ledger, as behind a load balancer: as if it had one."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.custodian.conftest import Bench, Enclave, lend, make_bench, report, want
from tests.custodian.host_clock import told_by
from tests.postgres_server import PostgresServer

from aigovtool.crypto.sign import Envelope
from aigovtool.custodian.app import open_custodian
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.service import renewal, views
from aigovtool.custodian.store.log import page
from aigovtool.errors import ConflictError
from aigovtool.ledger.audit import LoggedEntry, verify_log
from aigovtool.ledger.merkle import leaf_hash
from aigovtool.protocol.messages import Answer, Deny, Grant, Report

_CUSTODIANS = 3
_BUDGET = 40


class Several:
    """Custodians on one ledger, and one enclave that was admitted by the first."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.custodians = [bench.custodian, *(open_custodian(bench.directory) for _ in range(_CUSTODIANS - 1))]
        for custodian in self.custodians[1:]:
            custodian.clock = told_by(lambda: bench.now_ms)
        self.enclave = Enclave(bench)

    async def begin(self) -> None:
        await lend(self.bench)
        await self.bench.grant(_BUDGET)
        await self.enclave.boot()

    def close(self) -> None:
        for custodian in self.custodians:
            custodian.database.close()

    async def tell(self, custodian: Custodian, envelope: Envelope) -> Answer:
        answer = self.enclave.opened(await renewal.renew(custodian, envelope))
        self.enclave.checkpoint_seen = answer.checkpoint
        return answer

    async def row(self) -> tuple[int, int]:
        (row,) = (await views.show_budgets(self.bench.custodian)).budgets
        return row.posted, row.pending


@pytest.fixture
def several(tmp_path: Path, postgres_server: PostgresServer) -> Iterator[Several]:
    """Three custodians on one PostgreSQL ledger."""
    made = Several(make_bench(tmp_path / "custodian", ledger=postgres_server.database()))
    yield made
    made.close()


async def test_one_renewal_at_all_of_them_at_once_is_carried_out_once(several: Several) -> None:
    """The enclave's repeats went other ways than its first message: one grant, and the same bytes from everybody."""
    await several.begin()
    held = 0
    for _ in range(8):
        envelope = several.enclave.renewal(want(3))
        replies = await asyncio.gather(*(renewal.renew(one, envelope) for one in several.custodians * 3))
        (told,) = {reply.answer.payload for reply in replies}
        assert all(reply.answer.payload == told for reply in replies)
        answer = several.enclave.opened(replies[0])
        several.enclave.checkpoint_seen = answer.checkpoint
        (grant,) = answer.results
        held += grant.units.inferences if isinstance(grant, Grant) else 0
        assert await several.row() == (0, held)
    assert 0 < held <= _BUDGET


async def test_leases_are_closed_elsewhere_than_they_were_granted(several: Several) -> None:
    """In turn, until the budget is used up: exactly that is used, and the log of all verifies."""
    await several.begin()
    used, number = 0, 0
    reports: list[Report] = []
    while True:
        envelope = several.enclave.renewal(want(3), reports=tuple(reports))
        answer = await several.tell(several.custodians[number % _CUSTODIANS], envelope)
        number += 1
        (result,) = answer.results
        if isinstance(result, Deny):
            break
        used += result.units.inferences
        reports = [report(result.lease_id, seq=1, used=result.units.inferences, final=True)]
    assert used == _BUDGET
    assert number > _CUSTODIANS
    assert await several.row() == (_BUDGET, 0)
    assert await _audited(several) == [(_BUDGET, 0)]


async def test_a_late_copy_at_another_one_is_known_to_be_late(several: Several) -> None:
    """What was overtaken on the way draws nothing, whichever of them gets it."""
    await several.begin()
    late = several.enclave.renewal(want(3))
    await several.tell(several.custodians[0], late)
    await several.tell(several.custodians[1], several.enclave.renewal(want(3)))
    before = await several.row()
    for custodian in several.custodians:
        with pytest.raises(ConflictError) as caught:
            await renewal.renew(custodian, late)
        assert caught.value.reason == "request_superseded"
    assert await several.row() == before


async def _audited(several: Several) -> list[tuple[int, int]]:
    """Return the balances that follow from the log alone."""
    keys = several.bench.custodian.keys
    head = await views.show_head(several.bench.custodian)
    entries = await several.bench.custodian.database.run(lambda transaction: page(transaction, 0, 1_000))
    lines = [LoggedEntry(data=data, leaf=leaf_hash(data)) for data in entries]
    found = verify_log(lines, head.checkpoint, keys.key_set.log_keys(), keys.custodian)
    return [(row.posted, row.pending) for row in found.rows]
