"""The production ledger and the production meter, joined by a hostile world, never release more than was granted.

One seed is one history: messages are lost, repeated, reordered and delayed up to 40 s, enclaves crash and come
back, the custodian's clock jumps, operators stop and resume, and a host withholds every message from the moment of a
stop. After each step the ledger and the released outputs are compared. The custodian below does what the real one
does in one transaction, with `ledger.book.apply`; the enclave does what the real one does, with `protocol.metering`.

A simulation that finds nothing proves something only if it finds what is wrong: each mutant breaks one rule, and the
same checks must catch it.
"""

import copy
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

import msgspec
import pytest

from aigovtool.codec import encode
from aigovtool.errors import ConflictError, RefusalError
from aigovtool.ids import BorrowerId, ConsumerId, Digest, InstanceId, KeyId, LeaseId, MessageId, ModelId, digest_of
from aigovtool.ledger import book as ledger
from aigovtool.ledger.book import Book, Draw, Effects, Event, Expire, Outcome, ReportUsage
from aigovtool.ledger.budget import BudgetLimit, BudgetRow, RowKey, Scope, Window, bucket_of, row_for
from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.lease import Lease, LeaseState
from aigovtool.ledger.policy import CLOCK_RATE_ERROR_PPM, GRACE_MS, Dial, default_policy
from aigovtool.ledger.receipt import Receipt
from aigovtool.ledger.units import Dimension
from aigovtool.protocol.messages import Ack, Answer, Deny, DenyCode, Grant, Renew, Report, Want, Wiped
from aigovtool.protocol.metering import Meter, Posted, Reservation
from aigovtool.protocol.stop import ActiveStop, StopState, concerns

SEEDS = 60
STEPS = 300
# Two minutes before an hour begins, so that windows change during a history.
START_MS = 1_700_000_000_000 // 3_600_000 * 3_600_000 - 120_000
TTL_MS = 30_000
STOP_BOUND_MS = TTL_MS + TTL_MS * CLOCK_RATE_ERROR_PPM // 1_000_000 + 2  # and two for rounding

MODEL = ModelId("digits")
NORTH, SOUTH = BorrowerId("north"), BorrowerId("south")
CONSUMERS = {NORTH: [ConsumerId("anna"), ConsumerId("bert")], SOUTH: [ConsumerId("carl")]}
CUSTODIAN = KeyId("c" * 64)
MANIFEST = Digest("sha256:" + "d" * 64)
COUNTED = Dimension.INFERENCES

_DENIALS = {
    Outcome.EXHAUSTED: DenyCode.EXHAUSTED,
    Outcome.RESERVED: DenyCode.RESERVED,
    Outcome.CAPPED: DenyCode.CAPPED,
    Outcome.INSUFFICIENT: DenyCode.INSUFFICIENT,
    Outcome.NO_BUDGET_ROW: DenyCode.NO_BUDGET_ROW,
}


