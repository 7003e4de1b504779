"""The custodian of the simulation: what the real one does in one transaction, with `ledger.book.apply`.

As in the real store, a transaction loads the rows and the lease that an event touches, and what it writes is seen by
others only once it is committed. Several processes (replicas), each with its own clock, take turns on one ledger.
"""

from collections.abc import Iterable, Iterator
from functools import reduce
from types import MappingProxyType

from tests.simulation.books import Admitted, Stop, Transaction
from tests.simulation.office import Office, Replica
from tests.simulation.scene import CUSTODIAN, MANIFEST, MODEL, TTL_MS, Violation
from tests.simulation.telling import told

from aigovtool.codec import encode
from aigovtool.custodian.custodian import rolled_back
from aigovtool.custodian.service.grants import _DENIALS, _RETRY_AFTER_MS, _deny
from aigovtool.custodian.store.renewals import Answered
from aigovtool.errors import ConflictError
from aigovtool.ids import BorrowerId, ConsumerId, InstanceId, LeaseId, digest_of
from aigovtool.ledger import entry
from aigovtool.ledger.book import Book, Draw, Effects, Event, Expire, Outcome, ReportUsage
from aigovtool.ledger.budget import BudgetRow, RowKey, rooms
from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.lease import Lease, LeaseState
from aigovtool.ledger.policy import GRACE_MS
from aigovtool.ledger.units import ZERO, UnitVector
from aigovtool.protocol.messages import (
    Ack,
    Answer,
    Deny,
    DenyCode,
    Grant,
    PathRoom,
    Renew,
    Report,
    Want,
    Wiped,
    terms_of,
)
from aigovtool.protocol.stop import StopState


def total(amounts: Iterable[UnitVector]) -> UnitVector:
    """Return the sum."""
    return reduce(UnitVector.plus, amounts, ZERO)


