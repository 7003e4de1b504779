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

The recorded hashes are a help to name the entry that was changed; they prove nothing by themselves. Whoever changes
an entry *and* its hash fails at 5, where only the log as a whole can be named.

It does not show that the log is the only one (compare checkpoints with other readers), nor that enclaves reported
truly (their receipts show that).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from aigovtool.codec import decode_signed
from aigovtool.crypto.sign import VerifyKey
from aigovtool.errors import AIGovToolError, InputError, LogError
from aigovtool.ids import KeyId, LeaseId
from aigovtool.ledger.budget import ROLLING, BudgetLimit, BudgetRow, RowKey, Scope, Window, bucket_of, path
from aigovtool.ledger.checkpoint import Checkpoint, open_checkpoint
from aigovtool.ledger.entry import (
    BudgetSet,
    Entry,
    Forked,
    Genesis,
    LeaseClosed,
    LeaseExpired,
    LeaseGranted,
    ModelWithdrawn,
    PartyRevoked,
    PartyRole,
    Resumed,
    Stopped,
    StopTarget,
)
from aigovtool.ledger.lease import LeaseEvent, LeaseState, next_state
from aigovtool.ledger.merkle import Frontier, leaf_hash
from aigovtool.ledger.units import Dimension

#: The largest entries carry a reason of 500 characters or a lease with a dozen rows: under 16 KiB.
MAX_ENTRY_BYTES: Final = 64 << 10
#: A transaction may read the clock shortly before it writes its entry, and a window may begin in between.
_WINDOW_SLACK_MS: Final = 60_000

_Counted = tuple[Dimension, Window]
_Stop = tuple[StopTarget, str]


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
    stops: tuple[_Stop, ...]


@dataclass(slots=True)
class _Held:
    """What a lease still weighs on its rows."""

    granted: LeaseGranted
    state: LeaseState = LeaseState.PENDING


