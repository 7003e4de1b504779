"""Keeping checkpoints, comparing them, and reconciling the log with receipts, on real custodians."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result
from tests.cli.conftest import Place
from tests.cli.site import Site, make_site

from aigovtool.codec import encode
from aigovtool.consumer.receipts import SavedReceipt
from aigovtool.crypto.sign import SigningKey
from aigovtool.ledger.checkpoint import Checkpoint, sign_checkpoint
from aigovtool.ledger.receipt import sign_batch
from aigovtool.ledger.units import UnitVector
from aigovtool.transport.server import bind_loopback


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A custodian with two operators and one enclave, on SQLite."""
    with bind_loopback() as listener:
        made = make_site(tmp_path, listener, None)
        yield made
        made.bench.custodian.database.close()


def settled(place: Place) -> None:
    """Have two operators settle the gap."""
    order = place.file("order.json")
    words = ["--charge-all", "--reason", "disk lost", "--save", order]
    assert place.run("custodian", "settle", *words).exit_code == 0
    assert place.run("cosign", order, "--yes", "--operator", place.file("bob.json")).exit_code == 0


def compare(place: Place, name: str = "old.txt", *more: str) -> Result:
    return place.run("audit", "compare", place.file(name), "--party", place.file("ward7.json"), *more)


# --- Checkpoints --------------------------------------------------------------------------------------


def test_a_consumer_watches_the_log_grow(site: Site) -> None:
    """With nothing but its own file: a checkpoint is kept, and the custodian proves that its log extends it."""
    with site.served() as place:
        party = ["--party", place.file("ward7.json")]
        kept = place.document("audit", "checkpoint", "-o", place.file("old.txt"), *party)
        assert Path(place.file("old.txt")).read_text() == kept["note"]
        for name in ("st-mary", "st-john"):
            assert place.run("borrower", "add", name, "-o", place.file(f"{name}.json")).exit_code == 0
        done = compare(place, "old.txt", "--json", "-o", place.file("new.txt"))
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert (found["entries_then"], found["entries"]) == (kept["entries"], kept["entries"] + 2)
        assert "nothing of it was changed or forgotten" in compare(place).stdout
        assert "nothing of it was changed or forgotten" in compare(place, "new.txt").stdout
        again = place.run("audit", "checkpoint", "-o", place.file("old.txt"), *party)
        assert (again.exit_code, "file_exists" in again.stderr) == (2, True)


def test_a_kept_checkpoint_finds_a_restored_ledger(site: Site) -> None:
    """No enclave is left to show it: a witness does, and the custodian grants nothing more."""
    copy = site.copy()
    site.draw(5)
    with site.served() as place:
        site_party = ["--party", place.file("ward7.json")]
        assert place.run("audit", "checkpoint", "-o", place.file("old.txt"), *site_party).exit_code == 0
    copy.restore()
    with site.served() as place:
        assert place.document("custodian", "gap")["forgotten"] is False
        refused = compare(place)
        assert (refused.exit_code, "rollback" in refused.stderr) == (5, True), refused.output
        assert "does not remember" in refused.stderr
        assert place.document("custodian", "gap")["forgotten"] is True
        settled(place)
        lost = compare(place)
        assert (lost.exit_code, "why:   lost" in lost.stderr) == (5, True), lost.output


def test_a_checkpoint_that_is_remembered_is_told_from_the_one_that_is_not(site: Site) -> None:
    """A gap that somebody else found is not this reader's contradiction."""
    with site.served() as place:
        place.run("audit", "checkpoint", "-o", place.file("old.txt"), "--party", place.file("ward7.json"))
    site.forget(5)
    with site.served() as place:
        told = compare(place)
    assert (told.exit_code, "the log extends your checkpoint" in told.stderr) == (7, True), told.output


def test_a_log_that_was_rewritten_is_found(site: Site) -> None:
    """Signed by the very log key, for a size that the log has long passed: other entries stood there."""
    keys = site.bench.custodian.keys
    other = Checkpoint(custodian=keys.custodian, size=3, root=b"\x07" * 32)
    for note, reason in (
        (sign_checkpoint(other, keys.log), "rollback"),
        (sign_checkpoint(other, SigningKey.generate()), "checkpoint"),
        (sign_checkpoint(msgspec.structs.replace(other, custodian="0" * 64), keys.log), "checkpoint"),
    ):
        Path(site.file("old.txt")).write_text(note)
        with site.served() as place:
            refused = compare(place)
        assert (refused.exit_code, reason in refused.stderr) == (5, True), refused.output


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"aigovtool/" + b"0" * 5000])
def test_what_is_no_checkpoint_is_refused(site: Site, content: bytes) -> None:
    """Before anything is asked."""
    Path(site.file("old.txt")).write_bytes(content)
    refused = compare(site.place)
    assert (refused.exit_code, "bad_checkpoint" in refused.stderr) == (2, True)
    assert compare(site.place, "nowhere.txt").exit_code == 2
    nobody = site.place.run("audit", "checkpoint", AIGOVTOOL_OPERATOR="")
    assert (nobody.exit_code, "no_party_file" in nobody.stderr) == (2, True)


