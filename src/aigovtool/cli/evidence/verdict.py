"""What an examination and an appraisal found: as a document for programs, and for people."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from aigovtool.cli.words import when

if TYPE_CHECKING:
    from aigovtool.attestation.examination import Examined
    from aigovtool.attestation.model import ResultBody, VerifiedEvidence
    from aigovtool.cli.screen import Screen

_CLOCKS = {
    "platform": "the platform's",
    "measured": "its host's, unless what was measured has it otherwise (Secure TSC)",
    "host": "its host's: stops are bounded in units, not in time",
}
_MARKS = {"passed": "ok", "failed": "FAILED", "not_reached": "-", "unchecked": "not checked"}


class Made(Struct, frozen=True, kw_only=True):
    """One step of verification, or one check of the policy, as it ended; steps have a number, a source and a reason."""

    name: str
    outcome: str
    detail: str
    number: int | None = None
    title: str | None = None
    source: str | None = None
    reason: str | None = None


class Said(Struct, frozen=True, kw_only=True):
    """What genuine evidence says, by the names that policies use; times are milliseconds since 1970."""

    measurements: dict[str, str]
    report_data: str
    debug: bool
    memory_encryption: bool
    clock: str
    chip: str | None
    tcb: dict[str, int]
    facts: dict[str, str]
    advisories: list[str]
    events: dict[str, list[str]]
    endorsed_until_ms: int
    endorsed_since_ms: int | None


class Verdict(Struct, frozen=True, kw_only=True):
    """The verdict on evidence, as of a time.

    `genuine` is the verifier's answer, and `reason` names its first failed step; `fix` says
    what can be done about it, where something can. `acceptable` is the policy's answer,
    and null where no policy was given or the evidence is not genuine; `refused` names its first failed check. `result`
    is the EAR claims-set of the appraisal.
    """

    tee: str
    at_ms: int
    genuine: bool
    reason: str | None
    fix: str | None = None
    steps: list[Made]
    says: Said | None
    policy: str | None = None
    policy_version: int | None = None
    acceptable: bool | None = None
    refused: str | None = None
    checks: list[Made] | None = None
    result: Any = None


def steps_of(examined: "Examined") -> list[Made]:
    """Return the steps of an examination."""
    return [
        Made(
            name=step.name,
            outcome=step.outcome.value,
            detail=step.detail,
            number=step.number,
            title=step.title,
            source=step.source,
            reason=step.reason or None,
        )
        for step in examined.steps
    ]


def checks_of(body: "ResultBody") -> list[Made]:
    """Return the checks of an appraisal."""
    return [Made(name=check.name, outcome=check.outcome.value, detail=check.detail) for check in body.checks]


def said_of(verified: "VerifiedEvidence") -> Said:
    """Return what genuine evidence says."""
    return Said(
        measurements={part.name: part.digest for part in verified.measurements},
        report_data=verified.report_data.hex(),
        debug=verified.debug,
        memory_encryption=verified.memory_encryption,
        clock=verified.clock.value,
        chip=verified.chip_id,
        tcb={part.name: part.version for part in verified.tcb.components},
        facts={fact.name: fact.value for fact in verified.facts},
        advisories=list(verified.advisories),
        events={log.register: list(log.digests) for log in verified.events},
        endorsed_until_ms=verified.endorsed_until_ms,
        endorsed_since_ms=verified.endorsed_since_ms,
    )


def first_failed(made: Sequence[Made]) -> Made | None:
    """Return the first step or check that failed."""
    return next((one for one in made if one.outcome == "failed"), None)


def show_verdict(screen: "Screen", verdict: Verdict) -> None:
    """Print a verdict for people."""
    screen.line(f"evidence of {verdict.tee}, judged as of {when(verdict.at_ms)}", style="bold")
    rows = [
        (str(step.number), _MARKS[step.outcome], step.name, _words(step), step.source or "") for step in verdict.steps
    ]
    screen.table((">step", "", "name", "what", "source"), rows, "")
    if verdict.says is None:
        screen.line(f"NOT GENUINE: {verdict.reason}", style="red")
        if verdict.fix is not None:
            screen.line(f"fix: {verdict.fix}")
        return
    screen.line("genuine", style="green")
    screen.line()
    screen.facts(_facts(verdict.says))
    if verdict.checks is not None:
        _show_appraisal(screen, verdict)


def _words(step: Made) -> str:
    return step.detail if step.outcome == "failed" else step.title or ""


def _show_appraisal(screen: "Screen", verdict: Verdict) -> None:
    screen.line()
    screen.line(f"by version {verdict.policy_version} of the appraisal policy ({verdict.policy})", style="bold")
    rows = [(_MARKS[check.outcome], check.name, check.detail) for check in verdict.checks or ()]
    screen.table(("", "check", "found"), rows, "")
    if verdict.acceptable:
        screen.line("acceptable", style="green")
    else:
        screen.line(f"NOT ACCEPTABLE: {verdict.refused}", style="red")


def _facts(says: Said) -> list[tuple[str, object]]:
    since = says.endorsed_since_ms
    return [
        *((f"measurement {name}", digest) for name, digest in says.measurements.items()),
        ("report data", says.report_data),
        ("debug", "DEBUG MODE: its host can read its memory" if says.debug else "off"),
        ("memory encryption", "yes" if says.memory_encryption else "NONE: boot integrity alone"),
        ("clock", _CLOCKS[says.clock]),
        ("chip", says.chip or "not told"),
        *((f"version of {name}", number) for name, number in says.tcb.items()),
        *((name, value) for name, value in says.facts.items()),
        ("advisories", ", ".join(says.advisories) or "none"),
        *((f"measured into {name}", f"{len(digests)} events") for name, digests in says.events.items()),
        ("endorsed until", when(says.endorsed_until_ms)),
        *(() if since is None else (("oldest collateral of", f"{when(since)}"),)),
    ]
