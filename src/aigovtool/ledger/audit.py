"""Verifies a copy of the audit log without trusting whoever keeps it, and recomputes every balance from it alone.

`verify_log` makes these checks, in this order, and stops at the first entry that fails one:

1. The checkpoint is signed by a log key of the custodian whose root key the reader pins, and that was not revoked.
2. Each entry is strict JSON in its only encoding, and its hash is the one recorded beside it.
3. Indices count from 0 without gaps; time, generation and epoch never go back; the first entry, and only the
   first, founds the ledger of this custodian.
4. Replay: whoever orders something is an operator who is enrolled and was not revoked, and each order is carried out
   once; a grant is for a consumer of its borrower, and held by an enclave of it that is admitted; it
   debits every limit on its path, each exactly once, each in the bucket of its time, and none
   beyond its limit at that moment (in a rolling window: with all earlier buckets that it touches) or after its
   end; nothing is granted, no model's key handed out and no enclave admitted under a stop; a key goes out for a model
   that was added, to an enclave that was admitted in this generation and has not ended; nothing goes to a borrower that
   a model's newest terms, if they were ever changed, do not name; whatever was seen in two copies
   gets nothing more, and its word counts no more; a lease is closed or expires only as its state table allows, and its
   charge is what it used or all of it. What was revoked or withdrawn is never resumed. What two operators must order
   names two. An appraisal policy is replaced by a later one alone. A generation begins with the signed checkpoint of
   what was lost.
5. There are exactly as many entries as the checkpoint says, and their Merkle root is the signed one.
6. Each older checkpoint that the reader holds names a prefix of this log, in the generation that it had then: it is
   neither a rolled-back nor a rewritten copy. One that the log says was lost with a backup (by the entry that begins
   the next generation) is reported. The same holds for each co-signed checkpoint that came with the copy.
7. Every co-signature that came with the copy is by a witness that the log names, and verifies; so does every one in the
   name and with the key hash of a witness that the reader believes (`witnessing`).

The recorded hashes are a help to name the entry that was changed; they prove nothing by themselves. Whoever changes
an entry *and* its hash fails at 5, where only the log as a whole can be named.

It does not show that the log is the only one (compare checkpoints with other readers), nor that enclaves reported
truly (their receipts show that), nor that operators signed what the log says of them: it has digests of orders. So a
restore that excuses what a reader holds is the word of whoever has the log's key; the report names what it excused.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from typing import Final, NamedTuple

from aigovtool.codec import decode_signed
from aigovtool.crypto.sign import VerifyKey
from aigovtool.errors import AIGovToolError, InputError, LogError
from aigovtool.ids import KeyId
from aigovtool.ledger.bad_entry import bad
from aigovtool.ledger.budget import BudgetRow
from aigovtool.ledger.checkpoint import Checkpoint, open_checkpoint
from aigovtool.ledger.cosignature import WitnessKey
from aigovtool.ledger.enclave_list import Machine
from aigovtool.ledger.entry import Entry, GapFound, Genesis, Restored
from aigovtool.ledger.merkle import Frontier, leaf_hash
from aigovtool.ledger.replay import Replay
from aigovtool.ledger.stop_list import Stop
from aigovtool.ledger.witnessing import Vouching, require_distinct, weigh

#: The largest entries carry a reason of 500 characters or a lease with a dozen rows: under 16 KiB.
MAX_ENTRY_BYTES: Final = 64 << 10

_ANOTHER_COPY: Final = (
    "get another copy (`aigovtool audit export`) and verify it with a checkpoint that was kept (`--seen`); if that is "
    "refused too, the custodian's own log is at fault: keep both, and show them to others"
)
_ANOTHER_FILE: Final = "give what `aigovtool audit checkpoint` wrote, of the custodian whose root key you trust"
_NEWER_COPY: Final = (
    "get a newer copy (`aigovtool audit export`); if none contains what the checkpoint stands for, keep both, and show "
    "them to others"
)
_TWO_LOGS: Final = "keep the copy and the checkpoint, and show both to others: the custodian's key has signed two logs"


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
    #: Checkpoints that the reader holds, and that a restore from a backup lost, as the log itself says.
    lost: tuple[Checkpoint, ...] = ()
    vouching: Vouching = field(default_factory=Vouching)
    #: On what enclaves were admitted, and how often.
    machines: tuple[tuple[Machine, int], ...] = ()


def verify_log(
    entries: Iterable[LoggedEntry],
    note: str,
    keys: list[VerifyKey],
    custodian: KeyId,
    *,
    seen: Iterable[str] = (),
    names: Iterable[str] = (),
    cosigned: Iterable[str] = (),
    witnesses: Sequence[WitnessKey] = (),
    revoked: Sequence[VerifyKey] = (),
) -> AuditReport:
    """Return what a log says, if it is whole, unchanged and consistent.

    Args:
        entries: the lines in the order of the copy; read once.
        note: the signed checkpoint.
        keys: the log keys of the custodian's key set, verified against the pinned root before.
        custodian: the identifier of the pinned root key.
        seen: older signed checkpoints that the reader holds, from wherever.
        names: what a refusal calls them, such as their files, in the same order; they may be fewer.
        cosigned: co-signed checkpoints that came with the copy.
        witnesses: those whose co-signatures the reader believes.
        revoked: log keys that were taken back. What they signed is read where the log that `keys` signed contains it,
            and in what the reader holds; it vouches for nothing.

    Raises:
        LogError: naming the first bad entry, with a reason for each of the checks above, and what to do.
    """
    require_distinct(witnesses)
    trust = _Trust(keys, custodian, (*keys, *revoked))
    try:
        checkpoint = trust.opened(note, "the checkpoint of the copy")
        held = _Held([*_remembered(seen, names, trust), *_came_with(cosigned, trust)])
        read = _read(entries, checkpoint, trust, held)
        _require_signed(read, checkpoint)
        held.require_whole(checkpoint)
        vouching = weigh(
            [(note, checkpoint), *held.kept(own=False)],
            held.kept(own=True),
            keys,
            enrolled=read.replay.witnesses.known.values(),
            trusted=witnesses,
        )
    except LogError as error:
        error.fix = error.fix or _ANOTHER_COPY
        raise
    return replace(_report(checkpoint, read), lost=held.lost(), vouching=vouching)


class _Trust(NamedTuple):
    """The log keys of one custodian; `known` are also those that were taken back."""

    keys: list[VerifyKey]
    custodian: KeyId
    known: tuple[VerifyKey, ...]

    def opened(self, note: str, called: str, fix: str | None = None, *, old: bool = False) -> Checkpoint:
        """Return what a note of this custodian's log says, which may be `old`; a refusal calls it as is said."""
        try:
            checkpoint = open_checkpoint(note, list(self.known) if old else self.keys)
        except LogError as error:
            raise LogError(f"{called}: {error.message}", reason=error.reason, fix=fix) from None
        if checkpoint.custodian != self.custodian:
            raise LogError(f"{called} is of another custodian's log", reason="wrong_custodian", fix=fix)
        return checkpoint


