"""The custodian of the simulation: what the real one does in one transaction, with `ledger.book.apply`.

As in the real store, a transaction loads the rows and the lease that an event touches, and what it writes is seen by
others only once it is committed.
"""

from collections.abc import Callable, Iterator
from types import MappingProxyType

import msgspec
from tests.simulation.scene import CONSUMERS, CUSTODIAN, MANIFEST, MODEL, NORTH, TTL_MS, WIPE_AFTER_MS, Scene, Violation
from tests.simulation.witness import Stop, Witness

from aigovtool.codec import encode
from aigovtool.ids import BorrowerId, ConsumerId, InstanceId, LeaseId, MessageId, digest_of
from aigovtool.ledger.book import Book, Draw, Effects, Event, Expire, Outcome, ReportUsage
from aigovtool.ledger.budget import BudgetLimit, BudgetRow, RowKey, Scope, Window, bucket_of
from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.lease import Lease, LeaseState
from aigovtool.ledger.policy import GRACE_MS, default_policy
from aigovtool.ledger.units import Dimension
from aigovtool.protocol.messages import Ack, Answer, Deny, DenyCode, Grant, Renew, Report, Want, Wiped
from aigovtool.protocol.stop import ActiveStop, StopState, concerns

Apply = Callable[[Book, Event], Effects]

_COUNTED = Dimension.INFERENCES
_DENIALS = {
    Outcome.EXHAUSTED: DenyCode.EXHAUSTED,
    Outcome.RESERVED: DenyCode.RESERVED,
    Outcome.CAPPED: DenyCode.CAPPED,
    Outcome.INSUFFICIENT: DenyCode.INSUFFICIENT,
    Outcome.NO_BUDGET_ROW: DenyCode.NO_BUDGET_ROW,
}


class Transaction:
    """What one transaction has written so far, over what was committed before."""

    def __init__(self, rows: dict[RowKey, BudgetRow], leases: dict[LeaseId, Lease]) -> None:
        self._rows, self._leases = rows, leases
        self.rows: dict[RowKey, BudgetRow] = {}
        self.leases: dict[LeaseId, Lease] = {}

    def row(self, key: RowKey) -> BudgetRow | None:
        """Return a row as this transaction sees it."""
        return self.rows.get(key) or self._rows.get(key)

    def lease(self, lease_id: LeaseId) -> Lease | None:
        """Return a lease as this transaction sees it."""
        return self.leases.get(lease_id) or self._leases.get(lease_id)

    def book_of(self, lease_id: LeaseId) -> Book:
        """Return a lease and the rows that it debited."""
        lease = self.lease(lease_id)
        if lease is None:
            return Book()
        rows = {key: row for key in lease.rows if (row := self.row(key)) is not None}
        return Book(rows=MappingProxyType(rows), leases=MappingProxyType({lease_id: lease}))

    def write(self, effects: Effects) -> None:
        """Write what an event did."""
        self.rows.update((row.key, row) for row in effects.rows)
        self.leases.update((lease.lease_id, lease) for lease in effects.leases)


