"""Whether this ledger is the one that signed what others remember (spec: leases section 12).

Enclaves return the newest checkpoint that they were given with every renewal; consumers, auditors and witnesses may
show theirs at any time. A note that the log's key signed must name a prefix of this log. If it does not, the ledger was
restored from a backup (or somebody copied it): it would grant again what it has forgotten. Then it grants nothing more,
in any process that serves it, until two operators have settled the gap.

A checkpoint of more than they settled is a new gap, as more may have been used than they charged. Only a settlement
that is final leaves nothing to find: it charges all that remains, and everything is stopped until two operators lift
that. Otherwise whoever collected checkpoints could show one after the other, and nothing would be granted for as long
as they last. After any settlement no lease of before is refunded.

Stops that it has forgotten have left epochs with enclaves, which take no older stop. So the epoch leaps above all that
can have been given out, and stops in force that are wider than a consumer are made newer. A consumer's is not: the list
without the forgotten ones would lift them. Whoever orders it again means what the ledger says.
"""

from typing import Final

import msgspec

from aigovtool.codec import decode
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.hub import Announcement
from aigovtool.custodian.store import facts, log, stops
from aigovtool.custodian.store.transaction import Gap, Head, Settled, Transaction
from aigovtool.errors import LogError
from aigovtool.ledger.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from aigovtool.ledger.entry import Entry, GapFound, Stopped, StopTarget
from aigovtool.ledger.lease import Lease

#: What is announced after a leap: every enclave that listens gets its stop state.
EVERYBODY: Final = Announcement(stop=StopTarget.ALL)
#: How far the epoch may be behind the clock while there is a gap. The copy that was restored may be of a ledger that
#: had this gap already, so that nothing new is found.
_BEHIND_MS: Final = 60_000
#: Entries that are read at a time, on the way to the one that ordered a stop.
_PAGE: Final = 100
#: No log is longer than this, or than its clock has milliseconds: each entry is written to disk on its own.
_MOST_ENTRIES: Final = 1 << 40
#: Two operators settle each generation: no copy that anybody restores has forgotten so many.
_MOST_GENERATIONS: Final = 1 << 20


def note_gap(custodian: Custodian, transaction: Transaction, note: str) -> bool:
    """Compare a checkpoint with this log; return whether the ledger now has a gap.

    Raises:
        LogError: the note is malformed, or not one of this log; or of a log that there cannot be
            (`impossible_checkpoint`): the thief of a log key could else use up the numbers of epochs and generations,
            and nobody could order a stop any more.
    """
    head = transaction.head
    if not note:
        return head.gap is not None
    seen = parse_checkpoint(note)
    if remembers(transaction, seen):
        return head.gap is not None
    # Only now is a signature worth its price: nobody may stop a custodian with a note that it never signed.
    seen = open_checkpoint(note, custodian.keys.key_set.log_keys())
    if seen.custodian != custodian.keys.custodian:
        raise LogError("the checkpoint is of another custodian's log", reason="wrong_custodian")
    if _explained(head, seen):
        return head.gap is not None
    now_ms = custodian.now(transaction)
    _require_possible(head, seen, now_ms)
    if finally_settled(head, seen):
        transaction.head = since_final(head, seen)
        return head.gap is not None
    if head.gap is None:
        custodian.record(transaction, found(note, seen))
    if _newer(head.gap, seen):
        gap = gap_of(head, note, seen, now_ms)
        transaction.head = msgspec.structs.replace(transaction.head, gap=gap)
    elif not is_behind(transaction.head):
        return True
    forget_orders(transaction, seen.size)
    custodian.tell(transaction, EVERYBODY)
    return True


def _require_possible(head: Head, seen: Checkpoint, now_ms: int) -> None:
    """Refuse a checkpoint that this log's key signed, but never for this log: epochs and generations follow it."""
    if seen.size > max(now_ms, _MOST_ENTRIES) or seen.generation > head.generation + _MOST_GENERATIONS:
        raise LogError(
            f"no log has {seen.size} entries in generation {seen.generation}: somebody has the log key",
            reason="impossible_checkpoint",
            fix="revoke the log key: aigovtool custodian keys revoke",
        )


def found(note: str, seen: Checkpoint) -> GapFound:
    """Return the line of the log that says that it has forgotten something; once, whatever else is shown later."""
    return GapFound(checkpoint=note, lost_generation=seen.generation, lost_size=seen.size)


def gap_of(head: Head, note: str, seen: Checkpoint, now_ms: int) -> Gap:
    """Return the gap of a ledger with this head, now that a newer note than any before is shown."""
    return Gap(
        checkpoint=note,
        generation=seen.generation,
        size=seen.size,
        found_at_ms=now_ms,
        remembered=head.frontier.size if head.gap is None else head.gap.remembered,
    )


def note_epoch(custodian: Custodian, transaction: Transaction, epoch: int) -> None:
    """Believe an instance that has a stop state of a later epoch: it was pushed, and no checkpoint tells of it.

    Whatever it says, the epoch comes no further than to the clock, and nobody else is told.
    """
    if transaction.head.epoch < epoch <= custodian.now(transaction):
        leap(transaction, epoch)


def forget_orders(transaction: Transaction, size: int) -> None:
    """Leap, and make void what was ordered of stops before: they may have been ordered anew in what is lost."""
    leap(transaction, size)
    facts.put(transaction, facts.FORGOTTEN_UP_TO, transaction.head.epoch)


