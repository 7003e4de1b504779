"""Boot and key release: who becomes an instance, and who gets a model key."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import text
from tests.custodian.conftest import BORROWER, MODEL, OTHER, YEAR_MS, Bench, Enclave, make_bench
from tests.observations import Observed

from aigovtool.attestation.binding import HpkePublicKey, IdentityPublicKey, SpkiHash
from aigovtool.crypto.sign import Signature, SigningKey, seal
from aigovtool.crypto.wrap import WrapKey
from aigovtool.custodian.app import open_custodian
from aigovtool.custodian.refusals import INTERVAL_MS
from aigovtool.custodian.service import boot, key_release, renewal, views
from aigovtool.custodian.store import instances
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import (
    AIGovToolError,
    AppraisalError,
    ConfigurationError,
    ConflictError,
    EvidenceError,
    ForbiddenError,
    NotFoundError,
    OverloadedError,
    ReattestRequiredError,
    SignatureInvalidError,
    StoppedError,
    StorageError,
    UnauthenticatedError,
)
from aigovtool.ids import Digest, ModelId, Nonce, digest_of, key_id_of
from aigovtool.ledger import entry
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.limits import (
    MAX_NONCES_PER_BORROWER,
    MAX_OUTSTANDING_NONCES_PER_BORROWER,
    NONCE_TTL_MS,
    NONCE_WINDOW_MS,
)
from aigovtool.protocol import commands as acts
from aigovtool.protocol import messages, release
from aigovtool.testing.simulated_tee import wiring
from aigovtool.testing.simulated_tee.attester import DEFAULT_CHIP_ID, SimulatedPlatform, measure

MINUTE_MS = 60_000


async def for_longer(enclave: Enclave) -> None:
    """Let an admission last for two years, as earlier programs would have let it."""
    known = await enclave.record()
    longer = msgspec.structs.replace(known, valid_until_ms=known.valid_until_ms + 2 * YEAR_MS)
    await enclave.bench.custodian.database.run(lambda transaction: instances.replace(transaction, longer))


def stop_all() -> acts.Stop:
    return acts.Stop(target=StopTarget.ALL, value="", reason="drill")


async def refused(
    bench: Bench, enclave: Enclave, error: type[AIGovToolError], reason: str | None, **how: Any
) -> AIGovToolError:
    """Boot with `how`; expect a refusal and its line in the audit log, and no instance."""
    envelope = how.pop("envelope", None)
    if envelope is None:
        envelope = enclave.sealed(enclave.request(enclave.claims(await enclave.challenge())))
    with pytest.raises(error) as caught:
        await enclave.admit(envelope)
    assert caught.value.reason == reason
    last = (await bench.log())[-1]
    assert isinstance(last, entry.AttestationRefused)
    assert (last.borrower, last.code, last.reason) == (enclave.borrower, error.code, reason or "")
    assert (await views.show_enclaves(bench.custodian)).enclaves == []
    return caught.value


# --- Admission ---------------------------------------------------------------------------------------------


async def test_an_honest_enclave_is_admitted_for_its_models_only(lent: Bench) -> None:
    """The admission names this boot, the one model asked for, and its terms; the log has one line more."""
    enclave = Enclave(lent)
    before = len(await lent.log())
    admission = await enclave.boot()
    assert (admission.instance, admission.borrower) == (enclave.instance, BORROWER)
    (offer,) = admission.models
    assert (offer.model, offer.manifest, offer.package) == (MODEL, lent.manifest, lent.package)
    assert offer.sealer == lent.key.public.raw
    assert not enclave.stop_state(admission.stop_state).stops
    (attested,) = (await lent.log())[before:]
    assert isinstance(attested, entry.Attested)
    assert attested.chip == DEFAULT_CHIP_ID.hex() == (await enclave.record()).result.chip_id


@pytest.mark.attack(1)
@pytest.mark.fault(17)
async def test_a_nonce_works_once(lent: Bench) -> None:
    """The same boot request again is a replay: its nonce is spent."""
    enclave = Enclave(lent)
    envelope = enclave.sealed(enclave.request(enclave.claims(await enclave.challenge())))
    await enclave.admit(envelope)
    with pytest.raises(EvidenceError) as caught:
        await enclave.admit(envelope)
    assert caught.value.reason == "nonce_replayed"


@pytest.mark.attack(1)
async def test_a_nonce_is_spent_by_a_refused_boot_too(lent: Bench) -> None:
    """After a refusal the same nonce cannot be tried again with better evidence."""
    enclave = Enclave(lent, platform=SimulatedPlatform(measure(), debug=True))
    challenge = await enclave.challenge()
    with pytest.raises(AppraisalError):
        await enclave.admit(enclave.sealed(enclave.request(enclave.claims(challenge))))
    enclave.platform = wiring.platform()
    await refused(
        lent,
        enclave,
        EvidenceError,
        "nonce_replayed",
        envelope=enclave.sealed(enclave.request(enclave.claims(challenge))),
    )


async def test_a_nonce_of_nobody_is_unknown(lent: Bench) -> None:
    """A nonce that the custodian did not make is refused."""
    enclave = Enclave(lent)
    challenge = msgspec.structs.replace(await enclave.challenge(), nonce=Nonce("ab" * 32))
    envelope = enclave.sealed(enclave.request(enclave.claims(challenge)))
    await refused(lent, enclave, EvidenceError, "nonce_unknown", envelope=envelope)


@pytest.mark.attack(1)
async def test_a_nonce_of_another_borrower_is_unknown(lent: Bench) -> None:
    """A challenge made for one borrower is worth nothing in another's boot, and stays unspent."""
    mine, theirs = Enclave(lent, borrower=OTHER), Enclave(lent)
    challenge = await theirs.challenge()
    await refused(
        lent, mine, EvidenceError, "nonce_unknown", envelope=mine.sealed(mine.request(mine.claims(challenge)))
    )
    await theirs.admit(theirs.sealed(theirs.request(theirs.claims(challenge))))


