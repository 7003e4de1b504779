"""The real custodian and the model side by side: each act goes to both, and after it both say and hold the same."""

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from functools import lru_cache
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
from aigovtool.custodian.service import commands, renewal
from aigovtool.custodian.store.bodies import decoded
from aigovtool.custodian.store.schema import budget_rows, leases, stops
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import AIGovToolError
from aigovtool.ids import BorrowerId, ConsumerId, Digest, LeaseId, digest_of
from aigovtool.ledger.budget import BudgetLimit, RowKey, Scope, Window
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.lease import Lease
from aigovtool.ledger.policy import Dial, ServingPolicy, default_policy
from aigovtool.ledger.units import Dimension, UnitVector
from aigovtool.protocol import commands as acts
from aigovtool.protocol.commands import COMMAND, Act
from aigovtool.protocol.messages import Answer, Grant, RenewReply, Report, Want
from aigovtool.testing.simulated_tee.attester import SimulatedPlatform, measure
from assurance.faults.examine import TOTALS, contradictions, read
from assurance.model_ledger import Budget, Holder, Model

SLOTS = 3
WISHERS = (CONSUMER, STRANGER, ConsumerId("nobody"))
PLACES = ((), (BORROWER,), (OTHER,), (BORROWER, CONSUMER), (OTHER, STRANGER))
TARGETS = (("all", ""), ("model", MODEL), ("borrower", BORROWER), ("consumer", CONSUMER), ("consumer", STRANGER))
_BORROWERS = (BORROWER, BORROWER, OTHER)
_MONTHS_MS = 300 * 86_400_000
#: What is read after each step, built once.
_ROWS: Final = select(budget_rows.c.key, budget_rows.c.posted, budget_rows.c.pending)
_LEASES: Final = select(leases.c.lease_id, leases.c.state, leases.c.inferences, leases.c.body)
_STOPS: Final = select(stops.c.target, stops.c.value).where(stops.c.active)


@lru_cache
def _measured() -> MeasurementHex:
    """Return the measurement of the installed program, which does not change during a run."""
    return measure()


class Divergence(Exception):  # noqa: N818 -- a finding
    """The custodian and the model differ."""


