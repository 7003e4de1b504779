"""The attester of a TPM against real ones (swtpm): what it makes is genuine, and nothing else passes for it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.attestation.tee.tpm.test_event_log import event, header
from tests.enclave.attesters.measured_boot import BANKS, LOG, MEASURED, extend
from tests.enclave.attesters.software_tpm import SoftwareTpm, missing, software_tpm
from tests.enclave.attesters.stand_ins import claims

from aigovtool.attestation.attester import Attester
from aigovtool.attestation.certificates import read_certificates
from aigovtool.attestation.examination import Examined, StepOutcome
from aigovtool.attestation.model import ActivationCredential, ActivationKeys, Evidence, TeeType
from aigovtool.attestation.tee.tpm.activation import challenge, ek_digest, secret_for
from aigovtool.attestation.tee.tpm.endorsement import key_of
from aigovtool.attestation.tee.tpm.evidence import Bank, TpmEvidence, unwrap, wrap
from aigovtool.attestation.tee.tpm.verify import TpmVerifier
from aigovtool.enclave.attesters.tpm import TpmAttester
from aigovtool.errors import EvidenceError

if missing():
    pytest.skip(
        f"not installed: {missing()}; no evidence was made with a (software) TPM, and none verified",
        allow_module_level=True,
    )

NOW_MS = 1_900_000_000_000
REPORT_DATA = bytes(range(64))
KEY, NONCE = b"\x77" * 32, b"\x22" * 32
RSA_INDEX, P384_INDEX = 0x01C00002, 0x01C00016


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftwareTpm]:
    """A TPM into which a boot was measured."""
    with software_tpm(tmp_path_factory.mktemp("tpm")) as running:
        for index, text in MEASURED:
            extend(running, index, text)
        yield running


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftwareTpm]:
    """Another TPM, of another maker."""
    with software_tpm(tmp_path_factory.mktemp("other")) as running:
        yield running


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "binary_bios_measurements"
    path.write_bytes(LOG)
    return path


def attester(tpm: SoftwareTpm, log: Path | None = None, **options: Any) -> TpmAttester:
    return TpmAttester(tpm.tcti, event_log=log, endorsements=(tpm.issuer,), **options)


def asked(keys: ActivationKeys, nonce: bytes = NONCE) -> ActivationCredential:
    return challenge(KEY, nonce, keys.ek_certificate, keys.ak_public, os.urandom(32))


def examine(evidence: Evidence, *trusted: SoftwareTpm, nonce: bytes = NONCE) -> Examined:
    roots = [one.root for one in trusted]
    return TpmVerifier(roots, secret_for(KEY, nonce)).examine(evidence, NOW_MS)


def failures(examined: Examined) -> dict[str, str]:
    failed: dict[str, str] = {step.name: step.reason for step in examined.steps if step.outcome is StepOutcome.FAILED}
    assert "internal" not in failed.values()
    return failed


def facts(examined: Examined) -> dict[str, str]:
    return {one.name: one.value for one in examined.genuine().facts}


def changed(evidence: Evidence, **members: Any) -> Evidence:
    message: TpmEvidence = msgspec.structs.replace(unwrap(evidence.data), **members)
    return wrap(message, evidence.endorsements)


@pytest.mark.parametrize("index", [RSA_INDEX, P384_INDEX], ids=["rsa", "p384"])
@pytest.mark.parametrize("bank", [*Bank])
def test_evidence_of_an_activated_key_is_genuine(tpm: SoftwareTpm, log: Path, index: int, bank: Bank) -> None:
    """Challenge, activation, quote and log of a TPM pass every step, with either endorsement key and either bank."""
    maker = attester(tpm, log, certificate_indexes=(index,), bank=bank)
    keys = maker.keys()
    examined = examine(maker.quote(REPORT_DATA, maker.activate(asked(keys))), tpm)
    assert failures(examined) == {}
    assert facts(examined) | {"attestation_key": "activated", "bank": bank, "tpm_model": "swtpm"} == facts(examined)
    verified = examined.genuine()
    assert verified.report_data == REPORT_DATA
    assert verified.chip_id == ek_digest(key_of(read_certificates(keys.ek_certificate)[0])).hex()
    assert [one.register for one in verified.events] == ["pcr0", "pcr4", "pcr7"]
    assert [one.name for one in verified.tcb.components] == ["firmware_1", "firmware_2"]


def test_it_is_an_attester_whose_quote_covers_the_claims(tpm: SoftwareTpm) -> None:
    """The quote is over SHA-256 of the report data of the claims, and a quote for other claims is refused."""
    maker: Attester = attester(tpm)
    assert maker.tee is TeeType.TPM
    covered = claims()
    evidence = maker.attest(covered)
    assert examine(evidence, tpm).genuine().report_data == covered.report_data()
    assert failures(examine(changed(evidence, report_data=REPORT_DATA), tpm)) == {"freshness": "extra_data"}


def test_what_was_activated_goes_to_the_custodian_alone(tpm: SoftwareTpm) -> None:
    """Whoever did not ask could not judge it: evidence for a consumer is without it."""
    maker = attester(tpm)
    maker.activate(asked(maker.keys()))
    boot, session = maker.attest(claims(role="boot")), maker.attest(claims(role="session"))
    assert facts(examine(boot, tpm))["attestation_key"] == "activated"
    consumer = TpmVerifier([tpm.root]).examine(session, NOW_MS)
    assert facts(consumer)["attestation_key"] == "unproven"


def test_without_activation_the_key_is_unproven(tpm: SoftwareTpm) -> None:
    """The certificate of a TPM beside a quote shows nothing yet about the key that quotes."""
    examined = examine(attester(tpm).quote(REPORT_DATA), tpm)
    assert facts(examined)["attestation_key"] == "unproven"
    assert examined.genuine().chip_id is None


def test_the_attestation_key_is_the_same_after_every_use(tpm: SoftwareTpm) -> None:
    """It comes from the TPM's seed, so a challenge fits whichever process answers it."""
    assert attester(tpm).keys() == attester(tpm).keys()