@pytest.mark.parametrize(("late_ms", "good"), [(NONCE_TTL_MS, True), (NONCE_TTL_MS + 1, False)])
@pytest.mark.attack(1)
@pytest.mark.fault(17)
async def test_a_nonce_lasts_a_minute(late_ms: int, good: bool, lent: Bench, observed: Observed) -> None:  # noqa: FBT001
    """At the last millisecond it works; one later it does not."""
    enclave = Enclave(lent)
    envelope = enclave.sealed(enclave.request(enclave.claims(await enclave.challenge())))
    lent.now_ms += late_ms
    if good:
        await enclave.admit(envelope)
    else:
        observed.refusal(await refused(lent, enclave, EvidenceError, "nonce_expired", envelope=envelope))


# --- Both signatures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("signers", ["identity", "enrolment", "stranger+identity", "enrolment+stranger", "three"])
async def test_a_boot_is_signed_by_exactly_enrolment_and_identity_key(signers: str, lent: Bench) -> None:
    """Whose enclave, and which enclave: one signature less, another, or one more is refused."""
    enclave, stranger = Enclave(lent), SigningKey.generate()
    enrolment, identity = lent.enrolment[BORROWER], enclave.identity
    keys = {
        "identity": (identity,),
        "enrolment": (enrolment,),
        "stranger+identity": (stranger, identity),
        "enrolment+stranger": (enrolment, stranger),
        "three": (enrolment, identity, stranger),
    }[signers]
    challenge = await enclave.challenge()
    before = len(await lent.log())
    with pytest.raises((SignatureInvalidError, ForbiddenError)) as caught:
        await enclave.admit(enclave.sealed(enclave.request(enclave.claims(challenge)), *keys))
    assert caught.value.reason == ("wrong_key" if enrolment in keys else "not_enrolled")
    # Who has not proved to be the borrower cannot write the log; without both keys nobody spends a nonce.
    lines = [entry.AttestationRefused(borrower=BORROWER, code="bad_signature", reason="wrong_key")]
    assert (await lent.log())[before:] == (lines if enrolment in keys else [])
    await enclave.admit(enclave.sealed(enclave.request(enclave.claims(challenge))))


