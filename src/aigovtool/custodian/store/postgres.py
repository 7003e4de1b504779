"""PostgreSQL: one ledger for several custodians.

Each custodian writes through one connection. A transaction begins by locking the one row of `head`, so at any moment at
most one custodian writes, in whatever process: the order of effects, of the audit log and of commits is one and the
same, exactly as with SQLite, and no grant is ever made on a row that somebody else is changing. Jobs that wait at the
same time share a transaction, so the lock is taken once for many.

A custodian that freezes or loses its network while it holds the lock must not stop the others: the server ends a
transaction whose client is silent (`idle_in_transaction_session_timeout`) and a connection whose peer is gone (TCP
keepalives). What such a custodian had not committed never happened; nobody was answered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Final

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from aigovtool.custodian.store.migration import create_schema, has_schema, require_schema
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConfigurationError, ConflictError

#: The oldest server that the tests run against.
_MIN_VERSION: Final = 150_000
#: Any number, the same for all custodians: whoever creates or upgrades the schema holds this lock.
_SCHEMA_LOCK: Final = 0x4149474F56
#: Set on every connection, whatever the server's or the role's defaults are. Milliseconds.
_SETTINGS: Final = {
    "application_name": "aigovtool-custodian",
    "synchronous_commit": "on",
    "idle_in_transaction_session_timeout": "5000",
    "lock_timeout": "15000",
    "statement_timeout": "30000",
    "timezone": "UTC",
    "default_transaction_isolation": "read committed",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
_MUST_BE_ON: Final = ("fsync", "full_page_writes")
#: What `_SETTINGS` asks for and a proxy may have dropped: PgBouncer can be told to ignore what a client begins with.
_MUST_HOLD: Final = (
    ("synchronous_commit", ("on", "remote_apply"), "database_not_durable"),
    ("transaction_isolation", ("read committed",), "database_isolation"),
)


def parse_url(address: str) -> URL:
    """Return the address of a ledger, without a password: that belongs into a passfile or a service file.

    Raises:
        ConfigurationError: not a PostgreSQL address, or one with a password.
    """
    try:
        url = make_url(address)
    except ArgumentError:
        raise _bad_url("it is not an address") from None
    if url.drivername not in {"postgresql", "postgres"} or not url.database:
        raise _bad_url("it does not name a PostgreSQL database")
    if url.password is not None or "password" in url.query:
        raise ConfigurationError(
            "the address of the ledger holds a password",
            reason="password_in_url",
            fix="put it into a passfile (~/.pgpass, mode 0600) or a service file; better, use a client certificate",
        )
    return url.set(drivername="postgresql+psycopg")


def _bad_url(why: str) -> ConfigurationError:
    return ConfigurationError(
        f"the ledger's address cannot be used: {why}",
        reason="database_url",
        fix="for example postgresql://custodian@db.example/ledger?sslmode=verify-full",
    )


class Postgres:
    """The ledger in one database of a PostgreSQL server."""

    reconnects = True

    def __init__(self, address: str, *, create: bool = False) -> None:
        options = " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in _SETTINGS.items())
        self.engine: Engine = create_engine(
            parse_url(address), poolclass=NullPool, connect_args={"options": options, "connect_timeout": 5}
        )
        self._create = create

    def connect(self) -> Connection:
        """Open a connection and bring the schema up to date.

        Raises:
            ConfigurationError: no server, one that may lose commits, no ledger, a ledger that is there already when one
                is to be created, or one of a newer version of this program.
        """
        try:
            connection = self.engine.connect()
        except SQLAlchemyError as error:
            raise _unusable(error) from None
        try:
            _require_durable(connection)
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})"))
            if self._create and has_schema(connection):
                raise _occupied()
            if self._create:
                create_schema(connection)
            require_schema(connection)
            connection.commit()
            self._create = False  # from now on a new connection finds what this one made
        except SQLAlchemyError as error:
            connection.close()
            raise _unusable(error) from None
        except ConfigurationError:
            connection.close()
            raise
        return connection

    def begin(self, connection: Connection) -> Transaction:
        """Begin, and wait until no other custodian writes."""
        transaction = Transaction(connection)
        transaction.load_head(lock=True)
        return transaction

    def copy(self, connection: Connection, between: Callable[[], None]) -> BinaryIO:
        """Refuse: the server's own programs copy it consistently, and can lose less than any copy of ours.

        Raises:
            ConflictError: `backup_postgres`.
        """
        del connection, between
        raise ConflictError(
            "this ledger is on PostgreSQL, which has programs of its own for backups",
            reason="backup_postgres",
            fix="use `pg_dump --format=custom`; better, base backups (`pg_basebackup`) with continuous archiving: "
            "they lose less",
        )


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a ledger's server is: for people who look whether it is fit for one."""

    version: str
    encrypted: bool
    replica: bool
    has_ledger: bool
    #: Settings that are off and must be on: the server may lose what it has acknowledged.
    off: tuple[str, ...]
    too_old: bool
    #: What the server's clock shows.
    time_ms: int