@dataclass(frozen=True, slots=True)
class _Read:
    """The entries of a copy, as far as they can be judged one by one."""

    replay: Replay
    frontier: Frontier
    first_ms: int
    last: Entry | None


def _read(entries: Iterable[LoggedEntry], checkpoint: Checkpoint, trust: _Trust, held: "_Held") -> _Read:
    replay, frontier = Replay(), Frontier()
    held.compare(frontier, replay.generation)
    first_ms, before = 0, None
    for number, line in enumerate(entries):
        if number >= checkpoint.size:
            raise _named(number, bad("too_many", f"the signed log has {checkpoint.size} entries only"))
        try:
            entry = _opened(line)
            _require_follows(entry, number, before, trust.custodian)
            replay.take(entry)
            lost = _shown_lost(entry, trust)
            final = isinstance(entry.body, Restored) and entry.body.final
        except AIGovToolError as error:
            raise _named(number, error) from None
        frontier = frontier.append(line.leaf)
        held.compare(frontier, replay.generation)
        if lost is not None:
            held.excuse(lost, any_size=final)
        first_ms, before = entry.at_ms if before is None else first_ms, entry
    return _Read(replay=replay, frontier=frontier, first_ms=first_ms, last=before)


def _shown_lost(entry: Entry, trust: _Trust) -> Checkpoint | None:
    """Return what an entry excuses: a gap that was found is not, before it is settled."""
    if not isinstance(entry.body, GapFound | Restored):
        return None
    lost = trust.opened(entry.body.checkpoint, "the checkpoint of what was lost", old=True)
    return lost if isinstance(entry.body, Restored) else None


def _require_signed(read: _Read, checkpoint: Checkpoint) -> None:
    frontier = read.frontier
    if frontier.size < checkpoint.size:
        raise _named(frontier.size, bad("truncated", f"it is missing; the signed log has {checkpoint.size} entries"))
    read.replay.finish()
    if read.replay.generation != checkpoint.generation:
        raise LogError("the checkpoint is of another generation than the last entry", reason="generation")
    if frontier.root() != checkpoint.root:
        raise LogError(
            f"the {frontier.size} entries are not the ones that were signed: an entry was changed together with its "
            "hash, so that none can be named",
            reason="root",
            fix="compare the entries with an earlier export",
        )


