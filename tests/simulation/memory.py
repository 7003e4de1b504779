"""Checkpoints in the simulation: signed for each answer, compared when they are shown, and the settling of a gap.

It does what `custodian.service.continuity` and `custodian.service.recovery` do, with the parts of them that are pure.
"""

from functools import lru_cache
from hashlib import sha256

import msgspec
from tests.simulation.books import Transaction
from tests.simulation.scene import CUSTODIAN

from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey
from aigovtool.custodian.service.continuity import (
    _explained,
    _newer,
    finally_settled,
    found,
    gap_of,
    is_behind,
    leapt,
    names_gap,
    settled_at,
    since_final,
    without_refund,
)
from aigovtool.custodian.store.transaction import Head
from aigovtool.errors import ConflictError
from aigovtool.ids import KeyId
from aigovtool.ledger.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint, sign_checkpoint
from aigovtool.ledger.entry import Command, Restored
from aigovtool.ledger.lease import Lease
from aigovtool.ledger.merkle import Frontier

LOG_KEY = SigningKey.from_secret(Secret(sha256(b"TEST-ONLY log of the simulation").digest()))


class Memory:
    """What a custodian knows about its own log."""

    def __init__(self, custodian: KeyId = CUSTODIAN) -> None:
        self.custodian = custodian
        self._notes: dict[Checkpoint, str] = {}

    def note(self, head: Head) -> str:
        """Return the log as it stands, signed. The same state is signed once, as in production."""
        tree = head.frontier
        seen = Checkpoint(custodian=self.custodian, size=tree.size, root=_root(tree), generation=head.generation)
        if seen not in self._notes:
            self._notes[seen] = sign_checkpoint(seen, LOG_KEY)
        return self._notes[seen]

    def note_gap(self, writes: Transaction, note: str) -> bool:
        """Compare a checkpoint with this log; return whether the ledger now has a gap."""
        head = writes.head
        if not note:
            return head.gap is not None
        seen = _parsed(note)
        if self.remembered(writes, seen):
            return head.gap is not None
        seen = open_checkpoint(note, [LOG_KEY.public])
        if _explained(head, seen):
            return head.gap is not None
        if self.finally_settled(head, seen):
            writes.head = since_final(head, seen)
            return head.gap is not None
        if head.gap is None:
            writes.record(found(note, seen))
        if _newer(head.gap, seen):
            gap = gap_of(head, note, seen, writes.now_ms)
            writes.head = msgspec.structs.replace(writes.head, gap=gap)
        elif not is_behind(head):
            return True
        self.leap(writes, seen.size)
        return True

    def finally_settled(self, head: Head, seen: Checkpoint) -> bool:
        """Return whether a settlement that was final explains it, whatever its size."""
        return finally_settled(head, seen)

    def counted(self, head: Head, generation: int, lease: Lease) -> Lease:
        """Return a lease of an instance of this generation as it counts: perhaps it is refunded nothing any more."""
        return without_refund(head, generation, lease)

    def note_epoch(self, writes: Transaction, epoch: int) -> None:
        """Believe an instance that has a stop state of a later epoch, as far as the clock allows it."""
        if writes.head.epoch < epoch <= writes.now_ms:
            self.leap(writes, epoch)

    def leap(self, writes: Transaction, size: int) -> None:
        """Bring the epoch, and the stops in force that are wider than a consumer, above all that is forgotten."""
        writes.head = leapt(writes.head, size)
        writes.renew_wide()

    def place(self, note: str) -> tuple[int, int]:
        """Return generation and size of a checkpoint; the lowest of none."""
        return (_parsed(note).generation, _parsed(note).size) if note else (0, 0)

    def remembered(self, writes: Transaction, seen: Checkpoint) -> bool:
        """Return whether a checkpoint names a prefix of this log."""
        head = writes.head
        if seen.generation > head.generation or seen.size > head.frontier.size:
            return False
        return _root(writes.tree_at(seen.size)) == seen.root

    def settle(self, writes: Transaction, checkpoint: str, quiet_ms: int, command: Command, *, final: bool) -> None:
        """Begin a new generation.

        Raises:
            ConflictError: there is no gap, or another checkpoint was shown since.
        """
        head, gap = writes.head, writes.head.gap
        if gap is None or not names_gap(gap, checkpoint, final=final):
            raise ConflictError("a newer checkpoint was shown since", reason="gap_changed")
        writes.head = settled_at(head, gap, final=final, quiet_until_ms=writes.now_ms + quiet_ms)
        self.leap(writes, gap.size)
        restored = Restored(
            generation=writes.head.generation,
            checkpoint=gap.checkpoint,
            lost_size=gap.size,
            command=command,
            final=final,
        )
        writes.record(restored)


#: The same notes are shown again and again, and the same trees are asked for their roots.
_parsed = lru_cache(maxsize=1 << 10)(parse_checkpoint)


@lru_cache(maxsize=1 << 10)
def _root(tree: Frontier) -> bytes:
    return tree.root()
