"""Is genuine evidence acceptable? What an appraisal policy makes of evidence (spec: attestation, section 5).

Rules:

1. Nothing is accepted by absence. A policy says something about everything that a report says; leaving a check
   out is written `Unchecked(reason)`, shows in the result, and lowers its status to warning.
2. A TEE in debug mode is refused. No field of a policy can allow it, and unknown fields are errors.
3. The simulated TEE and TEEs without memory encryption are refused unless the policy opts in by name.
4. All checks are made, always in the same order, and a refusal names every one that failed.
5. Where a TEE type has several entries, evidence must satisfy one whole: nothing is taken from two.
6. A policy's version only grows: an older one cannot come back (`require_successor`).

What it does not do: it does not ask whether evidence is genuine (`verifier`) or fresh (`binding`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from aigovtool.attestation.model import (
    APPRAISAL_TOKEN,
    AttestationResult,
    Check,
    Clock,
    Label,
    Outcome,
    ResultBody,
    Status,
    TeeType,
    TrustVector,
    Unchecked,
    VerifiedEvidence,
)
from aigovtool.attestation.policy import AcceptedTee, AppraisalPolicy, EventRule, ReferenceSet, policy_digest
from aigovtool.errors import AppraisalError


def appraise(verified: VerifiedEvidence, policy: AppraisalPolicy, now_ms: int) -> AttestationResult:
    """Return a result if every check of `policy` holds at `now_ms`.

    The caller has verified the evidence (`verifier`) and its binding (`binding.require_bound`) before.

    Raises:
        AppraisalError: the message names every check that failed; `reason` is the name of the first. `examine` gives
            them as a structure.
    """
    body = examine(verified, policy, now_ms)
    failed = [check for check in body.checks if check.outcome is Outcome.FAILED]
    if failed:
        listed = "; ".join(f"{check.name}: {check.detail}" for check in failed)
        raise AppraisalError(
            f"{len(failed)} of {len(body.checks)} checks failed: {listed}",
            reason=failed[0].name,
            fix="run an enclave that the appraisal policy accepts, or have its owner change the policy",
        )
    return AttestationResult(body, APPRAISAL_TOKEN)


def examine(verified: VerifiedEvidence, policy: AppraisalPolicy, now_ms: int) -> ResultBody:
    """Make every check and return the outcome, acceptable or not: for the audit log and the dashboard.

    It never raises and authorises nothing; only `appraise` makes an `AttestationResult`.
    """
    entries = [entry for entry in policy.accepted if entry.tee is verified.tee]
    judged = [_judged(_Case(verified, policy, entry, now_ms)) for entry in entries or (None,)]
    entry, checks = min(judged, key=_shortcomings)
    trust = _trust(verified, {check.name: check.outcome for check in checks})
    age_ms = entry.max_attestation_age_ms if entry else 0
    return ResultBody(
        tee=verified.tee,
        status=_status(verified, checks, trust),
        trust=trust,
        issued_at_ms=now_ms,
        valid_until_ms=max(now_ms, min(now_ms + age_ms, verified.endorsed_until_ms)),
        appraisal_policy=policy_digest(policy),
        policy_version=policy.version,
        measurements=verified.measurements,
        tcb=verified.tcb,
        chip_id=verified.chip_id,
        memory_encryption=verified.memory_encryption,
        report_data=verified.report_data,
        checks=checks,
        trusted_clock=_has_trusted_clock(verified, entry),
    )


@dataclass(frozen=True, slots=True)
class _Case:
    verified: VerifiedEvidence
    policy: AppraisalPolicy
    entry: AcceptedTee | None
    now_ms: int


@dataclass(frozen=True, slots=True)
class _Finding:
    outcome: Outcome
    detail: str


_Rule = Callable[[_Case], _Finding]
_EntryRule = Callable[[VerifiedEvidence, AcceptedTee], _Finding]


def _passed(detail: str) -> _Finding:
    return _Finding(Outcome.PASSED, detail)


def _failed(detail: str) -> _Finding:
    return _Finding(Outcome.FAILED, detail)


def _unchecked(reasons: Sequence[str]) -> _Finding:
    return _Finding(Outcome.UNCHECKED, "; ".join(reasons))


def _check(name: Label, rule: _Rule, case: _Case) -> Check:
    finding = rule(case)
    return Check(name=name, outcome=finding.outcome, detail=finding.detail)


def _judged(case: _Case) -> tuple[AcceptedTee | None, tuple[Check, ...]]:
    return case.entry, tuple(_check(name, rule, case) for name, rule in _RULES.items())


def _shortcomings(judged: tuple[AcceptedTee | None, Sequence[Check]]) -> tuple[int, int]:
    """Order entries: the one with the fewest failed checks is the one to judge by, then with the fewest left out."""
    outcomes = [check.outcome for check in judged[1]]
    return outcomes.count(Outcome.FAILED), outcomes.count(Outcome.UNCHECKED)


def _tee(case: _Case) -> _Finding:
    if case.entry is None:
        return _failed(f"the policy has no entry for {case.verified.tee}")
    return _passed(f"{case.entry.name} has an entry")


def _simulated(case: _Case) -> _Finding:
    if case.verified.tee is not TeeType.SIMULATED:
        return _passed("a hardware platform")
    if not case.policy.allow_simulated:
        return _failed("the simulated TEE protects nothing, and the policy does not allow it")
    return _passed("simulated, allowed by name: protects nothing")


def _debug(case: _Case) -> _Finding:
    if case.verified.debug:
        return _failed("the TEE is in debug mode: its host can read its memory")
    return _passed("debug mode is off")


def _memory_encryption(case: _Case) -> _Finding:
    if case.verified.memory_encryption:
        simulated = case.verified.tee is TeeType.SIMULATED
        return _passed("claimed only: nothing is encrypted" if simulated else "memory is encrypted against the host")
    if case.policy.memory_encryption_required:
        return _failed("memory is not encrypted against the host")
    return _unchecked(["memory is not encrypted; the policy allows that"])


def _endorsements(case: _Case) -> _Finding:
    if case.now_ms >= case.verified.endorsed_until_ms:
        return _failed("the endorsements of the platform have run out")
    return _passed("the endorsements of the platform are valid")


def _of_entry(rule: _EntryRule) -> _Rule:
    """Make a rule that fails where the policy has no entry for the TEE."""

    def with_entry(case: _Case) -> _Finding:
        if case.entry is None:
            return _failed(f"the policy says nothing about {case.verified.tee}")
        return rule(case.verified, case.entry)

    return with_entry


def _chosen(verified: VerifiedEvidence, entry: AcceptedTee) -> ReferenceSet | None:
    """Return the reference values that match; a full match is preferred to one that leaves a measurement out."""
    matches = [reference for reference in entry.reference_values if _matches(verified, reference)]
    return min(matches, key=lambda reference: len(_left_out(reference)), default=None)


def _measurements(verified: VerifiedEvidence, entry: AcceptedTee) -> _Finding:
    chosen = _chosen(verified, entry)
    if chosen is None:
        seen = ", ".join(f"{part.name} {part.digest}" for part in verified.measurements)
        return _failed(f"no set of reference values has {seen}")
    reasons = _left_out(chosen)
    return _unchecked(reasons) if reasons else _passed(f"reference values {chosen.label!r}")


def _matches(verified: VerifiedEvidence, reference: ReferenceSet) -> bool:
    """Whether every measurement is judged, by value or by its events, nothing else is, and all agree."""
    wanted = {value.name: value.digest for value in reference.values}
    seen = {part.name: part.digest for part in verified.measurements}
    ruled = {rule.register for rule in reference.events}
    once = len(wanted) == len(reference.values) and len(ruled) == len(reference.events)
    if not once or wanted.keys() | ruled != seen.keys():
        return False
    equal = all(isinstance(digest, Unchecked) or digest == seen[name] for name, digest in wanted.items())
    return equal and all(_follows(verified, rule) for rule in reference.events)


def _follows(verified: VerifiedEvidence, rule: EventRule) -> bool:
    """Whether the log of a register is there, has all that is required, and nothing that is not named."""
    logs = [set(log.digests) for log in verified.events if log.register == rule.register]
    required = set(rule.required)
    return bool(logs) and required <= logs[0] <= required | set(rule.allowed)


def _left_out(reference: ReferenceSet) -> list[str]:
    return [f"{v.name}: {v.digest.reason}" for v in reference.values if isinstance(v.digest, Unchecked)]


def _tcb(verified: VerifiedEvidence, entry: AcceptedTee) -> _Finding:
    if isinstance(entry.min_tcb, Unchecked):
        return _unchecked([entry.min_tcb.reason])
    shortfalls = verified.tcb.shortfalls(entry.min_tcb)
    return _failed("; ".join(shortfalls)) if shortfalls else _passed("every component is at its minimum or above")


def _chip(verified: VerifiedEvidence, entry: AcceptedTee) -> _Finding:
    if isinstance(entry.chips, Unchecked):
        return _unchecked([entry.chips.reason])
    if verified.chip_id is None:
        return _failed("the platform does not tell which chip it is")
    return _passed("a listed chip") if verified.chip_id in entry.chips else _failed("the chip is not listed")


def _facts(verified: VerifiedEvidence, entry: AcceptedTee) -> _Finding:
    rules = {rule.name: rule.allowed for rule in entry.facts}
    seen = {fact.name: fact.value for fact in verified.facts}
    problems = ["a fact has two rules"] if len(rules) != len(entry.facts) else []
    problems += [f"{name} has no rule" for name in seen if name not in rules]
    problems += [f"{name} is not reported" for name in rules if name not in seen]
    left_out = []
    for name in rules.keys() & seen.keys():
        allowed = rules[name]
        if isinstance(allowed, Unchecked):
            left_out.append(f"{name}: {allowed.reason}")
        elif seen[name] not in allowed:
            problems.append(f"{name} is {seen[name]}")
    if problems:
        return _failed("; ".join(sorted(problems)))
    return _unchecked(sorted(left_out)) if left_out else _passed("every fact has an allowed value")


def _advisories(verified: VerifiedEvidence, entry: AcceptedTee) -> _Finding:
    if isinstance(entry.advisories, Unchecked):
        return _unchecked([entry.advisories.reason])
    beyond = [advisory for advisory in verified.advisories if advisory not in entry.advisories]
    if beyond:
        return _failed(f"advisories that the policy does not accept: {', '.join(beyond)}")
    known = ", ".join(verified.advisories)
    return _passed(f"accepted by name: {known}" if known else "the platform's vendor knows of none")


def _collateral_age(case: _Case) -> _Finding:
    if case.entry is None:
        return _failed(f"the policy says nothing about {case.verified.tee}")
    most, since_ms = case.entry.collateral_age_ms, case.verified.endorsed_since_ms
    if isinstance(most, Unchecked):
        return _unchecked([most.reason])
    if since_ms is None:
        return _passed("nothing was used that ages")
    age_ms = case.now_ms - since_ms
    days = f"{age_ms / 86_400_000:.1f} days old; {most / 86_400_000:g} are accepted"
    return _passed(f"the oldest collateral is {days}") if age_ms <= most else _failed(f"collateral is {days}")


def _has_trusted_clock(verified: VerifiedEvidence, entry: AcceptedTee | None) -> bool:
    if verified.clock is not Clock.MEASURED or entry is None:
        return verified.clock is Clock.PLATFORM
    chosen = _chosen(verified, entry)
    return chosen is not None and chosen.secure_tsc and not _left_out(chosen)


def _clock(verified: VerifiedEvidence, entry: AcceptedTee) -> _Finding:
    if _has_trusted_clock(verified, entry):
        return _passed("its host cannot slow its clock")
    by_host = "its host can slow its clock: a stop is bounded in units, not in time"
    return _failed(by_host) if entry.trusted_clock_required else _passed(by_host)


#: The order of appraisal; a name is the check's name and the error's reason.
_RULES: Final[dict[Label, _Rule]] = {
    Label("tee"): _tee,
    Label("simulated"): _simulated,
    Label("debug"): _debug,
    Label("memory_encryption"): _memory_encryption,
    Label("measurements"): _of_entry(_measurements),
    Label("tcb"): _of_entry(_tcb),
    Label("chip"): _of_entry(_chip),
    Label("facts"): _of_entry(_facts),
    Label("endorsements"): _endorsements,
    Label("advisories"): _of_entry(_advisories),
    Label("collateral_age"): _collateral_age,
    Label("clock"): _of_entry(_clock),
}
CHECK_NAMES: Final = tuple(_RULES)


def _trust(verified: VerifiedEvidence, outcome: dict[Label, Outcome]) -> TrustVector:
    """Translate outcomes into AR4SI claims (draft-ietf-rats-ar4si-08, section 2.3.4).

    For the simulated TEE nothing is claimed about hardware, memory or instance, whatever its report says.
    """
    real = verified.tee is not TeeType.SIMULATED

    def claim(name: str, passed: int, failed: int, unchecked: int = 0) -> int:
        return {Outcome.PASSED: passed, Outcome.FAILED: failed, Outcome.UNCHECKED: unchecked}[outcome[Label(name)]]

    return TrustVector(
        instance_identity=claim("chip", 2, 97) if real else 0,
        configuration=96 if verified.debug else claim("facts", 2, 96),
        executables=claim("measurements", 3, 96, 33),
        file_system=0,
        hardware=_worst(claim("tcb", 2, 96), claim("advisories", 2, 96, 32)) if real else 0,
        runtime_opaque=(96 if verified.debug else claim("memory_encryption", 2, 96, 32)) if real else 0,
        storage_opaque=0,
        sourced_data=0,
    )


def _worst(*claims: int) -> int:
    """Return the claim that says least good: one that says nothing if there is such and none is worse."""
    return max(claims, key=lambda claim: (_ORDER[_tier(claim)], claim))


#: From AR4SI section 2.3.2, but that no claim is worse than a good one.
_ORDER: Final = {Status.AFFIRMING: 0, Status.NONE: 1, Status.WARNING: 2, Status.CONTRAINDICATED: 3}


def _status(verified: VerifiedEvidence, checks: Sequence[Check], trust: TrustVector) -> Status:
    """Return the worst of the claims and the checks; an opt-in is never better than a warning."""
    claims = (trust.instance_identity, trust.configuration, trust.executables, trust.hardware, trust.runtime_opaque)
    tiers = {_tier(claim) for claim in claims}
    outcomes = {check.outcome for check in checks}
    if Outcome.FAILED in outcomes or Status.CONTRAINDICATED in tiers:
        return Status.CONTRAINDICATED
    if Outcome.UNCHECKED in outcomes or Status.WARNING in tiers or verified.tee is TeeType.SIMULATED:
        return Status.WARNING
    return Status.AFFIRMING


def _tier(claim: int) -> Status:
    """AR4SI section 2.3.2."""
    if -1 <= claim <= 1:
        return Status.NONE
    if -32 <= claim < 32:
        return Status.AFFIRMING
    return Status.WARNING if -96 <= claim < 96 else Status.CONTRAINDICATED
