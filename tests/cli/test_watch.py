"""Keeping checkpoints, comparing them, and proving that receipts were paid for, on real custodians."""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import Result
from tests.cli.conftest import Place
from tests.cli.site import Site, do, make_site

from aigovtool.codec import encode
from aigovtool.crypto.sign import SigningKey
from aigovtool.custodian.service import views
from aigovtool.errors import ConfigurationError, LogError
from aigovtool.ledger.checkpoint import Checkpoint, parse_checkpoint, sign_checkpoint
from aigovtool.ledger.units import UnitVector
from aigovtool.operator.audit_file import write_audit_file
from aigovtool.testing.simulated_tee.attester import DEFAULT_CHIP_ID
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
    assert place.run("stop", "--all", "--wait", "0", "--reason", "restored").exit_code == 0
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
        (sign_checkpoint(msgspec.structs.replace(other, custodian="0" * 64), keys.log), "wrong_custodian"),
        ("aigovtool/rubbish", "checkpoint"),
    ):
        Path(site.file("old.txt")).write_text(note)
        with site.served() as place:
            refused = compare(place)
        told = " ".join(refused.stderr.split())
        assert (refused.exit_code, f"why: {reason}" in told, "fix: " in told) == (5, True, True), refused.output


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
    """Older checkpoints against an export: one still holds, one was lost as the log says, and that ends with 5."""
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
        printed = place.run("audit", "verify", place.file("log.jsonl"), *held, "--json")
        found = json.loads(printed.stdout)
        assert (printed.exit_code, found["checkpoints_held"], len(found["lost"])) == (5, 2, 1)
        assert found["machines"] == [{"tee": "simulated", "chip": DEFAULT_CHIP_ID.hex(), "admissions": 1}]
        text = place.run("audit", "verify", place.file("log.jsonl"), *held)
        assert DEFAULT_CHIP_ID.hex() in text.stdout
        assert (text.exit_code, "begins with all that 1 of your checkpoints" in text.stdout) == (5, True)
        assert "LOST" in text.stdout
        alone = place.run("audit", "verify", place.file("log.jsonl"), *held[2:])
        assert (alone.exit_code, "of your checkpoints" in alone.stdout) == (5, False)
        place.run("audit", "checkpoint", "-o", place.file("new.txt"))
        going_on = place.run("audit", "verify", place.file("log.jsonl"), *held[:2])
        assert going_on.exit_code == 0, going_on.output
        rolled = place.run("audit", "verify", place.file("before.jsonl"), "--seen", place.file("new.txt"))
    assert (rolled.exit_code, "rollback" in rolled.stderr) == (5, True), rolled.output


def test_a_reader_is_told_what_a_copy_alone_does_not_show(site: Site) -> None:
    """An older copy is genuine too: without a checkpoint or a witness nobody can say more than it does itself."""
    with site.served() as place:
        place.run("audit", "checkpoint", "-o", place.file("kept.txt"))
        assert place.run("audit", "export", "-o", place.file("log.jsonl")).exit_code == 0
        verify = ["audit", "verify", place.file("log.jsonl")]
        alone, compared = place.run(*verify), place.run(*verify, "--seen", place.file("kept.txt"))
    for found, told in ((alone, True), (compared, False)):
        assert (found.exit_code, "as its own checkpoint says" in found.stdout) == (0, told)
        assert ("only --seen or --witness tells" in found.stdout) is told


@pytest.mark.parametrize("reason", ["checkpoint", "wrong_custodian", "rewritten"])
def test_a_checkpoint_that_does_not_fit_a_copy_is_named_and_something_can_be_done(site: Site, reason: str) -> None:
    """Of many that a reader holds: which file, and what then."""
    keys = site.bench.custodian.keys
    other = Checkpoint(custodian=keys.custodian, size=3, root=b"\x07" * 32)
    notes = {
        "checkpoint": "aigovtool/rubbish",
        "wrong_custodian": sign_checkpoint(msgspec.structs.replace(other, custodian="0" * 64), keys.log),
        "rewritten": sign_checkpoint(other, keys.log),
    }
    Path(site.file("bad.txt")).write_text(notes[reason])
    with site.served() as place:
        place.run("audit", "checkpoint", "-o", place.file("kept.txt"))
        assert place.run("audit", "export", "-o", place.file("log.jsonl")).exit_code == 0
        held = ["--seen", place.file("kept.txt"), "--seen", place.file("bad.txt")]
        refused = place.run("audit", "verify", place.file("log.jsonl"), *held)
    told = " ".join(refused.stderr.split())
    assert (refused.exit_code, f"why: {reason}" in told, "fix: " in told) == (5, True, True), refused.output
    assert ("bad.txt" in told, "kept.txt" in told) == (True, False)


def test_what_a_custodian_leaves_out_makes_no_copy(site: Site) -> None:
    """Attack: fewer entries are sent than were signed. A file would look like a short log, until it is verified."""
    custodian, path = site.bench.custodian, Path(site.file("log.jsonl"))
    head = do(views.show_head(custodian))
    entries = do(views.show_log(custodian, 0, parse_checkpoint(head.checkpoint).size)).entries
    for sent in ([], entries[:-1], [*entries, entries[-1]]):
        with pytest.raises(LogError) as refused:
            write_audit_file(path, head, sent)
        assert refused.value.reason == "truncated"
        assert not list(path.parent.glob("*log.jsonl*"))
    assert write_audit_file(path, head, entries) == len(entries)


def test_a_name_that_no_disk_takes_is_a_wrong_name(site: Site) -> None:
    """And no bug of this program. One that a disk just takes is written: the unfinished copy has a shorter name."""
    head = do(views.show_head(site.bench.custodian))
    entries = do(views.show_log(site.bench.custodian, 0, parse_checkpoint(head.checkpoint).size)).entries
    for name in ("a" * 255, "\N{CJK UNIFIED IDEOGRAPH-4E00}" * 85):
        assert write_audit_file(Path(site.file(name)), head, entries) == len(entries)
    with pytest.raises(ConfigurationError) as refused:
        write_audit_file(Path(site.file("a" * 256)), head, entries)
    assert refused.value.reason == "unwritable_audit_file"
    with site.served() as place:
        for words in (("export", "-o"), ("checkpoint", "-o"), ("verify",)):
            found = place.run("audit", *words, place.file("a" * 300))
            assert (found.exit_code, "fix: " in found.stderr) == (2, True), found.output


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
        assert "key_set_rollback" in place.run("receipt", "prove", str(receipt), *own, "--key-set", "2").output
        assert place.run("borrower", "add", "clinic", "-o", place.file("clinic.json")).exit_code == 0
        stranger = place.run("receipt", "prove", str(receipt), "--credential", place.file("clinic.json"))
        assert (stranger.exit_code, "no_such_lease" in stranger.stderr) == (3, True)
    offline = site.place.run("receipt", "prove", str(receipt), *own, "--proof", site.file("proof.json"))
    newer = ("--proof", site.file("proof.json"), "--key-set", "2")
    assert "key_set_rollback" in site.place.run("receipt", "prove", str(receipt), *own, *newer).output
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