def look(address: str) -> ServerFacts:
    """Return what the server at `address` is; nothing is changed there.

    Raises:
        ConfigurationError: not an address, or no server.
    """
    server = Postgres(address)
    try:
        with server.engine.connect() as connection:
            return ServerFacts(
                version=str(connection.execute(text("SHOW server_version")).scalar_one()),
                encrypted=bool(
                    connection.execute(text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")).scalar()
                ),
                replica=bool(connection.execute(text("SELECT pg_is_in_recovery()")).scalar_one()),
                has_ledger=has_schema(connection),
                off=tuple(
                    name for name in _MUST_BE_ON if connection.execute(text(f"SHOW {name}")).scalar_one() != "on"
                ),
                too_old=int(connection.execute(text("SHOW server_version_num")).scalar_one()) < _MIN_VERSION,
                time_ms=int(
                    connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one() * 1000
                ),
            )
    except SQLAlchemyError as error:
        raise _unusable(error) from None
    finally:
        server.engine.dispose()


def require_empty(address: str) -> None:
    """Look whether a ledger can be made at `address`, before anything else is made for it.

    Raises:
        ConfigurationError: not an address, no server, or a ledger is there already.
    """
    server = Postgres(address)
    try:
        with server.engine.connect() as connection:
            _require_durable(connection)
            if has_schema(connection):
                raise _occupied()
    except SQLAlchemyError as error:
        raise _unusable(error) from None
    finally:
        server.engine.dispose()


def _occupied() -> ConfigurationError:
    return ConfigurationError("this database holds a ledger already", reason="database", fix="name an empty database")


def _unusable(error: SQLAlchemyError) -> ConfigurationError:
    return ConfigurationError(
        f"the ledger cannot be opened: {str(getattr(error, 'orig', error)).strip()}",
        reason="database",
        fix="check the address, the role and the server",
    )


def _require_durable(connection: Connection) -> None:
    version = int(connection.execute(text("SHOW server_version_num")).scalar_one())
    if version < _MIN_VERSION:
        raise ConfigurationError(
            f"PostgreSQL {version // 10_000} is too old", reason="database_version", fix="use PostgreSQL 15 or newer"
        )
    for name in _MUST_BE_ON:
        if connection.execute(text(f"SHOW {name}")).scalar_one() != "on":
            raise ConfigurationError(
                f"the server runs with {name} off: it may lose what it has acknowledged",
                reason="database_not_durable",
                fix=f"set {name} = on",
            )
    for name, held, reason in _MUST_HOLD:
        shown = connection.execute(text(f"SHOW {name}")).scalar_one()
        if shown not in held:
            raise ConfigurationError(
                f"{name} is {shown} on this connection, although it was asked for as {held[0]}",
                reason=reason,
                fix="connect to the server directly, or have the proxy in between pass on the startup options",
            )
