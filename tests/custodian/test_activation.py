"""A custodian and pretended TPMs: who is asked what, what is certified, and whose makers are believed."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from tests.attestation.authority import NOW, NOW_MS
from tests.attestation.tee.tpm.maker import Forgery, ecc_key, issuing, root
from tests.attestation.tee.tpm.test_appraised import policy
from tests.attestation.tee.tpm.test_credential import opened
from tests.custodian.conftest import BORROWER, Bench, Enclave, make_bench

from aigovtool.attestation.binding import Binding
from aigovtool.attestation.examination import StepOutcome
from aigovtool.attestation.model import ActivationKeys, Evidence, TeeType
from aigovtool.attestation.tee.tpm.activation import ek_digest
from aigovtool.attestation.tee.tpm.certification import certified_chip
from aigovtool.attestation.tee.tpm.verify import TpmVerifier
from aigovtool.attestation.verifier import Exchange
from aigovtool.codec import decode, encode
from aigovtool.crypto.keyfile import read_signing_key
from aigovtool.crypto.sign import Envelope, open_by_any, seal
from aigovtool.custodian import keys as custodian_keys
from aigovtool.custodian.activation import ROOTS_DIRECTORY, certificate_of, read_roots
from aigovtool.custodian.app import open_custodian, verifiers
from aigovtool.custodian.service import boot
from aigovtool.errors import AppraisalError, ConfigurationError, EvidenceError
from aigovtool.ledger.entry import AttestationRefused
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.protocol import commands as acts
from aigovtool.protocol import release
from aigovtool.protocol.release import Admission, Challenge, ChallengeRequest

TPM = Forgery()
EK, AK_NAME = TPM.ek, TPM.ak_name()
CHIP = ek_digest(EK.public_key()).hex()


@pytest.fixture
async def lender(tmp_path: Path) -> AsyncIterator[Bench]:
    """A custodian that believes the pretended maker, and whose policy accepts the pretended boot."""
    bench = make_bench(tmp_path / "custodian")
    bench.now_ms, bench.policy = NOW_MS, default_policy(Dial.BOUND)
    roots = bench.directory / ROOTS_DIRECTORY
    roots.mkdir()
    (roots / "maker.der").write_bytes(root().public_bytes(Encoding.DER))
    bench.custodian.verifiers = verifiers(bench.directory, bench.custodian.keys, allow_simulated=True)
    await bench.add_borrower(BORROWER)
    await bench.command(bench.upload())
    await bench.command(acts.SetAppraisalPolicy(policy=policy(version=2, entry={"chips": (CHIP,)})))
    yield bench
    bench.custodian.database.close()


class Machine(Enclave):
    """An enclave on a machine with a pretended TPM."""

    async def asked(self, **members: Any) -> Challenge:
        keys = ActivationKeys(ek_certificate=TPM.leaf_certificate(), ak_public=TPM.ak_public())
        activation = msgspec.structs.replace(keys, **members)
        request = ChallengeRequest(borrower=self.borrower, models=self.models, activation=activation)
        sealed = seal(release.CHALLENGE_REQUEST, request, self.bench.enrolment[self.borrower])
        reply = await boot.challenge(self.bench.custodian, sealed)
        return open_by_any(reply.challenge, release.CHALLENGE, Challenge, self.bench.command_keys)

    def sealed_with(self, claims: Binding, evidence: Evidence) -> Envelope:
        simulated = self.request(claims)
        return self.sealed(msgspec.structs.replace(simulated, evidence=evidence))

    async def booted(self, **changes: Any) -> tuple[Admission, Evidence]:
        challenge = await self.asked()
        assert challenge.credential is not None
        claims = self.claims(challenge)
        secret = changes.pop("secret", opened(EK, challenge.credential, AK_NAME))
        evidence = replace(TPM, **{"secret": secret, "report_data": claims.report_data(), **changes}).made()
        return await self.admit(self.sealed_with(claims, evidence)), evidence


# -- The challenge -----------------------------------------------------------------------------------------------


async def test_what_the_credential_holds_opens_the_door(lender: Bench) -> None:
    """Only who opens it with the endorsement key, beside this attestation key, has the secret that is accepted."""
    admission, _ = await Machine(lender).booted()
    assert (admission.tee, admission.models[0].policy.dial) == (TeeType.TPM, Dial.BOUND)
    for secret, error, reason in (
        (bytes(32), EvidenceError, "activation"),
        (None, AppraisalError, "tcb"),
    ):
        with pytest.raises(error) as caught:
            await Machine(lender).booted(secret=secret)
        last = (await lender.log())[-1]
        assert isinstance(last, AttestationRefused)
        assert caught.value.reason == last.reason == reason


async def test_a_secret_is_good_for_one_nonce_and_one_pair_of_keys(lender: Bench) -> None:
    """That of an earlier challenge, and that of a challenge for another key, are refused."""
    earlier = await Machine(lender).asked()
    stranger = Forgery(ak=ecc_key("another ak"))
    for_stranger = await Machine(lender).asked(ak_public=stranger.ak_public())
    assert earlier.credential is not None
    assert for_stranger.credential is not None
    for secret in (opened(EK, earlier.credential, AK_NAME), opened(EK, for_stranger.credential, stranger.ak_name())):
        with pytest.raises(EvidenceError) as caught:
            await Machine(lender).booted(secret=secret)
        assert caught.value.reason == "activation"


async def test_any_machine_of_the_custodian_verifies_what_another_one_asked(lender: Bench) -> None:
    """The keys are read anew from the directory, as on another machine: they accept the same secret."""
    machine = Machine(lender)
    challenge = await machine.asked()
    assert challenge.credential is not None
    replica = custodian_keys.load(lender.directory)
    lender.custodian.keys = replica
    lender.custodian.verifiers = verifiers(lender.directory, replica, allow_simulated=False)
    claims = machine.claims(challenge)
    secret = opened(EK, challenge.credential, AK_NAME)
    evidence = replace(TPM, secret=secret, report_data=claims.report_data()).made()
    assert (await machine.admit(machine.sealed_with(claims, evidence))).tee is TeeType.TPM


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"ek_certificate": b"rubbish"}, "certificate_encoding"),
        ({"ak_public": b"rubbish"}, "public_area"),
        ({"ek_certificate": TPM.leaf_certificate() + b"\0"}, "certificate_encoding"),
        ({"ak_public": TPM.ak_public() + b"\0"}, "public_area"),
    ],
    ids=["certificate", "key", "certificate and a byte", "key and a byte"],
)
async def test_keys_that_cannot_be_read_are_refused_and_noted(
    lender: Bench, members: dict[str, bytes], reason: str
) -> None:
    """A borrower that sends rubbish gets a typed refusal, and there is a line about it."""
    with pytest.raises(EvidenceError) as caught:
        await Machine(lender).asked(**members)
    assert caught.value.reason == reason
    last = (await lender.log())[-1]
    assert isinstance(last, AttestationRefused)
    assert last.reason == caught.value.reason


async def test_who_shows_no_keys_gets_no_credential(lender: Bench) -> None:
    """Enclaves on other platforms are answered as ever; their challenge has no member more."""
    challenge = await Enclave(lender).challenge()
    assert challenge.credential is None
    assert b"credential" not in encode(challenge)


# -- The certificate ---------------------------------------------------------------------------------------------


def examined(lender: Bench, certificate: bytes, *, certifies: str = "ak", now_ms: int = NOW_MS, **changes: Any) -> Any:
    """Let a consumer of this custodian examine a session's evidence with a certificate."""
    authorities = [x509.load_der_x509_certificate(one) for one in lender.custodian.keys.key_set.attestation]
    evidence = replace(TPM, certifies=certifies, certificate=certificate, endorsements=(), **changes).made()
    return TpmVerifier((), authorities=authorities).examine(evidence, now_ms)


