"""Set up what every test shares: reproducible property tests, and one PostgreSQL server for all that need one."""

import os
import shutil
from collections.abc import Iterator
from functools import cache
from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from tests.networks import own_clocks_work, own_network_works
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


@pytest.fixture(scope="session", autouse=True)
def unbound() -> Iterator[None]:
    """Verbs that a test runs in this process do not forbid it core files: that would hold for all that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aigovtool.cli.app.keep_private", lambda: None)
        yield


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


#: Fixtures that need something beside Python.
_NEEDED_BY: Final = {"browser": "chromium", "postgres_server": "postgresql", "traced": "strace"}
#: What a machine for tests may lack: it takes rights that a container does not always give.
_RIGHTS: Final = {"root", "namespaces", "clocks"}


@cache
def _missing() -> dict[str, str]:
    """Return what tests need that is not here, each with the words that tell of it."""
    missing = {} if find_binaries() else {"postgresql": _NO_SERVER}
    for tool in ("chromium", "curl", "gcc", "strace"):
        if shutil.which(tool) is None:
            missing[tool] = f"{tool} is not installed (apt install {tool}): the tests that need it are left out"
    if not own_network_works():
        missing["namespaces"] = "this user can make no network namespace: tests with several networks are left out"
    if not own_clocks_work():
        missing["clocks"] = "this user can make no time namespace: tests with several clocks are left out"
    if os.geteuid() != 0:
        missing["root"] = "not run as root: tests that read another process's memory, or lay cables, are left out"
    return missing


def _needs(item: pytest.Item) -> set[str]:
    """Return what a test needs beside Python."""
    needed = {str(one) for mark in item.iter_markers("needs") for one in mark.args}
    needed |= {what for fixture, what in _NEEDED_BY.items() if fixture in getattr(item, "fixturenames", ())}
    return needed | ({"postgresql"} if "postgresql" in item.nodeid else set())


def pytest_report_header() -> list[str]:
    """Say at the top what is missing here."""
    return list(_missing().values())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that need what is not here, and say so; in CI a tool that is missing is an error."""
    missing = _missing()
    tools = [words for what, words in missing.items() if what not in _RIGHTS]
    if tools and os.environ.get("CI"):
        raise pytest.UsageError("; ".join(tools))
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        (left_out if _needs(item) & missing.keys() else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept
