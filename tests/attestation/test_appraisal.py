"""Rules of the appraisal: nothing by absence, debug never, every failed check listed."""

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from aigovtool.attestation.appraisal import CHECK_NAMES, appraise, examine
from aigovtool.attestation.model import (
    Advisory,
    AttestationResult,
    Clock,
    Fact,
    Label,
    MeasuredEvents,
    Measurement,
    MeasurementHex,
    Outcome,
    ResultBody,
    Status,
    Tcb,
    TcbComponent,
    TeeType,
    Unchecked,
    VerifiedEvidence,
)
from aigovtool.attestation.policy import (
    AcceptedTee,
    AppraisalPolicy,
    EventRule,
    FactRule,
    ReferenceSet,
    ReferenceValue,
    policy_digest,
)
from aigovtool.codec import decode, encode
from aigovtool.errors import (
    AIGovToolError,
    AppraisalError,
    EvidenceError,
    ReattestRequiredError,
)
from aigovtool.ids import ChipId

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
LAUNCH = MeasurementHex("ab" * 48)
REPORT_DATA = bytes(range(64))
CHIP = ChipId("c0" * 64)
WHY = Unchecked(reason="decided in the risk register, entry 7")


def tcb(**versions: int) -> Tcb:
    return Tcb(components=tuple(TcbComponent(name=Label(name), version=v) for name, v in versions.items()))


def verified(**changes: Any) -> VerifiedEvidence:
    base = VerifiedEvidence(
        tee=TeeType.SEV_SNP,
        measurements=(Measurement(name=Label("launch"), digest=LAUNCH),),
        report_data=REPORT_DATA,
        debug=False,
        tcb=tcb(loader=3, snp=20),
        memory_encryption=True,
        chip_id=CHIP,
        facts=(Fact(name=Label("vmpl"), value="0"),),
        endorsed_until_ms=NOW_MS + 365 * 24 * HOUR_MS,
    )
    return dataclasses.replace(base, **changes)


def references(digest: MeasurementHex | Unchecked = LAUNCH, name: str = "launch") -> tuple[ReferenceSet, ...]:
    return (ReferenceSet(label="release 1", values=(ReferenceValue(name=Label(name), digest=digest),)),)


def entry(**changes: Any) -> AcceptedTee:
    base = AcceptedTee(
        tee=TeeType.SEV_SNP,
        reference_values=references(),
        min_tcb=tcb(loader=3, snp=18).components,
        chips=(CHIP,),
        facts=(FactRule(name=Label("vmpl"), allowed=("0",)),),
        max_attestation_age_ms=HOUR_MS,
    )
    return msgspec.structs.replace(base, **changes)


def policy(accepted: AcceptedTee | None = None, **changes: Any) -> AppraisalPolicy:
    return msgspec.structs.replace(AppraisalPolicy(version=1, accepted=(accepted or entry(),)), **changes)


def failed(evidence: VerifiedEvidence, rules: AppraisalPolicy) -> list[str]:
    """Return the names of the failed checks, having seen that `appraise` refuses and says the same."""
    names = [c.name for c in examine(evidence, rules, NOW_MS).checks if c.outcome is Outcome.FAILED]
    with pytest.raises(AppraisalError) as caught:
        appraise(evidence, rules, NOW_MS)
    assert caught.value.reason == names[0]
    assert all(f"{name}: " in caught.value.message for name in names)
    return list(names)


def test_evidence_that_meets_every_rule_is_affirmed() -> None:
    """With every check passed the result is affirming, and valid for the policy's maximum age."""
    result = appraise(verified(), policy(), NOW_MS)
    assert result.body.status is Status.AFFIRMING
    assert [check.name for check in result.body.checks] == list(CHECK_NAMES)
    assert {check.outcome for check in result.body.checks} == {Outcome.PASSED}
    assert (result.body.issued_at_ms, result.body.valid_until_ms) == (NOW_MS, NOW_MS + HOUR_MS)
    assert result.body.appraisal_policy == policy_digest(policy())
    assert msgspec.to_builtins(result.body.trust) == {
        "instance-identity": 2,
        "configuration": 2,
        "executables": 3,
        "file-system": 0,
        "hardware": 2,
        "runtime-opaque": 2,
        "storage-opaque": 0,
        "sourced-data": 0,
    }