def failures(found: Any) -> dict[str, str]:
    return {step.name: step.reason for step in found.steps if step.outcome is StepOutcome.FAILED}


async def test_the_certificate_says_what_the_custodian_saw(lender: Bench) -> None:
    """Same TPM, same maker, same firmware; the key is certified. It ends with the admission."""
    admission, _ = await Machine(lender).booted()
    assert isinstance(admission.certificate, bytes)
    genuine = examined(lender, admission.certificate).genuine()
    assert genuine.chip_id == CHIP
    facts = {fact.name: fact.value for fact in genuine.facts}
    assert (facts["attestation_key"], facts["tpm_model"]) == ("certified", "Pretended")
    assert [part.name for part in genuine.tcb.components] == ["firmware_1", "firmware_2"]
    assert 0 <= admission.valid_until_ms - genuine.endorsed_until_ms < 1000
    later = examined(lender, admission.certificate, now_ms=admission.valid_until_ms + 1000)
    assert failures(later) == {"validity": "expired"}
    before = examined(lender, admission.certificate, now_ms=NOW_MS - 2 * 3_600_000)
    assert failures(before) == {"validity": "not_yet_valid"}


async def test_the_certificate_is_for_one_attestation_key(lender: Bench) -> None:
    """Beside another key's quote it is refused, as is its use as an endorsement key's or with a secret."""
    admission, _ = await Machine(lender).booted()
    assert isinstance(admission.certificate, bytes)
    assert failures(examined(lender, admission.certificate, ak=ecc_key("another ak"))) == {"proof": "ak_not_certified"}
    posing = failures(examined(lender, admission.certificate, certifies="ek"))
    assert (posing["chain"], posing["proof"]) == ("chain_root", "ak_not_certified")
    assert failures(examined(lender, admission.certificate, secret=bytes(32))) == {"proof": "activation_unknown"}


