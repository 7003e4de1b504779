"""PostgreSQL: several custodians, one writer at a time; whoever freezes or crashes loses its turn, not the ledger."""

import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool
from tests.custodian.store.conftest import LONG_S, Gate, names, put
from tests.postgres_server import PostgresServer

from aigovtool.custodian.store import facts, postgres
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.postgres import Postgres, parse_url, require_empty
from aigovtool.custodian.store.schema import SCHEMA_VERSION
from aigovtool.custodian.store.transaction import CHANNEL, Transaction
from aigovtool.errors import ConfigurationError, StorageError

OLD = Path(__file__).resolve().parents[2] / "vectors" / "ledger" / "postgresql-2.sql"


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    return postgres_server.database()


@pytest.fixture
def pair(url: str) -> Iterator[tuple[Database, Database]]:
    """Two custodians' views of one ledger."""
    first = Database(Postgres(url, create=True))
    second = Database(Postgres(url))
    yield first, second
    first.close()
    second.close()


def test_two_custodians_never_write_at_the_same_time(pair: tuple[Database, Database]) -> None:
    """While one is in the middle of a transaction the other's job waits, and then sees all that the first did."""
    first, second = pair
    gate = Gate(first)
    ended = threading.Event()
    waiting = second.submit(facts.next_epoch)
    waiting.add_done_callback(lambda _: ended.set())
    assert not ended.wait(0.3)
    mine = first.submit(facts.next_epoch)
    gate.open()
    assert {waiting.result(LONG_S), mine.result(LONG_S)} == {1, 2}


def test_epochs_of_two_custodians_are_never_given_out_twice(pair: tuple[Database, Database]) -> None:
    """Two hundred jobs from either side at once: two hundred different epochs, without a gap."""
    futures = [one.submit(facts.next_epoch) for _ in range(100) for one in pair]
    assert sorted(future.result(LONG_S) for future in futures) == list(range(1, 201))


def test_a_frozen_custodian_loses_its_turn(pair: tuple[Database, Database]) -> None:
    """It holds the lock and says nothing: the server ends its transaction, the others go on, and it learns of it."""
    frozen, other = pair

    def freeze(transaction: Transaction) -> None:
        facts.put(transaction, "frozen", 1)
        # What a process that is stopped does: nothing. (The promise is 5 s; the statement keeps the test short.)
        transaction.execute(text("SET LOCAL idle_in_transaction_session_timeout = 200"))
        assert other.submit(facts.next_epoch).result(LONG_S) == 1

    assert isinstance(frozen.submit(freeze).exception(LONG_S), StorageError)
    assert names(other) == set()
    assert frozen.submit(facts.next_epoch).result(LONG_S) == 2


def test_a_killed_server_is_found_again(url: str, postgres_server: PostgresServer) -> None:
    """What was not acknowledged is an error, what was is there after the restart, and the custodian goes on."""
    database = Database(Postgres(url, create=True))
    put(database, "before").result(LONG_S)
    postgres_server.kill()
    assert isinstance(put(database, "during").exception(LONG_S), StorageError)
    assert not database.failed.is_set()
    postgres_server.start()
    put(database, "after").result(LONG_S)
    assert names(database) == {"before", "after"}
    database.close()


def test_a_notice_travels_with_its_transaction(pair: tuple[Database, Database], url: str) -> None:
    """Other custodians hear of what is durable, in order, and never of what was refused."""
    first, _ = pair

    def refused(transaction: Transaction) -> None:
        transaction.notices.append(b"refused")
        raise ConfigurationError("no", reason="test")

    with psycopg.connect(url, autocommit=True) as listener:
        listener.execute(f"LISTEN {CHANNEL}")
        gate = Gate(first)
        jobs = [
            first.submit(lambda transaction: transaction.notices.append(b"one")),
            first.submit(refused),
            first.submit(lambda transaction: transaction.notices.append(b"two")),
        ]
        gate.open()
        assert [type(job.exception(LONG_S)) for job in jobs] == [type(None), ConfigurationError, type(None)]
        heard = [notice.payload for notice in listener.notifies(timeout=LONG_S, stop_after=2)]
    assert heard == ["one", "two"]


def test_an_upgrade_by_another_program_stops_this_one(pair: tuple[Database, Database]) -> None:
    """A custodian of an older version does not write into a ledger that a newer one has changed."""
    first, second = pair
    newer = text(f"UPDATE head SET schema = {SCHEMA_VERSION + 1}")
    first.submit(lambda transaction: transaction.execute(newer) and None).result(LONG_S)
    for one in (first, second):
        assert isinstance(put(one, "old").exception(LONG_S), StorageError)


