"""That the lease which a receipt names was debited from a budget: fetched from the custodian, and checked offline.

The custodian shows the grant of a lease to operators, and to the consumer and the borrower whose it is. What it shows
is believed because it is in the log that the custodian signed; so the proof can be kept, and shown to anybody.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aigovtool.codec import Message, decode, encode
from aigovtool.crypto.sign import Envelope, VerifyKey
from aigovtool.errors import ConfigurationError, InputError, LogError
from aigovtool.ledger.checkpoint import Checkpoint
from aigovtool.ledger.entry import LeaseGranted
from aigovtool.ledger.proof import EntryProof, open_lease_proof
from aigovtool.ledger.receipt import Receipt
from aigovtool.operator.connection import CustodianConnection
from aigovtool.protocol.party import PartyFile
from aigovtool.protocol.trust import open_key_set
from aigovtool.regular_file import write_new

#: An entry of at most 64 KiB, sixty-three hashes, a checkpoint and a key set.
MAX_SAVED_PROOF_BYTES: Final = 256 << 10


class SavedProof(Message):
    """A proof, with the key set whose log key signed its checkpoint: all that is needed but the root key."""

    proof: EntryProof
    key_set: Envelope


@dataclass(frozen=True, slots=True)
class ProvenLease:
    """The grant of a lease that is in the signed log."""

    granted: LeaseGranted
    checkpoint: Checkpoint
    saved: SavedProof


def fetch_proof(party: PartyFile, receipt: Receipt, *, key_set_at_least: int = 0) -> ProvenLease:
    """Ask the custodian of `party` for the proof that the lease of a receipt was debited.

    Raises:
        NotFoundError: the custodian knows no such lease of this party.
        LogError: the proof does not verify, or is for another enclave, model or consumer than the receipt.
        SignatureInvalidError: it is signed under an older key set than `key_set_at_least` (`key_set_rollback`).
        UnreachableError: no answer.
    """
    with CustodianConnection.of(party) as connection:
        proof = connection.get(f"/v1/leases/{receipt.lease_id}/proof", EntryProof)
        key_set = connection.get("/v1/key-set", Envelope)
    saved = SavedProof(proof=proof, key_set=key_set)
    return open_saved(saved, VerifyKey(party.custodian.root), receipt, key_set_at_least=key_set_at_least)


def open_saved(saved: SavedProof, root: VerifyKey, receipt: Receipt, *, key_set_at_least: int = 0) -> ProvenLease:
    """Check a proof under the root key, offline, and that it is about the lease of this receipt; raises as above."""
    keys = open_key_set(saved.key_set, root, at_least=key_set_at_least).log_keys()
    granted, checkpoint = open_lease_proof(saved.proof, keys, root.key_id, receipt.lease_id)
    wanted = (receipt.instance, receipt.model, receipt.consumer)
    if (granted.instance, granted.model, granted.consumer) != wanted or not granted.units.covers(receipt.units):
        raise LogError(
            "the lease was granted to another enclave, model or consumer than the receipt names, or is smaller",
            reason="wrong_lease",
        )
    return ProvenLease(granted=granted, checkpoint=checkpoint, saved=saved)


def write_proof(path: Path, saved: SavedProof) -> None:
    """Write a proof to a new file; it is no secret.

    Raises:
        ConfigurationError: `unwritable_proof`.
    """
    try:
        write_new(path, encode(saved))
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}", reason="unwritable_proof") from None


def read_proof(path: Path) -> SavedProof:
    """Read a saved proof, which may have come from anybody.

    Raises:
        ConfigurationError: `unreadable_proof`, `bad_proof`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SAVED_PROOF_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", reason="unreadable_proof") from None
    try:
        return decode(content, SavedProof, max_bytes=MAX_SAVED_PROOF_BYTES)
    except InputError as error:
        raise ConfigurationError(
            f"{path} is not a saved proof: {error.message}",
            reason="bad_proof",
            fix="give a file that `aigovtool receipt prove -o` wrote",
        ) from None
