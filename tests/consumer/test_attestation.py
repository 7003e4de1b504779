"""What stands between a consumer and an enclave that is not what it says."""

import logging
from typing import Any

import msgspec
import pytest
from tests.consumer.conftest import MANIFEST, MEASUREMENT, MODEL, FakeEnclave, World

from aigovtool.attestation.binding import IdentityPublicKey, SpkiHash
from aigovtool.attestation.model import MeasurementHex, TeeType
from aigovtool.attestation.verifier import VerifierSet
from aigovtool.consumer import Client
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.x509 import new_authority
from aigovtool.errors import (
    AIGovToolError,
    AppraisalError,
    ConfigurationError,
    EvidenceError,
    SignatureInvalidError,
    StoppedError,
    UnreachableError,
)
from aigovtool.ids import ModelId, Nonce, digest_of
from aigovtool.protocol.session import SessionEvidence
from aigovtool.testing.simulated_tee.attester import SimulatedPlatform
from aigovtool.testing.simulated_tee.verify import SimulatedVerifier, simulated_policy


def refused(world: World, enclave: FakeEnclave, kind: type[Exception], reason: str, **options: Any) -> None:
    """Show that connecting fails for `reason`, and that nothing but the challenge was sent."""
    with pytest.raises(kind) as caught:
        world.connect(enclave, **options)
    assert caught.value.reason == reason  # type: ignore[attr-defined]
    assert not enclave.charged


@pytest.mark.attack(2)
def test_relayed_evidence_is_refused(world: World, enclave: FakeEnclave) -> None:
    """A machine in the middle relays the challenge to a genuine enclave; its own certificate gives it away."""
    middle = world.enclave()
    middle.forge_session = lambda session: enclave.attest("radiology", session.claims.nonce)
    refused(world, middle, EvidenceError, "binding_tls_spki")


@pytest.mark.attack(2)
def test_relayed_evidence_with_the_relays_key_in_the_claims_is_refused(world: World, enclave: FakeEnclave) -> None:
    """Claims that name the relay's key are not those that the report covers."""
    middle = world.enclave()
    spki = SpkiHash(middle.tls_key.spki_sha256())

    def relay(session: SessionEvidence) -> SessionEvidence:
        genuine = enclave.attest("radiology", session.claims.nonce)
        return msgspec.structs.replace(genuine, claims=msgspec.structs.replace(genuine.claims, tls_spki=spki))

    middle.forge_session = relay
    refused(world, middle, EvidenceError, "channel_binding")


@pytest.mark.attack(1)
@pytest.mark.fault(17)
def test_replayed_evidence_is_refused(world: World, enclave: FakeEnclave) -> None:
    """Evidence for an earlier nonce says nothing about now."""
    old = enclave.attest("radiology", Nonce("00" * 32))
    enclave.forge_session = lambda _: old
    refused(world, enclave, EvidenceError, "binding_nonce")


@pytest.mark.fault(17)
def test_every_attestation_uses_another_nonce(world: World, enclave: FakeEnclave) -> None:
    """A nonce that came twice could be answered from memory."""
    client = world.connect(enclave)
    client.attest()
    client.attest()
    assert len(set(enclave.challenges)) == 3


def test_evidence_for_another_consumer_is_refused(world: World, enclave: FakeEnclave) -> None:
    """Evidence that a colleague asked for is not ours."""
    enclave.forge_session = _once(enclave, "cardiology")
    refused(world, enclave, EvidenceError, "binding_audience")


def _once(enclave: FakeEnclave, consumer: str) -> Any:
    def forge(session: SessionEvidence) -> SessionEvidence:
        enclave.forge_session = lambda same: same
        return enclave.attest(consumer, session.claims.nonce)

    return forge


@pytest.mark.attack(4)
def test_boot_evidence_is_not_session_evidence(world: World, enclave: FakeEnclave) -> None:
    """Evidence that the custodian got at boot cannot be shown to a consumer."""
    enclave.forge_claims = lambda claims: msgspec.structs.replace(claims, role="boot", manifests=())
    refused(world, enclave, EvidenceError, "binding_role")