class Custodian:
    """Budgets, leases and stops; one method is one transaction."""

    def __init__(self, scene: Scene, witness: Witness, apply: Apply) -> None:
        self.scene = scene
        self.witness = witness
        self.apply = apply
        self.rows: dict[RowKey, BudgetRow] = {}
        self.leases: dict[LeaseId, Lease] = {}
        self.unclosed: dict[LeaseId, Lease] = {}
        self.offset_ms = 0
        self.clock_ms = 0
        self.down_until_ms = 0
        self.recalled_ms = -1_000
        self.epoch = 1
        self.stops: dict[tuple[StopTarget, str], Stop] = {}
        self.answers: dict[tuple[InstanceId, MessageId], Answer] = {}
        self.gone: set[InstanceId] = set()
        self.limits = self._limits(scene.rng.choice(scene.weather.scales))
        chosen = default_policy(scene.rng.choice(scene.weather.dials), ttl_ms=TTL_MS)
        self.policy = msgspec.structs.replace(
            chosen,
            wipe_after_ms=WIPE_AFTER_MS,
            max_unclosed_percent_per_instance=scene.rng.choice((10, 60)),
            max_unclosed_percent_per_borrower=80,
        )

    @staticmethod
    def _limits(scale: float) -> list[BudgetLimit]:
        anna, bert, carl = (Scope(model=MODEL, borrower=b, consumer=c) for b, cs in CONSUMERS.items() for c in cs)

        def limit(scope: Scope, units: int | None, window: Window = Window.LIFETIME) -> BudgetLimit:
            scaled = None if units is None else int(units * scale)
            return BudgetLimit(scope=scope, dimension=_COUNTED, window=window, limit=scaled)

        return [
            limit(Scope(model=MODEL), 240),
            limit(Scope(model=MODEL, borrower=NORTH), 170),
            limit(anna, 130),
            limit(bert, 70, Window.HOUR),
            limit(bert, None),
            limit(carl, 100),
        ]

    # -- Time and rows ----------------------------------------------------------------------------

    def now(self) -> int:
        """Return the custodian's time, which never goes back."""
        self.clock_ms = max(self.clock_ms, self.scene.ms + self.offset_ms)
        return self.clock_ms

    def is_down(self) -> bool:
        """Return whether the custodian's process is being restarted."""
        return self.scene.ms < self.down_until_ms

    def begin(self) -> Transaction:
        """Begin a transaction."""
        return Transaction(self.rows, self.leases)

    def commit(self, writes: Transaction) -> None:
        """Make a transaction's writes durable."""
        self.rows.update(writes.rows)
        self.leases.update(writes.leases)
        for lease in writes.leases.values():
            if lease.unclosed():
                self.unclosed[lease.lease_id] = lease
            else:
                self.unclosed.pop(lease.lease_id, None)
        self.witness.committed(writes.rows.values(), writes.leases.values())

    def raise_limit(self) -> None:
        """Carry out an operator's grant of more budget."""
        place = self.scene.rng.randrange(len(self.limits))
        limit = self.limits[place]
        if limit.limit is None:
            return
        self.limits[place] = limit = msgspec.structs.replace(limit, limit=limit.limit + 20)
        self.scene.tell("operator", "raises the limit of {} to {}", limit.scope, limit.limit)
        writes = self.begin()
        for key, row in self.rows.items():
            if key.scope == limit.scope and key.window is limit.window:
                writes.rows[key] = msgspec.structs.replace(row, limit=limit.limit)
        self.commit(writes)

    def rows_now(self, writes: Transaction, now_ms: int) -> dict[RowKey, BudgetRow]:
        """Return the rows of the windows that hold `now_ms`, fresh ones where there is none yet."""
        found: dict[RowKey, BudgetRow] = {}
        for limit in self.limits:
            bucket_ms = bucket_of(limit.window, now_ms)
            key = RowKey(scope=limit.scope, dimension=limit.dimension, window=limit.window, bucket_ms=bucket_ms)
            found[key] = writes.row(key) or BudgetRow(key=key, limit=limit.limit)
        return found

    # -- Stops ------------------------------------------------------------------------------------

    def set_stop(self, target: StopTarget, value: str, *, active: bool) -> None:
        """Carry out an operator's stop or resume."""
        self.epoch += 1
        self.stops[target, value] = Stop(target, value, self.epoch, active, self.scene.ms)
        self.scene.tell("operator", "{} {} {}, epoch {}", "stops" if active else "resumes", target, value, self.epoch)

    def touching(self, instance: InstanceId, borrower: BorrowerId) -> list[Stop]:
        """Return every stop, in force or lifted, that concerns an instance."""
        where = {"instance": instance, "borrower": borrower, "models": [MODEL]}
        return [s for (t, v), s in self.stops.items() if concerns(t, v, **where)]  # type: ignore[arg-type]

    def stop_state(self, instance: InstanceId, borrower: BorrowerId) -> StopState:
        """Return the signed stop state of an instance."""
        touching = self.touching(instance, borrower)
        return StopState(
            instance=instance,
            epoch=self.epoch,
            scope_epoch=max((stop.epoch for stop in touching), default=0),
            stops=[ActiveStop(target=s.target, value=s.value, epoch=s.epoch) for s in touching if s.active],
        )

    # -- Transactions -----------------------------------------------------------------------------

    def renew(self, request: Renew, borrower: BorrowerId, *, refundable: bool) -> tuple[Answer, StopState]:
        """Take reports and grant leases; the same request again has the same answer."""
        state = self.stop_state(request.instance, borrower)
        before = self.answered(request)
        if before is not None:
            self.scene.seen["repeated_answer"] += 1
            return before, state
        now_ms = self.now()
        writes = self.begin()
        self.sweep(writes, now_ms)
        for report in request.reports:
            self.take_report(writes, request.instance, report)
        results = [
            self.draw(writes, request.instance, borrower, want, state, refundable=refundable) for want in request.wants
        ]
        answer = Answer(
            custodian=CUSTODIAN,
            instance=request.instance,
            request_id=request.request_id,
            generation=0,
            epoch=self.epoch,
            server_time_ms=now_ms,
            head=0,
            ttl_ms=0 if state.is_wide() or request.instance in self.gone else TTL_MS,
            results=results,
            acks=[Ack(lease_id=report.lease_id, seq=report.seq) for report in request.reports],
        )
        self.answers[request.instance, request.request_id] = answer
        self.commit(writes)
        return answer, state

    def answered(self, request: Renew) -> Answer | None:
        """Return the answer that was given to this request before."""
        return self.answers.get((request.instance, request.request_id))

    def wiped(self, statement: Wiped) -> None:
        """Take the final reports of an instance that has wiped itself."""
        writes = self.begin()
        self.gone.add(statement.instance)
        for report in statement.reports:
            self.take_report(writes, statement.instance, report)
        self.commit(writes)

    def sweep(self, writes: Transaction, now_ms: int) -> None:
        """Charge overdue leases in full."""
        for lease in list(self.unclosed.values()):
            if lease.overdue(now_ms):
                event = Expire(lease_id=lease.lease_id, now_ms=now_ms)
                self.write(writes, self.take(writes.book_of(lease.lease_id), event))

    def write(self, writes: Transaction, effects: Effects) -> None:
        """Write what an event did."""
        writes.write(effects)

    def take(self, before: Book, event: Event) -> Effects:
        """Apply one event."""
        effects = self.apply(before, event)
        self.scene.seen[effects.outcome.value] += 1
        if effects.outcome is Outcome.CLOSED and effects.leases[0].state is LeaseState.CLOSED_LATE:
            self.scene.seen["closed_late"] += 1
        if effects.outcome is not Outcome.IGNORED:
            self.scene.tell("custodian", "{}: {}", effects.outcome.value, _Event(event))
        return effects

    def take_report(self, writes: Transaction, instance: InstanceId, report: Report) -> None:
        """Take one report. In a history without an attacker nobody is ever called a fork."""
        event = ReportUsage(
            instance=instance,
            lease_id=report.lease_id,
            seq=report.seq,
            used=report.used,
            ok=report.ok,
            err=report.err,
            final=report.final,
            digest=digest_of(encode(report)),
        )
        effects = self.take(writes.book_of(report.lease_id), event)
        if effects.outcome is Outcome.FORKED:
            raise Violation("fork", f"an honest enclave is called a fork over {report}")
        self.write(writes, effects)

    def draw(
        self,
        writes: Transaction,
        instance: InstanceId,
        borrower: BorrowerId,
        want: Want,
        state: StopState,
        *,
        refundable: bool,
    ) -> Grant | Deny:
        """Grant a lease, or say why not."""
        if instance in self.gone or self.refused(state, want.consumer):
            return Deny(model=MODEL, consumer=want.consumer, code=DenyCode.STOPPED)
        event = self.drawn(writes, instance, borrower, want, refundable=refundable)
        effects = self.take(Book(rows=MappingProxyType(self.rows_now(writes, event.now_ms))), event)
        if effects.outcome is not Outcome.GRANTED:
            code, left = _DENIALS[effects.outcome], effects.available
            return Deny(model=MODEL, consumer=want.consumer, code=code, available=left, retry_after_ms=2_000)
        self.write(writes, effects)
        stops, held = self.touching(instance, borrower), list(self.held(writes))
        self.witness.granted(effects, want.minimum, self.policy, stops, held)
        (lease,) = effects.leases
        return Grant(
            lease_id=lease.lease_id,
            model=MODEL,
            consumer=want.consumer,
            units=lease.units,
            ttl_ms=lease.ttl_ms,
            policy=lease.policy,
            path_remaining=effects.available,
        )

    def refused(self, state: StopState, consumer: ConsumerId) -> bool:
        """Return whether a stop forbids a grant."""
        return state.is_wide() or state.stops_consumer(consumer)

    def drawn(
        self,
        writes: Transaction,
        instance: InstanceId,
        borrower: BorrowerId,
        want: Want,
        *,
        refundable: bool,
    ) -> Draw:
        """Return a wish as the ledger takes it."""
        held = [one for one in self.held(writes) if one.borrower == borrower]
        return Draw(
            lease_id=LeaseId(f"{self.scene.number():032x}"),
            instance=instance,
            borrower=borrower,
            model=MODEL,
            manifest=MANIFEST,
            consumer=want.consumer,
            minimum=want.minimum,
            target=want.target,
            policy=self.policy,
            refundable=refundable,
            held_by_instance=sum(one.units.inferences for one in held if one.instance == instance),
            held_by_borrower=sum(one.units.inferences for one in held),
            ttl_ms=TTL_MS,
            grace_ms=GRACE_MS,
            now_ms=self.now(),
        )

    def held(self, writes: Transaction) -> Iterator[Lease]:
        """Yield every lease whose holder may still be using it, as far as anyone can know."""
        for lease in {**self.unclosed, **writes.leases}.values():
            if lease.unclosed():
                yield lease

    def would_grant(self, instance: InstanceId, borrower: BorrowerId, consumer: ConsumerId) -> bool:
        """Return whether one unit would be granted at this moment; nothing is written."""
        writes = self.begin()
        want = Want(model=MODEL, consumer=consumer, minimum=1, target=1)
        event = self.drawn(writes, instance, borrower, want, refundable=True)
        rows = MappingProxyType(self.rows_now(writes, event.now_ms))
        return self.apply(Book(rows=rows), event).outcome is Outcome.GRANTED


class _Event:
    """Writes an event for a trace, only when somebody reads it."""

    def __init__(self, event: Event) -> None:
        self._event = event

    def __str__(self) -> str:
        event = self._event
        number = int(event.lease_id, 16)
        match event:
            case Expire():
                return f"lease {number}"
            case ReportUsage():
                last = ", final" if event.final else ""
                return f"report {event.seq} on lease {number}: {event.used.inferences} used{last}"
            case Draw():
                return f"lease {number} for {event.consumer}: at least {event.minimum}, better {event.target}"
