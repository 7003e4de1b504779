"""An appraisal policy in words, and what changes from one to the next: for people who decide which enclaves to accept.

A policy is a list of rules, each with a name that two policies have in common. Of each rule that changes it is said
whether it accepts more than before, so that a loosened rule stands out in a long list. What cannot be shown to accept
no more counts as accepting more.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from aigovtool.cli.words import count, span

if TYPE_CHECKING:
    from aigovtool.attestation.model import Unchecked
    from aigovtool.attestation.policy import AcceptedTee, AppraisalPolicy, ReferenceSet

ABSENT: Final = "-"
MORE: Final = "more"
LESS: Final = "less"
UNENCRYPTED: Final = "not required: boot integrity, no memory encryption, is enough"
AS_MUCH: Final = "as much"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: what it is about, what it says, and how much of what it admits; None for everything."""

    what: str
    text: str
    admits: Mapping[str, int] | None


class Change(Struct, frozen=True, kw_only=True):
    """A rule that is another one now; `accepts` is more, less, or as much."""

    what: str
    now: str
    then: str
    accepts: str


def rules(policy: "AppraisalPolicy") -> list[Rule]:
    """Return what a policy says, rule by rule, each under a name of its own.

    Labels are chosen by whoever wrote the policy: no two rules may come out under one name, or one would not be shown.
    """
    named: dict[str, Rule] = {}
    for rule in _rules(policy):
        what, number = rule.what, 1
        while what in named:
            number += 1
            what = f"{rule.what} ({number})"
        named[what] = replace(rule, what=what)
    return list(named.values())


def _rules(policy: "AppraisalPolicy") -> list[Rule]:
    encrypted, simulated = policy.memory_encryption_required, policy.allow_simulated
    return [
        Rule("memory encryption", "required" if encrypted else UNENCRYPTED, {} if encrypted else {"without": 1}),
        Rule(
            "simulated TEEs", "accepted: they protect nothing" if simulated else "refused", {"": 1} if simulated else {}
        ),
        *(rule for entry in policy.accepted for rule in _of_tee(entry)),
    ]


def changes(old: "AppraisalPolicy | None", new: "AppraisalPolicy") -> list[Change]:
    """Return every rule that differs, those of the new policy in its order, then those that it has no more."""
    before = {} if old is None else {rule.what: rule for rule in rules(old)}
    after = {rule.what: rule for rule in rules(new)}
    found = []
    for what in [*after, *(name for name in before if name not in after)]:
        one, other = before.get(what), after.get(what)
        if one != other:
            found.append(
                Change(
                    what=what,
                    now=ABSENT if one is None else one.text,
                    then=ABSENT if other is None else other.text,
                    accepts=MORE if _wider(one, other) else LESS if _wider(other, one) else AS_MUCH,
                )
            )
    return found


def _wider(old: Rule | None, new: Rule | None) -> bool:
    """Return whether `new` admits anything that `old` does not; a rule that is not there admits nothing."""
    if new is None or (old is not None and old.admits is None):
        return False
    if new.admits is None:
        return True
    before = {} if old is None or old.admits is None else old.admits
    return any(name not in before or breadth > before[name] for name, breadth in new.admits.items())


def _of_tee(entry: "AcceptedTee") -> Iterator[Rule]:
    from aigovtool.attestation.model import Unchecked  # noqa: PLC0415

    tee = entry.name
    for reference in entry.reference_values:
        text = _build(reference)
        yield Rule(f"{tee}: build {reference.label}", text, {text: 1})
    if isinstance(entry.min_tcb, Unchecked):
        yield _unchecked(f"{tee}: least TCB", entry.min_tcb)
    else:
        text = ", ".join(f"{part.name} {part.version}" for part in entry.min_tcb)
        yield Rule(f"{tee}: least TCB", text, {part.name: -part.version for part in entry.min_tcb})
    yield _listed(f"{tee}: chips", entry.chips)
    for fact in entry.facts:
        yield _listed(f"{tee}: fact {fact.name}", fact.allowed)
    yield _age(f"{tee}: an attestation is good for", entry.max_attestation_age_ms)
    if entry.advisories:
        yield _listed(f"{tee}: accepted advisories", entry.advisories)
    clock = entry.trusted_clock_required
    text = (
        "required"
        if clock
        else "not required: its host may slow its clock, and a stop is bounded in units, not in time"
    )
    yield Rule(f"{tee}: a clock that its host cannot slow", text, {} if clock else {"without": 1})
    oldest = entry.collateral_age_ms
    what = f"{tee}: collateral is at most so old"
    yield _unchecked(what, oldest) if isinstance(oldest, Unchecked) else _age(what, oldest)


def _age(what: str, age_ms: int) -> Rule:
    return Rule(what, f"{span(age_ms)} ({count(age_ms)} ms)", {"": age_ms})


def _listed(what: str, allowed: "Sequence[str] | Unchecked") -> Rule:
    from aigovtool.attestation.model import Unchecked  # noqa: PLC0415

    if isinstance(allowed, Unchecked):
        return _unchecked(what, allowed)
    return Rule(what, ", ".join(allowed), dict.fromkeys(allowed, 1))


def _unchecked(what: str, unchecked: "Unchecked") -> Rule:
    return Rule(what, f"NOT CHECKED: {unchecked.reason}", None)


def _build(reference: "ReferenceSet") -> str:
    from aigovtool.attestation.model import Unchecked  # noqa: PLC0415

    values = [
        f"{value.name} "
        + (f"NOT CHECKED: {value.digest.reason}" if isinstance(value.digest, Unchecked) else value.digest)
        for value in reference.values
    ]
    events = [
        f"{rule.register} by its log: {', '.join(rule.required)}"
        + (f", and perhaps {', '.join(rule.allowed)}" if rule.allowed else "")
        for rule in reference.events
    ]
    clock = ["with Secure TSC"] if reference.secure_tsc else []
    return ", ".join((*values, *events, *clock))