FAILURES: dict[str, tuple[dict[str, Any], Callable[[], AppraisalPolicy]]] = {
    "debug": ({"debug": True}, policy),
    "memory_encryption": ({"memory_encryption": False}, policy),
    "measurements": ({"measurements": (Measurement(name=Label("launch"), digest=MeasurementHex("ac" * 48)),)}, policy),
    "tcb": ({"tcb": tcb(loader=2, snp=99)}, policy),
    "chip": ({"chip_id": ChipId("c1" * 64)}, policy),
    "facts": ({"facts": (Fact(name=Label("vmpl"), value="3"),)}, policy),
    "endorsements": ({"endorsed_until_ms": NOW_MS}, policy),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.attack(3, 6)
@pytest.mark.fault(23)
def test_each_check_refuses_alone(name: str) -> None:
    """Each single defect is refused, and only its own check fails."""
    changes, rules = FAILURES[name]
    assert failed(verified(**changes), rules()) == [name]
    assert examine(verified(**changes), rules(), NOW_MS).status is Status.CONTRAINDICATED


def test_every_failed_check_is_listed() -> None:
    """A refusal names all that is wrong, not only the first thing."""
    changes = {key: value for defect, _ in FAILURES.values() for key, value in defect.items()}
    assert failed(verified(**changes), policy()) == [name for name in CHECK_NAMES if name in FAILURES]


def test_a_tee_without_an_entry_is_refused() -> None:
    """What the policy does not mention is not accepted, and nothing about it counts as passed."""
    assert failed(verified(tee=TeeType.TDX), policy()) == [
        *("tee", "measurements", "tcb", "chip", "facts", "advisories", "collateral_age", "clock"),
    ]


@pytest.mark.attack(8)
def test_simulated_is_refused_unless_allowed_by_name() -> None:
    """An entry for the simulated TEE is not enough; with the switch it is never better than a warning."""
    rules = policy(entry(tee=TeeType.SIMULATED))
    assert failed(verified(tee=TeeType.SIMULATED), rules) == ["simulated"]
    allowed = appraise(
        verified(tee=TeeType.SIMULATED), policy(entry(tee=TeeType.SIMULATED), allow_simulated=True), NOW_MS
    )
    assert allowed.body.status is Status.WARNING
    trust = allowed.body.trust
    assert (trust.hardware, trust.runtime_opaque, trust.instance_identity) == (0, 0, 0)


def test_allowing_simulated_does_not_admit_it_without_an_entry() -> None:
    """The switch alone accepts nothing."""
    assert "tee" in failed(verified(tee=TeeType.SIMULATED), policy(allow_simulated=True))


def test_memory_without_encryption_is_a_warning_when_opted_in() -> None:
    """A policy may accept a TEE whose host reads its memory, and the result says so."""
    result = appraise(verified(memory_encryption=False), policy(memory_encryption_required=False), NOW_MS)
    assert result.body.status is Status.WARNING
    assert result.body.trust.runtime_opaque == 32


@pytest.mark.attack(5)
@pytest.mark.fault(21)
def test_debug_is_refused_by_the_most_generous_policy() -> None:
    """With everything left unchecked and every switch open, debug mode is still refused."""
    open_entry = entry(
        tee=TeeType.SIMULATED,
        reference_values=references(WHY),
        min_tcb=WHY,
        chips=WHY,
        facts=(FactRule(name=Label("vmpl"), allowed=WHY),),
    )
    generous = policy(open_entry, memory_encryption_required=False, allow_simulated=True)
    evidence = verified(tee=TeeType.SIMULATED, memory_encryption=False)
    assert appraise(evidence, generous, NOW_MS).body.status is Status.WARNING
    assert failed(dataclasses.replace(evidence, debug=True), generous) == ["debug"]


@pytest.mark.attack(6)
@pytest.mark.fault(23)
def test_an_advisory_is_accepted_by_its_name_only() -> None:
    """What the vendor knows to be wrong with a platform is accepted one by one, and by default not at all."""
    evidence = verified(advisories=(Advisory("INTEL-SA-00615"), Advisory("INTEL-SA-00289")))
    assert failed(evidence, policy()) == ["advisories"]
    assert failed(evidence, policy(entry(advisories=(Advisory("INTEL-SA-00289"),)))) == ["advisories"]
    both = entry(advisories=(Advisory("INTEL-SA-00289"), Advisory("INTEL-SA-00615")))
    body = appraise(evidence, policy(both), NOW_MS).body
    assert (body.status, body.trust.hardware) == (Status.AFFIRMING, 2)
    body = appraise(evidence, policy(entry(advisories=WHY)), NOW_MS).body
    assert (body.status, body.trust.hardware) == (Status.WARNING, 32)


@pytest.mark.parametrize(("tee", "days"), [(TeeType.SEV_SNP, 366), (TeeType.TDX, 30), (TeeType.SGX, 30)])
def test_collateral_is_not_older_than_is_usual(tee: TeeType, days: int) -> None:
    """To the millisecond: Intel states anew each month, AMD makes a list when something is revoked."""
    limit_ms = NOW_MS - days * 24 * HOUR_MS
    usual = policy(entry(tee=tee))
    assert failed(verified(tee=tee, endorsed_since_ms=limit_ms - 1), usual) == ["collateral_age"]
    appraise(verified(tee=tee, endorsed_since_ms=limit_ms), usual, NOW_MS)


@pytest.mark.attack(6)
def test_collateral_is_not_older_than_the_policy_says() -> None:
    """An age that is given holds for every platform; leaving it out is said and shown."""
    day_ms = 24 * HOUR_MS
    week = policy(entry(max_collateral_age_ms=7 * day_ms))
    assert failed(verified(endorsed_since_ms=NOW_MS - 7 * day_ms - 1), week) == ["collateral_age"]
    appraise(verified(endorsed_since_ms=NOW_MS - 7 * day_ms), week, NOW_MS)
    old = verified(endorsed_since_ms=NOW_MS - 1_000 * day_ms)
    body = appraise(old, policy(entry(max_collateral_age_ms=WHY)), NOW_MS).body
    assert body.status is Status.WARNING


def vouched(**changes: Any) -> tuple[ReferenceSet, ...]:
    return (msgspec.structs.replace(references()[0], secure_tsc=True, **changes),)


@pytest.mark.parametrize(
    ("clock", "known", "outcome"),
    [
        (Clock.PLATFORM, references(), Outcome.PASSED),
        (Clock.MEASURED, vouched(), Outcome.PASSED),
        (Clock.MEASURED, references(), Outcome.FAILED),
        (Clock.MEASURED, (*references(), *vouched(label="of a liar")), Outcome.FAILED),
        (Clock.MEASURED, vouched(values=(ReferenceValue(name=Label("launch"), digest=WHY),)), Outcome.FAILED),
        (Clock.HOST, vouched(), Outcome.FAILED),
    ],
    ids=["platform", "vouched for", "unknown", "the first that matches", "left out", "host"],
)
def test_a_clock_is_trusted_if_its_host_cannot_slow_it(
    clock: Clock, known: tuple[ReferenceSet, ...], outcome: Outcome
) -> None:
    """Where the measurement alone tells, its author has to vouch; and what was not compared vouches for nothing."""
    trusted = outcome is Outcome.PASSED
    required = policy(entry(reference_values=known, trusted_clock_required=True))
    found = examine(verified(clock=clock), policy(entry(reference_values=known)), NOW_MS)
    assert found.trusted_clock is trusted
    assert found.status is not Status.CONTRAINDICATED
    detail = next(check.detail for check in found.checks if check.name == "clock")
    assert ("units, not in time" in detail) is not trusted
    if trusted:
        assert appraise(verified(clock=clock), required, NOW_MS).body.trusted_clock
    else:
        assert failed(verified(clock=clock), required) == ["clock"]


def logged(*digests: str) -> VerifiedEvidence:
    """Evidence with one more register, into which these digests were measured."""
    pcr4 = Measurement(name=Label("pcr4"), digest=MeasurementHex("44" * 32))
    log = MeasuredEvents(register=Label("pcr4"), digests=tuple(MeasurementHex(digest * 32) for digest in digests))
    return verified(measurements=(*verified().measurements, pcr4), events=(log,) if digests else ())


def ruled(required: str, allowed: str = "", **values: str) -> AppraisalPolicy:
    rule = EventRule(
        register=Label("pcr4"),
        required=tuple(MeasurementHex(digest * 32) for digest in required.split()),
        allowed=tuple(MeasurementHex(digest * 32) for digest in allowed.split()),
    )
    more = tuple(ReferenceValue(name=Label(name), digest=MeasurementHex(v)) for name, v in values.items())
    (known,) = references()
    return policy(
        entry(reference_values=(msgspec.structs.replace(known, values=(*known.values, *more), events=(rule,)),))
    )


def test_a_register_is_judged_by_what_was_measured_into_it() -> None:
    """Everything required, and nothing that is not named; its value may be anything then."""
    appraise(logged("aa", "bb", "aa"), ruled("aa bb"), NOW_MS)
    appraise(logged("bb", "aa", "cc"), ruled("aa bb", "cc dd"), NOW_MS)
    assert failed(logged("aa", "bb", "cc"), ruled("aa bb")) == ["measurements"]
    assert failed(logged("aa"), ruled("aa bb", "cc")) == ["measurements"]
    assert failed(logged(), ruled("aa")) == ["measurements"]
    appraise(logged("aa"), ruled("aa", pcr4="44" * 32), NOW_MS)
    assert failed(logged("aa"), ruled("aa", pcr4="45" * 32)) == ["measurements"]


def test_a_register_without_value_and_without_rule_is_not_accepted() -> None:
    """Nothing by absence; and a rule for a register that is not there matches nothing, nor do two for one."""
    assert failed(logged("aa"), policy()) == ["measurements"]
    assert failed(verified(), ruled("aa")) == ["measurements"]
    twice = ruled("aa")
    (known,) = twice.accepted[0].reference_values
    known = msgspec.structs.replace(known, events=known.events * 2)
    assert failed(logged("aa"), policy(entry(reference_values=(known,)))) == ["measurements"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("measurements", {"reference_values": references(WHY)}),
        ("tcb", {"min_tcb": WHY}),
        ("chip", {"chips": WHY}),
        ("facts", {"facts": (FactRule(name=Label("vmpl"), allowed=WHY),)}),
    ],
)
def test_a_check_left_out_is_visible_in_the_result(name: str, changes: dict[str, Any]) -> None:
    """What is not checked shows with its reason, and the result is only a warning."""
    body = appraise(verified(), policy(entry(**changes)), NOW_MS).body
    unchecked = [check for check in body.checks if check.outcome is Outcome.UNCHECKED]
    assert [check.name for check in unchecked] == [name]
    assert WHY.reason in unchecked[0].detail
    assert body.status is Status.WARNING


def test_measurement_without_reference_value_is_refused() -> None:
    """A measurement that the policy does not mention is not accepted, nor a reference value nobody measured."""
    more = (*verified().measurements, Measurement(name=Label("extra"), digest=MeasurementHex("00" * 32)))
    assert failed(verified(measurements=more), policy()) == ["measurements"]
    two = ReferenceSet(label="two", values=(*references()[0].values, *references(name="extra")[0].values))
    assert failed(verified(), policy(entry(reference_values=(two,)))) == ["measurements"]


def test_reference_values_are_not_mixed_between_builds() -> None:
    """Kernel of one build with the application of another is no accepted build."""

    def build(label: str, kernel: str, application: str) -> ReferenceSet:
        named = {"kernel": kernel, "application": application}
        values = tuple(ReferenceValue(name=Label(n), digest=MeasurementHex(d * 32)) for n, d in named.items())
        return ReferenceSet(label=label, values=values)

    rules = policy(entry(reference_values=(build("one", "01", "02"), build("two", "03", "04"))))

    def runs(kernel: str, application: str) -> VerifiedEvidence:
        named = {"kernel": kernel, "application": application}
        return verified(
            measurements=tuple(Measurement(name=Label(n), digest=MeasurementHex(d * 32)) for n, d in named.items())
        )

    appraise(runs("03", "04"), rules, NOW_MS)
    assert failed(runs("01", "04"), rules) == ["measurements"]