async def test_the_enrolment_key_of_another_borrower_is_wrong(lent: Bench) -> None:
    """A borrower cannot boot an enclave in another's name."""
    enclave = Enclave(lent)
    request = enclave.request(enclave.claims(await enclave.challenge()))
    with pytest.raises(SignatureInvalidError) as caught:
        await enclave.admit(enclave.sealed(request, lent.enrolment[OTHER], enclave.identity))
    assert caught.value.reason == "wrong_sender"


async def test_one_key_cannot_be_enrolment_and_identity(lent: Bench) -> None:
    """The borrower's key, which its host holds, is no identity that was born in an enclave."""
    enclave = Enclave(lent, identity=lent.enrolment[BORROWER])
    request = enclave.request(enclave.claims(await enclave.challenge()))
    with pytest.raises(SignatureInvalidError) as caught:
        await enclave.admit(enclave.sealed(request, lent.enrolment[BORROWER]))
    assert caught.value.reason == "wrong_key"


async def test_a_boot_request_is_of_its_kind(lent: Bench) -> None:
    """The same bytes under the same signatures mean nothing as another kind of message."""
    enclave = Enclave(lent)
    request = enclave.request(enclave.claims(await enclave.challenge()))
    with pytest.raises(SignatureInvalidError) as caught:
        await enclave.admit(seal(release.RELEASE_REQUEST, request, lent.enrolment[BORROWER], enclave.identity))
    assert caught.value.reason == "wrong_kind"


# --- Binding -----------------------------------------------------------------------------------------------

OTHER_KEY = SigningKey.generate()
SWAPS: dict[str, Any] = {
    "role": "session",
    "audience": "custodian:" + "0" * 64,
    "tls_spki": SpkiHash(b"\1" * 32),
    "hpke_key": HpkePublicKey(WrapKey.generate().public),
    "identity_key": IdentityPublicKey(OTHER_KEY.public.raw),
    "instance": "0" * 64,
    "custodian_root": key_id_of(b"another root"),
    "configuration": digest_of(b"another configuration"),
    "appraisal_policy": digest_of(b"another policy"),
}


@pytest.mark.parametrize("name", SWAPS)
@pytest.mark.attack(2)
async def test_no_claim_can_be_swapped_after_the_evidence_was_made(name: str, lent: Bench, observed: Observed) -> None:
    """Evidence relayed with one changed claim does not cover it: refused whatever the claim is."""
    enclave = Enclave(lent)
    honest = enclave.claims(await enclave.challenge())
    claims = msgspec.structs.replace(honest, **{name: SWAPS[name]})
    identity = OTHER_KEY if name == "identity_key" else enclave.identity
    envelope = enclave.sealed(enclave.request(claims, evidence_of=honest), lent.enrolment[BORROWER], identity)
    observed.refusal(await refused(lent, enclave, EvidenceError, "channel_binding", envelope=envelope))
    observed.entry("attestation_refused")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("role", "binding_role"),
        ("audience", "binding_audience"),
        ("hpke_key", "binding_instance"),
        ("identity_key", "binding_instance"),
        ("instance", "binding_instance"),
        ("custodian_root", "binding_custodian_root"),
        ("appraisal_policy", "binding_appraisal_policy"),
    ],
)
@pytest.mark.attack(2, 4)
async def test_genuine_evidence_for_another_conversation_is_refused(name: str, reason: str, lent: Bench) -> None:
    """An enclave that attests honestly, but for another role, custodian, policy or instance, is not admitted."""
    enclave = Enclave(lent)
    claims = msgspec.structs.replace(enclave.claims(await enclave.challenge()), **{name: SWAPS[name]})
    identity = OTHER_KEY if name == "identity_key" else enclave.identity
    envelope = enclave.sealed(enclave.request(claims), lent.enrolment[BORROWER], identity)
    await refused(lent, enclave, EvidenceError, reason, envelope=envelope)


@pytest.mark.parametrize("name", ["tls_spki", "configuration"])
async def test_what_only_the_enclave_knows_is_not_judged_at_boot(name: str, lent: Bench) -> None:
    """The TLS key is judged by each consumer on its own connection; the configuration is the borrower's."""
    enclave = Enclave(lent)
    claims = msgspec.structs.replace(enclave.claims(await enclave.challenge()), **{name: SWAPS[name]})
    assert (await enclave.admit(enclave.sealed(enclave.request(claims)))).instance == enclave.instance


