"""Receipts as a consumer checks them: with the answer, and again later, offline, from a saved record (spec: receipt).

`verify_answer` runs before a result is shown. `SavedReceipt` keeps what it needed, and `verify_saved_receipt` checks
the whole chain again with nothing but the record, the custodian's root and an appraisal policy:

1. The key set is signed by the custodian's root.
2. The evidence was genuine when it was received; simulated evidence is taken only if asked for on both sides.
3. The evidence binds a session with this receipt's consumer, instance and manifest, under this custodian.
4. The appraisal policy accepts the evidence.
5. The identity key is the attested one, and it signed the batch in which the receipt is.
6. The digests are those of the record; where the bodies are at hand, they are computed again.

Offline, two things rest on the record alone: when the evidence was received, and that its nonce was fresh then. They
convince the consumer, who made the record, and nobody else.
"""

import hmac
from base64 import b64decode
from binascii import Error as Base64Error
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from aigovtool.attestation.appraisal import appraise
from aigovtool.attestation.binding import Binding, Expectation, require_bound
from aigovtool.attestation.model import AttestationResult, Evidence, ResultBody, TeeType, Unchecked
from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.attestation.verifier import Exchange, VerifierSet
from aigovtool.codec import Message, decode, decode_signed, encode
from aigovtool.consumer.attest import Session, warning_of
from aigovtool.crypto.keyfile import write_secret_file
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import Envelope, VerifyKey
from aigovtool.errors import AppraisalError, ConfigurationError, InputError, ReceiptError, VerificationError
from aigovtool.ids import ConsumerId, Digest, Millis, ModelId, Nonce, RequestKey
from aigovtool.ledger.receipt import MAX_SALT_BYTES, Receipt, SignedReceipt, salted_digest, verify_receipt
from aigovtool.limits import MAX_RECEIPT_BYTES, MAX_SAVED_RECEIPT_BYTES
from aigovtool.protocol.release import session_audience
from aigovtool.protocol.session import Share, expected_of
from aigovtool.protocol.trust import KeySet, open_key_set

_OFFLINE: Final = Unchecked(reason="the connection is over")
_NOT_KNOWN: Final = Unchecked(reason="a consumer does not know it")


class SavedReceipt(Message):
    """Everything needed to check one receipt offline, except anchors, policy and the two bodies.

    `salt` lets whoever has it test guesses of the bodies: a record is as confidential as a short answer.
    """

    signed: SignedReceipt
    identity_key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    claims: Binding
    evidence: Evidence
    key_set: Envelope
    salt: Annotated[bytes, Meta(max_length=MAX_SALT_BYTES)]
    request: Digest
    response: Digest
    attested_at_ms: Millis
    #: Where the evidence was shared with others who asked at once: the consumer's own nonce, and its place.
    nonce: Nonce | None = None
    share: Share | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What the consumer knows itself about one exchange: who asked which model for what, and got which body."""

    consumer: ConsumerId
    model: ModelId
    manifest: Digest
    request_key: RequestKey
    salt: bytes
    request: Digest
    response: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptVerdict:
    """A saved receipt that verified: what it says, on which TEE, and which bodies were compared with it."""

    receipt: Receipt
    result: ResultBody
    custodian_key_set_version: int
    bodies_checked: tuple[str, ...]
    warning: str | None


def body_digest(salt: bytes, label: str, body: bytes) -> Digest:
    """Return the digest of an HTTP body; `label` is `request` or `response` (spec: receipt, section 2)."""
    return salted_digest(salt, label, [body])


def read_receipt_header(text: str | None) -> SignedReceipt:
    """Return the receipt in the header `aigovtool-receipt`; nothing in it is verified yet.

    Raises:
        ReceiptError: `missing`, or `malformed` for anything but base64 of its only encoding.
    """
    if text is None:
        raise ReceiptError("the answer carries no receipt", reason="missing")
    try:
        if len(text) > MAX_RECEIPT_BYTES * 4 // 3 + 4:
            raise ReceiptError("the receipt is over its bound", reason="malformed")
        return decode_signed(b64decode(text, validate=True), SignedReceipt, max_bytes=MAX_RECEIPT_BYTES)
    except (Base64Error, ValueError, InputError):
        raise ReceiptError("the receipt cannot be read", reason="malformed") from None


def verify_answer(signed: SignedReceipt, session: Session, answered: Answered) -> Receipt:
    """Return the receipt if the attested instance signed it, for exactly this exchange.

    Raises:
        ReceiptError: `malformed`, `signature`, `instance`, `inclusion`, or the name of the first field that
            differs.
    """
    receipt = verify_receipt(signed, session.identity_key)
    _require_same(receipt, answered)
    if receipt.instance != session.instance:
        raise ReceiptError("the receipt is by another instance than the attested one", reason="instance")
    if receipt.tee != session.result.body.tee:
        raise ReceiptError("the receipt names another TEE than the evidence", reason="tee")
    return receipt


def save(signed: SignedReceipt, session: Session, answered: Answered) -> SavedReceipt:
    """Return the record of a receipt that `verify_answer` accepted."""
    return SavedReceipt(
        signed=signed,
        identity_key=session.identity_key.raw,
        claims=session.evidence.claims,
        evidence=session.evidence.evidence,
        key_set=session.evidence.key_set,
        salt=answered.salt,
        request=answered.request,
        response=answered.response,
        attested_at_ms=session.attested_at_ms,
        nonce=None if session.evidence.share is None else session.nonce,
        share=session.evidence.share,
    )


def verify_saved_receipt(
    saved: SavedReceipt,
    *,
    root: VerifyKey,
    policy: AppraisalPolicy,
    verifiers: VerifierSet,
    allow_simulated: bool = False,
    manifest: Digest | None = None,
    request_body: bytes | None = None,
    response_body: bytes | None = None,
) -> ReceiptVerdict:
    """Check a saved receipt, steps 1 to 6 of the module; pure.

    Args:
        saved: the record.
        root: the custodian's root key, pinned.
        policy: which evidence is acceptable.
        verifiers: the platforms that can be verified here.
        allow_simulated: the caller's half of the opt-in; the policy has the other.
        manifest: the digest that the model should have, if the reader knows it.
        request_body: the exact HTTP body that was sent, if at hand.
        response_body: the exact HTTP body that came back, if at hand.

    Raises:
        SignatureInvalidError, EvidenceError, AppraisalError: the identity key was not attested.
        ReceiptError: `identity_key`, `malformed`, `signature`, `instance`, `inclusion`, or the field that differs.
    """
    receipt = saved.signed.receipt
    # 1. to 4. The identity key was attested
    key_set, result = _attested(saved, root, policy, verifiers, allow_simulated=allow_simulated)
    # 5. Signed by the attested key
    if not hmac.compare_digest(saved.identity_key, saved.claims.identity_key):
        raise ReceiptError("the identity key is not the attested one", reason="identity_key")
    verify_receipt(saved.signed, VerifyKey(saved.identity_key))
    if receipt.tee != result.body.tee:
        raise ReceiptError("the receipt names another TEE than the evidence", reason="tee")
    # 6. About these bodies, and this model
    checked = _check_bodies(saved, {"request": request_body, "response": response_body})
    if manifest is not None and receipt.manifest != manifest:
        raise ReceiptError("the receipt is for another model digest than expected", reason="manifest")
    return ReceiptVerdict(
        receipt=receipt,
        result=result.body,
        custodian_key_set_version=key_set.version,
        bodies_checked=checked,
        warning=warning_of(result.body),
    )


def write_saved_receipt(path: Path, saved: SavedReceipt, *, replace: bool = False) -> None:
    """Write a record with mode 0600; raises as `write_secret_file`."""
    with Secret(encode(saved)) as content:
        write_secret_file(path, content, replace=replace)


def read_saved_receipt(path: Path) -> SavedReceipt:
    """Read a record, which may have come from anybody.

    Raises:
        ConfigurationError: `unreadable_receipt` when there is no such file.
        ReceiptError: `malformed`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SAVED_RECEIPT_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", reason="unreadable_receipt") from None
    try:
        return decode(content, SavedReceipt, max_bytes=MAX_SAVED_RECEIPT_BYTES)
    except (InputError, VerificationError) as error:
        raise ReceiptError(f"{path} is not a saved receipt: {error.message}", reason="malformed") from None