@dataclass(slots=True)
class _Replay:
    """The state of the ledger as far as it was read. Every refusal is a `LogError` without the entry's number."""

    limits: dict[Scope, dict[_Counted, BudgetLimit]] = field(default_factory=dict)
    rows: dict[RowKey, BudgetRow] = field(default_factory=dict)
    leases: dict[LeaseId, _Held] = field(default_factory=dict)
    #: The rows of each limit by their bucket's beginning, because a rolling window counts several.
    buckets: dict[tuple[Scope, Dimension, Window], dict[int, RowKey]] = field(default_factory=dict)
    stops: set[_Stop] = field(default_factory=set)
    epoch: int = 0

    def take(self, entry: Entry) -> None:
        """Apply one entry."""
        match entry.body:
            case BudgetSet(limit=limit):
                self.limits.setdefault(limit.scope, {})[limit.dimension, limit.window] = limit
                self._limit_row(limit, bucket_of(limit.window, entry.at_ms))
            case LeaseGranted() as granted:
                self._grant(granted, entry.at_ms)
            case LeaseClosed() as closed:
                self._close(closed)
            case LeaseExpired(lease_id=lease_id):
                held = _known(self.leases, lease_id)
                held.state = next_state(held.state, LeaseEvent.TIME_OVER)
                for key in held.granted.rows:
                    units = held.granted.units.get(key.dimension)
                    self.rows[key] = self.rows[key].settle(units, units)
            case Stopped() | Resumed() | Forked() | PartyRevoked() | ModelWithdrawn() as order:
                self._order(order)
            case _:
                pass

    def _limit_row(self, limit: BudgetLimit, bucket_ms: int) -> None:
        key = RowKey(scope=limit.scope, dimension=limit.dimension, window=limit.window, bucket_ms=bucket_ms)
        row = self.rows.get(key, BudgetRow(key=key, limit=limit.limit))
        self._keep(msgspec.structs.replace(row, limit=limit.limit))

    def _keep(self, row: BudgetRow) -> None:
        key = row.key
        self.rows[key] = row
        self.buckets.setdefault((key.scope, key.dimension, key.window), {})[key.bucket_ms] = key

    def _order(self, order: Stopped | Resumed | Forked | PartyRevoked | ModelWithdrawn) -> None:
        if order.epoch < self.epoch:
            raise _bad("epoch", f"its epoch {order.epoch} is before {self.epoch}")
        self.epoch = order.epoch
        match order:
            case Stopped(target=target, value=value):
                self.stops.add((target, value))
            case Resumed(target=target, value=value):
                self.stops.discard((target, value))
            case Forked(instance=instance):
                self.stops.add((StopTarget.ENCLAVE, instance))
            case PartyRevoked(role=role, name=name):
                if role is not PartyRole.OPERATOR:
                    self.stops.add((StopTarget(role.value), name))
            case ModelWithdrawn(model=model):
                self.stops.add((StopTarget.MODEL, model))

    def _grant(self, granted: LeaseGranted, at_ms: int) -> None:
        if granted.lease_id in self.leases:
            raise _bad("lease_twice", "it grants a lease that was granted before")
        self._require_not_stopped(granted)
        scopes = path(granted.model, granted.borrower, granted.consumer)
        dimensions = {key.dimension for key in granted.rows}
        due = {
            (scope, *counted) for scope in scopes for counted in self.limits.get(scope, {}) if counted[0] in dimensions
        }
        debited = [(key.scope, key.dimension, key.window) for key in granted.rows]
        if not debited or len(set(debited)) != len(debited) or set(debited) != due:
            raise _bad("wrong_rows", "it does not debit exactly the limits on its path")
        if any(dimension not in dimensions for dimension, _ in granted.units.items()) or granted.units.is_zero():
            raise _bad("wrong_rows", "it grants units that no limit counts, or none")
        for key in granted.rows:
            self._hold(key, granted.units.get(key.dimension), at_ms)
        self.leases[granted.lease_id] = _Held(granted)

    def _require_not_stopped(self, granted: LeaseGranted) -> None:
        touching: set[_Stop] = {
            (StopTarget.ALL, ""),
            (StopTarget.MODEL, granted.model),
            (StopTarget.BORROWER, granted.borrower),
            (StopTarget.CONSUMER, granted.consumer),
            (StopTarget.ENCLAVE, granted.instance),
        }
        if found := touching & self.stops:
            target, value = min(found)
            raise _bad("granted_while_stopped", f"it grants a lease while {target} {value} is stopped")

    def _hold(self, key: RowKey, units: int, at_ms: int) -> None:
        if key.bucket_ms not in {bucket_of(key.window, at_ms), bucket_of(key.window, max(0, at_ms - _WINDOW_SLACK_MS))}:
            raise _bad("wrong_window", "it debits another window than that of its time")
        limit = self.limits[key.scope][key.dimension, key.window]
        if limit.not_after_ms is not None and at_ms - _WINDOW_SLACK_MS >= limit.not_after_ms:
            raise _bad("budget_ended", "it debits a budget whose time was over")
        if key not in self.rows:
            self._keep(BudgetRow(key=key, limit=limit.limit))
        row = self.rows[key]
        room = msgspec.structs.replace(row, earlier=self._earlier(key)).room()
        if room is not None and units > room:
            raise _bad(
                "overspend",
                f"it grants {units} {key.dimension.value} where a limit of {row.limit} leaves {room} "
                f"({row.posted} spent, {row.pending} held)",
            )
        self.rows[key] = row.hold(units)

    def _earlier(self, key: RowKey) -> int:
        """What the earlier buckets of a rolling window hold, as of the beginning of the bucket that is debited."""
        if key.window not in ROLLING:
            return 0
        span_ms, bucket_ms = ROLLING[key.window]
        buckets = self.buckets[key.scope, key.dimension, key.window]
        earlier = range(key.bucket_ms - span_ms, key.bucket_ms, bucket_ms)
        counted = [self.rows[buckets[at]] for at in earlier if at in buckets]
        return sum(row.posted + row.pending for row in counted)

    def _close(self, closed: LeaseClosed) -> None:
        held = _known(self.leases, closed.lease_id)
        was, units = held.state, held.granted.units
        held.state = next_state(was, LeaseEvent.FINAL_REPORT)
        if closed.late != (was is LeaseState.EXPIRED):
            raise _bad("wrong_close", "it says wrongly whether the lease had expired")
        if not units.covers(closed.used):
            raise _bad("wrong_close", "it reports more use than the lease had units")
        for key in held.granted.rows:
            granted, charged = units.get(key.dimension), closed.charged.get(key.dimension)
            if charged not in {granted, closed.used.get(key.dimension)}:
                raise _bad("wrong_charge", "it charges neither what was used nor the whole lease")
            row = self.rows[key]
            late = was is LeaseState.EXPIRED
            self.rows[key] = row.refund(granted - charged) if late else row.settle(granted, charged)