def test_evidence_satisfies_one_entry_whole() -> None:
    """Attack: the build for the old processor on old microcode, where only the new one may have that."""
    other, third = MeasurementHex("cd" * 48), MeasurementHex("ef" * 48)

    def seen(launch: MeasurementHex, snp: int) -> VerifiedEvidence:
        measured = (Measurement(name=Label("launch"), digest=launch),)
        return verified(measurements=measured, tcb=tcb(loader=3, snp=snp))

    old = entry(label=Label("old"), min_tcb=tcb(loader=3, snp=100).components)
    new = entry(label=Label("new"), reference_values=references(other), min_tcb=tcb(loader=3, snp=10).components)
    rules = AppraisalPolicy(version=1, accepted=(old, new))
    for launch, snp, name in ((LAUNCH, 100, "old"), (other, 10, "new")):
        body = appraise(seen(launch, snp), rules, NOW_MS).body
        assert body.checks[0].detail == f"sev-snp {name} has an entry"
    assert failed(seen(LAUNCH, 99), rules) == ["tcb"]
    assert failed(seen(other, 9), rules) == ["tcb"]
    assert failed(seen(third, 100), rules) == ["measurements"]


def test_a_full_match_is_preferred_to_an_entry_that_leaves_something_out() -> None:
    """Whichever comes first: the result says what was really checked."""
    lax, strict = entry(label=Label("lax"), chips=WHY), entry(label=Label("strict"))
    for accepted in ((lax, strict), (strict, lax)):
        result = appraise(verified(), AppraisalPolicy(version=1, accepted=accepted), NOW_MS).body
        assert result.checks[0].detail == "sev-snp strict has an entry"
        assert Outcome.UNCHECKED not in {check.outcome for check in result.checks}