@dataclass(frozen=True, slots=True)
class _Remembered:
    """A checkpoint that is older than the copy's: the reader's `own`, or one that came with the copy."""

    note: str
    checkpoint: Checkpoint
    called: str
    own: bool

    def described(self) -> str:
        """Return what a refusal says of it."""
        return f"{self.called} ({self.checkpoint.size} entries, generation {self.checkpoint.generation})"


def _remembered(notes: Iterable[str], names: Iterable[str], trust: _Trust) -> Iterator[_Remembered]:
    called = chain((f"the checkpoint that you hold in {name}" for name in names), repeat("a checkpoint that you hold"))
    for note, what in zip(notes, called, strict=False):
        yield _Remembered(note, trust.opened(note, what, _ANOTHER_FILE, old=True), what, own=True)


def _came_with(notes: Iterable[str], trust: _Trust) -> Iterator[_Remembered]:
    what = "a co-signed checkpoint that came with the copy"
    for note in notes:
        yield _Remembered(note, trust.opened(note, what), what, own=False)


class _Held:
    """What is remembered of the log, while it is read."""

    def __init__(self, remembered: list[_Remembered]) -> None:
        self._all = remembered
        self._open = sorted(remembered, key=lambda one: one.checkpoint.size)
        self._lost: list[_Remembered] = []

    def compare(self, frontier: Frontier, generation: int) -> None:
        """Settle those of this size whose root is this tree's.

        Raises:
            LogError: `never_signed` if one says that the log was in another generation then: its entries say in which.
        """
        if all(one.checkpoint.size != frontier.size for one in self._open):
            return
        now = (frontier.size, frontier.root())
        for one in self._open:
            if (one.checkpoint.size, one.checkpoint.root) == now and one.checkpoint.generation != generation:
                what = f"the log was never in the state that is signed in {one.described()}: of these entries the last"
                raise LogError(f"{what} is of generation {generation}", reason="never_signed", fix=_TWO_LOGS)
        self._open = [one for one in self._open if (one.checkpoint.size, one.checkpoint.root) != now]

    def excuse(self, lost: Checkpoint, *, any_size: bool) -> None:
        """Settle those that the log says were lost: as for the custodian, none newer than the one that it names.

        After a settlement that was final those of any size, up to its generation.
        """
        excused = [
            one
            for one in self._open
            if (any_size or one.checkpoint.size <= lost.size) and one.checkpoint.generation <= lost.generation
        ]
        self._lost += excused
        self._open = [one for one in self._open if one not in excused]

    def lost(self) -> tuple[Checkpoint, ...]:
        """Return those of the reader that the log says were lost."""
        return tuple(one.checkpoint for one in self._lost if one.own)

    def kept(self, *, own: bool) -> list[tuple[str, Checkpoint]]:
        """Return those that were not lost, the reader's or the others."""
        return [(one.note, one.checkpoint) for one in self._all if one.own is own and one not in self._lost]

    def require_whole(self, checkpoint: Checkpoint) -> None:
        """Refuse a log that does not extend one of them.

        Raises:
            LogError: `rollback` if the copy ends before it, `rewritten` if other entries stand in its place.
        """
        for one in self._open:
            if (one.checkpoint.generation, one.checkpoint.size) > (checkpoint.generation, checkpoint.size):
                raise LogError(f"the copy ends before {one.described()}", reason="rollback", fix=_NEWER_COPY)
            raise LogError(
                f"the copy does not contain what is signed in {one.described()}", reason="rewritten", fix=_TWO_LOGS
            )


def _report(checkpoint: Checkpoint, read: _Read) -> AuditReport:
    replay = read.replay
    return AuditReport(
        checkpoint=checkpoint,
        entries=checkpoint.size,
        first_ms=read.first_ms,
        last_ms=0 if read.last is None else read.last.at_ms,
        rows=tuple(replay.budgets.rows.values()),
        leases=len(replay.leases) + len(replay.over),
        unclosed_leases=len(replay.leases),
        stops=tuple(sorted(replay.stops.in_force)),
        machines=tuple(sorted(replay.enclaves.machines.items(), key=lambda one: (one[0][0], one[0][1] or ""))),
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
    return LogError(f"entry {number}: {error.message}", reason=reason, fix=_ANOTHER_COPY)
