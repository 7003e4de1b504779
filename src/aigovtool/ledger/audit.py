"""Verifies a copy of the audit log without trusting whoever keeps it, and recomputes every balance from it alone.

`verify_log` makes these checks, in this order, and stops at the first entry that fails one:

1. The checkpoint is signed by a log key of the custodian whose root key the reader pins.
2. Each entry is strict JSON in its only encoding, and its hash is the one recorded beside it.
3. Indices count from 0 without gaps; time, generation and epoch never go back; the first entry, and only the
   first, founds the ledger of this custodian.
4. Replay: a grant debits every limit on its path, each exactly once, each in the bucket of its time, and none
   beyond its limit at that moment (in a rolling window: with all earlier buckets that it touches) or after its
   end; nothing is granted under a stop; a lease is closed or expires only as its state table allows, and its
   charge is what it used or all of it.
5. There are exactly as many entries as the checkpoint says, and their Merkle root is the signed one.
6. Each older checkpoint that the reader holds names a prefix of this log: it is neither a rolled-back nor a rewritten
   copy. One that was lost with a backup is named by the entry that begins the next generation, and reported. So does
   each co-signed checkpoint that came with the copy.
7. Every co-signature that came with the copy is by a witness that the log names, and verifies; so does every one in the
   name and with the key hash of a witness that the reader believes (`witnessing`).

The recorded hashes are a help to name the entry that was changed; they prove nothing by themselves. Whoever changes
an entry *and* its hash fails at 5, where only the log as a whole can be named.

It does not show that the log is the only one (compare checkpoints with other readers), nor that enclaves reported
truly (their receipts show that).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from aigovtool.codec import decode_signed
from aigovtool.crypto.sign import VerifyKey
from aigovtool.errors import AIGovToolError, InputError, LogError
from aigovtool.ids import KeyId
from aigovtool.ledger.budget import BudgetRow
from aigovtool.ledger.checkpoint import Checkpoint, open_checkpoint
from aigovtool.ledger.cosignature import WitnessKey
from aigovtool.ledger.entry import Entry, Genesis, Restored
from aigovtool.ledger.merkle import Frontier, leaf_hash
from aigovtool.ledger.replay import Replay, Stop, bad
from aigovtool.ledger.witnessing import Vouching, require_distinct, weigh

#: The largest entries carry a reason of 500 characters or a lease with a dozen rows: under 16 KiB.
MAX_ENTRY_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class LoggedEntry:
    """One line of a copy of the log: the entry's encoding, and the leaf hash (32 bytes) recorded for it."""

    data: bytes
    leaf: bytes


@dataclass(frozen=True, slots=True)
class AuditReport:
    """A log that verifies, and what follows from it: all balances, and what is still open."""

    checkpoint: Checkpoint
    entries: int
    first_ms: int
    last_ms: int
    rows: tuple[BudgetRow, ...]
    leases: int
    unclosed_leases: int
    stops: tuple[Stop, ...]
    #: Checkpoints that the reader held and that were lost by a restore from a backup, as the log itself says.
    lost: tuple[Checkpoint, ...] = ()
    vouching: Vouching = field(default_factory=Vouching)


def verify_log(
    entries: Iterable[LoggedEntry],
    note: str,
    keys: list[VerifyKey],
    custodian: KeyId,
    *,
    seen: Iterable[str] = (),
    cosigned: Iterable[str] = (),
    witnesses: Sequence[WitnessKey] = (),
) -> AuditReport:
    """Return what a log says, if it is whole, unchanged and consistent.

    Args:
        entries: the lines in the order of the copy; read once.
        note: the signed checkpoint.
        keys: the log keys of the custodian's key set, verified against the pinned root before.
        custodian: the identifier of the pinned root key.
        seen: older signed checkpoints that the reader holds, from wherever.
        cosigned: co-signed checkpoints that came with the copy.
        witnesses: those whose co-signatures the reader believes.

    Raises:
        LogError: naming the first bad entry, with a reason for each of the checks above.
    """
    checkpoint = _opened_note(note, keys, custodian)
    require_distinct(witnesses)
    theirs = [(one, _opened_note(one, keys, custodian)) for one in seen]
    with_log = [(one, _opened_note(one, keys, custodian)) for one in cosigned]
    held = _Held([one for _, one in (*theirs, *with_log)])
    read = _read(entries, checkpoint, custodian, held)
    _require_signed(read.frontier, checkpoint, read.last)
    held.require_whole(checkpoint)
    vouching = weigh(
        [(note, checkpoint), *held.kept(with_log)],
        held.kept(theirs),
        keys,
        enrolled=read.replay.witnesses.values(),
        trusted=witnesses,
    )
    return replace(_report(checkpoint, read), lost=tuple(held.lost), vouching=vouching)


@dataclass(frozen=True, slots=True)
class _Read:
    """The entries of a copy, as far as they can be judged one by one."""

    replay: Replay
    frontier: Frontier
    first_ms: int
    last: Entry | None