def test_reference_value_named_twice_accepts_nothing() -> None:
    """A set that names one measurement twice is ambiguous, so it does not match, in whichever order."""
    right, wrong = references()[0].values, references(MeasurementHex("00" * 48))[0].values
    for values in (right + wrong, wrong + right):
        double = ReferenceSet(label="double", values=values)
        assert failed(verified(), policy(entry(reference_values=(double,)))) == ["measurements"]


@pytest.mark.parametrize(
    ("have", "minimum"),
    [
        (tcb(loader=3), tcb(loader=3, snp=18)),
        (tcb(loader=3, snp=18, microcode=0), tcb(loader=3, snp=18)),
        (tcb(loader=99, snp=17), tcb(loader=3, snp=18)),
        (Tcb(components=tcb(loader=3, snp=17).components + tcb(snp=18).components), tcb(loader=3, snp=18)),
    ],
    ids=["missing", "unjudged", "one is lower", "named twice"],
)
@pytest.mark.attack(6)
@pytest.mark.fault(23)
def test_tcb_is_compared_component_by_component(have: Tcb, minimum: Tcb) -> None:
    """A high component does not make up for a low, missing, unjudged or ambiguous one."""
    assert failed(verified(tcb=have), policy(entry(min_tcb=minimum.components))) == ["tcb"]


def test_facts_and_rules_must_cover_each_other() -> None:
    """A fact without a rule is refused, and a rule whose fact is not reported, and two rules for one fact."""
    assert failed(verified(), policy(entry(facts=()))) == ["facts"]
    assert failed(verified(facts=()), policy()) == ["facts"]
    twice = (FactRule(name=Label("vmpl"), allowed=("3",)), FactRule(name=Label("vmpl"), allowed=("0",)))
    assert failed(verified(), policy(entry(facts=twice))) == ["facts"]


@pytest.mark.attack(3)
def test_a_chip_that_does_not_tell_is_refused_where_chips_are_listed() -> None:
    """A masked chip id cannot pass a list of chips."""
    assert failed(verified(chip_id=None), policy()) == ["chip"]


def test_result_ends_with_the_endorsements() -> None:
    """A result is never valid for longer than what it rests on."""
    result = appraise(verified(endorsed_until_ms=NOW_MS + 1_000), policy(), NOW_MS)
    assert result.body.valid_until_ms == NOW_MS + 1_000
    result.require_valid(NOW_MS + 999)
    for late in (NOW_MS + 1_000, NOW_MS - 1):
        with pytest.raises(ReattestRequiredError):
            result.require_valid(late)


def test_result_is_about_one_report_data() -> None:
    """A result is not used for another conversation than its own."""
    result = appraise(verified(), policy(), NOW_MS)
    result.require_report_data(REPORT_DATA)
    for other in (bytes(64), REPORT_DATA[:63], b""):
        with pytest.raises(EvidenceError) as caught:
            result.require_report_data(other)
        assert caught.value.reason == "channel_binding"


def test_only_an_appraisal_makes_a_result() -> None:
    """A result cannot be built from a body, copied, pickled or changed."""
    result = appraise(verified(), policy(), NOW_MS)
    attempts: list[Callable[[], object]] = [
        lambda: AttestationResult(result.body, object()),
        lambda: AttestationResult(result.body, None),
        lambda: copy.copy(result),
        lambda: pickle.dumps(result),
        lambda: setattr(result, "body", result.body),
    ]
    for attempt in attempts:
        with pytest.raises(AppraisalError) as caught:
            attempt()
        assert caught.value.reason == "not_appraised"


def test_result_body_travels() -> None:
    """The body survives the wire; a body with an additional member does not."""
    body = appraise(verified(), policy(), NOW_MS).body
    assert decode(encode(body), ResultBody) == body
    with pytest.raises(AIGovToolError):
        decode(encode(msgspec.to_builtins(body) | {"debug": False}), ResultBody)
