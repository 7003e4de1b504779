"""What operators order, and what parties and witnesses hand in: an act by chance, of any kind, of whatever there is."""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from tests.custodian.conftest import message_id

from aigovtool.crypto.identity import IdentityKind
from aigovtool.crypto.sign import SigningKey
from aigovtool.custodian.service import asks, views, witnesses
from aigovtool.ids import BorrowerId, ConsumerId, ModelId
from aigovtool.ledger.answers import AnswerTerms
from aigovtool.ledger.budget import BudgetLimit, RowKey, Scope, Window, bucket_of
from aigovtool.ledger.checkpoint import parse_checkpoint, split_note
from aigovtool.ledger.cosignature import WitnessKey, cosign, with_cosignatures
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.policy import Dial, ServingPolicy, default_policy
from aigovtool.ledger.units import Dimension
from aigovtool.protocol import commands as orders
from aigovtool.protocol.commands import AskRequest
from aigovtool.protocol.views import CosignedCheckpoint
from aigovtool.testing.simulated_tee import wiring
from assurance.any_order.office import Office

_HOUR_MS: Final = 3_600_000
_VALID_MS: Final = (120_000, _HOUR_MS, 24 * _HOUR_MS, *(365 * 24 * _HOUR_MS,) * 7)
_LIMITS: Final = (None, 0, 5, 40, 400, 5_000, 100_000)
#: The model of this name meters compute beside inferences.
METERED: Final = ModelId("reader")
NAMES: Final = (ModelId("sorter"), METERED, ModelId("third"))
_WITNESSES: Final = {f"witness{number}.example": SigningKey.generate() for number in range(3)}


async def add_party(office: Office) -> None:
    """Enrol somebody, for a long time or a short one."""
    chance, key = office.chance, SigningKey.generate()
    role = chance.choice((PartyRole.BORROWER, PartyRole.CONSUMER, PartyRole.CONSUMER, PartyRole.OPERATOR))
    if role is PartyRole.OPERATOR and len(await office.good(role)) > 3:
        return
    taken = chance.random() < 0.05
    borrowers = await office.good(PartyRole.BORROWER)
    borrower = BorrowerId(chance.choice(borrowers)) if role is PartyRole.CONSUMER and borrowers else None
    name = "alice" if taken else f"{role.value}-{len(office.told)}"
    act = orders.AddParty(
        role=role, name=name, key=key.public.raw, borrower=borrower, valid_for_ms=chance.choice(_VALID_MS)
    )
    if await office.order(act) is None:
        return
    if role is PartyRole.OPERATOR:
        office.operators[name] = key
    elif role is PartyRole.BORROWER:
        office.bench.enrolment[BorrowerId(name)] = key
    elif borrower is not None:
        office.bench.consumers[ConsumerId(name)], office.owners[ConsumerId(name)] = key, borrower


async def revoke(office: Office) -> None:
    """Revoke somebody; of operators seldom all but one."""
    parties: list[tuple[PartyRole, str]] = [(PartyRole.CONSUMER, name) for name in office.owners]
    parties += [(PartyRole.BORROWER, name) for name in office.bench.enrolment]
    operators = await office.good(PartyRole.OPERATOR)
    parties += [(PartyRole.OPERATOR, name) for name in operators if len(operators) > 2]
    role, name = office.chance.choice(parties)
    await office.order(orders.RevokeParty(role=role, name=name))


def _policy(office: Office, model: ModelId, version: int) -> ServingPolicy:
    dial = office.chance.choice(list(Dial))
    answers = office.chance.choice((None, None, AnswerTerms(pad_bytes=1 << 12), AnswerTerms(pad_bytes=1 << 13)))
    made = default_policy(dial, version=version, compute_ms=40 if model == METERED else None)
    percent = office.chance.choice((25, 100))
    return msgspec.structs.replace(
        made,
        answers=answers,
        max_unclosed_percent_per_instance=percent,
        max_unclosed_percent_per_borrower=max(50, percent),
        max_attestation_age_ms=office.chance.choice((_HOUR_MS, 24 * _HOUR_MS)),
    )


async def _borrowers(office: Office) -> list[BorrowerId]:
    known = [BorrowerId(name) for name in await office.good(PartyRole.BORROWER)]
    return office.chance.sample(known, k=min(len(known), office.chance.choice((1, *(9,) * 7))))