def test_a_key_set_of_another_root_is_refused(world: World, enclave: FakeEnclave) -> None:
    """A borrower cannot be its own custodian."""
    enclave.key_set = world.key_set(7, root=SigningKey.generate())
    refused(world, enclave, SignatureInvalidError, "wrong_key")


@pytest.mark.fault(19)
def test_an_enclave_of_another_custodian_is_refused(world: World, enclave: FakeEnclave) -> None:
    """The right key set beside evidence that binds another root proves nothing."""
    other = SigningKey.generate().public.key_id
    enclave.forge_claims = lambda claims: msgspec.structs.replace(claims, custodian_root=other)
    refused(world, enclave, EvidenceError, "binding_custodian_root")


@pytest.mark.fault(20)
def test_a_pinned_model_digest_is_demanded(world: World, enclave: FakeEnclave) -> None:
    """Another model under the same name is another model."""
    pins = {"doubler": digest_of(b"the model that was audited")}
    refused(world, enclave, EvidenceError, "binding_manifests", models=pins)


def test_the_right_pin_is_accepted(world: World, enclave: FakeEnclave) -> None:
    """A pin that is met changes nothing."""
    assert (
        world.connect(enclave, models={"doubler": MANIFEST}).infer("doubler", [[1, 2]]).statement.manifest == MANIFEST
    )


@pytest.mark.fault(20)
def test_swapped_names_of_covered_models_are_refused(world: World, enclave: FakeEnclave) -> None:
    """Both digests are attested, but each name must have its own."""
    other = digest_of(b"another model")
    enclave.manifests = {MODEL: other, ModelId("tripler"): MANIFEST}
    refused(world, enclave, EvidenceError, "model_mismatch", models={"doubler": MANIFEST})


def test_a_listed_model_that_the_evidence_does_not_cover_is_refused(world: World, enclave: FakeEnclave) -> None:
    """A list beside the evidence is only believed as far as the evidence goes."""
    enclave.covered = (digest_of(b"something else"),)
    refused(world, enclave, EvidenceError, "model_not_bound")


def test_a_debug_enclave_is_refused(world: World, enclave: FakeEnclave) -> None:
    """In debug mode the host reads the memory."""
    enclave.platform = SimulatedPlatform(MEASUREMENT, debug=True)
    refused(world, enclave, AppraisalError, "debug")


def test_another_measurement_is_refused(world: World, enclave: FakeEnclave) -> None:
    """Code that is not in the reference values is somebody else's code."""
    enclave.platform = SimulatedPlatform(MeasurementHex("cd" * 48))
    refused(world, enclave, AppraisalError, "measurements")


def test_a_file_that_knows_nothing_of_a_tee_is_told_so(world: World, enclave: FakeEnclave) -> None:
    """One reason instead of one for each check, and whom to ask for what."""
    accepted = tuple(msgspec.structs.replace(entry, tee=TeeType.TDX) for entry in world.policy.accepted)
    path = world.consumer_file("tdx.json", policy=msgspec.structs.replace(world.policy, accepted=accepted))
    with pytest.raises(AppraisalError) as caught:
        world.connect(enclave, credential_path=path)
    assert (caught.value.reason, "new consumer file" in (caught.value.fix or "")) == ("tee", True)
    assert caught.value.message.endswith("has no entry for it: it accepts tdx")


def test_a_simulated_tee_is_refused_by_default(world: World, enclave: FakeEnclave) -> None:
    """A consumer file that allows it is only one half."""
    refused(world, enclave, AppraisalError, "simulated", allow_simulated=False)


def test_a_simulated_tee_is_refused_when_the_policy_does_not_allow_it(world: World, enclave: FakeEnclave) -> None:
    """A caller that allows it is only the other half."""
    policy = msgspec.structs.replace(world.policy, allow_simulated=False)
    path = world.consumer_file("strict.json", policy=policy)
    refused(world, enclave, AppraisalError, "simulated", credential_path=path)


