"""What the custodian's API shows: one struct per thing, the same words as everywhere else."""

from typing import Annotated, Literal

from msgspec import Meta, field

from aigovtool.attestation.model import ResultBody, TeeType
from aigovtool.codec import Message
from aigovtool.crypto.sign import Envelope
from aigovtool.ids import BorrowerId, ConsumerId, Digest, InstanceId, KeyId, Millis, ModelId, Units
from aigovtool.ledger.budget import RowKey
from aigovtool.ledger.checkpoint import MAX_CHECKPOINT_BYTES
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.policy import Consequences, ServingPolicy
from aigovtool.ledger.units import Dimension, UnitVector
from aigovtool.limits import MAX_WITNESSES
from aigovtool.package.charge import ChargedPer
from aigovtool.protocol.commands import AskState


class Health(Message):
    """Whether the custodian serves, and what it is.

    `status` is `serving`, or `clock_leapt`: it does not believe its host's clock, and grants nothing. Stops work.
    """

    status: str
    version: str
    custodian: KeyId
    generation: Units
    epoch: Units


class PartyView(Message):
    """A borrower, consumer or operator."""

    role: PartyRole
    name: str
    borrower: BorrowerId | None
    key: KeyId
    not_after_ms: Millis
    revoked: bool


class Parties(Message):
    """All parties."""

    parties: list[PartyView]

    def operators(self) -> int:
        """Return how many operators were ever enrolled, revoked ones too."""
        return sum(party.role is PartyRole.OPERATOR for party in self.parties)


class PartyCertificate(Message):
    """The client certificate (PEM) of a party, and the raw Ed25519 key that it names."""

    key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    certificate: str


class FetchedCertificate(Message):
    """A party's certificate as an operator hands it over: with the key set, which the root key signed."""

    issued: PartyCertificate
    key_set: Envelope


class ModelView(Message):
    """A model that is, or was, lent. `inputs` and `outputs` are described as `name datatype[shape]`.

    `charged_per` is what one inference of it is, and `of_any_size` names the inputs with an axis of any size.
    """

    model: ModelId
    manifest: Digest
    package: Digest
    package_bytes: Units
    sealer: KeyId
    policy: ServingPolicy
    borrowers: list[BorrowerId]
    inputs: list[str]
    outputs: list[str]
    charged_per: ChargedPer
    of_any_size: list[str]
    withdrawn: bool


class Models(Message):
    """All models."""

    models: list[ModelView]


class BudgetView(Message):
    """One budget row of its current window; `room` is null where there is no limit, and 0 once its time is over.

    `earlier` is what the earlier slices of a rolling window still count; `not_after_ms` is its end, null for none.
    """

    key: RowKey
    limit: Units | None
    posted: Units
    pending: Units
    room: Units | None
    consequences: Consequences | None
    earlier: Units = 0
    not_after_ms: Millis | None = None


class Budgets(Message):
    """Budget rows."""

    budgets: list[BudgetView]


class UsageView(Message):
    """What one consumer used of one model, from closed and open leases."""

    model: ModelId
    borrower: BorrowerId
    consumer: ConsumerId
    granted: UnitVector
    charged: UnitVector
    used: UnitVector
    ok: Units
    err: Units
    open_leases: Units


class Usage(Message):
    """Usage by model and consumer."""

    usage: list[UsageView]


class ModelNotServed(Message):
    """A model that an enclave was started for and does not serve: by whose verdict, and which error it was."""

    model: ModelId
    by: Literal["custodian", "enclave"]
    code: str
    reason: str


class EnclaveView(Message):
    """One instance. `state` is live, silent, stopped, wiped, forked or unaccepted; `why` says why it is the last.

    `authority_until_ms` is when it can release its last answer, however much its host withholds (given a clock that the
    host cannot slow); `outstanding` is what it could use without any clock.
    """

    instance: InstanceId
    borrower: BorrowerId
    tee: TeeType
    simulated: bool
    state: str
    models: list[ModelId]
    attested_at_ms: Millis
    valid_until_ms: Millis
    last_contact_ms: Millis
    outstanding: UnitVector
    authority_until_ms: Millis
    wiped_epoch: Units | None
    connected: bool
    result: ResultBody
    why: str = ""
    not_served: tuple[ModelNotServed, ...] = ()


class Enclaves(Message):
    """Instances, newest first: of each borrower up to 200 heard of lately and 200 that hold leases, and the newest 200.

    `unlisted`: how many more of a borrower's were heard of lately, so that they may have authority.
    """

    enclaves: list[EnclaveView]
    server_time_ms: Millis
    unlisted: dict[BorrowerId, Units] = field(default_factory=dict)


class StopView(Message):
    """A stop in force."""

    target: StopTarget
    value: str
    epoch: Units


class Stops(Message):
    """Stops in force."""

    stops: list[StopView]
    epoch: Units


class Asks(Message):
    """Requests for more budget."""

    asks: list[AskState]


class LogPage(Message):
    """Consecutive entries of the audit log, each in its only encoding (base64), from index `start`.

    Fewer than were asked for where they are long: only a page without any is beyond the end.
    """

    start: Units
    entries: list[bytes]


class LogFound(Message):
    """Entries of the audit log of one kind, newest first, each in its only encoding (base64); fewer as there."""

    entries: list[bytes]


_Note = Annotated[str, Meta(min_length=1, max_length=MAX_CHECKPOINT_BYTES)]
#: Checkpoints with co-signatures of witnesses, from the largest to the smallest.
CosignedNotes = Annotated[tuple[_Note, ...], Meta(max_length=MAX_WITNESSES)]


class LogHead(Message, omit_defaults=True):
    """The newest signed checkpoint, and the keys that its signer's key set names.

    Witnesses co-sign some time after the log: `checkpoint` carries the co-signatures over this very state, `cosigned`
    holds earlier checkpoints with those over them, the newest of each witness.
    """

    checkpoint: str
    key_set: Envelope
    cosigned: CosignedNotes = ()


class InclusionProof(Message):
    """The audit path of an entry, and the root that it leads to (32 bytes each)."""

    path: list[bytes]
    root: bytes


class ConsistencyProof(Message):
    """The proof that one tree extends another, and their roots."""

    path: list[bytes]
    old_root: bytes
    root: bytes


class CheckpointSeen(Message):
    """A checkpoint that somebody holds, to be compared with the custodian's log."""

    checkpoint: _Note


class CosignedCheckpoint(Message):
    """A checkpoint with the log's signature and the co-signature of one witness."""

    checkpoint: _Note


class WitnessView(Message):
    """A witness: its verifier key, and what it co-signed last; `size` is null when it has not."""

    name: str
    key: str
    retired: bool
    size: Units | None
    generation: Units | None
    time_s: Units | None


class Witnesses(Message):
    """All witnesses, by name."""

    witnesses: list[WitnessView]


class GapView(Message):
    """Whether the ledger has forgotten something: the newest checkpoint that it signed and does not remember.

    `shown_since` is the size of the largest one that was shown after a final settlement and that it explains, beyond
    what was known to be lost then; 0 if there was none.
    """

    generation: Units
    size: Units
    quiet_until_ms: Millis
    checkpoint: str | None
    lost_size: Units | None
    lost_generation: Units | None
    found_at_ms: Millis | None
    shown_since: Units = 0


class PackageStored(Message):
    """An uploaded package."""

    package: Digest
    package_bytes: Units


class DimensionRoom(Message):
    """What is left to grant of one dimension; null where there is no limit."""

    dimension: Dimension
    units: Units | None


class OwnBudget(Message):
    """A consumer's own view of one model's budget path: the least of what is left of each dimension."""

    model: ModelId
    manifest: Digest
    rooms: list[DimensionRoom]
    withdrawn: bool
    stopped: bool


class OwnView(Message):
    """What a consumer or borrower may see of itself."""

    name: str
    role: PartyRole
    budgets: list[OwnBudget]
    asks: list[AskState]
