"""A seeded life of one ledger: the real use cases on a real file, each told before it begins and after it was answered.

Three enclaves of two borrowers draw, report, close and are late; operators grant, limit, stop, resume, enrol and write
off. Several of them act at once, so that their jobs share a transaction. Budgets stand at all levels and in several
windows, so that a grant changes several rows. Nothing of the product is replaced but the clock.
"""

import asyncio
import random
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from dataclasses import field as slot
from pathlib import Path

import msgspec
from msgspec import field
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL, OTHER, STRANGER, Bench, Enclave, make_bench, want

from aigovtool.codec import Message
from aigovtool.crypto.identity import Identity, IdentityKind
from aigovtool.crypto.sign import Envelope, SigningKey, seal
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.service import commands, renewal, views
from aigovtool.errors import AIGovToolError, StorageError
from aigovtool.ids import BorrowerId, ConsumerId, LeaseId
from aigovtool.ledger.budget import BudgetLimit, Scope, Window
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.policy import GRACE_MS
from aigovtool.ledger.units import Dimension, UnitVector
from aigovtool.protocol import commands as acts
from aigovtool.protocol.commands import COMMAND, Act, Stop
from aigovtool.protocol.messages import Deny, Grant, Report, Want

_CONSUMER_OF = {BORROWER: CONSUMER, OTHER: STRANGER}
_ALL = acts.Stop(target=StopTarget.ALL, value="", reason="drill")


class Told(Message):
    """One line of what a process tells: an act that begins (with its bytes), or one that was answered.

    `granted` are lease ids with their units, `reported` lease ids with the sequence number that was acknowledged.
    """

    number: int
    sender: str
    begins: Envelope | None = None
    what: str = ""
    granted: dict[str, int] = field(default_factory=dict)
    reported: dict[str, int] = field(default_factory=dict)
    entry: int | None = None
    epoch: int = 0
    clock_ms: int = 0
    note: str = ""
    refused: str = ""


@dataclass
class Open:
    """A lease as its holder knows it."""

    units: int
    used: int = 0
    seq: int = 0


@dataclass
class Life:
    """The parties and what they know; `tell` is called around each act."""

    bench: Bench
    chance: random.Random
    tell: Callable[[Told], None] = lambda _: None
    enclaves: list[Enclave] = slot(default_factory=list)
    leases: list[dict[str, Open]] = slot(default_factory=list)
    second: SigningKey = slot(default_factory=SigningKey.generate)
    stopped: list[acts.Stop] = slot(default_factory=list)
    acts: int = 0
    consumers: int = 0

    @property
    def custodian(self) -> Custodian:
        """The custodian that serves at this moment."""
        return self.bench.custodian

    # -- Acts ---------------------------------------------------------------------------------------

    async def _order(self, act: Act, *, two: bool = False) -> None:
        number, self.acts = self.acts, self.acts + 1
        keys = (self.bench.key, self.second) if two else (self.bench.key,)
        envelope = seal(COMMAND, self.bench.order(act), *keys)
        what = type(act).__name__
        self.tell(Told(number=number, sender="operator", begins=envelope, what=what))
        try:
            result = await commands.execute(self.custodian, self.bench.alice, envelope)
        except AIGovToolError as error:
            self.tell(Told(number=number, sender="operator", what=what, refused=_refusal(error)))
        else:
            self.tell(Told(number=number, sender="operator", what=what, entry=result.entry, epoch=result.epoch or 0))

    async def _lift(self, stop: Stop) -> None:
        try:
            shown = (await views.show_stops(self.custodian)).stops
        except StorageError:  # who looks first is told as well, and orders nothing
            return
        epoch = next((one.epoch for one in shown if (one.target, one.value) == (stop.target, stop.value)), None)
        await self._order(acts.Resume(target=stop.target, value=stop.value, reason="over", epoch=epoch), two=True)

    async def _renew(self, index: int, wants: list[Want], reports: list[Report]) -> None:
        number, self.acts = self.acts, self.acts + 1
        enclave, sender = self.enclaves[index], f"enclave {index}"
        envelope = enclave.renewal(*wants, reports=tuple(reports))
        what = f"renewal with {len(wants)} wants and {len(reports)} reports"
        self.tell(Told(number=number, sender=sender, begins=envelope, what=what))
        try:
            answer = enclave.opened(await renewal.renew(self.custodian, envelope))
        except AIGovToolError as error:
            self.tell(Told(number=number, sender=sender, what=what, refused=_refusal(error)))
            return
        enclave.checkpoint_seen = answer.checkpoint
        grants = {one.lease_id: one.units.inferences for one in answer.results if isinstance(one, Grant)}
        self.leases[index].update({lease_id: Open(units) for lease_id, units in grants.items()})
        denied = ", ".join(one.code for one in answer.results if isinstance(one, Deny))
        self.tell(
            Told(
                number=number,
                sender=sender,
                what=f"{what}{denied and f'; denied: {denied}'}",
                granted={str(lease_id): units for lease_id, units in grants.items()},
                reported={str(ack.lease_id): ack.seq for ack in answer.acks},
                epoch=answer.epoch,
                clock_ms=answer.server_time_ms,
                note=answer.checkpoint,
            )
        )

    # -- What is done next ----------------------------------------------------------------------------

    def _renewal_of(self, index: int) -> Coroutine[None, None, None]:
        chance, enclave = self.chance, self.enclaves[index]
        consumer = _CONSUMER_OF[enclave.borrower]
        wants = [want(chance.randint(1, 60), consumer=consumer) for _ in range(chance.choice((0, 1, 1, 1, 2)))]
        held = self.leases[index]
        reports = []
        for lease_id in chance.sample(sorted(held), k=min(len(held), chance.randint(0, 3))):
            lease = held[lease_id]
            lease.seq, lease.used = lease.seq + 1, chance.randint(lease.used, lease.units)
            final = chance.random() < 0.6
            if final:
                del held[lease_id]
            used = UnitVector(inferences=lease.used)
            reports.append(
                Report(
                    lease_id=LeaseId(lease_id), seq=lease.seq, used=used, ok=lease.used, err=0, final=final, receipts=""
                )
            )
        return self._renew(index, wants, reports)

    def _command(self) -> Coroutine[None, None, None]:
        chance = self.chance
        kind = chance.choice(("grant", "grant", "limit", "stop", "enrol", "write off"))
        if self.stopped and chance.random() < 0.7:
            stop = self.stopped.pop()
            return self._lift(stop)
        if kind == "stop" and not self.stopped:
            targets = ((StopTarget.CONSUMER, CONSUMER), (StopTarget.BORROWER, OTHER), (StopTarget.ALL, ""))
            target, value = chance.choice(targets)
            self.stopped.append(acts.Stop(target=target, value=value, reason="drill"))
            return self._order(self.stopped[-1])
        if kind == "limit":
            limit = BudgetLimit(
                scope=Scope(model=MODEL, borrower=BORROWER, consumer=CONSUMER),
                dimension=Dimension.INFERENCES,
                window=Window.ROLLING_HOUR,
                limit=chance.choice((None, 500, 5_000)),
            )
            return self._order(acts.SetBudget(limit=limit))
        if kind == "enrol":
            self.consumers += 1
            party = acts.AddParty(
                role=PartyRole.CONSUMER,
                name=f"c{self.consumers}-{secrets.token_hex(4)}",
                key=SigningKey.generate().public.raw,
                borrower=BORROWER,
                valid_for_ms=86_400_000,
            )
            return self._order(party)
        if kind == "write off":
            lost = chance.choice(self.enclaves).instance
            return self._order(acts.WriteOff(instance=lost, reason="drill"), two=True)
        scope = Scope(model=MODEL)
        grant = acts.GrantBudget(scope=scope, dimension=Dimension.INFERENCES, window=Window.LIFETIME, units=300)
        return self._order(grant)

    async def step(self) -> None:
        """Do the next thing, or several at once."""
        chance = self.chance
        passed = chance.random()
        self.bench.now_ms += chance.randint(1, 5_000)
        if passed < 0.08:
            self.bench.now_ms += self.bench.policy.ttl_ms + GRACE_MS + 1
        pending = [self._renewal_of(index) for index in chance.sample(range(3), chance.choice((1, 1, 2, 3)))]
        if chance.random() < 0.35:
            pending.append(self._command())
        await asyncio.gather(*pending)

    async def steps(self, number: int) -> None:
        """Do so many."""
        for _ in range(number):
            await self.step()


