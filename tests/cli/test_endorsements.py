"""`aigovtool endorsements`: fetched where there is a way to the vendor, and brought to who has none."""

import json
import time
from pathlib import Path

import pytest
from tests.attestation.tee.snp import maker as snp
from tests.cli.in_folder import done, refused, run
from tests.custodian.amd import LIST, MILAN, Amd
from tests.custodian.conftest import make_bench

from aigovtool.attestation.tee.fetched import Fetched
from aigovtool.attestation.tee.snp import authorities
from aigovtool.custodian.endorsements.vendor import VendorServices


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> Amd:
    """The network, and AMD's roots, are the test's own: everything between is the program's."""
    made = Amd(time.time_ns() // 1_000_000)

    async def fetch(services: VendorServices, url: str, now_ms: int) -> Fetched:
        del services
        return await made.fetch(url, now_ms)

    monkeypatch.setattr(VendorServices, "fetch", fetch)
    monkeypatch.setattr(authorities, "VENDOR", made.roots)
    return made


@pytest.fixture
def folder(tmp_path: Path, amd: Amd) -> Path:
    """A report, and the roots of whoever made its chain."""
    known = amd.roots[MILAN]
    (tmp_path / "report.bin").write_bytes(snp.report())
    (tmp_path / "roots.pem").write_bytes(snp.pem(known.ark, known.ask))
    return tmp_path


FETCH = ("endorsements", "fetch", "@report.bin", "--tee", "sev-snp", "-o", "@fetched.json")
VERIFY = ("evidence", "verify", "@report.bin", "--tee", "sev-snp", "--root", "@roots.pem")


def test_what_was_fetched_makes_a_bare_report_verifiable(amd: Amd, folder: Path) -> None:
    """On a machine with a network it is fetched, on one without it is used."""
    assert [one["address"] for one in done(folder, *FETCH)["answers"]] == [amd.leaf_url, LIST]
    without = run(folder, *VERIFY, "--json")
    assert json.loads(without.stdout)["reason"] == "leaf_missing"
    found = done(folder, *VERIFY, "--fetched", "@fetched.json")
    assert (found["genuine"], found["says"]["facts"]["revocation"]) == (True, "checked")
    assert refused(folder, *FETCH) == (2, "unwritable_file")
    draft = ("appraisal", "draft", *VERIFY[2:], "--fetched", "@fetched.json", "-o", "@policy.json")
    done(folder, *draft)
    assert done(folder, *VERIFY, "--fetched", "@fetched.json", "--policy", "@policy.json")["acceptable"]


def test_what_is_useful_may_be_missing_and_is_said(amd: Amd, folder: Path) -> None:
    """Without the certificate there is nothing to bring; without a list there is."""
    amd.gone = {LIST}
    shown = run(folder, *FETCH)
    assert shown.exit_code == 0
    assert f"not there, and not needed: {LIST}" in shown.stdout
    amd.gone = {amd.leaf_url}
    assert refused(folder, *FETCH[:-1], "@other.json") == (7, "not_at_vendor")
    assert not (folder / "other.json").exists()


def test_an_answer_that_is_not_the_vendors_is_not_written(amd: Amd, folder: Path) -> None:
    """A proxy's page, which would be carried to another machine."""
    amd.page = b"<html>please log in</html>"
    assert refused(folder, *FETCH) == (5, "certificate_encoding")
    assert not (folder / "fetched.json").exists()


def test_why_nothing_is_fetched_is_told(amd: Amd, folder: Path) -> None:
    """Nitro brings its chain; what cannot be read is no evidence; and a VLEK's certificate is its provider's."""
    (folder / "document.bin").write_bytes(b"x" * 100)
    fetch = ("endorsements", "fetch", "@document.bin", "-o", "@fetched.json", "--tee")
    assert refused(folder, *fetch, "nitro") == (3, "nothing_wanted")
    for tee, reason in (("sev-snp", "report_length"), ("tdx", "quote_tee")):
        result = run(folder, *fetch, tee)
        assert (result.exit_code, f"why:   {reason}" in result.stderr) == (5, True), result.stderr
        assert f"error: {folder / 'document.bin'}: " in result.stderr
    (folder / "document.bin").write_bytes(snp.report(kind="vlek"))
    assert refused(folder, *fetch, "sev-snp") == (3, "leaf_of_provider")
    assert amd.asked == []


def test_what_is_there_already_says_what_is_fetched(amd: Amd, folder: Path) -> None:
    """With a certificate it is not fetched again, and the list for its kind of key is."""
    (folder / "leaf.pem").write_bytes(snp.pem(amd.leaf))
    assert [one["address"] for one in done(folder, *FETCH, "--endorsements", "@leaf.pem")["answers"]] == [LIST]


def test_without_a_network_the_way_on_is_another_machine(amd: Amd, folder: Path) -> None:
    """Not the cache of a custodian: that is where the file goes that could not be made."""
    amd.away = True
    result = run(folder, *FETCH)
    assert result.exit_code == 7
    assert "fix:   run this where there is a network" in result.stderr
    (folder / "leaf.pem").write_bytes(snp.pem(amd.leaf))
    assert refused(folder, *FETCH, "--endorsements", "@leaf.pem") == (7, "vendor_unreachable")
    assert not (folder / "fetched.json").exists()


def test_a_custodian_without_a_network_is_fed_by_hand(amd: Amd, folder: Path) -> None:
    """Once, and while it serves; what is not the vendor's does not get in."""
    bench = make_bench(folder / "custodian")
    bench.custodian.database.close()
    done(folder, *FETCH)
    add = ("endorsements", "add", "@custodian", "@fetched.json")
    assert [one["address"] for one in done(folder, *add)["answers"]] == [amd.leaf_url, LIST]
    assert done(folder, *add)["answers"] == []
    shown = run(folder, *add)
    assert "2 were there already, as new or newer" in shown.stdout
    assert {one["address"] for one in done(folder, "endorsements", "list", "@custodian")["answers"]} == {
        amd.leaf_url,
        LIST,
    }
    page = (folder / "fetched.json").read_bytes().replace(b'"body": "', b'"body": "AAAA')
    (folder / "fetched.json").write_bytes(page)
    assert refused(folder, *add)[0] == 5
    assert refused(folder, "endorsements", "add", "@nowhere", "@fetched.json") == (2, "no_custodian")
    assert refused(folder, "endorsements", "add", "@custodian", "@report.bin") == (2, "bad_document")