async def lend(office: Office) -> None:
    """Lend one more model, or one that is there."""
    model = office.chance.choice(NAMES)
    act = office.sealed(model, _policy(office, model, 1), await _borrowers(office))
    if await office.order(act) is not None:
        office.models.append(model)


async def set_terms(office: Office) -> None:
    """Lend a model on other terms."""
    model = office.chance.choice(office.models)
    shown = {one.model: one.policy.version for one in (await views.show_models(office.bench.custodian)).models}
    policy = _policy(office, model, shown.get(model, 0) + office.chance.choice((1, 1, 1, 2)))
    await office.order(orders.SetModelTerms(model=model, policy=policy, borrowers=await _borrowers(office)))


async def withdraw(office: Office) -> None:
    """Lend a model no more; seldom, because it is for good."""
    if office.chance.random() < 0.05:
        await office.order(orders.WithdrawModel(model=office.chance.choice(office.models)))


async def judge(office: Office) -> None:
    """Have another policy judge whoever was admitted: one that accepts nobody, and then the one of before."""
    accepted = wiring.development_policy()
    (entry,) = accepted.accepted
    (known,) = entry.reference_values
    other = msgspec.structs.replace(known, values=(msgspec.structs.replace(known.values[0], digest="ab" * 48),))
    nobody = msgspec.structs.replace(accepted, accepted=(msgspec.structs.replace(entry, reference_values=(other,)),))
    if office.chance.random() < 0.5:
        return
    for policy in (nobody, accepted):
        present = await views.show_policy(office.bench.custodian)
        newer = msgspec.structs.replace(policy, version=present.version + 1)
        await office.order(orders.SetAppraisalPolicy(policy=newer), two=True)


def scope(office: Office) -> Scope:
    """Return where a budget could stand."""
    model, consumers = office.chance.choice(office.models), sorted(office.owners)
    level = office.chance.choice((0, 0, 1, 2))
    if level == 2 and consumers:
        consumer = office.chance.choice(consumers)
        return Scope(model=model, borrower=office.owners[consumer], consumer=consumer)
    return Scope(model=model, borrower=office.chance.choice(sorted(office.bench.enrolment)) if level else None)


def _dimension(office: Office) -> Dimension:
    return office.chance.choice((Dimension.INFERENCES, Dimension.INFERENCES, Dimension.COMPUTE_MS))


def _window(office: Office) -> Window:
    window: Window = office.chance.choice((Window.LIFETIME, *Window))
    return window


async def set_budget(office: Office) -> None:
    """Set a limit outright, perhaps with an end."""
    ends_in = office.chance.choice((None, None, None, -5, 40_000, 2 * _HOUR_MS))
    limit = BudgetLimit(
        scope=scope(office),
        dimension=_dimension(office),
        window=_window(office),
        limit=office.chance.choice(_LIMITS),
        not_after_ms=None if ends_in is None else max(0, office.bench.now_ms + ends_in),
    )
    await office.order(orders.SetBudget(limit=limit))


async def grant_budget(office: Office) -> None:
    """Add to a limit."""
    act = orders.GrantBudget(
        scope=scope(office),
        dimension=_dimension(office),
        window=_window(office),
        units=office.chance.choice((50, 1_000, 20_000)),
    )
    await office.order(act)


async def provide(office: Office) -> None:
    """Give a model what any grant of it needs."""
    for model in (await views.show_models(office.bench.custodian)).models:
        for dimension in (model.policy.dimension, *model.policy.also):
            limit = BudgetLimit(
                scope=Scope(model=model.model), dimension=dimension, window=Window.LIFETIME, limit=10**6
            )
            await office.order(orders.SetBudget(limit=limit))


async def ask(office: Office) -> None:
    """Have a consumer or a borrower ask for more, mostly of its own."""
    chance, bench, at = office.chance, office.bench, scope(office)
    if at.consumer is not None:
        kind, name, key = IdentityKind.CONSUMER, str(at.consumer), bench.consumers[at.consumer]
    else:
        borrower = at.borrower or chance.choice(sorted(bench.enrolment))
        kind, name, key = IdentityKind.BORROWER, str(borrower), bench.enrolment[borrower]
    request = AskRequest(
        ask_id=message_id(), scope=at, units=chance.choice((1, 500)), reason="more", dimension=_dimension(office)
    )
    await office.attempt("ask", asks.file_by_party(bench.custodian, bench.identity(kind, name, key), request))


