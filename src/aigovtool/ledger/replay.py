"""The ledger as its log tells it: entries are applied one by one, and none that breaks a rule is taken.

This is the auditor's book. It shares the arithmetic of rows and the table of lease states with the custodian, and none
of its code that decides: what a grant may debit is checked here from the entries alone.

What two operators order must name two. That both signed is the log's word: it holds digests of orders, not orders.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from aigovtool.ids import BorrowerId, Digest, InstanceId, LeaseId, ModelId
from aigovtool.ledger.bad_entry import bad
from aigovtool.ledger.budget import ROLLING, BudgetLimit, BudgetRow, RowKey, Scope, Window, bucket_of, path
from aigovtool.ledger.checkpoint import parse_checkpoint
from aigovtool.ledger.entry import (
    AppraisalPolicySet,
    AttestationWithdrawn,
    Attested,
    BudgetSet,
    Charged,
    Command,
    Entry,
    EntryBody,
    Forked,
    GapFound,
    KeyReleased,
    LeaseClosed,
    LeaseExpired,
    LeaseGranted,
    LeaseWrittenOff,
    ModelAdded,
    ModelTermsSet,
    ModelWithdrawn,
    PartyAdded,
    PartyRevoked,
    PartyRole,
    Restored,
    Resumed,
    Stopped,
    StopTarget,
    Wiped,
    WitnessEnrolled,
    WitnessRetired,
)
from aigovtool.ledger.gap import may_follow_gap
from aigovtool.ledger.lease import LeaseEvent, LeaseState, next_state
from aigovtool.ledger.lease_ids import LeaseIds
from aigovtool.ledger.units import Dimension
from aigovtool.ledger.witness_list import WitnessList

#: A transaction may read the clock shortly before it writes its entry, and a window may begin in between.
_WINDOW_SLACK_MS: Final = 60_000

Counted = tuple[Dimension, Window]
Stop = tuple[StopTarget, str]
Machine = tuple[str, str | None]


@dataclass(slots=True)
class Held:
    """What a lease still weighs on its rows."""

    granted: LeaseGranted
    generation: int
    state: LeaseState = LeaseState.PENDING


@dataclass(slots=True)
class Replay:
    """The state of the ledger as far as it was read. Every refusal is a `LogError` without the entry's number."""

    limits: dict[Scope, dict[Counted, BudgetLimit]] = field(default_factory=dict)
    rows: dict[RowKey, BudgetRow] = field(default_factory=dict)
    #: Leases that are not over: pending, or expired and not yet closed or written off.
    leases: dict[LeaseId, Held] = field(default_factory=dict)
    #: Of a lease that is over only its identifier is kept: memory must not grow by a whole lease per lease.
    over: LeaseIds = field(default_factory=LeaseIds)
    #: The rows of each limit by their bucket's beginning, because a rolling window counts several.
    buckets: dict[tuple[Scope, Dimension, Window], dict[int, RowKey]] = field(default_factory=dict)
    stops: set[Stop] = field(default_factory=set)
    #: Those of them that nobody can lift: what is revoked or withdrawn.
    for_good: set[Stop] = field(default_factory=set)
    #: All that were ever enrolled, revoked or not.
    operators: set[str] = field(default_factory=set)
    #: What the leases of each model debit, and which package it is.
    counts: dict[ModelId, frozenset[Dimension]] = field(default_factory=dict)
    manifests: dict[ModelId, Digest] = field(default_factory=dict)
    #: To whom each model is lent, if its terms were ever changed: those of its beginning are not in the log.
    lent: dict[ModelId, frozenset[BorrowerId]] = field(default_factory=dict)
    #: Whose the enclaves are that were admitted in this generation and have not said, or been told, that they end.
    admitted: dict[InstanceId, BorrowerId] = field(default_factory=dict)
    #: Those of which two copies were seen.
    forked: set[InstanceId] = field(default_factory=set)
    witnesses: WitnessList = field(default_factory=WitnessList)
    #: How often enclaves were admitted, by type of TEE and, where that tells, by its chip.
    machines: dict[Machine, int] = field(default_factory=dict)
    epoch: int = 0
    generation: int = 0
    #: Whether the ledger knew at this point that it had forgotten something.
    gap: bool = False
    #: What must still be charged, before anything else follows, for the settlement that was read last to be final.
    remaining: dict[RowKey, int] = field(default_factory=dict)
    #: Leases of generations before this one are refunded nothing.
    refunds_from: int = 0

    def take(self, entry: Entry) -> None:
        """Apply one entry.

        Raises:
            LogError: it breaks a rule; the reason says which.
        """
        self._begin_generation(entry)
        self._require_gap_kept(entry.body)
        self._require_two(entry.body)
        self._require_final(entry)
        match entry.body:
            case ModelAdded() as added:
                self._add(added)
            case Stopped() | Resumed() | Forked() | PartyRevoked() | ModelWithdrawn() | ModelTermsSet() as order:
                self._order(order)
            case LeaseGranted() as granted:
                self._grant(granted, entry.at_ms)
            case LeaseClosed() as closed:
                self._close(closed)
            case LeaseExpired() | LeaseWrittenOff() as ended:
                self._end(ended)
            case BudgetSet(limit=limit):
                self.limits.setdefault(limit.scope, {})[limit.dimension, limit.window] = limit
                self._limit_row(limit, bucket_of(limit.window, entry.at_ms))
            case WitnessEnrolled() | WitnessRetired() as change:
                self.witnesses.take(change)
            case Charged(row=key, units=units):
                self._keep(self._charged_row(key, entry.at_ms).charge(units))
            case Attested() | AttestationWithdrawn() | KeyReleased() | Wiped() | PartyAdded() as known:
                self._know(known)
            case _:
                pass

    def _know(self, known: Attested | AttestationWithdrawn | KeyReleased | Wiped | PartyAdded) -> None:
        if isinstance(known, Attested):
            self._admit(known)
        elif isinstance(known, KeyReleased):
            self._release(known)
        elif isinstance(known, AttestationWithdrawn | Wiped):
            self.admitted.pop(known.instance, None)
        elif known.role is PartyRole.OPERATOR:
            self.operators.add(known.name)

    def _admit(self, admitted: Attested) -> None:
        instance, borrower = admitted.instance, admitted.borrower
        touching = {(StopTarget.BORROWER, borrower), (StopTarget.ENCLAVE, instance)}
        self._require_running(touching, "admitted_while_stopped", "it admits an enclave")
        self._require_one(instance)
        self.admitted[instance] = borrower
        self.machines[admitted.tee, admitted.chip] = self.machines.get((admitted.tee, admitted.chip), 0) + 1

    def _release(self, released: KeyReleased) -> None:
        instance, model = released.instance, released.model
        borrower = self.admitted.get(instance)
        if borrower is None:
            raise bad("not_admitted", "it hands a model's key to an enclave that is not admitted, or not any more")
        if self.manifests.get(model) != released.manifest:
            raise bad("unknown_model", "it hands out the key of a model that was never added")
        touching = {(StopTarget.MODEL, model), (StopTarget.BORROWER, borrower), (StopTarget.ENCLAVE, instance)}
        self._require_running(touching, "released_while_stopped", "it hands out a model's key")
        self._require_lent(model, borrower)

    def _require_one(self, instance: InstanceId) -> None:
        if instance in self.forked:
            raise bad("forked", "it is about an enclave of which two copies were seen before")

    def _begin_generation(self, entry: Entry) -> None:
        restored = entry.body if isinstance(entry.body, Restored) else None
        begins = self.generation if restored is None else restored.generation
        if entry.generation != begins or (restored is not None and begins <= self.generation):
            raise bad("generation", "a generation begins with the entry that says why, and only there")
        if restored is not None:
            lost = parse_checkpoint(restored.checkpoint)
            if lost.size != restored.lost_size or lost.generation >= begins:
                raise bad("wrong_restore", "it says that more or less was lost than the checkpoint that it shows")
            self.admitted.clear()  # all of them attest anew
        self.generation = entry.generation

    def _require_gap_kept(self, body: EntryBody) -> None:
        if self.gap and not may_follow_gap(body):
            raise bad("gap", "the ledger knew that it had forgotten something, and went on before that was settled")
        if isinstance(body, GapFound):
            lost = parse_checkpoint(body.checkpoint)
            if (lost.size, lost.generation) != (body.lost_size, body.lost_generation):
                raise bad("wrong_gap", "it says that another state was lost than the checkpoint that it shows")
        self.gap = isinstance(body, GapFound) or (self.gap and not isinstance(body, Restored))

    def _require_final(self, entry: Entry) -> None:
        """Refuse a settlement that explains whatever is shown later, and leaves something that could be used twice."""
        if isinstance(entry.body, Charged):
            if entry.body.units >= self.remaining.get(entry.body.row, 0):
                self.remaining.pop(entry.body.row, None)
        elif self.remaining:
            raise bad("not_final", "it comes before all that remained was charged, as the settlement before it says")
        elif isinstance(entry.body, Restored) and entry.body.final:
            if (StopTarget.ALL, "") not in self.stops:
                raise bad("not_final", "it settles for good what was forgotten, and not everything is stopped")
            self.refunds_from = self.generation
            self.remaining = dict(self._rooms(entry.at_ms))

    def _rooms(self, at_ms: int) -> Iterator[tuple[RowKey, int]]:
        """Yield every row from which anything could be granted at a moment, and how much."""
        for scope, limits in self.limits.items():
            for (dimension, window), limit in limits.items():
                key = RowKey(scope=scope, dimension=dimension, window=window, bucket_ms=bucket_of(window, at_ms))
                row = self.rows.get(key) or BudgetRow(key=key, limit=limit.limit)
                if room := msgspec.structs.replace(row, earlier=self._earlier(key)).room():
                    yield key, room

    def _require_two(self, body: EntryBody) -> None:
        """Refuse an order of one operator where the custodian takes none but of two."""
        command: Command | None = None
        match body:
            case Restored() | Charged() | LeaseWrittenOff():
                command = body.command
            case PartyAdded(role=PartyRole.OPERATOR) if len(self.operators) > 1:
                command = body.command  # none: from whoever holds the custodian's directory
            case AppraisalPolicySet() | Resumed() | ModelTermsSet(more_leaves=True) if len(self.operators) > 1:
                command = body.command
            case _:
                pass
        if command is not None and command.second in {None, command.operator}:
            raise bad("needs_second", f"two operators must order it, and it names {command.operator} alone")

    def _add(self, added: ModelAdded) -> None:
        counts = frozenset({Dimension.INFERENCES, *added.also})
        same = self.counts.setdefault(added.model, counts) == counts
        if not same or self.manifests.setdefault(added.model, added.manifest) != added.manifest:
            raise bad("model_twice", "it adds a model once more, and now it is another one, or meters something else")

    def _end(self, ended: LeaseExpired | LeaseWrittenOff) -> None:
        held = self._known(ended.lease_id)
        if isinstance(ended, LeaseWrittenOff):
            next_state(held.state, LeaseEvent.WRITE_OFF)
            self._settle(ended.lease_id)
            return
        held.state = next_state(held.state, LeaseEvent.TIME_OVER)
        for key in held.granted.rows:
            units = held.granted.units.get(key.dimension)
            self.rows[key] = self.rows[key].settle(units, units)

    def _limit_row(self, limit: BudgetLimit, bucket_ms: int) -> None:
        key = RowKey(scope=limit.scope, dimension=limit.dimension, window=limit.window, bucket_ms=bucket_ms)
        row = self.rows.get(key, BudgetRow(key=key, limit=limit.limit))
        self._keep(msgspec.structs.replace(row, limit=limit.limit))

    def _keep(self, row: BudgetRow) -> None:
        key = row.key
        self.rows[key] = row
        self.buckets.setdefault((key.scope, key.dimension, key.window), {})[key.bucket_ms] = key

    def _order(self, order: Stopped | Resumed | Forked | PartyRevoked | ModelWithdrawn | ModelTermsSet) -> None:
        if order.epoch < self.epoch:
            raise bad("epoch", f"its epoch {order.epoch} is before {self.epoch}")
        self.epoch = order.epoch
        match order:
            case Stopped(target=target, value=value):
                self.stops.add((target, value))
            case Resumed(target=target, value=value):
                if (target, value) in self.for_good:
                    raise bad("for_good", f"it resumes {target} {value}, which was revoked or withdrawn for good")
                self.stops.discard((target, value))
            case Forked(instance=instance):
                self.stops.add((StopTarget.ENCLAVE, instance))
                self.forked.add(instance)
                self.admitted.pop(instance, None)
            case PartyRevoked(role=role, name=name):
                if role is not PartyRole.OPERATOR:
                    self._stop_for_good(StopTarget(role.value), name)
            case ModelWithdrawn(model=model):
                self._stop_for_good(StopTarget.MODEL, model)
            case ModelTermsSet(model=model, borrowers=borrowers):
                self.lent[model] = frozenset(borrowers)

    def _stop_for_good(self, target: StopTarget, value: str) -> None:
        self.stops.add((target, value))
        self.for_good.add((target, value))

    def _grant(self, granted: LeaseGranted, at_ms: int) -> None:
        if granted.lease_id in self.leases or granted.lease_id in self.over:
            raise bad("lease_twice", "it grants a lease that was granted before")
        self._require_not_stopped(granted)
        scopes = path(granted.model, granted.borrower, granted.consumer)
        dimensions = self.counts.get(granted.model)
        if dimensions is None:
            raise bad("unknown_model", "it grants a lease of a model that was never added")
        due = {
            (scope, *counted) for scope in scopes for counted in self.limits.get(scope, {}) if counted[0] in dimensions
        }
        debited = [(key.scope, key.dimension, key.window) for key in granted.rows]
        if not debited or len(set(debited)) != len(debited) or set(debited) != due:
            raise bad("wrong_rows", "it does not debit exactly the limits on its path")
        counted = {key.dimension for key in granted.rows}
        if counted != dimensions or counted != {dimension for dimension, _ in granted.units.items()}:
            raise bad("wrong_rows", "it does not grant and debit exactly what its model meters")
        for key in granted.rows:
            self._hold(key, granted.units.get(key.dimension), at_ms)
        self.leases[granted.lease_id] = Held(granted, self.generation)

    def _charged_row(self, key: RowKey, at_ms: int) -> BudgetRow:
        """Return the row that operators charge; nothing need have been debited from a bucket before."""
        if not self.generation:
            raise bad("no_restore", "it charges for what a restore lost, and there was none")
        if key in self.rows:
            return self.rows[key]
        limit = self.limits.get(key.scope, {}).get((key.dimension, key.window))
        if limit is None:
            raise bad("unknown_row", "it charges a budget that nobody has set")
        if key.bucket_ms > at_ms or bucket_of(key.window, key.bucket_ms) != key.bucket_ms:
            raise bad("wrong_window", "it charges a window that has not begun, or is none")
        return BudgetRow(key=key, limit=limit.limit)

    def _require_not_stopped(self, granted: LeaseGranted) -> None:
        touching = {
            (StopTarget.MODEL, granted.model),
            (StopTarget.BORROWER, granted.borrower),
            (StopTarget.CONSUMER, granted.consumer),
            (StopTarget.ENCLAVE, granted.instance),
        }
        self._require_running(touching, "granted_while_stopped", "it grants a lease")
        self._require_one(granted.instance)
        self._require_lent(granted.model, granted.borrower)

    def _require_lent(self, model: ModelId, borrower: BorrowerId) -> None:
        if borrower not in self.lent.get(model, {borrower}):
            raise bad("not_lent", f"it gives {borrower} something of {model}, which is lent to others")

    def _require_running(self, touching: set[Stop], reason: str, what: str) -> None:
        if found := ({(StopTarget.ALL, "")} | touching) & self.stops:
            target, value = min(found)
            raise bad(reason, f"{what} while {target} {value} is stopped")

    def _hold(self, key: RowKey, units: int, at_ms: int) -> None:
        if key.bucket_ms not in {bucket_of(key.window, at_ms), bucket_of(key.window, max(0, at_ms - _WINDOW_SLACK_MS))}:
            raise bad("wrong_window", "it debits another window than that of its time")
        limit = self.limits[key.scope][key.dimension, key.window]
        if limit.not_after_ms is not None and at_ms - _WINDOW_SLACK_MS >= limit.not_after_ms:
            raise bad("budget_ended", "it debits a budget whose time was over")
        if key not in self.rows:
            self._keep(BudgetRow(key=key, limit=limit.limit))
        row = self.rows[key]
        room = msgspec.structs.replace(row, earlier=self._earlier(key)).room()
        if room is not None and units > room:
            raise bad(
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
        held = self._known(closed.lease_id)
        self._require_one(held.granted.instance)
        was, units = held.state, held.granted.units
        next_state(was, LeaseEvent.FINAL_REPORT)
        if closed.late != (was is LeaseState.EXPIRED):
            raise bad("wrong_close", "it says wrongly whether the lease had expired")
        if not units.covers(closed.used):
            raise bad("wrong_close", "it reports more use than the lease had units")
        for dimension in Dimension:  # also those that the lease has not, of which nothing can have been used
            if closed.charged.get(dimension) not in {units.get(dimension), closed.used.get(dimension)}:
                raise bad("wrong_charge", "it charges neither what was used nor the whole lease")
        if held.generation < self.refunds_from and closed.charged != units:
            raise bad("wrong_charge", "it refunds a lease from before all was charged, which may have been used since")
        for key in held.granted.rows:
            granted, charged = units.get(key.dimension), closed.charged.get(key.dimension)
            row = self.rows[key]
            self.rows[key] = row.refund(granted - charged) if closed.late else row.settle(granted, charged)
        self._settle(closed.lease_id)

    def _known(self, lease_id: LeaseId) -> Held:
        held = self.leases.get(lease_id)
        if held is None and lease_id in self.over:
            raise bad("inconsistent", "it is about a lease that was over before")
        if held is None:
            raise bad("unknown_lease", "it is about a lease that was never granted")
        return held

    def _settle(self, lease_id: LeaseId) -> None:
        del self.leases[lease_id]
        self.over.add(lease_id)