async def test_a_boot_nonce_that_does_not_make_the_instance_is_refused(lent: Bench) -> None:
    """The instance id is the digest of keys and boot nonce, computed by the custodian itself."""
    enclave = Enclave(lent)
    request = enclave.request(enclave.claims(await enclave.challenge()))
    changed = msgspec.structs.replace(request, boot_nonce=Nonce("0" * 64))
    await refused(lent, enclave, EvidenceError, "binding_instance", envelope=enclave.sealed(changed))


async def test_an_instance_boots_once(lent: Bench) -> None:
    """The same keys with a fresh nonce are the same instance, which exists: no second life."""
    enclave = Enclave(lent)
    await enclave.boot()
    with pytest.raises(ConflictError) as caught:
        await enclave.boot()
    assert caught.value.reason == "instance_exists"


async def test_an_identity_key_boots_once(lent: Bench) -> None:
    """With another HPKE key it would be another instance: what that key signs must be one instance's."""
    first = Enclave(lent)
    await first.boot()
    with pytest.raises(ConflictError) as caught:
        await Enclave(lent, identity=first.identity).boot()
    assert caught.value.reason == "identity_key_reused"
    last = (await lent.log())[-1]
    assert isinstance(last, entry.AttestationRefused)
    assert (last.borrower, last.reason) == (BORROWER, "identity_key_reused")
    await first.release()


async def twice_known(lent: Bench) -> Enclave:
    """Admit an enclave, and put a second instance with its identity key beside it, as earlier programs admitted it."""
    enclave = Enclave(lent)
    await enclave.boot()
    copied = "key_id, borrower, state, attested_at_ms, last_contact_ms, body"
    statement = text(f"INSERT INTO instances (instance, {copied}) SELECT :other, {copied} FROM instances")
    other = statement.bindparams(other="0" * 64)
    await lent.custodian.database.run(lambda transaction: transaction.execute(other) and None)
    return enclave


@pytest.mark.parametrize("receive", [key_release.release_key, renewal.renew, renewal.wiped, renewal.listener])
async def test_a_stranger_who_names_a_key_that_two_instances_have_stops_nobody(receive: Any, lent: Bench) -> None:
    """A `keyid` proves nothing: whatever the ledger knows of it, the sender alone is refused."""
    enclave = await twice_known(lent)
    unsigned = msgspec.structs.replace(
        seal(messages.RENEW, {}, SigningKey.generate()),
        signatures=[Signature(keyid=enclave.identity.public.key_id, sig=bytes(64))],
    )
    with pytest.raises(SignatureInvalidError):
        await receive(lent.custodian, unsigned)
    assert not lent.custodian.database.failed.is_set()
    await lent.grant(1)


# --- Appraisal ---------------------------------------------------------------------------------------------


@pytest.mark.attack(8)
@pytest.mark.fault(22)
async def test_simulated_evidence_needs_an_explicit_opt_in(tmp_path: Path) -> None:
    """A custodian made without it refuses, even when an operator has set a policy that would accept."""
    bench = make_bench(tmp_path / "custodian", allow_simulated=False)
    try:
        await bench.add_borrower(BORROWER)
        enclave = Enclave(bench)
        with pytest.raises(ConfigurationError) as absent:
            await enclave.challenge()
        assert absent.value.reason == "no_policy"
        await bench.command(acts.SetAppraisalPolicy(policy=wiring.development_policy()))
        envelope = enclave.sealed(enclave.request(enclave.claims(await enclave.challenge())))
        with pytest.raises(AIGovToolError) as caught:
            await enclave.admit(envelope)
        assert isinstance(caught.value, EvidenceError | AppraisalError)
        assert (await bench.kinds())[-1] == "AttestationRefused"
    finally:
        bench.custodian.database.close()


