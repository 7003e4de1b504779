"""Older ledgers are brought up to date in one transaction; newer ones are left alone."""

import sqlite3
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, create_engine, inspect
from tests.custodian.store.conftest import LONG_S
from tests.postgres_server import PostgresServer

from aigovtool.codec import decode
from aigovtool.custodian.store import budgets, instances, leases, log, parties, renewals, stops
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.instances import Since
from aigovtool.custodian.store.postgres import Postgres
from aigovtool.custodian.store.schema import SCHEMA_VERSION
from aigovtool.custodian.store.sqlite import Sqlite
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConfigurationError
from aigovtool.ids import BorrowerId, ConsumerId, ModelId, key_id_of
from aigovtool.ledger.budget import path
from aigovtool.ledger.entry import Entry, PartyRole, StopTarget
from aigovtool.ledger.merkle import inclusion_path, leaf_hash, root_of, verify_inclusion
from aigovtool.ledger.units import UnitVector

VECTORS = Path(__file__).parents[2] / "vectors" / "ledger"


#: What a step of the upgrade cannot take, by the version that it stands in.
BROKEN = {
    "schema-1": "INSERT INTO instances VALUES ('broken', 'b', 'live', 0, 0, 'no JSON')",
    "schema-2": "INSERT INTO models VALUES ('broken', 'p', 'no JSON')",
    "schema-3": "CREATE INDEX usage_held ON usage_units (held)",
    "schema-4": "CREATE TABLE evidence (something INTEGER)",
}


