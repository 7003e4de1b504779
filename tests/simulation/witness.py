"""The witness: compares what was released with what the ledger holds, by arithmetic of its own.

It sees every committed lease and row, and every released unit. It looks at what changed after each step, and at
everything once more at the end, so that a fault in its own running sums would show.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from tests.simulation.books import Ledger, Stop, Transaction
from tests.simulation.budgets import on_path
from tests.simulation.remembrance import Remembrance
from tests.simulation.scene import STOP_BOUND_MS, WIPE_BOUND_MS, Scene, Violation

from aigovtool.ids import BorrowerId, ConsumerId, Digest, InstanceId, LeaseId, MessageId
from aigovtool.ledger.budget import ROLLING, BudgetLimit, BudgetRow, RowKey, Window, key_now
from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.lease import Lease, LeaseState
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.ledger.units import ZERO, Dimension, UnitVector
from aigovtool.protocol.messages import Answer, Grant
from aigovtool.protocol.reservation import Reservation
from aigovtool.protocol.stop import StopState

_CLOSED = frozenset({LeaseState.CLOSED, LeaseState.CLOSED_LATE})
_FINAL = _CLOSED | {LeaseState.WRITTEN_OFF}


def charge_of(lease: Lease) -> UnitVector:
    """Say what a lease must weigh on its rows, independently of how the ledger counts."""
    whole = lease.unclosed() or lease.state is LeaseState.WRITTEN_OFF or not lease.refundable
    return lease.units if whole else lease.seen


@dataclass
class Witness:
    """Every lease, every row and every released unit of one history."""

    scene: Scene
    leases: dict[LeaseId, Lease] = field(default_factory=dict)
    rows: dict[RowKey, BudgetRow] = field(default_factory=dict)
    by_lease: defaultdict[LeaseId, UnitVector] = field(default_factory=lambda: defaultdict(lambda: ZERO))
    by_row: Counter[RowKey] = field(default_factory=Counter)
    _by_copy: defaultdict[tuple[LeaseId, str], UnitVector] = field(default_factory=lambda: defaultdict(lambda: ZERO))
    posted: Counter[RowKey] = field(default_factory=Counter)
    pending: Counter[RowKey] = field(default_factory=Counter)
    charges: Counter[RowKey] = field(default_factory=Counter)
    #: The highest limit that each row ever had.
    most: Counter[RowKey] = field(default_factory=Counter)
    memory: Remembrance = field(default_factory=Remembrance)
    #: Renewals that were granted something, as far as the ledger remembers.
    granted_to: set[MessageId] = field(default_factory=set)
    #: Instances that the ledger knows to be two.
    forked: set[InstanceId] = field(default_factory=set)
    #: Inferences, for what is wasted.
    charged: int = 0
    released_units: int = 0
    #: Unit-milliseconds during which something was charged that had not been released.
    idle_unit_ms: int = 0
    served_ms: dict[ConsumerId, int] = field(default_factory=dict)
    _granted_ms: int = 0
    _leases_to_check: set[LeaseId] = field(default_factory=set)
    _rows_to_check: set[RowKey] = field(default_factory=set)

    # -- What happened ----------------------------------------------------------------------------

    def committed(self, writes: Transaction) -> None:
        """Take what a transaction of the custodian has written."""
        self.charges.update(writes.charges)
        self.forked |= writes.forked
        for lease in writes.leases.values():
            before = self.leases.get(lease.lease_id)
            if before is not None:
                if lease.instance in self.forked and lease.state in _CLOSED and before.state not in _FINAL:
                    raise Violation("fork", f"lease {name_of(lease)} of a forked instance is closed by its report")
                if before.state in _FINAL and (lease.state, charge_of(lease)) != (before.state, charge_of(before)):
                    raise Violation("ledger", f"lease {name_of(before)} became {name_of(lease)}")
                if charge_of(lease) != lease.units:
                    self.memory.refunded(lease, writes)
                self._weigh(before, -1)
            self._weigh(lease, 1)
            self._granted_ms = max(self._granted_ms, lease.granted_at_ms)
            self.leases[lease.lease_id] = lease
            self._leases_to_check.add(lease.lease_id)
        for row in writes.rows.values():
            self._keep(row)
        self.memory.committed(writes.head)
        if writes.head.gap is not None:
            self.memory.unnoticed = False

    def _keep(self, row: BudgetRow) -> None:
        self.rows[row.key] = row
        self.most[row.key] = max(self.most[row.key], row.limit or 0)
        self._rows_to_check.add(row.key)

    def _weigh(self, lease: Lease, sign: int) -> None:
        charge = charge_of(lease)
        self.charged += sign * charge.inferences
        side = self.pending if lease.state is LeaseState.PENDING else self.posted
        for key in lease.rows:
            side[key] += sign * charge.get(key.dimension)
            self._rows_to_check.add(key)

    def restored(self, ledger: Ledger, *, watched: bool) -> None:
        """The ledger is now an old copy; `watched`: somebody who remembers more looks before it serves."""
        self.check()
        self.memory.restored(ledger.head, watched=watched)
        self.forked = set(ledger.forked)
        self.granted_to.clear()
        for key, lease in ledger.leases.items():
            if lease.unclosed() and not self.leases[key].unclosed():
                self.memory.closed[key] = self._in_truth(self.leases[key])
        self.leases.update(ledger.leases)
        self.memory.forgotten = {key: lease for key, lease in self.leases.items() if key not in ledger.leases}
        self.rows, self.charges = dict(ledger.rows), Counter(ledger.charges)
        self.posted, self.pending, self.charged = Counter(), Counter(), 0
        for lease in ledger.leases.values():
            self._weigh(lease, 1)
        self._granted_ms = max((lease.granted_at_ms for lease in ledger.leases.values()), default=0)
        self._rows_to_check = set(self.rows)

    def carried_out(self, answer: Answer) -> None:
        """A renewal was carried out, and not answered as before: that grants it units once."""
        if any(isinstance(result, Grant) for result in answer.results):
            if answer.request_id in self.granted_to:
                raise Violation("ledger", f"renewal {int(answer.request_id, 16)} is granted units once more")
            self.granted_to.add(answer.request_id)

    # -- Grants -----------------------------------------------------------------------------------

    def granted(
        self,
        lease: Lease,
        *,
        minimum: UnitVector,
        policy: ServingPolicy,
        stops: list[Stop],
        held: list[Lease],
        writes: Transaction,
    ) -> None:
        """Check what must hold when a lease is granted.

        `held` are all leases that are outstanding then, the new one among them.
        """
        for stop in stops:
            if stop.active and (stop.target is not StopTarget.CONSUMER or stop.value == lease.consumer):
                raise Violation("stop", f"a lease was granted while {stop.target} {stop.value} is stopped")
        self.memory.granted(lease, writes)
        if lease.granted_at_ms < self._granted_ms:
            raise Violation("time", f"the ledger went back {self._granted_ms - lease.granted_at_ms} ms")
        limits = on_path(writes.ledger.limits, lease.borrower, lease.consumer)
        for limit in limits:
            self._in_time(limit, lease)
            if limit.window in ROLLING:
                self._in_window(limit, lease, writes)
        if self.memory.forgotten and not self.memory.unnoticed:
            self._not_twice(limits, lease, writes)
        _within_share(lease, minimum, policy, held, limits)

    def _not_twice(self, limits: list[BudgetLimit], lease: Lease, writes: Transaction) -> None:
        """What was granted, in truth, and what is granted now are together no more than a limit, in its window.

        But for what was granted before anybody who remembers had looked (`Remembrance.twice`): a settlement for good
        charges what remains, which is less by that, and a limit that is raised later is raised above what remained.
        """
        known, unseen = {**writes.ledger.leases, **writes.leases}, self.memory.unseen
        for limit in limits:
            if limit.limit is None or (self.memory.behind and limit.window is not Window.LIFETIME):
                continue
            every = (one for one in (*known.values(), *self.memory.forgotten.values()) if one.lease_id not in unseen)
            counted = (one for one in map(self._in_truth, every) if _counts(one, limit, lease))
            units = sum(charge_of(one).get(limit.dimension) for one in counted)
            if units > limit.limit:
                raise Violation("overspend", f"with lease {name_of(lease)}, {units} units are granted under {limit}")

    def _in_truth(self, lease: Lease) -> Lease:
        """Return a lease as the ledger closed it that charged least, lost or not.

        What a ledger gives back is what a final report leaves over, after which nothing more is used: that stays true
        where another ledger, before or after, knew of no report and charged in full.
        """
        lost = self.memory.closed.get(lease.lease_id)
        return lease if lost is None or charge_of(lost).covers(charge_of(lease)) else lost

    @staticmethod
    def _in_time(limit: BudgetLimit, lease: Lease) -> None:
        end_ms = limit.not_after_ms
        if end_ms is not None and lease.granted_at_ms + lease.ttl_ms > end_ms:
            raise Violation("ended", f"lease {name_of(lease)} outlives its budget, whose time is over at {end_ms}")

    def _in_window(self, limit: BudgetLimit, lease: Lease, writes: Transaction) -> None:
        """No span of this length has more granted than the limit; the fullest ones end with a grant."""
        known = {**writes.ledger.leases, **writes.leases}
        units = sum(charge_of(one).get(limit.dimension) for one in known.values() if _counts(one, limit, lease))
        if limit.limit is not None and units > limit.limit:
            raise Violation("window", f"{units} units are granted in one span under {limit}")

    def released(
        self,
        who: str,
        reservation: Reservation,
        units: UnitVector,
        *,
        request: Digest,
        borrower: BorrowerId,
        stops: list[Stop],
    ) -> None:
        """Take an answer, or a chunk of one, that left an enclave; check the bound of every stop that concerns it."""
        lease = self.leases.get(reservation.lease_id)
        self.scene.tell(who, "releases {} to {} on lease {}", units, reservation.consumer, name_of(lease))
        self.scene.seen["released"] += units.inferences
        if lease is None or lease.borrower != borrower or lease.consumer != reservation.consumer:
            raise Violation("overspend", "units of a lease that the ledger does not know were used")
        if lease.request not in {None, request}:
            raise Violation("overspend", f"lease {name_of(lease)} of another request serves one of {lease.consumer}")
        fresh = units if lease.request is None else self._not_released_before(who, lease, units)
        self.by_lease[lease.lease_id] = self.by_lease[lease.lease_id].plus(fresh)
        self.released_units += fresh.inferences
        self._leases_to_check.add(lease.lease_id)
        for key in lease.rows:
            self.by_row[key] += fresh.get(key.dimension)
            self._rows_to_check.add(key)
        self.served_ms.setdefault(reservation.consumer, self.scene.ms)
        for stop in stops:
            over_ms = self.scene.ms - stop.since_ms - STOP_BOUND_MS
            applies = stop.target is not StopTarget.CONSUMER or stop.value == reservation.consumer
            if stop.active and applies and over_ms > 0:
                raise Violation("stop", f"an answer left {over_ms} ms after the bound of a stop of {stop.target}")

    def _not_released_before(self, who: str, lease: Lease, units: UnitVector) -> UnitVector:
        """Return what nobody has had yet: copies of an enclave can only repeat what the one request was answered."""
        mine = self._by_copy[lease.lease_id, who] = self._by_copy[lease.lease_id, who].plus(units)
        before = self.by_lease[lease.lease_id]
        return before.highest(mine).minus(before)

    @staticmethod
    def knew(who: str, state: StopState, consumer: ConsumerId) -> None:
        """Check that what has arrived at an enclave is obeyed at once."""
        if state.is_wide() or state.stops_consumer(consumer):
            raise Violation("stop", f"{who} answers {consumer} although it has the stop of epoch {state.scope_epoch}")

    def silent_for(self, who: str, silent_ms: int) -> None:
        """Check the dead-man switch of an enclave that is not wiped although nobody answered for so long."""
        if silent_ms > WIPE_BOUND_MS:
            raise Violation("silence", f"{who} is not wiped after {silent_ms} ms without an answer")

    def passed(self, elapsed_ms: int) -> None:
        """Count what was held idle while time passed."""
        self.idle_unit_ms += max(0, self.charged - self.released_units) * elapsed_ms

    # -- Checks -----------------------------------------------------------------------------------

    def check(self) -> None:
        """Check every lease and row that changed since the last time."""
        for lease_id in self._leases_to_check:
            self._check_lease(self.leases[lease_id])
        for key in self._rows_to_check:
            self._check_row(key, self.posted[key], self.pending[key])
        self._leases_to_check.clear()
        self._rows_to_check.clear()

    def check_everything(self) -> None:
        """Check every lease and row, with sums made afresh."""
        posted: Counter[RowKey] = Counter()
        pending: Counter[RowKey] = Counter()
        for lease_id, lease in self.leases.items():
            self._check_lease(lease)
            if lease_id not in self.memory.forgotten:
                for key in lease.rows:
                    side = pending if lease.state is LeaseState.PENDING else posted
                    side[key] += charge_of(lease).get(key.dimension)
        for key in self.rows:
            self._check_row(key, posted[key], pending[key])

    def _check_lease(self, lease: Lease) -> None:
        charge = lease.units if lease.lease_id in self.memory.forgotten else charge_of(lease)
        released = self.by_lease.get(lease.lease_id, ZERO)
        if not charge.covers(released):
            raise Violation("overspend", f"{released} released, {charge} charged on lease {name_of(lease)}")

    def _check_row(self, key: RowKey, posted: int, pending: int) -> None:
        row = self.rows.get(key)
        charged = posted + self.charges[key]
        if (row.posted, row.pending) != (charged, pending) if row is not None else charged + pending:
            raise Violation("ledger", f"leases and charges are {charged} spent and {pending} held, not {row}")
        if row is not None and row.limit is not None and posted + pending > row.limit:
            raise Violation("overspend", f"{posted + pending} were granted under {row}")
        # Windows trust the ledger's clock, which a restore may set back: then only what it knows is compared.
        if self.most[key] and (key.window is Window.LIFETIME or not self.memory.behind):
            over = self.by_row[key] - self.most[key] - self.memory.twice[key]
            if over > 0:
                raise Violation("overspend", f"{over} units too many were released under {key}")

    def released_twice(self) -> int:
        """Return how many units left above a lifetime's limit because nobody who remembers had looked in time."""
        limited = (key for key in self.by_row if self.most[key] and key.window is Window.LIFETIME)
        return max([0, *(self.by_row[key] - self.most[key] for key in limited)])

    def room_of(
        self, ledger: Ledger, borrower: BorrowerId, consumer: ConsumerId, dimension: Dimension, now_ms: int
    ) -> int | None:
        """Say what could be granted on a path at a time of the ledger; `None` where nothing limits it."""
        rooms = []
        limits = on_path(ledger.limits, borrower, consumer)
        for limit in (one for one in limits if one.dimension is dimension):
            if limit.not_after_ms is not None and now_ms >= limit.not_after_ms:
                return 0
            if limit.limit is not None:
                keys = self._counted(limit, now_ms)
                used = sum(self.posted[key] + self.charges[key] + self.pending[key] for key in keys)
                rooms.append(max(0, limit.limit - used))
        return min(rooms, default=None)

    def _counted(self, limit: BudgetLimit, now_ms: int) -> list[RowKey]:
        if limit.window not in ROLLING:
            return [key_now(limit, now_ms)]
        span_ms, bucket_ms = ROLLING[limit.window]
        oldest_ms = (now_ms - span_ms) // bucket_ms * bucket_ms
        return [key for key in self.rows if _is_under(key, limit) and key.bucket_ms >= oldest_ms]

    def told_rooms(
        self, who: str, answer: Answer, borrower: BorrowerId, told: dict[tuple[ConsumerId, Dimension], int], at: Ledger
    ) -> None:
        """Check what an enclave tells consumers to be left, right after an answer of a ledger that has not changed."""
        self.scene.seen["rooms"] += len(answer.rooms)
        for (consumer, dimension), units in told.items():
            room = self.room_of(at, borrower, consumer, dimension, answer.server_time_ms)
            if room is not None and units > room:
                raise Violation("rooms", f"{who} tells {consumer} that {units} {dimension} are left, and {room} are")


def _counts(one: Lease, limit: BudgetLimit, newest: Lease) -> bool:
    """Return whether a lease counts under a limit beside the newest one: in its bucket, or its rolling span."""
    if limit.window in ROLLING:
        since_ms = newest.granted_at_ms - ROLLING[limit.window][0]
        return one.granted_at_ms > since_ms and any(_is_under(key, limit) for key in one.rows)
    return key_now(limit, newest.granted_at_ms) in one.rows


def _is_under(key: RowKey, limit: BudgetLimit) -> bool:
    return (key.scope, key.dimension, key.window) == (limit.scope, limit.dimension, limit.window)


def _within_share(
    lease: Lease, minimum: UnitVector, policy: ServingPolicy, held: list[Lease], limits: list[BudgetLimit]
) -> None:
    mine = [one for one in held if one.instance == lease.instance]
    ours = [one for one in held if one.borrower == lease.borrower]
    for dimension in policy.counts:
        shared = min(
            (
                limit.limit
                for limit in limits
                if limit.limit is not None
                and limit.dimension is dimension
                and limit.window is Window.LIFETIME
                and limit.scope.consumer is None
            ),
            default=policy.max_lease_units,
        )
        for name, percent, holders in (
            ("an instance", policy.max_unclosed_percent_per_instance, mine),
            ("a borrower", policy.max_unclosed_percent_per_borrower, ours),
        ):
            units = sum(one.units.get(dimension) for one in holders)
            share = max(shared * percent // 100, 2 * max(1, minimum.get(dimension)))
            if units > share:
                raise Violation("cap", f"{units} {dimension} are outstanding with {name} whose share is {share}")


def name_of(lease: Lease | None) -> str:
    """Return a short name for a trace."""
    return "?" if lease is None else f"{int(lease.lease_id, 16)} ({lease.state.value}, {lease.units})"
