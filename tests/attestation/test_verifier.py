"""Rules of evidence and of the set of verifiers."""

import dataclasses

import msgspec
import pytest

from aigovtool.attestation.examination import Examined
from aigovtool.attestation.model import (
    Evidence,
    Fact,
    Label,
    Measurement,
    MeasurementHex,
    Tcb,
    TeeType,
    VerifiedEvidence,
)
from aigovtool.attestation.verifier import Exchange, VerifierSet
from aigovtool.codec import decode, encode
from aigovtool.errors import AIGovToolError, EvidenceError, InvalidValueError, TooLargeError
from aigovtool.limits import MAX_ENDORSEMENTS, MAX_EVIDENCE_BYTES

GENUINE = VerifiedEvidence(
    tee=TeeType.TDX,
    measurements=(Measurement(name=Label("mr_td"), digest=MeasurementHex("00" * 48)),),
    report_data=bytes(64),
    debug=False,
    tcb=Tcb(components=()),
    memory_encryption=True,
    chip_id=None,
    facts=(),
    endorsed_until_ms=1,
)


class Answers:
    """A verifier that finds everything genuine."""

    def __init__(self, answer: VerifiedEvidence) -> None:
        self.answer = answer

    def examine(self, evidence: Evidence, now_ms: int) -> Examined:
        """Return the same answer for all evidence."""
        del evidence, now_ms
        return Examined((), self.answer)


def test_evidence_of_a_platform_nobody_wired_in_is_refused() -> None:
    """The label of evidence cannot bring a verifier into play that the role was not given."""
    for tee in TeeType:
        with pytest.raises(EvidenceError) as caught:
            VerifierSet({}).verify(Evidence(tee=tee, data=b"x"), 0)
        assert caught.value.reason == "tee_unknown"


def test_a_verifier_cannot_speak_for_another_platform() -> None:
    """Evidence labelled as one platform and verified as another is refused."""
    verifiers = VerifierSet({TeeType.TDX: Answers(GENUINE), TeeType.SEV_SNP: Answers(GENUINE)})
    assert verifiers.verify(Evidence(tee=TeeType.TDX, data=b"x"), 0) is GENUINE
    with pytest.raises(EvidenceError) as caught:
        verifiers.verify(Evidence(tee=TeeType.SEV_SNP, data=b"x"), 0)
    assert caught.value.reason == "tee_mismatch"


def test_the_set_does_not_follow_later_changes_of_its_mapping() -> None:
    """What is verified is decided once, at wiring."""
    wired = {TeeType.TDX: Answers(GENUINE)}
    verifiers = VerifierSet(wired)
    wired[TeeType.SIMULATED] = Answers(GENUINE)
    assert verifiers.tees == {TeeType.TDX}


@pytest.mark.attack(9)
def test_evidence_is_bounded_as_a_whole() -> None:
    """Data and endorsements together stay within the bound, in code and from JSON."""
    Evidence(tee=TeeType.TDX, data=bytes(MAX_EVIDENCE_BYTES - 1), endorsements=(b"x",))
    with pytest.raises(TooLargeError):
        Evidence(tee=TeeType.TDX, data=bytes(MAX_EVIDENCE_BYTES), endorsements=(b"x",))
    with pytest.raises(TooLargeError):
        Evidence(tee=TeeType.TDX, data=b"x", endorsements=(b"",) * (MAX_ENDORSEMENTS + 1))
    raw = {"tee": "tdx", "data": bytes(MAX_EVIDENCE_BYTES), "endorsements": [b"x"]}
    with pytest.raises(TooLargeError):
        decode(encode(raw), Evidence)


@pytest.mark.parametrize(
    "change",
    [{"tee": "sgx2"}, {"tee": None}, {"data": ""}, {"data": "%"}, {"endorsements": None}, {"debug": False}],
)
def test_evidence_that_is_not_of_its_form_is_refused(change: dict[str, object]) -> None:
    """Unknown platforms, empty data, wrong base64 and additional members are errors."""
    raw = msgspec.to_builtins(Evidence(tee=TeeType.TDX, data=b"x")) | change
    with pytest.raises(InvalidValueError):
        decode(encode(raw), Evidence)


@pytest.mark.parametrize("missing", ["tee", "data"])
def test_evidence_without_label_or_data_is_refused(missing: str) -> None:
    """Stripping the label does not lead to a default platform."""
    raw = msgspec.to_builtins(Evidence(tee=TeeType.TDX, data=b"x"))
    del raw[missing]
    with pytest.raises(AIGovToolError):
        decode(encode(raw), Evidence)


def test_verified_evidence_is_whole() -> None:
    """Report data has 64 bytes; measurements exist and, like facts, are named once."""
    one = GENUINE.measurements[0]
    fact = Fact(name=Label("vmpl"), value="0")
    for report_data in (b"", bytes(63), bytes(65)):
        with pytest.raises(EvidenceError):
            dataclasses.replace(GENUINE, report_data=report_data)
    for measurements in ((), (one, one)):
        with pytest.raises(EvidenceError):
            dataclasses.replace(GENUINE, measurements=measurements)
    with pytest.raises(EvidenceError):
        dataclasses.replace(GENUINE, facts=(fact, fact))


def test_an_exchange_changes_the_verifiers_that_depend_on_it_and_no_other() -> None:
    """What one exchange knows reaches those platforms alone, and brings none in that was not wired."""
    seen: list[Exchange] = []

    def within(exchange: Exchange) -> Answers:
        seen.append(exchange)
        return Answers(GENUINE)

    other = dataclasses.replace(GENUINE, tee=TeeType.SEV_SNP)
    plain = {TeeType.TDX: Answers(other), TeeType.SEV_SNP: Answers(other)}
    wired = VerifierSet(plain, {TeeType.TDX: within, TeeType.TPM: within})
    exchange = Exchange(nonce=b"n", authorities=(b"a",))
    found = wired.within(exchange)
    assert seen == [exchange]
    assert found.tees == wired.tees == {TeeType.TDX, TeeType.SEV_SNP}
    assert found.verify(Evidence(tee=TeeType.TDX, data=b"x"), 0) is GENUINE
    assert found.verify(Evidence(tee=TeeType.SEV_SNP, data=b"x"), 0) is other
    assert VerifierSet(plain).within(exchange).verify(Evidence(tee=TeeType.SEV_SNP, data=b"x"), 0) is other