async def test_an_authority_of_activated_keys_certifies_no_endorsement_key(lender: Bench) -> None:
    """What it issued for one would lead nowhere: it is a root for attestation keys alone."""
    authority_key = lender.custodian.keys.attestation
    assert authority_key is not None
    leaf = {"issuer": "aigovtool attestation keys", "issuer_key": authority_key.private()}
    forged = Forgery(leaf=leaf).leaf_certificate()
    assert failures(examined(lender, forged, certifies="ek")) == {"chain": "chain_root"}


async def test_a_custodians_certificate_must_say_which_tpm_it_is_of(lender: Bench) -> None:
    """A certificate of the authority in another form than the custodian's own is refused."""
    authority_key = lender.custodian.keys.attestation
    assert authority_key is not None
    leaf = {"issuer": "aigovtool attestation keys", "issuer_key": authority_key.private()}
    forged = Forgery(certifies="ak", leaf=leaf).leaf_certificate()
    assert failures(examined(lender, forged)) == {"chip": "tpm_identity"}


@pytest.mark.parametrize(
    "numbers", [(), (CHIP, CHIP), (CHIP.upper(),), (CHIP[:-2],), (CHIP + "00",), ("x" * 64,)], ids=range(6)
)
def test_the_name_of_a_tpm_is_one_digest_in_lower_case(numbers: tuple[str, ...]) -> None:
    """None, two, or another form: chips are compared with lists in policies as text."""
    subject = [x509.NameAttribute(NameOID.SERIAL_NUMBER, number) for number in numbers]
    made = x509.CertificateBuilder().subject_name(x509.Name(subject)).issuer_name(x509.Name([]))
    made = made.public_key(EK.public_key()).serial_number(1).not_valid_before(NOW).not_valid_after(NOW)
    with pytest.raises(EvidenceError) as caught:
        certified_chip(made.sign(ecc_key("issuer"), SHA256()))
    assert caught.value.reason == "tpm_identity"


async def test_what_was_not_activated_is_not_certified(lender: Bench) -> None:
    """Neither an unproven key, nor one that another authority certified, nor another platform."""
    verified = TpmVerifier((root(),)).examine(TPM.made(), NOW_MS).genuine()
    keys, until = lender.custodian.keys, {"now_ms": NOW_MS, "until_ms": NOW_MS + 1000}
    assert certificate_of(keys, TPM.made(), verified, **until) is None
    certified = Forgery(certifies="ak")
    verified = TpmVerifier((root(),)).examine(certified.made(), NOW_MS).genuine()
    assert certificate_of(keys, certified.made(), verified, **until) is None