def test_an_auditor_learns_what_a_restore_lost(site: Site) -> None:
    """Older checkpoints against an export: one still holds, one was lost, and the log itself says so."""
    with site.served() as place:
        place.run("audit", "checkpoint", "-o", place.file("kept.txt"))
    copy = site.copy()
    site.draw(5)
    with site.served() as place:
        place.run("audit", "checkpoint", "-o", place.file("lost.txt"))
        assert place.run("audit", "export", "-o", place.file("before.jsonl")).exit_code == 0
    copy.restore()
    site.show()
    with site.served() as place:
        settled(place)
        assert place.run("audit", "export", "-o", place.file("log.jsonl")).exit_code == 0
        held = ["--seen", place.file("kept.txt"), "--seen", place.file("lost.txt")]
        found = place.document("audit", "verify", place.file("log.jsonl"), *held)
        assert (found["checkpoints_held"], len(found["lost"])) == (2, 1)
        text = place.run("audit", "verify", place.file("log.jsonl"), *held).stdout
        assert "begins with all that 1 of your checkpoints" in text
        assert "LOST" in text
        place.run("audit", "checkpoint", "-o", place.file("new.txt"))
        rolled = place.run("audit", "verify", place.file("before.jsonl"), "--seen", place.file("new.txt"))
    assert (rolled.exit_code, "rollback" in rolled.stderr) == (5, True), rolled.output


# --- Reconciliation -----------------------------------------------------------------------------------


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


def test_receipts_of_what_a_restore_lost_contradict_the_log_and_the_restore_is_named(site: Site) -> None:
    """Whoever reads the contradiction is told of the restore, and what operators charged for it."""
    copy = site.copy()
    lease = site.draw(5)
    receipts = site.receipts(lease, 2)
    site.close(lease, receipts)
    copy.restore()
    site.show()
    with site.served() as place:
        settled(place)
        found = reconciled(place, *saved(place, receipts))
    assert (found.exit_code, "unknown lease" in found.stdout) == (5, True), found.output
    assert "names a restore" in found.stdout
    assert "operators charged 1,000 units for them" in found.stdout


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


def test_what_is_named_as_a_receipt_must_be_one(site: Site) -> None:
    """In a directory it is skipped and said; named itself it is an error, and so is nothing at all."""
    with site.served() as place:
        saved(place, [])
        named = reconciled(place, "--receipts", place.file("receipts/readme.txt"))
        nothing = reconciled(place, "--receipts", place.file("nowhere"))
    assert (named.exit_code, "--save-receipt" in named.stderr) == (5, True)
    assert (nothing.exit_code, "unreadable_receipt" in nothing.stderr) == (2, True)


# --- Proofs -------------------------------------------------------------------------------------------


def test_a_consumer_proves_that_its_receipt_was_paid_for(site: Site) -> None:
    """Rows, units and checkpoint; the saved proof verifies offline, an operator gets it too, a stranger does not."""
    lease = site.draw(5)
    receipt = Path(site.file("receipt.json"))
    (saved_receipt,) = site.receipts(lease, 1)
    receipt.write_bytes(encode(saved_receipt))
    own = ["--credential", site.file("ward7.json")]
    with site.served() as place:
        found = place.document("receipt", "prove", str(receipt), *own, "-o", place.file("proof.json"))
        assert found["debited"] == [
            {"budget": "sorter", "window": "lifetime", "dimension": "inferences", "from_ms": 0, "units": 5}
        ]
        assert place.run("receipt", "prove", str(receipt), "--credential", place.file("alice.json")).exit_code == 0
        assert place.run("borrower", "add", "clinic", "-o", place.file("clinic.json")).exit_code == 0
        stranger = place.run("receipt", "prove", str(receipt), "--credential", place.file("clinic.json"))
        assert (stranger.exit_code, "no_such_lease" in stranger.stderr) == (3, True)
    offline = site.place.run("receipt", "prove", str(receipt), *own, "--proof", site.file("proof.json"))
    assert (offline.exit_code, "was debited" in offline.stdout) == (0, True)
    assert lease in offline.stdout


def test_a_proof_about_something_else_proves_nothing(site: Site) -> None:
    """Another lease's proof, a receipt for more than the lease, a changed proof, a file that is none."""
    first, second = site.draw(5), site.draw(2)
    own = ["--credential", site.file("ward7.json")]
    receipts = {name: site.receipts(lease, 1)[0] for name, lease in (("first", first), ("second", second))}
    for name, one in receipts.items():
        Path(site.file(f"{name}.json")).write_bytes(encode(one))
    with site.served() as place:
        words = ["receipt", "prove", place.file("first.json"), *own, "-o", place.file("proof.json")]
        assert place.run(*words).exit_code == 0
    proof = Path(site.file("proof.json"))

    def offline(name: str) -> Result:
        return site.place.run("receipt", "prove", site.file(f"{name}.json"), *own, "--proof", str(proof))

    assert offline("first").exit_code == 0
    assert (offline("second").exit_code, "wrong_lease" in offline("second").stderr) == (5, True)
    big = msgspec.structs.replace(receipts["first"].signed.receipt, units=UnitVector(inferences=6))
    signed = msgspec.structs.replace(receipts["first"].signed, receipt=big)
    Path(site.file("big.json")).write_bytes(encode(msgspec.structs.replace(receipts["first"], signed=signed)))
    assert (offline("big").exit_code, "wrong_lease" in offline("big").stderr) == (5, True)
    content = json.loads(proof.read_bytes())
    content["proof"]["index"] += 1
    proof.write_text(json.dumps(content))
    assert (offline("first").exit_code, "inclusion" in offline("first").stderr) == (5, True)
    proof.write_text("{}")
    assert (offline("first").exit_code, "bad_proof" in offline("first").stderr) == (2, True)