@pytest.mark.parametrize("allowed_by", ["caller", "policy", "nobody"])
def test_a_wired_simulated_verifier_does_not_replace_the_opt_in(
    world: World, enclave: FakeEnclave, allowed_by: str
) -> None:
    """Verifiers that a caller brings along do not loosen the rule."""
    policy = msgspec.structs.replace(world.policy, allow_simulated=allowed_by == "policy")
    path = world.consumer_file("strict.json", policy=policy)
    options = {"allow_simulated": allowed_by == "caller", "credential_path": path}
    verifiers = VerifierSet({TeeType.SIMULATED: SimulatedVerifier()})
    refused(world, enclave, AppraisalError, "simulated", verifiers=verifiers, **options)


def test_simulated_evidence_under_another_label_is_refused(world: World, enclave: FakeEnclave) -> None:
    """A label selects a verifier, and there is none that would take it."""

    def relabel(session: SessionEvidence) -> SessionEvidence:
        evidence = msgspec.structs.replace(session.evidence, tee=TeeType.SEV_SNP)
        return msgspec.structs.replace(session, evidence=evidence)

    enclave.forge_session = relabel
    refused(world, enclave, EvidenceError, "tee_unknown")


def test_a_simulated_tee_warns_whatever_the_enclave_says(
    world: World, enclave: FakeEnclave, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning is the reader's own."""
    enclave.warning = None
    with caplog.at_level(logging.WARNING, "aigovtool.consumer"):
        client = world.connect(enclave)
    assert client.infer("doubler", [[1, 2]]).warning == "SIMULATED TEE: protects nothing"
    assert "SIMULATED TEE" in caplog.text


def test_an_older_key_set_is_refused_at_a_fresh_attestation(world: World, enclave: FakeEnclave) -> None:
    """Keys that the custodian has replaced must not come back."""
    client = world.connect(enclave)
    enclave.key_set = world.key_set(6)
    with pytest.raises(SignatureInvalidError) as caught:
        client.attest()
    assert caught.value.reason == "key_set_rollback"


def test_an_older_key_set_than_in_an_earlier_process_is_refused(world: World, enclave: FakeEnclave) -> None:
    """`key_set_at_least` carries the number from one process to the next."""
    refused(world, enclave, SignatureInvalidError, "key_set_rollback", key_set_at_least=8)


def test_two_key_sets_with_one_number_are_refused(world: World, enclave: FakeEnclave) -> None:
    """A root that signs two sets with one number tells two parties different things."""
    client = world.connect(enclave)
    enclave.key_set = world.key_set(7, issued_at_ms=2)
    with pytest.raises(SignatureInvalidError) as caught:
        client.attest()
    assert caught.value.reason == "key_set_fork"


def test_a_newer_key_set_is_accepted(world: World, enclave: FakeEnclave) -> None:
    """Rotation is normal."""
    client = world.connect(enclave)
    enclave.key_set = world.key_set(8)
    client.attest()
    assert client.key_set_version == 8


@pytest.mark.parametrize(("passed_s", "set_s"), [(61, 0), (61, -61), (0, 61), (0, -61)])
def test_evidence_is_fetched_again_when_it_is_too_old(
    world: World, enclave: FakeEnclave, passed_s: int, set_s: int
) -> None:
    """An old attestation says nothing about now, also when somebody set the clock meanwhile."""
    path = world.consumer_file("short.json", policy=simulated_policy(MEASUREMENT, max_attestation_age_ms=60_000))
    client = world.connect(enclave, credential_path=path)
    client.infer("doubler", [[1, 2]])
    assert len(enclave.challenges) == 1
    world.clock.offset_s += passed_s
    world.clock.wall_s += set_s
    client.infer("doubler", [[1, 2]])
    assert len(enclave.challenges) == 2


def test_a_rebooted_enclave_is_attested_afresh(world: World, enclave: FakeEnclave) -> None:
    """Another certificate means another boot, which must prove itself again."""
    client = world.connect(enclave)
    before = client.instance
    client.infer("doubler", [[1, 2]])
    enclave.reboot()
    assert client.infer("doubler", [[3, 4]]).outputs["y"].tolist() == [[6, 8]]
    assert client.instance == enclave.instance != before
    assert len(enclave.challenges) == 2


@pytest.mark.attack(2)
def test_a_certificate_that_changes_midway_to_an_unattested_one_gets_nothing(
    world: World, enclave: FakeEnclave
) -> None:
    """Whoever takes the enclave's address later has to be an enclave."""
    client = world.connect(enclave)
    enclave.reboot()
    enclave.platform = SimulatedPlatform(MeasurementHex("cd" * 48))
    with pytest.raises(AppraisalError):
        client.infer("doubler", [[1, 2]])
    assert not enclave.charged


def test_a_model_that_changes_at_a_reboot_is_refused_without_a_pin_too(world: World, enclave: FakeEnclave) -> None:
    """The digest first seen is kept for the life of the client."""
    client = world.connect(enclave)
    enclave.manifests = {MODEL: digest_of(b"another model")}
    enclave.reboot()
    with pytest.raises(EvidenceError) as caught:
        client.infer("doubler", [[1, 2]])
    assert caught.value.reason == "model_changed"
    assert not enclave.charged


def test_another_identity_key_than_the_attested_one_is_refused(world: World, enclave: FakeEnclave) -> None:
    """Claims are covered whole, the key that signs receipts included."""

    def swap(session: SessionEvidence) -> SessionEvidence:
        key = IdentityPublicKey(SigningKey.generate().public.raw)
        return msgspec.structs.replace(session, claims=msgspec.structs.replace(session.claims, identity_key=key))

    enclave.forge_session = swap
    refused(world, enclave, EvidenceError, "channel_binding")


def test_a_model_listed_twice_is_refused(world: World, enclave: FakeEnclave) -> None:
    """One name has one digest."""
    enclave.forge_session = lambda session: msgspec.structs.replace(session, models=session.models * 2)
    refused(world, enclave, EvidenceError, "bad_session")


@pytest.mark.parametrize(
    ("said", "kind", "reason"),
    [
        (AppraisalError("it is simulated", reason="simulated", fix="add --allow-simulated"), UnreachableError, None),
        (EvidenceError("no evidence", reason="signature", fix="get a newer file"), UnreachableError, None),
        (StoppedError("stopped", reason="consumer_stopped", fix="call 555-0199"), StoppedError, "consumer_stopped"),
    ],
)
def test_who_has_proven_nothing_gives_no_advice(
    world: World, enclave: FakeEnclave, said: AIGovToolError, kind: type[AIGovToolError], reason: str | None
) -> None:
    """Whoever stands in the place of an enclave could have people accept what they must not, in our own words."""

    def refuse(_: SessionEvidence) -> SessionEvidence:
        raise said

    enclave.forge_session = refuse
    with pytest.raises(AIGovToolError) as caught:
        world.connect(enclave)
    assert (type(caught.value), caught.value.reason, caught.value.fix) == (kind, reason, None)
    assert caught.value.message == f"who answers at this address, and has proven nothing, says: {said.message}"


def test_a_custodian_is_not_taken_for_an_enclave(world: World) -> None:
    """Two addresses are easily mixed up; what answers there is named, and where to look for the right one."""
    with pytest.raises(ConfigurationError) as caught:
        Client.connect(world.custodian.served.url, world.file, allow_simulated=True)
    assert caught.value.reason == "not_an_enclave"
    assert "is the custodian" in caught.value.message
    other = new_authority(TlsKey.generate(), "other", **world.validity)
    stranger = world.consumer_file("other.json", tls_authority=other)
    with pytest.raises(ConfigurationError) as caught:
        Client.connect(world.custodian.served.url, stranger, allow_simulated=True)
    assert (caught.value.reason, "custodian" in caught.value.message) == ("not_an_enclave", False)
