"""Boot: who may become an instance (spec: leases section 9).

Order of `admit`: enrolled borrower whose credential lasts -> both signatures -> nonce consumed, durably, whatever
follows -> genuine -> bound to this conversation -> acceptable -> models allowed -> recorded. A refusal after the
borrower's signature held is written to the audit log. No admission outlives its borrower's credential.

Of several models each is allowed or refused alone, and an instance is admitted for those that are allowed, if there is
one. Its record names the others. What attests again asks for what it has: then a refusal of one model refuses it.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec

from aigovtool.attestation import appraisal
from aigovtool.attestation.binding import Expectation, require_bound
from aigovtool.attestation.model import AttestationResult, TeeType, Unchecked, VerifiedEvidence
from aigovtool.attestation.policy import policy_digest
from aigovtool.attestation.verifier import Exchange
from aigovtool.codec import decode, encode, require_likely
from aigovtool.crypto.sign import Envelope, VerifyKey, open_envelope, require_signed_by, seal
from aigovtool.custodian.activation import credential_for
from aigovtool.custodian.custodian import Custodian, rolled_back
from aigovtool.custodian.endorsements.completion import Completed, complete
from aigovtool.custodian.service.admission import admission_of
from aigovtool.custodian.service.refusals import is_refusal, note, reason_of
from aigovtool.custodian.service.standing import admissible, lasting, policy_in_force, refuse_stopped
from aigovtool.custodian.store import evidence, facts, instances, parties
from aigovtool.custodian.store.evidence import Kept
from aigovtool.custodian.store.records import Instance, Party
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.custodian.store.turns import enclaves_of, in_line_of
from aigovtool.errors import (
    AIGovToolError,
    ForbiddenError,
    IdentityError,
    ReattestRequiredError,
    SignatureInvalidError,
)
from aigovtool.ids import BorrowerId, Nonce, digest_of, instance_id_of
from aigovtool.ledger.entry import AttestationRefused, Attested, PartyRole
from aigovtool.limits import NONCE_TTL_MS
from aigovtool.protocol import release
from aigovtool.protocol.release import BootRequest, Challenge, ChallengeReply, ChallengeRequest, NotServed


@dataclass(frozen=True, slots=True)
class _Admitted:
    """An admission, and why models that were asked for are not in it."""

    envelope: Envelope
    refused: tuple[AIGovToolError, ...]


async def challenge(custodian: Custodian, envelope: Envelope) -> ChallengeReply:
    """Give an enrolled borrower's enclave a nonce.

    The request is signed by the borrower's enrolment key: a stranger who knows its name cannot use up its nonces.

    Raises:
        ForbiddenError, SignatureInvalidError: nobody enrolled signed this, or for another borrower.
        UnauthenticatedError: the borrower's credential has ended (`credential_expired`).
        EvidenceError: keys that are to be activated cannot be.
        ClockLeaptError: the host's clock is not believed.
        OverloadedError: too many boots are under way.
    """
    borrower = await _borrower_of(custodian, envelope, release.CHALLENGE_REQUEST)
    require_signed_by(envelope, release.CHALLENGE_REQUEST, VerifyKey(borrower.key))
    async with _noted(custodian, borrower):
        request = open_envelope(envelope, release.CHALLENGE_REQUEST, ChallengeRequest, [VerifyKey(borrower.key)])
        if request.borrower != borrower.name:
            raise SignatureInvalidError("a borrower asks for itself only", reason="wrong_sender")
        made = await custodian.database.run(lambda transaction: _challenge(custodian, transaction, request))
        if request.activation is not None:
            asked = custodian.keys, request.activation, bytes.fromhex(made.nonce)
            made = msgspec.structs.replace(made, credential=await asyncio.to_thread(credential_for, *asked))
    return ChallengeReply(
        key_set=custodian.keys.key_set_envelope,
        challenge=seal(release.CHALLENGE, made, custodian.keys.commands),
    )


def _challenge(custodian: Custodian, transaction: Transaction, request: ChallengeRequest) -> Challenge:
    if transaction.head.gap is not None:
        raise rolled_back()
    now_ms = custodian.require_clock(transaction)
    parties.require(transaction, PartyRole.BORROWER, request.borrower)
    nonce = Nonce(secrets.token_hex(32))
    instances.add_nonce(transaction, nonce, request.borrower, now_ms=now_ms, ttl_ms=NONCE_TTL_MS)
    return Challenge(
        custodian=custodian.keys.custodian,
        nonce=nonce,
        borrower=request.borrower,
        appraisal_policy=policy_digest(policy_in_force(transaction)),
        expires_at_ms=now_ms + NONCE_TTL_MS,
        server_time_ms=now_ms,
    )


async def admit(custodian: Custodian, envelope: Envelope) -> Envelope:
    """Attest an instance and admit it.

    Raises:
        SignatureInvalidError, ForbiddenError, EvidenceError, AppraisalError: who or what was refused.
        UnauthenticatedError: the borrower's credential has ended (`credential_expired`).
        ConflictError: this instance, or another one with its identity key, was admitted before.
    """
    borrower = await _borrower_of(custodian, envelope, release.BOOT)
    require_signed_by(envelope, release.BOOT, VerifyKey(borrower.key))
    async with _noted(custodian, borrower):
        admitted = await _decide(custodian, _signed_by_both(envelope, borrower))
    for error in admitted.refused:
        await _note(custodian, borrower, error)
    return admitted.envelope


async def admit_again(custodian: Custodian, envelope: Envelope) -> Envelope:
    """Attest an instance that was admitted and lives, with the keys that it has: it goes on until a later time.

    Raises:
        SignatureInvalidError, ForbiddenError, EvidenceError, AppraisalError: who or what was refused.
        UnauthenticatedError: the borrower's credential has ended (`credential_expired`).
        ReattestRequiredError: it does not live any more, or is of an earlier generation: only a new boot helps.
    """
    borrower = await _borrower_of(custodian, envelope, release.BOOT_AGAIN)
    require_signed_by(envelope, release.BOOT_AGAIN, VerifyKey(borrower.key))
    async with _noted(custodian, borrower):
        admitted = await _decide(custodian, _signed_by_both(envelope, borrower, release.BOOT_AGAIN), again=True)
    return admitted.envelope


@asynccontextmanager
async def _noted(custodian: Custodian, borrower: Party) -> AsyncIterator[None]:
    """Note what an enclave of a borrower is refused within, in the borrower's line; that it signed was verified."""
    with in_line_of(enclaves_of(borrower.name)):
        try:
            yield
        except AIGovToolError as error:
            if is_refusal(error):
                await _note(custodian, borrower, error)
            raise


