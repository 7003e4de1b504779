"""What the store keeps beside the ledger: parties, models, instances."""

from aigovtool.attestation.model import ResultBody, TeeType
from aigovtool.codec import Message
from aigovtool.ids import BorrowerId, Digest, InstanceId, Millis, ModelId, Units
from aigovtool.ledger.entry import PartyRole
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.package.manifest import Manifest
from aigovtool.protocol.release import NotServed


class Party(Message):
    """A borrower, consumer or operator; `key` is its raw Ed25519 key."""

    role: PartyRole
    name: str
    borrower: BorrowerId | None
    key: bytes
    not_after_ms: Millis
    revoked: bool = False


class Model(Message):
    """A registered model. `wrapped_key` opens with the custodian's keystore key only."""

    model: ModelId
    manifest_digest: Digest
    manifest: Manifest
    package: Digest
    package_bytes: Units
    sealer: bytes
    wrapped_key: bytes
    policy: ServingPolicy
    borrowers: list[BorrowerId]
    withdrawn: bool = False


class Cosigned(Message):
    """What a witness co-signed last, and the line of the note that says so."""

    generation: Units
    size: Units
    time_s: Units
    line: str

    def order(self) -> tuple[int, int, int, str]:
        """Return what is greater for a newer one; the line only makes the order total."""
        return self.generation, self.size, self.time_s, self.line


class Witness(Message):
    """A witness; `key` is its raw Ed25519 key."""

    name: str
    key: bytes
    retired: bool = False
    newest: Cosigned | None = None


class Instance(Message):
    """An admitted instance. `state` is live, stopped, wiped, forked or unaccepted, and `why` says why the last.

    `refused` are models that it asked for and was not admitted for; `set_aside` those that it did not ask for.
    """

    instance: InstanceId
    borrower: BorrowerId
    tee: TeeType
    refundable: bool
    identity_key: bytes
    hpke_key: bytes
    models: list[ModelId]
    attested_at_ms: Millis
    valid_until_ms: Millis
    state: str
    result: ResultBody
    wiped_epoch: Units | None = None
    #: The ledger's generation when it was admitted: an older one must attest again.
    generation: Units = 0
    why: str = ""
    refused: tuple[NotServed, ...] = ()
    set_aside: tuple[NotServed, ...] = ()
