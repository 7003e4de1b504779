"""Whatever is ordered, asked and lost, in whatever order: an auditor's verifier takes the log that the custodian wrote.

Lives of a real custodian are drawn from seeds; the campaign `any-order` plays more of them.
"""

import asyncio
import random
from pathlib import Path

import pytest
from assurance.any_order.auditor import audit
from assurance.any_order.life import live
from assurance.any_order.office import Defect, Office
from sqlalchemy import update
from tests.postgres_server import PostgresServer

from aigovtool.custodian.store import transaction
from aigovtool.custodian.store.schema import stops
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.party_list import PartyList
from aigovtool.protocol import commands as acts


def test_an_auditor_takes_the_log_whatever_was_done(tmp_path: Path, ledger: str | None) -> None:
    """Each tenth act the log is exported and verified, as whoever holds checkpoints, and compared with the ledger."""
    counts, told, wrong = live(20, tmp_path / "custodian", 100, ledger)
    assert wrong is None, told[-30:]
    assert counts["audits"] == 11
    assert counts["granted"] > 0
    assert counts["crimes"] > 50


def test_a_crime_that_an_auditor_takes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put into an honest log: here a rule is missing, and somebody who is no operator gives an order."""
    monkeypatch.setattr(PartyList, "require_operators", lambda self, command: None)
    _, _, wrong = live(20, tmp_path / "custodian", 20)
    assert "an auditor takes a log with a crime" in (wrong or "")


def test_nor_does_it_matter_how_many_do_it_at_once(tmp_path: Path, ledger: str | None) -> None:
    """Commands on one object, boots, renewals and co-signatures that begin together; at two custodians on a server."""
    counts, told, wrong = live(20, tmp_path / "custodian", 100, ledger, at_once=True)
    assert wrong is None, told[-60:]
    assert counts["audits"] == 10


def test_two_writers_on_one_ledger_are_noticed(
    tmp_path: Path, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is at once bites where what comes in turn does not: without the lock on the head nobody is one writer."""
    monkeypatch.setattr(transaction, "_LOCK_HEAD", transaction._GET_HEAD)
    lives = (
        live(seed, tmp_path / f"custodian{seed}", 100, postgres_server.database(), at_once=True) for seed in range(3)
    )
    assert any(wrong is not None for _, _, wrong in lives)


def test_a_ledger_that_is_not_what_its_log_says_is_noticed(tmp_path: Path) -> None:
    """The comparison itself bites: a stop that the ledger forgets is still in the log."""
    office = Office(tmp_path / "custodian", random.Random(1))

    def forget(running: Transaction) -> None:
        running.execute(update(stops).values(active=False))

    async def play() -> None:
        await office.bench.command(acts.Stop(target=StopTarget.ALL, value="", reason=""))
        await audit(office, seen=[])
        await office.bench.custodian.database.run(forget)
        with pytest.raises(Defect, match="are stopped"):
            await audit(office, seen=office.notes)

    try:
        asyncio.run(play())
    finally:
        office.close()
