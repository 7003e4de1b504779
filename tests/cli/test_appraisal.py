"""The appraisal policy from the command line: shown, compared, replaced, and obeyed."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.cli.conftest import Place
from tests.cli.site import Site, do, make_site
from tests.custodian.conftest import Enclave, make_bench

from aigovtool.attestation.model import Advisory, Label, MeasurementHex, TcbComponent, TeeType, Unchecked
from aigovtool.attestation.policy import (
    AcceptedTee,
    AppraisalPolicy,
    EventRule,
    FactRule,
    ReferenceSet,
    ReferenceValue,
    policy_digest,
)
from aigovtool.cli.appraisal.loud import one_minimum_for_several
from aigovtool.cli.appraisal.words import AS_MUCH, LESS, MORE, changes, rules
from aigovtool.codec import encode
from aigovtool.errors import AppraisalError
from aigovtool.ids import ChipId
from aigovtool.transport.server import bind_loopback

DIGEST = "ab" * 32


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A custodian with one operator, and one enclave that its policy accepts."""
    with bind_loopback() as listener:
        made = make_site(tmp_path, listener, None, alone=True)
        yield made
        made.bench.custodian.database.close()


def present(place: Place) -> Any:
    """Return the policy in force as a user saves it."""
    return json.loads(place.run("appraisal", "show", "--json").stdout)


def save(place: Place, policy: Any, name: str = "policy.json") -> str:
    path = Path(place.file(name))
    path.write_text(json.dumps(policy), encoding="utf-8")
    return str(path)


def test_the_policy_is_shown_and_saved_as_the_file_that_set_takes(site: Site) -> None:
    """What `show --json` prints is read back as the same policy, and is refused because it changes nothing."""
    with site.served() as place:
        shown = place.run("appraisal", "show")
        assert shown.exit_code == 0, shown.output
        assert "SIMULATED TEE" in shown.stderr
        policy = present(place)
        build = policy["accepted"][0]["reference_values"][0]
        for words in (build["label"], build["values"][0]["digest"], "NOT CHECKED: ", "least TCB"):
            assert words in shown.stdout
        same = place.run("appraisal", "set", save(place, policy), "--yes")
        assert (same.exit_code, "same_policy" in same.stderr) == (3, True)


def test_another_policy_is_obeyed_at_once(site: Site) -> None:
    """Old and new are compared, nothing happens without an answer; then the old build is refused everywhere."""
    with site.served() as place:
        policy = present(place)
        (build,) = policy["accepted"][0]["reference_values"]
        other = {"label": "release 2", "values": [{"name": build["values"][0]["name"], "digest": "cd" * 48}]}
        policy["accepted"][0]["reference_values"] = [other]
        policy["version"] = 2
        file = save(place, policy)
        unanswered = place.run("appraisal", "set", file)
        assert (unanswered.exit_code, "not_confirmed" in unanswered.stderr) == (3, True)
        for words in (build["label"], "release 2", "cd" * 48, "accepts more than now: simulated: build release 2."):
            assert words in unanswered.stdout
        assert present(place)["version"] == 1
        done = place.document("appraisal", "set", file, "--yes")
        assert (done["before"], done["version"]) == (1, 2)
        assert [(one["what"], one["accepts"]) for one in done["changes"]] == [
            ("simulated: build release 2", "more"),
            (f"simulated: build {build['label']}", "less"),
        ]
        assert present(place)["version"] == 2
        with pytest.raises(AppraisalError):
            do(Enclave(site.bench).boot())
        with pytest.raises(AssertionError):
            site.draw(1)  # who was admitted by the old one gets no lease any more
        (gone, *_) = place.document("enclaves", "list")["enclaves"]
        assert (gone["state"], "measurements" in gone["why"]) == ("unaccepted", True)
        assert "is accepted no more: " in place.run("enclaves", "list").stdout
        (told,) = place.document("audit", "list", "--kind", "appraisal_policy_set")["entries"][-1:]
        assert "version 2" in place.run("audit", "list", "--kind", "appraisal_policy_set").stdout
        assert told["who"] == "operator alice"


