"""A history that is laid down in bulk is one that the custodian could have written, entry by entry."""

import asyncio
import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from bench.history import LEASES_HELD, Past
from bench.laying import lay_down
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL, Bench, Enclave, make_bench, report, want
from tests.custodian.host_clock import told_by

from aigovtool.codec import decode
from aigovtool.custodian.app import open_custodian
from aigovtool.custodian.service import proofs, views
from aigovtool.custodian.store import leases
from aigovtool.ledger.audit import AuditReport
from aigovtool.ledger.checkpoint import parse_checkpoint
from aigovtool.ledger.entry import Entry, LeaseGranted
from aigovtool.ledger.merkle import leaf_hash, verify_consistency, verify_inclusion
from aigovtool.ledger.replay import Replay
from aigovtool.ledger.units import UnitVector
from aigovtool.operator.audit_file import verify_audit_file, write_audit_file
from aigovtool.operator.client import LOG_PAGE
from aigovtool.protocol.messages import Grant

ENTRIES, IN_USE = 20_000, 35
BUDGET = 10**9


@dataclass
class Aged:
    """A custodian with a long past."""

    bench: Bench
    enclave: Enclave
    past: Past

    async def entries(self) -> list[bytes]:
        found: list[bytes] = []
        while page := (await views.show_log(self.bench.custodian, len(found), LOG_PAGE)).entries:
            found += page
        return found


async def young(directory: Path, ledger: str | None) -> tuple[Bench, Enclave]:
    bench = make_bench(directory, ledger=ledger)
    await bench.add_borrower(BORROWER)
    await bench.add_consumer(CONSUMER, BORROWER)
    await bench.command(bench.upload())
    await bench.grant(BUDGET)
    enclave = Enclave(bench)
    await enclave.boot()
    (drawn,) = (await enclave.renew(want(8))).results
    assert isinstance(drawn, Grant)
    await enclave.renew(reports=(report(drawn.lease_id, seq=1, used=5, final=True),))
    return bench, enclave


@contextmanager
def grown_old(directory: Path, ledger: str | None) -> Iterator[Aged]:
    """A custodian that really lent and settled one lease, then was given a past, and serves again."""
    bench, enclave = asyncio.run(young(directory, ledger))
    bench.custodian.database.close()
    past = lay_down(directory, model=MODEL, consumer=CONSUMER, entries=ENTRIES, in_use=IN_USE)
    bench.custodian = open_custodian(directory)
    bench.custodian.clock = told_by(lambda: bench.now_ms)
    yield Aged(bench, enclave, past)
    bench.custodian.database.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def aged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aged]:
    """One for all tests that only look."""
    server = None if request.param == "sqlite" else request.getfixturevalue("running_server")
    directory = tmp_path_factory.mktemp("aged") / "custodian"
    with grown_old(directory, None if server is None else server.database(kept=True)) as made:
        yield made


async def _verified(aged: Aged, path: Path) -> AuditReport:
    head = await views.show_head(aged.bench.custodian)
    write_audit_file(path, head, await aged.entries())
    return verify_audit_file(path, aged.bench.custodian.keys.root)


async def test_an_auditor_finds_nothing_wrong_with_it(aged: Aged, tmp_path: Path) -> None:
    """Every entry replays, and the balances that follow from the entries are those that the custodian keeps."""
    found = await _verified(aged, tmp_path / "log.jsonl")
    assert found.entries >= ENTRIES
    assert (found.leases, found.unclosed_leases) == (1 + aged.past.closed + IN_USE, IN_USE)
    (row,) = found.rows
    (shown,) = (await views.show_budgets(aged.bench.custodian)).budgets
    assert (row.posted, row.pending) == (shown.posted, shown.pending) == (5 * (1 + aged.past.closed), 8 * IN_USE)


async def test_an_auditor_keeps_nothing_of_a_lease_but_its_identifier(aged: Aged) -> None:
    """Memory grows by 48 bytes at most for a lease that is over, so a log of ten million entries can be verified."""
    entries = [decode(raw, Entry) for raw in await aged.entries()]
    replay = Replay()
    gc.collect()
    tracemalloc.start()
    for entry in entries:
        replay.take(entry)
    gc.collect()  # what is in circles is not kept
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(replay.leases) == IN_USE
    assert kept < 48 * aged.past.closed + 1_000 * IN_USE


def test_the_log_goes_on_where_the_past_ends(tmp_path: Path, ledger: str | None) -> None:
    """An enclave that was there before it shows its old checkpoint, draws and closes a lease; all still verifies."""

    async def go_on(aged: Aged) -> AuditReport:
        (drawn,) = (await aged.enclave.renew(want(8))).results
        assert isinstance(drawn, Grant)
        await aged.enclave.renew(reports=(report(drawn.lease_id, seq=1, used=2, final=True),))
        return await _verified(aged, tmp_path / "log.jsonl")

    with grown_old(tmp_path / "custodian", ledger) as aged:
        assert 0 < parse_checkpoint(aged.enclave.checkpoint_seen).size < aged.past.begun_at + 1
        assert asyncio.run(go_on(aged)).entries == aged.past.tree.size + 2


async def test_it_is_proved_from_stored_subtrees(aged: Aged) -> None:
    """Inclusion of any entry, and consistency with any earlier size, verify against the present root."""
    custodian, entries = aged.bench.custodian, await aged.entries()
    root = parse_checkpoint((await views.show_head(custodian)).checkpoint).root
    for index in (0, 7, 4_095, 4_096, ENTRIES - 1):
        proof = await proofs.inclusion(custodian, index, len(entries))
        verify_inclusion(leaf_hash(entries[index]), index, len(entries), proof.path, root)
        extended = await proofs.consistency(custodian, index + 1, len(entries))
        verify_consistency(index + 1, extended.old_root, len(entries), root, extended.path)


async def test_running_totals_and_leases_are_those_of_its_entries(aged: Aged) -> None:
    """Usage counts every lease once, and a lease is found with the entry that granted it."""
    (total,) = (await views.show_usage(aged.bench.custodian)).usage
    closed = 1 + aged.past.closed
    units = (total.granted, total.charged, total.used)
    assert units == tuple(
        UnitVector(inferences=number) for number in (8 * (closed + IN_USE), 5 * closed + 8 * IN_USE, 5 * closed)
    )
    assert (total.ok, total.open_leases) == (5 * closed, IN_USE)
    entry = decode((await aged.entries())[-1], Entry)
    granted = entry.body
    assert isinstance(granted, LeaseGranted)
    kept = await aged.bench.custodian.database.run(
        lambda running: (leases.find(running, granted.lease_id), leases.entry_of(running, granted.lease_id))
    )
    assert kept[0] is not None
    assert (kept[0].instance, kept[0].rows, kept[1]) == (granted.instance, granted.rows, entry.index)


async def test_what_is_in_use_counts_against_its_holder(aged: Aged) -> None:
    """The enclaves of the past are shown, each with what it holds."""
    shown = (await views.show_enclaves(aged.bench.custodian)).enclaves
    held = [one.outstanding.inferences for one in shown if not one.outstanding.is_zero()]
    assert sum(held) == 8 * IN_USE
    assert max(held) == 8 * LEASES_HELD