async def decide(office: Office) -> None:
    """Decide on an open request."""
    found = [one for one in (await views.show_asks(office.bench.custodian)).asks if one.state == "open"]
    if found:
        one = office.chance.choice(found)
        approve = office.chance.random() < 0.7
        await office.order(orders.DecideAsk(ask_id=one.ask_id, approve=approve, units=None, reason=""))


async def stop(office: Office) -> None:
    """Stop something."""
    instances = [one.instance for one in office.enclaves]
    places = [(StopTarget.ALL, ""), *((StopTarget.MODEL, name) for name in office.models)]
    places += [(StopTarget.BORROWER, name) for name in office.bench.enrolment]
    places += [(StopTarget.CONSUMER, name) for name in office.owners] * 4
    places += [(StopTarget.ENCLAVE, instance) for instance in instances]
    target, value = office.chance.choice(places)
    await office.order(orders.Stop(target=target, value=value, reason=""))


async def resume(office: Office) -> None:
    """Lift what is stopped, all of it mostly: little else happens while everything is."""
    for one in (await views.show_stops(office.bench.custodian)).stops:
        if office.chance.random() < 0.8:
            epoch = office.chance.choice((*(one.epoch,) * 8, one.epoch - 1, None))
            two = office.chance.random() < 0.9
            await office.order(orders.Resume(target=one.target, value=one.value, reason="", epoch=epoch), two=two)


async def witness(office: Office) -> None:
    """Enrol, retire or hear a witness."""
    name, key = office.chance.choice(sorted(_WITNESSES.items()))
    known = {one.name: one.retired for one in (await witnesses.show_witnesses(office.bench.custodian)).witnesses}
    if name not in known or office.chance.random() < 0.1:
        await office.order(orders.EnrolWitness(witness=WitnessKey(name=name, key=key.public).text()))
    elif office.chance.random() < 0.1:
        await office.order(orders.RetireWitness(name=name))
    else:
        note = office.chance.choice([*office.notes[-3:], (await views.show_head(office.bench.custodian)).checkpoint])
        text, (own, *_) = split_note(note)
        line = cosign(parse_checkpoint(note).text(), name, key, office.bench.now_ms // 1000)
        signed = with_cosignatures(f"{text}\n{own.line}", [line])
        work = witnesses.receive(office.bench.custodian, CosignedCheckpoint(checkpoint=signed))
        await office.attempt("cosign", work)


async def settle(office: Office) -> None:
    """Settle a gap, with charges by chance, of rows that there are or not."""
    gap = await views.show_gap(office.bench.custodian)
    if gap.checkpoint is None:
        return
    now_ms, charges = office.bench.now_ms, []
    for _ in range(office.chance.choice((0, 1, 3))):
        window = _window(office)
        at_ms = bucket_of(window, max(0, now_ms - office.chance.choice((0, 0, 61_000, 25 * _HOUR_MS, -_HOUR_MS))))
        row = RowKey(scope=scope(office), dimension=_dimension(office), window=window, bucket_ms=at_ms)
        charges.append(orders.RowCharge(row=row, units=office.chance.choice((1, 30, 10**6))))
    if office.chance.random() < 0.3:
        await office.order(orders.Stop(target=StopTarget.ALL, value="", reason=""))
        act = orders.SettleGap(checkpoint=gap.checkpoint, charges=[], reason="restored", final=True)
        if await office.order(act, two=True) is not None:
            office.counts["final"] += 1
            return
    for some in (charges, []):
        act = orders.SettleGap(checkpoint=gap.checkpoint, charges=some, reason="restored")
        if await office.order(act, two=True) is not None:
            return


async def write_off(office: Office) -> None:
    """Give up what an enclave never closed."""
    if office.enclaves:
        instance = office.chance.choice(office.enclaves).instance
        await office.order(orders.WriteOff(instance=instance, reason="gone"), two=True)


async def repeat(office: Office) -> None:
    """Deliver the last order again, by whoever gave it."""
    if office.last is not None:
        await office.attempt("repeated order", office.last())


ACTS: Final[dict[Callable[[Office], Awaitable[None]], int]] = {
    add_party: 4,
    revoke: 1,
    lend: 2,
    set_terms: 2,
    withdraw: 1,
    judge: 1,
    set_budget: 3,
    grant_budget: 3,
    provide: 3,
    ask: 2,
    decide: 2,
    stop: 2,
    resume: 6,
    witness: 2,
    settle: 6,
    write_off: 2,
    repeat: 1,
}
