"""`aigovtool reference-values` and `appraisal draft`: from genuine evidence to a policy that accepts it."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.attestation.tee.snp import maker as snp
from tests.attestation.test_appraisal import verified
from tests.cli.conftest import Place
from tests.cli.in_folder import done, refused, run

from aigovtool.attestation.model import Evidence, Fact, Label, MeasurementHex, Tcb, Unchecked
from aigovtool.cli.appraisal.draft import differences, drafted
from aigovtool.cli.evidence.genuine import require_fit
from aigovtool.codec import encode
from aigovtool.errors import AppraisalError
from aigovtool.testing.simulated_tee.attester import SimulatedPlatform

FIRST, SECOND = MeasurementHex("5a" * 48), MeasurementHex("5b" * 48)
AT = ("--at", "2026-11-26T00:00:00Z")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, measurement in (("first.json", FIRST), ("second.json", SECOND)):
        evidence: Evidence = SimulatedPlatform(measurement).report(bytes(64))
        (tmp_path / name).write_bytes(encode(evidence))
    return tmp_path


def add(folder: Path, label: str, *source: str) -> Any:
    return done(
        folder, "reference-values", "add", label, "--tee", "simulated", *source, *AT, "--origin", "our lab",
        "--library", "@library.json",
    )  # fmt: skip


def accepted(folder: Path, evidence: str, policy: str) -> bool:
    result = run(folder, "evidence", "verify", evidence, *AT, "--policy", policy, "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code == 0) is found["acceptable"]
    return bool(found["acceptable"])


def test_a_policy_is_drafted_from_evidence_and_accepts_it_and_nothing_else(folder: Path) -> None:
    """Every rule is what that machine said."""
    done(folder, "appraisal", "draft", "@first.json", *AT, "-o", "@policy.json")
    assert accepted(folder, "@first.json", "@policy.json")
    assert not accepted(folder, "@second.json", "@policy.json")
    shown = run(folder, "appraisal", "draft", "@second.json", *AT, "--this-chip", "-o", "@other.json")
    assert "Go through every rule" in shown.stdout
    assert json.loads((folder / "other.json").read_text())["accepted"][0]["chips"] != {"unchecked": ""}
    assert refused(folder, "appraisal", "draft", "@first.json", *AT, "-o", "@policy.json") == (2, "unwritable_file")


def test_builds_come_and_go_and_the_policy_follows(folder: Path) -> None:
    """Added from evidence or by value, put into a policy, retired: enclaves of it are not acceptable any more."""
    done(folder, "appraisal", "draft", "@first.json", *AT, "-o", "@policy.json")
    add(folder, "first", "--from", "@first.json")
    add(folder, "second", "--value", f"source={SECOND}")
    applied = done(folder, "reference-values", "apply", "@policy.json", "--library", "@library.json", "-o", "@2.json")
    assert (applied["version"], applied["builds"]) == (2, {"simulated": ["first", "second"]})
    assert accepted(folder, "@first.json", "@2.json")
    assert accepted(folder, "@second.json", "@2.json")
    gone = ("first", "--tee", "simulated", "--reason", "a flaw", "--library", "@library.json")
    assert done(folder, "reference-values", "retire", *gone)["retired_because"] == "a flaw"
    done(folder, "reference-values", "apply", "@2.json", "--library", "@library.json", "-o", "@3.json")
    assert not accepted(folder, "@first.json", "@3.json")
    assert accepted(folder, "@second.json", "@3.json")
    shown = run(folder, "reference-values", "list", "--library", "@library.json")
    assert "a flaw" in shown.stdout
    assert "in use" in shown.stdout


def test_a_retired_build_does_not_come_back_with_an_older_library(folder: Path) -> None:
    """Attack: a copy of the library, well signed, from before the build was retired."""
    done(folder, "appraisal", "draft", "@first.json", *AT, "-o", "@policy.json")
    add(folder, "first", "--from", "@first.json")
    add(folder, "second", "--value", f"source={SECOND}")
    (folder / "old.json").write_bytes((folder / "library.json").read_bytes())
    gone = ("first", "--tee", "simulated", "--reason", "a flaw", "--library", "@library.json")
    done(folder, "reference-values", "retire", *gone)
    apply = ("reference-values", "apply", "@policy.json", "--seen", "@seen.json")
    done(folder, *apply, "--library", "@library.json", "-o", "@2.json")
    assert refused(folder, *apply, "--library", "@old.json", "-o", "@3.json") == (5, "library_rollback")
    changed = (folder / "library.json").read_bytes().replace(b"a flaw", b"a Flaw")
    (folder / "library.json").write_bytes(changed)
    assert refused(folder, *apply, "--library", "@library.json", "-o", "@3.json") == (5, "library_fork")
    verify = ("evidence", "verify", "@first.json", *AT, "--policy", "@policy.json", "--policy-seen", "@seen.json")
    assert refused(folder, *verify) == (2, "bad_document")
    assert not (folder / "3.json").exists()


def test_a_library_is_signed_by_an_operator_and_checked_by_others(place: Place, folder: Path) -> None:
    """Whoever has the key sees who vouches; another key, or an unsigned file, is refused."""
    add(folder, "first", "--from", "@first.json")
    library = ("--library", str(folder / "library.json"))
    signed = place.document("reference-values", "sign", *library, "-o", str(folder / "signed.json"))
    seen = done(folder, "reference-values", "list", "--library", "@signed.json", "--signer", signed["key"])
    assert (seen["signed_by"], [one["label"] for one in seen["records"]]) == (signed["key"], ["first"])
    key = ("--signer", "00" * 31 + "07")
    assert refused(folder, "reference-values", "list", "--library", "@signed.json", *key) == (5, "wrong_key")
    assert refused(folder, "reference-values", "list", "--library", "@library.json", *key) == (2, "not_signed")
    assert refused(folder, "reference-values", "list", "--library", "@signed.json") == (2, "signer_not_given")


@pytest.mark.fault(24)
def test_a_policy_is_signed_and_an_older_one_does_not_come_back(place: Place, folder: Path) -> None:
    """Whoever appraises elsewhere checks who made the policy, and remembers the newest that it saw."""
    keys = set()
    for version in ("1", "2"):
        made = ("appraisal", "draft", "@first.json", *AT, "--version", version, "-o", f"@{version}.json")
        done(folder, *made)
        signed = place.document("appraisal", "sign", str(folder / f"{version}.json"), "-o", str(folder / f"s{version}"))
        keys.add(signed["key"])
    verify = ("evidence", "verify", "@first.json", *AT, "--policy-seen", "@seen.json")
    key = ("--policy-signer", keys.pop())
    for name in ("@s1", "@s2", "@s2"):
        assert done(folder, *verify, "--policy", name, *key)["acceptable"]
    assert refused(folder, *verify, "--policy", "@s1", *key) == (5, "policy_rollback")
    assert refused(folder, *verify, "--policy", "@2.json", *key) == (2, "not_signed")
    assert refused(folder, *verify, "--policy", "@s2", "--policy-signer", "00" * 31 + "07") == (5, "wrong_key")
    done(folder, "appraisal", "draft", "@second.json", *AT, "--version", "2", "-o", "@other.json")
    assert refused(folder, *verify, "--policy", "@other.json") == (5, "policy_fork")


def test_a_second_kind_of_processor_gets_an_entry_of_its_own(folder: Path) -> None:
    """Beside the first, by its name; without a name of its own it is refused."""
    done(folder, "appraisal", "draft", "@first.json", *AT, "--entry", "old", "-o", "@1.json")
    add_to = ("appraisal", "draft", "@second.json", *AT, "--add-to", "@1.json", "-o", "@2.json")
    assert refused(folder, *add_to, "--entry", "old") == (3, "duplicate_tee")
    assert run(folder, *add_to, "--entry", "old: chips").exit_code == 3
    assert done(folder, *add_to, "--entry", "new")["version"] == 2
    assert accepted(folder, "@first.json", "@2.json")
    assert accepted(folder, "@second.json", "@2.json")
    shown = run(folder, "evidence", "verify", "@second.json", *AT, "--policy", "@2.json")
    assert "simulated new has an entry" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("add", "x", "--tee", "tdx", "--origin", "o"), "no_values"),
        (("add", "x", "--tee", "tdx", "--origin", "o", "--value", "mr_td"), "bad_value"),
        (("add", "x", "--tee", "tdx", "--origin", "o", "--value", "mr_td=xyz"), "bad_value"),
        (("add", "x", "--tee", "sev-snp", "--origin", "o", "--value", "lanch=" + "5a" * 48), "bad_value"),
        (("add", "x", "--tee", "nitro", "--origin", "o", "--value", "pcr32=" + "5a" * 48), "bad_value"),
        (("add", "x", "--tee", "nitro", "--origin", "o\n", "--value", "pcr31=" + "5a" * 48), "schema"),
        (("add", "x", "--tee", "tpm", "--origin", "o", "--value", "pcr0=" + "5a" * 48, "--nonce", "00"), None),
        (("list", "--library", "@first.json"), "bad_document"),
        (("list", "--library", "@nowhere.json"), "unreadable_file"),
        (("retire", "x", "--tee", "tdx", "--reason", "r", "--library", "@nowhere.json"), "unreadable_file"),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Path, arguments: tuple[str, ...], reason: str | None) -> None:
    """A typed error, and no file is written or changed."""
    before = sorted(path.name for path in folder.iterdir())
    more = () if "--library" in arguments else ("--library", "@library.json")
    result = run(folder, "reference-values", *arguments, *more, "--json")
    assert result.exit_code in {2, 3}, result.output
    if reason is not None:
        assert json.loads(result.stdout)["error"]["reason"] == reason
    assert sorted(path.name for path in folder.iterdir()) == before


def from_amd(folder: Path, *parts: Any) -> tuple[str, ...]:
    known = snp.authorities()
    (folder / "report.bin").write_bytes(snp.report())
    (folder / "roots.pem").write_bytes(snp.pem(known.ark, known.ask, known.asvk))
    (folder / "parts.pem").write_bytes(snp.pem(*parts))
    brought = ("--tee", "sev-snp", "--endorsements", "@parts.pem", "--root", "@roots.pem", "--at", str(snp.NOW_MS))
    return ("@report.bin", *brought)


@pytest.mark.attack(6)
def test_a_draft_demands_that_revocation_is_checked(folder: Path) -> None:
    """Attack: drafted where no list was at hand, it would accept only who keeps the list from us."""
    result = run(folder, "appraisal", "draft", *from_amd(folder, snp.usual_leaf()), "-o", "@policy.json")
    assert result.exit_code == 0, result.output
    assert "Not the vendor's roots" in result.stderr
    verify = ("evidence", "verify", *from_amd(folder, snp.usual_leaf()), "--policy", "@policy.json", "--json")
    assert json.loads(run(folder, *verify).stdout)["refused"] == "facts"
    verify = ("evidence", "verify", *from_amd(folder, snp.usual_leaf(), snp.revocation_list()), "--policy")
    assert done(folder, *verify, "@policy.json")["acceptable"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"debug": True}, "debug"),
        ({"facts": (Fact(name=Label("foreign_nonce"), value="00"),)}, "foreign_nonce"),
    ],
)
def test_nothing_is_made_from_what_no_policy_should_accept(changes: dict[str, Any], reason: str) -> None:
    """Attack: a policy, or a known build, of evidence that is bound to nothing, or of a TEE that hides nothing."""
    require_fit(verified())
    with pytest.raises(AppraisalError) as caught:
        require_fit(verified(**changes))
    assert caught.value.reason == reason


def test_where_a_draft_is_not_what_was_said_is_listed() -> None:
    """A list that was not at hand, a key that nobody activated, and what is new at each start."""
    facts = {"revocation": "not_checked", "attestation_key": "unproven", "module_id": "i-1", "vmpl": "0"}
    seen = verified(
        tcb=Tcb(components=()), facts=tuple(Fact(name=Label(name), value=value) for name, value in facts.items())
    )
    listed = " ".join(differences(seen))
    assert all(
        words in listed for words in ("demanded is checked", "activated or certified", "new with each start", "by hand")
    )
    (entry,) = drafted(seen, label="x", version=1, this_chip=False).accepted
    rules = {str(rule.name): rule.allowed for rule in entry.facts}
    assert (rules["vmpl"], rules["revocation"]) == (("0",), ("checked",))
    assert isinstance(rules["module_id"], Unchecked)
    assert differences(verified()) == []


def test_debug_mode_is_no_build_and_one_chip_must_be_told(folder: Path) -> None:
    """Through the verbs: refused, and nothing is written."""
    evidence = SimulatedPlatform(FIRST, debug=True).report(bytes(64))
    (folder / "debug.json").write_bytes(encode(evidence))
    source = ("--tee", "simulated", "--from", "@debug.json", *AT, "--origin", "o", "--library", "@library.json")
    assert refused(folder, "reference-values", "add", "x", *source) == (5, "debug")
    assert refused(folder, "appraisal", "draft", "@debug.json", *AT, "-o", "@policy.json") == (5, "debug")
    parts = from_amd(folder, snp.usual_leaf(snp.MILAN, "vlek"))
    (folder / "report.bin").write_bytes(snp.report(kind="vlek"))
    chip = ("appraisal", "draft", *parts, "--this-chip", "-o", "@policy.json")
    assert refused(folder, *chip) == (3, "no_chip")
    assert not (folder / "library.json").exists()
    assert not (folder / "policy.json").exists()
