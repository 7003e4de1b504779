"""The real custodian and the model side by side: each act goes to both, and after it both say and hold the same."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import select
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL, OTHER, STRANGER, Bench, Enclave, make_bench

from aigovtool.attestation.model import MeasurementHex
from aigovtool.codec import decode
from aigovtool.crypto.identity import IdentityKind
from aigovtool.crypto.sign import Envelope, SigningKey, seal
from aigovtool.custodian.app import open_custodian
from aigovtool.custodian.service import commands, renewal, views
from aigovtool.custodian.store.bodies import decoded
from aigovtool.custodian.store.schema import asks, budget_rows, leases, stops
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import AIGovToolError
from aigovtool.ids import BorrowerId, ConsumerId, MessageId
from aigovtool.ledger.budget import BudgetLimit, RowKey, Scope, Window
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.lease import Lease
from aigovtool.ledger.policy import Dial, ServingPolicy, default_policy
from aigovtool.ledger.units import Dimension
from aigovtool.protocol import commands as acts
from aigovtool.protocol.commands import COMMAND, Act, AskState
from aigovtool.protocol.messages import Answer, Deny, Grant, RenewReply, Report, Want
from aigovtool.testing.simulated_tee.attester import SimulatedPlatform, measure
from assurance.faults.examine import TOTALS, contradictions, read
from assurance.model_ledger import Budget, Holder, Model, Said, Units

SLOTS = 3
#: A second consumer of the first borrower.
NIGHT = ConsumerId("night")
OWNERS = {CONSUMER: BORROWER, NIGHT: BORROWER, STRANGER: OTHER}
PLACES = ((), (BORROWER,), (OTHER,), (BORROWER, CONSUMER), (BORROWER, NIGHT), (OTHER, STRANGER))
#: The dimensions, as the model numbers them.
INFERENCES, COMPUTE = 0, 1
DIMENSIONS = (Dimension.INFERENCES, Dimension.COMPUTE_MS)
#: The most that a request may compute, in milliseconds, where that is metered.
REQUEST_MS = 40
TARGETS = (("all", ""), ("model", MODEL), ("borrower", BORROWER), ("consumer", CONSUMER), ("consumer", STRANGER))
BORROWERS = (BORROWER, BORROWER, OTHER)
_MONTHS_MS = 300 * 86_400_000
#: What is read after each step, built once.
_ROWS: Final = select(budget_rows.c.key, budget_rows.c.posted, budget_rows.c.pending)
_LEASES: Final = select(leases.c.lease_id, leases.c.state, leases.c.inferences, leases.c.compute_ms, leases.c.body)
_STOPS: Final = select(stops.c.target, stops.c.value).where(stops.c.active)
_ASKS: Final = select(asks.c.body).where(asks.c.state == "open")
#: Units as the model has them.
units_of: Final = attrgetter(*DIMENSIONS)
_NUMBER: Final = {dimension.value: number for number, dimension in enumerate(DIMENSIONS)}


@lru_cache
def _measured() -> MeasurementHex:
    """Return the measurement of the installed program, which does not change during a run."""
    return measure()


class Divergence(Exception):  # noqa: N818 -- a finding
    """The custodian and the model differ."""


class Pair:
    """Both ledgers, and three enclaves that are booted again at will."""

    def __init__(self, directory: Path, ledger: str | None, dial: Dial, *, compute: bool) -> None:
        """Set both up: one model, two borrowers with their consumers, a budget of inferences. `compute`: is metered."""
        self.loop = asyncio.new_event_loop()
        self.bench: Bench = make_bench(directory, ledger=ledger)
        self.second = SigningKey.generate()
        self.begun_ms = self.bench.now_ms
        policy = default_policy(dial, compute_ms=REQUEST_MS if compute else None)
        request_max = (0, REQUEST_MS) if compute else (0,)
        owners = {str(consumer): str(borrower) for consumer, borrower in OWNERS.items()}
        self.model = Model(dial.value, policy.ttl_ms, owners, request_max, self.bench.now_ms)
        self.enclaves: list[Enclave] = []
        self.known: list[str] = []
        self.last: list[tuple[Envelope, RenewReply] | None] = [None] * SLOTS
        self.steps = 0
        self.told: list[str] = []
        self.outcomes: Counter[str] = Counter()
        self.asks: dict[tuple[str, str, int], MessageId] = {}
        self._run(self._found(policy))
        for slot in range(SLOTS):
            self.enclaves.append(self._enclave(slot))
            self.boot(slot)
        self.grant(((), "lifetime", INFERENCES), 20_000)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - whatever the work returns
        return self.loop.run_until_complete(work)

    def _enclave(self, slot: int) -> Enclave:
        return Enclave(self.bench, BORROWERS[slot], platform=SimulatedPlatform(_measured()))

    async def _found(self, policy: ServingPolicy) -> None:
        bench = self.bench
        for borrower in (BORROWER, OTHER):
            await bench.add_borrower(borrower)
        for consumer, borrower in OWNERS.items():
            await bench.add_consumer(consumer, borrower)
        await bench.add_party(PartyRole.OPERATOR, "bob", self.second)
        act = msgspec.structs.replace(bench.upload(), borrowers=[BORROWER, OTHER], policy=policy)
        # Two operators: the island dial needs them, and the others do not mind.
        envelope = seal(COMMAND, bench.order(act), bench.key, self.second)
        await commands.execute(bench.custodian, bench.alice, envelope)

    def close(self) -> None:
        """End it."""
        self.bench.custodian.database.close()
        self.loop.close()

    # -- Acts ---------------------------------------------------------------------------------------------

    def wait(self, span_ms: int) -> None:
        """Let time pass; credentials last for a year, and a run does not outlive them."""
        if self.bench.now_ms + span_ms - self.begun_ms > _MONTHS_MS:
            span_ms = 1
        self.bench.now_ms += span_ms
        self._done(f"{span_ms} ms pass")

    def boot(self, slot: int) -> None:
        """Boot the enclave of a slot anew; what it held before nobody will close."""
        enclave = self._enclave(slot)
        self._see_time()
        refused = self.model.wide(Holder(enclave.borrower, 0), "")
        try:
            admission = self._run(enclave.boot())
        except AIGovToolError as error:
            if not refused:
                raise Divergence(f"boot refused: {error}") from error
            self._done(f"enclave {slot} is not booted: stopped")
            return
        if refused:
            raise Divergence("booted although it is stopped")
        self.enclaves[slot], self.last[slot] = enclave, None
        holder = Holder(enclave.borrower, 0)
        holder.valid_until = admission.valid_until_ms
        self.model.holders[enclave.instance] = holder
        self._done(f"enclave {slot} is booted as {enclave.instance[:8]}")

    def limit(self, budget: Budget, limit: int | None, ends_in: int | None) -> None:
        """Set a limit outright."""
        ends = None if ends_in is None else self.bench.now_ms + ends_in
        place, window, of = budget
        scope, dimension = _scope(place), DIMENSIONS[of]
        set_to = BudgetLimit(scope=scope, dimension=dimension, window=Window(window), limit=limit, not_after_ms=ends)
        self._order(acts.SetBudget(limit=set_to), lambda: self.model.set_limit(budget, limit, ends))

    def grant(self, budget: Budget, units: int) -> None:
        """Add to a limit."""
        place, window, of = budget
        act = acts.GrantBudget(scope=_scope(place), dimension=DIMENSIONS[of], window=Window(window), units=units)
        self._order(act, lambda: self.model.grant(budget, units))

    def decide(self, ask: tuple[str, str, int], *, approve: bool) -> None:
        """Approve or deny an open request for more."""
        act = acts.DecideAsk(ask_id=self.asks[ask], approve=approve, units=None, reason="drill")
        self._order(act, lambda: self.model.decide(ask, approve=approve))

    def stop(self, target: str, value: str, *, active: bool) -> None:
        """Have one operator stop something, or two lift it."""
        of = StopTarget(target)
        in_force = {
            (one.target, one.value): one.epoch for one in self._run(views.show_stops(self.bench.custodian)).stops
        }
        act = (
            acts.Stop(target=of, value=value, reason="drill")
            if active
            else acts.Resume(target=of, value=value, reason="drill", epoch=in_force.get((of, value)))
        )
        self._order(act, lambda: (self.model.stop if active else self.model.resume)(target, value), two=not active)

    def write_off(self, slot: int) -> None:
        """Have two operators give up the expired leases of an enclave."""
        instance = self.enclaves[slot].instance
        act = acts.WriteOff(instance=instance, reason="drill")
        self._order(act, lambda: self.model.write_off(instance), two=True)

    def restart(self) -> None:
        """Stop the custodian in order, and start it."""
        clock = self.bench.custodian.clock
        self.bench.custodian.database.close()
        self.bench.custodian = open_custodian(self.bench.directory)
        self.bench.custodian.clock = clock
        self._done("the custodian is restarted")

    def repeat(self, slot: int) -> None:
        """Send the last renewal of an enclave again, the same bytes: the same answer, and nothing else happens."""
        if (last := self.last[slot]) is None:
            return
        again = self._run(renewal.renew(self.bench.custodian, last[0]))
        if again.answer != last[1].answer:
            raise Divergence("a repeated renewal got another answer")
        self._done(f"enclave {slot} repeats itself")

    def renew(self, slot: int, wants: list[Want], reports: list[Report]) -> None:
        """Report and ask."""
        enclave, model = self.enclaves[slot], self.model
        envelope = enclave.renewal(*wants, reports=tuple(reports))
        reply: RenewReply = self._run(renewal.renew(self.bench.custodian, envelope))
        answer = enclave.opened(reply)
        enclave.checkpoint_seen, self.last[slot] = answer.checkpoint, (envelope, reply)
        self._see_time()
        model.sweep()
        taken = [(str(report.lease_id), (report.seq, units_of(report.used), report.final)) for report in reports]
        model.reports(enclave.instance, taken)
        if [(ack.lease_id, ack.seq) for ack in answer.acks] != [(report.lease_id, report.seq) for report in reports]:
            raise Divergence("not every report was acknowledged")
        on = {model.leases[report.lease_id].consumer for report in reports}
        on |= {one.consumer for one in wants if not self._refusal(enclave, one)}
        for wish, got in zip(wants, answer.results, strict=True):
            self._compare(wish, got, enclave)
        self._compare_rooms(answer, enclave, on)
        if answer.epoch != model.epoch:
            raise Divergence(f"epoch {answer.epoch}, model {model.epoch}")
        told = ", ".join(f"{report.lease_id[:8]} #{report.seq} used {report.used}" for report in reports)
        self._done(f"enclave {slot} reports [{told}] and wants {[str(one.target) for one in wants]}")

    def _refusal(self, enclave: Enclave, wish: Want) -> str:
        return self.model.refusal(enclave.instance, wish.consumer, named=wish.request is not None)

    def _compare(self, wish: Want, got: Grant | Deny, enclave: Enclave) -> None:
        span, named = (units_of(wish.minimum), units_of(wish.target)), wish.request is not None
        due = self.model.want(enclave.instance, wish.consumer, span, named=named, ask=wish.ask)
        if isinstance(got, Grant):
            said: Said = ("granted", units_of(got.units), got.ttl_ms, None)
        else:
            short = None if got.short is None else DIMENSIONS.index(got.short)
            said = (got.code.value, units_of(got.available), 0, short)
        if said != due:
            raise Divergence(f"a wish of {span[0]} to {span[1]}: custodian {said}, model {due}")
        if got.request != wish.request:
            raise Divergence(f"a wish for {wish.request} is answered for {got.request}")
        self.outcomes[said[0] if said[3] is None else f"{said[0]} {DIMENSIONS[said[3]]}"] += 1
        if isinstance(got, Grant):
            self.model.add(got.lease_id, enclave.instance, wish.consumer, due[1], due[2])
            self.known.append(got.lease_id)

    def _compare_rooms(self, answer: Answer, enclave: Enclave, consumers: set[str]) -> None:
        said = [((str(one.consumer), DIMENSIONS.index(one.dimension)), one.units) for one in answer.rooms]
        due = {key: room for name in consumers for key, room in self.model.rooms(enclave.instance, name).items()}
        if dict(said) != due or len(said) != len(due):
            raise Divergence(f"rooms {said}, model {due}")

    def _order(self, act: Act, due: Any, *, two: bool = False) -> None:  # noqa: ANN401 - a callable that says a reason
        bench = self.bench
        keys = (bench.key, self.second) if two else (bench.key,)
        identity = bench.identity(IdentityKind.OPERATOR, "alice", bench.key)
        try:
            self._run(commands.execute(bench.custodian, identity, seal(COMMAND, bench.order(act), *keys)))
            said = ""
        except AIGovToolError as error:
            said = error.reason or type(error).__name__
        self._see_time()
        expected = due()
        if said != expected:
            raise Divergence(f"{act}: custodian {said!r}, model {expected!r}")
        self._done(f"{type(act).__name__} {said}")

    # -- Comparison -------------------------------------------------------------------------------------------

    def _see_time(self) -> None:
        self.model.now = self.bench.now_ms

    def _done(self, what: str) -> None:
        self.steps += 1
        self.told.append(what)
        self.bench.custodian.database.submit(self._same).result()

    def _same(self, transaction: Transaction) -> None:
        """Compare everything, each time. A row's key and a lease's body are parsed once for the same bytes."""
        model = self.model
        rows = {_row(key): [posted, held] for key, posted, held in transaction.execute(_ROWS) if posted or held}
        due = {(budget, at): row for budget, rows in model.rows.items() for at, row in rows.items() if any(row)}
        if rows != due:
            raise Divergence(f"rows {rows}, model {due}")
        kept = {}
        for lease_id, state, inferences, compute, data in transaction.execute(_LEASES):
            kept[lease_id] = (state, (inferences, compute), *_lease(data))
        held = {
            name: (one.state, one.units, one.state, one.units, one.seq, one.used) for name, one in model.leases.items()
        }
        if kept != held:
            raise Divergence(f"leases {kept}, model {held}")
        totals = {(one[1], one[2], _NUMBER[one[3]]): tuple(one[4:]) for one in transaction.execute(TOTALS)}
        if totals != (used := model.usage()):
            raise Divergence(f"usage {totals}, model {used}")
        filed = [decoded(data, AskState) for data in transaction.execute(_ASKS).scalars()]
        self.asks = {_asked(one): one.ask_id for one in filed}
        if len(filed) != len(self.asks) or {_asked(one): one.units for one in filed} != model.asks:
            raise Divergence(f"requests {filed}, model {model.asks}")
        in_force = {(target, value) for target, value in transaction.execute(_STOPS)}
        if in_force != model.stops:
            raise Divergence(f"stops {in_force}, model {model.stops}")
        if transaction.head.epoch != model.epoch:
            raise Divergence(f"epoch {transaction.head.epoch}, model {model.epoch}")

    def look_at_all(self) -> None:
        """Read the whole ledger and its log."""
        custodian = self.bench.custodian
        ledger = self._run(custodian.database.run(lambda transaction: read(custodian, transaction)))
        if wrong := contradictions(ledger, custodian):
            raise Divergence("; ".join(wrong[:3]))


@lru_cache(maxsize=1 << 14)
def _row(key: str) -> tuple[Budget, int]:
    row = decode(key.encode(), RowKey)
    place = tuple(str(part) for part in (row.scope.borrower, row.scope.consumer) if part is not None)
    return (place, row.window.value, _NUMBER[row.dimension]), row.bucket_ms


def _asked(ask: AskState) -> tuple[str, str, int]:
    return str(ask.scope.borrower), str(ask.scope.consumer), _NUMBER[ask.dimension]


@lru_cache(maxsize=1 << 14)
def _lease(data: bytes) -> tuple[str, Units, int, Units]:
    body = decode(data, Lease)
    return body.state.value, units_of(body.units), body.seq, units_of(body.seen)


def _scope(place: tuple[str, ...]) -> Scope:
    borrower, consumer = (*place, None, None)[:2]
    return Scope(
        model=MODEL,
        borrower=None if borrower is None else BorrowerId(borrower),
        consumer=None if consumer is None else ConsumerId(consumer),
    )
