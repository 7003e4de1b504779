"""A proof that one entry is in the audit log: the entry, its place, an audit path, and the checkpoint that it leads to.

With it a consumer shows that the lease which its receipt names was really debited from a budget, and keeps a checkpoint
of the log that nobody can make unsaid.
"""

from aigovtool.codec import Message, decode_signed
from aigovtool.crypto.sign import VerifyKey
from aigovtool.errors import LogError
from aigovtool.ids import KeyId, LeaseId, Units
from aigovtool.ledger.checkpoint import Checkpoint, open_checkpoint
from aigovtool.ledger.entry import Entry, LeaseGranted
from aigovtool.ledger.merkle import leaf_hash, verify_inclusion


class EntryProof(Message):
    """One entry in its only encoding, its audit path (RFC 6962) and the signed note of the tree."""

    entry: bytes
    index: Units
    path: list[bytes]
    checkpoint: str


def open_proof(proof: EntryProof, keys: list[VerifyKey], custodian: KeyId) -> tuple[Entry, Checkpoint]:
    """Return the entry, if it is in the log that the custodian signed.

    Raises:
        LogError: `checkpoint`, `wrong_custodian`, `inclusion`, or `index` when the entry names another place.
        MalformedError, InvalidValueError: the entry cannot be read.
    """
    checkpoint = open_checkpoint(proof.checkpoint, keys)
    if checkpoint.custodian != custodian:
        raise LogError("the checkpoint is of another custodian's log", reason="wrong_custodian")
    verify_inclusion(leaf_hash(proof.entry), proof.index, checkpoint.size, proof.path, checkpoint.root)
    entry = decode_signed(proof.entry, Entry)
    if entry.index != proof.index:
        raise LogError("the entry is not at the place that it names", reason="index")
    return entry, checkpoint


def open_lease_proof(
    proof: EntryProof, keys: list[VerifyKey], custodian: KeyId, lease_id: LeaseId
) -> tuple[LeaseGranted, Checkpoint]:
    """Return the grant of a lease, if it is in the log that the custodian signed.

    Raises:
        LogError: as `open_proof`, or `wrong_lease` when the entry is not the grant of this lease.
    """
    entry, checkpoint = open_proof(proof, keys, custodian)
    if not isinstance(entry.body, LeaseGranted) or entry.body.lease_id != lease_id:
        raise LogError("the proof is about something else than this lease", reason="wrong_lease")
    return entry.body, checkpoint