@pytest.fixture(params=sorted(VECTORS.glob("schema-*.sql")), ids=lambda path: path.stem)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A ledger as an earlier version left it: an attested enclave, closed and expired leases, stops, two limits."""
    made = tmp_path / "ledger.db"
    with sqlite3.connect(made) as connection:
        connection.executescript(request.param.read_text())
    connection.close()
    return made


def test_every_earlier_schema_has_a_ledger_to_test_with() -> None:
    """One vector for each version before this one."""
    found = {int(vector.stem.removeprefix("schema-")) for vector in VECTORS.glob("schema-*.sql")}
    assert found == set(range(1, SCHEMA_VERSION))
    # Version 1 existed on SQLite only.
    found = {int(vector.stem.removeprefix("postgresql-")) for vector in VECTORS.glob("postgresql-*.sql")}
    assert found == set(range(2, SCHEMA_VERSION))


def test_an_old_ledger_says_the_same_after_the_upgrade(old: Path) -> None:
    """Counters, log, balances, leases, stops and keys are where this version looks for them."""
    database = Database(Sqlite(old))
    database.submit(look).result(LONG_S)
    database.close()


def look(transaction: Transaction) -> None:
    entries = log.page(transaction, 0, 1000)
    head = transaction.head
    assert head.frontier.size == len(entries) > 32
    assert (head.epoch, head.generation) == (3, 0)
    assert head.clock_ms >= decode(entries[-1], Entry).at_ms
    leaves = [leaf_hash(entry) for entry in entries]
    for size in (1, 2, 31, 32, 33, len(leaves)):
        assert log.root_at(transaction, size) == root_of(leaves[:size])
    proof = log.proof(transaction, lambda at: inclusion_path(at, 5, len(leaves)))
    verify_inclusion(leaves[5], 5, len(leaves), proof, head.frontier.root())
    (instance,) = [one for one, _ in instances.listed(transaction, Since(attested_ms=0, heard_ms=0), 10)]
    assert instances.by_key(transaction, key_id_of(instance.identity_key)) == instance
    for role in PartyRole:
        for party in [one for one in parties.everyone(transaction) if one.role is role]:
            assert parties.by_key(transaction, role, key_id_of(party.key)) == party
    scopes = path(ModelId("sorter"), BorrowerId("hospital"), ConsumerId("ward7"))
    rows = budgets.rows_on(transaction, scopes, head.clock_ms)
    assert sorted((row.limit, row.posted, row.pending) for row in rows) == [(500, 40, 0), (1000, 40, 0)]
    (usage,) = leases.totals(transaction)
    assert (usage.used, usage.charged) == (UnitVector(inferences=36), UnitVector(inferences=40))
    bodies = [decode(raw, Entry).body for raw in entries]
    for kind in {log.kind_of(type(body)) for body in bodies if not isinstance(body, log.EVERYDAY)}:
        mine = [raw for raw, body in zip(entries, bodies, strict=True) if log.kind_of(type(body)) == kind]
        assert log.newest_of(transaction, kind, len(entries), 1000) == mine[::-1]
    # What was lost in a crash is held for ever, in the dimension that its model is metered in.
    held = UnitVector(inferences=4)
    assert leases.outstanding(transaction, instance.instance) == held
    assert leases.held_by_instance(transaction, instance.instance, ModelId("sorter")) == held
    assert leases.held_by_borrower(transaction, BorrowerId("hospital"), ModelId("sorter")) == held
    # Its newest renewal was answered, and is so again; of those before it nothing is known.
    newest = renewals.newest_answer(transaction, instance.instance)
    assert newest is not None
    assert newest.to(newest.answered.request_id, newest.request) is not None
    assert (newest.answered.shown, newest.answered.earlier) == ((0, 0), ())
    assert stops.epoch_of(transaction, StopTarget.CONSUMER, "ward7") is not None
    assert [stop.value for stop in stops.state_for(transaction, instance).stops] == ["ward7"]


def columns(connection: Connection) -> dict[str, list[tuple[str, str, bool]]]:
    seen = inspect(connection)
    return {
        table: sorted((str(c["name"]), str(c["type"]), bool(c["nullable"])) for c in seen.get_columns(table))
        for table in seen.get_table_names()
    }


def indices(connection: Connection) -> dict[str, list[tuple[str | None, tuple[str | None, ...]]]]:
    seen = inspect(connection)
    return {
        table: sorted((index["name"], tuple(index["column_names"])) for index in seen.get_indexes(table))
        for table in seen.get_table_names()
    }


def test_an_upgraded_ledger_has_the_tables_of_a_new_one(old: Path, tmp_path: Path) -> None:
    """The same columns, types and indices: the code has one schema to know."""
    Database(Sqlite(old)).close()
    Database(Sqlite(tmp_path / "new.db", create=True)).close()
    upgraded, fresh = (create_engine(f"sqlite:///{place}") for place in (old, tmp_path / "new.db"))
    with upgraded.connect() as one, fresh.connect() as other:
        assert columns(one) == columns(other)
        assert indices(one) == indices(other)
    upgraded.dispose()
    fresh.dispose()


@pytest.mark.parametrize("vector", sorted(VECTORS.glob("postgresql-*.sql")), ids=lambda path: path.stem)
def test_an_old_ledger_on_postgresql_is_brought_up_to_date(vector: Path, postgres_server: PostgresServer) -> None:
    """It says the same, and has the tables of a new one."""
    url, new = postgres_server.database(), postgres_server.database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(vector.read_bytes())
    database = Database(Postgres(url))
    database.submit(look).result(LONG_S)
    database.close()
    Database(Postgres(new, create=True)).close()
    upgraded, fresh = (create_engine(each.replace("postgresql:", "postgresql+psycopg:", 1)) for each in (url, new))
    with upgraded.connect() as one, fresh.connect() as other:
        assert columns(one) == columns(other)
        assert indices(one) == indices(other)
    upgraded.dispose()
    fresh.dispose()


@pytest.mark.parametrize("number", [b"\x00", "three", 2.5, 10**18])
def test_a_damaged_version_is_refused(number: object, tmp_path: Path) -> None:
    """A SQLite file can hold anything in any column; the refusal is typed, and lets go of the file."""
    Database(Sqlite(tmp_path / "ledger.db", create=True)).close()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("UPDATE head SET schema = ?", (number,))
    connection.close()
    for _ in range(2):
        with pytest.raises(ConfigurationError) as caught:
            Database(Sqlite(tmp_path / "ledger.db"))
        assert caught.value.reason == "schema_version"


def test_an_upgrade_that_fails_leaves_the_old_ledger(old: Path, request: pytest.FixtureRequest) -> None:
    """All of it or nothing: the older program can still open what it wrote."""
    with sqlite3.connect(old) as connection:
        connection.execute(BROKEN[request.node.callspec.id])
        before = list(connection.iterdump())
    connection.close()
    with pytest.raises(ConfigurationError) as caught:
        Database(Sqlite(old))
    assert caught.value.reason == "schema_upgrade"
    with sqlite3.connect(old) as connection:
        assert list(connection.iterdump()) == before
    connection.close()
