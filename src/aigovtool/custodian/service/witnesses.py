"""Witnesses: enrolled and retired by operators; their co-signatures are taken, kept and shown (spec: witnesses).

A co-signature changes nothing but what is shown: it is no entry of the log, and nothing waits for one. What is kept
is the newest of each witness, by generation, size and time, so the order in which they arrive does not matter, and
sending one again changes nothing. Checked are, in this order, the form of the note, the name (in memory), both
signatures (outside the ledger's writer), and then, in one transaction, that the witness is still enrolled and that
this log is the one that was signed. A note that is not of this log's past opens a gap, as everywhere.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from aigovtool.codec import decode
from aigovtool.crypto.sign import SigningKey, VerifyKey
from aigovtool.custodian.custodian import Custodian, rolled_back
from aigovtool.custodian.service.acting import Acting
from aigovtool.custodian.service.announcements import announce
from aigovtool.custodian.service.continuity import EVERYBODY, note_gap, remembers
from aigovtool.custodian.service.refusals import noted
from aigovtool.custodian.store import log, witnesses
from aigovtool.custodian.store.records import Cosigned, Witness
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.custodian.witness_keys import unknown_witness
from aigovtool.errors import ConflictError, LogError, NotFoundError
from aigovtool.ledger import entry
from aigovtool.ledger.checkpoint import Checkpoint, parse_checkpoint
from aigovtool.ledger.cosignature import (
    Witnessed,
    WitnessKey,
    cosigner_name,
    open_cosigned,
    parse_witness_key,
    with_cosignatures,
)
from aigovtool.ledger.entry import Refusable
from aigovtool.limits import MAX_WITNESSES
from aigovtool.protocol import commands, views
from aigovtool.protocol.commands import CommandResult

#: How far a witness's clock may be ahead. A time far in the future would hide every later co-signature of that size.
_AHEAD_MS: Final = 300_000


def enrol(acting: Acting, act: commands.EnrolWitness) -> CommandResult:
    """Take co-signatures of a witness from now on.

    Raises:
        InvalidValueError: it is not a verifier key of a witness.
        ConflictError: name or key were enrolled before, it is a key of the custodian's own, or there are too many.
    """
    witness = parse_witness_key(act.witness)
    key_set = acting.custodian.keys.key_set
    own = {*key_set.log, *key_set.revoked_log, *key_set.commands, acting.custodian.keys.root.raw}
    log_name = Checkpoint(custodian=acting.custodian.keys.custodian, size=0, root=b"").origin()
    if witness.key.raw in own or witness.name == log_name:
        raise ConflictError("this is a key or the name of the custodian's own log: no witness", reason="own_key")
    if len(witnesses.active(acting.transaction)) >= MAX_WITNESSES:
        raise ConflictError(
            f"{MAX_WITNESSES} witnesses are enrolled, which is all that a note has room for",
            reason="too_many_witnesses",
            fix="retire one: aigovtool audit witness retire NAME",
        )
    witnesses.add(acting.transaction, Witness(name=witness.name, key=witness.key.raw))
    acting.custodian.witness_keys.look_again()
    return acting.result(acting.record(entry.WitnessEnrolled(witness=witness.text(), command=acting.mark)))


def retire(acting: Acting, act: commands.RetireWitness) -> CommandResult:
    """Neither take nor show a witness's co-signatures any more.

    Raises:
        NotFoundError: `no_such_witness`.
    """
    known = witnesses.find(acting.transaction, act.name)
    if known is None or known.retired:
        raise NotFoundError(
            "no witness of this name is enrolled",
            reason="no_such_witness",
            fix="see `aigovtool audit witness list`",
        )
    witnesses.replace(acting.transaction, msgspec.structs.replace(known, retired=True))
    acting.custodian.witness_keys.forget(act.name)
    return acting.result(acting.record(entry.WitnessRetired(name=act.name, command=acting.mark)))


async def receive(custodian: Custodian, sent: views.CosignedCheckpoint) -> views.WitnessView:
    """Take a co-signature, and return what is kept of its witness now: this one, or a newer one.

    Raises:
        LogError: malformed or not verified (`checkpoint`, `cosignature`), of another log (`wrong_custodian`), of a
            state that this log was never in (`never_signed`), or by a clock that is ahead (`future_time`).
        ForbiddenError: by nobody who is enrolled (`unknown_witness`).
        OverloadedError: too often.
        LedgerRollbackError: this ledger has forgotten what it signed, here or elsewhere.
    """
    note = sent.checkpoint
    seen = parse_checkpoint(note)
    if seen.custodian != custodian.keys.custodian:
        raise LogError("the checkpoint is of another custodian's log", reason="wrong_custodian")
    name = cosigner_name(note, seen.origin())
    witness = await custodian.witness_keys.find(custodian.database, name, custodian.time_ms())
    checkpoint, by = open_cosigned(note, custodian.keys.key_set.log_keys(), [witness])
    (signed,) = by
    async with noted(custodian, Refusable.WITNESS, name, "cosign"):
        return await _received(custodian, witness, note, checkpoint, signed)


async def _received(
    custodian: Custodian, witness: WitnessKey, note: str, checkpoint: Checkpoint, signed: Witnessed
) -> views.WitnessView:
    if signed.time_s * 1000 > custodian.time_ms() + _AHEAD_MS:
        raise LogError(
            "the time of this co-signature is in the future", reason="future_time", fix="check the witness's clock"
        )

    def job(transaction: Transaction) -> Witness | None:
        known = witnesses.find(transaction, witness.name)
        if known is None or known.retired or known.key != witness.key.raw:
            custodian.witness_keys.forget(witness.name)
            raise unknown_witness()
        if note_gap(custodian, transaction, note):
            return None  # and the gap is written down
        _require_signed(transaction, checkpoint)
        return _kept(custodian, transaction, known, checkpoint, signed)

    kept = await custodian.database.run(job)
    if kept is None:
        await announce(custodian, EVERYBODY)  # the gap has moved the epoch on
        raise rolled_back()
    return _view(kept)


def _require_signed(transaction: Transaction, checkpoint: Checkpoint) -> None:
    """Refuse what a thief of the log's key signed, or what was lost by a restore that operators settled."""
    last = checkpoint.size - 1
    if not remembers(transaction, checkpoint) or (
        checkpoint.generation != (0 if last < 0 else decode(log.entry_at(transaction, last), entry.Entry).generation)
    ):
        raise LogError(
            "this log was never in the state that was co-signed, or has lost it by a restore that operators settled",
            reason="never_signed",
        )


