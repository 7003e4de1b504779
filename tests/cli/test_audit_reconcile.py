"""Reconciling a copy of the log with receipts, on real custodians."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result
from tests.cli.conftest import Place
from tests.cli.site import Site, do, make_site
from tests.cli.test_watch import settled

from aigovtool.codec import encode
from aigovtool.consumer.receipts import SavedReceipt
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.ledger.receipt import KIND, sign_batch
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol.messages import Report
from aigovtool.transport.server import bind_loopback


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A custodian with two operators and one enclave, on SQLite."""
    with bind_loopback() as listener:
        made = make_site(tmp_path, listener, None)
        yield made
        made.bench.custodian.database.close()


def saved(place: Place, receipts: list[SavedReceipt]) -> list[str]:
    """Write receipts into a directory, beside a file that is none."""
    directory = Path(place.file("receipts"))
    directory.mkdir(exist_ok=True)
    (directory / "readme.txt").write_text("no receipt")
    for number, receipt in enumerate(receipts):
        (directory / f"{number}.json").write_bytes(encode(receipt))
    return ["--receipts", str(directory)]


def reconciled(place: Place, *words: str) -> Result:
    log = Path(place.file("log.jsonl"))
    if not log.exists():
        assert place.run("audit", "export", "-o", str(log)).exit_code == 0
    return place.run("audit", "reconcile", str(log), "--allow-simulated", *words)


def test_books_that_agree_are_told_so(site: Site) -> None:
    """Charged, reported and receipted are the same; under a consumer's policy offline, or the one in force."""
    lease = site.draw(5)
    receipts = site.receipts(lease, 3)
    site.close(lease, receipts)
    with site.served() as place:
        words = saved(place, receipts)
        online = reconciled(place, *words)
    offline = reconciled(site.place, *words, "--credential", site.file("ward7.json"), "--strict")
    for done in (online, offline):
        assert done.exit_code == 0, done.output
        assert "say the same, lease by lease" in done.stdout
        assert "SIMULATED" in done.stderr
        assert "readme.txt" in done.stdout
    found = json.loads(reconciled(site.place, *words, "--credential", site.file("ward7.json"), "--json").stdout)
    assert found["totals"] == [{"dimension": "inferences", "charged": 3, "reported": 3, "receipted": 3}]
    assert (found["contradicted"], found["findings"], len(found["skipped"])) == (False, [], 1)


def test_a_receipt_that_is_missing_is_a_gap_unless_it_must_be_there(site: Site) -> None:
    """Exit code 0, and 5 with --strict; the same for a lease that nobody closed."""
    lease = site.draw(5)
    receipts = site.receipts(lease, 3)
    site.close(lease, receipts)
    site.draw(2)
    with site.served() as place:
        words = saved(place, receipts[:2])
        found = reconciled(place, *words)
        strict = reconciled(place, *words, "--strict")
    assert found.exit_code == 0, found.output
    assert "No contradiction; 2 gaps" in found.stdout
    assert "number 3" in found.stdout
    assert strict.exit_code == 5


def test_books_that_contradict_each_other_end_with_5(site: Site) -> None:
    """An enclave that reported fewer answers than it signed receipts for; all findings are named."""
    lease = site.draw(5)
    receipts = site.receipts(lease, 3)
    site.close(lease, receipts[:1])
    with site.served() as place:
        found = reconciled(place, *saved(place, receipts))
    assert (found.exit_code, "beyond report" in found.stdout) == (5, True), found.output
    assert "CONTRADICTION" in found.stdout


def test_a_lease_that_two_copies_of_an_enclave_used_is_named(site: Site) -> None:
    """The custodian found out when one of them reported less than the other, and wrote it into the log."""
    lease = site.draw(5)
    for seq, used in ((1, 3), (2, 1)):
        report = Report(
            lease_id=lease, seq=seq, used=UnitVector(inferences=used), ok=used, err=0, final=False, receipts=""
        )
        do(site.enclave.renew(reports=(report,)))
    with site.served() as place:
        found = reconciled(place, *saved(place, site.receipts(lease, 3)), "--json")
    assert found.exit_code == 5, found.output
    assert {one["kind"] for one in json.loads(found.stdout)["findings"]} == {"forked", "unclosed"}


def test_receipts_of_what_a_restore_lost_contradict_the_log_and_the_restore_is_named(site: Site) -> None:
    """Whoever reads the contradiction is told of the restore, and what operators charged for it.

    One use is charged to several budgets, so they are listed and never added up.
    """
    with site.served() as place:
        words = ["--model", "sorter", "--borrower", "hospital"]
        assert place.run("budget", "set", "100", *words).exit_code == 0
    copy = site.copy()
    lease = site.draw(5)
    receipts = site.receipts(lease, 2)
    site.close(lease, receipts)
    copy.restore()
    site.show()
    with site.served() as place:
        settled(place)
        found = reconciled(place, *saved(place, receipts))
        document = json.loads(reconciled(place, "--receipts", place.file("receipts"), "--json").stdout)
    assert (found.exit_code, "unknown lease" in found.stdout) == (5, True), found.output
    assert "names a restore" in found.stdout
    assert "2 receipts verify" in found.stdout
    charged = [(one["budget"], one["window"], one["dimension"], one["units"]) for one in document["charged_for_lost"]]
    assert sorted(charged) == [
        ("sorter", "lifetime", "inferences", 1_000),
        ("sorter / hospital", "lifetime", "inferences", 100),
    ]
    for row in ("sorter / hospital", "1,000"):
        assert row in found.stdout
    assert "1,100" not in found.stdout


