"""The examination of evidence: numbered steps, each of which passes, fails, or is not reached (spec: attestation, 4).

A verifier declares its steps, each with the section of the specification that demands it, and then runs every one of
them in that order. A step that fails ends nothing: those that need what it should have found are *not reached*, all
others are made, and the report lists every failure. Nothing is verified unless every step passed.

```python
look = Examination(STEPS)
report = look.run("report", lambda: parse_report(evidence.data))
key = look.run("leaf", lambda: signing_key(evidence.endorsements))
look.run("signature", lambda: require_signed(report.found(), key.found()))
return look.ended(lambda: _verified(report.found()))
```
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, TypeVar

from aigovtool.attestation.model import Label, VerifiedEvidence
from aigovtool.codec import Message
from aigovtool.errors import EvidenceError

T = TypeVar("T")

_LOG: Final = logging.getLogger(__name__)
_MISSING: Final = object()


class StepOutcome(StrEnum):
    """How one step ended."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_REACHED = "not_reached"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a verifier: its name, what it establishes, and which section of which specification demands it."""

    name: Label
    title: str
    source: str


class StepReport(Message):
    """How one step ended; `reason` is a stable word, `detail` is for people. Steps count from 1."""

    number: int
    name: Label
    title: str
    source: str
    outcome: StepOutcome
    reason: str
    detail: str


class _NotReached(Exception):  # noqa: N818 - it is no error: the step that it needs has failed, and is reported
    """What a step needs was not found."""


@dataclass(frozen=True, slots=True)
class Product(Generic[T]):
    """What a step found, if it passed."""

    _value: object

    def found(self) -> T:
        """Return it; only to be called inside a later step."""
        if self._value is _MISSING:
            raise _NotReached
        return self._value  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Examined:
    """The report of an examination, and what the evidence says if it is genuine."""

    steps: tuple[StepReport, ...]
    verified: VerifiedEvidence | None

    def genuine(self) -> VerifiedEvidence:
        """Return what genuine evidence says.

        Raises:
            EvidenceError: a step failed. `reason` is that of the first; the message names all.
        """
        if self.verified is not None:
            return self.verified
        failed = [step for step in self.steps if step.outcome is StepOutcome.FAILED]
        listed = "; ".join(f"step {step.number}, {step.name}: {step.detail}" for step in failed)
        raise EvidenceError(
            f"{len(failed)} of {len(self.steps)} steps of verification failed: {listed}", reason=failed[0].reason
        )


#: The last step of every verifier: what the evidence says has its place in the model.
_CONTENTS: Final = Step(Label("contents"), "what the evidence says is complete and in range", "attestation spec, 4")


class Examination:
    """One piece of evidence on its way through the steps of its verifier."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps: Final = (*steps, _CONTENTS)
        self._reports: Final[list[StepReport]] = []

    def run(self, name: str, action: Callable[[], T]) -> Product[T]:
        """Make the next step, which has this name.

        An `EvidenceError` is its failure. Any other error is a mistake of ours, so nothing is believed: it is the
        failure `internal`, and logged.
        """
        step = self._steps[len(self._reports)]
        if step.name != name:  # a mistake of ours, found by any test of the verifier
            raise ValueError(f"the step {name} is made where {step.name} is declared")
        try:
            value = action()
        except _NotReached:
            self._report(step, StepOutcome.NOT_REACHED)
        except EvidenceError as error:
            self._report(step, StepOutcome.FAILED, error.reason or step.name, error.message)
        except Exception:  # noqa: BLE001 - the wall: no bytes of anybody's may end a verifier
            _LOG.exception("verifier_failed", extra={"step": step.name})
            self._report(step, StepOutcome.FAILED, "internal", "the verifier failed on this evidence: report it")
        else:
            self._report(step, StepOutcome.PASSED)
            return Product(value)
        return Product(_MISSING)

    def ended(self, verified: Callable[[], VerifiedEvidence]) -> Examined:
        """Return the report; `verified` makes what genuine evidence says, and is called only if every step passed."""
        passed = all(report.outcome is StepOutcome.PASSED for report in self._reports)
        missing: Product[VerifiedEvidence] = Product(_MISSING)
        contents = self.run("contents", verified if passed else missing.found)
        return Examined(
            tuple(self._reports), contents.found() if self._reports[-1].outcome is StepOutcome.PASSED else None
        )

    def _report(self, step: Step, outcome: StepOutcome, reason: str = "", detail: str = "") -> None:
        number = len(self._reports) + 1
        self._reports.append(
            StepReport(
                number=number,
                name=step.name,
                title=step.title,
                source=step.source,
                outcome=outcome,
                reason=reason,
                detail=detail,
            )
        )