def test_another_tpm_cannot_activate(tpm: SoftwareTpm, other: SoftwareTpm) -> None:
    """A credential for one TPM does not open in another, and a stranger's key is not activated by this one."""
    theirs, ours = attester(other).keys(), attester(tpm).keys()
    with pytest.raises(EvidenceError) as foreign:
        attester(other).activate(asked(ours))
    assert foreign.value.reason == "attester_tpm"
    mixed = ActivationKeys(ek_certificate=ours.ek_certificate, ak_public=theirs.ak_public)
    with pytest.raises(EvidenceError) as stranger:
        attester(tpm).activate(asked(mixed))
    assert stranger.value.reason == "attester_tpm"
    # What was refused left nothing behind in the TPM: it still works many times.
    for _ in range(4):
        attester(tpm).activate(asked(ours))


def test_a_quote_by_another_tpms_key_is_refused(tpm: SoftwareTpm, other: SoftwareTpm) -> None:
    """A genuine secret does not carry over to the key of another TPM, nor one TPM's quote to another's certificate."""
    ours, theirs = attester(tpm), attester(other)
    genuine, foreign = ours.quote(REPORT_DATA, ours.activate(asked(ours.keys()))), theirs.quote(REPORT_DATA)
    message = unwrap(foreign.data)
    lent = changed(genuine, ak_public=message.ak_public, attest=message.attest, signature=message.signature)
    found = failures(examine(lent, tpm, other))
    assert found["proof"] == "activation"


def test_an_answer_is_good_for_one_nonce(tpm: SoftwareTpm) -> None:
    """What was activated for an earlier exchange is refused in the next."""
    maker = attester(tpm)
    secret = maker.activate(asked(maker.keys()))
    assert failures(examine(maker.quote(REPORT_DATA, secret), tpm, nonce=b"\x23" * 32)) == {"proof": "activation"}


def test_a_replayed_quote_is_refused(tpm: SoftwareTpm) -> None:
    """An old quote under new report data, and an old signature under a new quote."""
    maker = attester(tpm)
    old, new = maker.quote(REPORT_DATA), maker.quote(REPORT_DATA[::-1])
    assert failures(examine(changed(old, report_data=REPORT_DATA[::-1]), tpm)) == {"freshness": "extra_data"}
    crossed = changed(new, signature=unwrap(old.data).signature)
    assert failures(examine(crossed, tpm)) == {"signature": "signature"}


def test_an_altered_pcr_is_refused(tpm: SoftwareTpm, log: Path) -> None:
    """A PCR value that the TPM did not quote is refused, with and without its events."""
    evidence = attester(tpm, log).quote(REPORT_DATA)
    pcrs = unwrap(evidence.data).pcrs
    altered = tuple(msgspec.structs.replace(one, digest="00" * 32) if one.index == 4 else one for one in pcrs)
    assert failures(examine(changed(evidence, pcrs=altered), tpm)) == {"pcrs": "pcr_digest", "replay": "replay"}
    assert failures(examine(changed(evidence, pcrs=pcrs[1:]), tpm))["pcrs"] == "pcr_selection"


