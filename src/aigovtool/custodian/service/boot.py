"""Boot and key release: who may become an instance, and who gets a model key (spec: leases section 9).

Order of `admit`: enrolled borrower -> both signatures -> nonce consumed, durably, whatever follows ->
genuine -> bound to this conversation -> acceptable -> models allowed -> recorded. A refusal after the
borrower has proved itself is written to the audit log.
"""

import secrets

from sqlalchemy import Connection

from aigovtool.attestation import appraisal
from aigovtool.attestation.appraisal import AppraisalPolicy, policy_digest
from aigovtool.attestation.binding import Expectation, require_bound
from aigovtool.attestation.model import AttestationResult, TeeType, Unchecked
from aigovtool.codec import decode, decode_signed, encode
from aigovtool.crypto.sign import Envelope, VerifyKey, open_envelope, seal
from aigovtool.crypto.wrap import wrap
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.store import facts, instances, models, parties, stops
from aigovtool.custodian.store.records import Instance, Model
from aigovtool.errors import (
    AIGovToolError,
    ConfigurationError,
    ForbiddenError,
    ReattestRequiredError,
    SignatureInvalidError,
    StoppedError,
)
from aigovtool.ids import BorrowerId, ModelId, Nonce, digest_of, instance_id_of
from aigovtool.ledger.entry import AttestationRefused, Attested, KeyReleased, PartyRole
from aigovtool.limits import NONCE_TTL_MS
from aigovtool.protocol import release
from aigovtool.protocol.release import Admission, BootRequest, Challenge, ChallengeReply, ChallengeRequest, KeyRelease


def policy_in_force(connection: Connection) -> AppraisalPolicy:
    """Return the appraisal policy.

    Raises:
        ConfigurationError: none was ever set (absent = deny).
    """
    policy = facts.get(connection, facts.APPRAISAL_POLICY, AppraisalPolicy)
    if policy is None:
        raise ConfigurationError("no appraisal policy is set; no enclave can be admitted", reason="no_policy")
    return policy


async def challenge(custodian: Custodian, request: ChallengeRequest) -> ChallengeReply:
    """Give an enrolled borrower's enclave a nonce."""

    def job(connection: Connection) -> Challenge:
        now_ms = custodian.now(connection)
        parties.require(connection, PartyRole.BORROWER, request.borrower)
        nonce = Nonce(secrets.token_hex(32))
        instances.add_nonce(connection, nonce, request.borrower, now_ms=now_ms, ttl_ms=NONCE_TTL_MS)
        return Challenge(
            custodian=custodian.keys.custodian,
            nonce=nonce,
            borrower=request.borrower,
            appraisal_policy=policy_digest(policy_in_force(connection)),
            expires_at_ms=now_ms + NONCE_TTL_MS,
            server_time_ms=now_ms,
        )

    made = await custodian.database.run(job)
    return ChallengeReply(
        key_set=custodian.keys.key_set_envelope,
        challenge=seal(release.CHALLENGE, made, custodian.keys.commands),
    )


async def admit(custodian: Custodian, envelope: Envelope) -> Envelope:
    """Attest an instance and admit it.

    Raises:
        SignatureInvalidError, ForbiddenError, EvidenceError, AppraisalError: who or what was refused.
    """

    def prove(connection: Connection) -> tuple[BootRequest, str | None]:
        request = _signed_by_both(connection, envelope)
        now_ms = custodian.now(connection)
        return request, instances.use_nonce(connection, request.claims.nonce, request.borrower, now_ms)

    request, reason = await custodian.database.run(prove)

    def decide(connection: Connection) -> Envelope | AIGovToolError:
        try:
            if reason is not None:
                raise instances.nonce_error(reason)
            return _admit(custodian, connection, request)
        except AIGovToolError as error:
            custodian.record(
                connection,
                AttestationRefused(borrower=request.borrower, code=error.code, reason=(error.reason or "")[:80]),
            )
            return error

    outcome = await custodian.database.run(decide)
    if isinstance(outcome, AIGovToolError):
        raise outcome
    return outcome


def _signed_by_both(connection: Connection, envelope: Envelope) -> BootRequest:
    """Open a boot request that its borrower's enrolment key and its own identity key signed."""
    unverified = decode(envelope.payload, BootRequest)
    borrower = parties.require(connection, PartyRole.BORROWER, unverified.borrower)
    keys = [VerifyKey(borrower.key), VerifyKey(unverified.claims.identity_key)]
    if keys[0] == keys[1]:
        raise SignatureInvalidError("an instance's identity key is not its borrower's key", reason="wrong_key")
    return open_envelope(envelope, release.BOOT, BootRequest, keys)