class Violation(Exception):  # noqa: N818 -- it is what was looked for, not an error of the simulation
    """Something that must never happen did: `kind` is overspend, ledger, stop or fork."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.kind = kind


@dataclass
class Stop:
    epoch: int
    active: bool
    since_ms: int


class Custodian:
    """Budgets, leases and stops; one method is one transaction."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.book = Book()
        self.offset_ms = 0
        self.clock_ms = 0
        self.epoch = 1
        self.lease_number = 0
        self.stops: dict[tuple[StopTarget, str], Stop] = {}
        self.answers: dict[tuple[InstanceId, MessageId], Answer] = {}
        anna, bert, carl = (Scope(model=MODEL, borrower=b, consumer=c) for b, cs in CONSUMERS.items() for c in cs)
        self.limits = [
            self.limit(Scope(model=MODEL), 260),
            self.limit(Scope(model=MODEL, borrower=NORTH), 150),
            self.limit(anna, 60),
            self.limit(bert, 40, Window.HOUR),
            self.limit(bert, None),
            self.limit(carl, 45),
        ]
        chosen = default_policy(world.rng.choice(list(Dial)), ttl_ms=TTL_MS)
        self.policy = msgspec.structs.replace(
            chosen,
            wipe_after_ms=90_000,
            max_unclosed_percent_per_instance=world.rng.choice((10, 60)),
            max_unclosed_percent_per_borrower=80,
        )

    @staticmethod
    def limit(scope: Scope, units: int | None, window: Window = Window.LIFETIME) -> BudgetLimit:
        return BudgetLimit(scope=scope, dimension=COUNTED, window=window, limit=units)

    def now(self) -> int:
        self.clock_ms = max(self.clock_ms, self.world.ms + self.offset_ms)
        return self.clock_ms

    def commit(self, after: Book) -> None:
        self.book = after
        self.world.ledger_changed = True

    def raise_limit(self) -> None:
        place = self.world.rng.randrange(len(self.limits))
        limit = self.limits[place]
        if limit.limit is not None:
            self.limits[place] = limit = msgspec.structs.replace(limit, limit=limit.limit + 20)
            found = (row for key, row in self.book.rows.items() if self.row_key(limit, key.bucket_ms) == key)
            rows = tuple(msgspec.structs.replace(row, limit=limit.limit) for row in found)
            self.commit(self.book.after(Effects(Outcome.RECORDED, rows=rows)))

    @staticmethod
    def row_key(limit: BudgetLimit, bucket_ms: int) -> RowKey:
        return RowKey(scope=limit.scope, dimension=limit.dimension, window=limit.window, bucket_ms=bucket_ms)

    def rows_now(self, book: Book, now_ms: int) -> MappingProxyType[RowKey, BudgetRow]:
        keys = {self.row_key(limit, bucket_of(limit.window, now_ms)): limit for limit in self.limits}
        return MappingProxyType({key: book.rows.get(key) or row_for(lim, now_ms) for key, lim in keys.items()})

    # -- Stops ----------------------------------------------------------------------------------

    def set_stop(self, target: StopTarget, value: str, *, active: bool) -> None:
        self.epoch += 1
        self.stops[target, value] = Stop(self.epoch, active, self.world.ms)

    def touching(self, enclave: "Enclave") -> list[tuple[StopTarget, str, Stop]]:
        where = {"instance": enclave.instance, "borrower": enclave.borrower, "models": [MODEL]}
        return [(t, v, s) for (t, v), s in self.stops.items() if concerns(t, v, **where)]  # type: ignore[arg-type]

    def stop_state(self, enclave: "Enclave") -> StopState:
        touching = self.touching(enclave)
        return StopState(
            instance=enclave.instance,
            epoch=self.epoch,
            scope_epoch=max((stop.epoch for _, _, stop in touching), default=0),
            stops=[ActiveStop(target=t, value=v, epoch=s.epoch) for t, v, s in touching if s.active],
        )

    # -- Transactions ---------------------------------------------------------------------------

    def renew(self, enclave: "Enclave", request: Renew) -> tuple[Answer, StopState]:
        state = self.stop_state(enclave)
        if before := self.answers.get((request.instance, request.request_id)):
            return before, state
        now_ms = self.now()
        after = self.swept(self.book, now_ms)
        for report in request.reports:
            after = self.reported(after, request.instance, report)
        results: list[Grant | Deny] = []
        for want in request.wants:
            result, after = self.drawn(after, enclave, want, state)
            results.append(result)
        answer = Answer(
            custodian=CUSTODIAN,
            instance=request.instance,
            request_id=request.request_id,
            generation=0,
            epoch=self.epoch,
            server_time_ms=now_ms,
            head=0,
            ttl_ms=0 if state.is_wide() else TTL_MS,
            results=results,
            acks=[Ack(lease_id=report.lease_id, seq=report.seq) for report in request.reports],
        )
        self.answers[request.instance, request.request_id] = answer
        self.commit(after)
        return answer, state

    def wiped(self, statement: Wiped) -> None:
        after = self.book
        for report in statement.reports:
            after = self.reported(after, statement.instance, report)
        self.commit(after)

    def swept(self, before: Book, now_ms: int) -> Book:
        after = before
        for lease in before.leases.values():
            if lease.overdue(now_ms):
                after = after.after(self.take(after, Expire(lease_id=lease.lease_id, now_ms=now_ms)))
        return after

    def take(self, before: Book, event: Event) -> Effects:
        effects = self.world.rules.apply(before, event)
        self.world.seen[effects.outcome.value] += 1
        if effects.outcome is Outcome.CLOSED and effects.leases[0].state is LeaseState.CLOSED_LATE:
            self.world.seen["closed_late"] += 1
        return effects

    def reported(self, before: Book, instance: InstanceId, report: Report) -> Book:
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
        effects = self.take(before, event)
        if effects.outcome is Outcome.FORKED:
            raise Violation("fork", f"an honest enclave is called a fork over {report}")
        return before.after(effects)

    def drawn(self, before: Book, enclave: "Enclave", want: Want, state: StopState) -> tuple[Grant | Deny, Book]:
        if state.is_wide() or state.stops_consumer(want.consumer):
            return Deny(model=MODEL, consumer=want.consumer, code=DenyCode.STOPPED), before
        held = [lease for lease in before.leases.values() if lease.unclosed() and lease.borrower == enclave.borrower]
        now_ms = self.now()
        self.lease_number += 1
        event = Draw(
            lease_id=LeaseId(f"{self.lease_number:032x}"),
            instance=enclave.instance,
            borrower=enclave.borrower,
            model=MODEL,
            manifest=MANIFEST,
            consumer=want.consumer,
            minimum=want.minimum,
            target=want.target,
            policy=self.policy,
            refundable=enclave.refundable,
            held_by_instance=sum(h.units.inferences for h in held if h.instance == enclave.instance),
            held_by_borrower=sum(h.units.inferences for h in held),
            ttl_ms=TTL_MS,
            grace_ms=GRACE_MS,
            now_ms=now_ms,
        )
        effects = self.take(Book(rows=self.rows_now(before, now_ms)), event)
        if effects.outcome is not Outcome.GRANTED:
            code = _DENIALS[effects.outcome]
            left = effects.available
            return Deny(model=MODEL, consumer=want.consumer, code=code, available=left, retry_after_ms=2_000), before
        (lease,) = effects.leases
        grant = Grant(
            lease_id=lease.lease_id,
            model=MODEL,
            consumer=want.consumer,
            units=lease.units,
            ttl_ms=lease.ttl_ms,
            policy=lease.policy,
            path_remaining=effects.available,
        )
        return grant, before.after(effects)


