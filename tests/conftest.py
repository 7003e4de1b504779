"""Set up what every test shares: reproducible property tests, and one PostgreSQL server for all that need one."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from tests.observations import Observed
from tests.postgres_server import PostgresServer, find_binaries

# Derandomized: the same commit tries the same examples everywhere. `--hypothesis-profile=deep` is for a long search.
settings.register_profile("default", derandomize=True, max_examples=100, deadline=None, database=None, print_blob=True)
settings.register_profile(
    "deep", max_examples=20_000, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")

_NO_SERVER = "no PostgreSQL server is installed (apt install postgresql): tests on PostgreSQL are left out"


@pytest.fixture(scope="session")
def running_server() -> Iterator[PostgresServer]:
    """A real server, started when the first test needs it."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_server(running_server: PostgresServer) -> Iterator[PostgresServer]:
    """The server, whose databases that a test got are emptied after it."""
    yield running_server
    running_server.reclaim()


@pytest.fixture
def observed(request: pytest.FixtureRequest) -> Observed:
    """Takes notes of what an attack met, for the table of attacks."""
    return Observed(request.node)


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest) -> str | None:
    """The address of an empty ledger on each kind of store; none for SQLite, which is a file beside the keys."""
    if request.param == "sqlite":
        return None
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.database()


def pytest_report_header() -> list[str]:
    """Say at the top what is missing here."""
    return [] if find_binaries() else [_NO_SERVER]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests on PostgreSQL where there is none, and say so; in CI that is an error, not an excuse."""
    if find_binaries() is not None:
        return
    if os.environ.get("CI"):
        raise pytest.UsageError(_NO_SERVER)
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        (left_out if "postgresql" in item.nodeid or "postgres_server" in item.fixturenames else kept).append(item)  # type: ignore[attr-defined]
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept
