"""A witness believes proofs, not answers."""

import pytest
from tests.operator.conftest import FakeCustodian, ok

from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.errors import AIGovToolError
from aigovtool.ledger.checkpoint import Checkpoint, sign_checkpoint
from aigovtool.ledger.merkle import consistency_proof, leaf_hash, root_of
from aigovtool.operator.witness import LogWitness
from aigovtool.protocol.trust import KEY_SET, KeySet
from aigovtool.protocol.views import ConsistencyProof, LogHead

LEAVES = [leaf_hash(bytes([number])) for number in range(8)]
LOG = SigningKey.generate()


def note(custodian: FakeCustodian, size: int, *, generation: int = 0, root: bytes | None = None) -> str:
    """Return a signed checkpoint of the first `size` leaves."""
    checkpoint = Checkpoint(
        custodian=custodian.root.public.key_id,
        size=size,
        root=root_of(LEAVES[:size]) if root is None else root,
        generation=generation,
    )
    return sign_checkpoint(checkpoint, LOG)


def head(custodian: FakeCustodian, size: int, *, generation: int = 0, key_set: int = 1) -> bytes:
    """Return the custodian's answer with a checkpoint."""
    keys = KeySet(
        custodian=custodian.root.public.key_id,
        version=key_set,
        issued_at_ms=0,
        commands=[],
        log=[LOG.public.raw],
        credentials=[],
        keystore=bytes(32),
    )
    checkpoint = note(custodian, size, generation=generation)
    return ok(LogHead(checkpoint=checkpoint, key_set=seal(KEY_SET, keys, custodian.root)))


def proof(old: int, size: int) -> bytes:
    path = consistency_proof(LEAVES[:size], old)
    return ok(ConsistencyProof(path=path, old_root=root_of(LEAVES[:old]), root=root_of(LEAVES[:size])))


def reason(custodian: FakeCustodian, held: str, *answers: bytes) -> str | None:
    custodian.script.answers = list(answers)
    with LogWitness(custodian.address) as witness:
        try:
            witness.compare(held)
        except AIGovToolError as error:
            return error.reason
    return None


def test_within_one_connection_no_older_key_set_is_believed(custodian: FakeCustodian) -> None:
    """The first answer shows a newer one than that which vouches for the log: a key may have been taken back."""
    held = note(custodian, 3)
    answers = (head(custodian, 8, key_set=3), head(custodian, 8, key_set=2), proof(3, 8))
    assert reason(custodian, held, *answers) == "key_set_rollback"


def test_a_log_that_only_grew_is_accepted_without_a_credential(custodian: FakeCustodian) -> None:
    """No client certificate is shown, and the very note is sent."""
    held = note(custodian, 3)
    assert reason(custodian, held, head(custodian, 8), head(custodian, 8), proof(3, 8)) is None
    assert [asked.path for asked in custodian.script.asked] == [
        "/v1/checkpoint",
        "/v1/checkpoints",
        "/v1/log/consistency?old=3&size=8",
    ]
    assert all(asked.peer is None for asked in custodian.script.asked)


def test_a_lost_answer_is_asked_for_again(custodian: FakeCustodian) -> None:
    """After a pause; the question changes nothing."""
    custodian.script.answers = [None, head(custodian, 8)]
    pauses: list[float] = []
    with LogWitness(custodian.address, pause=pauses.append) as witness:
        assert witness.head().checkpoint.size == 8
    assert len(pauses) == 1


def test_a_custodian_that_accepts_what_it_cannot_prove_is_found(custodian: FakeCustodian) -> None:
    """It answers as if nothing were wrong: with a wrong proof, a smaller log, or a new generation for an excuse."""
    other = note(custodian, 3, root=b"\x07" * 32)
    grown = head(custodian, 8)
    assert reason(custodian, other, grown, grown, proof(3, 8)) == "rewritten"
    assert reason(custodian, note(custodian, 3), grown, grown, proof(2, 8)) == "rewritten"
    small = head(custodian, 2)
    assert reason(custodian, note(custodian, 3), small, small) == "rollback"
    excused = head(custodian, 8, generation=1)
    assert reason(custodian, other, excused, excused, proof(3, 8)) == "lost"
    assert reason(custodian, note(custodian, 3, generation=2), excused, excused) == "rollback"


def test_an_answer_by_another_log_is_worth_nothing(custodian: FakeCustodian) -> None:
    """The key set must be signed by the pinned root."""
    forged = head(custodian, 8)
    custodian.script.answers = [forged]
    other = SigningKey.generate().public.raw
    address = type(custodian.address)(url=custodian.address.url, root=other, tls_ca=custodian.address.tls_ca)
    with LogWitness(address) as witness, pytest.raises(AIGovToolError) as refused:
        witness.head()
    assert refused.value.exit_code == 5
