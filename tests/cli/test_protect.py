"""An operator's file under a passphrase: set, asked for, changed and taken away."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from tests.cli.conftest import Place
from tests.cli.typing import typed

from aigovtool.cli import passphrase
from aigovtool.cli.parties import renew
from aigovtool.crypto.secret import Secret
from aigovtool.protocol.party import PartyFile

WORDS, OTHER = "pelican under seven bridges", "a lamp that nobody lit"


@pytest.fixture
def file(place: Place, tmp_path: Path) -> Path:
    """A copy of the operator's file, which other tests use, too."""
    copy = tmp_path / "alice.json"
    copy.write_bytes(place.operator.read_bytes())
    copy.chmod(0o600)
    return copy


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A file with the passphrase, for programs."""
    file = tmp_path / "words"
    file.write_text(WORDS + "\n", encoding="utf-8")
    file.chmod(0o600)
    return file


def protect(place: Place, file: Path, *arguments: str, words: Path) -> None:
    done = place.run("operator", "protect", str(file), *arguments, AIGOVTOOL_PASSPHRASE_FILE=str(words))
    assert done.exit_code == 0, done.output


def listed(place: Place, file: Path, **environment: str) -> Result:
    return place.run("operator", "list", "--operator", str(file), **environment)


def test_a_protected_file_orders_nothing_without_its_passphrase(place: Place, file: Path, words: Path) -> None:
    """Nobody is there to ask: the verb says how a program names the passphrase. With it all is as before."""
    plain = file.read_bytes()
    protect(place, file, words=words)
    assert json.loads(plain)["key"].encode() not in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    refused = listed(place, file)
    assert (refused.exit_code, "passphrase_needed" in refused.stderr) == (2, True)
    assert "AIGOVTOOL_PASSPHRASE_FILE" in refused.stderr
    assert listed(place, file, AIGOVTOOL_PASSPHRASE_FILE=str(words)).exit_code == 0
    protect(place, file, "--remove", words=words)
    assert json.loads(file.read_bytes()) == json.loads(plain)


def test_a_wrong_passphrase_is_said_to_be_wrong(place: Place, file: Path, words: Path) -> None:
    """And the file with it must be private, as the file that it opens."""
    protect(place, file, words=words)
    words.write_text(OTHER, encoding="utf-8")
    wrong = listed(place, file, AIGOVTOOL_PASSPHRASE_FILE=str(words))
    assert (wrong.exit_code, "wrong_passphrase" in wrong.stderr) == (2, True)
    words.chmod(0o644)
    unsafe = listed(place, file, AIGOVTOOL_PASSPHRASE_FILE=str(words))
    assert (unsafe.exit_code, "unsafe_key_file" in unsafe.stderr) == (2, True)


def test_a_weak_passphrase_changes_nothing(place: Place, file: Path, words: Path) -> None:
    """The file stays as it was."""
    before = file.read_bytes()
    words.write_text("secret", encoding="utf-8")
    weak = place.run("operator", "protect", str(file), AIGOVTOOL_PASSPHRASE_FILE=str(words))
    assert (weak.exit_code, "weak_passphrase" in weak.stderr) == (3, True)
    assert file.read_bytes() == before


def test_only_an_operators_file_is_put_under_a_passphrase(place: Place, tmp_path: Path, words: Path) -> None:
    """Enclaves and consumers run unattended."""
    file = tmp_path / "st-anne.json"
    assert place.run("borrower", "add", "st-anne", "-o", str(file)).exit_code == 0
    refused = place.run("operator", "protect", str(file), AIGOVTOOL_PASSPHRASE_FILE=str(words))
    assert (refused.exit_code, "wrong_party_file" in refused.stderr) == (2, True)


def test_a_person_types_it_and_nothing_is_shown(file: Path) -> None:
    """Twice when it is chosen, once when it is used, and again after a mistake; three mistakes are enough."""
    protect = ["operator", "protect", str(file)]
    code, shown = typed(protect, [("new passphrase", WORDS), ("the same again", WORDS)])
    assert (code, WORDS in shown) == (0, False), shown
    answers = [
        ("passphrase of /", OTHER),
        ("passphrase of /", WORDS),
        ("new passphrase", OTHER),
        ("the same again", OTHER),
    ]
    code, shown = typed(protect, answers)
    assert (code, "not the passphrase" in shown, OTHER in shown) == (0, True, False), shown
    code, shown = typed([*protect, "--remove"], [("passphrase of /", WORDS)] * 3)
    assert (code, "wrong_passphrase" in shown) == (2, True), shown
    code, shown = typed(protect, [("passphrase of /", OTHER), ("new passphrase", WORDS), ("the same again", OTHER)])
    assert (code, "passphrases_differ" in shown) == (3, True), shown


def test_a_renewal_at_the_same_moment_does_not_take_the_passphrase_away(
    place: Place, file: Path, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had read the file before, and would have written that back, as if it had never been protected."""
    fetch = renew._fetched

    def meanwhile(party: PartyFile, where: Path) -> PartyFile:
        protect(place, file, words=words)
        return fetch(party, where)

    monkeypatch.setattr(renew, "_fetched", meanwhile)
    refused = place.run("renew", str(file))
    assert (refused.exit_code, "key_file_changed" in refused.stderr) == (3, True), refused.output
    needed = listed(place, file)
    assert (needed.exit_code, "passphrase_needed" in needed.stderr) == (2, True)
    assert listed(place, file, AIGOVTOOL_PASSPHRASE_FILE=str(words)).exit_code == 0


def test_nor_does_a_passphrase_take_a_renewal_away(
    place: Place, file: Path, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody thinks of a passphrase, the file may get another certificate, and another keystore key."""
    choose, renewed = passphrase.chosen, []

    def meanwhile(where: Path) -> Secret:
        assert place.run("renew", str(file)).exit_code == 0
        renewed.append(file.read_bytes())
        return choose(where)

    monkeypatch.setattr(passphrase, "chosen", meanwhile)
    refused = place.run("operator", "protect", str(file), AIGOVTOOL_PASSPHRASE_FILE=str(words))
    assert (refused.exit_code, "key_file_changed" in refused.stderr) == (3, True), refused.output
    assert [file.read_bytes()] == renewed
