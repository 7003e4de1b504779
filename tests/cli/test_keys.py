"""The verbs for the custodian's own keys, and for certificates that parties renew."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from tests.cli.conftest import Place, serving_of

from aigovtool.codec import decode, encode
from aigovtool.crypto.identity import IdentityKind
from aigovtool.crypto.sign import SigningKey, VerifyKey
from aigovtool.crypto.x509 import from_pem, is_issued_by, issue_client_certificate, new_authority, to_pem
from aigovtool.custodian import keys as custodian_keys
from aigovtool.custodian.app import initialise, open_custodian
from aigovtool.custodian.key_rotation import Role, State, revoke, show
from aigovtool.ids import BorrowerId
from aigovtool.protocol.party import ConsumerFile, OperatorFile
from aigovtool.protocol.trust import MAX_REVOKED_LOG
from aigovtool.protocol.views import FetchedCertificate, PartyCertificate
from aigovtool.transport.server import bind_loopback

Run = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The directory of a custodian that does not serve; its root key is where it belongs."""
    made = tmp_path / "custodian"
    initialise(made, url="https://localhost:1", hosts=["localhost"], operator="alice", allow_simulated=False)
    (made / "offline" / "root.key").rename(tmp_path / "root.key")
    return made


def document(run: Run, *arguments: object) -> Any:
    done = run(*map(str, arguments), "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def of(shown: Any, role: str) -> list[tuple[str, str]]:
    return [(one["key"], one["state"]) for one in shown["keys"] if one["role"] == role]


def test_a_rotation_is_three_orders_each_of_which_names_the_next(home: Path, run: Run) -> None:
    """With words for people and a document for programs; the root key comes from wherever it is kept."""
    root = home.parent / "root.key"
    [(old, state)] = of(document(run, "custodian", "keys", "list", home), "log")
    assert state == "in_use"
    made = run("custodian", "keys", "rotate", str(home), "--key", "log", "--root", str(root))
    assert made.exit_code == 0, made.output
    assert f"aigovtool custodian keys use {home} --key log" in made.stdout
    assert "announced, not used yet" in made.stdout
    used = document(run, "custodian", "keys", "use", home, "--key", "log")
    assert [state for _, state in of(used, "log")] == ["accepted", "in_use"]
    revoked = run("custodian", "keys", "revoke", str(home), old[:12], "--root", str(root))
    assert revoked.exit_code == 0, revoked.output
    assert "revoked, in version 3 of the key set" in revoked.stdout
    assert sorted(state for _, state in of(document(run, "custodian", "keys", "list", home), "log")) == [
        "in_use",
        "revoked",
    ]


def test_what_cannot_be_done_is_said_with_what_to_do(home: Path, run: Run) -> None:
    """No root key, no announcement, no such key, no custodian: each with its reason and a remedy."""
    root = ("--root", str(home.parent / "root.key"))
    refused = {
        "missing_key_file": ("rotate", str(home), "--key", "log"),
        "nothing_announced": ("use", str(home), "--key", "commands"),
        "no_such_key": ("revoke", str(home), "0123456789", *root),
        "no_custodian": ("list", str(home.parent)),
    }
    for reason, words in refused.items():
        done = run("custodian", "keys", *words)
        assert done.exit_code != 0, reason
        assert reason in done.stderr
    assert document(run, "custodian", "keys", "list", home)["version"] == 1


def test_a_log_key_is_forgotten_only_by_who_says_so_and_is_told_which(home: Path, run: Run) -> None:
    """Thirty-two stay listed; the next one that is revoked is refused with the words that would do it."""
    root, revoked = home.parent / "root.key", []
    for _ in range(MAX_REVOKED_LOG):
        revoked.append(show(home).of(Role.LOG, State.IN_USE))
        revoke(home, revoked[-1], root, 1_900_000_000_000)
    asked = ("custodian", "keys", "revoke", str(home), show(home).of(Role.LOG, State.IN_USE), "--root", str(root))
    refused = run(*asked)
    assert refused.exit_code != 0
    assert ("too_many_keys" in refused.stderr, "--drop-oldest" in refused.stderr) == (True, True)
    done = run(*asked, "--drop-oldest")
    assert done.exit_code == 0, done.output
    assert f"nobody knows the log key {revoked[0][:12]}" in done.stdout
    assert revoked[0] not in [key for key, _ in of(document(run, "custodian", "keys", "list", home), "log")]


def test_a_party_renews_its_certificate_over_the_old_one(lent: Place) -> None:
    """The same key and name, issued anew; nothing else of the file is changed."""
    file = lent.directory / "radiology-renewed.json"
    shutil.copy2(lent.file("radiology.json"), file)
    before = decode(file.read_bytes(), ConsumerFile)
    assert lent.document("renew", str(file)) == {"file": str(file), "keystore": False}
    after = decode(file.read_bytes(), ConsumerFile)
    assert after.certificate != before.certificate
    assert encode(after).replace(after.certificate.encode("unicode_escape"), b"") == encode(before).replace(
        before.certificate.encode("unicode_escape"), b""
    )
    assert file.stat().st_mode & 0o777 == 0o600
    assert lent.run("budget", "own", "--credential", str(file)).exit_code == 0


def test_no_older_keystore_comes_back_into_an_operators_file(tmp_path: Path) -> None:
    """A thief of the keys who stands in for the custodian shows the set that names what was stolen: it is refused."""
    home, hosts = tmp_path / "custodian", ["localhost", "127.0.0.1"]
    with bind_loopback() as listener:
        url = f"https://localhost:{listener.getsockname()[1]}"
        initialise(home, url=url, hosts=hosts, operator="alice", allow_simulated=False)
        custodian = open_custodian(home)
        place = Place(tmp_path, home / "operator.json", listener)
        with serving_of(custodian, listener):
            stolen = custodian.keys
            for order in (["rotate", "--root", str(home / "offline" / "root.key")], ["use"]):
                made = place.run("custodian", "keys", order[0], str(home), "--key", "keystore", *order[1:])
                assert made.exit_code == 0, made.output
            custodian.keys = custodian_keys.load(home)
            assert place.document("renew", str(place.operator))["keystore"]
            custodian.keys = replace(custodian.keys, key_set=stolen.key_set, key_set_envelope=stolen.key_set_envelope)
            for words in (["renew", str(place.operator)], ["audit", "export", "-o", place.file("log.jsonl")]):
                refused = place.run(*words)
                assert (refused.exit_code, "key_set_rollback" in refused.stderr) == (5, True), refused.output
        custodian.database.close()
    kept = decode(place.operator.read_bytes(), OperatorFile)
    assert kept.keystore not in {stolen.keystore.public, b""}
    assert kept.key_set == 2


def test_a_file_under_a_passphrase_is_renewed_and_stays_under_it(lent: Place) -> None:
    """The new certificate is no reason to write the key in the clear."""
    file, words = lent.directory / "under.json", lent.directory / "words"
    shutil.copy2(lent.operator, file)
    words.touch(mode=0o600)
    words.write_text("correct horse battery staple\n")
    asked = {"AIGOVTOOL_PASSPHRASE_FILE": str(words)}
    assert lent.run("operator", "protect", str(file), **asked).exit_code == 0
    before = file.read_bytes()
    done = lent.run("renew", str(file), **asked)
    assert done.exit_code == 0, done.output
    assert file.read_bytes() != before
    assert b'"party":"protected"' in file.read_bytes()
    assert lent.run("usage", "--operator", str(file), **asked).exit_code == 0
    assert "passphrase_needed" in lent.run("renew", str(file)).stderr


def issued_by_nobody(key: bytes, consumer: str, borrower: str) -> str:
    """Return a certificate with the key, name and borrower of a consumer, by an authority that anybody can make."""
    maker, now_ms = SigningKey.generate(), time.time_ns() // 1_000_000
    span = {"not_before_ms": now_ms - 10**7, "not_after_ms": now_ms + 10**7}
    authority, kind = new_authority(maker, "credentials", **span), IdentityKind.CONSUMER
    return to_pem(
        issue_client_certificate(
            maker, authority, VerifyKey(key), kind, consumer, borrower=BorrowerId(borrower), **span
        )
    ).decode()


def test_an_operator_hands_out_a_certificate_for_somebody_elses_file(lent: Place) -> None:
    """It fits the file of that party only, and carries no secret."""
    file, certificate = lent.directory / "radiology-other.json", lent.file("radiology-certificate.json")
    shutil.copy2(lent.file("radiology.json"), file)
    fetched = lent.run("consumer", "certificate", "radiology", "-o", certificate)
    assert fetched.exit_code == 0, fetched.output
    assert "aigovtool renew radiology.json --certificate" in fetched.stdout
    assert lent.run("renew", str(file), "--certificate", certificate).exit_code == 0
    other = lent.run("renew", lent.file("st-mary.json"), "--certificate", certificate)
    assert other.exit_code != 0
    assert "other_key" in other.stderr
    before = file.read_bytes()
    fetched_file = decode(Path(certificate).read_bytes(), FetchedCertificate)
    good = fetched_file.issued
    operators = decode(lent.operator.read_bytes(), OperatorFile).certificate
    self_made = issued_by_nobody(good.key, "radiology", "st-mary")
    for forged in (operators, "", "rubbish", good.certificate.replace("M", "N", 1), self_made):
        broken = Path(lent.file("broken-certificate.json"))
        issued = PartyCertificate(key=good.key, certificate=forged)
        broken.write_bytes(encode(FetchedCertificate(issued=issued, key_set=fetched_file.key_set)))
        refused = lent.run("renew", str(file), "--certificate", str(broken))
        assert (refused.exit_code not in {0, 1}, file.read_bytes()) == (True, before), refused.output
    both = lent.run("renew", str(file), "--certificate", certificate, "--custodian", str(lent.directory / "custodian"))
    assert both.exit_code == 2


def test_whoever_holds_the_directory_renews_a_file_that_nobody_accepts_any_more(home: Path, run: Run) -> None:
    """After a theft: the authority of before is revoked, and the operator's file names it and an old keystore key."""
    root, file = home.parent / "root.key", home / "operator.json"
    before = decode(file.read_bytes(), OperatorFile)
    for role in ("credentials", "keystore"):
        [(key, _)] = of(document(run, "custodian", "keys", "list", home), role)
        document(run, "custodian", "keys", "revoke", home, key, "--root", root)
    assert document(run, "renew", file, "--custodian", home)["keystore"]
    after, keys = decode(file.read_bytes(), OperatorFile), custodian_keys.load(home)
    (issued,) = from_pem(after.certificate.encode())
    assert is_issued_by(issued, keys.credentials_ca)
    assert not is_issued_by(from_pem(before.certificate.encode())[0], keys.credentials_ca)
    assert after.keystore == keys.key_set.keystore != before.keystore
    assert after.key == before.key
    other = home.parent / "other"
    initialise(other, url="https://localhost:1", hosts=["localhost"], operator="eve", allow_simulated=False)
    refused = run("renew", str(other / "operator.json"), "--custodian", str(home))
    assert "wrong_custodian" in refused.stderr
