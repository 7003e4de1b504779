"""Whether this ledger is the one that signed what others remember (spec: leases section 12).

Enclaves return the newest checkpoint that they were given with every renewal; consumers, auditors and witnesses may
show theirs at any time. A note that the log's key signed must name a prefix of this log. If it does not, the ledger was
restored from a backup (or somebody copied it): it would grant again what it has forgotten. Then it grants nothing more,
in any process that serves it, until two operators have settled the gap.
"""

import msgspec

from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.store import log
from aigovtool.custodian.store.transaction import Gap, Head, Transaction
from aigovtool.errors import LogError
from aigovtool.ledger.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint


def note_gap(custodian: Custodian, transaction: Transaction, note: str) -> bool:
    """Compare a checkpoint with this log; return whether the ledger now has a gap.

    Raises:
        LogError: the note is malformed, or not one of this log.
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
    if _explained(head, seen) or not _newer(head.gap, seen):
        return head.gap is not None
    gap = Gap(checkpoint=note, generation=seen.generation, size=seen.size, found_at_ms=head.clock_ms)
    transaction.head = msgspec.structs.replace(head, gap=gap)
    return True


def remembers(transaction: Transaction, seen: Checkpoint) -> bool:
    """Return whether a checkpoint, whoever signed it, names a prefix of this log."""
    frontier, generation = transaction.head.frontier, transaction.head.generation
    if seen.generation > generation or seen.size > frontier.size:
        return False
    return log.root_at(transaction, seen.size) == seen.root


def _explained(head: Head, seen: Checkpoint) -> bool:
    """A note of what was lost by a restore that operators have settled. One of the present generation never is."""
    return seen.generation < head.generation and any(
        seen.generation <= settled.generation and seen.size <= settled.size for settled in head.settled
    )


def _newer(known: Gap | None, seen: Checkpoint) -> bool:
    return known is None or (seen.generation, seen.size) > (known.generation, known.size)
