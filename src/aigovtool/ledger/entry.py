"""What the audit log records: one typed entry per effect, in the transaction of the effect.

An entry's only encoding is the leaf of the log's Merkle tree, so nobody can change, drop, swap or
insert one without changing every later checkpoint. Entries carry all that is needed to recompute each
balance from the log alone. They carry no prompt, no output and no key.
"""

from enum import StrEnum

from aigovtool.codec import Message, encode
from aigovtool.ids import (
    BorrowerId,
    ChipId,
    ConsumerId,
    Digest,
    InstanceId,
    KeyId,
    LeaseId,
    MessageId,
    Millis,
    ModelId,
    OperatorId,
    Units,
)
from aigovtool.ledger.budget import BudgetLimit, RowKey, Scope
from aigovtool.ledger.merkle import leaf_hash
from aigovtool.ledger.units import Dimension, UnitVector


class PartyRole(StrEnum):
    """Who can hold a credential."""

    OPERATOR = "operator"
    BORROWER = "borrower"
    CONSUMER = "consumer"


class StopTarget(StrEnum):
    """What a stop can be aimed at."""

    ALL = "all"
    MODEL = "model"
    BORROWER = "borrower"
    CONSUMER = "consumer"
    ENCLAVE = "enclave"


class Refusable(StrEnum):
    """Who can be refused something by name: parties, instances by their identifier, and witnesses."""

    OPERATOR = "operator"
    BORROWER = "borrower"
    CONSUMER = "consumer"
    ENCLAVE = "enclave"
    WITNESS = "witness"


class Command(Message, omit_defaults=True):
    """The signed operator command that caused an entry; `second` signed it too, where two are needed."""

    operator: OperatorId
    command_id: MessageId
    digest: Digest
    second: OperatorId | None = None


class Genesis(Message, tag_field="kind", tag="genesis"):
    """The ledger begins. `custodian` is the identifier of the root key."""

    custodian: KeyId


class KeySetPublished(Message, tag_field="kind", tag="key_set_published"):
    """A new version of the custodian's keys is in force."""

    version: Units
    digest: Digest


class PartyAdded(Message, tag_field="kind", tag="party_added"):
    """A credential was issued."""

    role: PartyRole
    name: str
    key: KeyId
    borrower: BorrowerId | None
    not_after_ms: Millis
    command: Command | None


class PartyRevoked(Message, tag_field="kind", tag="party_revoked"):
    """A credential is no longer accepted."""

    role: PartyRole
    name: str
    epoch: Units
    command: Command


class ModelAdded(Message, tag_field="kind", tag="model_added", omit_defaults=True):
    """A sealed model can be lent. Its leases debit inferences, and what is metered `also`: that never changes."""

    model: ModelId
    manifest: Digest
    package: Digest
    package_bytes: Units
    sealer: KeyId
    policy: Digest
    command: Command
    also: tuple[Dimension, ...] = ()


class ModelTermsSet(Message, tag_field="kind", tag="model_terms_set", omit_defaults=True):
    """A model is lent on other terms from now on: who may host it, how its leases are cut, whether answers say more."""

    model: ModelId
    policy: Digest
    borrowers: list[BorrowerId]
    epoch: Units
    command: Command
    more_leaves: bool = False


class ModelWithdrawn(Message, tag_field="kind", tag="model_withdrawn"):
    """A model is no longer lent: no key release, no lease."""

    model: ModelId
    epoch: Units
    command: Command


class AppraisalPolicySet(Message, tag_field="kind", tag="appraisal_policy_set"):
    """Which evidence is acceptable from now on."""

    version: Units
    digest: Digest
    command: Command | None


class BudgetSet(Message, tag_field="kind", tag="budget_set"):
    """An operator set or raised a limit."""

    limit: BudgetLimit
    command: Command


class Attested(Message, tag_field="kind", tag="attested", omit_defaults=True):
    """An instance was admitted; `chip` is which processor or TPM it runs on, where the platform tells.

    It is the identity by which an appraisal policy lists chips, in lower-case hexadecimal.
    """

    instance: InstanceId
    borrower: BorrowerId
    tee: str
    measurement: str
    result: Digest
    chip: ChipId | None = None


class AttestationRefused(Message, tag_field="kind", tag="attestation_refused", omit_defaults=True):
    """A borrower's enclave was turned away, or one of the models that it asked for was; `times` as in `Refused`."""

    borrower: BorrowerId
    code: str
    reason: str
    times: Units = 1


class AttestationWithdrawn(Message, tag_field="kind", tag="attestation_withdrawn"):
    """An instance that was admitted would not be any more: by the policy, or by what its vendor says since."""

    instance: InstanceId
    borrower: BorrowerId
    code: str
    reason: str


class KeyReleased(Message, tag_field="kind", tag="key_released"):
    """A model key was wrapped to an instance; written before the reply leaves."""

    instance: InstanceId
    model: ModelId
    manifest: Digest


class ReleaseRefused(Message, tag_field="kind", tag="release_refused", omit_defaults=True):
    """An admitted instance asked for a model key and did not get it; `times` as in `Refused`."""

    instance: InstanceId
    model: ModelId
    code: str
    reason: str
    times: Units = 1


class CommandRefused(Message, tag_field="kind", tag="command_refused", omit_defaults=True):
    """An operator's signed command was refused; nothing was changed. `times` as in `Refused`."""

    command: Command
    code: str
    reason: str
    times: Units = 1