def names_present(transaction: Transaction, target: StopTarget, value: str, named: int, present: int) -> bool:
    """Return whether an order names the stop in force: by its epoch, or by one that it had since it was ordered.

    A stop has a new epoch with each leap. What an instance says must not make it another one: whoever has a hostile
    instance could else make every order of two void. Ordered again, or after a gap, it is another one.
    """
    if named >= present or named < (facts.get(transaction, facts.FORGOTTEN_UP_TO, int) or 0):
        return named == present
    return named >= _ordered(transaction, target, value, present)


def _ordered(transaction: Transaction, target: StopTarget, value: str, present: int) -> int:
    """Return the epoch at which a stop in force was ordered last; that of now if the log does not say."""
    before = transaction.head.frontier.size
    while page := log.newest_of(transaction, log.kind_of(Stopped), before, _PAGE):
        for entry in (decode(line, Entry) for line in page):
            before = entry.index
            if isinstance(entry.body, Stopped) and (entry.body.target, entry.body.value) == (target, value):
                return entry.body.epoch
    return present


def leap(transaction: Transaction, size: int) -> None:
    """Bring the epoch above all that a lost ledger of so many entries can have given out, and wide stops with it."""
    transaction.head = leapt(transaction.head, size)
    stops.renew_wide(transaction, transaction.head.epoch)


def leapt(head: Head, size: int) -> Head:
    """Return the head with an epoch above all that a ledger which forgot so many entries can have given out.

    Each epoch has an entry of the log, up to the first leap. After one, and for what was ordered after the checkpoint
    that is shown, the time counts: epochs, one for each order, do not outrun the clock's milliseconds.
    """
    return msgspec.structs.replace(head, epoch=max(head.epoch, size, head.clock_ms))


def is_behind(head: Head) -> bool:
    """Return whether the epoch of a ledger with a gap is not of this moment."""
    return head.clock_ms - head.epoch >= _BEHIND_MS


def place_of(note: str) -> tuple[int, int]:
    """Return generation and size of a checkpoint, by which those of one log are ordered; the lowest of none.

    Raises:
        LogError: it is malformed.
    """
    if not note:
        return 0, 0
    seen = parse_checkpoint(note)
    return seen.generation, seen.size


def remembers(transaction: Transaction, seen: Checkpoint) -> bool:
    """Return whether a checkpoint, whoever signed it, names a prefix of this log."""
    frontier, generation = transaction.head.frontier, transaction.head.generation
    if seen.generation > generation or seen.size > frontier.size:
        return False
    return log.root_at(transaction, seen.size) == seen.root


def _explained(head: Head, seen: Checkpoint) -> bool:
    """A note of what was lost by a restore that operators have settled. One of the present generation never is.

    Of what was settled finally only the largest is new, and written down: nobody makes the ledger write by the others.
    """
    if finally_settled(head, seen) and seen.size <= head.shown_since:
        return True
    return seen.generation < head.generation and any(
        seen.generation <= settled.generation and seen.size <= settled.size for settled in head.settled
    )


def finally_settled(head: Head, seen: Checkpoint) -> bool:
    """Return whether it tells nothing that could matter: of its generation nothing is left that could be used twice."""
    return seen.generation < head.generation and any(
        settled.final and seen.generation <= settled.generation for settled in head.settled
    )


def since_final(head: Head, seen: Checkpoint) -> Head:
    """Return the head that remembers the largest note of what was settled finally: one number, of however many."""
    return msgspec.structs.replace(head, shown_since=max(head.shown_since, seen.size))


def settled_at(head: Head, gap: Gap, *, final: bool, quiet_until_ms: int) -> Head:
    """Return the head that begins a new generation, after two operators have settled a gap.

    A final settlement has an epoch of its own, so that the stop of everything under which it is made is lifted by an
    order of afterwards alone: who signed one before has not looked at what was settled.
    """
    generation = max(head.generation, gap.generation) + 1
    return msgspec.structs.replace(
        head,
        generation=generation,
        epoch=head.epoch + final,
        gap=None,
        settled=(*head.settled, Settled(generation=gap.generation, size=gap.size, final=final)),
        quiet_until_ms=max(head.quiet_until_ms, quiet_until_ms),
        shown_since=0 if final else head.shown_since,
    )


def names_gap(gap: Gap, note: str, *, final: bool) -> bool:
    """Return whether an order names the gap that there is.

    A final one charges everything, whatever else of that generation is shown meanwhile: whoever has larger checkpoints
    could else make one order void after the other, before the second operator has signed.

    Raises:
        LogError: what it names is no checkpoint.
    """
    return note == gap.checkpoint or (final and place_of(note)[0] == gap.generation)


def without_refund(head: Head, generation: int, lease: Lease) -> Lease:
    """Return a lease of an instance of this generation as it counts: from before a settlement none is refunded.

    What comes back of it now may have come back in the part that is lost, and been granted there; what was charged for
    that part, where it is the difference of balances, counts it as back already.
    """
    return lease if generation >= head.generation else msgspec.structs.replace(lease, refundable=False)


def _newer(known: Gap | None, seen: Checkpoint) -> bool:
    return known is None or (seen.generation, seen.size) > (known.generation, known.size)