def _refusal(error: AIGovToolError) -> str:
    return f"{type(error).__name__} {error.reason or ''}".strip()


async def begin(directory: Path, seed: int) -> Life:
    """Return a life in a fresh ledger: a model lent to two borrowers, budgets at all levels, three enclaves."""
    bench = make_bench(directory)
    life = Life(bench, random.Random(seed))
    for borrower, consumer in _CONSUMER_OF.items():
        await bench.add_borrower(borrower)
        await bench.add_consumer(consumer, borrower)
    await bench.add_party(PartyRole.OPERATOR, "bob", life.second)
    await bench.command(msgspec.structs.replace(bench.upload(), borrowers=[BORROWER, OTHER]))
    await bench.grant(5_000)
    for scope, window, limit in (
        (Scope(model=MODEL, borrower=BorrowerId(BORROWER)), Window.DAY, 4_000),
        (Scope(model=MODEL, borrower=BORROWER, consumer=ConsumerId(CONSUMER)), Window.ROLLING_HOUR, 5_000),
    ):
        budget = BudgetLimit(scope=scope, dimension=Dimension.INFERENCES, window=window, limit=limit)
        await bench.command(acts.SetBudget(limit=budget))
    for borrower in (BORROWER, BORROWER, OTHER):
        enclave = Enclave(bench, borrower)
        await enclave.boot()
        life.enclaves.append(enclave)
        life.leases.append({})
    return life


async def repeat(life: Life, told: Told) -> Told:
    """Send the very same bytes again, as whoever got no answer does."""
    if told.begins is None:
        raise ValueError("only what began can be repeated")
    try:
        if told.sender == "operator":
            identity = Identity(
                kind=IdentityKind.OPERATOR,
                name="alice",
                public_key=life.bench.key.public,
                not_before_ms=0,
                not_after_ms=life.bench.now_ms + 86_400_000,
                serial=1,
            )
            result = await commands.execute(life.custodian, identity, told.begins)
            return Told(number=told.number, sender=told.sender, what=told.what, entry=result.entry)
        reply = await renewal.renew(life.custodian, told.begins)
        answer = life.enclaves[0].opened(reply)
    except AIGovToolError as error:
        return Told(number=told.number, sender=told.sender, what=told.what, refused=_refusal(error))
    grants = {str(one.lease_id): one.units.inferences for one in answer.results if isinstance(one, Grant)}
    reported = {str(ack.lease_id): ack.seq for ack in answer.acks}
    return Told(
        number=told.number,
        sender=told.sender,
        what=told.what,
        granted=grants,
        reported=reported,
        note=answer.checkpoint,
    )