class Enclave:
    """One boot of one instance, and the host that carries its messages."""

    def __init__(self, world: "World", borrower: BorrowerId) -> None:
        self.world = world
        self.rng = world.rng
        self.borrower = borrower
        self.instance = InstanceId(f"{world.number():064x}")
        self.refundable = self.rng.random() < 0.8
        self.boot_ms = world.ms
        self.rate = 1 - self.rng.random() * CLOCK_RATE_ERROR_PPM / 1_000_000
        self.alive = True
        self.censored = False
        self.held_back = False
        self.jobs: list[tuple[Reservation, float]] = []
        self.waiting: list[tuple[ConsumerId, int]] = []
        self.sent_ms = -10_000
        self.statement: Wiped | None = None
        self.meter = world.rules.meter(
            instance=self.instance,
            custodian=CUSTODIAN,
            policies={MODEL: world.custodian.policy},
            stop_state=world.custodian.stop_state(self),
            admitted_ms=0,
        )
        self.snapshot = self.meter
        self.refused = self.meter.stop_state.is_wide()

    def now(self) -> int:
        """Return the elapsed time by a clock that may be slow by the stated error."""
        return int((self.world.ms - self.boot_ms) * self.rate)

    def act(self) -> None:
        if self.refused:  # it is not admitted while it is stopped
            if not self.world.custodian.stop_state(self).is_wide():
                self.world.reboot(self)
            return
        now_ms = self.now()
        engine_died = self.rng.random() < 0.006
        if self.statement is None and (engine_died or self.meter.must_wipe(now_ms)):
            self.jobs.clear()
            self.waiting.clear()
            (self.statement,) = self.meter.wipe()
            self.world.seen["wipe"] += 1
        if self.statement is not None:
            if now_ms - self.sent_ms > 2_000:
                self.sent_ms = now_ms
                self.world.carry(self, partial(self.world.take_wiped, self, self.statement))
            return
        if self.meter.renew_due(now_ms) and now_ms - self.sent_ms > 1_500:
            self.sent_ms = now_ms
            request = self.meter.renew(now_ms, MessageId(f"{self.world.number():032x}"))
            self.world.carry(self, partial(self.world.take_renewal, self, request))
        self.finish_jobs()
        self.start_jobs()
        if self.world.rules.restores_state and self.rng.random() < 0.1:
            self.snapshot = copy.deepcopy(self.meter)

    def start_jobs(self) -> None:
        fresh = [
            (self.rng.choice(CONSUMERS[self.borrower]), self.rng.choice((1, 1, 1, 2, 5)))
            for _ in range(self.rng.choice((0, 1, 2, 6)))
        ]
        tried, self.waiting = [(c, u, True) for c, u in self.waiting] + [(c, u, False) for c, u in fresh], []
        for consumer, units, waited in tried:
            if waited and self.rng.random() < 0.15:
                self.meter.waiting(MODEL, consumer, -1)  # its deadline has passed
                continue
            try:
                reservation = self.meter.reserve(self.now(), MODEL, consumer, units)
            except RefusalError as refusal:
                self.world.seen[refusal.code] += 1
                if waited:
                    self.meter.waiting(MODEL, consumer, -1)
                continue
            if reservation is None:
                self.waiting.append((consumer, units))
            else:
                self.jobs.append((reservation, self.rng.choice((0.02, 0.3, 0.9))))
            if waited != (reservation is None):
                self.meter.waiting(MODEL, consumer, 1 if reservation is None else -1)

    def finish_jobs(self) -> None:
        unfinished: list[tuple[Reservation, float]] = []
        for reservation, speed in self.jobs:
            if self.rng.random() > speed:
                unfinished.append((reservation, speed))
            elif self.rng.random() < 0.05:
                self.meter.void(reservation, failed=True)
            else:
                self.release(reservation)
        self.jobs = unfinished

    def release(self, reservation: Reservation) -> None:
        try:
            self.meter.gate(self.now(), reservation)
        except RefusalError:
            self.meter.void(reservation, failed=False)
            self.world.seen["discarded"] += 1
            return
        self.meter.post(reservation, reservation.units)
        self.world.released(self, reservation)

    def take_answer(self, answer: Answer, state: StopState) -> None:
        if not self.alive or self.statement is not None:
            return
        self.meter.apply_stop_state(state)
        try:
            self.meter.accept(self.now(), answer)
        except ConflictError:
            self.world.seen["replay_refused"] += 1
        else:
            self.sent_ms = -10_000

    def take_push(self, state: StopState) -> None:
        if self.alive and self.statement is None:
            self.meter.apply_stop_state(state)

    def take_nudge(self, *, granted: bool, recall: bool) -> None:
        if self.alive and self.statement is None:
            self.meter.nudge(self.now(), granted=granted, recall=recall)

    def take_acknowledgement(self, statement: Wiped) -> None:
        self.meter.acknowledge_wipe(statement)
        if self.alive:
            self.world.reboot(self)


