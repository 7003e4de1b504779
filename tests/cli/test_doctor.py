"""What `aigovtool doctor` finds: the machine, the SQLite that is loaded, and a custodian's ledger and certificate."""

import json
import resource
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import Result
from tests.cli.test_certificate import put
from tests.postgres_server import PostgresServer

from aigovtool.cli.doctor import sqlite as doctor_sqlite
from aigovtool.cli.doctor import verb
from aigovtool.cli.doctor.check import Check
from aigovtool.cli.doctor.sqlite import has_defect
from aigovtool.crypto.memory import LOCK_FIX
from aigovtool.custodian import clock
from aigovtool.custodian.app import initialise
from aigovtool.enclave import memory

Run = Callable[..., Result]
OLD, NEW = (3, 51, 2), (3, 51, 3)


def checks(run: Run, *arguments: str) -> dict[str, Any]:
    result = run("doctor", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return {check["name"]: check for check in json.loads(result.stdout)["checks"]}


def test_doctor_looks_at_versions_kernel_and_tees(run: Run) -> None:
    """One line each, with a standing."""
    found = checks(run)
    expected = {"python", "openssl", "sqlite", "landlock", "memfd", "tee sev-snp", "tee tdx", "tee sgx", "tee nitro"}
    assert expected <= set(found)
    assert {check["standing"] for check in found.values()} <= {"ok", "missing", "note"}
    assert run("doctor").exit_code == 0


@pytest.mark.parametrize(
    ("hard", "standing", "said"),
    [(resource.RLIM_INFINITY, "ok", "any amount"), (8 << 20, "note", f"8192 KiB: {LOCK_FIX}")],
)
def test_whether_memory_can_be_locked_is_said(
    run: Run, monkeypatch: pytest.MonkeyPatch, hard: int, standing: str, said: str
) -> None:
    """With what to do about it: a server that cannot goes on without."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64 << 10, hard))
    found = checks(run)["locked memory"]
    assert (found["standing"], found["found"]) == (standing, said)


@pytest.mark.parametrize(
    ("code", "abi", "standing", "said"),
    [
        ("print('yes', end='')", 3, "ok", "from files of their own"),
        ("print('here', end='')", 3, "note", "all capabilities of this user: allow user namespaces"),
        ("print('no', end='')", 3, "note", "from buffers, which takes more time and memory: allow user and mount"),
        ("1 / 0", 3, "note", "leave root CAP_SETFCAP"),
        ("print('yes', end='')", 2, "note", "takes landlock"),
    ],
)
def test_where_engines_load_models_from_is_tried(
    run: Run, monkeypatch: pytest.MonkeyPatch, code: str, standing: str, said: str, *, abi: int
) -> None:
    """What the machine allows is what is said; it is of the doctor's user."""
    monkeypatch.setattr(verb, "_TRY_FILES", ("-c", code))
    monkeypatch.setattr(verb, "_landlock_abi", lambda: abi)
    found = checks(run)["files in memory"]
    assert (found["standing"], said in found["found"]) == (standing, True)


@pytest.mark.parametrize(
    ("has", "standing", "said"),
    [
        (64, "ok", "64.0 GiB: any enclave"),
        (8, "ok", "8.0 GiB: an enclave holds less"),
        (2, "note", "2.0 GiB: too little"),
    ],
)
def test_what_memory_is_enough_for_is_said(
    run: Run, monkeypatch: pytest.MonkeyPatch, has: int, standing: str, said: str
) -> None:
    """An enclave on a small machine serves, but the largest requests could end it."""
    monkeypatch.setattr(memory, "_memory_bytes", lambda _: has << 30)
    found = checks(run)["memory"]
    assert (found["standing"], found["found"].startswith(said)) == (standing, True), found


# --- SQLite -------------------------------------------------------------------------------------------


def test_the_sqlite_that_is_loaded_is_named() -> None:
    """The library that runs, not the one that Python was built with, and where it is."""
    found = doctor_sqlite.loaded()
    with closing(sqlite3.connect(":memory:")) as connection:
        (version,) = connection.execute("SELECT sqlite_version()").fetchone()
    assert found.found.startswith(f"{version} of 20")
    assert "/" in found.found
    assert (found.standing == "note") is has_defect(sqlite3.sqlite_version_info)
    assert ("WAL-reset" in found.found) is has_defect(sqlite3.sqlite_version_info)


@pytest.mark.parametrize(
    ("version", "defect"),
    [((3, 6, 23), False), ((3, 7, 0), True), ((3, 40, 1), True), (OLD, True), (NEW, False), ((3, 52, 0), False)],
)
def test_the_versions_with_the_defect(version: tuple[int, ...], *, defect: bool) -> None:
    """From 3.7.0, which brought WAL, to 3.51.2."""
    assert has_defect(version) is defect


def found(path: Path, version: tuple[int, ...] = OLD) -> dict[str, Check]:
    return {check.name: check for check in doctor_sqlite.ledger(path, version)}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The directory of a custodian that does not serve."""
    made = tmp_path / "custodian"
    initialise(made, url="https://localhost:1", hosts=["localhost"], operator="alice", allow_simulated=False)
    return made


@pytest.mark.parametrize(
    ("version", "why"), [(OLD, "needs a second connection, which is refused"), (NEW, "is not in it")]
)
def test_a_ledger_in_wal_mode_is_safe_and_why_is_said(version: tuple[int, ...], why: str, home: Path) -> None:
    """With the defect because of the one connection, without it because of the version."""
    before = sorted(path.name for path in home.iterdir())
    told = found(home / "ledger.db", version)
    assert (told["journal"].standing, why in told["journal"].found) == ("ok", True)
    assert "no custodian holds it" in told["ledger"].found
    assert told["file system"].standing == "ok"
    assert sorted(path.name for path in home.iterdir()) == before


def test_a_ledger_in_another_mode_is_noted(home: Path) -> None:
    """Somebody's tool changed it; the custodian changes it back."""
    with closing(sqlite3.connect(home / "ledger.db")) as ledger:
        ledger.execute("PRAGMA journal_mode=DELETE")
    told = found(home / "ledger.db")["journal"]
    assert (told.standing, "rollback journal" in told.found) == ("note", True)


@pytest.mark.parametrize(
    ("kind", "standing"), [("ext4", "ok"), ("nfs4", "wrong"), ("virtiofs", "wrong"), ("unknown", "note")]
)
def test_a_file_system_whose_locks_are_not_known_to_hold_is_not_called_well(
    kind: str, standing: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk of another machine is wrong; where the kernel does not say, it is for a person to look."""
    monkeypatch.setattr(doctor_sqlite, "_mount", lambda _: (kind, "/somewhere"))
    assert found(home / "ledger.db")["file system"].standing == standing


def test_what_is_no_ledger_is_wrong_and_what_is_not_there_is_missing(tmp_path: Path) -> None:
    """Neither is a crash."""
    assert found(tmp_path / "ledger.db")["ledger"].standing == "missing"
    (tmp_path / "ledger.db").write_bytes(b"something else")
    assert found(tmp_path / "ledger.db")["ledger"].standing == "wrong"


# --- A custodian --------------------------------------------------------------------------------------


def test_a_custodian_is_looked_at_in_its_directory(home: Path, run: Run) -> None:
    """Ledger, journal, file system, certificate, and that the root key is still here; another directory is refused."""
    told = checks(run, str(home))
    assert {name: told[name]["standing"] for name in ("ledger", "journal", "file system", "tls certificate")} == {
        "ledger": "ok",
        "journal": "ok",
        "file system": "ok",
        "tls certificate": "ok",
    }
    assert (told["root key"]["standing"], "offline" in told["root key"]["found"]) == ("note", True)
    (home / "offline" / "root.key").unlink()
    assert checks(run, str(home))["root key"]["standing"] == "ok"
    refused = run("doctor", str(home.parent))
    assert (refused.exit_code, "no_custodian" in refused.stderr) == (2, True)


@pytest.mark.parametrize(("days", "standing"), [(31, "ok"), (29, "note"), (-1, "wrong")])
def test_the_end_of_the_certificate_is_said(days: int, standing: str, home: Path, run: Run) -> None:
    """From 30 days before; one that has ended is to be mended."""
    put(home, days=days)
    told = checks(run, str(home))["tls certificate"]
    assert told["standing"] == standing
    assert (f"aigovtool custodian certificate {home} --renew" in told["found"]) is (standing != "ok")
    assert ("To be mended: tls certificate." in run("doctor", str(home)).stdout) is (standing == "wrong")
    (home / "keys" / "tls.pem").unlink()
    assert checks(run, str(home))["tls certificate"]["standing"] == "wrong"


def on_server(tmp_path: Path, address: str) -> Path:
    made = tmp_path / "custodian"
    initialise(
        made,
        url="https://localhost:1",
        hosts=["localhost"],
        operator="alice",
        allow_simulated=False,
        ledger=address,
    )
    return made


def test_a_ledger_on_postgresql_is_described_by_its_server(
    tmp_path: Path, postgres_server: PostgresServer, run: Run
) -> None:
    """Version, whether the connection is encrypted, and what makes it unfit; there is no journal mode to speak of."""
    address = postgres_server.database()
    told = checks(run, str(on_server(tmp_path, address)))
    assert "journal" not in told
    with psycopg.connect(address) as connection:
        (version,) = connection.execute("SHOW server_version").fetchone() or ("",)
    assert told["ledger"]["found"].startswith(f"PostgreSQL {version}")
    assert (told["ledger"]["standing"], "not encrypted" in told["ledger"]["found"]) == ("note", True)


@pytest.mark.parametrize(
    ("ahead_s", "expected"),
    [
        (0, ("ok", "as that of the ledger's server")),
        (7_230, ("wrong", "2 h ahead of that of the ledger's server: set whichever is wrong right")),
        (-7_230, ("wrong", "2 h behind that of the ledger's server: set whichever is wrong right")),
    ],
)
def test_a_clock_that_a_custodian_would_not_believe_is_wrong(
    ahead_s: int, expected: tuple[str, str], tmp_path: Path, postgres_server: PostgresServer, run: Run
) -> None:
    """By the clock of the ledger's server."""
    home = on_server(tmp_path, postgres_server.database())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "system_time_ms", lambda: time.time_ns() // 1_000_000 + ahead_s * 1_000)
        told = checks(run, str(home))["clock"]
        people = run("doctor", str(home)).stdout
    assert (told["standing"], told["found"]) == expected
    assert ("To be mended: clock." in people) is (expected[0] == "wrong")


def test_a_server_that_is_not_fit_for_a_ledger_is_wrong(
    tmp_path: Path, postgres_server: PostgresServer, run: Run
) -> None:
    """An empty database is no ledger, nor is one that does not answer; the rest is looked at all the same."""
    address = postgres_server.database()
    home = on_server(tmp_path, address)
    settings = home / "custodian.json"
    content = settings.read_bytes()
    for other, why in (
        (postgres_server.database(), "no ledger in this database"),
        ("postgresql://nobody@127.0.0.1:1/none", "cannot be opened"),
    ):
        settings.write_bytes(content.replace(address.encode(), other.encode()))
        told = checks(run, str(home))
        assert (told["ledger"]["standing"], why in told["ledger"]["found"]) == ("wrong", True)
        assert told["tls certificate"]["standing"] == "ok"