def test_an_older_ledger_is_brought_up_to_date(url: str, postgres_server: PostgresServer) -> None:
    """Schema 2, the first on PostgreSQL, gets what a new ledger has: the same columns, types and constraints."""
    fresh = postgres_server.database()
    Database(Postgres(fresh, create=True)).close()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(OLD.read_bytes())
    Database(Postgres(url)).close()
    described = """
        SELECT table_name, column_name, data_type, character_maximum_length, is_nullable FROM information_schema.columns
        WHERE table_schema = 'public' ORDER BY 1, 2
    """
    # A condition of an index is the same in other words when it was read back from a dump: only the name is compared.
    indexed = "SELECT tablename, indexname FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2"
    for question in (described, indexed):
        answers = []
        for address in (url, fresh):
            with psycopg.connect(address) as connection:
                answers.append(connection.execute(question).fetchall())
        assert answers[0] == answers[1]
        assert {"witnesses", "usage_units", "log_kinds"} <= {row[0] for row in answers[0]}


def test_a_ledger_is_made_once(url: str) -> None:
    """A database that holds a ledger is not given a second one, and an empty one is not taken for a ledger."""
    with pytest.raises(ConfigurationError) as absent:
        Database(Postgres(url))
    assert absent.value.reason == "schema_version"
    require_empty(url)
    Database(Postgres(url, create=True)).close()
    for attempt in (lambda: Database(Postgres(url, create=True)), lambda: require_empty(url)):
        with pytest.raises(ConfigurationError) as occupied:
            attempt()
        assert occupied.value.reason == "database"


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
def test_a_server_that_may_lose_commits_is_refused(setting: str) -> None:
    """What the custodian has answered must survive the server's crash."""
    with PostgresServer() as careless:
        address = careless.database()
        with psycopg.connect(careless.url("postgres"), autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")
            connection.execute("SELECT pg_sleep(0.2)")
        with pytest.raises(ConfigurationError) as caught:
            Database(Postgres(address, create=True))
    assert caught.value.reason == "database_not_durable"


def test_a_server_that_is_too_old_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this one were older than the oldest that is known to be fit; the version is the server's own word."""
    monkeypatch.setattr(postgres, "_MIN_VERSION", 1_000_000)
    with pytest.raises(ConfigurationError) as caught:
        Database(Postgres(url, create=True))
    assert (caught.value.reason, caught.value.fix) == ("database_version", "use PostgreSQL 15 or newer")
    assert postgres.look(url).too_old
    monkeypatch.undo()
    assert not postgres.look(url).too_old


def test_commits_are_synchronous_whatever_the_server_is_set_to(url: str) -> None:
    """A role or database with asynchronous commits does not make ours so."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET synchronous_commit = off")
    database = Database(Postgres(url, create=True))
    shown = database.submit(lambda transaction: transaction.execute(text("SHOW synchronous_commit")).scalar_one())
    assert shown.result(LONG_S) == "on"
    database.close()


@pytest.mark.parametrize(
    ("default", "reason"),
    [
        ("synchronous_commit = off", "database_not_durable"),
        ("synchronous_commit = local", "database_not_durable"),
        ("default_transaction_isolation = 'repeatable read'", "database_isolation"),
        ("synchronous_commit = remote_apply", None),
    ],
)
def test_a_proxy_that_drops_what_the_custodian_asks_for_is_noticed(default: str, reason: str | None, url: str) -> None:
    """PgBouncer with `ignore_startup_parameters = options`: then the server's own defaults count."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET {default}")
    backend = Postgres(url, create=True)
    backend.engine = create_engine(parse_url(url), poolclass=NullPool)
    if reason is None:
        Database(backend).close()
        return
    with pytest.raises(ConfigurationError) as caught:
        Database(backend)
    assert caught.value.reason == reason
    assert "directly" in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("postgresql://custodian:secret@db/ledger", "password_in_url"),
        ("postgresql://db/ledger?password=secret", "password_in_url"),
        ("postgresql://db", "database_url"),
        ("mysql://db/ledger", "database_url"),
        ("ledger.db", "database_url"),
        ("", "database_url"),
    ],
)
def test_an_address_names_a_database_and_holds_no_password(address: str, reason: str) -> None:
    """Addresses come from command lines and appear in messages: a password has no place there."""
    with pytest.raises(ConfigurationError) as caught:
        parse_url(address)
    assert caught.value.reason == reason
    assert "secret" not in str(caught.value)


def test_a_server_that_does_not_answer_is_a_configuration_error() -> None:
    """No traceback, and a hint."""
    with pytest.raises(ConfigurationError) as caught:
        Database(Postgres("postgresql://custodian@/ledger?host=/nowhere"))
    assert caught.value.reason == "database"
    assert caught.value.fix