def test_a_forged_receipt_is_a_finding_and_counts_nowhere(site: Site) -> None:
    """Signed by a key that no evidence binds, or by a simulated TEE that was not asked for."""
    lease = site.draw(5)
    (good,) = site.receipts(lease, 1)
    site.close(lease, [good])
    other = SigningKey.generate()
    statement = msgspec.structs.replace(good.signed.receipt, units=UnitVector(inferences=4), sequence=2)
    (signed,) = sign_batch([statement], statement.instance, other)
    forged = msgspec.structs.replace(good, signed=signed, identity_key=other.public.raw)
    with site.served() as place:
        words = saved(place, [good, forged])
        found = reconciled(place, *words)
        assert (found.exit_code, "invalid receipt" in found.stdout) == (5, True), found.output
        plain: list[Any] = ["audit", "reconcile", place.file("log.jsonl"), *words, "--json"]
        refused = place.run(*plain)
    document = json.loads(refused.stdout)
    assert (refused.exit_code, document["receipts"]) == (5, 0)
    assert {one["kind"] for one in document["findings"]} == {"invalid_receipt", "missing"}


def test_a_signature_over_no_batch_is_a_finding_too(site: Site) -> None:
    """The attested key itself signed it: the reconciliation goes on to its end all the same."""
    lease = site.draw(5)
    good, other = site.receipts(lease, 2)
    site.close(lease, [good, other])
    batch = seal(KIND, {"hello": 1}, site.enclave.identity)
    forged = msgspec.structs.replace(other, signed=msgspec.structs.replace(other.signed, batch=batch))
    with site.served() as place:
        found = reconciled(place, *saved(place, [good, forged]), "--json")
    assert found.exit_code == 5, found.output
    kinds = [one["kind"] for one in json.loads(found.stdout)["findings"]]
    assert kinds == ["invalid_receipt", "missing"]


def test_whatever_a_directory_holds_besides_receipts_is_named(site: Site) -> None:
    """A directory below it, a pipe, a link to nowhere, an odd name: a reader may have meant them to be read."""
    with site.served() as place:
        words = saved(place, [])
        directory = Path(place.file("receipts"))
        (directory / "more").mkdir()
        os.mkfifo(directory / "pipe")
        (directory / "nowhere").symlink_to("gone.json")
        (directory / "loop").symlink_to("loop")
        (directory / os.fsdecode(b"odd-\xff")).write_text("no receipt")
        found = json.loads(reconciled(place, *words, "--json").stdout)
    names = [Path(one).name for one in found["skipped"]]
    assert sorted(names) == ["loop", "more", "nowhere", "odd-\\udcff", "pipe", "readme.txt"]


def test_a_path_that_cannot_be_looked_at_is_a_wrong_path(site: Site) -> None:
    """A name that no file system takes, and a link that leads to itself."""
    Path(site.file("loop")).symlink_to("loop")
    with site.served() as place:
        for name, why in (
            ("x" * 300, "bad_path"),
            ("loop", "unreadable_receipt"),
            ("ward7.json/below", "unreadable_receipt"),
        ):
            refused = reconciled(place, "--receipts", place.file(name))
            assert (refused.exit_code, why in refused.stderr) == (2, True), refused.output


@pytest.mark.parametrize(("mode", "what"), [(0o300, "not readable"), (0o600, "unreadable_receipt")])
def test_a_directory_that_may_not_be_read_is_a_wrong_path(site: Site, mode: int, what: str) -> None:
    """Neither an empty directory nor a bug of this program; also where its names can be read and nothing else."""
    # Root may read every directory, unless it gives that up.
    drop = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    with site.served() as place:
        words, directory = saved(place, []), Path(place.file("receipts"))
        directory.chmod(mode)
        exported = place.file("log.jsonl")
        assert place.run("audit", "export", "-o", exported).exit_code == 0
        command = [*drop, sys.executable, "-m", "aigovtool", "audit", "reconcile", exported, *words]
        env = {**os.environ, "AIGOVTOOL_OPERATOR": str(place.operator)}
        refused = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        directory.chmod(0o700)
    assert (refused.returncode, what in refused.stderr) == (2, True), refused.stderr


def test_what_is_named_as_a_receipt_must_be_one(site: Site) -> None:
    """In a directory it is skipped and said; named itself it is an error, and so is nothing at all."""
    with site.served() as place:
        saved(place, [])
        named = reconciled(place, "--receipts", place.file("receipts/readme.txt"))
        nothing = reconciled(place, "--receipts", place.file("nowhere"))
    assert (named.exit_code, "--save-receipt" in named.stderr) == (5, True)
    assert (nothing.exit_code, "unreadable_receipt" in nothing.stderr) == (2, True)
