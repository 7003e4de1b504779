"""Proofs of the audit log: a consumer shows that its lease was debited, a witness that nothing was rewritten."""

from typing import Any

import msgspec
import pytest
from sqlalchemy import event
from tests.custodian.conftest import BORROWER, CONSUMER, STRANGER, Bench, Enclave, want

from aigovtool.crypto.identity import IdentityKind
from aigovtool.crypto.sign import SigningKey
from aigovtool.custodian.service import proofs, views
from aigovtool.custodian.store import log
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import AIGovToolError, LogError, NotFoundError
from aigovtool.ids import InstanceId, KeyId, LeaseId
from aigovtool.ledger.checkpoint import open_checkpoint
from aigovtool.ledger.entry import Wiped
from aigovtool.ledger.merkle import leaf_hash, verify_consistency, verify_inclusion
from aigovtool.ledger.proof import open_lease_proof
from aigovtool.protocol.messages import Grant


async def grow(bench: Bench, entries: int) -> None:
    """Add entries to the log."""

    def job(transaction: Transaction) -> None:
        for _ in range(entries):
            log.append(transaction, bench.now_ms, Wiped(instance=InstanceId("a" * 64), epoch=0))

    await bench.custodian.database.run(job)


async def granted(bench: Bench, enclave: Enclave) -> LeaseId:
    await bench.grant(100)
    (grant,) = (await enclave.renew(want(1))).results
    assert isinstance(grant, Grant)
    return grant.lease_id


async def test_a_consumer_proves_that_its_lease_was_debited(admitted: Enclave, lent: Bench) -> None:
    """To itself or to anybody who knows the custodian's log key: which rows, how many units, under which checkpoint."""
    lease_id = await granted(lent, admitted)
    await grow(lent, 100)
    identity = lent.identity(IdentityKind.CONSUMER, CONSUMER, lent.consumers[CONSUMER])
    proof = await proofs.lease(lent.custodian, identity, lease_id)
    keys, custodian = lent.custodian.keys.key_set.log_keys(), lent.custodian.keys.custodian
    grant, checkpoint = open_lease_proof(proof, keys, custodian, lease_id)
    assert (grant.lease_id, grant.consumer, grant.instance) == (lease_id, CONSUMER, admitted.instance)
    assert checkpoint.size == (await lent.custodian.database.run(log.head)).size
    changes: list[dict[str, Any]] = [
        {"entry": proof.entry.replace(b'"inferences":1', b'"inferences":2')},
        {"index": proof.index + 1},
        {"path": proof.path[1:]},
        {"path": [*proof.path, bytes(32)]},
        {"checkpoint": proof.checkpoint.replace("aigovtool", "somebody")},
    ]
    for change in changes:
        with pytest.raises(AIGovToolError):
            open_lease_proof(msgspec.structs.replace(proof, **change), keys, custodian, lease_id)
    for wrong in (
        ([SigningKey.generate().public], custodian, lease_id),
        (keys, KeyId("c" * 64), lease_id),
        (keys, custodian, LeaseId("0" * 32)),
    ):
        with pytest.raises(LogError):
            open_lease_proof(proof, *wrong)


async def test_a_lease_is_shown_to_whom_it_concerns(admitted: Enclave, lent: Bench) -> None:
    """Its consumer, its borrower and operators; for others it does not exist."""
    lease_id = await granted(lent, admitted)
    for identity in (lent.alice, lent.identity(IdentityKind.BORROWER, BORROWER, lent.enrolment[BORROWER])):
        assert await proofs.lease(lent.custodian, identity, lease_id)
    with pytest.raises(NotFoundError):
        await proofs.lease(
            lent.custodian, lent.identity(IdentityKind.CONSUMER, STRANGER, lent.consumers[STRANGER]), lease_id
        )
    with pytest.raises(NotFoundError):
        await proofs.lease(lent.custodian, lent.alice, LeaseId("0" * 32))


async def test_every_state_of_the_log_extends_every_earlier_one(bench: Bench) -> None:
    """From any checkpoint that was ever signed to any later one."""
    notes = []
    for _ in range(9):
        await grow(bench, 7)
        notes.append((await views.show_head(bench.custodian)).checkpoint)
    states = [open_checkpoint(note, bench.custodian.keys.key_set.log_keys()) for note in notes]
    for number, old in enumerate(states):
        for new in states[number:]:
            proof = await proofs.consistency(bench.custodian, old.size, new.size)
            verify_consistency(old.size, old.root, new.size, new.root, proof.path)


@pytest.mark.parametrize(("old", "size"), [(0, 1), (3, 2), (1, 10**6), (10**6, 10**6)])
async def test_what_the_log_never_was_is_not_proved(old: int, size: int, bench: Bench) -> None:
    """A typed refusal, on both questions."""
    with pytest.raises(LogError):
        await proofs.consistency(bench.custodian, old, size)
    with pytest.raises(LogError):
        await proofs.inclusion(bench.custodian, size, size)


async def test_a_proof_reads_as_little_of_a_long_log_as_of_a_short_one(bench: Bench) -> None:
    """The number of statements grows with the logarithm only; and what is proved is right."""
    counts = []
    for entries in (1_000, 15_000):
        await grow(bench, entries)
        size = (await bench.custodian.database.run(log.head)).size
        statements: list[str] = []

        def seen(_c: object, _cursor: object, statement: str, *_: object, into: list[str] = statements) -> None:
            into.append(statement)

        event.listen(bench.custodian.database.backend.engine, "before_cursor_execute", seen)
        proof = await proofs.inclusion(bench.custodian, 100, size)
        event.remove(bench.custodian.database.backend.engine, "before_cursor_execute", seen)
        entry = await bench.custodian.database.run(lambda transaction: log.entry_at(transaction, 100))
        verify_inclusion(leaf_hash(entry), 100, size, proof.path, proof.root)
        counts.append(len(statements))
    assert counts[1] < 2 * counts[0] < 200
