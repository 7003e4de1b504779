"""Requests and answers that only the consumer and the attested enclave can read, whoever ends TLS between them.

`POST /aigovtool/sealed` carries one request to the enclave's own routes (spec: docs/spec/sealed.md):

```
request = length of the head (2 bytes, big-endian) ‖ head ‖ frames of the body
head    = HPKE to the enclave's body key, of a `SealedHead`
answer  = salt (32 bytes) ‖ frames of: length (4 bytes, big-endian) ‖ `SealedStatus` ‖ body
```

`POST /aigovtool/sealed/evidence` answers a signed challenge with evidence, as `protocol.session` does for a connection
that nobody ends. What such a connection would vouch for is signed here with the identity key that the evidence covers:
the `Statement`, with the key for requests. Who asks is known by its certificate and its signature within the head.
"""

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta

from aigovtool.codec import Message, encode, text_like
from aigovtool.crypto.frames import SECRET_BYTES
from aigovtool.crypto.sign import Envelope, VerifyKey, open_envelope
from aigovtool.errors import EvidenceError, InputError, SignatureInvalidError
from aigovtool.ids import ConsumerId, Digest, InstanceId, Millis, Nonce, digest_of
from aigovtool.limits import MAX_CERTIFICATE_BYTES, MAX_HEADERS, MAX_INFER_BODY_BYTES
from aigovtool.protocol.session import ServedModel, SessionEvidence

SEALED_PATH: Final = "/aigovtool/sealed"
SEALED_EVIDENCE_PATH: Final = "/aigovtool/sealed/evidence"
MEDIA_TYPE: Final = "application/vnd.aigovtool.sealed"
#: In the clear beside all that one client sends: random, and always the same. A balancer before several enclaves routes
#: by it, because what is sealed to one of them is nothing to the others.
ROUTE_HEADER: Final = "aigovtool-route"

STATEMENT: Final = "session-statement.v1"
CHALLENGE: Final = "sealed-challenge.v1"
REQUEST: Final = "sealed-request.v1"

HEAD_LENGTH_BYTES: Final = 2
STATUS_LENGTH_BYTES: Final = 4
#: A certificate of under 600 bytes, a signed request of as much again, both twice in base64; and room.
MAX_HEAD_BYTES: Final = 16 << 10
MAX_STATUS_BYTES: Final = 512 << 10
#: How far the consumer's clock may be from the custodian's time. A head is remembered for longer than it is taken.
MAX_AGE_MS: Final = 240_000

_REQUEST_INFO: Final = b"aigovtool sealed request v1\x00"
_BODY_INFO: Final = b"aigovtool sealed body v1\x00"
_ANSWER_INFO: Final = b"aigovtool sealed answer v1\x00"

_Path = Annotated[str, text_like(r"^/[A-Za-z0-9._/-]{1,255}$(?!\n)", "a path of letters, digits, '.', '_', '-', '/'")]
_FieldName = Annotated[str, text_like(r"^[a-z0-9-]{1,64}$(?!\n)", "a header field in lower case")]
_FieldValue = Annotated[str, text_like(r"^[ -~]{0,255}$(?!\n)", "at most 255 printable ASCII characters")]
_Certificate = Annotated[bytes, Meta(max_length=MAX_CERTIFICATE_BYTES)]


class Statement(Message):
    """What an instance says in its own name where TLS does not: its key for requests (X25519, 32 bytes), its models.

    `nonce` is that of the challenge; the rest are those of the `SessionEvidence` beside it, of its key set the digest.
    """

    instance: InstanceId
    nonce: Nonce
    body_key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    key_set: Digest
    models: list[ServedModel]
    warning: str | None


class StatedChallenge(Message):
    """What a consumer signs to be given evidence: who it is, its own nonce, and when."""

    consumer: ConsumerId
    nonce: Nonce
    at_ms: Millis


class SealedChallenge(Message):
    """A `StatedChallenge`, signed with the key of the certificate (DER)."""

    credential: _Certificate
    challenge: Envelope


class Field(Message):
    """One header field."""

    name: _FieldName
    value: _FieldValue


class SealedRequest(Message):
    """What is asked of one instance, signed with the consumer's key; body and answer are sealed with `secret`."""

    instance: InstanceId
    secret: Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
    method: Literal["GET", "POST"]
    path: _Path
    headers: Annotated[list[Field], Meta(max_length=16)]
    body_bytes: Annotated[int, Meta(ge=0, le=MAX_INFER_BODY_BYTES)]
    at_ms: Millis


class SealedHead(Message):
    """A `SealedRequest`, signed with the key of the certificate (DER)."""

    credential: _Certificate
    request: Envelope


class AnswerField(Message):
    """One header field of an answer: a receipt is longer than anything that is asked."""

    name: _FieldName
    value: Annotated[str, Meta(max_length=MAX_STATUS_BYTES)]


class SealedStatus(Message):
    """How an answer begins."""

    status: Annotated[int, Meta(ge=200, le=599)]
    headers: Annotated[list[AnswerField], Meta(max_length=MAX_HEADERS)]


def require_stated(session: SessionEvidence, identity: VerifyKey, nonce: Nonce) -> bytes:
    """Return the body key of an attested instance, whose word the rest of `session` is as well.

    Raises:
        EvidenceError: `not_stated`: there is no word of this instance, or it says something else.
    """
    if session.statement is UNSET:
        raise _not_stated("comes without a word of the instance")
    try:
        stated = open_envelope(session.statement, STATEMENT, Statement, [identity])
    except (SignatureInvalidError, InputError):
        raise _not_stated("comes with a word of somebody else") from None
    said = (stated.instance, stated.nonce, stated.key_set, stated.models, stated.warning)
    if said != (session.claims.instance, nonce, digest_of(encode(session.key_set)), session.models, session.warning):
        raise _not_stated("is not what the instance has said")
    return stated.body_key


def request_info(instance: InstanceId, body_key: bytes) -> bytes:
    """Return the HPKE `info` of a head: it opens at one instance, with one key."""
    return _REQUEST_INFO + bytes.fromhex(instance) + body_key


def body_info(head_digest: bytes) -> bytes:
    """Return the context of the frames of a request, whose sealed head has this SHA-256."""
    return _BODY_INFO + head_digest


def answer_info(head_digest: bytes) -> bytes:
    """Return the context of the frames of the answer to it."""
    return _ANSWER_INFO + head_digest


def status_prefix(status: SealedStatus) -> bytes:
    """Return what the text of an answer begins with."""
    head = encode(status)
    return len(head).to_bytes(STATUS_LENGTH_BYTES, "big") + head


def _not_stated(what: str) -> EvidenceError:
    return EvidenceError(
        f"what came beside the evidence {what}",
        reason="not_stated",
        fix="somebody between changes it, or the enclave is too old for sealed requests",
    )