async def test_an_older_custodian_admits_and_certifies_nothing(lender: Bench) -> None:
    """Its key set names no authority, which only its offline root key could change; its enclaves get no certificate."""
    directory, keys = lender.directory, lender.custodian.keys
    envelope = decode((directory / "keys" / "key-set.json").read_bytes(), Envelope)
    root_key = read_signing_key(directory / "offline" / "root.key")
    older = seal("key-set.v1", msgspec.structs.replace(keys.key_set, attestation=()), root_key)
    assert b"attestation" not in older.payload
    assert b"attestation" in envelope.payload
    (directory / "keys" / "key-set.json").write_bytes(encode(older))
    (directory / "keys" / "attestation.key").unlink()
    older_keys = custodian_keys.load_to_serve(directory)
    lender.custodian.take_up(older_keys, verifiers(directory, older_keys, allow_simulated=True))
    admission, _ = await Machine(lender).booted()
    assert admission.certificate is msgspec.UNSET
    assert b'"certificate"' not in encode(admission)


# -- Makers --------------------------------------------------------------------------------------------------------


def reason_of(directory: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read_roots(directory)
    assert ROOTS_DIRECTORY in caught.value.message
    return str(caught.value.reason)


def test_makers_roots_are_those_in_the_directory(tmp_path: Path) -> None:
    """PEM, several in one file, and DER; each once. A directory that was lost loosens nothing: nobody is believed."""
    assert read_roots(tmp_path) == ()
    place = tmp_path / ROOTS_DIRECTORY
    place.mkdir()
    (place / ".hidden").write_bytes(b"an editor's")
    assert read_roots(tmp_path) == ()
    other = root(name="another root", issuer="another root")
    pems = b"".join(one.public_bytes(Encoding.PEM) for one in (root(), other))
    (place / "a.pem").write_bytes(pems)
    (place / "b.der").write_bytes(root().public_bytes(Encoding.DER))
    assert read_roots(tmp_path) == (root(), other)


def test_what_is_no_root_keeps_the_custodian_from_starting(tmp_path: Path) -> None:
    """Rubbish, a certificate that another one issued, a directory, or too much: said, and not passed over."""
    place = tmp_path / ROOTS_DIRECTORY
    place.mkdir()
    for content in (b"", b"rubbish", issuing().public_bytes(Encoding.DER), bytes(1 << 20)):
        (place / "maker").write_bytes(content)
        assert reason_of(tmp_path) == "tpm_roots"
    (place / "maker").unlink()
    (place / "directory").mkdir()
    assert reason_of(tmp_path) == "tpm_roots"
    (place / "directory").rmdir()
    for number in range(101):
        (place / f"{number}").write_bytes(root().public_bytes(Encoding.DER))
    assert reason_of(tmp_path) == "tpm_roots"


def test_a_custodian_reads_them_when_it_starts(tmp_path: Path) -> None:
    """Before it serves anybody."""
    directory = tmp_path / "custodian"
    make_bench(directory).custodian.database.close()
    (directory / ROOTS_DIRECTORY).mkdir()
    (directory / ROOTS_DIRECTORY / "maker.pem").write_bytes(root().public_bytes(Encoding.PEM))
    custodian = open_custodian(directory)
    custodian.database.close()
    assert failures(custodian.verifiers.examine(TPM.made(), NOW_MS)) == {}
    (directory / ROOTS_DIRECTORY / "maker.pem").write_bytes(b"rubbish")
    with pytest.raises(ConfigurationError):
        open_custodian(directory)


def test_without_an_exchange_no_secret_is_the_right_one(tmp_path: Path) -> None:
    """The custodian's verifiers as they are wired refuse a secret; each exchange brings its nonce."""
    bench = make_bench(tmp_path / "custodian")
    bench.custodian.database.close()
    with_secret = replace(TPM, secret=bytes(32)).made()
    assert failures(bench.custodian.verifiers.examine(with_secret, NOW_MS))["proof"] == "activation_unknown"
    within = bench.custodian.verifiers.within(Exchange(nonce=bytes(32)))
    assert failures(within.examine(with_secret, NOW_MS))["proof"] == "activation"
    assert within.tees == bench.custodian.verifiers.tees


def test_a_root_that_has_ended_is_refused_by_its_time(tmp_path: Path) -> None:
    """The directory is trusted for who, not for when."""
    place = tmp_path / ROOTS_DIRECTORY
    place.mkdir()
    ended = root(not_after=NOW - timedelta(hours=1))
    (place / "maker.pem").write_bytes(ended.public_bytes(Encoding.PEM))
    assert failures(TpmVerifier(read_roots(tmp_path)).examine(TPM.made(), NOW_MS)) == {"validity": "expired"}