def verify_log(entries: Iterable[LoggedEntry], note: str, keys: list[VerifyKey], custodian: KeyId) -> AuditReport:
    """Return what a log says, if it is whole, unchanged and consistent.

    Args:
        entries: the lines in the order of the copy; read once.
        note: the signed checkpoint.
        keys: the log keys of the custodian's key set, verified against the pinned root before.
        custodian: the identifier of the pinned root key.

    Raises:
        LogError: naming the first bad entry, with a reason for each of the checks above.
    """
    checkpoint = open_checkpoint(note, keys)
    if checkpoint.custodian != custodian:
        raise LogError("the checkpoint is of another custodian's log", reason="wrong_custodian")
    replay, frontier = _Replay(), Frontier()
    first_ms, before = 0, None
    for number, line in enumerate(entries):
        if number >= checkpoint.size:
            raise _named(number, _bad("too_many", f"the signed log has {checkpoint.size} entries only"))
        try:
            entry = _opened(line)
            _require_follows(entry, number, before, custodian)
            replay.take(entry)
        except AIGovToolError as error:
            raise _named(number, error) from None
        frontier = frontier.append(line.leaf)
        first_ms, before = entry.at_ms if before is None else first_ms, entry
    if frontier.size < checkpoint.size:
        raise _named(frontier.size, _bad("truncated", f"it is missing; the signed log has {checkpoint.size} entries"))
    if frontier.root() != checkpoint.root:
        raise LogError(
            f"the {frontier.size} entries are not the ones that were signed: an entry was changed together with its "
            "hash, so that none can be named",
            reason="root",
            fix="compare the entries with an earlier export",
        )
    return _report(checkpoint, replay, first_ms, 0 if before is None else before.at_ms)


def _report(checkpoint: Checkpoint, replay: _Replay, first_ms: int, last_ms: int) -> AuditReport:
    unclosed = sum(held.state in {LeaseState.PENDING, LeaseState.EXPIRED} for held in replay.leases.values())
    return AuditReport(
        checkpoint=checkpoint,
        entries=checkpoint.size,
        first_ms=first_ms,
        last_ms=last_ms,
        rows=tuple(replay.rows.values()),
        leases=len(replay.leases),
        unclosed_leases=unclosed,
        stops=tuple(sorted(replay.stops)),
    )


def _opened(line: LoggedEntry) -> Entry:
    if leaf_hash(line.data) != line.leaf:
        raise _bad("altered", "it is not the entry whose hash was recorded")
    try:
        return decode_signed(line.data, Entry, max_bytes=MAX_ENTRY_BYTES)
    except InputError as error:
        raise _bad("malformed", f"it cannot be read: {error.message}") from None


def _require_follows(entry: Entry, number: int, before: Entry | None, custodian: KeyId) -> None:
    if entry.index != number:
        raise _bad("index", f"an entry with index {entry.index} stands in its place")
    if isinstance(entry.body, Genesis) != (before is None):
        raise _bad("genesis", "a log begins once, with its first entry")
    if isinstance(entry.body, Genesis) and entry.body.custodian != custodian:
        raise _bad("wrong_custodian", "the log was begun by another custodian")
    if before is not None and (entry.at_ms < before.at_ms or entry.generation < before.generation):
        raise _bad("order", "its time or generation is before that of the entry before it")


def _known(leases: dict[LeaseId, _Held], lease_id: LeaseId) -> _Held:
    held = leases.get(lease_id)
    if held is None:
        raise _bad("unknown_lease", "it is about a lease that was never granted")
    return held


def _bad(reason: str, what: str) -> LogError:
    return LogError(what, reason=reason)


def _named(number: int, error: AIGovToolError) -> LogError:
    reason = error.reason if isinstance(error, LogError) else "inconsistent"
    return LogError(f"entry {number}: {error.message}", reason=reason)
