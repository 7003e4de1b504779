"""What operators order: each act is a signed, idempotent command that the audit log names by its digest.

A command carries its own identifier: sent twice it is applied once and answered alike. `custodian` and
`issued_at_ms` tie it to one ledger and one short span of time, so that an old command is worth nothing. A stop is never
too old: a clock that is wrong, the operator's or the custodian's, must not be what keeps it from taking effect.
"""

from typing import Annotated

from msgspec import Meta

from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.codec import Message, text_like
from aigovtool.ids import BorrowerId, Digest, InstanceId, KeyId, MessageId, Millis, ModelId, OperatorId, Units
from aigovtool.ledger.budget import BudgetLimit, RowKey, Scope, Window
from aigovtool.ledger.checkpoint import MAX_CHECKPOINT_BYTES
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.ledger.units import Dimension
from aigovtool.limits import MAX_ASKED, MAX_INTEGER, MAX_REASON_CHARS, MAX_WITNESS_KEY_CHARS

COMMAND = "command.v1"
#: A command older than this is refused, if it is no stop; clocks of operators may differ by as much.
COMMAND_MAX_AGE_MS = 300_000
#: One that two operators signed: the second may sit elsewhere, and look first.
COSIGNED_MAX_AGE_MS = 86_400_000

Reason = Annotated[str, Meta(min_length=1, max_length=MAX_REASON_CHARS)]
#: A reason that may be missing: nobody is to look for words before a stop.
Comment = Annotated[str, Meta(max_length=MAX_REASON_CHARS)]
#: A name has 63 characters at most, the id of an enclave 64.
_Value = Annotated[str, Meta(max_length=64)]
_Key = Annotated[bytes, Meta(min_length=32, max_length=32)]


class AddParty(Message, tag_field="act", tag="add_party"):
    """Enrol a borrower, consumer or operator whose public key is `key`."""

    role: PartyRole
    name: str
    key: _Key
    borrower: BorrowerId | None
    valid_for_ms: Millis


class RevokeParty(Message, tag_field="act", tag="revoke_party"):
    """Never accept this party's credential again."""

    role: PartyRole
    name: str


class AddModel(Message, tag_field="act", tag="add_model"):
    """Lend a sealed package that was uploaded before; its key is wrapped to the custodian's keystore."""

    model: ModelId
    manifest: Digest
    package: Digest
    wrapped_key: bytes
    policy: ServingPolicy
    borrowers: list[BorrowerId]


class SetModelTerms(Message, tag_field="act", tag="set_model_terms"):
    """Lend a model on other terms: to other borrowers, or with another dial. Its policy's version must be higher.

    Leases that are out keep their units; each answer tells enclaves all terms that they act on. What a model meters
    cannot change, and an enclave that is to serve in bound mode boots anew.
    """

    model: ModelId
    policy: ServingPolicy
    borrowers: list[BorrowerId]


class WithdrawModel(Message, tag_field="act", tag="withdraw_model"):
    """Stop lending a model: no key release, no lease."""

    model: ModelId


class SetAppraisalPolicy(Message, tag_field="act", tag="set_appraisal_policy"):
    """Replace the appraisal policy; its version must be higher."""

    policy: AppraisalPolicy


class GrantBudget(Message, tag_field="act", tag="grant_budget"):
    """Add units to a limit, making the row where there is none."""

    scope: Scope
    dimension: Dimension
    window: Window
    units: Annotated[int, Meta(ge=1, le=10**12)]


class SetBudget(Message, tag_field="act", tag="set_budget"):
    """Set a limit outright; null is an explicit "no limit"."""

    limit: BudgetLimit


class DecideAsk(Message, tag_field="act", tag="decide_ask"):
    """Approve (with units, or as many as asked for) or deny a request for more budget."""

    ask_id: MessageId
    approve: bool
    units: Units | None
    reason: Comment


class Stop(Message, tag_field="act", tag="stop"):
    """Stop something now."""

    target: StopTarget
    value: _Value
    reason: Comment


class Resume(Message, tag_field="act", tag="resume", omit_defaults=True):
    """Lift a stop: that of this epoch. An order of two operators must name it, and so lifts none that came later."""

    target: StopTarget
    value: _Value
    reason: Comment
    epoch: Units | None = None


class EnrolWitness(Message, tag_field="act", tag="enrol_witness"):
    """Take and show the co-signatures of a witness; `witness` is its verifier key (C2SP signed note)."""

    witness: Annotated[str, Meta(min_length=1, max_length=MAX_WITNESS_KEY_CHARS)]


class RetireWitness(Message, tag_field="act", tag="retire_witness"):
    """Neither take nor show the co-signatures of a witness any more."""

    name: Annotated[str, Meta(min_length=1, max_length=MAX_WITNESS_KEY_CHARS)]


class RowCharge(Message):
    """Units to charge to a budget row: at most as many as a limit can have."""

    row: RowKey
    units: Annotated[int, Meta(ge=1, le=MAX_INTEGER)]


class SettleGap(Message, tag_field="act", tag="settle_gap", omit_defaults=True):
    """Put a ledger that was restored from a backup back into service, in a new generation.

    `checkpoint` is the newest note that was shown of what is lost, exactly as the custodian shows it; `charges` what
    the operators know or assume was spent meanwhile. Leases that are open in the backup are charged as their holders
    report, or in full.

    A `final` one names no charges: all that remains of every budget is charged when it is carried out. Then whatever is
    shown later of the generations that are lost changes nothing, so it may name any checkpoint of the same generation.
    """

    checkpoint: Annotated[str, Meta(max_length=MAX_CHECKPOINT_BYTES)]
    charges: Annotated[list[RowCharge], Meta(max_length=10_000)]
    reason: Reason
    final: bool = False


class WriteOff(Message, tag_field="act", tag="write_off"):
    """Give up an instance that never closed its leases: they stay charged, and no longer count as outstanding."""

    instance: InstanceId
    reason: Reason


#: Acts that two operators must sign: each could undo what the ledger exists for.
TWO_OPERATORS = (SettleGap, WriteOff)

Act = (
    AddParty
    | RevokeParty
    | AddModel
    | SetModelTerms
    | WithdrawModel
    | SetAppraisalPolicy
    | GrantBudget
    | SetBudget
    | DecideAsk
    | Stop
    | Resume
    | EnrolWitness
    | RetireWitness
    | SettleGap
    | WriteOff
)


class Command(Message):
    """One act of one operator."""

    custodian: KeyId
    operator: OperatorId
    command_id: MessageId
    issued_at_ms: Millis
    act: Act


class CommandResult(Message):
    """What a command came to. `entry` is the index of its (last) line in the audit log."""

    command_id: MessageId
    entry: Units
    certificate: str | None = None
    epoch: Units | None = None


class AskRequest(Message, omit_defaults=True):
    """A consumer's or borrower's wish for more budget: so many more units of one dimension."""

    ask_id: MessageId
    scope: Scope
    units: Annotated[int, Meta(ge=1, le=MAX_ASKED)]
    reason: Reason
    dimension: Dimension = Dimension.INFERENCES


class AskState(Message):
    """A request for more budget and what became of it; `decision` is the operator's reason."""

    ask_id: MessageId
    role: PartyRole
    name: str
    scope: Scope
    units: Units
    reason: str
    at_ms: Millis
    state: Annotated[str, text_like("^(open|approved|denied)$", "open, approved or denied")]
    decided_by: OperatorId | None = None
    decision: str = ""
    granted: Units = 0
    dimension: Dimension = Dimension.INFERENCES
