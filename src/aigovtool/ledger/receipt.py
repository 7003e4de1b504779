"""Receipts: signed proof of one inference, checkable by its consumer alone.

A receipt is a leaf of a small Merkle tree; one signature of the instance covers the tree (a *batch*),
and each consumer gets its leaf, its audit path and the signed batch. Request and response are digested
with the consumer's own salt, so that the custodian, who sees digests, cannot guess short texts.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

from aigovtool.codec import Message, encode
from aigovtool.crypto.sign import Envelope, SigningKey, VerifyKey, open_envelope, seal
from aigovtool.errors import InputError, LogError, ReceiptError, SignatureInvalidError
from aigovtool.ids import ConsumerId, Digest, InstanceId, LeaseId, Millis, ModelId, RequestKey, Units
from aigovtool.ledger.merkle import inclusion_proofs, leaf_hash, verify_inclusion
from aigovtool.ledger.units import UnitVector

KIND = "receipt-batch.v1"
MAX_SALT_BYTES = 64


class Receipt(Message):
    """What was asked, answered and charged. `sequence` counts the receipts of one lease from 1.

    `remaining` is what was left afterwards of what is metered, as far as the instance knew.
    """

    request_key: RequestKey
    request: Digest
    response: Digest
    model: ModelId
    manifest: Digest
    consumer: ConsumerId
    units: UnitVector
    remaining: UnitVector
    lease_id: LeaseId
    sequence: Units
    instance: InstanceId
    tee: str
    at_ms: Millis


class Batch(Message):
    """The root of the receipts that one signature covers."""

    instance: InstanceId
    root: bytes
    size: Units


class SignedReceipt(Message):
    """A receipt with everything needed to check it, except the instance's key (from its evidence)."""

    receipt: Receipt
    index: Units
    path: list[bytes]
    batch: Envelope


def salted_digest(salt: bytes, label: str, data: Sequence[bytes | memoryview]) -> Digest:
    """Return SHA-256 over the length of the salt, the salt, a label and the parts of a body."""
    state = sha256(b"%b%b%b\x00" % (len(salt).to_bytes(1, "big"), salt, label.encode()))
    for part in data:
        state.update(part)
    return Digest("sha256:" + state.hexdigest())


def receipt_leaf(receipt: Receipt) -> bytes:
    """Return the leaf hash of a receipt."""
    return leaf_hash(encode(receipt))


class WrittenReceipt:
    """A receipt, its only encoding, and the leaf hash of that: made once for all who need it."""

    __slots__ = ("content", "leaf", "receipt")

    def __init__(self, receipt: Receipt) -> None:
        self.receipt: Final = receipt
        self.content: Final = encode(receipt)
        self.leaf: Final = leaf_hash(self.content)


def chain(head: str, receipt: Receipt) -> str:
    """Return the next head of a lease's chain of receipts (hexadecimal; the first head is empty)."""
    return chain_leaves(head, [receipt_leaf(receipt)])


def chain_leaves(head: str, leaves: Iterable[bytes]) -> str:
    """Return the head of a lease's chain after receipts with these leaf hashes."""
    found = bytes.fromhex(head)
    for leaf in leaves:
        found = sha256(found + leaf).digest()
    return found.hex()


def sign_batch(receipts: Sequence[Receipt], instance: InstanceId, key: SigningKey) -> list[SignedReceipt]:
    """Sign `receipts` with one signature; each result can be checked alone."""
    root, paths = inclusion_proofs([receipt_leaf(receipt) for receipt in receipts])
    batch = seal(KIND, Batch(instance=instance, root=root, size=len(receipts)), key)
    return [
        SignedReceipt(receipt=receipt, index=index, path=path, batch=batch)
        for index, (receipt, path) in enumerate(zip(receipts, paths, strict=True))
    ]


def signed_texts(written: Sequence[WrittenReceipt], instance: InstanceId, key: SigningKey) -> list[bytes]:
    """Return the encodings of what `sign_batch` returns; one signature covers all."""
    root, paths = inclusion_proofs([one.leaf for one in written])
    batch = encode(seal(KIND, Batch(instance=instance, root=root, size=len(written)), key))
    return [
        b'{"receipt":%b,"index":%d,"path":%b,"batch":%b}' % (one.content, index, encode(path), batch)
        for index, (one, path) in enumerate(zip(written, paths, strict=True))
    ]


def verify_receipt(signed: SignedReceipt, key: VerifyKey) -> Receipt:
    """Return the receipt if the instance that holds `key` signed it.

    Raises:
        ReceiptError: `signature`, `malformed`, `instance` or `inclusion`.
    """
    try:
        batch = open_envelope(signed.batch, KIND, Batch, [key])
    except SignatureInvalidError as error:
        raise ReceiptError("a receipt is not signed by the attested instance", reason="signature") from error
    except InputError as error:
        # Even the attested key can sign something that is no batch; whoever checks receipts expects one kind of error.
        raise ReceiptError("what was signed is no batch of receipts", reason="malformed") from error
    if batch.instance != signed.receipt.instance:
        raise ReceiptError("a receipt names another instance than its signer", reason="instance")
    try:
        verify_inclusion(receipt_leaf(signed.receipt), signed.index, batch.size, signed.path, batch.root)
    except LogError as error:
        raise ReceiptError("a receipt is not in the batch that was signed", reason="inclusion") from error
    return signed.receipt
