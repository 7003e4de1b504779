"""The verb that copies a ledger: to a new file, with what else must be kept, or a refusal that says what to do."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.site import Site, make_site

from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.sqlite import Sqlite
from aigovtool.transport.server import bind_loopback


@pytest.fixture
def site(tmp_path: Path, ledger: str | None) -> Iterator[Site]:
    """A custodian with one enclave, on each store."""
    with bind_loopback() as listener:
        made = make_site(tmp_path, listener, ledger)
        yield made
        made.bench.custodian.database.close()


def test_a_ledger_is_copied_by_its_operator(site: Site) -> None:
    """On SQLite to a private file that a custodian can open; on PostgreSQL refused with its own programs' names."""
    path = Path(site.file("ledger copy.db"))
    with site.served() as place:
        site.draw(5)
        result = place.run("custodian", "backup", str(path))
        if site.ledger is not None:
            assert (result.exit_code, "pg_dump" in result.stderr, path.exists()) == (3, True, False)
            return
        assert result.exit_code == 0, result.output
        for words in ("verified", "keys/", "custodian.json", "packages/", "root key", "aigovtool audit checkpoint"):
            assert words in result.stdout
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        document = place.document("custodian", "backup", site.file("second.db"))
        assert document["entries"] == len(place.document("audit", "list")["entries"])
        assert len(document["not_in_it"]) == 3
    Database(Sqlite(path)).close()


def test_a_copy_never_goes_over_another_file(site: Site) -> None:
    """Said before the custodian is asked."""
    path = Path(site.file("ledger.db"))
    path.write_bytes(b"something")
    for target, reason in ((path, "file_exists"), (Path(site.file("nowhere/ledger.db")), "no_directory")):
        refused = site.place.run("custodian", "backup", str(target))
        assert (refused.exit_code, reason in refused.stderr) == (2, True)
    assert path.read_bytes() == b"something"
