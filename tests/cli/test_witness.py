"""Witnesses on the command line, and the attack that they are for, on a real custodian."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from click.testing import Result
from tests.cli.conftest import Place
from tests.cli.site import Site, make_site
from tests.cli.test_watch import settled

from aigovtool.cli.audit.witness import _one_of_many
from aigovtool.cli.screen import Screen
from aigovtool.codec import decode, encode
from aigovtool.errors import SignatureInvalidError
from aigovtool.ledger.audit import LoggedEntry
from aigovtool.ledger.checkpoint import Checkpoint, parse_checkpoint, sign_checkpoint
from aigovtool.ledger.cosignature import parse_witness_key, witnessed
from aigovtool.ledger.entry import Entry, LeaseGranted
from aigovtool.ledger.merkle import leaf_hash, root_of
from aigovtool.operator.audit_file import AuditHeader
from aigovtool.operator.cosigner import Cosigner
from aigovtool.operator.witness_home import WitnessHome
from aigovtool.transport.server import bind_loopback

NAME = "witness.example.com/w1"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A custodian with two operators and one enclave, on SQLite."""
    with bind_loopback() as listener:
        made = make_site(tmp_path, listener, None)
        yield made
        made.bench.custodian.database.close()


def made(place: Place, directory: str = "w1", name: str = NAME) -> str:
    """Make and enrol a witness; return its verifier key."""
    key = str(place.document("audit", "witness", "init", place.file(directory), "--name", name)["key"])
    assert place.document("audit", "witness", "enrol", key)["name"] == name
    return key


def sign(place: Place, *more: str, directory: str = "w1") -> Result:
    """Co-sign once, with nothing but a consumer's file."""
    return place.run("audit", "witness", "sign", place.file(directory), "--party", place.file("ward7.json"), *more)


def exported(place: Place, name: str = "log.jsonl") -> str:
    Path(place.file(name)).unlink(missing_ok=True)
    assert place.run("audit", "export", "-o", place.file(name)).exit_code == 0
    return place.file(name)


def verify(site: Site, file: str, *more: str) -> Result:
    """Verify offline: the custodian is not served meanwhile."""
    return site.place.run("audit", "verify", file, "--operator", site.file("ward7.json"), *more)


def failed(result: Result, exit_code: int, reason: str) -> bool:
    return (result.exit_code, f"why:   {reason}" in result.stderr) == (exit_code, True)


# --- A witness at work -------------------------------------------------------------------------------------


def test_a_witness_is_made_enrolled_and_co_signs(site: Site) -> None:
    """Its key file is private, its co-signature goes with checkpoint and export, and an offline reader counts on it."""
    with site.served() as place:
        key = made(place)
        assert Path(place.file("w1/witness.key")).stat().st_mode & 0o777 == 0o600
        assert failed(sign(place), 2, "no_memory")
        done = sign(place, "--first", "--json")
        signed = json.loads(done.stdout)
        assert (signed["witness"], signed["newest_entries"]) == (NAME, signed["entries"])
        note = place.document("audit", "checkpoint")["note"]
        assert [one.time_s for one in witnessed(note, [parse_witness_key(key)])] == [signed["time_s"]]
        first = exported(place)
        assert place.run("borrower", "add", "st-mary", "-o", place.file("st-mary.json")).exit_code == 0
        later = exported(place, "later.jsonl")
        (listed,) = place.document("audit", "witness", "list")["witnesses"]
        assert (listed["key"], listed["entries"], listed["retired"]) == (key, signed["entries"], False)
    whole = verify(site, first, "--witness", key)
    assert (whole.exit_code, f"{NAME} co-signed all {signed['entries']} entries, at " in whole.stdout) == (0, True)
    assert "only the custodian's log key vouches" not in whole.stdout
    part = verify(site, later, "--witness", key)
    assert f"co-signed the first {signed['entries']} of {signed['entries'] + 1} entries" in part.stdout
    assert "For the last entry only the custodian's log key vouches" in part.stdout
    told = verify(site, later)
    assert (told.exit_code, "but only the log names its key" in told.stdout) == (0, True)
    document = json.loads(verify(site, later, "--witness", key, "--json").stdout)
    (by,) = document["cosigned"]
    assert (by["witness"], by["believed"], by["entries"], document["witnesses_required"]) == (
        NAME,
        True,
        signed["entries"],
        1,
    )