class Custodian(Office):
    """Budgets and leases; one method is one transaction."""

    #: Whether the checkpoint counts that is shown by an instance which this ledger does not know. An enclave that is
    #: refused as unknown shows it on its own, before it boots again.
    hears_strangers = True

    # -- Renewal ----------------------------------------------------------------------------------

    def renew(self, replica: Replica, request: Renew) -> tuple[Answer, StopState]:
        """Take reports and grant leases; the same request again has the same answer, an older one has none.

        Raises:
            ForbiddenError: the instance is not known.
            LedgerRollbackError: the ledger has a gap, or a newer renewal was answered.
        """
        writes = self.begin(replica)
        if request.instance not in self.ledger.instances and not self.hears_strangers:
            self.scene.seen["unheard"] += self.witness.memory.is_forgotten(request.checkpoint_seen, self.ledger)
            self.require(request.instance)
        if self.has_gap(writes, request.checkpoint_seen):
            self.commit(writes)
            self.witness.memory.noticed = True
            self.announced()
            raise rolled_back()
        self.memory.note_epoch(writes, request.epoch)
        if writes.head.epoch > self.ledger.head.epoch:
            self.commit(writes)
            writes = self.begin(replica)
        self.witness.memory.heard(request.checkpoint_seen, self.ledger)
        instance = self.require(request.instance)
        state = self.stop_state(request.instance, instance.borrower)
        shown = self.memory.place(request.checkpoint_seen)
        if self.is_superseded(request, shown):
            self.refuse_superseded(writes, request)
        before = self.answered(request)
        if before is not None:
            self.scene.seen["repeated_answer"] += 1
            return before, state
        answer = self.answer(writes, instance, request, state)
        known, _ = self.ledger.answers.get(request.instance, (None, None))
        answered = Answered(request.request_id, shown) if known is None else known.then(request.request_id, shown)
        writes.answers[request.instance] = (answered, answer)
        self.commit(writes)
        self.changes_at[request.request_id] = (answer, self.changes)
        self.witness.memory.noted(answer.checkpoint, self.ledger)
        self.witness.memory.answered(answer, instance, self.ledger)
        self.witness.carried_out(answer)
        return answer, state

    def is_superseded(self, request: Renew, shown: tuple[int, int]) -> bool:
        """Return whether a renewal is older than one of its instance that was answered."""
        known, _ = self.ledger.answers.get(request.instance, (None, None))
        return known is not None and known.supersedes(request.request_id, shown)

    def refuse_superseded(self, writes: Transaction, request: Renew) -> None:
        """Refuse an older renewal, which may still show that there are two copies of its instance.

        Raises:
            ConflictError: always. Nobody waits for that: an enclave has one renewal outstanding.
        """
        self.find_fork(writes, request.instance, request.reports)
        self.commit(writes)
        self.scene.seen["superseded"] += 1
        raise ConflictError("a newer renewal was answered since", reason="request_superseded")

    def has_gap(self, writes: Transaction, note: str) -> bool:
        """Take the checkpoint that a renewal returns; return whether the ledger has a gap."""
        return self.memory.note_gap(writes, note)

    def answer(self, writes: Transaction, instance: Admitted, request: Renew, state: StopState) -> Answer:
        """Carry out a renewal."""
        self.sweep(writes)
        if self.scene.weather.clone and self.scene.chance(self.scene.weather.clone / 2):
            self.contradict(writes, request.instance)
        reported = self.take_reports(writes, request.instance, request.reports)
        results = [self.draw(writes, request.instance, instance, want, state) for want in request.wants]
        stopped = state.is_wide() or self.is_gone(writes, request.instance) or self.is_outdated(writes, instance)
        return Answer(
            custodian=CUSTODIAN,
            instance=request.instance,
            request_id=request.request_id,
            generation=writes.head.generation,
            epoch=writes.head.epoch,
            server_time_ms=writes.now_ms,
            checkpoint=self.memory.note(writes.head),
            ttl_ms=0 if stopped else TTL_MS,
            results=results,
            acks=[Ack(lease_id=report.lease_id, seq=report.seq) for report in request.reports],
            rooms=self.rooms(writes, instance.borrower, reported | {want.consumer for want in request.wants}),
            terms=(terms_of(MODEL, self.policy),),
        )

    def rooms(self, writes: Transaction, borrower: BorrowerId, consumers: set[ConsumerId]) -> list[PathRoom]:
        """Return what is left on each path that was reported on or wanted, after all of this renewal."""
        found = []
        for consumer in sorted(consumers):
            left = rooms(self.rows_now(writes, borrower, consumer).values(), writes.now_ms)
            found += [PathRoom(model=MODEL, consumer=consumer, dimension=d, units=units) for d, units in left.items()]
        return found

    def is_gone(self, writes: Transaction, instance: InstanceId) -> bool:
        """Return whether an instance has wiped itself, or is forked."""
        return instance in writes.gone | self.ledger.gone

    def is_outdated(self, writes: Transaction, instance: Admitted) -> bool:
        """Return whether an instance was admitted in an earlier generation."""
        return instance.generation < writes.head.generation

    def answered(self, request: Renew) -> Answer | None:
        """Return the answer that was given to this request before."""
        known, answer = self.ledger.answers.get(request.instance, (None, None))
        return answer if known is not None and known.request_id == request.request_id else None

    def wiped(self, replica: Replica, statement: Wiped) -> None:
        """Take the final reports of an instance that has wiped itself.

        Raises:
            ForbiddenError: the instance is not known.
            LedgerRollbackError: the ledger has a gap.
        """
        self.require(statement.instance)
        writes = self.begin(replica)
        self.take_reports(writes, statement.instance, statement.reports)
        if statement.instance not in self.ledger.gone:
            writes.gone.add(statement.instance)
            writes.record(entry.Wiped(instance=statement.instance, epoch=statement.epoch))
        self.commit(writes)

    def sweep(self, writes: Transaction) -> None:
        """Charge overdue leases in full."""
        for lease in list(self.ledger.unclosed.values()):
            if lease.overdue(writes.now_ms):
                event = Expire(lease_id=lease.lease_id, now_ms=writes.now_ms)
                self.write(writes, self.take(writes.book_of(lease.lease_id), event))
                writes.record(entry.LeaseExpired(lease_id=lease.lease_id))

    def write(self, writes: Transaction, effects: Effects) -> None:
        """Write what an event did."""
        writes.write(effects)

    def take(self, before: Book, event: Event) -> Effects:
        """Apply one event."""
        effects = self.apply(before, event)
        self.scene.seen[effects.outcome.value] += 1
        if effects.outcome is not Outcome.IGNORED and self.scene.tracing:
            self.scene.tell("custodian", "{}: {}", effects.outcome.value, told(event))
        return effects

    # -- Reports ----------------------------------------------------------------------------------

    def take_reports(self, writes: Transaction, instance: InstanceId, reports: list[Report]) -> set[ConsumerId]:
        """Take reports, and return whose leases they are about; none counts once two copies of it were seen."""
        found: set[ConsumerId] = set()
        if self.is_forked(writes, instance) or self.find_fork(writes, instance, reports):
            return found
        for report in reports:
            consumer = self.take_report(writes, instance, report)
            found |= set() if consumer is None else {consumer}
        return found

    def is_forked(self, writes: Transaction, instance: InstanceId) -> bool:
        """Return whether two copies of an instance were seen."""
        return instance in writes.forked | self.ledger.forked

    def find_fork(self, writes: Transaction, instance: InstanceId, reports: list[Report]) -> bool:
        """Stop an instance if a report contradicts what is known of its lease; nothing else of it counts then."""
        if self.is_forked(writes, instance):
            return False
        for report in reports:
            before = self.counted(writes, instance, report.lease_id)
            if self.apply(before, self.event(instance, report)).outcome is Outcome.FORKED:
                self.forked(writes, instance, report)
                return True
        return False

    @staticmethod
    def event(instance: InstanceId, report: Report) -> ReportUsage:
        """Return a report as the ledger takes it."""
        return ReportUsage(
            instance=instance,
            lease_id=report.lease_id,
            seq=report.seq,
            used=report.used,
            ok=report.ok,
            err=report.err,
            final=report.final,
            digest=digest_of(encode(report)),
        )

    def take_report(self, writes: Transaction, instance: InstanceId, report: Report) -> ConsumerId | None:
        """Take one report, and return whose lease it is about, if it is known here.

        In a history without an attacker nobody is ever called a fork.
        """
        before = writes.lease(report.lease_id)
        effects = self.take(self.counted(writes, instance, report.lease_id), self.event(instance, report))
        if effects.outcome is Outcome.FORKED:
            self.forked(writes, instance, report)
        self.write(writes, effects)
        if before is None:
            return None
        if before.state is LeaseState.WRITTEN_OFF:
            self.scene.seen["written_off_reported"] += report.final
        if effects.outcome is Outcome.CLOSED:
            self._record_close(writes, effects.leases[0], report)
        return before.consumer

    def counted(self, writes: Transaction, instance: InstanceId, lease_id: LeaseId) -> Book:
        """Return a lease that an instance reports on, as it counts now, and the rows that it debited."""
        known, generation = writes.book_of(lease_id), self.ledger.instances[instance].generation
        held = {key: self.memory.counted(writes.head, generation, lease) for key, lease in known.leases.items()}
        return Book(rows=known.rows, leases=MappingProxyType(held))

    def contradict(self, writes: Transaction, instance: InstanceId) -> None:
        """Let a copy of an instance, of which nothing else is seen here, report otherwise on one of its leases.

        Such a copy needs a broken TEE. What the ledger holds against the instance must stand from then on.
        """
        reported = [one for one in self.ledger.unclosed.values() if one.instance == instance and one.seq]
        if reported and not self.is_forked(writes, instance):
            lease = self.scene.rng.choice(reported)
            lie = Report(
                lease_id=lease.lease_id,
                seq=lease.seq,
                used=lease.seen,
                ok=lease.ok + 1,
                err=lease.err,
                final=False,
                receipts="",
            )
            self.scene.cloned.add(instance)
            self.find_fork(writes, instance, [lie])

    def forked(self, writes: Transaction, instance: InstanceId, report: Report) -> None:
        """Stop an instance of which two copies contradict each other. An honest one is never called a fork."""
        if instance not in self.scene.cloned:
            raise Violation("fork", f"an honest enclave is called a fork over {report}")
        self.scene.seen["fork_found"] += 1
        epoch = writes.next_epoch()
        writes.stops[StopTarget.ENCLAVE, instance] = Stop(StopTarget.ENCLAVE, instance, epoch, True, self.scene.ms)
        writes.gone.add(instance)
        writes.forked.add(instance)
        writes.record(entry.Forked(instance=instance, lease_id=report.lease_id, epoch=epoch))

    def _record_close(self, writes: Transaction, lease: Lease, report: Report) -> None:
        late = lease.state is LeaseState.CLOSED_LATE
        self.scene.seen["closed_late"] += late
        charged = lease.seen if lease.refundable else lease.units
        writes.record(
            entry.LeaseClosed(
                lease_id=lease.lease_id,
                late=late,
                used=lease.seen,
                charged=charged,
                ok=lease.ok,
                err=lease.err,
                receipts=report.receipts,
            )
        )

    # -- Grants -----------------------------------------------------------------------------------

    def draw(
        self, writes: Transaction, instance: InstanceId, admitted: Admitted, want: Want, state: StopState
    ) -> Grant | Deny:
        """Grant a lease, or say why not."""
        if self.is_gone(writes, instance) or self.refused(state, want.consumer):
            return self.denied(want, DenyCode.STOPPED)
        if self.is_outdated(writes, admitted):
            return self.denied(want, DenyCode.REATTEST)
        quiet_ms = self.quiet_ms(writes)
        if quiet_ms > 0:
            self.scene.seen["quiet"] += 1
            return self.denied(want, DenyCode.RESERVED, wait_ms=quiet_ms)
        event = self.drawn(writes, instance, admitted, want)
        rows = self.debits(writes, admitted.borrower, want.consumer)
        effects = self.take(Book(rows=MappingProxyType(rows)), event)
        if effects.outcome is not Outcome.GRANTED:
            code = _DENIALS[effects.outcome]
            wait_ms = 0 if code is DenyCode.EXHAUSTED else _RETRY_AFTER_MS
            return self.denied(want, code, wait_ms=wait_ms, effects=effects)
        self.write(writes, effects)
        return self._granted(writes, effects, want)

    @staticmethod
    def denied(want: Want, code: DenyCode, *, wait_ms: int = 0, effects: Effects | None = None) -> Deny:
        """Return a denial."""
        return _deny(want, code, retry_after_ms=wait_ms, effects=effects)

    def debits(self, writes: Transaction, borrower: BorrowerId, consumer: ConsumerId) -> dict[RowKey, BudgetRow]:
        """Return the rows that a grant debits."""
        return self.rows_now(writes, borrower, consumer)

    def _granted(self, writes: Transaction, effects: Effects, want: Want) -> Grant:
        (lease,) = effects.leases
        writes.record(
            entry.LeaseGranted(
                lease_id=lease.lease_id,
                instance=lease.instance,
                borrower=lease.borrower,
                model=MODEL,
                consumer=lease.consumer,
                units=lease.units,
                rows=lease.rows,
                request=lease.request,
            )
        )
        stops, held = self.touching(lease.instance, lease.borrower), list(self.held(writes))
        self.witness.granted(lease, minimum=want.minimum, policy=self.policy, stops=stops, held=held, writes=writes)
        return Grant(
            lease_id=lease.lease_id,
            model=MODEL,
            consumer=want.consumer,
            units=lease.units,
            ttl_ms=lease.ttl_ms,
            policy=lease.policy,
            request=lease.request,
        )

    def refused(self, state: StopState, consumer: ConsumerId) -> bool:
        """Return whether a stop forbids a grant."""
        return state.is_wide() or state.stops_consumer(consumer)

    def quiet_ms(self, writes: Transaction) -> int:
        """Return how long nothing is granted yet after a gap was settled."""
        return writes.head.quiet_until_ms - writes.now_ms

    def drawn(self, writes: Transaction, instance: InstanceId, admitted: Admitted, want: Want) -> Draw:
        """Return a wish as the ledger takes it."""
        held = [one for one in self.held(writes) if one.borrower == admitted.borrower]
        return Draw(
            lease_id=LeaseId(f"{self.scene.number():032x}"),
            instance=instance,
            borrower=admitted.borrower,
            model=MODEL,
            manifest=MANIFEST,
            consumer=want.consumer,
            minimum=want.minimum,
            target=want.target,
            policy=self.policy,
            refundable=admitted.refundable,
            held_by_instance=total(one.units for one in held if one.instance == instance),
            held_by_borrower=total(one.units for one in held),
            ttl_ms=TTL_MS,
            grace_ms=GRACE_MS,
            now_ms=writes.now_ms,
            request=want.request,
        )

    def held(self, writes: Transaction) -> Iterator[Lease]:
        """Yield every lease whose holder may still be using it, as far as anyone can know."""
        for lease in {**self.ledger.unclosed, **writes.leases}.values():
            if lease.unclosed():
                yield lease

    def would_grant(self, instance: InstanceId, borrower: BorrowerId, consumer: ConsumerId) -> bool:
        """Return whether the least request would be granted its units at this moment; nothing is written."""
        writes = self.begin(self.replicas[0])
        least = self.policy.least
        want = Want(model=MODEL, consumer=consumer, minimum=least, target=least)
        event = self.drawn(writes, instance, Admitted(borrower, 0, refundable=True), want)
        rows = MappingProxyType(self.rows_now(writes, borrower, consumer))
        return self.apply(Book(rows=rows), event).outcome is Outcome.GRANTED
