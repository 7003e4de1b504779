"""Is there an enclave at the other end that this consumer accepts? One attestation, from nonce to trusted certificate.

The steps of `verify_session`, and nothing is believed before the last of them:

1. The key set is signed by the pinned custodian root, is no older than one seen before, and is not a second one
   with the same number.
2. Simulated evidence is looked at only if the caller *and* the appraisal policy ask for it.
3. A wired verifier finds the evidence genuine (the certificates of the platform, not those of TLS).
4. The report data binds what the reader sees itself: role `session`, this consumer, its own nonce, the public key
   of *this* connection, the custodian's root, the pinned manifests (`require_bound`).
5. The appraisal policy of the consumer file accepts it.
6. The list of served models names each model once, with manifests that the evidence covers, and the pinned ones.

Step 4 makes the rest of the answer believable too: it came over the connection whose key the enclave holds. After
step 6 the certificate is trusted, whole, and only it.

Where somebody else ends TLS (`Trust.sealed`), step 4 compares no key of a connection. Then the rest of the answer, and
a key for requests, are believed because the identity key that the evidence binds has signed them, with the nonce.

What is not checked, and why: `configuration` and `appraisal_policy` of the binding are the custodian's business, and
the consumer does not know them; `instance` is new with each boot.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aigovtool.attestation.appraisal import appraise
from aigovtool.attestation.binding import Expectation, SpkiHash, require_bound
from aigovtool.attestation.model import AttestationResult, ResultBody, TeeType, Unchecked
from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.attestation.verifier import Exchange, VerifierSet
from aigovtool.codec import decode, encode
from aigovtool.consumer.credential import Credential
from aigovtool.consumer.exchange import (
    ATTESTATION_CHANNEL,
    SEALED_CHANNEL,
    Call,
    Channel,
    Failure,
    Flow,
    Peer,
    Reply,
    exchange,
)
from aigovtool.consumer.problems import NO_PROBLEM, error_of, plain_text
from aigovtool.consumer.standing import explain
from aigovtool.crypto.sign import VerifyKey
from aigovtool.crypto.x509 import is_issued_by, spki_sha256
from aigovtool.errors import (
    AIGovToolError,
    AppraisalError,
    ConfigurationError,
    EvidenceError,
    InputError,
    SignatureInvalidError,
    UnreachableError,
    VerificationError,
)
from aigovtool.ids import Digest, InstanceId, ModelId, Nonce
from aigovtool.limits import MAX_CONTROL_BODY_BYTES
from aigovtool.protocol.release import session_audience
from aigovtool.protocol.sealed import require_stated
from aigovtool.protocol.session import (
    ATTESTATION_PATH,
    NO_MEMORY_ENCRYPTION,
    SessionChallenge,
    SessionEvidence,
    expected_of,
)
from aigovtool.protocol.trust import KeySet, open_key_set, require_no_rollback

#: Shown wherever a simulated TEE answers, whatever the enclave says itself.
SIMULATED_WARNING: Final = "SIMULATED TEE: protects nothing"
#: What to do about a key set that is not accepted.
_ON_KEYS: Final = {
    "wrong_key": "this enclave obeys another custodian than that of your consumer file: check its address and the file",
    "key_set_rollback": "ask the custodian's operator whether this enclave hears from the custodian: one of the keys "
    "that it goes by may have been revoked",
    "key_set_fork": "tell the custodian's operator: whoever signed the second one has the root key",
}
_NOT_KNOWN: Final = Unchecked(reason="a consumer does not know it")
_NEW_EACH_BOOT: Final = Unchecked(reason="new with each boot")
_NOT_SEEN: Final = Unchecked(reason="somebody else ends TLS; all is sealed to a key that the attested identity signs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What a consumer believes before it connects. `pins` are manifest digests by model.

    With `sealed` nobody who ends TLS is believed to be the enclave, and nothing is sent but what only it can open.
    """

    credential: Credential
    verifiers: VerifierSet
    allow_simulated: bool
    pins: Mapping[ModelId, Digest]
    sealed: bool = False

    @property
    def policy(self) -> AppraisalPolicy:
        """The appraisal policy of the consumer file."""
        return self.credential.policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An accepted enclave: its certificate (DER), what it proved, and when (wall and monotonic time).

    One whose TLS somebody else ends has no certificate that is believed, and a `body_key` (X25519, 32 bytes) instead.
    """

    certificate: bytes | None
    evidence: SessionEvidence
    nonce: Nonce
    result: AttestationResult
    key_set: KeySet
    identity_key: VerifyKey
    attested_at_ms: int
    attested_at_s: float
    body_key: bytes | None = None

    @property
    def channel(self) -> Channel:
        """By which connections this enclave is reached."""
        return SEALED_CHANNEL if self.certificate is None else Channel(Peer.ENCLAVE, self.certificate)

    def require_body_key(self) -> bytes:
        """Return the key to which requests are sealed; raises `EvidenceError` (`not_stated`) if there is none."""
        if self.body_key is None:
            raise EvidenceError("this enclave has given no key for bodies", reason="not_stated")
        return self.body_key

    @property
    def instance(self) -> InstanceId:
        """Which instance this is: one boot of one TEE."""
        return self.evidence.claims.instance

    @property
    def models(self) -> Mapping[ModelId, Digest]:
        """Manifest digests of the served models."""
        return {served.model: served.manifest for served in self.evidence.models}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What somebody should read before using an answer; empty for a TEE that protects."""
        own = warning_of(self.result.body)
        return add_warning(() if own is None else (own,), self.evidence.warning)

    def is_current(self, now_ms: int, monotonic_s: float) -> bool:
        """Return whether the result is still valid, by both clocks."""
        body = self.result.body
        age_max_s = (body.valid_until_ms - body.issued_at_ms) / 1000
        return body.issued_at_ms <= now_ms < body.valid_until_ms and monotonic_s - self.attested_at_s < age_max_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One reading of the clocks for one decision."""

    now_ms: int
    monotonic_s: float


def warning_of(result: ResultBody) -> str | None:
    """Return what must be said of the TEE of an accepted appraisal; None for one that protects what is in it."""
    if result.tee is TeeType.SIMULATED:
        return SIMULATED_WARNING
    return None if result.memory_encryption else NO_MEMORY_ENCRYPTION


def add_warning(warnings: tuple[str, ...], said: str | None) -> tuple[str, ...]:
    """Return `warnings` and what the enclave said, cleaned, unless that only repeats one of them."""
    text = plain_text(said or "")
    return warnings if not text or text.startswith(warnings) else (*warnings, text)


def fetch_session(nonce: Nonce, timeout_s: float) -> Flow[Reply | Failure]:
    """Ask for evidence on a connection of its own that nobody trusts yet."""
    return exchange(
        Call(
            channel=ATTESTATION_CHANNEL,
            method="POST",
            path=ATTESTATION_PATH,
            headers=(("content-type", "application/json"),),
            content=encode(SessionChallenge(nonce=nonce)),
            max_bytes=MAX_CONTROL_BODY_BYTES,
            timeout_s=timeout_s,
        )
    )


def read_session(
    reply: Reply, *, nonce: Nonce, trust: Trust, seen: KeySet | None, at_least: int, moment: Moment
) -> Session:
    """Return the session that an answer to a challenge proves.

    Raises:
        VerificationError: as `verify_session`; `EvidenceError` with reason `no_certificate` or `bad_session` when the
            answer cannot be read.
        ConfigurationError: `not_an_enclave`, when something else answers.
        AIGovToolError: the enclave's own refusal.
    """
    if reply.status != 200:
        raise explain(_refusal(reply, trust), trust.credential, moment.now_ms)
    certificate = None if trust.sealed else reply.certificate
    if certificate is None and not trust.sealed:
        raise EvidenceError("the connection shows no server certificate", reason="no_certificate")
    try:
        evidence = decode(reply.body, SessionEvidence)
        spki = _NOT_SEEN if certificate is None else SpkiHash(spki_sha256(certificate))
    except InputError as error:
        said = f"the answer to the challenge cannot be read: {error.message}"
        raise EvidenceError(said, reason="bad_session") from None
    own = session_audience(trust.credential.consumer)
    audience, quoted = expected_of(evidence.share, evidence.claims, own, nonce)
    expected = Expectation(
        role="session",
        audience=audience,
        nonce=quoted,
        tls_spki=spki,
        instance=_NEW_EACH_BOOT,
        custodian_root=trust.credential.custodian_root.key_id,
        configuration=_NOT_KNOWN,
        appraisal_policy=_NOT_KNOWN,
        manifests=tuple(trust.pins.values()),
    )
    key_set, result = verify_session(
        evidence, expected, trust=trust, seen=seen, at_least=at_least, now_ms=moment.now_ms
    )
    identity_key = VerifyKey(evidence.claims.identity_key)
    return Session(
        certificate=certificate,
        evidence=evidence,
        nonce=nonce,
        result=result,
        key_set=key_set,
        identity_key=identity_key,
        attested_at_ms=moment.now_ms,
        attested_at_s=moment.monotonic_s,
        body_key=require_stated(evidence, identity_key, nonce) if trust.sealed else None,
    )


def _refusal(reply: Reply, trust: Trust) -> AIGovToolError:
    """Return why there is no evidence; who has no such route at all is no enclave."""
    error = error_of(reply, "the enclave")
    if error.reason != "no_route":
        return _with_hint(_unproven(error), reply.status, trust)
    authorities = trust.credential.custodian_authorities
    is_custodian = reply.certificate is not None and any(is_issued_by(reply.certificate, one) for one in authorities)
    return ConfigurationError(
        "this is the custodian, not an enclave" if is_custodian else "this is not an enclave: it gives no evidence",
        reason="not_an_enclave",
        fix="use the address of the enclave, as `aigovtool enclave serve` prints it",
    )


def _with_hint(error: AIGovToolError, status: int, trust: Trust) -> AIGovToolError:
    """Return `error`, with what may be the matter where somebody else ends TLS."""
    if trust.sealed and error.reason == NO_PROBLEM:
        return UnreachableError(
            f"whoever ends TLS before the enclave answers with status {status}",
            reason="answered_between",
            fix="ask whoever runs the load balancer whether it reaches the enclave",
        )
    if not trust.sealed and error.reason in {NO_PROBLEM, "no_credential"}:
        error.fix = "if a load balancer ends TLS before it, pass sealed=True, or --sealed; else check the address"
    return error


def _unproven(error: AIGovToolError) -> AIGovToolError:
    """Return the refusal of somebody who has proven nothing: as their words, without their advice.

    What is wrong with evidence is for the reader to say. Told in its name, and with what to do about it, it would have
    people accept what they must not.
    """
    if error.reason == NO_PROBLEM:
        return error
    kind = UnreachableError if isinstance(error, VerificationError) else type(error)
    return kind(
        f"who answers at this address, and has proven nothing, says: {error.message}",
        reason=None if kind is UnreachableError else error.reason,
        retry_after_s=error.retry_after_s,
    )


def verify_session(
    session: SessionEvidence,
    expected: Expectation,
    *,
    trust: Trust,
    seen: KeySet | None,
    at_least: int,
    now_ms: int,
) -> tuple[KeySet, AttestationResult]:
    """Check a session, steps 1 to 6 of the module.

    Args:
        session: the enclave's answer.
        expected: what the reader sees and expects itself.
        trust: anchors, policy and pins.
        seen: the newest key set seen before, if any.
        at_least: the lowest number of a key set that is accepted.
        now_ms: when the evidence must be valid.

    Raises:
        SignatureInvalidError, EvidenceError, AppraisalError: with the reason of the step that failed.
    """
    # 1. The custodian that governs the enclave is the pinned one
    try:
        key_set = open_key_set(session.key_set, trust.credential.custodian_root, at_least=at_least)
        if seen is not None:
            require_no_rollback(key_set, seen)
    except SignatureInvalidError as error:
        error.fix = error.fix or _ON_KEYS.get(error.reason or "")
        raise
    # 2. No simulation unless asked for on both sides
    if session.evidence.tee is TeeType.SIMULATED:
        _require_opt_in(trust)
    # 3. Genuine
    verifiers = trust.verifiers.within(Exchange(authorities=key_set.attestation))
    verified = verifiers.verify(session.evidence, now_ms)
    # 4. Bound to this conversation
    require_bound(session.claims, verified.report_data, expected, verified.also_bound)
    # 5. Acceptable
    _require_entry(trust.policy, verified.tee)
    result = appraise(verified, trust.policy, now_ms)
    # 6. The models that were meant
    _check_models(session, trust.pins)
    return key_set, result


def _require_opt_in(trust: Trust) -> None:
    missing = []
    if not trust.allow_simulated:
        missing.append("pass allow_simulated=True, or --allow-simulated")
    if not trust.policy.allow_simulated:
        missing.append("use a consumer file made with `aigovtool consumer add --allow-simulated`")
    if missing:
        raise AppraisalError(
            "the enclave runs on a simulated TEE, which protects nothing",
            reason="simulated",
            fix="use an enclave on real hardware; for development only: " + ", and ".join(missing),
        )


def _require_entry(policy: AppraisalPolicy, tee: TeeType) -> None:
    """Refuse a TEE that the file knows nothing of by that alone: no check of a policy says anything about it."""
    if not any(entry.tee is tee for entry in policy.accepted):
        known = ", ".join(dict.fromkeys(entry.tee.value for entry in policy.accepted))
        raise AppraisalError(
            f"the enclave runs on {tee.value}, and the policy of your consumer file has no entry for it: it accepts "
            f"{known}",
            reason="tee",
            fix="ask the custodian's operator for a new consumer file, whose policy accepts this kind of enclave",
        )


def _check_models(session: SessionEvidence, pins: Mapping[ModelId, Digest]) -> None:
    served = {each.model: each.manifest for each in session.models}
    if len(served) != len(session.models):
        raise EvidenceError("the enclave lists a model twice", reason="bad_session")
    for model, manifest in served.items():
        if manifest not in session.claims.manifests:
            raise EvidenceError(f"the evidence does not cover the listed model {model}", reason="model_not_bound")
    for model, manifest in pins.items():
        if served.get(model) != manifest:
            raise EvidenceError(
                f"the enclave does not serve model {model} with the pinned digest",
                reason="model_mismatch",
                fix="compare the pinned digest with the custodian's; do not use this enclave if they agree",
            )
