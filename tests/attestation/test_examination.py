"""Every step is made and reported; nothing is verified unless each passed."""

import logging

import pytest
from tests.attestation.test_verifier import GENUINE

from aigovtool.attestation.examination import Examination, Examined, Step, StepOutcome
from aigovtool.attestation.model import Label, VerifiedEvidence
from aigovtool.errors import EvidenceError

STEPS = (
    Step(Label("report"), "the report is encoded", "spec, 1"),
    Step(Label("key"), "the key is certified", "spec, 2"),
    Step(Label("signature"), "the key signed the report", "spec, 3"),
)


def raising(reason: str) -> int:
    raise EvidenceError(f"not {reason}", reason=reason)


def examined(*bad: str, verified: VerifiedEvidence | None = GENUINE) -> Examined:
    """Examine something whose steps named in `bad` fail; the signature needs report and key."""
    look = Examination(STEPS)
    report = look.run("report", lambda: raising("report_length") if "report" in bad else 1)
    key = look.run("key", lambda: raising("chain") if "key" in bad else 2)

    def signature() -> None:
        if report.found() + key.found() != 3 or "signature" in bad:
            raising("signature")

    look.run("signature", signature)

    def contents() -> VerifiedEvidence:
        if verified is None:
            raise EvidenceError("measurements are missing", reason="bad_measurements")
        return verified

    return look.ended(contents)


def outcomes(found: Examined) -> list[tuple[int, str, str]]:
    return [(step.number, step.name, step.outcome.value) for step in found.steps]


def test_evidence_is_genuine_when_every_step_passed() -> None:
    """The steps are numbered from 1 in the declared order, each with what demands it."""
    found = examined()
    assert found.genuine() is GENUINE
    assert outcomes(found) == [
        (1, "report", "passed"),
        (2, "key", "passed"),
        (3, "signature", "passed"),
        (4, "contents", "passed"),
    ]
    assert [(step.title, step.source) for step in found.steps[:3]] == [(step.title, step.source) for step in STEPS]


def test_every_failure_is_listed_and_the_first_is_the_reason() -> None:
    """A step that fails ends nothing: what does not need it is made all the same."""
    found = examined("key", "report")
    assert found.verified is None
    assert outcomes(found) == [
        (1, "report", "failed"),
        (2, "key", "failed"),
        (3, "signature", "not_reached"),
        (4, "contents", "not_reached"),
    ]
    with pytest.raises(EvidenceError) as caught:
        found.genuine()
    assert caught.value.reason == "report_length"
    assert "2 of 4 steps" in caught.value.message
    assert "step 1, report: not report_length" in caught.value.message
    assert "step 2, key: not chain" in caught.value.message
    assert [step.reason for step in found.steps] == ["report_length", "chain", "", ""]


@pytest.mark.parametrize("bad", ["report", "key", "signature"])
def test_one_failed_step_is_enough(bad: str) -> None:
    """Attack: evidence that is good in all respects but one."""
    assert examined(bad).verified is None


def test_contents_without_a_place_are_not_verified() -> None:
    """Genuine evidence that says nothing usable is refused by the last step, not by an exception later."""
    found = examined(verified=None)
    assert found.steps[-1].outcome is StepOutcome.FAILED
    assert found.steps[-1].reason == "bad_measurements"
    assert found.verified is None


def test_a_mistake_of_ours_refuses_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Attack: bytes for which a parser has a fault. Nothing is believed, and no exception reaches the caller."""
    look = Examination(STEPS)
    look.run("report", lambda: int("nothing"))
    look.run("key", lambda: 2)
    with caplog.at_level(logging.ERROR):
        look.run("signature", lambda: 1 // 0)
    found = look.ended(lambda: GENUINE)
    assert [step.reason for step in found.steps] == ["internal", "", "internal", ""]
    assert found.verified is None
    assert "verifier_failed" in caplog.text


def test_steps_are_made_as_they_are_declared() -> None:
    """A verifier that leaves a step out, or swaps two, does not come to an end."""
    look = Examination(STEPS)
    with pytest.raises(ValueError, match="declared"):
        look.run("key", lambda: 2)
    look.run("report", lambda: 1)
    with pytest.raises(ValueError, match="declared"):
        look.ended(lambda: GENUINE)