@pytest.mark.parametrize(
    "platform",
    [SimulatedPlatform(measure(), debug=True), SimulatedPlatform(type(measure())("0" * 96))],
    ids=["debug", "another-program"],
)
async def test_genuine_but_unacceptable_evidence_is_refused(platform: SimulatedPlatform, lent: Bench) -> None:
    """A TEE in debug mode, or one that runs another program, is genuine and still gets nothing."""
    enclave = Enclave(lent, platform=platform)
    with pytest.raises(AppraisalError) as caught:
        await enclave.boot()
    last = (await lent.log())[-1]
    assert isinstance(last, entry.AttestationRefused)
    assert (last.code, last.reason) == ("evidence_unacceptable", (caught.value.reason or "")[:80])


async def test_a_model_that_is_not_lent_to_this_borrower_is_refused(lent: Bench) -> None:
    """Another borrower's model, although its enclave is acceptable."""
    await refused(lent, Enclave(lent, borrower=OTHER), ForbiddenError, "not_lent")


async def test_an_unknown_or_withdrawn_model_is_refused(lent: Bench) -> None:
    """Both are the same to a borrower: there is no such model."""
    unknown = Enclave(lent, models=[ModelId("nothing")])
    await refused(lent, unknown, NotFoundError, "no_such_model")
    await lent.command(acts.WithdrawModel(model=MODEL))
    lent.now_ms += INTERVAL_MS
    await refused(lent, Enclave(lent), NotFoundError, "no_such_model")


@pytest.mark.parametrize("target", [StopTarget.ALL, StopTarget.MODEL, StopTarget.BORROWER])
async def test_a_stop_also_stops_boots(target: StopTarget, lent: Bench) -> None:
    """What is stopped is not admitted either."""
    value = {StopTarget.ALL: "", StopTarget.MODEL: MODEL, StopTarget.BORROWER: BORROWER}[target]
    await lent.command(acts.Stop(target=target, value=value, reason="drill"))
    await refused(lent, Enclave(lent), StoppedError, None)


async def test_a_revoked_borrower_gets_no_challenge_and_no_admission(lent: Bench) -> None:
    """Also when it holds a fresh nonce from before."""
    enclave = Enclave(lent)
    envelope = enclave.sealed(enclave.request(enclave.claims(await enclave.challenge())))
    await lent.command(acts.RevokeParty(role=PartyRole.BORROWER, name=BORROWER))
    for attempt in (enclave.challenge(), enclave.admit(envelope)):
        with pytest.raises(ForbiddenError) as caught:
            await attempt
        assert caught.value.reason == "not_enrolled"


async def test_a_borrower_whose_credential_has_ended_gets_no_challenge_and_no_admission(lent: Bench) -> None:
    """At its last millisecond it still does; nobody need have revoked it afterwards."""
    enclave = Enclave(lent)
    lent.now_ms += YEAR_MS
    envelope = enclave.sealed(enclave.request(enclave.claims(await enclave.challenge())))
    lent.now_ms += 1
    before = len(await lent.log())
    for attempt in (enclave.challenge(), enclave.admit(envelope)):
        with pytest.raises(UnauthenticatedError) as caught:
            await attempt
        assert (caught.value.reason, caught.value.status) == ("credential_expired", 401)
    # The same again is counted, not written.
    lines = [entry.AttestationRefused(borrower=BORROWER, code="unauthenticated", reason="credential_expired")]
    assert (await lent.log())[before:] == lines


async def test_no_admission_outlives_the_credential_of_its_borrower(lent: Bench) -> None:
    """An instance of the last minute is to attest again when that is over, and then it cannot."""
    enclave = Enclave(lent)
    ends_ms = lent.now_ms + YEAR_MS
    lent.now_ms = ends_ms - MINUTE_MS
    assert (await enclave.boot()).valid_until_ms == ends_ms
    await enclave.release()
    lent.now_ms = ends_ms
    with pytest.raises(ReattestRequiredError):
        await enclave.release()


# --- Key release -------------------------------------------------------------------------------------------


