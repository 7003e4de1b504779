"""The witness: compares what was released with what the ledger holds, by arithmetic of its own.

It sees every committed lease and row, and every released unit. It looks at what changed after each step, and at
everything once more at the end, so that a fault in its own running sums would show.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.simulation.scene import STOP_BOUND_MS, WIPE_BOUND_MS, Scene, Violation

from aigovtool.ids import BorrowerId, ConsumerId, LeaseId
from aigovtool.ledger.book import Effects
from aigovtool.ledger.budget import BudgetRow, RowKey, Window
from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.lease import Lease, LeaseState
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.protocol.reservation import Reservation
from aigovtool.protocol.stop import StopState


@dataclass
class Stop:
    """A stop as it was ordered, and when."""

    target: StopTarget
    value: str
    epoch: int
    active: bool
    since_ms: int


def charge_of(lease: Lease) -> int:
    """Say what a lease must weigh on its rows, independently of how the ledger counts."""
    whole = lease.unclosed() or not lease.refundable
    return lease.units.inferences if whole else lease.seen.inferences


@dataclass
class Witness:
    """Every lease, every row and every released unit of one history."""

    scene: Scene
    leases: dict[LeaseId, Lease] = field(default_factory=dict)
    rows: dict[RowKey, BudgetRow] = field(default_factory=dict)
    by_lease: Counter[LeaseId] = field(default_factory=Counter)
    by_row: Counter[RowKey] = field(default_factory=Counter)
    posted: Counter[RowKey] = field(default_factory=Counter)
    pending: Counter[RowKey] = field(default_factory=Counter)
    charged: int = 0
    released_units: int = 0
    #: Unit-milliseconds during which something was charged that had not been released.
    idle_unit_ms: int = 0
    served_ms: dict[ConsumerId, int] = field(default_factory=dict)
    _leases_to_check: set[LeaseId] = field(default_factory=set)
    _rows_to_check: set[RowKey] = field(default_factory=set)

    # -- What happened ----------------------------------------------------------------------------

    def committed(self, rows: Iterable[BudgetRow], leases: Iterable[Lease]) -> None:
        """Take what a transaction of the custodian has written."""
        for lease in leases:
            before = self.leases.get(lease.lease_id)
            if before is not None:
                self._weigh(before, -1)
            self._weigh(lease, 1)
            self.leases[lease.lease_id] = lease
            self._leases_to_check.add(lease.lease_id)
        for row in rows:
            self.rows[row.key] = row
            self._rows_to_check.add(row.key)

    def _weigh(self, lease: Lease, sign: int) -> None:
        charge = sign * charge_of(lease)
        self.charged += charge
        side = self.pending if lease.state is LeaseState.PENDING else self.posted
        for key in lease.rows:
            side[key] += charge
            self._rows_to_check.add(key)

    @staticmethod
    def granted(grant: Effects, minimum: int, policy: ServingPolicy, stops: list[Stop], held: list[Lease]) -> None:
        """Check what must hold when a lease is granted: nothing is stopped, and not too much is outstanding.

        `held` are all leases that are outstanding then, the new one among them.
        """
        (lease,) = grant.leases
        for stop in stops:
            if stop.active and (stop.target is not StopTarget.CONSUMER or stop.value == lease.consumer):
                raise Violation("stop", f"a lease was granted while {stop.target} {stop.value} is stopped")
        mine = sum(one.units.inferences for one in held if one.instance == lease.instance)
        together = sum(one.units.inferences for one in held if one.borrower == lease.borrower)
        limits = [
            row.limit
            for row in grant.rows
            if row.limit is not None and row.key.window is Window.LIFETIME and row.key.scope.consumer is None
        ]
        shared = min(limits, default=policy.max_lease_units)
        for name, units, percent in (
            ("an instance", mine, policy.max_unclosed_percent_per_instance),
            ("a borrower", together, policy.max_unclosed_percent_per_borrower),
        ):
            share = max(shared * percent // 100, 2 * minimum)
            if units > share:
                raise Violation("cap", f"{units} units are outstanding with {name} whose share is {share}")

    def released(self, who: str, reservation: Reservation, borrower: BorrowerId, stops: list[Stop]) -> None:
        """Take an answer that left an enclave, and check the bound of every stop that concerns it."""
        lease = self.leases.get(reservation.lease_id)
        self.scene.tell(who, "releases {} to {} on lease {}", reservation.units, reservation.consumer, name_of(lease))
        self.scene.seen["released"] += reservation.units
        if lease is None or lease.borrower != borrower or lease.consumer != reservation.consumer:
            raise Violation("overspend", "units of a lease that the ledger does not know were used")
        self.by_lease[lease.lease_id] += reservation.units
        self.released_units += reservation.units
        self._leases_to_check.add(lease.lease_id)
        for key in lease.rows:
            self.by_row[key] += reservation.units
            self._rows_to_check.add(key)
        self.served_ms.setdefault(reservation.consumer, self.scene.ms)
        for stop in stops:
            over_ms = self.scene.ms - stop.since_ms - STOP_BOUND_MS
            applies = stop.target is not StopTarget.CONSUMER or stop.value == reservation.consumer
            if stop.active and applies and over_ms > 0:
                raise Violation("stop", f"an answer left {over_ms} ms after the bound of a stop of {stop.target}")

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
        for lease in self.leases.values():
            self._check_lease(lease)
            for key in lease.rows:
                (pending if lease.state is LeaseState.PENDING else posted)[key] += charge_of(lease)
        for key in self.rows:
            self._check_row(key, posted[key], pending[key])

    def _check_lease(self, lease: Lease) -> None:
        if self.by_lease[lease.lease_id] > charge_of(lease):
            raise Violation(
                "overspend",
                f"{self.by_lease[lease.lease_id]} released, {charge_of(lease)} charged on lease {name_of(lease)}",
            )

    def _check_row(self, key: RowKey, posted: int, pending: int) -> None:
        row = self.rows.get(key)
        if row is None or (row.posted, row.pending) != (posted, pending):
            raise Violation("ledger", f"leases add up to {posted} spent and {pending} held, not to {row}")
        if row.limit is not None and max(self.by_row[key], row.posted + row.pending) > row.limit:
            raise Violation("overspend", f"{self.by_row[key]} were released under {row}")


def name_of(lease: Lease | None) -> str:
    """Return a short name for a trace."""
    return "?" if lease is None else f"{int(lease.lease_id, 16)} ({lease.state.value}, {lease.units.inferences})"
