"""Boot and key release: from a nonce to a model key that only one attested instance can open.

1. The enclave asks for a challenge for the models that it is to serve, signed by its borrower's enrolment key.
   A TPM adds its keys, because nobody has certified the one that it attests with.
2. The custodian answers, signed: nonce, appraisal policy digest, its key set; and a credential for such keys.
3. The enclave makes evidence over the binding (spec: attestation, section 3) and sends it with its claims,
   signed by *both* its borrower's enrolment key (whose enclave is this?) and its own identity key.
4. The custodian appraises and admits: models, serving policies, stop state. Each model is judged alone: one that
   is stopped, or not lent to this borrower, is named as such, and the others are admitted.
5. Per model the enclave asks for the key; the custodian logs the release, then sends the model key wrapped
   to the attested HPKE key, signed, because HPKE base mode does not say who sealed.
"""

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from aigovtool.attestation.binding import Audience, Binding
from aigovtool.attestation.model import ActivationCredential, ActivationKeys, Evidence, TeeType
from aigovtool.codec import Message, encode, text_like
from aigovtool.crypto.sign import Envelope
from aigovtool.ids import BorrowerId, Digest, InstanceId, KeyId, MessageId, Millis, ModelId, Nonce, Units
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.limits import MAX_CERTIFICATE_BYTES, MAX_ENDORSEMENTS

CHALLENGE_REQUEST = "boot-challenge-request.v1"
CHALLENGE = "boot-challenge.v1"
BOOT = "boot-request.v1"
#: The same instance attests once more, before its attestation runs out.
BOOT_AGAIN = "boot-again.v1"
ADMISSION = "admission.v1"
RELEASE_REQUEST = "release-request.v1"
RELEASE = "key-release.v1"
_WRAP_LABEL = "aigovtool model key v2"
MAX_MODELS = 64


class ChallengeRequest(Message, omit_defaults=True):
    """Who wants to boot, and for which models. `activation`: keys to be activated, where the platform has such."""

    borrower: BorrowerId
    models: Annotated[list[ModelId], Meta(min_length=1, max_length=MAX_MODELS)]
    activation: ActivationKeys | None = None


class Challenge(Message, omit_defaults=True):
    """A nonce to be used once and soon. `credential` is for the keys of the request, and for this nonce."""

    custodian: KeyId
    nonce: Nonce
    borrower: BorrowerId
    appraisal_policy: Digest
    expires_at_ms: Millis
    server_time_ms: Millis
    credential: ActivationCredential | None = None


class ChallengeReply(Message):
    """The key set (signed by the root) and the challenge (signed by a key of the set)."""

    key_set: Envelope
    challenge: Envelope


class NotServed(Message):
    """A model that an instance does not serve, and the error that is the reason."""

    model: ModelId
    code: Annotated[str, text_like("^[a-z_]{1,64}$", "1 to 64 of a-z and '_'")]
    reason: Annotated[str, text_like(r"^[a-z0-9_]{0,80}$(?!\n)", "at most 80 of a-z, 0-9 and '_'")] = ""


_NotServed = Annotated[tuple[NotServed, ...], Meta(max_length=MAX_MODELS)]


class BootRequest(Message, omit_defaults=True):
    """Evidence with the claims that it covers. `boot_nonce` is the instance's own 32 random bytes (hex).

    `not_served` are models that the enclave was started for and does not ask for: what it found out about them is shown
    to operators.
    """

    borrower: BorrowerId
    models: Annotated[list[ModelId], Meta(min_length=1, max_length=MAX_MODELS)]
    boot_nonce: Nonce
    claims: Binding
    evidence: Evidence
    not_served: _NotServed = ()


class ModelOffer(Message):
    """A model that this instance may serve."""

    model: ModelId
    manifest: Digest
    package: Digest
    package_bytes: Units
    sealer: bytes
    policy: ServingPolicy


class Admission(Message):
    """The instance is attested; what it may do until `valid_until_ms`.

    `endorsements` are those that the custodian added to the evidence: the enclave adds them to its evidence for
    consumers, who need no way to the platform's vendor then. `certificate` (DER) is there if a key was activated: the
    custodian certifies it for consumers, to whom the activation shows nothing. `refused` are those models that were
    asked for and are not among `models`, if there are any.
    """

    custodian: KeyId
    instance: InstanceId
    borrower: BorrowerId
    tee: TeeType
    nonce: Nonce
    generation: Units
    epoch: Units
    server_time_ms: Millis
    valid_until_ms: Millis
    stop_state: Envelope
    models: list[ModelOffer]
    endorsements: Annotated[tuple[bytes, ...], Meta(max_length=MAX_ENDORSEMENTS)] = ()
    certificate: Annotated[bytes, Meta(min_length=1, max_length=MAX_CERTIFICATE_BYTES)] | UnsetType = UNSET
    refused: _NotServed | UnsetType = UNSET


class ReleaseRequest(Message):
    """The instance asks for the key of one model."""

    instance: InstanceId
    request_id: MessageId
    model: ModelId
    manifest: Digest


class KeyRelease(Message):
    """A model key, wrapped to the instance's HPKE key in the context of `release_context`."""

    custodian: KeyId
    instance: InstanceId
    request_id: MessageId
    model: ModelId
    manifest: Digest
    policy: Digest
    stop_state: Envelope
    wrapped_key: bytes


class _WrapContext(Message):
    label: str
    custodian: KeyId
    instance: InstanceId
    model: ModelId
    manifest: Digest
    policy: Digest


def release_context(custodian: KeyId, instance: InstanceId, model: ModelId, manifest: Digest, policy: Digest) -> bytes:
    """Return the HPKE `info` in which a released key opens: one custodian, instance, model, manifest and terms.

    `policy` is the digest of the serving policy that the enclave was told: it cannot open the key under another one.
    """
    return encode(
        _WrapContext(
            label=_WRAP_LABEL,
            custodian=custodian,
            instance=instance,
            model=model,
            manifest=manifest,
            policy=policy,
        )
    )


class _DepositContext(Message):
    label: str
    custodian: KeyId
    manifest: Digest


def deposit_context(custodian: KeyId, manifest: Digest) -> bytes:
    """Return the HPKE `info` in which a sealer's deposited key opens: one custodian and manifest."""
    return encode(_DepositContext(label="aigovtool key deposit v1", custodian=custodian, manifest=manifest))


def boot_audience(custodian: KeyId) -> Audience:
    """Return the audience of boot evidence."""
    return Audience(f"custodian:{custodian}")


def session_audience(consumer: str) -> Audience:
    """Return the audience of session evidence."""
    return Audience(f"consumer:{consumer}")