async def test_a_key_opens_with_the_attested_key_in_its_context_only(admitted: Enclave, lent: Bench) -> None:
    """Another HPKE key, or the context of another custodian, instance, model, manifest or policy, opens nothing."""
    released = await admitted.release()
    custodian = lent.custodian.keys.custodian
    names = (custodian, admitted.instance, MODEL, lent.manifest, lent.policy.digest())
    with admitted.hpke.unwrap(released.wrapped_key, release.release_context(*names)) as key:
        assert key.reveal() == lent.model_key
    with pytest.raises(SignatureInvalidError):
        WrapKey.generate().unwrap(released.wrapped_key, release.release_context(*names))
    digest = digest_of(b"x")
    wrong: tuple[Any, ...] = (key_id_of(b"x"), Enclave(lent).instance, ModelId("other"), digest, digest)
    for position, other in enumerate(wrong):
        changed: list[Any] = list(names)
        changed[position] = other
        with pytest.raises(SignatureInvalidError):
            admitted.hpke.unwrap(released.wrapped_key, release.release_context(*changed))


async def test_an_instance_that_was_not_admitted_gets_no_key(lent: Bench) -> None:
    """A foreign instance is unknown, however well its request is signed."""
    with pytest.raises(ForbiddenError) as caught:
        await Enclave(lent).release()
    assert caught.value.reason == "unknown_instance"


async def test_a_release_is_signed_by_the_instance(admitted: Enclave, lent: Bench) -> None:
    """Neither its borrower nor another instance can ask in its name."""
    for key in (lent.enrolment[BORROWER], SigningKey.generate()):
        with pytest.raises(ForbiddenError) as unknown:
            await admitted.release(admitted.release_request(by=key))
        assert unknown.value.reason == "unknown_instance"
    other = Enclave(lent)
    await other.boot()
    with pytest.raises(SignatureInvalidError) as foreign:
        await admitted.release(admitted.release_request(by=other.identity))
    assert foreign.value.reason == "wrong_sender"


@pytest.mark.fault(20)
async def test_a_wrong_manifest_gets_no_key(admitted: Enclave) -> None:
    """The key is for one sealed package, not for whatever bears the model's name."""
    with pytest.raises(ForbiddenError) as caught:
        await admitted.release(admitted.release_request(manifest=Digest("sha256:" + "0" * 64)))
    assert caught.value.reason == "not_admitted"


async def test_an_expired_attestation_gets_no_key(admitted: Enclave, lent: Bench) -> None:
    """From the end of its validity on an instance must attest again."""
    lent.now_ms += lent.policy.max_attestation_age_ms
    with pytest.raises(ReattestRequiredError):
        await admitted.release()


async def test_an_instance_of_a_borrower_whose_credential_has_ended_gets_no_key(admitted: Enclave, lent: Bench) -> None:
    """Also one that an earlier program admitted for longer; the refusal is in the log."""
    await for_longer(admitted)
    lent.now_ms += YEAR_MS + 1
    with pytest.raises(UnauthenticatedError):
        await admitted.release()
    last = (await lent.log())[-1]
    assert isinstance(last, entry.ReleaseRefused)
    assert last.reason == "credential_expired"


async def test_a_stopped_instance_gets_no_key(admitted: Enclave, lent: Bench) -> None:
    """A stop between admission and release stops the release."""
    await lent.command(stop_all())
    with pytest.raises(StoppedError):
        await admitted.release()


async def test_the_log_has_the_release_before_the_reply(admitted: Enclave, lent: Bench) -> None:
    """When the reply is there, so is its line, naming instance, model and manifest."""
    await admitted.release()
    last = (await lent.log())[-1]
    assert last == entry.KeyReleased(instance=admitted.instance, model=MODEL, manifest=lent.manifest)


async def test_no_reply_without_a_durable_log(admitted: Enclave, lent: Bench) -> None:
    """When COMMIT fails there is no wrapped key: the line would be missing from the log."""
    database, gate = lent.custodian.database, threading.Event()
    database.submit(lambda _: gate.wait(20))
    released = asyncio.create_task(admitted.release())
    await asyncio.sleep(0)  # the task has now queued its job behind the gate

    def poison(transaction: Transaction) -> None:
        for statement in (
            "CREATE TABLE a (id INTEGER PRIMARY KEY)",
            "CREATE TABLE b (a REFERENCES a DEFERRABLE INITIALLY DEFERRED)",
            "INSERT INTO b VALUES (7)",
        ):
            transaction.execute(text(statement))

    poisoned = database.submit(poison)
    gate.set()
    with pytest.raises(StorageError):
        await released
    with pytest.raises(StorageError):
        poisoned.result(20)
    database.close()
    lent.custodian = open_custodian(lent.directory)
    assert "KeyReleased" not in await lent.kinds()
    lent.custodian.database.close()