def _attested(
    saved: SavedReceipt, root: VerifyKey, policy: AppraisalPolicy, verifiers: VerifierSet, *, allow_simulated: bool
) -> tuple[KeySet, AttestationResult]:
    # 1. The custodian
    key_set = open_key_set(saved.key_set, root)
    # 2. Genuine when received
    if saved.evidence.tee is TeeType.SIMULATED and not (allow_simulated and policy.allow_simulated):
        raise AppraisalError(
            "the receipt is by a simulated TEE, which protects nothing",
            reason="simulated",
            fix="for development only: pass allow_simulated=True; the appraisal policy must allow it too",
        )
    within = verifiers.within(Exchange(authorities=key_set.attestation))
    verified = within.verify(saved.evidence, saved.attested_at_ms)
    # 3. Bound to the consumer, instance and model of the receipt
    require_bound(saved.claims, verified.report_data, _expectation(saved, root), verified.also_bound)
    # 4. Acceptable
    return key_set, appraise(verified, policy, saved.attested_at_ms)


def _expectation(saved: SavedReceipt, root: VerifyKey) -> Expectation:
    receipt = saved.signed.receipt
    # The nonce was fresh when it was received; the record says so, nothing can prove it now.
    own = session_audience(receipt.consumer), saved.nonce or saved.claims.nonce
    audience, nonce = expected_of(saved.share, saved.claims, *own)
    return Expectation(
        role="session",
        audience=audience,
        nonce=nonce,
        tls_spki=_OFFLINE,
        instance=receipt.instance,
        custodian_root=root.key_id,
        configuration=_NOT_KNOWN,
        appraisal_policy=_NOT_KNOWN,
        manifests=(receipt.manifest,),
    )


def _require_same(receipt: Receipt, answered: Answered) -> None:
    expected: dict[str, str] = {
        "request_key": answered.request_key,
        "request": answered.request,
        "response": answered.response,
        "model": answered.model,
        "manifest": answered.manifest,
        "consumer": answered.consumer,
    }
    for name, value in expected.items():
        if not hmac.compare_digest(str(getattr(receipt, name)).encode(), value.encode()):
            raise ReceiptError(
                f"the receipt has another {name} than this exchange",
                reason=name,
                fix="do not use the answer; tell the custodian which instance gave it",
            )


def _check_bodies(saved: SavedReceipt, bodies: dict[str, bytes | None]) -> tuple[str, ...]:
    receipt = saved.signed.receipt
    if (receipt.request, receipt.response) != (saved.request, saved.response):
        raise ReceiptError("the record's digests are not those of the receipt", reason="digest")
    signed = {"request": receipt.request, "response": receipt.response}
    for label, body in bodies.items():
        if body is not None and body_digest(saved.salt, label, body) != signed[label]:
            raise ReceiptError(f"the {label} body is not the one of the receipt", reason=label)
    return tuple(label for label, body in bodies.items() if body is not None)