def test_an_older_policy_and_a_second_of_one_version_are_refused(site: Site) -> None:
    """Before anything is asked, with the version to take; the file in force stays."""
    with site.served() as place:
        first = present(place)
        second = {**first, "version": 2, "memory_encryption_required": False}
        loosened = place.run("appraisal", "set", save(place, second), "--yes")
        assert (loosened.exit_code, "boot integrity, no memory encryption" in loosened.stderr) == (0, True)
        for policy, reason in ((first, "policy_rollback"), ({**first, "version": 2}, "policy_fork")):
            refused = place.run("appraisal", "set", save(place, policy), "--yes")
            assert (refused.exit_code, reason in refused.stderr, refused.stdout) == (5, True, ""), refused.output
            assert 'set "version": 3' in refused.stderr
        assert present(place) == second


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "bad_document"),
        (b"{}", "bad_document"),
        (b'{"version": 2, "url": "x"}', "bad_document"),
        (None, "unreadable_file"),
    ],
)
def test_a_file_that_is_no_policy_is_refused(content: bytes | None, reason: str, site: Site) -> None:
    """Nothing is guessed: an unknown or a missing field is an error that says how to begin."""
    with site.served() as place:
        file = Path(place.file("policy.json"))
        if content is not None:
            file.write_bytes(content)
        refused = place.run("appraisal", "set", str(file), "--yes")
        assert (refused.exit_code, reason in refused.stderr) == (2, True)
        assert "aigovtool appraisal show --json" in refused.stderr


def test_a_first_policy_is_set_where_there_was_none(tmp_path: Path) -> None:
    """Without one no enclave is admitted, and that is what is said."""
    bench = make_bench(tmp_path / "custodian", allow_simulated=False)
    with bind_loopback() as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        address = msgspec.structs.replace(bench.operator.custodian, url=url)
        operator = tmp_path / "alice.json"
        operator.touch(mode=0o600)
        operator.write_bytes(encode(msgspec.structs.replace(bench.operator, custodian=address)))
        site = Site(Place(tmp_path, operator, listener), bench, None)
        with site.served() as place:
            none = place.run("appraisal", "show")
            assert (none.exit_code, "no enclave can be admitted" in none.stderr) == (2, True)
            assert "aigovtool appraisal set" in none.stderr
            policy = json.loads(encode(POLICY))
            done = place.run("appraisal", "set", save(place, policy), "--yes")
            assert done.exit_code == 0, done.output
            assert "There was no policy" in done.stdout
            assert present(place) == policy
    bench.custodian.database.close()


# --- What changes -------------------------------------------------------------------------------------

ENTRY = AcceptedTee(
    tee=TeeType.TDX,
    reference_values=(
        ReferenceSet(label="release 1", values=(ReferenceValue(name=Label("mrtd"), digest=MeasurementHex(DIGEST)),)),
    ),
    min_tcb=(TcbComponent(name=Label("module"), version=5),),
    chips=(ChipId("aa"), ChipId("bb")),
    facts=(FactRule(name=Label("mode"), allowed=("a",)),),
    max_attestation_age_ms=3_600_000,
)
POLICY = AppraisalPolicy(version=1, accepted=(ENTRY,))
WHY = Unchecked(reason="why")


def of(**fields: Any) -> AppraisalPolicy:
    """Return the policy with another entry."""
    return msgspec.structs.replace(POLICY, accepted=(msgspec.structs.replace(ENTRY, **fields),))


def build(digest: MeasurementHex | Unchecked) -> tuple[ReferenceSet, ...]:
    return (ReferenceSet(label="release 1", values=(ReferenceValue(name=Label("mrtd"), digest=digest),)),)


(BUILD,), ONE = build(MeasurementHex("cd" * 32)), MeasurementHex("11" * 32)
#: Each admits something that the other does not, or cannot be shown not to.
SWAPPED = (
    of(chips=(ChipId("aa"), ChipId("cc"))),
    of(reference_values=build(MeasurementHex("cd" * 32))),
    of(reference_values=build(WHY)),
    of(
        reference_values=(msgspec.structs.replace(BUILD, events=(EventRule(register=Label("mrtd"), required=(ONE,)),)),)
    ),
)


