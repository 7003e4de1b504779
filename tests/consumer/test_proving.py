"""Proof that the lease behind an answer was debited, as the SDK checks it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.consumer.conftest import BORROWER, MODEL, FakeEnclave, World

from aigovtool.codec import encode
from aigovtool.consumer import AsyncClient, Client
from aigovtool.crypto.sign import SigningKey
from aigovtool.errors import LogError, SignatureInvalidError
from aigovtool.ids import ConsumerId, LeaseId
from aigovtool.ledger.budget import RowKey, Scope, Window
from aigovtool.ledger.checkpoint import Checkpoint, sign_checkpoint
from aigovtool.ledger.entry import Entry, LeaseGranted
from aigovtool.ledger.merkle import inclusion_proof, leaf_hash, root_of
from aigovtool.ledger.proof import EntryProof
from aigovtool.ledger.receipt import Receipt
from aigovtool.ledger.units import Dimension, UnitVector


def proof_of(world: World, receipt: Receipt, *, signer: SigningKey | None = None, **changes: Any) -> EntryProof:
    """Return what a custodian shows of the lease of a receipt, in a log of four entries."""
    row = RowKey(scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.LIFETIME, bucket_ms=0)
    granted = LeaseGranted(
        lease_id=receipt.lease_id,
        instance=receipt.instance,
        borrower=BORROWER,
        model=receipt.model,
        consumer=receipt.consumer,
        units=UnitVector(inferences=10),
        rows=[row],
    )
    entry = encode(Entry(index=2, at_ms=1, generation=0, body=msgspec.structs.replace(granted, **changes)))
    leaves = [leaf_hash(b"0"), leaf_hash(b"1"), leaf_hash(entry), leaf_hash(b"3")]
    checkpoint = Checkpoint(custodian=world.root.public.key_id, size=4, root=root_of(leaves))
    note = sign_checkpoint(checkpoint, signer or world.log_key)
    return EntryProof(entry=entry, index=2, path=inclusion_proof(leaves, 2), checkpoint=note)


def test_the_debit_behind_an_answer_is_proved(client: Client, world: World) -> None:
    """Units, rows and the checkpoint of the log that it is in."""
    receipt = client.infer("doubler", [[1, 2]]).statement
    world.custodian.proofs[receipt.lease_id] = proof_of(world, receipt)
    found = client.prove(receipt)
    assert (found.granted.units, found.granted.lease_id) == (UnitVector(inferences=10), receipt.lease_id)
    assert [row.scope.model for row in found.granted.rows] == [MODEL]
    assert (found.checkpoint.size, found.checkpoint.custodian) == (4, world.root.public.key_id)


async def test_the_asynchronous_client_proves_it_too(world: World, enclave: FakeEnclave) -> None:
    """The same core."""
    path = Path(world.file)
    async with AsyncClient.connect(enclave.url, path, allow_simulated=True) as client:
        receipt = (await client.infer("doubler", [[1, 2]])).statement
        world.custodian.proofs[receipt.lease_id] = proof_of(world, receipt)
        assert (await client.prove(receipt)).granted.lease_id == receipt.lease_id


@pytest.mark.parametrize(
    "changes",
    [
        {"signer": SigningKey.generate()},
        {"lease_id": LeaseId("cd" * 16)},
        {"instance": "ef" * 32},
        {"model": "other"},
        {"consumer": ConsumerId("other")},
        {"units": UnitVector()},
    ],
    ids=lambda changes: str(next(iter(changes))),
)
def test_a_proof_about_something_else_is_refused(client: Client, world: World, changes: dict[str, Any]) -> None:
    """By another log, of another lease, for somebody else, or of fewer units than were used."""
    receipt = client.infer("doubler", [[1, 2]]).statement
    world.custodian.proofs[receipt.lease_id] = proof_of(world, receipt, **changes)
    with pytest.raises(LogError):
        client.prove(receipt)


def test_a_path_that_leads_elsewhere_is_refused(client: Client, world: World) -> None:
    """The entry must be in the tree that was signed."""
    receipt = client.infer("doubler", [[1, 2]]).statement
    proof = proof_of(world, receipt)
    world.custodian.proofs[receipt.lease_id] = msgspec.structs.replace(proof, path=proof.path[::-1])
    with pytest.raises(LogError) as refused:
        client.prove(receipt)
    assert refused.value.reason == "inclusion"


@pytest.mark.parametrize("by", ["what it saw", "what the caller says"])
def test_a_proof_under_an_older_key_set_is_refused(world: World, enclave: FakeEnclave, by: str) -> None:
    """Attack: who has the TLS key, and a log key that was revoked, shows a log of their own under the set of before."""
    enclave.key_set = world.key_set(8 if by == "what it saw" else 7)
    client = world.connect(enclave)
    receipt = client.infer("doubler", [[1, 2]]).statement
    world.custodian.proofs[receipt.lease_id] = proof_of(world, receipt)
    world.custodian.key_set = world.key_set(7)
    if by != "what it saw":
        assert client.prove(receipt).granted.lease_id == receipt.lease_id
        enclave.key_set = world.key_set(9)
        client = world.connect(enclave, key_set_at_least=9)
    with pytest.raises(SignatureInvalidError) as refused:
        client.prove(receipt)
    assert refused.value.reason == "key_set_rollback"