def test_a_reader_says_how_many_witnesses_must_have_co_signed(site: Site) -> None:
    """All that are named, if nothing else is said; never more than are named, and none twice."""
    with site.served() as place:
        first, second = made(place), made(place, "w2", "other.example")
        assert sign(place, "--first").exit_code == 0
        log = exported(place)
    both = ("--witness", first, "--witness", second)
    refused = verify(site, log, *both)
    assert failed(refused, 5, "not_witnessed")
    assert f"1 did ({NAME})" in refused.stderr
    assert verify(site, log, *both, "--witnesses-required", "1").exit_code == 0
    assert failed(verify(site, log, *both, "--witnesses-required", "3"), 2, "too_few_witnesses")
    assert failed(verify(site, log, "--witnesses-required", "1"), 2, "too_few_witnesses")
    assert failed(verify(site, log, "--witness", first, "--witness", first), 2, "same_witness")
    assert failed(verify(site, log, "--witness", "nonsense"), 3, "bad_witness_key")


def test_a_witness_that_is_not_enrolled_is_told_so(site: Site) -> None:
    """Its memory goes on all the same; once enrolled it is heard, and once retired no longer."""
    with site.served() as place:
        key = place.document("audit", "witness", "init", place.file("w1"), "--name", NAME)["key"]
        assert failed(sign(place, "--first"), 4, "unknown_witness")
        assert place.run("audit", "witness", "enrol", key).exit_code == 0
        assert sign(place).exit_code == 0
        assert failed(place.run("audit", "witness", "retire", NAME), 3, "not_confirmed")
        assert place.run("audit", "witness", "retire", NAME, "--yes").exit_code == 0
        assert failed(sign(place), 4, "unknown_witness")
        assert failed(place.run("audit", "witness", "retire", NAME, "--yes"), 3, "no_such_witness")
        assert "retired" in place.run("audit", "witness", "list").stdout
        kinds = [one["kind"] for one in place.document("audit", "list", "--kind", "witness_retired")["entries"]]
        assert kinds == ["witness_retired"]
        listed = place.run("audit", "list", "--kind", "witness_enrolled").stdout
        assert f"enrolled witness {key}" in listed
        log = exported(place)
    assert verify(site, log).exit_code == 0


def test_a_witness_shows_and_saves_what_it_co_signed(site: Site) -> None:
    """Readers get it from the witness itself: a custodian that lies would not hand it out."""
    with site.served() as place:
        key = made(place)
        show = ["audit", "witness", "show", place.file("w1")]
        assert "it has co-signed nothing yet" in place.run(*show).stdout
        assert failed(place.run(*show, "-o", place.file("none.txt")), 2, "which_log")
        assert sign(place, "--first").exit_code == 0
        log = exported(place)
        assert place.run(*show, "-o", place.file("seen.txt")).exit_code == 0
        (shown,) = place.document(*show, "--party", place.file("ward7.json"))["logs"]
    saved = Path(site.file("seen.txt")).read_text()
    assert (shown["note"], shown["cosigned"]) == (saved, True)
    assert verify(site, log, "--witness", key, "--seen", site.file("seen.txt")).exit_code == 0


def test_a_witness_needs_a_party_file_and_a_directory_of_its_own(site: Site) -> None:
    """Messages say what to do."""
    place = site.place
    assert place.run("audit", "witness", "init", place.file("w1"), "--name", NAME).exit_code == 0
    again = place.run("audit", "witness", "init", place.file("w1"), "--name", NAME)
    assert failed(again, 3, "witness_exists")
    assert failed(place.run("audit", "witness", "init", place.file("w2"), "--name", "a b"), 3, "bad_witness_name")
    assert failed(place.run("audit", "witness", "sign", place.file("w3"), "--first"), 2, "no_witness")
    nobody = place.run("audit", "witness", "sign", place.file("w1"), AIGOVTOOL_OPERATOR="")
    assert failed(nobody, 2, "no_party_file")


def test_a_name_that_is_too_long_is_no_bug_of_this_program(site: Site) -> None:
    """What the system refuses is told as such, with the exit code of files."""
    long = site.file("a" * 300)
    for words in (["show", long], ["init", long, "--name", NAME], ["sign", long, "--party", site.file("ward7.json")]):
        refused = site.place.run("audit", "witness", *words)
        assert (refused.exit_code, "File name too long" in refused.stderr) == (2, True), refused.output


def test_a_witness_whose_making_was_broken_off_is_finished(site: Site) -> None:
    """Killed between key and verifier key: the same words again, as the message says."""
    place = site.place
    init = ["audit", "witness", "init", place.file("w1"), "--name", NAME]
    key = place.document(*init)["key"]
    Path(place.file("w1/witness.vkey")).unlink()
    unfinished = sign(place, "--first")
    assert failed(unfinished, 2, "unfinished_witness")
    assert f"audit witness init {place.file('w1')} --name NAME" in unfinished.stderr
    assert place.document(*init)["key"] == key