async def test_one_borrower_cannot_use_up_the_nonces_of_all(lent: Bench) -> None:
    """Challenges for one borrower are bounded, and another borrower still boots."""
    greedy, other = Enclave(lent), Enclave(lent, borrower=OTHER)
    for _ in range(MAX_OUTSTANDING_NONCES_PER_BORROWER):
        await boot.challenge(lent.custodian, greedy.challenge_request())
    with pytest.raises(OverloadedError):
        await boot.challenge(lent.custodian, greedy.challenge_request())
    await boot.challenge(lent.custodian, other.challenge_request())


async def test_an_enclave_that_boots_in_a_loop_is_refused_for_a_while(lent: Bench) -> None:
    """Each boot is verified, and a line of the log for ever: so many in ten minutes, used or not. Others still boot."""
    looping, other = Enclave(lent), Enclave(lent, borrower=OTHER)
    began_ms = lent.now_ms
    for _ in range(MAX_NONCES_PER_BORROWER):
        await boot.challenge(lent.custodian, looping.challenge_request())
        lent.now_ms += 1_000  # so that never too many are outstanding
    lines = len(await lent.log())
    with pytest.raises(OverloadedError) as caught:
        await looping.boot()
    assert (caught.value.reason, caught.value.retry_after_s) == ("boots", 60)
    assert len(await lent.log()) == lines
    await other.challenge()
    lent.now_ms = began_ms + NONCE_WINDOW_MS + 1
    await looping.boot()


async def test_a_stranger_cannot_use_up_a_borrowers_nonces(lent: Bench) -> None:
    """A borrower's name is no secret, its enrolment key is: neither a stranger nor another borrower gets its nonces."""
    enclave = Enclave(lent)
    for _ in range(MAX_OUTSTANDING_NONCES_PER_BORROWER + 1):
        with pytest.raises(ForbiddenError) as unknown:
            await boot.challenge(lent.custodian, enclave.challenge_request(by=SigningKey.generate()))
        assert unknown.value.reason == "not_enrolled"
        with pytest.raises(SignatureInvalidError) as foreign:
            await boot.challenge(lent.custodian, enclave.challenge_request(by=lent.enrolment[OTHER]))
        assert foreign.value.reason == "wrong_sender"
    await enclave.boot()


@pytest.mark.parametrize("receive", [boot.challenge, boot.admit, key_release.release_key, renewal.renew, renewal.wiped])
async def test_nothing_is_parsed_before_somebody_known_signed_it(receive: Any, lent: Bench) -> None:
    """A stranger's payload is refused for its signature, however malformed it is: the parser never saw it."""
    kinds = {
        boot.challenge: release.CHALLENGE_REQUEST,
        boot.admit: release.BOOT,
        key_release.release_key: release.RELEASE_REQUEST,
        renewal.renew: messages.RENEW,
        renewal.wiped: messages.WIPED,
    }
    garbage = msgspec.structs.replace(seal(kinds[receive], {}, SigningKey.generate()), payload=b"[" * 1000)
    with pytest.raises(ForbiddenError):
        await receive(lent.custodian, garbage)
    known = msgspec.structs.replace(
        garbage, signatures=[Signature(keyid=lent.enrolment[BORROWER].public.key_id, sig=bytes(64))]
    )
    with pytest.raises((SignatureInvalidError, ForbiddenError)):
        await receive(lent.custodian, known)


async def test_a_refused_release_is_in_the_log(admitted: Enclave, lent: Bench) -> None:
    """Who asked for which key, and why it was not given."""
    await lent.command(acts.Stop(target=StopTarget.MODEL, value=MODEL, reason="drill"))
    with pytest.raises(StoppedError):
        await admitted.release()
    last = (await lent.log())[-1]
    assert last == entry.ReleaseRefused(instance=admitted.instance, model=MODEL, code="stopped", reason="")
