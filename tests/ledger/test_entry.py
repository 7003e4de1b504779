"""Entries of the audit log: one kind each, one encoding each, and each member is in the leaf."""

import msgspec
import pytest

from aigovtool.codec import decode, decode_signed, encode
from aigovtool.errors import InvalidValueError, MalformedError
from aigovtool.ids import (
    BorrowerId,
    ChipId,
    ConsumerId,
    Digest,
    InstanceId,
    KeyId,
    LeaseId,
    MessageId,
    ModelId,
    OperatorId,
)
from aigovtool.ledger import entry
from aigovtool.ledger.budget import BudgetLimit, RowKey, Scope, Window
from aigovtool.ledger.entry import Command, Entry, EntryBody, PartyRole, StopTarget
from aigovtool.ledger.gap import may_follow_gap, may_follow_leap
from aigovtool.ledger.merkle import leaf_hash
from aigovtool.ledger.units import Dimension, of

MODEL, BORROWER, CONSUMER = ModelId("digits"), BorrowerId("north"), ConsumerId("anna")
DIGEST, KEY = Digest("sha256:" + "d" * 64), KeyId("c" * 64)
INSTANCE, LEASE, MESSAGE = InstanceId("a" * 64), LeaseId("1" * 32), MessageId("2" * 32)
CHIP = ChipId("ab" * 32)
COMMAND = Command(operator=OperatorId("olga"), command_id=MESSAGE, digest=DIGEST)
SCOPE = Scope(model=MODEL)
UNITS = of(Dimension.INFERENCES, 5)
LIMIT = BudgetLimit(scope=SCOPE, dimension=Dimension.INFERENCES, window=Window.LIFETIME, limit=9)
ROW = RowKey(scope=SCOPE, dimension=Dimension.INFERENCES, window=Window.LIFETIME, bucket_ms=0)

BODIES: list[EntryBody] = [
    entry.Genesis(custodian=KEY),
    entry.KeySetPublished(version=1, digest=DIGEST),
    entry.PartyAdded(role=PartyRole.CONSUMER, name="anna", key=KEY, borrower=BORROWER, not_after_ms=9, command=None),
    entry.PartyRevoked(role=PartyRole.CONSUMER, name="anna", epoch=2, command=COMMAND),
    entry.ModelAdded(
        model=MODEL, manifest=DIGEST, package=DIGEST, package_bytes=9, sealer=KEY, policy=DIGEST, command=COMMAND
    ),
    entry.ModelTermsSet(model=MODEL, policy=DIGEST, borrowers=[BORROWER], epoch=3, command=COMMAND),
    entry.ModelWithdrawn(model=MODEL, epoch=3, command=COMMAND),
    entry.AppraisalPolicySet(version=1, digest=DIGEST, command=None),
    entry.BudgetSet(limit=LIMIT, command=COMMAND),
    entry.Attested(instance=INSTANCE, borrower=BORROWER, tee="tpm", measurement="00", result=DIGEST, chip=CHIP),
    entry.AttestationRefused(borrower=BORROWER, code="evidence_unacceptable", reason="debug"),
    entry.AttestationWithdrawn(instance=INSTANCE, borrower=BORROWER, code="evidence_unacceptable", reason="tcb"),
    entry.KeyReleased(instance=INSTANCE, model=MODEL, manifest=DIGEST),
    entry.ReleaseRefused(instance=INSTANCE, model=MODEL, code="stopped", reason=""),
    entry.CommandRefused(command=COMMAND, code="conflict", reason="not_stopped"),
    entry.Refused(role=entry.Refusable.CONSUMER, name="anna", act="GET /v1/log/head", code="forbidden", reason="role"),
    entry.LeaseGranted(
        lease_id=LEASE,
        instance=INSTANCE,
        borrower=BORROWER,
        model=MODEL,
        consumer=CONSUMER,
        units=UNITS,
        rows=[ROW],
    ),
    entry.LeaseClosed(lease_id=LEASE, late=False, used=UNITS, charged=UNITS, ok=5, err=0, receipts="e" * 64),
    entry.LeaseExpired(lease_id=LEASE),
    entry.LeaseWrittenOff(lease_id=LEASE, command=COMMAND),
    entry.GapFound(checkpoint="note", lost_generation=0, lost_size=9),
    entry.ClockAccepted(before_ms=5),
    entry.Restored(
        generation=1,
        checkpoint="note",
        lost_size=9,
        command=msgspec.structs.replace(COMMAND, second=OperatorId("otto")),
    ),
    entry.Charged(row=ROW, units=3, command=COMMAND),
    entry.Forked(instance=INSTANCE, lease_id=LEASE, epoch=4),
    entry.Asked(ask_id=MESSAGE, role=PartyRole.CONSUMER, name="anna", scope=SCOPE, units=5, reason="more"),
    entry.AskDecided(ask_id=MESSAGE, approved=True, command=COMMAND),
    entry.WitnessEnrolled(witness="w.example+00000000+BA==", command=COMMAND),
    entry.WitnessRetired(name="w.example", command=COMMAND),
    entry.Stopped(target=StopTarget.ALL, value="", epoch=5, command=COMMAND),
    entry.Resumed(target=StopTarget.ALL, value="", epoch=6, command=COMMAND),
    entry.Wiped(instance=INSTANCE, epoch=5),
]