def test_a_witness_stops_when_a_second_copy_of_it_co_signed(site: Site) -> None:
    """Attack: its directory was copied. The custodian shows a co-signature of its own that its memory does not hold."""
    with site.served() as place:
        made(place)
        assert sign(place, "--first").exit_code == 0
        shutil.copytree(place.file("w1"), place.file("copy"))
        assert place.run("borrower", "add", "st-mary", "-o", place.file("st-mary.json")).exit_code == 0
        assert sign(place, directory="copy").exit_code == 0
        memory = {path: path.read_bytes() for path in Path(place.file("w1")).glob("*.json")}
        told = sign(place)
        assert failed(told, 4, "another_copy")
        assert "nothing was co-signed" in told.stderr
        assert "the custodian has it" not in told.stdout
        assert {path: path.read_bytes() for path in memory} == memory


# --- The attack --------------------------------------------------------------------------------------------


def forged(
    site: Site, file: str, change: Callable[[list[bytes]], list[bytes]], *, cosigned: tuple[str, ...] = ()
) -> str:
    """What a thief of the custodian's log key makes of an export: other entries, and a checkpoint that fits them."""
    lines = Path(file).read_bytes().splitlines()
    header = decode(lines[0], AuditHeader)
    entries = change([line[line.index(b'"entry":') + 8 : -1] for line in lines[1:]])
    checkpoint = Checkpoint(
        custodian=parse_checkpoint(header.checkpoint).custodian,
        size=len(entries),
        root=root_of([leaf_hash(entry) for entry in entries]),
    )
    note = sign_checkpoint(checkpoint, site.bench.custodian.keys.log)
    made = AuditHeader(format=header.format, checkpoint=note, key_set=header.key_set, cosigned=cosigned)
    out = Path(site.file("forged.jsonl"))
    rows = [LoggedEntry(data=entry, leaf=leaf_hash(entry)) for entry in entries]
    body = b"".join(b'{"leaf":"%b","entry":%b}\n' % (row.leaf.hex().encode(), row.data) for row in rows)
    out.write_bytes(encode(made) + b"\n" + body)
    return str(out)


def test_a_thief_of_the_log_key_cannot_roll_back_what_a_witness_saw(site: Site) -> None:
    """Attack, offline: grants are cut off the log's end and it is signed again; it verifies, but for the witness."""
    with site.served() as place:
        key = made(place)
        assert sign(place, "--first").exit_code == 0
    site.draw(5)
    site.draw(7)
    with site.served() as place:
        assert sign(place).exit_code == 0
        log = exported(place)
    genuine = decode(Path(log).read_bytes().splitlines()[0], AuditHeader).checkpoint
    believing = ("--witness", key)
    assert verify(site, log, *believing).exit_code == 0
    back = forged(site, log, lambda entries: entries[:-1])
    assert verify(site, back).exit_code == 0
    assert failed(verify(site, back, *believing), 5, "not_witnessed")
    back = forged(site, log, lambda entries: entries[:-1], cosigned=(genuine,))
    assert failed(verify(site, back, *believing), 5, "rollback")


def test_a_thief_of_the_log_key_cannot_rewrite_what_a_witness_saw(site: Site) -> None:
    """Attack, offline: a grant of nine units becomes one of two, all after it is made to fit and signed again."""
    site.draw(9)
    with site.served() as place:
        key = made(place)
        assert sign(place, "--first").exit_code == 0
        log = exported(place)
    header = decode(Path(log).read_bytes().splitlines()[0], AuditHeader)
    line = header.checkpoint[header.checkpoint.rindex("\N{EM DASH} witness") :]

    def cheaper(entries: list[bytes]) -> list[bytes]:
        changed = [entry.replace(b'"inferences":9', b'"inferences":2') for entry in entries]
        assert changed != entries
        assert any(isinstance(decode(entry, Entry).body, LeaseGranted) for entry in changed)
        return changed

    believing = ("--witness", key)
    fork = forged(site, log, cheaper)
    assert verify(site, fork).exit_code == 0
    assert failed(verify(site, fork, *believing), 5, "not_witnessed")
    assert failed(verify(site, forged(site, log, cheaper, cosigned=(header.checkpoint,)), *believing), 5, "rewritten")
    # The genuine line under the forged checkpoint: refused whether or not the reader knows of witnesses.
    path = Path(forged(site, log, cheaper))
    content = path.read_bytes()
    own = decode(content.splitlines()[0], AuditHeader)
    moved = AuditHeader(format=own.format, checkpoint=own.checkpoint + line, key_set=own.key_set)
    path.write_bytes(encode(moved) + b"\n" + content.partition(b"\n")[2])
    assert failed(verify(site, str(path)), 5, "cosignature")
    assert failed(verify(site, str(path), *believing), 5, "cosignature")


