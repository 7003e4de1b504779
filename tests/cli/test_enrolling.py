"""Names are never given out twice: an enrolment whose file cannot be kept must not have happened."""

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Place, a_place

from aigovtool.cli.parties import party
from aigovtool.custodian.app import add_operator, initialise
from aigovtool.errors import ConfigurationError, UnreachableError
from aigovtool.operator.client import OperatorClient
from aigovtool.protocol.commands import AddParty, CommandResult

ROLES = {"borrower": (), "consumer": ("--borrower", "house"), "operator": ()}


@pytest.fixture
def enrolling(place: Place) -> Place:
    """A custodian with a borrower, for consumers to be of."""
    if not Path(place.file("house.json")).exists():
        assert place.run("borrower", "add", "house", "-o", place.file("house.json")).exit_code == 0
    return place


def refuse_and_enrol(place: Place, role: str, directory: Path) -> None:
    """Try to enrol into a directory that others write to: no key is enrolled that nobody has, and the name is free."""
    shared = directory / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    add = [role, "add", f"{role}-x", *ROLES[role], "-o"]
    refused = place.run(*add, str(shared / "x.json"))
    assert refused.exit_code == 2
    assert "unsafe_key_directory" in refused.output
    listed = place.document(role, "list")["parties"]
    assert f"{role}-x" not in [each["name"] for each in listed]
    done = place.run(*add, str(directory / "x.json"))
    assert done.exit_code == 0, done.output
    assert json.loads((directory / "x.json").read_bytes())["certificate"]


@pytest.mark.parametrize("role", ["borrower", "consumer"])
def test_a_party_whose_file_cannot_be_written_is_not_enrolled(enrolling: Place, tmp_path: Path, role: str) -> None:
    """Borrowers and consumers."""
    refuse_and_enrol(enrolling, role, tmp_path)


def test_an_operator_whose_file_cannot_be_written_is_not_enrolled(tmp_path: Path) -> None:
    """The second one, from whom on enrolling takes two: at a custodian of its own."""
    (tmp_path / "home").mkdir(mode=0o700)
    with a_place(tmp_path / "home") as place:
        refuse_and_enrol(place, "operator", tmp_path)


def test_a_refused_enrolment_leaves_no_file(enrolling: Place, tmp_path: Path) -> None:
    """What holds a key of nobody would only be in the way."""
    refused = enrolling.run("borrower", "add", "house", "-o", str(tmp_path / "again.json"))
    assert "party_exists" in refused.output
    assert list(tmp_path.iterdir()) == []


def test_a_party_that_may_be_enrolled_keeps_its_key(
    enrolling: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is carried out and its answer is lost: the file waits, and gets the certificate as it is said."""
    carried_out = OperatorClient.command

    def lose_the_answer(self: OperatorClient, act: AddParty) -> CommandResult:
        carried_out(self, act)
        raise UnreachableError("the custodian does not answer", reason="no_answer")

    file, certificate = str(tmp_path / "lost.json"), str(tmp_path / "lost-certificate.json")
    with monkeypatch.context() as patched:
        patched.setattr(OperatorClient, "command", lose_the_answer)
        lost = enrolling.run("borrower", "add", "lost", "-o", file)
    assert lost.exit_code == 7
    assert f"aigovtool renew {file} --certificate lost-certificate.json" in lost.output
    assert "no_certificate" in enrolling.run("budget", "own", "--credential", file).output
    assert enrolling.run("borrower", "certificate", "lost", "-o", certificate).exit_code == 0
    assert enrolling.run("renew", file, "--certificate", certificate).exit_code == 0
    assert enrolling.document("budget", "own", "--credential", file)["name"] == "lost"


def test_what_is_said_of_a_lost_answer_names_the_verb_of_the_role(tmp_path: Path) -> None:
    """An operator's file is finished, everybody else's renewed."""
    act = party.enrolment("operator", "bob", 1, bytes(32))
    said = party._perhaps_enrolled(act, tmp_path / "bob.json")
    assert f"aigovtool operator finish {tmp_path / 'bob.json'} bob-certificate.json" in said


def test_an_operator_made_in_the_directory_is_not_enrolled_without_a_file(tmp_path: Path) -> None:
    """Who is locked out, and uses the last way in, is not to burn names on it either."""
    home, shared = tmp_path / "custodian", tmp_path / "shared"
    initialise(home, url="https://localhost:1", hosts=["localhost"], operator="alice", allow_simulated=True)
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(ConfigurationError):
        add_operator(home, "bob", shared / "bob.json")
    add_operator(home, "bob", tmp_path / "bob.json")
    assert json.loads((tmp_path / "bob.json").read_bytes())["certificate"]