class Pair:
    """Both ledgers, and three enclaves that are booted again at will."""

    def __init__(self, directory: Path, ledger: str | None, dial: Dial) -> None:
        """Set both up: one model, two borrowers with a consumer each, no budget."""
        self.loop = asyncio.new_event_loop()
        self.bench: Bench = make_bench(directory, ledger=ledger)
        self.second = SigningKey.generate()
        self.begun_ms = self.bench.now_ms
        policy = default_policy(dial)
        self.model = Model(dial.value, policy.ttl_ms, {CONSUMER: BORROWER, STRANGER: OTHER}, self.bench.now_ms)
        self.enclaves: list[Enclave] = []
        self.known: list[str] = []
        self.last: list[tuple[Envelope, RenewReply] | None] = [None] * SLOTS
        self.steps = 0
        self.told: list[str] = []
        self.outcomes: Counter[str] = Counter()
        self._run(self._found(policy))
        for slot in range(SLOTS):
            self.enclaves.append(self._enclave(slot))
            self.boot(slot)
        self.grant((), Window.LIFETIME, 20_000)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - whatever the work returns
        return self.loop.run_until_complete(work)

    def _enclave(self, slot: int) -> Enclave:
        return Enclave(self.bench, _BORROWERS[slot], platform=SimulatedPlatform(_measured()))

    async def _found(self, policy: ServingPolicy) -> None:
        bench = self.bench
        for borrower, consumer in ((BORROWER, CONSUMER), (OTHER, STRANGER)):
            await bench.add_borrower(borrower)
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

    def limit(self, place: tuple[str, ...], window: Window, limit: int | None, ends_in: int | None) -> None:
        """Set a limit outright."""
        budget, ends = (place, window.value), None if ends_in is None else self.bench.now_ms + ends_in
        act = acts.SetBudget(
            limit=BudgetLimit(
                scope=_scope(place), dimension=Dimension.INFERENCES, window=window, limit=limit, not_after_ms=ends
            )
        )
        self._order(act, lambda: self.model.set_limit(budget, limit, ends))

    def grant(self, place: tuple[str, ...], window: Window, units: int) -> None:
        """Add to a limit."""
        budget = (place, window.value)
        act = acts.GrantBudget(scope=_scope(place), dimension=Dimension.INFERENCES, window=window, units=units)
        self._order(act, lambda: self.model.grant(budget, units))

    def stop(self, target: str, value: str, *, active: bool) -> None:
        """Stop something, or lift it."""
        change = acts.Stop if active else acts.Resume
        act = change(target=StopTarget(target), value=value, reason="drill")
        self._order(act, lambda: (self.model.stop if active else self.model.resume)(target, value))

    def write_off(self, slot: int) -> None:
        """Have two operators give up the expired leases of an enclave."""
        instance = self.enclaves[slot].instance
        act = acts.WriteOff(instance=instance, reason="drill")
        self._order(act, lambda: self.model.write_off(instance), two=True)

    def restart(self) -> None:
        """Stop the custodian in order, and start it."""
        clock = self.bench.custodian.time_ms
        self.bench.custodian.database.close()
        self.bench.custodian = open_custodian(self.bench.directory)
        self.bench.custodian.time_ms = clock
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
        for report in reports:
            model.report(enclave.instance, report.lease_id, (report.seq, report.used.inferences, report.final))
        if [(ack.lease_id, ack.seq) for ack in answer.acks] != [(report.lease_id, report.seq) for report in reports]:
            raise Divergence("not every report was acknowledged")
        self._compare(answer, enclave, wants)
        told = ", ".join(f"{report.lease_id[:8]} #{report.seq} used {report.used.inferences}" for report in reports)
        self._done(f"enclave {slot} reports [{told}] and wants {[one.target.inferences for one in wants]}")

    def _compare(self, answer: Answer, enclave: Enclave, wants: list[Want]) -> None:
        model = self.model
        for wish, got in zip(wants, answer.results, strict=True):
            least, most = wish.minimum.inferences, wish.target.inferences
            due = model.want(enclave.instance, wish.consumer, least, most, named=wish.request is not None)
            if isinstance(got, Grant):
                said = ("granted", got.units.inferences, got.ttl_ms)
            else:
                said = (got.code.value, got.available.inferences, 0)
            if said != due:
                raise Divergence(f"a wish of {least} to {most}: custodian {said}, model {due}")
            if got.request != wish.request:
                raise Divergence(f"a wish for {wish.request} is answered for {got.request}")
            self.outcomes[said[0]] += 1
            if isinstance(got, Grant):
                model.add(got.lease_id, enclave.instance, wish.consumer, due[1], due[2])
                self.known.append(got.lease_id)
        if answer.epoch != model.epoch:
            raise Divergence(f"epoch {answer.epoch}, model {model.epoch}")

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
        due = {key: row for key, row in model.rows.items() if any(row)}
        if rows != due:
            raise Divergence(f"rows {rows}, model {due}")
        kept = {}
        for lease_id, state, units, data in transaction.execute(_LEASES):
            body = decoded(data, Lease)
            kept[lease_id] = (state, body.state.value, units, body.seq, body.seen.inferences)
        held = {name: (one.state, one.state, one.units, one.seq, one.used) for name, one in model.leases.items()}
        if kept != held:
            raise Divergence(f"leases {kept}, model {held}")
        totals, used = {(one[1], one[2]): tuple(one[3:]) for one in transaction.execute(TOTALS)}, model.usage()
        if totals != used:
            raise Divergence(f"usage {totals}, model {used}")
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


def wish(consumer: ConsumerId, minimum: int, target: int, request: Digest | None = None) -> Want:
    """Return a wish, in bound mode for one request."""
    return Want(
        model=MODEL,
        consumer=consumer,
        minimum=UnitVector(inferences=minimum),
        target=UnitVector(inferences=target),
        request=request,
    )


@lru_cache(maxsize=1 << 14)
def _row(key: str) -> tuple[Budget, int]:
    row = decode(key.encode(), RowKey)
    place = tuple(str(part) for part in (row.scope.borrower, row.scope.consumer) if part is not None)
    return (place, row.window.value), row.bucket_ms


def _scope(place: tuple[str, ...]) -> Scope:
    borrower, consumer = (*place, None, None)[:2]
    return Scope(
        model=MODEL,
        borrower=None if borrower is None else BorrowerId(borrower),
        consumer=None if consumer is None else ConsumerId(consumer),
    )


# --- A life by chance ---------------------------------------------------------------------------------------


def report_on(lease_id: str, seq: int, used: int, *, final: bool) -> Report:
    """Return a report."""
    vector = UnitVector(inferences=used)
    return Report(lease_id=LeaseId(lease_id), seq=seq, used=vector, ok=used, err=0, final=final, receipts="")