def _read(entries: Iterable[LoggedEntry], checkpoint: Checkpoint, custodian: KeyId, held: "_Held") -> _Read:
    replay, frontier = Replay(), Frontier()
    held.compare(frontier)
    first_ms, before = 0, None
    for number, line in enumerate(entries):
        if number >= checkpoint.size:
            raise _named(number, bad("too_many", f"the signed log has {checkpoint.size} entries only"))
        try:
            entry = _opened(line)
            _require_follows(entry, number, before, custodian)
            replay.take(entry)
        except AIGovToolError as error:
            raise _named(number, error) from None
        frontier = frontier.append(line.leaf)
        held.compare(frontier)
        held.excuse(entry)
        first_ms, before = entry.at_ms if before is None else first_ms, entry
    return _Read(replay=replay, frontier=frontier, first_ms=first_ms, last=before)


def _require_signed(frontier: Frontier, checkpoint: Checkpoint, last: Entry | None) -> None:
    if frontier.size < checkpoint.size:
        raise _named(frontier.size, bad("truncated", f"it is missing; the signed log has {checkpoint.size} entries"))
    if last is not None and last.generation != checkpoint.generation:
        raise LogError("the checkpoint is of another generation than the last entry", reason="generation")
    if frontier.root() != checkpoint.root:
        raise LogError(
            f"the {frontier.size} entries are not the ones that were signed: an entry was changed together with its "
            "hash, so that none can be named",
            reason="root",
            fix="compare the entries with an earlier export",
        )


class _Held:
    """Checkpoints that the reader holds, while the log is read."""

    def __init__(self, checkpoints: list[Checkpoint]) -> None:
        self._open = sorted(checkpoints, key=lambda one: one.size)
        self.lost: list[Checkpoint] = []

    def compare(self, frontier: Frontier) -> None:
        """Settle those of this size whose root is this tree's."""
        if any(one.size == frontier.size for one in self._open):
            root = frontier.root()
            self._open = [one for one in self._open if (one.size, one.root) != (frontier.size, root)]

    def excuse(self, entry: Entry) -> None:
        """Settle those that the log says were lost."""
        if isinstance(entry.body, Restored):
            size, generation = entry.body.lost_size, entry.body.generation
            self.lost += [one for one in self._open if one.size <= size and one.generation < generation]
            self._open = [one for one in self._open if one not in self.lost]

    def kept(self, notes: list[tuple[str, Checkpoint]]) -> list[tuple[str, Checkpoint]]:
        """Return those of these notes that were not lost."""
        return [(note, one) for note, one in notes if one not in self.lost]

    def require_whole(self, checkpoint: Checkpoint) -> None:
        """Refuse a log that does not extend one of them.

        Raises:
            LogError: `rollback` if the copy ends before it, `rewritten` if other entries stand in its place.
        """
        for one in self._open:
            if (one.generation, one.size) > (checkpoint.generation, checkpoint.size):
                what, reason = "it ends before a checkpoint that you hold", "rollback"
            else:
                what, reason = "it does not contain what a checkpoint that you hold vouches for", "rewritten"
            raise LogError(f"{what} ({one.size} entries, generation {one.generation})", reason=reason)


def _opened_note(note: str, keys: list[VerifyKey], custodian: KeyId) -> Checkpoint:
    checkpoint = open_checkpoint(note, keys)
    if checkpoint.custodian != custodian:
        raise LogError("the checkpoint is of another custodian's log", reason="wrong_custodian")
    return checkpoint


def _report(checkpoint: Checkpoint, read: _Read) -> AuditReport:
    replay = read.replay
    return AuditReport(
        checkpoint=checkpoint,
        entries=checkpoint.size,
        first_ms=read.first_ms,
        last_ms=0 if read.last is None else read.last.at_ms,
        rows=tuple(replay.rows.values()),
        leases=len(replay.leases) + len(replay.over),
        unclosed_leases=len(replay.leases),
        stops=tuple(sorted(replay.stops)),
    )


def _opened(line: LoggedEntry) -> Entry:
    if leaf_hash(line.data) != line.leaf:
        raise bad("altered", "it is not the entry whose hash was recorded")
    try:
        return decode_signed(line.data, Entry, max_bytes=MAX_ENTRY_BYTES)
    except InputError as error:
        raise bad("malformed", f"it cannot be read: {error.message}") from None


def _require_follows(entry: Entry, number: int, before: Entry | None, custodian: KeyId) -> None:
    if entry.index != number:
        raise bad("index", f"an entry with index {entry.index} stands in its place")
    if isinstance(entry.body, Genesis) != (before is None):
        raise bad("genesis", "a log begins once, with its first entry")
    if isinstance(entry.body, Genesis) and entry.body.custodian != custodian:
        raise bad("wrong_custodian", "the log was begun by another custodian")
    if before is not None and (entry.at_ms < before.at_ms or entry.generation < before.generation):
        raise bad("order", "its time or generation is before that of the entry before it")


def _named(number: int, error: AIGovToolError) -> LogError:
    reason = error.reason if isinstance(error, LogError) else "inconsistent"
    return LogError(f"entry {number}: {error.message}", reason=reason)
