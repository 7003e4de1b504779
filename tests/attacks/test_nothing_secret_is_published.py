"""No private key, password or captured traffic is in what is published, or was ever in the repository."""

from pathlib import Path

import pytest
from tests.attacks.published import build, git, history, members, secrets_in
from tests.observations import Observed


@pytest.mark.fault(4, 33)
def test_nothing_that_was_ever_committed_is_a_secret(observed: Observed) -> None:
    """Every content of every file in all commits that are here; a shallow clone has fewer, and the figure says so."""
    contents, found = 0, {}
    for name, data in history():
        contents += 1
        if kinds := secrets_in(name, data):
            found[name] = kinds
    assert found == {}
    assert contents >= len(git("ls-files").splitlines()) * 0.8  # equal files are one content
    commits = int(git("rev-list", "--all", "--count"))
    whole = git("rev-parse", "--is-shallow-repository").strip() == b"false"
    observed.figure("commits that were looked at" + ("" if whole else ", of a clone without its history"), commits)
    observed.figure("contents of files that were looked at", contents)


@pytest.mark.fault(4, 33)
def test_what_is_published_holds_no_secret_and_no_test_key(tmp_path: Path, observed: Observed) -> None:
    """The wheel and the source archive: no key at all, also none that says it is for tests; nothing of the tests."""
    dist = build(tmp_path / "clone")
    files = 0
    for archive in sorted(dist.iterdir()):
        for name, data in members(archive):
            files += 1
            assert secrets_in(name, data.replace(b"TEST-ONLY", b"")) == set(), name
            assert "tests/" not in name
    assert files > 600
    observed.figure("files in wheel and source archive that were looked at", files)


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.pem", b"-----BEGIN EC PRIVATE" + b" KEY-----\nMHcCAQEEIIrYSSNQFaA2Hwf1\n", "private key"),
        ("a.py", b"KEY = b'-----BEGIN PRIVATE" + b" KEY-----\\nMC4CAQAwBQYDK2VwBCIEIA'", "private key"),
        ("hospital.json", b'{"enrolment_' + b'key": "' + b"q" * 43 + b'="}', "key of a party"),
        ("ward7.json", b'{"party":"consumer","key"' + b':"' + b"Z" * 43 + b'="}', "key of a party"),
        ("setup.sh", b"PCCS_PASS" + b'WORD="hunter2hunter2"', "password"),
        ("a.yml", b"api_" + b"key: 'abcdefgh12345678'", "password"),
        ("a.txt", b"gh" + b"p_" + b"a1" * 18, "token"),
        ("a.txt", b"AK" + b"IAABCDEFGHIJKLMNOP", "token"),
        ("upload", bytes.fromhex("d4c3b2a1") + bytes(20), "captured traffic"),
        ("upload", bytes.fromhex("0a0d0d0a") + bytes(20), "captured traffic"),
        ("keys/root.key", b"", "name of a secret file"),
    ],
)
def test_what_is_looked_for_would_be_found(name: str, data: bytes, kind: str) -> None:
    """One of each kind, as the predecessor had it or as our own files would look."""
    assert kind in secrets_in(name, data)