def test_a_log_that_does_not_replay_is_refused(tpm: SoftwareTpm, log: Path) -> None:
    """Events that were not measured, left out, or in another order; the attester does not send them either."""
    evidence = attester(tpm, log).quote(REPORT_DATA)
    events = unwrap(evidence.data).events
    cut = tuple(msgspec.structs.replace(one, digests=one.digests[:1]) for one in events.registers)
    forged = changed(evidence, events=msgspec.structs.replace(events, registers=cut))
    assert failures(examine(forged, tpm)) == {"replay": "replay"}
    log.write_bytes(LOG + event(4, b"never measured", algorithms=BANKS))
    sent = examine(attester(tpm, log).quote(REPORT_DATA), tpm)
    assert [one.register for one in sent.genuine().events] == ["pcr0", "pcr7"]


def test_a_tpm_of_another_maker_is_refused(tpm: SoftwareTpm, other: SoftwareTpm) -> None:
    """The roots decide whose TPMs are believed; the chain of one maker does not hold the certificate of another."""
    evidence = attester(tpm).quote(REPORT_DATA)
    assert set(failures(examine(evidence, other))) == {"chain"}
    assert failures(TpmVerifier().examine(evidence, NOW_MS)) == {
        "chain": "chain_root",
    }
    crossed = Evidence(tee=evidence.tee, data=evidence.data, endorsements=(other.issuer,))
    assert failures(examine(crossed, tpm, other)) == {"chain": "chain_signature"}


def test_a_certificate_from_elsewhere_must_be_of_this_tpm(tpm: SoftwareTpm, other: SoftwareTpm) -> None:
    """A TPM that holds no certificate is given one; that of another TPM is found out before anything is activated."""
    own, foreign = attester(tpm).keys(), attester(other).keys()
    maker = attester(tpm, ek_certificate=own.ek_certificate, certificate_indexes=())
    secret = maker.activate(asked(maker.keys()))
    assert facts(examine(maker.quote(REPORT_DATA, secret), tpm))["attestation_key"] == "activated"
    wrong = attester(tpm, ek_certificate=foreign.ek_certificate)
    with pytest.raises(EvidenceError) as caught:
        wrong.activate(asked(wrong.keys()))
    assert caught.value.reason == "attester_certificate"


def test_what_is_missing_is_said(tpm: SoftwareTpm, log: Path) -> None:
    """No TPM, no certificate, no log, or report data of another size: typed errors, with a way out."""
    for failing, reason in (
        (lambda: TpmAttester("swtpm:host=127.0.0.1,port=1", event_log=None).keys(), "attester_tpm"),
        (lambda: attester(tpm, certificate_indexes=(0x01C0FFFF,)).keys(), "attester_certificate"),
        (lambda: attester(tpm, log.with_name("none")).quote(REPORT_DATA), "attester_event_log"),
        (lambda: attester(tpm).quote(bytes(63)), "bad_report_data"),
        (lambda: attester(tpm).activate(ActivationCredential(blob=b"", secret=b"")), "attester_tpm"),
        (lambda: attester(tpm).activate(ActivationCredential(blob=b"\0\1\0", secret=b"\xff\xff")), "attester_tpm"),
        (lambda: attester(tpm, ek_certificate=b"x").activate(asked(attester(tpm).keys())), "certificate_encoding"),
    ):
        with pytest.raises(EvidenceError) as caught:
            failing()
        assert caught.value.reason == reason


def test_a_log_is_told_by_how_much_of_it_replays(tpm: SoftwareTpm, log: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once, not with every quote: whoever runs the enclave sees that no events are sent. A bad log has a way on."""
    caplog.set_level("INFO", "aigovtool")
    maker = attester(tpm, log)
    for _ in range(2):
        maker.quote(REPORT_DATA)
    log.write_bytes(header(*BANKS) + event(0, b"another firmware", algorithms=BANKS))
    attester(tpm, log).quote(REPORT_DATA)
    told = [vars(record)["registers"] for record in caplog.records if record.getMessage() == "event_log_replayed"]
    assert told == ["3 of 14", "0 of 14"]
    log.write_bytes(b"x")
    with pytest.raises(EvidenceError) as caught:
        attester(tpm, log).quote(REPORT_DATA)
    assert str(log) in caught.value.message
    assert "--tpm-event-log none" in (caught.value.fix or "")
