"""`aigovtool custodian status` and `accept-time`: whether a custodian believes its clock, and that it is right."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Place, serving_of

from aigovtool.custodian import time_order, timekeeping
from aigovtool.custodian.app import initialise, open_custodian
from aigovtool.custodian.clock import MAX_OFF_MS, HostClock, system_time_ms
from aigovtool.transport.server import bind_loopback

DAY_MS = 86_400_000


@pytest.fixture
def home(tmp_path: Path) -> Iterator[tuple[Place, Path]]:
    """A custodian's directory, and a command line of its operator; nobody serves yet."""
    made = tmp_path / "custodian"
    with bind_loopback() as listener:
        url = f"https://localhost:{listener.getsockname()[1]}"
        initialise(made, url=url, hosts=["localhost"], operator="operator", allow_simulated=True)
        yield Place(tmp_path, made / "operator.json", listener), made


def test_the_status_says_whether_the_clock_is_believed(home: tuple[Place, Path]) -> None:
    """And in red, also to a program, that nothing is granted."""
    place, directory = home
    for ahead_ms, status in ((0, "serving"), (MAX_OFF_MS + DAY_MS, "clock_leapt")):
        custodian = open_custodian(directory)
        custodian.clock = HostClock(lambda ahead_ms=ahead_ms: system_time_ms() + ahead_ms)  # type: ignore[misc]
        custodian.database.submit(custodian.now).result()
        with serving_of(custodian, place.listener):
            shown = place.run("custodian", "status", "--json")
            assert json.loads(shown.stdout)["status"] == status
            assert json.loads(shown.stdout)["custodian"] == custodian.keys.custodian
            assert ("NOT BELIEVED" in shown.stderr) is bool(ahead_ms)
            assert status.replace("_", " ") in place.run("custodian", "status").stdout
        custodian.database.close()


def test_whoever_holds_the_directory_says_that_the_time_is_right(
    home: tuple[Place, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks first; then the ledger's time is this host's, once."""
    place, directory = home
    told_ms = system_time_ms() + MAX_OFF_MS + DAY_MS
    for module in (timekeeping, time_order):
        monkeypatch.setattr(module, "system_time_ms", lambda: told_ms)
    unasked = place.run("custodian", "accept-time", str(directory))
    assert (unasked.exit_code, "not_confirmed" in unasked.stderr) == (3, True)
    accepted = place.document("custodian", "accept-time", str(directory), "--yes")
    assert accepted["accepted_ms"] == told_ms
    assert MAX_OFF_MS < told_ms - accepted["before_ms"] < MAX_OFF_MS + 2 * DAY_MS
    again = place.run("custodian", "accept-time", str(directory), "--yes")
    assert (again.exit_code, "clock_not_ahead" in again.stderr) == (3, True)


def test_a_ledger_that_is_served_is_not_touched(home: tuple[Place, Path]) -> None:
    """On SQLite the custodian must be stopped first, and is told so."""
    place, directory = home
    custodian = open_custodian(directory)
    try:
        refused = place.run("custodian", "accept-time", str(directory), "--yes")
        assert (refused.exit_code, "database_locked" in refused.stderr) == (2, True)
    finally:
        custodian.database.close()