# --- Restores ----------------------------------------------------------------------------------------------


def test_a_witness_finds_a_restored_ledger_and_goes_on_only_when_its_keeper_says_so(site: Site) -> None:
    """It opens the gap, signs nothing of the new generation, says what is lost, and checks that the log says so too."""
    with site.served() as place:
        key = made(place)
        assert sign(place, "--first").exit_code == 0
    copy = site.copy()
    site.draw(5)
    with site.served() as place:
        assert sign(place).exit_code == 0
        old = exported(place, "old.jsonl")
        lost = place.document("audit", "checkpoint")["entries"]
    copy.restore()
    accept = ["audit", "witness", "accept", site.file("w1"), "--party", site.file("ward7.json"), "--generation", "1"]
    with site.served() as place:
        assert place.document("custodian", "gap")["forgotten"] is False
        assert failed(sign(place), 5, "rollback")
        assert place.document("custodian", "gap")["forgotten"] is True
        assert failed(place.run(*accept, "--yes"), 3, "same_generation")
        settled(place)
        refused = sign(place)
        assert failed(refused, 5, "new_generation")
        said = f"of the {lost} entries that this witness co-signed, the first {lost - 1} are still in it, and the one"
        assert said in refused.stderr, refused.stderr
        assert failed(place.run(*accept), 3, "not_confirmed")
        assert failed(place.run(*accept[:-1], "2", "--yes"), 3, "other_generation")
        assert failed(place.run(*accept, "--yes", "--log", old), 5, "other_log")
        now = exported(place)
        accepted = place.run(*accept, "--yes", "--log", now)
        assert accepted.exit_code == 0, accepted.output
        assert said in accepted.stdout
        assert "operators alice and bob put a restored ledger into service as generation 1" in accepted.stdout
        assert (
            "not yet: the new generation was accepted; 1 loss before"
            in place.run(*accept[:2], "show", accept[3]).stdout
        )
        save = (*accept[:2], "show", accept[3], "-o", place.file("seen.txt"))
        assert failed(place.run(*save), 2, "not_cosigned")
        assert not Path(place.file("seen.txt")).exists()
        assert sign(place).exit_code == 0
        assert place.run(*save).exit_code == 0
        log = exported(place)
    assert verify(site, log, "--witness", key, "--seen", site.file("seen.txt")).exit_code == 0


def test_a_restore_that_took_nothing_from_the_witness_is_accepted_in_words_too(site: Site) -> None:
    """Somebody else noticed it: all that was co-signed is there. An export of before does not show who settled it."""
    with site.served() as place:
        made(place)
        assert sign(place, "--first").exit_code == 0
        before = exported(place, "before.jsonl")
    site.forget(5)
    accept = ["audit", "witness", "accept", site.file("w1"), "--party", site.file("ward7.json"), "--generation", "1"]
    with site.served() as place:
        told = sign(place)
        assert (told.exit_code, "it has forgotten another one that it signed" in told.stderr) == (7, True), told.output
        settled(place)
        refused = sign(place)
        assert failed(refused, 5, "new_generation")
        assert "entries that this witness co-signed are still in it" in refused.stderr
        assert failed(place.run(*accept, "--yes", "--log", before), 5, "other_log")
        accepted = json.loads(place.run(*accept, "--yes", "--json").stdout)
        assert (accepted["lost"], accepted["kept_entries"]) == (False, accepted["signed_entries"])
        assert sign(place).exit_code == 0


@pytest.mark.parametrize(("reason", "goes_on"), [("key_set_rollback", True), ("wrong_key", False)])
def test_a_witness_in_a_loop_waits_for_a_custodian_whose_keys_lag(reason: str, goes_on: bool) -> None:  # noqa: FBT001
    """Of several custodians one may have an older key set for a while; a signature that is none ends the loop."""

    def sign(*, first: bool) -> None:
        assert not first
        raise SignatureInvalidError("the key set is older than one already seen", reason=reason)

    told: list[str] = []
    screen, cosigner = cast("Screen", SimpleNamespace(note=told.append)), cast("Cosigner", SimpleNamespace(sign=sign))
    home = cast("WitnessHome", None)
    if goes_on:
        assert _one_of_many(screen, home, cosigner, first=False, every=60) is False
        assert told == ["not co-signed: the key set is older than one already seen (again in 60 s)"]
    else:
        with pytest.raises(SignatureInvalidError):
            _one_of_many(screen, home, cosigner, first=False, every=60)
