"""The messages of metering between an enclave and its custodian (leases spec section 3).

RENEW and WIPED are signed by the instance, ANSWER and STOP STATE by the custodian's command key. The
kinds below are DSSE payload types, so that none can be taken for another.
"""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from aigovtool.codec import Message, text_like
from aigovtool.crypto.sign import Envelope
from aigovtool.ids import ConsumerId, Digest, InstanceId, KeyId, LeaseId, MessageId, Millis, ModelId, Units
from aigovtool.ledger.answers import AnswerTerms
from aigovtool.ledger.checkpoint import MAX_CHECKPOINT_BYTES
from aigovtool.ledger.inputs import InputTerms
from aigovtool.ledger.policy import Dial, RunMillis, ServingPolicy, SilenceMillis, TtlMillis
from aigovtool.ledger.units import ZERO, Dimension, UnitVector, only_zero
from aigovtool.limits import MAX_REPORTS_PER_RENEWAL, MAX_WANTS_PER_RENEWAL

RENEW = "lease-renew.v1"
ANSWER = "lease-answer.v1"
WIPED = "wiped.v1"
LISTEN = "listen.v1"


#: Answers and failures on one lease. They are summed up over leases, and the sums must stay readable.
Answers = Annotated[int, Meta(ge=0, le=10**9)]


class Report(Message):
    """Cumulative usage of one lease. `receipts` is the head of its chain of receipts (hex, or empty)."""

    lease_id: LeaseId
    seq: Units
    used: UnitVector
    ok: Answers
    err: Answers
    final: bool
    receipts: Annotated[str, text_like(r"^([0-9a-f]{64})?$(?!\n)", "64 lower-case hexadecimal digits, or none")]


class Want(Message, omit_defaults=True):
    """A wish for units of what the model meters; in bound mode for one request, by its salted digest.

    `ask`: people should be asked for more budget, if it is exhausted.
    """

    model: ModelId
    consumer: ConsumerId
    minimum: UnitVector
    target: UnitVector
    ask: bool = False
    request: Digest | None = None


class Renew(Message):
    """The heartbeat: reports on what was used, wants for more. One is outstanding at a time.

    `checkpoint_seen` is the newest signed note of the custodian's log that this instance was given (empty before the
    first): a custodian whose ledger was restored from a backup is shown what it forgot.
    """

    instance: InstanceId
    request_id: MessageId
    epoch: Units
    checkpoint_seen: Annotated[str, Meta(max_length=MAX_CHECKPOINT_BYTES)]
    reports: Annotated[list[Report], Meta(max_length=MAX_REPORTS_PER_RENEWAL)]
    wants: Annotated[list[Want], Meta(max_length=MAX_WANTS_PER_RENEWAL)]


class Grant(Message, tag_field="outcome", tag="grant", omit_defaults=True):
    """Units for one model and consumer, or for one request of theirs."""

    lease_id: LeaseId
    model: ModelId
    consumer: ConsumerId
    units: UnitVector
    ttl_ms: Millis
    policy: Digest
    request: Digest | None = None


class DenyCode(StrEnum):
    """Why no units were granted."""

    EXHAUSTED = "exhausted"
    RESERVED = "reserved"
    CAPPED = "capped"
    INSUFFICIENT = "insufficient"
    STOPPED = "stopped"
    REATTEST = "reattest"
    NO_BUDGET_ROW = "no_budget_row"
    BUDGET_ENDED = "budget_ended"


class Deny(Message, tag_field="outcome", tag="deny", omit_defaults=True):
    """No units; `available` says how many there would have been, and `short` which dimension was the first to lack."""

    model: ModelId
    consumer: ConsumerId
    code: DenyCode
    available: UnitVector = ZERO
    short: Dimension | None = None
    retry_after_ms: Millis = 0
    request: Digest | None = None

    def __post_init__(self) -> None:
        only_zero(self, "available")


class PathRoom(Message):
    """What can still be granted on the path of one model and consumer, beside what leases hold already.

    There is none for a dimension that no budget on the path limits.
    """

    model: ModelId
    consumer: ConsumerId
    dimension: Dimension
    units: Units


class Ack(Message):
    """The custodian has this report (or knows better); the enclave need not send it again."""

    lease_id: LeaseId
    seq: Units


class ModelTerms(Message, omit_defaults=True):
    """What an instance acts on of the policy of one model, from now on: whole, and not what has changed of it.

    `bound` is the dial of that name. What else a policy has, the custodian acts on alone.
    """

    model: ModelId
    ttl_ms: TtlMillis
    wipe_after_ms: SilenceMillis
    bound: bool = False
    request_max: UnitVector = ZERO
    max_run_ms: RunMillis | None = None
    inputs: InputTerms | None = None
    answers: AnswerTerms | None = None

    def __post_init__(self) -> None:
        only_zero(self, "request_max")


def terms_of(model: ModelId, policy: ServingPolicy) -> ModelTerms:
    """Return what an instance that serves a model under a policy is told of it."""
    return ModelTerms(
        model=model,
        ttl_ms=policy.ttl_ms,
        wipe_after_ms=policy.wipe_after_ms,
        bound=policy.dial is Dial.BOUND,
        request_max=policy.request_max,
        max_run_ms=policy.max_run_ms,
        inputs=policy.inputs,
        answers=policy.answers,
    )


class Answer(Message, omit_defaults=True):
    """The custodian's reply. Authority lasts `ttl_ms` from when the request was *first sent*.

    `rooms` tells of each path that the request reported on or wanted units for, as of this answer. `terms` are those of
    every model of the instance: whatever authority this gives is on these terms.
    """

    custodian: KeyId
    instance: InstanceId
    request_id: MessageId
    generation: Units
    epoch: Units
    server_time_ms: Millis
    checkpoint: Annotated[str, Meta(max_length=MAX_CHECKPOINT_BYTES)]
    ttl_ms: Millis
    results: list[Grant | Deny]
    acks: list[Ack]
    rooms: list[PathRoom]
    terms: tuple[ModelTerms, ...] = ()


class RenewReply(Message, omit_defaults=True):
    """What travels back: the answer (the same bytes each time) and the stop state of this moment.

    `key_set` is the number of the custodian's key set, 0 from one that does not tell: a hint to fetch it if it is new.
    `more` is a hint, too: a model that the instance's admission refused would be admitted now, by a new boot.
    """

    answer: Envelope
    stop_state: Envelope
    key_set: Units = 0
    more: bool = False


class Wiped(Message):
    """The instance states that engine, key, weights and results are gone, with its final reports."""

    instance: InstanceId
    epoch: Units
    reports: Annotated[list[Report], Meta(max_length=MAX_REPORTS_PER_RENEWAL)]


class Listen(Message):
    """Opens the stream on which the custodian pushes stops, grants and recalls."""

    instance: InstanceId
    nonce: MessageId
    at_ms: Millis


class Push(Message):
    """One line of the push stream. `stop_state` is signed; the others are only hints.

    `granted` and `recall` are to renew now; `key_set` is as in `RenewReply`.
    """

    stop_state: Envelope | None = None
    granted: bool = False
    recall: bool = False
    key_set: Units = 0