@dataclass(frozen=True)
class Rules:
    """The rules in force; a mutant replaces one."""

    meter: type[Meter] = Meter
    apply: Callable[[Book, Event], Effects] = ledger.apply
    custodian: type[Custodian] = Custodian
    restores_state: bool = False


@dataclass
class World:
    """Time, the network, the hosts, and the checks."""

    seed: int
    rules: Rules
    ms: int = START_MS
    ledger_changed: bool = True
    numbers: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    by_lease: Counter[LeaseId] = field(default_factory=Counter)
    by_row: Counter[RowKey] = field(default_factory=Counter)
    network: list[tuple[int, Enclave, Callable[[], None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.custodian = self.rules.custodian(self)
        self.enclaves = [Enclave(self, borrower) for borrower in (NORTH, NORTH, SOUTH)]

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def run(self) -> "World":
        for _ in range(STEPS):
            self.step()
        return self

    def step(self) -> None:
        self.ms += self.rng.choice((0, 40, 300, 900, 3_000))
        due = [message for at_ms, _, message in self.network if at_ms <= self.ms]
        self.network = [held for held in self.network if held[0] > self.ms]
        self.rng.shuffle(due)
        for message in due:
            message()
        for enclave in list(self.enclaves):
            enclave.act()
        self.faults()
        self.check()

    # -- Network --------------------------------------------------------------------------------

    def carry(self, enclave: Enclave, message: Callable[[], None]) -> None:
        """Lose, repeat, delay; a censoring host passes nothing on to its enclave that was sent after the stop."""
        copies = 0 if self.rng.random() < 0.25 else self.rng.choice((1, 1, 1, 2, 3))
        delays = (15_000, 25_000, 40_000) if enclave.held_back else (0, 20, 200, 500, 3_000)
        for _ in range(copies):
            delay_ms = 40_000 if self.rng.random() < 0.05 else self.rng.choice(delays)
            self.network.append((self.ms + delay_ms, enclave, message))
        self.seen["lost" if copies == 0 else "repeated" if copies > 1 else "carried"] += 1
        self.seen["censored"] += int(enclave.censored)

    def to_enclave(self, enclave: Enclave, message: Callable[[], None]) -> None:
        if not enclave.censored:
            self.carry(enclave, message)

    def take_renewal(self, enclave: Enclave, request: Renew) -> None:
        answer, state = self.custodian.renew(enclave, request)
        self.to_enclave(enclave, partial(enclave.take_answer, answer, state))

    def take_wiped(self, enclave: Enclave, statement: Wiped) -> None:
        self.custodian.wiped(statement)
        self.to_enclave(enclave, partial(enclave.take_acknowledgement, statement))

    # -- Faults ---------------------------------------------------------------------------------

    def faults(self) -> None:
        rng, custodian = self.rng, self.custodian
        if rng.random() < 0.01:
            self.crash(rng.choice(self.enclaves))
        if rng.random() < 0.03:
            enclave = rng.choice(self.enclaves)
            enclave.held_back = rng.random() < 0.4
        if rng.random() < 0.01:
            custodian.offset_ms += rng.choice((-200_000, 200_000, 40_000))
        if rng.random() < 0.01:
            custodian.raise_limit()
            self.hint(granted=True, recall=False)
        if rng.random() < 0.02:
            self.hint(granted=False, recall=True)
        if rng.random() < 0.012:
            self.stop()
        for (target, value), stop in list(custodian.stops.items()):
            if stop.active and self.ms - stop.since_ms > STOP_BOUND_MS + 15_000 and rng.random() < 0.1:
                custodian.set_stop(target, value, active=False)
                self.seen["resume"] += 1
                for enclave in self.enclaves:
                    enclave.censored = False

    def hint(self, *, granted: bool, recall: bool) -> None:
        for enclave in self.enclaves:
            self.to_enclave(enclave, partial(enclave.take_nudge, granted=granted, recall=recall))

    def stop(self) -> None:
        enclave = self.rng.choice(self.enclaves)
        target, value = self.rng.choice(
            [
                (StopTarget.ALL, ""),
                (StopTarget.MODEL, MODEL),
                (StopTarget.BORROWER, enclave.borrower),
                (StopTarget.ENCLAVE, enclave.instance),
                (StopTarget.CONSUMER, self.rng.choice(CONSUMERS[enclave.borrower])),
            ]
        )
        if (target, value) in self.custodian.stops and self.custodian.stops[target, value].active:
            return
        self.custodian.set_stop(target, value, active=True)
        self.seen["stop"] += 1
        for each in self.enclaves:
            each.censored = each.censored or self.rng.random() < 0.6
            self.to_enclave(each, partial(each.take_push, self.custodian.stop_state(each)))
        # What was sent before the stop, a censoring host plays out as late as is useful to it.
        self.network = [
            (max(at_ms, self.ms + self.rng.choice((0, 15_000, 28_000)) * of.censored), of, message)
            for at_ms, of, message in self.network
        ]

    def crash(self, enclave: Enclave) -> None:
        self.seen["crash"] += 1
        if self.rules.restores_state:
            enclave.jobs.clear()
            enclave.waiting.clear()
            enclave.meter = copy.deepcopy(enclave.snapshot)
            return
        self.reboot(enclave)

    def reboot(self, enclave: Enclave) -> None:
        enclave.alive = False
        self.enclaves[self.enclaves.index(enclave)] = Enclave(self, enclave.borrower)

    # -- Checks ---------------------------------------------------------------------------------

    def released(self, enclave: Enclave, reservation: Reservation) -> None:
        self.seen["released"] += reservation.units
        self.ledger_changed = True
        lease = self.custodian.book.leases.get(reservation.lease_id)
        if lease is None:
            raise Violation("overspend", "units of a lease that the ledger does not know were used")
        self.by_lease[lease.lease_id] += reservation.units
        for key in lease.rows:
            self.by_row[key] += reservation.units
        for target, value, stop in self.custodian.touching(enclave):
            over_ms = self.ms - stop.since_ms - STOP_BOUND_MS
            applies = target is not StopTarget.CONSUMER or value == reservation.consumer
            if stop.active and applies and over_ms > 0:
                raise Violation("stop", f"an answer left {over_ms} ms after the bound of a stop of {target} {value}")

    def check(self) -> None:
        if not self.ledger_changed:
            return
        self.ledger_changed = False
        book = self.custodian.book
        posted: Counter[RowKey] = Counter()
        pending: Counter[RowKey] = Counter()
        for lease in book.leases.values():
            charge = charge_of(lease)
            if self.by_lease[lease.lease_id] > charge:
                raise Violation("overspend", f"{self.by_lease[lease.lease_id]} released, {charge} charged: {lease}")
            for key in lease.rows:
                (pending if lease.state is LeaseState.PENDING else posted)[key] += charge
        for key, row in book.rows.items():
            if (row.posted, row.pending) != (posted[key], pending[key]):
                raise Violation("ledger", f"leases add up to {posted[key]} and {pending[key]}, not to {row}")
            if row.limit is not None and max(self.by_row[key], row.posted + row.pending) > row.limit:
                raise Violation("overspend", f"{self.by_row[key]} were released under {row}")


def charge_of(lease: Lease) -> int:
    """Say what a lease must weigh on its rows, independently of how the ledger counts."""
    whole = lease.state in {LeaseState.PENDING, LeaseState.EXPIRED} or not lease.refundable
    return lease.units.inferences if whole else lease.seen.inferences


# --- The rules hold ----------------------------------------------------------------------------


def test_no_history_overspends_outlives_a_stop_or_raises_a_false_alarm() -> None:
    """In 60 histories of 300 steps every check holds after each step, and everything that can happen did."""
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        seen += World(seed, Rules()).run().seen
    happened = (
        "released granted recorded ignored expired closed closed_late exhausted reserved capped insufficient "
        "budget_exhausted budget_reserved lease_capped lease_expired stopped discarded replay_refused "
        "lost repeated censored crash stop resume wipe"
    )
    assert [name for name in happened.split() if not seen[name]] == []


def test_a_history_is_determined_by_its_seed() -> None:
    """The same seed gives the same history, so that a finding can be repeated."""
    first, second = World(7, Rules()).run(), World(7, Rules()).run()
    assert (first.seen, first.ms, first.custodian.book) == (second.seen, second.ms, second.custodian.book)


# --- Mutants: one rule broken ------------------------------------------------------------------


class ChargesAfterOutput(Meter):
    """Looks whether units are there, and debits them only when the answer leaves."""

    def reserve(self, now_ms: int, model: ModelId, consumer: ConsumerId, units: int) -> Reservation | None:
        reservation = super().reserve(now_ms, model, consumer, units)
        if reservation is not None:
            self._holdings[reservation.lease_id].reserved -= units
        return reservation

    def post(self, reservation: Reservation, actual: int, receipt: Receipt | None = None) -> Posted:
        self._holdings[reservation.lease_id].reserved += reservation.units
        return super().post(reservation, actual, receipt)

    def void(self, reservation: Reservation, *, failed: bool) -> None:
        self._holdings[reservation.lease_id].reserved += reservation.units
        super().void(reservation, failed=failed)


class ClosesEarly(Meter):
    """Builds the final report of an expired lease although work is in flight on it."""

    def renew(self, now_ms: int, request_id: MessageId) -> Renew:
        for holding in self._holdings.values():
            if now_ms >= holding.expires_ms:
                holding.closed = True
        return super().renew(now_ms, request_id)

    def post(self, reservation: Reservation, actual: int, receipt: Receipt | None = None) -> Posted:
        if reservation.lease_id not in self._holdings or self._holdings[reservation.lease_id].closed:
            return Posted(lease_id=reservation.lease_id, sequence=0, remaining=0)
        return super().post(reservation, actual, receipt)


class AcceptsReplays(Meter):
    """Takes an answer although no renewal of that name is outstanding."""

    def accept(self, now_ms: int, answer: Answer) -> None:
        if self._outstanding is None:
            self.renew(now_ms, answer.request_id)
        super().accept(now_ms, answer)


class HasNoGate(Meter):
    """Releases whatever was started while there was authority."""

    def gate(self, now_ms: int, reservation: Reservation) -> None:
        pass


class CountsFromReceipt(Meter):
    """Counts authority from when the answer came instead of when it was asked for."""

    def accept(self, now_ms: int, answer: Answer) -> None:
        if self._outstanding is not None:
            self._outstanding = replace(self._outstanding, sent_ms=now_ms)
        super().accept(now_ms, answer)


class RefreshesRetries(Meter):
    """Counts authority from the latest repetition of a renewal instead of from the first."""

    def renew(self, now_ms: int, request_id: MessageId) -> Renew:
        renew = super().renew(now_ms, request_id)
        if self._outstanding is not None:
            self._outstanding = replace(self._outstanding, sent_ms=now_ms)
        return renew


class ReportsDifferences(Meter):
    """Reports what was used since the last report instead of all that was used."""

    def renew(self, now_ms: int, request_id: MessageId) -> Renew:
        repeated = self._outstanding
        renew = super().renew(now_ms, request_id)
        if repeated is None and self._outstanding is not None:
            renew = msgspec.structs.replace(renew, reports=[self._difference(report) for report in renew.reports])
            self._outstanding = replace(self._outstanding, renew=renew)
        return renew

    def wipe(self) -> list[Wiped]:
        (statement,) = super().wipe()
        return [msgspec.structs.replace(statement, reports=[self._difference(r) for r in statement.reports])]

    def _difference(self, report: Report) -> Report:
        told: dict[LeaseId, tuple[int, int]] = self.__dict__.setdefault("told", {})
        seq, before = told.get(report.lease_id, (0, 0))
        if report.seq > seq:
            told[report.lease_id] = (report.seq, report.used.inferences)
            self.__dict__.setdefault("sent", {})[report.lease_id] = report.used.inferences - before
        used = msgspec.structs.replace(report.used, inferences=self.__dict__["sent"][report.lease_id])
        return msgspec.structs.replace(report, used=used)


def adds_differences(book: Book, event: Event) -> Effects:
    if isinstance(event, ReportUsage) and (lease := book.leases.get(event.lease_id)) and event.seq > lease.seq:
        event = replace(event, used=lease.seen.plus(event.used))
    return ledger.apply(book, event)


def refunds_on_timeout(book: Book, event: Event) -> Effects:
    effects = ledger.apply(book, event)
    if effects.outcome is not Outcome.EXPIRED:
        return effects
    (lease,) = effects.leases
    rows = tuple(row.refund(lease.units.inferences - lease.seen.inferences) for row in effects.rows)
    return replace(effects, rows=rows)


def alarms_at_late_reports(book: Book, event: Event) -> Effects:
    if isinstance(event, ReportUsage) and (lease := book.leases.get(event.lease_id)) and event.seq < lease.seq:
        return Effects(Outcome.FORKED)
    return ledger.apply(book, event)


def debits_the_narrowest_row(book: Book, event: Event) -> Effects:
    effects = ledger.apply(book, event)
    if effects.outcome is not Outcome.GRANTED:
        return effects
    return replace(effects, rows=(*(book.rows[row.key] for row in effects.rows[:-1]), effects.rows[-1]))


def refunds_every_late_close(book: Book, event: Event) -> Effects:
    """Refund what an expired lease did not use each time that its final report comes."""
    lease = book.leases.get(event.lease_id) if isinstance(event, ReportUsage) else None
    if lease is None or lease.state is not LeaseState.CLOSED_LATE:
        return ledger.apply(book, event)
    unused = lease.units.inferences - lease.seen.inferences
    return Effects(Outcome.CLOSED, rows=tuple(book.rows[key].refund(unused) for key in lease.rows), leases=(lease,))


class RepliesBeforeCommit(Custodian):
    """Now and then loses what it has already answered."""

    def commit(self, after: Book) -> None:
        if self.world.rng.random() > 0.05:
            super().commit(after)


MUTANTS = {
    "charge after output": (Rules(meter=ChargesAfterOutput), {"overspend"}),
    "early close": (Rules(meter=ClosesEarly), {"overspend"}),
    "replay accepted": (Rules(meter=AcceptsReplays), {"overspend", "stop", "fork"}),
    "no gate": (Rules(meter=HasNoGate), {"stop"}),
    "ttl from receipt": (Rules(meter=CountsFromReceipt), {"stop"}),
    "ttl from retry": (Rules(meter=RefreshesRetries), {"stop"}),
    "delta reports": (Rules(meter=ReportsDifferences, apply=adds_differences), {"overspend", "fork"}),
    "refund on timeout": (Rules(apply=refunds_on_timeout), {"overspend", "ledger"}),
    "late close refunds twice": (Rules(apply=refunds_every_late_close), {"overspend", "ledger"}),
    "late reports alarm": (Rules(apply=alarms_at_late_reports), {"fork"}),
    "one row debited": (Rules(apply=debits_the_narrowest_row), {"overspend", "ledger"}),
    "reply before commit": (Rules(custodian=RepliesBeforeCommit), {"overspend", "ledger", "fork"}),
    "state restored after a crash": (Rules(restores_state=True), {"overspend", "fork", "ledger"}),
}


def first_violation(rules: Rules) -> Violation | None:
    for seed in range(SEEDS):
        try:
            World(seed, rules).run()
        except Violation as violation:
            return violation
    return None


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_the_simulation_catches(name: str) -> None:
    """A protocol with one rule broken violates what that rule protects, within the same seeds."""
    rules, kinds = MUTANTS[name]
    violation = first_violation(rules)
    assert violation is not None
    assert violation.kind in kinds