def entry_of(body: EntryBody) -> Entry:
    return Entry(index=7, at_ms=1_000, generation=0, body=body)


def kind_of(body: EntryBody) -> str:
    return type(body).__name__


def test_every_kind_of_entry_is_tested() -> None:
    """The list above has one example of each kind that the log knows."""
    assert {type(body) for body in BODIES} == set(EntryBody.__args__)
    kinds = {msgspec.to_builtins(body)["kind"] for body in BODIES}
    assert len(kinds) == len(BODIES)


@pytest.mark.parametrize("body", BODIES, ids=kind_of)
def test_an_entry_survives_its_encoding(body: EntryBody) -> None:
    """An entry is read back as it was written, from its only encoding, and its leaf is that of these bytes."""
    written = encode(entry_of(body))
    assert decode_signed(written, Entry) == entry_of(body)
    assert entry_of(body).leaf() == leaf_hash(written)


@pytest.mark.parametrize("body", BODIES, ids=kind_of)
def test_every_byte_of_an_entry_is_in_its_leaf(body: EntryBody) -> None:
    """A changed byte is unreadable, or another entry with another leaf; it is never the same leaf."""
    written, leaf = encode(entry_of(body)), entry_of(body).leaf()
    for place in range(len(written)):
        changed = bytearray(written)
        changed[place] ^= 1
        try:
            read = decode_signed(bytes(changed), Entry)
        except (InvalidValueError, MalformedError):
            continue
        assert read != entry_of(body)
        assert read.leaf() != leaf


@pytest.mark.parametrize("body", BODIES, ids=kind_of)
def test_an_entry_says_nothing_that_nobody_knows(body: EntryBody) -> None:
    """An unknown member, an unknown kind and a missing member are refused."""
    plain = msgspec.to_builtins(body)
    short = {name: value for name, value in plain.items() if name == "kind"}
    for bad in ({**plain, "extra": 1}, {**plain, "kind": "rumour"}, short):
        with pytest.raises(InvalidValueError):
            decode(encode({"index": 7, "at_ms": 1_000, "generation": 0, "body": bad}), Entry)


def test_an_admission_without_a_chip_is_written_as_before_there_were_chips() -> None:
    """So that an older log verifies: the member is left out, and cannot be written as nothing."""
    attested = entry.Attested(instance=INSTANCE, borrower=BORROWER, tee="nitro", measurement="00", result=DIGEST)
    older = (
        f'{{"kind":"attested","instance":"{INSTANCE}","borrower":"north","tee":"nitro","measurement":"00",'
        f'"result":"{DIGEST}"}}'
    )
    assert encode(attested) == older.encode()
    written = encode(entry_of(attested))
    for chip in ("null", '""', '"AB"', f'"{"ab" * 65}"'):
        with pytest.raises((InvalidValueError, MalformedError)):
            decode_signed(written.replace(b'"}}', f'","chip":{chip}}}}}'.encode()), Entry)


def test_place_and_time_are_in_the_leaf() -> None:
    """The same effect at another index, time or generation is another leaf."""
    first = entry_of(BODIES[0])
    others = [
        msgspec.structs.replace(first, index=8),
        msgspec.structs.replace(first, at_ms=1_001),
        msgspec.structs.replace(first, generation=1),
    ]
    assert len({first.leaf(), *(other.leaf() for other in others)}) == 4


def test_what_may_be_written_without_a_clock_gives_nobody_anything() -> None:
    """Nothing that grants, admits, enrols, orders more or lifts; a person's word for the time ends neither state."""
    giving = {
        "attested",
        "key_released",
        "lease_granted",
        "lease_written_off",
        "party_added",
        "model_added",
        "model_terms_set",
        "budget_set",
        "ask_decided",
        "resumed",
        "restored",
        "charged",
        "appraisal_policy_set",
        "witness_enrolled",
        "witness_retired",
    }
    refused = {str(body.__struct_config__.tag) for body in BODIES if not may_follow_leap(body)}
    assert refused == giving | {"genesis", "clock_accepted"}
    assert may_follow_gap(entry.ClockAccepted(before_ms=1))