def _admit(custodian: Custodian, connection: Connection, request: BootRequest) -> Envelope:
    now_ms = custodian.now(connection)
    body = _appraise(custodian, connection, request, now_ms).body
    offered = [_offer(connection, model, request.borrower) for model in request.models]
    instance = Instance(
        instance=request.claims.instance,
        borrower=request.borrower,
        tee=body.tee,
        refundable=body.memory_encryption or body.tee is TeeType.SIMULATED,
        identity_key=request.claims.identity_key,
        hpke_key=request.claims.hpke_key,
        models=[model.model for model in offered],
        attested_at_ms=now_ms,
        valid_until_ms=min([body.valid_until_ms, *(now_ms + m.policy.max_attestation_age_ms for m in offered)]),
        state="live",
        result=body,
    )
    _refuse_stopped(connection, instance)
    instances.add(connection, instance)
    measurement = " ".join(f"{part.name}={part.digest}" for part in body.measurements)
    custodian.record(
        connection,
        Attested(
            instance=instance.instance,
            borrower=instance.borrower,
            tee=body.tee.value,
            measurement=measurement,
            result=digest_of(encode(body)),
        ),
    )
    return seal(
        release.ADMISSION, _admission(custodian, connection, instance, offered, request), custodian.keys.commands
    )


def _appraise(custodian: Custodian, connection: Connection, request: BootRequest, now_ms: int) -> AttestationResult:
    policy = policy_in_force(connection)
    claims = request.claims
    verified = custodian.verifiers.verify(request.evidence, now_ms)
    require_bound(
        claims,
        verified.report_data,
        Expectation(
            role="boot",
            audience=release.boot_audience(custodian.keys.custodian),
            nonce=claims.nonce,
            tls_spki=Unchecked(reason="pinned later by each consumer on its own connection"),
            instance=instance_id_of(claims.identity_key, claims.hpke_key, bytes.fromhex(request.boot_nonce)),
            custodian_root=custodian.keys.custodian,
            configuration=Unchecked(reason="shown in the attestation result"),
            appraisal_policy=(policy_digest(policy),),
            manifests=(),
        ),
    )
    result = appraisal.appraise(verified, policy, now_ms)
    result.require_report_data(claims.report_data())
    return result


def _offer(connection: Connection, model: ModelId, borrower: BorrowerId) -> Model:
    found = models.require(connection, model)
    if borrower not in found.borrowers:
        raise ForbiddenError(f"{model} is not lent to {borrower}", reason="not_lent")
    return found


def _refuse_stopped(connection: Connection, instance: Instance) -> None:
    if stops.state_for(connection, instance).is_wide():
        raise StoppedError("the custodian has stopped this", fix="ask the custodian to resume", retry_after_s=5)


def _admission(
    custodian: Custodian, connection: Connection, instance: Instance, offered: list[Model], request: BootRequest
) -> Admission:
    return Admission(
        custodian=custodian.keys.custodian,
        instance=instance.instance,
        borrower=instance.borrower,
        tee=instance.tee,
        nonce=request.claims.nonce,
        generation=facts.get_int(connection, facts.GENERATION),
        epoch=facts.get_int(connection, facts.EPOCH),
        server_time_ms=custodian.now(connection),
        valid_until_ms=instance.valid_until_ms,
        stop_state=custodian.stop_state(connection, instance),
        models=[
            release.ModelOffer(
                model=model.model,
                manifest=model.manifest_digest,
                package=model.package,
                package_bytes=model.package_bytes,
                sealer=model.sealer,
                policy=model.policy,
            )
            for model in offered
        ],
    )


async def release_key(custodian: Custodian, envelope: Envelope) -> Envelope:
    """Wrap a model key to an attested instance; the ledger entry is durable before the reply leaves."""

    def job(connection: Connection) -> Envelope:
        request = decode_signed(envelope.payload, release.ReleaseRequest)
        instance = instances.require(connection, request.instance)
        open_envelope(envelope, release.RELEASE_REQUEST, release.ReleaseRequest, [VerifyKey(instance.identity_key)])
        model = _releasable(custodian, connection, instance, request)
        context = release.deposit_context(custodian.keys.custodian, model.manifest_digest)
        with custodian.keys.keystore.unwrap(model.wrapped_key, context) as key:
            wrapped = wrap(
                key,
                instance.hpke_key,
                release.release_context(
                    custodian.keys.custodian, instance.instance, model.model, model.manifest_digest
                ),
            )
        custodian.record(
            connection,
            KeyReleased(instance=instance.instance, model=model.model, manifest=model.manifest_digest),
        )
        answer = KeyRelease(
            custodian=custodian.keys.custodian,
            instance=instance.instance,
            request_id=request.request_id,
            model=model.model,
            manifest=model.manifest_digest,
            policy=model.policy.digest(),
            stop_state=custodian.stop_state(connection, instance),
            wrapped_key=wrapped,
        )
        return seal(release.RELEASE, answer, custodian.keys.commands)

    return await custodian.database.run(job)


def _releasable(
    custodian: Custodian, connection: Connection, instance: Instance, request: release.ReleaseRequest
) -> Model:
    if instance.state != "live" or custodian.now(connection) >= instance.valid_until_ms:
        raise ReattestRequiredError("this instance is not attested any more", fix="attest again")
    parties.require(connection, PartyRole.BORROWER, instance.borrower)
    _refuse_stopped(connection, instance)
    model = _offer(connection, request.model, instance.borrower)
    if model.model not in instance.models or model.manifest_digest != request.manifest:
        raise ForbiddenError("this instance was not admitted for this model", reason="not_admitted")
    return model
