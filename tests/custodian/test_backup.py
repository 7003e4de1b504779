"""A copy of the ledger for an operator: of one moment, signed for, one at a time, and also while there is a gap."""

import asyncio
import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.custodian.conftest import BORROWER, Bench, make_bench
from tests.custodian.test_continuity import backup

from aigovtool.custodian.service import views
from aigovtool.custodian.service.backup import LedgerCopy, copy_ledger
from aigovtool.errors import LedgerRollbackError, OverloadedError
from aigovtool.ledger.checkpoint import Checkpoint, open_checkpoint
from aigovtool.protocol.views import CheckpointSeen


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A custodian on SQLite: PostgreSQL is copied by its own programs."""
    return make_bench(tmp_path / "custodian")


def opened(bench: Bench, note: str) -> Checkpoint:
    return open_checkpoint(note, bench.custodian.keys.key_set.log_keys())


def entries(copy: LedgerCopy, where: Path) -> int:
    with copy.file:
        where.write_bytes(b"".join(copy.chunks()))
    with closing(sqlite3.connect(where)) as ledger:
        return int(ledger.execute("SELECT count(*) FROM log").fetchone()[0])


async def test_the_checkpoint_is_of_the_very_log_in_the_copy(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not one entry more or less, although others are added meanwhile; and who asked for it is logged."""
    caplog.set_level(logging.INFO)
    copying = asyncio.ensure_future(copy_ledger(bench.custodian, bench.alice))
    added = [await bench.add_borrower(BORROWER)]
    copy = await copying
    assert copy.size_bytes > 0
    assert opened(bench, copy.checkpoint).size == entries(copy, tmp_path / "copy.db")
    later = await copy_ledger(bench.custodian, bench.alice)
    later.file.close()
    assert added[0].entry < opened(bench, later.checkpoint).size
    (told, _) = (record for record in caplog.records if record.message == "ledger_copied")
    assert (told.__dict__["operator"], told.__dict__["bytes"]) == ("alice", copy.size_bytes)
    bench.custodian.database.close()


async def test_one_copy_is_made_at_a_time(bench: Bench) -> None:
    """Each takes the space of a ledger; afterwards, also after a failure, the next one may."""
    first = asyncio.ensure_future(copy_ledger(bench.custodian, bench.alice))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError) as caught:
        await copy_ledger(bench.custodian, bench.alice)
    assert caught.value.retry_after_s
    (await first).file.close()
    (await copy_ledger(bench.custodian, bench.alice)).file.close()
    bench.custodian.database.close()


async def test_a_ledger_with_a_gap_can_be_copied(bench: Bench, tmp_path: Path) -> None:
    """Nothing is changed by it, and before a settlement is when one wants a copy."""
    old = backup(bench, None)
    await bench.add_borrower(BORROWER)
    newest = await views.show_head(bench.custodian)
    old.restore()
    with pytest.raises(LedgerRollbackError):
        await views.compare(bench.custodian, CheckpointSeen(checkpoint=newest.checkpoint))
    copy = await copy_ledger(bench.custodian, bench.alice)
    assert opened(bench, copy.checkpoint).size == entries(copy, tmp_path / "copy.db")
    bench.custodian.database.close()