async def _note(custodian: Custodian, borrower: Party, error: AIGovToolError) -> None:
    refusal = AttestationRefused(borrower=BorrowerId(borrower.name), code=error.code, reason=reason_of(error))
    await note(custodian, refusal)


async def _decide(custodian: Custodian, request: BootRequest, *, again: bool = False) -> _Admitted:
    """Use up the nonce, whatever follows, and admit the instance or not."""

    def consume(transaction: Transaction) -> tuple[str | None, int]:
        parties.require(transaction, PartyRole.BORROWER, request.borrower)
        now_ms = custodian.now(transaction)
        return instances.use_nonce(transaction, request.claims.nonce, request.borrower, now_ms), now_ms

    reason, now_ms = await custodian.database.run(consume)
    if reason is not None:
        raise instances.nonce_error(reason)
    completed = await complete(custodian.endorsements, request.evidence, request.borrower)
    # Signatures, chains and lists take milliseconds: the ledger's writer and everybody's heartbeats do not wait.
    verifiers = custodian.verifiers.within(Exchange(nonce=bytes.fromhex(request.claims.nonce)))
    verified = await asyncio.to_thread(verifiers.verify, completed.evidence, now_ms)
    admission = await custodian.database.run(
        lambda transaction: _admit(custodian, transaction, request, verified, completed, again=again)
    )
    if custodian.endorsements is not None:
        await custodian.endorsements.confirm(completed.answers)
    return admission


async def _borrower_of(custodian: Custodian, envelope: Envelope, kind: str) -> Party:
    """Return the enrolled borrower whose key an envelope claims to be signed with; its signature is not checked yet.

    Raises:
        ForbiddenError: there is none (`not_enrolled`).
        UnauthenticatedError: its credential has ended (`credential_expired`).
    """

    def job(transaction: Transaction) -> tuple[Party, IdentityError | None]:
        found = [parties.by_key(transaction, PartyRole.BORROWER, one.keyid) for one in envelope.signatures]
        named = sorted((party for party in found if party is not None), key=lambda party: party.revoked)
        if not named:
            raise ForbiddenError("no borrower with this enrolment key is enrolled", reason="not_enrolled")
        try:
            return lasting(custodian, transaction, BorrowerId(named[0].name)), None
        except IdentityError as error:
            return named[0], error

    borrower, refusal = await custodian.database.run_open(job)
    if refusal is not None:
        # Anybody can name a key: it is a line about the borrower if the key was used.
        if _is_signed_by(envelope, kind, borrower):
            async with _noted(custodian, borrower):
                raise refusal
        raise refusal
    return borrower


def _is_signed_by(envelope: Envelope, kind: str, borrower: Party) -> bool:
    try:
        require_signed_by(envelope, kind, VerifyKey(borrower.key))
    except SignatureInvalidError:
        return False
    return True