def _kept(
    custodian: Custodian, transaction: Transaction, known: Witness, checkpoint: Checkpoint, signed: Witnessed
) -> Witness:
    new = Cosigned(generation=checkpoint.generation, size=checkpoint.size, time_s=signed.time_s, line=signed.line)
    if known.newest is not None and new.order() <= known.newest.order():
        return known
    custodian.witness_keys.count_write(known.name, custodian.time_ms())
    newer = msgspec.structs.replace(known, newest=new)
    witnesses.replace(transaction, newer)
    return newer


def show_head(custodian: Custodian, transaction: Transaction) -> views.LogHead:
    """Return the present checkpoint, and the newest co-signatures of enrolled witnesses."""
    keys = custodian.keys  # they may be replaced meanwhile
    lines: dict[tuple[int, int], list[str]] = {}
    for witness in witnesses.active(transaction):
        if witness.newest is not None:
            lines.setdefault((witness.newest.generation, witness.newest.size), []).append(witness.newest.line)
    head = transaction.head
    now = lines.pop((head.generation, head.frontier.size), [])
    return views.LogHead(
        checkpoint=with_cosignatures(custodian.checkpoint(transaction, keys.log), now),
        key_set=keys.key_set_envelope,
        cosigned=tuple(
            with_cosignatures(_note_of(custodian, keys.log, transaction, *state), found)
            for state, found in sorted(lines.items(), reverse=True)
        ),
    )


def _note_of(custodian: Custodian, key: SigningKey, transaction: Transaction, generation: int, size: int) -> str:
    # By the log's present key: readers need not know that of then. Signed once, because anybody may ask at any time.
    checkpoint = Checkpoint(
        custodian=custodian.keys.custodian,
        size=size,
        root=log.root_at(transaction, size),
        generation=generation,
    )
    return custodian.witness_keys.note(checkpoint, key)


async def show_witnesses(custodian: Custodian) -> views.Witnesses:
    """Return all witnesses, retired ones too; to anybody who asks.

    Raises:
        OverloadedError: too many ask at this moment.
    """
    found: Sequence[Witness] = await custodian.database.run_open(witnesses.everyone)
    return views.Witnesses(witnesses=[_view(witness) for witness in found])


def _view(witness: Witness) -> views.WitnessView:
    newest = witness.newest
    return views.WitnessView(
        name=witness.name,
        key=WitnessKey(name=witness.name, key=VerifyKey(witness.key)).text(),
        retired=witness.retired,
        size=None if newest is None else newest.size,
        generation=None if newest is None else newest.generation,
        time_s=None if newest is None else newest.time_s,
    )