class Refused(Message, tag_field="kind", tag="refused", omit_defaults=True):
    """Somebody whom this ledger knows was refused an act; nothing was changed.

    The first refusal is written at once. The same again is counted, and written at most once an hour: `times` is how
    many there were since the line before.
    """

    role: Refusable
    name: str
    act: str
    code: str
    reason: str
    times: Units = 1


#: What is said of a refusal.
Refusal = AttestationRefused | ReleaseRefused | CommandRefused | Refused


class LeaseGranted(Message, tag_field="kind", tag="lease_granted", omit_defaults=True):
    """Units were debited from every row of the path; in bound mode, for one request, of which this is the digest."""

    lease_id: LeaseId
    instance: InstanceId
    borrower: BorrowerId
    model: ModelId
    consumer: ConsumerId
    units: UnitVector
    rows: list[RowKey]
    request: Digest | None = None


class LeaseClosed(Message, tag_field="kind", tag="lease_closed"):
    """The holder closed a lease; `late` if it had been charged in full before."""

    lease_id: LeaseId
    late: bool
    used: UnitVector
    charged: UnitVector
    ok: Units
    err: Units
    receipts: str


class LeaseExpired(Message, tag_field="kind", tag="lease_expired"):
    """Nobody closed a lease in time: charged in full."""

    lease_id: LeaseId


class LeaseWrittenOff(Message, tag_field="kind", tag="lease_written_off"):
    """Two operators gave up the holder of an expired lease; what it was charged stays charged."""

    lease_id: LeaseId
    command: Command


class GapFound(Message, tag_field="kind", tag="gap_found"):
    """Somebody showed a signed checkpoint of entries that this ledger has forgotten: nothing is granted from now on."""

    checkpoint: str
    lost_generation: Units
    lost_size: Units


class ClockAccepted(Message, tag_field="kind", tag="clock_accepted"):
    """Whoever holds the custodian's directory confirmed that its clock is right: time goes on from this entry's.

    `before_ms` is the ledger's time until then.
    """

    before_ms: Millis


class Restored(Message, tag_field="kind", tag="restored", omit_defaults=True):
    """Two operators put a ledger that was restored from a backup back into service, in a new generation.

    `checkpoint` is the newest signed note that was shown of the entries that are lost, and `lost_size` its size. A
    `final` settlement explains notes of any size of that generation and those before: everything is stopped, all that
    remains of every budget is charged by the entries that follow, and no lease of before is refunded anything.
    """

    generation: Units
    checkpoint: str
    lost_size: Units
    command: Command
    final: bool = False


class Charged(Message, tag_field="kind", tag="charged"):
    """Two operators charged a row for what the restored ledger had forgotten."""

    row: RowKey
    units: Units
    command: Command


class Forked(Message, tag_field="kind", tag="forked"):
    """Two copies of one instance are alive; it is stopped."""

    instance: InstanceId
    lease_id: LeaseId
    epoch: Units


class Asked(Message, tag_field="kind", tag="asked", omit_defaults=True):
    """Somebody asked for more budget: so many units of one dimension."""

    ask_id: MessageId
    role: PartyRole
    name: str
    scope: Scope
    units: Units
    reason: str
    dimension: Dimension = Dimension.INFERENCES


class AskDecided(Message, tag_field="kind", tag="ask_decided"):
    """An operator decided on a request for more budget."""

    ask_id: MessageId
    approved: bool
    command: Command


class Stopped(Message, tag_field="kind", tag="stopped"):
    """An operator stopped something."""

    target: StopTarget
    value: str
    epoch: Units
    command: Command


class Resumed(Message, tag_field="kind", tag="resumed"):
    """An operator lifted a stop."""

    target: StopTarget
    value: str
    epoch: Units
    command: Command


class WitnessEnrolled(Message, tag_field="kind", tag="witness_enrolled"):
    """Co-signatures of checkpoints by a witness are taken and shown; `witness` is its verifier key."""

    witness: str
    command: Command


class WitnessRetired(Message, tag_field="kind", tag="witness_retired"):
    """A witness's co-signatures are no longer taken and shown; what it signed before stays true."""

    name: str
    command: Command


class Wiped(Message, tag_field="kind", tag="wiped"):
    """An instance proved by its signature that key, weights and results are gone."""

    instance: InstanceId
    epoch: Units


_Party = PartyAdded | PartyRevoked
_Model = ModelAdded | ModelTermsSet | ModelWithdrawn | KeyReleased
_Lease = LeaseGranted | LeaseClosed | LeaseExpired | LeaseWrittenOff | Forked
_Loss = GapFound | ClockAccepted | Restored | Charged
_Witness = WitnessEnrolled | WitnessRetired
_Ordered = AppraisalPolicySet | BudgetSet | Asked | AskDecided | Stopped | Resumed
_Instance = Attested | AttestationWithdrawn | Wiped

EntryBody = Genesis | KeySetPublished | _Party | _Model | _Ordered | _Instance | _Lease | _Loss | _Witness | Refusal


class Entry(Message):
    """One line of the audit log. Indices count from 0 without gaps."""

    index: Units
    at_ms: Millis
    generation: Units
    body: EntryBody

    def leaf(self) -> bytes:
        """Return the RFC 6962 leaf hash of this entry."""
        return leaf_hash(encode(self))