def _signed_by_both(envelope: Envelope, borrower: Party, kind: str = release.BOOT) -> BootRequest:
    """Open a boot request that its borrower's enrolment key (as was verified) and its own identity key signed.

    Nothing is parsed before the borrower's signature holds: a stranger's bytes cost one signature check.
    """
    require_likely(envelope.payload, BootRequest)
    unverified = decode(envelope.payload, BootRequest)
    keys = [VerifyKey(borrower.key), VerifyKey(unverified.claims.identity_key)]
    if keys[0] == keys[1]:
        raise SignatureInvalidError("an instance's identity key is not its borrower's key", reason="wrong_key")
    request = open_envelope(envelope, kind, BootRequest, keys)
    if request.borrower != borrower.name:
        raise SignatureInvalidError("a borrower boots its own enclaves only", reason="wrong_sender")
    return request


def _admit(
    custodian: Custodian,
    transaction: Transaction,
    request: BootRequest,
    verified: VerifiedEvidence,
    completed: Completed,
    *,
    again: bool,
) -> _Admitted:
    now_ms = custodian.now(transaction)
    borrower = lasting(custodian, transaction, request.borrower)
    body = _appraise(custodian, transaction, request, verified, now_ms).body
    refundable = body.memory_encryption or body.tee is TeeType.SIMULATED
    offered, refused = admissible(transaction, request.models, request.borrower, refundable=refundable)
    if refused and (again or not offered):
        raise next(iter(refused.values()))
    ends = [now_ms + model.policy.max_attestation_age_ms for model in offered]
    instance = Instance(
        instance=request.claims.instance,
        borrower=request.borrower,
        tee=body.tee,
        refundable=refundable,
        identity_key=request.claims.identity_key,
        hpke_key=request.claims.hpke_key,
        models=[model.model for model in offered],
        attested_at_ms=now_ms,
        valid_until_ms=min([body.valid_until_ms, borrower.not_after_ms, *ends]),
        state="live",
        result=body,
        generation=facts.generation(transaction),
        refused=tuple(NotServed(model=name, code=why.code, reason=reason_of(why)) for name, why in refused.items()),
        set_aside=request.not_served,
    )
    refuse_stopped(transaction, instance)
    if again:
        instance = _same(custodian, transaction, instance)
    _keep(custodian, transaction, instance, Kept(evidence=completed.evidence, nonce=request.claims.nonce), again=again)
    added = completed.added
    admission = admission_of(custodian, transaction, instance, offered, request=request, verified=verified, added=added)
    return _Admitted(seal(release.ADMISSION, admission, custodian.keys.commands), tuple(refused.values()))


def _keep(custodian: Custodian, transaction: Transaction, instance: Instance, kept: Kept, *, again: bool) -> None:
    if again:
        instances.replace(transaction, instance)
        evidence.replace(transaction, instance.instance, kept, instance.attested_at_ms)
    else:
        instances.add(transaction, instance)
        evidence.add(transaction, instance.instance, kept, instance.attested_at_ms)
    custodian.record(
        transaction,
        Attested(
            instance=instance.instance,
            borrower=instance.borrower,
            tee=instance.tee.value,
            measurement=" ".join(f"{part.name}={part.digest}" for part in instance.result.measurements),
            result=digest_of(encode(instance.result)),
            chip=instance.result.chip_id,
        ),
    )


def _same(custodian: Custodian, transaction: Transaction, changed: Instance) -> Instance:
    """Return the record of an instance that attests again: it is the one that was admitted, and lives.

    What it does not serve was found out when it booted, and stays.

    Raises:
        ForbiddenError: there is no such instance, or its keys, models or platform are others (`another_instance`).
        ReattestRequiredError: it does not live any more, or is of an earlier generation.
    """
    known = instances.require(transaction, changed.instance)
    lasts = custodian.now(transaction) < known.valid_until_ms and known.generation == changed.generation
    if known.state != "live" or not lasts:
        raise ReattestRequiredError("this instance is not attested any more", fix="boot anew")
    for name in ("borrower", "tee", "refundable", "identity_key", "hpke_key", "models"):
        if getattr(known, name) != getattr(changed, name):
            raise ForbiddenError("what attests again is not what was admitted", reason="another_instance")
    return msgspec.structs.replace(changed, refused=known.refused, set_aside=known.set_aside)


def _appraise(
    custodian: Custodian, transaction: Transaction, request: BootRequest, verified: VerifiedEvidence, now_ms: int
) -> AttestationResult:
    policy = policy_in_force(transaction)
    claims = request.claims
    require_bound(
        claims,
        verified.report_data,
        Expectation(
            role="boot",
            audience=release.boot_audience(custodian.keys.custodian),
            nonce=claims.nonce,
            tls_spki=Unchecked(reason="pinned later by each consumer on its own transaction"),
            instance=instance_id_of(claims.identity_key, claims.hpke_key, bytes.fromhex(request.boot_nonce)),
            custodian_root=custodian.keys.custodian,
            configuration=Unchecked(reason="shown in the attestation result"),
            appraisal_policy=(policy_digest(policy),),
            manifests=(),
        ),
        verified.also_bound,
    )
    result = appraisal.appraise(verified, policy, now_ms)
    result.require_report_data(claims.report_data())
    return result
