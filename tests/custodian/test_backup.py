"""A copy of the ledger for an operator: of one moment, signed for, one at a time, and also while there is a gap."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import pytest
from tests.custodian.conftest import BORROWER, Bench, make_bench
from tests.custodian.test_continuity import backup

from aigovtool.crypto.identity import IdentityKind
from aigovtool.crypto.sign import SigningKey
from aigovtool.custodian.service import views
from aigovtool.custodian.service.backup import LedgerCopy, copy_ledger
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ForbiddenError, LedgerRollbackError, OverloadedError, StorageError
from aigovtool.ledger.checkpoint import Checkpoint, open_checkpoint
from aigovtool.ledger.entry import PartyRole
from aigovtool.protocol import commands as acts
from aigovtool.protocol.views import CheckpointSeen

T = TypeVar("T")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A custodian on SQLite: PostgreSQL is copied by its own programs."""
    return make_bench(tmp_path / "custodian")


def opened(bench: Bench, note: str) -> Checkpoint:
    return open_checkpoint(note, bench.custodian.keys.key_set.log_keys())


def entries(copy: LedgerCopy, where: Path) -> int:
    where.write_bytes(b"".join(copy.chunks()))
    copy.close()
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
    later.close()
    assert added[0].entry < opened(bench, later.checkpoint).size
    (told, _) = (record for record in caplog.records if record.message == "ledger_copied")
    assert (told.__dict__["operator"], told.__dict__["bytes"]) == ("alice", copy.size_bytes)
    bench.custodian.database.close()


class Watched:
    """The ledger, and whether the custodian knew of a copy when it was asked for."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.database = bench.custodian.database
        self.copying: list[bool] = []
        self.failing = False

    async def run(self, job: Callable[[Transaction], T]) -> T:
        return await self.database.run(job)

    def copy(self, job: Callable[[Transaction], T]) -> "Future[tuple[BinaryIO, T]]":
        self.copying.append(self.bench.custodian.copying)
        if self.failing:
            failed: Future[tuple[BinaryIO, T]] = Future()
            failed.set_exception(StorageError("no space", reason="copy_failed"))
            return failed
        return self.database.copy(job)


async def test_one_copy_is_made_at_a_time(bench: Bench) -> None:
    """Each takes the space of a ledger until it is sent; who asks meanwhile is told when to ask again."""
    watched = Watched(bench)
    bench.custodian.database = cast("Database", watched)
    first = await copy_ledger(bench.custodian, bench.alice)
    assert watched.copying == [True]
    with pytest.raises(OverloadedError) as caught:
        await copy_ledger(bench.custodian, bench.alice)
    assert (caught.value.reason, caught.value.retry_after_s) == ("copying", 10)
    assert watched.copying == [True]
    first.close()
    watched.failing = True
    with pytest.raises(StorageError):
        await copy_ledger(bench.custodian, bench.alice)
    watched.failing = False
    (await copy_ledger(bench.custodian, bench.alice)).close()
    watched.database.close()


async def test_a_revoked_operator_gets_no_copy(bench: Bench) -> None:
    """Its certificate is good for long; nothing is copied for it."""
    key = SigningKey.generate()
    await bench.add_party(PartyRole.OPERATOR, "bob", key)
    bob = bench.identity(IdentityKind.OPERATOR, "bob", key)
    (await copy_ledger(bench.custodian, bob)).close()
    await bench.command(acts.RevokeParty(role=PartyRole.OPERATOR, name="bob"))
    with pytest.raises(ForbiddenError):
        await copy_ledger(bench.custodian, bob)
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