@pytest.mark.parametrize(
    ("changed", "what", "accepts"),
    [
        (msgspec.structs.replace(POLICY, allow_simulated=True), "simulated TEEs", MORE),
        (msgspec.structs.replace(POLICY, memory_encryption_required=False), "memory encryption", MORE),
        (SWAPPED[1], "tdx: build release 1", MORE),
        (SWAPPED[2], "tdx: build release 1", MORE),
        (of(min_tcb=(TcbComponent(name=Label("module"), version=4),)), "tdx: least TCB", MORE),
        (of(min_tcb=(TcbComponent(name=Label("module"), version=6),)), "tdx: least TCB", LESS),
        (of(min_tcb=WHY), "tdx: least TCB", MORE),
        (of(chips=(ChipId("aa"),)), "tdx: chips", LESS),
        (SWAPPED[0], "tdx: chips", MORE),
        (of(chips=(ChipId("bb"), ChipId("aa"))), "tdx: chips", AS_MUCH),
        (of(chips=WHY), "tdx: chips", MORE),
        (of(facts=(FactRule(name=Label("mode"), allowed=("a", "b")),)), "tdx: fact mode", MORE),
        (of(facts=(FactRule(name=Label("mode"), allowed=WHY),)), "tdx: fact mode", MORE),
        (of(facts=()), "tdx: fact mode", LESS),
        (of(max_attestation_age_ms=3_600_001), "tdx: an attestation is good for", MORE),
        (of(max_attestation_age_ms=3_599_999), "tdx: an attestation is good for", LESS),
        (of(advisories=(Advisory("INTEL-SA-1"),)), "tdx: accepted advisories", MORE),
        (of(advisories=WHY), "tdx: accepted advisories", MORE),
        (of(max_collateral_age_ms=86_400_000), "tdx: collateral is at most so old", LESS),
        (of(max_collateral_age_ms=WHY), "tdx: collateral is at most so old", MORE),
        (SWAPPED[3], "tdx: build release 1", MORE),
        (of(trusted_clock_required=True), "tdx: a clock that its host cannot slow", LESS),
    ],
)
def test_each_rule_that_changes_is_named_with_its_direction(changed: AppraisalPolicy, what: str, accepts: str) -> None:
    """Forwards and backwards: what accepts more one way accepts less the other; what is swapped, more both ways."""
    (change,) = changes(POLICY, changed)
    assert (change.what, change.accepts) == (what, accepts)
    assert change.now != change.then
    (back,) = changes(changed, POLICY)
    assert (back.now, back.then) == (change.then, change.now)
    opposite = {MORE: LESS, LESS: MORE, AS_MUCH: AS_MUCH}[accepts]
    assert back.accepts == (MORE if changed in SWAPPED else opposite)


def test_one_minimum_for_several_kinds_of_processor_is_found() -> None:
    """Microcode of Milan counts higher than Genoa's: a minimum taken from Genoa would accept any old Milan."""
    versions = (TcbComponent(name=Label("microcode"), version=84),)

    def judged(product: tuple[str, ...] | Unchecked, minimum: tuple[TcbComponent, ...] | Unchecked = versions) -> bool:
        facts = (FactRule(name=Label("product"), allowed=product),)
        return one_minimum_for_several(msgspec.structs.replace(POLICY.accepted[0], facts=facts, min_tcb=minimum))

    assert not judged(("Milan",))
    assert judged(("Milan", "Genoa"))
    assert judged(WHY)
    assert not judged(("Milan", "Genoa"), WHY)


def test_every_field_of_a_policy_is_in_what_is_shown() -> None:
    """A change that is not shown could not be judged: each field, changed, gives a line."""
    assert changes(POLICY, msgspec.structs.replace(POLICY, version=2)) == []
    assert set(AppraisalPolicy.__struct_fields__) == {
        "version",
        "accepted",
        "memory_encryption_required",
        "allow_simulated",
    }
    assert set(AcceptedTee.__struct_fields__) == {
        "tee",
        "reference_values",
        "min_tcb",
        "chips",
        "facts",
        "max_attestation_age_ms",
        "advisories",
        "max_collateral_age_ms",
        "label",
        "trusted_clock_required",
    }
    assert len(rules(POLICY)) == 2 + 7
    assert policy_digest(POLICY) != policy_digest(of(chips=WHY))


def test_no_build_hides_behind_the_label_of_another() -> None:
    """However labels are chosen, each measurement that is accepted from then on is in what a second operator reads."""
    known, strange = build(MeasurementHex(DIGEST))[0], msgspec.structs.replace(BUILD, label="release 1 (2)")
    for sets in itertools.permutations((strange, known, known)):
        found = changes(POLICY, of(reference_values=sets))
        told = [change for change in found if "cd" * 32 in change.then]
        assert [change.accepts for change in told] == [MORE], sets
        assert len({rule.what for rule in rules(of(reference_values=sets))}) == len(rules(POLICY)) + 2


def test_a_tee_that_comes_or_goes_is_listed_rule_by_rule() -> None:
    """Another TEE accepts more with each of its rules; one that is gone accepts less. Two builds may share a label."""
    snp = msgspec.structs.replace(ENTRY, tee=TeeType.SEV_SNP, reference_values=ENTRY.reference_values * 2)
    both = msgspec.structs.replace(POLICY, accepted=(ENTRY, snp))
    assert [change.accepts for change in changes(POLICY, both)] == [MORE] * 8
    assert [change.accepts for change in changes(both, POLICY)] == [LESS] * 8
    assert [change.what for change in changes(POLICY, both)][:2] == [
        "sev-snp: build release 1",
        "sev-snp: build release 1 (2)",
    ]
    assert {change.now for change in changes(POLICY, both)} == {"-"}
