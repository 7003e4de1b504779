"""A short audit log, its checkpoints, and the key set of its custodian: the same in every process."""

import json
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Final

from aigovtool.codec import encode
from aigovtool.crypto.sign import seal
from aigovtool.ids import BorrowerId, ConsumerId, InstanceId, LeaseId, MessageId, ModelId, OperatorId, digest_of
from aigovtool.ledger import entry
from aigovtool.ledger.budget import BudgetLimit, RowKey, Scope, Window
from aigovtool.ledger.checkpoint import Checkpoint
from aigovtool.ledger.units import Dimension, UnitVector
from aigovtool.protocol.trust import KEY_SET, KeySet
from assurance.parsers.envelopes import changed, key
from assurance.parsers.merkle_reading import leaf, root_of
from assurance.parsers.note_reading import read_note
from assurance.parsers.notes import CUSTODIAN, LOG, WITNESSES, note_of

MODEL, _BORROWER, CONSUMER = ModelId("doubler"), BorrowerId("st-mary"), ConsumerId("ward-7")


LEASES: Final = tuple(LeaseId(f"{at:032x}") for at in (1, 2, 3))


INSTANCE: Final = InstanceId("ab" * 32)


_DIGEST: Final = digest_of(b"anything")


def _command(at: int) -> entry.Command:
    second = OperatorId("bob") if at % 2 else None
    return entry.Command(
        operator=OperatorId("alice"), command_id=MessageId(f"{at:032x}"), digest=_DIGEST, second=second
    )


def _enrolled(role: entry.PartyRole, name: str, at: int, borrower: BorrowerId | None = None) -> entry.PartyAdded:
    """Return an enrolment, by an order of one, or by nobody's: of the first operator."""
    command = _command(2 * at) if at else None
    return entry.PartyAdded(
        role=role, name=name, key=key(name).public.key_id, borrower=borrower, not_after_ms=10_000, command=command
    )


def _parties() -> list[entry.EntryBody]:
    """Return who there is: two operators, a borrower with a consumer, and an enclave of it."""
    return [
        _enrolled(entry.PartyRole.OPERATOR, "alice", 0),
        _enrolled(entry.PartyRole.OPERATOR, "bob", 10),
        _enrolled(entry.PartyRole.BORROWER, _BORROWER, 11),
        _enrolled(entry.PartyRole.CONSUMER, CONSUMER, 12, _BORROWER),
        entry.Attested(instance=INSTANCE, borrower=_BORROWER, tee="simulated", measurement="m", result=_DIGEST),
    ]


@cache
def log_entries() -> tuple[bytes, ...]:
    """Return a short log with leases that are closed, expired and open."""
    scope = Scope(model=MODEL, borrower=_BORROWER)
    limit = BudgetLimit(scope=scope, dimension=Dimension.INFERENCES, window=Window.LIFETIME, limit=100)
    row = RowKey(scope=scope, dimension=Dimension.INFERENCES, window=Window.LIFETIME, bucket_ms=0)
    granted = [
        entry.LeaseGranted(
            lease_id=one,
            instance=INSTANCE,
            borrower=_BORROWER,
            model=MODEL,
            consumer=CONSUMER,
            units=UnitVector(inferences=10 + at),
            rows=[row],
        )
        for at, one in enumerate(LEASES)
    ]
    closed = entry.LeaseClosed(
        lease_id=LEASES[0],
        late=False,
        used=UnitVector(inferences=4),
        charged=UnitVector(inferences=4),
        ok=4,
        err=0,
        receipts="",
    )
    added = entry.ModelAdded(
        model=MODEL,
        manifest=_DIGEST,
        package=_DIGEST,
        package_bytes=1,
        sealer=CUSTODIAN,
        policy=_DIGEST,
        command=_command(0),
    )
    bodies: list[entry.EntryBody] = [
        entry.Genesis(custodian=CUSTODIAN),
        entry.KeySetPublished(version=1, digest=_DIGEST),
        *_parties(),
        entry.WitnessEnrolled(witness=WITNESSES[0].text(), command=_command(1)),
        added,
        entry.BudgetSet(limit=limit, command=_command(2)),
        *granted[:2],
        closed,
        entry.LeaseExpired(lease_id=LEASES[1]),
        granted[2],
        entry.Stopped(target=entry.StopTarget.CONSUMER, value="ward-8", epoch=1, command=_command(3)),
    ]
    made = [entry.Entry(index=at, at_ms=1000 + at, generation=0, body=body) for at, body in enumerate(bodies)]
    return tuple(map(encode, made))


def checkpoint(size: int, entries: Sequence[bytes] | None = None) -> Checkpoint:
    """Return the checkpoint of the first entries of the log, or of others."""
    leaves = [leaf(one) for one in (log_entries() if entries is None else entries)[:size]]
    return Checkpoint(custodian=CUSTODIAN, size=size, root=root_of(leaves))


@cache
def key_set() -> bytes:
    """Return the signed key set, with the key of the log and an earlier one."""
    key_set = KeySet(
        custodian=CUSTODIAN,
        version=1,
        issued_at_ms=0,
        commands=[],
        log=[key("earlier log").public.raw, LOG.public.raw],
        credentials=[],
        keystore=bytes(32),
    )
    return encode(seal(KEY_SET, key_set, key("root")))


#: What the reader has kept, and the newest note, as bare as it may be.
SIZES: Final = (16, 13)


SEEN: Final = 10
#: Where the first lease is granted.
GRANT: Final = 10


@cache
def noted() -> dict[str, str]:
    """Return the notes in exports by their texts, with all signatures that they may have."""
    found = [note_of(checkpoint(size), "w1") for size in (*SIZES, GRANT + 1, SEEN)]
    return {read_note(one).text: one for one in found}


def changed_keys(chance: Random) -> bytes:
    """Return a key set that was changed, as far as it is JSON: it goes into a header."""
    data = changed(key_set(), [key_set()], chance)
    try:
        return json.dumps(json.loads(data)).encode()
    except (ValueError, RecursionError):
        return b"{}"