def _reports(pair: Pair, slot: int, chance: random.Random) -> list[Report]:
    """Report on a few leases: honestly mostly, sometimes twice, of others, or what contradicts itself."""
    holder, states = pair.enclaves[slot].instance, {"pending", "expired"}
    live = [name for name, one in pair.model.leases.items() if one.holder == holder and one.state in states]
    found = []
    for lease_id in chance.sample(live, k=min(len(live), chance.randint(0, 3))):
        lease = pair.model.leases[lease_id]
        found.append(
            report_on(lease_id, lease.seq + 1, chance.randint(lease.used, lease.units), final=chance.random() < 0.5)
        )
    if pair.known and chance.random() < 0.15:
        lease_id = chance.choice(pair.known)
        lease = pair.model.leases[lease_id]
        same = report_on(lease_id, lease.seq, lease.used, final=lease.state in {"closed", "closed_late"})
        odd = report_on(lease_id, chance.randint(0, lease.seq + 1), chance.randint(0, lease.units), final=True)
        found.append(odd if chance.random() < 0.1 else same)
    return [one for place, one in enumerate(found) if one.lease_id not in {two.lease_id for two in found[:place]}]


def _renew(pair: Pair, chance: random.Random) -> None:
    slot = chance.randrange(SLOTS)
    usual = CONSUMER if _BORROWERS[slot] == BORROWER else STRANGER
    wants = []
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
        minimum = chance.choice((1, 1, 1, 2, 7, 40))
        consumer = usual if chance.random() < 0.95 else chance.choice(WISHERS)
        target = minimum + chance.choice((0, 5, 300))
        # In bound mode a wish names its request, unless its enclave was admitted on other terms.
        named = pair.model.dial == Dial.BOUND.value and chance.random() < 0.9
        request = digest_of(chance.randbytes(8)) if named else None
        wants.append(wish(consumer, minimum, target, request))
    pair.renew(slot, wants, _reports(pair, slot, chance))


SPANS_MS = (1, 700, 20_000, 36_000, 61_000, 16 * 60_000, 3_600_000, 6 * 3_600_000, 86_400_000, 31 * 86_400_000)
LIMITS = (None, None, 0, 40, 100, 400, 5_000, 100_000, 100_000)


def step(pair: Pair, chance: random.Random) -> None:
    """Do something by chance."""
    kind = chance.random()
    if pair.model.stops and kind < 0.2:
        pair.stop(*chance.choice(sorted(pair.model.stops)), active=False)
    elif _idle(pair) and kind < 0.5:
        pair.boot(chance.choice(_idle(pair)))
    elif kind < 0.74:
        _renew(pair, chance)
    elif kind < 0.86:
        pair.wait(chance.choice(SPANS_MS[: chance.choice((3, 4, 4, 5, 6, 7, len(SPANS_MS)))]))
    elif kind < 0.92:
        _budget(pair, chance)
    elif kind < 0.94:
        pair.stop(*chance.choice(TARGETS), active=chance.random() < 0.8)
    elif kind < 0.955:
        pair.boot(chance.randrange(SLOTS))
    elif kind < 0.97:
        pair.write_off(chance.randrange(SLOTS))
    elif kind < 0.985:
        pair.repeat(chance.randrange(SLOTS))
    else:
        pair.restart()


def _idle(pair: Pair) -> list[int]:
    """Return the slots whose instance gets nothing any more."""
    held = [pair.model.holders[enclave.instance] for enclave in pair.enclaves]
    return [slot for slot, one in enumerate(held) if one.state != "live" or one.valid_until <= pair.bench.now_ms]


def _budget(pair: Pair, chance: random.Random) -> None:
    """Set or raise a limit: those first whose time is over, and rolling ones as often as all others together."""
    ended = sorted(budget for budget, (_, ends) in pair.model.limits.items() if ends and ends <= pair.bench.now_ms)
    rolling = [window for window in Window if window.value.startswith("rolling")]
    window = chance.choice(chance.choice((rolling, list(Window))))
    place: tuple[str, ...] = chance.choice(PLACES)
    if ended and chance.random() < 0.8:
        place, name = chance.choice(ended)
        pair.limit(place, Window(name), chance.choice((None, 1_000, 100_000)), None)
    elif chance.random() < 0.5:
        pair.grant(place, window, chance.choice((50, 1_000, 20_000)))
    elif not place and window is Window.LIFETIME:
        pair.limit(place, window, chance.choice((None, 100_000)), None)
    else:
        ends_in = chance.choice((None, None, None, None, None, -5, 40_000, 7_200_000))
        pair.limit(place, window, chance.choice(LIMITS), ends_in)
