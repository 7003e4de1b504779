"""The custodian lends in several dimensions, and in bound mode for one request at a time."""

from functools import partial
from typing import Any

import msgspec
import pytest
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL, OTHER, STRANGER, Bench, Enclave, message_id, want

from aigovtool.crypto.identity import IdentityKind
from aigovtool.custodian.service import asks, standing, views
from aigovtool.custodian.store import instances, models
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConflictError, InvalidValueError, NotFoundError
from aigovtool.ids import ConsumerId, LeaseId, digest_of
from aigovtool.ledger import entry
from aigovtool.ledger.budget import BudgetLimit, Scope, Window
from aigovtool.ledger.policy import Dial, ServingPolicy, default_policy
from aigovtool.ledger.units import ZERO, Dimension, UnitVector
from aigovtool.protocol import commands as acts
from aigovtool.protocol.commands import AskRequest
from aigovtool.protocol.messages import Deny, DenyCode, Grant, Report, Want
from aigovtool.protocol.views import OwnView

INFERENCES, COMPUTE = Dimension.INFERENCES, Dimension.COMPUTE_MS
OWN = Scope(model=MODEL, borrower=BORROWER, consumer=CONSUMER)
NIGHT = ConsumerId("night")
REQUEST = digest_of(b"a request")


def units(inferences: int, compute_ms: int) -> UnitVector:
    return UnitVector(inferences=inferences, compute_ms=compute_ms)


def wish(inferences: int = 1, compute_ms: int = 50, **changes: Any) -> Want:
    least = units(min(1, inferences), 50)
    return Want(model=MODEL, consumer=CONSUMER, minimum=least, target=units(inferences, compute_ms), **changes)


def final(lease_id: LeaseId, used: UnitVector) -> Report:
    return Report(lease_id=lease_id, seq=1, used=used, ok=1, err=0, final=True, receipts="")


async def lend(bench: Bench, policy: ServingPolicy) -> Enclave:
    """Lend a model on these terms to a borrower with a consumer, and admit an enclave; no budget."""
    await bench.add_borrower(BORROWER)
    await bench.add_consumer(CONSUMER, BORROWER)
    await bench.command_of_two(msgspec.structs.replace(bench.upload(), policy=policy))
    enclave = Enclave(bench)
    await enclave.boot()
    return enclave


@pytest.fixture
async def two(bench: Bench) -> Enclave:
    """An enclave of a model that meters compute beside inferences, at most 50 ms of a request."""
    return await lend(bench, default_policy(Dial.ISLAND, ttl_ms=30_000, compute_ms=50))


@pytest.fixture
async def bound(bench: Bench) -> Enclave:
    """An enclave of a model that is lent for one request at a time, with a budget of a hundred."""
    enclave = await lend(bench, default_policy(Dial.BOUND))
    await bench.grant(100)
    return enclave


async def budget(bench: Bench, dimension: Dimension, limit: int, scope: Scope | None = None) -> None:
    made = BudgetLimit(scope=scope or Scope(model=MODEL), dimension=dimension, window=Window.LIFETIME, limit=limit)
    await bench.command(acts.SetBudget(limit=made))


async def rows(bench: Bench) -> dict[Dimension, tuple[int, int]]:
    shown = (await views.show_budgets(bench.custodian)).budgets
    return {row.key.dimension: (row.posted, row.pending) for row in shown}


async def granted(enclave: Enclave, wanted: Want) -> Grant:
    (result,) = (await enclave.renew(wanted)).results
    assert isinstance(result, Grant)
    return result


async def refused(enclave: Enclave, wanted: Want) -> Deny:
    (result,) = (await enclave.renew(wanted)).results
    assert isinstance(result, Deny)
    return result


async def own(bench: Bench) -> OwnView:
    return await asks.own_view(
        bench.custodian, bench.identity(IdentityKind.CONSUMER, CONSUMER, bench.consumers[CONSUMER])
    )


# --- Grants, usage and views -------------------------------------------------------------------


async def test_a_lease_is_held_charged_and_refunded_in_both_dimensions(two: Enclave, bench: Bench) -> None:
    """Each budget by its own units; the grant in the log says both, and usage tells them apart."""
    await budget(bench, INFERENCES, 100)
    await budget(bench, COMPUTE, 10_000)
    answer = await two.renew(wish(5, 500))
    (grant,) = answer.results
    assert isinstance(grant, Grant)
    assert grant.units == units(5, 500)
    assert await rows(bench) == {INFERENCES: (0, 5), COMPUTE: (0, 500)}
    assert {(room.dimension, room.units) for room in answer.rooms} == {(INFERENCES, 95), (COMPUTE, 9_500)}
    (shown,) = (await views.show_enclaves(bench.custodian)).enclaves
    assert shown.outstanding == units(5, 500)
    answer = await two.renew(reports=(final(grant.lease_id, units(2, 30)),))
    assert {(room.dimension, room.units) for room in answer.rooms} == {(INFERENCES, 98), (COMPUTE, 9_970)}
    assert await rows(bench) == {INFERENCES: (2, 0), COMPUTE: (30, 0)}
    (usage,) = (await views.show_usage(bench.custodian)).usage
    assert (usage.granted, usage.charged, usage.used) == (units(5, 500), units(2, 30), units(2, 30))
    (shown,) = (await views.show_enclaves(bench.custodian)).enclaves
    assert shown.outstanding == ZERO
    log = await bench.log()
    assert [line.units for line in log if isinstance(line, entry.LeaseGranted)] == [units(5, 500)]
    closed = [line for line in log if isinstance(line, entry.LeaseClosed)]
    assert [(line.used, line.charged) for line in closed] == [(units(2, 30), units(2, 30))]


async def test_both_dimensions_need_a_budget(two: Enclave, bench: Bench) -> None:
    """Absent means deny in each: a budget of inferences alone lends nothing."""
    await budget(bench, INFERENCES, 100)
    assert (await refused(two, wish())).code is DenyCode.NO_BUDGET_ROW
    await budget(bench, COMPUTE, 10_000)
    await granted(two, wish())


async def test_where_a_budget_is_missing_nothing_can_be_granted(two: Enclave, bench: Bench) -> None:
    """However many consumers ask at once: each is told of no room at all, though there are inferences."""
    await bench.add_consumer(NIGHT, BORROWER)
    await budget(bench, INFERENCES, 100)
    both = (wish(), msgspec.structs.replace(wish(), consumer=NIGHT))
    for wants in (both[:1], both):
        answer = await two.renew(*wants)
        told = {(room.consumer, room.dimension): room.units for room in answer.rooms}
        assert told == {(one.consumer, dimension): 0 for one in wants for dimension in (INFERENCES, COMPUTE)}


async def test_a_budget_of_what_is_not_metered_is_not_told_of(bench: Bench) -> None:
    """Neither beside a grant nor beside a report: it limits nothing."""
    enclave = await lend(bench, default_policy(Dial.BALANCED))
    await budget(bench, INFERENCES, 100)
    await budget(bench, COMPUTE, 700)
    answer = await enclave.renew(want(1))
    (grant,) = answer.results
    assert isinstance(grant, Grant)
    reported = await enclave.renew(reports=(final(grant.lease_id, units(1, 0)),))
    for told in (answer, reported):
        assert [(room.dimension, room.units) for room in told.rooms] == [(INFERENCES, 99)]


async def test_a_denial_says_of_what_there_is_too_little(two: Enclave, bench: Bench) -> None:
    """The first dimension that lacks, and what would have been granted of each."""
    await budget(bench, INFERENCES, 100)
    await budget(bench, COMPUTE, 49)
    denied = await refused(two, wish())
    assert (denied.code, denied.short, denied.available) == (DenyCode.INSUFFICIENT, COMPUTE, units(100, 49))
    assert await rows(bench) == {INFERENCES: (0, 0), COMPUTE: (0, 0)}


async def test_what_others_hold_of_either_dimension_is_capped(bench: Bench) -> None:
    """A quarter of the compute is with this instance already: it gets no more, however few inferences it holds."""
    enclave = await lend(bench, default_policy(Dial.ISLAND, ttl_ms=30_000, compute_ms=50))
    await budget(bench, INFERENCES, 1_000)
    await budget(bench, COMPUTE, 1_000)
    first = await granted(enclave, wish(1, 250))
    assert first.units == units(1, 100)
    await granted(enclave, wish(1, 250))
    third = await granted(enclave, wish(1, 250))
    assert third.units == units(1, 50)
    denied = await refused(enclave, wish(1, 250))
    assert (denied.code, denied.short) == (DenyCode.CAPPED, COMPUTE)


async def test_the_own_view_tells_of_each_dimension(two: Enclave, bench: Bench) -> None:
    """What is left of each: nothing where no budget was set, and no number where there is no limit."""
    await budget(bench, INFERENCES, 100)

    async def left() -> dict[Dimension, int | None]:
        (shown,) = (await own(bench)).budgets
        return {room.dimension: room.units for room in shown.rooms}

    assert await left() == {INFERENCES: 100, COMPUTE: 0}
    await budget(bench, COMPUTE, 700)
    await budget(bench, COMPUTE, 300, OWN)
    assert await left() == {INFERENCES: 100, COMPUTE: 300}
    no_limit = BudgetLimit(scope=Scope(model=MODEL), dimension=INFERENCES, window=Window.LIFETIME, limit=None)
    await bench.command(acts.SetBudget(limit=no_limit))
    assert await left() == {INFERENCES: None, COMPUTE: 300}
    await granted(two, wish(1, 50))


# --- Requests for more -------------------------------------------------------------------------


async def test_an_exhausted_dimension_is_what_is_asked_for(two: Enclave, bench: Bench) -> None:
    """In its own units, and filed once; approval raises the budgets of that dimension and no others."""
    await budget(bench, INFERENCES, 100)
    await budget(bench, COMPUTE, 0)
    await budget(bench, COMPUTE, 0, OWN)
    for _ in range(2):
        denied = await refused(two, wish(8, 400, ask=True))
        assert (denied.code, denied.short) == (DenyCode.EXHAUSTED, COMPUTE)
    (filed,) = (await views.show_asks(bench.custodian)).asks
    assert (filed.dimension, filed.units, filed.scope) == (COMPUTE, 400, OWN)
    (line,) = [line for line in await bench.log() if isinstance(line, entry.Asked)]
    assert (line.dimension, line.units) == (COMPUTE, 400)
    await bench.command(acts.DecideAsk(ask_id=filed.ask_id, approve=True, units=None, reason="yes"))
    shown = (await views.show_budgets(bench.custodian)).budgets
    assert {(row.key.scope, row.key.dimension): row.limit for row in shown} == {
        (Scope(model=MODEL), INFERENCES): 100,
        (Scope(model=MODEL), COMPUTE): 400,
        (OWN, COMPUTE): 400,
    }


async def test_what_is_gone_is_asked_for_and_not_what_is_held(two: Enclave, bench: Bench) -> None:
    """What a lease holds may come back, what is gone will not; each dimension is asked for by itself."""
    await budget(bench, INFERENCES, 8)
    await budget(bench, COMPUTE, 400)
    await granted(two, wish(8, 400))
    await bench.command(acts.SetBudget(limit=lifetime(INFERENCES, 0, OWN)))
    for _ in range(2):
        denied = await refused(two, wish(1, 1, ask=True))
        assert (denied.code, denied.short) == (DenyCode.EXHAUSTED, INFERENCES)
    await bench.command(acts.SetBudget(limit=lifetime(INFERENCES, None, OWN)))
    await bench.command(acts.SetBudget(limit=lifetime(COMPUTE, 0, OWN)))
    denied = await refused(two, wish(1, 1, ask=True))
    assert (denied.code, denied.short) == (DenyCode.EXHAUSTED, COMPUTE)
    filed = (await views.show_asks(bench.custodian)).asks
    assert sorted(ask.dimension for ask in filed) == [COMPUTE, INFERENCES]


def lifetime(dimension: Dimension, units: int | None, scope: Scope) -> BudgetLimit:
    return BudgetLimit(scope=scope, dimension=dimension, window=Window.LIFETIME, limit=units)


async def test_a_party_asks_for_a_dimension(two: Enclave, bench: Bench) -> None:
    """The same id for another dimension is another request, and a raise needs a budget of that dimension."""
    assert two.instance
    await budget(bench, INFERENCES, 100)
    who = bench.identity(IdentityKind.CONSUMER, CONSUMER, bench.consumers[CONSUMER])
    request = AskRequest(ask_id=message_id(), scope=OWN, units=10, reason="more", dimension=COMPUTE)
    filed = await asks.file_by_party(bench.custodian, who, request)
    assert filed.dimension is COMPUTE
    with pytest.raises(ConflictError) as caught:
        await asks.file_by_party(bench.custodian, who, msgspec.structs.replace(request, dimension=INFERENCES))
    assert caught.value.reason == "ask_changed"
    with pytest.raises(NotFoundError) as missing:
        await bench.command(acts.DecideAsk(ask_id=request.ask_id, approve=True, units=None, reason="yes"))
    assert missing.value.reason == "no_budget_row"


# --- Terms -------------------------------------------------------------------------------------

TOKENS = {"also": (Dimension.INPUT_TOKENS,)}


async def test_what_no_engine_measures_is_not_lent(bench: Bench) -> None:
    """A model that counts tokens could never be served rightly."""
    await bench.add_borrower(BORROWER)
    policy = msgspec.structs.replace(default_policy(Dial.BALANCED), **TOKENS)
    with pytest.raises(InvalidValueError) as caught:
        await bench.command(msgspec.structs.replace(bench.upload(), policy=policy))
    assert caught.value.reason == "not_measured"
    assert (await views.show_models(bench.custodian)).models == []


@pytest.mark.parametrize(
    "change",
    [{"also": (), "request_max": ZERO}, TOKENS, {"also": (COMPUTE, Dimension.INPUT_TOKENS)}],
    ids=["fewer", "others", "more"],
)
async def test_what_a_model_meters_cannot_change(change: dict[str, Any], two: Enclave, bench: Bench) -> None:
    """Leases and budgets are in the dimensions with which it was lent; the most of a request may change."""
    assert two.instance
    policy = default_policy(Dial.STRICT, compute_ms=50, version=2)
    changed = msgspec.structs.replace(policy, **({"request_max": ZERO} if change is TOKENS else {}), **change)
    with pytest.raises(InvalidValueError) as caught:
        await bench.command(acts.SetModelTerms(model=MODEL, policy=changed, borrowers=[BORROWER]))
    assert caught.value.reason == "dimension_fixed"
    shorter = msgspec.structs.replace(policy, request_max=units(0, 20))
    await bench.command(acts.SetModelTerms(model=MODEL, policy=shorter, borrowers=[BORROWER]))


# --- Bound mode --------------------------------------------------------------------------------


async def test_a_bound_lease_names_its_request_everywhere(bound: Enclave, bench: Bench) -> None:
    """In the grant, in the log and in the ledger: whoever reads the log can tell for what each lease was."""
    grant = await granted(bound, msgspec.structs.replace(want(50), request=REQUEST))
    assert (grant.request, grant.units) == (REQUEST, UnitVector(inferences=1))
    (line,) = [line for line in await bench.log() if isinstance(line, entry.LeaseGranted)]
    assert (line.lease_id, line.request) == (grant.lease_id, REQUEST)


async def test_a_bound_model_is_not_lent_without_a_request(bound: Enclave, bench: Bench) -> None:
    """An enclave that was admitted on other terms must attest again to be told these; nothing is held for it."""
    denied = await refused(bound, want())
    assert (denied.code, denied.request) == (DenyCode.REATTEST, None)
    assert await rows(bench) == {INFERENCES: (0, 0)}


async def test_a_denial_names_the_request_that_it_is_for(bound: Enclave, bench: Bench) -> None:
    """Two requests of one consumer in one renewal: each gets its own answer."""
    await budget(bench, INFERENCES, 1)
    other = digest_of(b"another request")
    wishes = [msgspec.structs.replace(want(), request=request) for request in (REQUEST, other)]
    first, second = (await bound.renew(*wishes)).results
    assert isinstance(first, Grant)
    assert isinstance(second, Deny)
    assert (first.request, second.request, second.code) == (REQUEST, other, DenyCode.RESERVED)


async def test_terms_that_become_bound_hold_from_the_next_lease(admitted: Enclave, lent: Bench) -> None:
    """What is out keeps its terms; without a request there is nothing more."""
    await lent.grant(1_000)
    await granted(admitted, want(5))
    policy = default_policy(Dial.BOUND, version=2)
    await lent.command(acts.SetModelTerms(model=MODEL, policy=policy, borrowers=[BORROWER, OTHER]))
    assert (await refused(admitted, want(5))).code is DenyCode.REATTEST
    assert (await refused(admitted, want(5, consumer=STRANGER))).code is DenyCode.NO_BUDGET_ROW
    named = await granted(admitted, msgspec.structs.replace(want(5), request=REQUEST))
    assert named.units == UnitVector(inferences=1)


# --- TEEs whose memory a host can copy ---------------------------------------------------------


async def copied(bench: Bench, enclave: Enclave) -> None:
    """Have the ledger know the enclave as one whose memory is not encrypted, as a measured VM is admitted."""

    def change(transaction: Transaction) -> None:
        instance = instances.require(transaction, enclave.instance)
        instances.replace(transaction, msgspec.structs.replace(instance, refundable=False))

    await bench.custodian.database.run(change)


async def test_a_copied_enclave_draws_in_bound_mode_only(two: Enclave, bench: Bench) -> None:
    """Other leases could be used twice: it is told to attest again, and then why it is lent nothing."""
    await budget(bench, INFERENCES, 100)
    await budget(bench, COMPUTE, 5_000)
    await granted(two, wish(1, 50))
    await copied(bench, two)
    denied = await refused(two, wish(1, 50))
    assert denied.code is DenyCode.REATTEST
    (model,) = await bench.custodian.database.run(models.everything)

    for refundable, reasons in ((False, ["bound_only"]), (True, [])):
        found, why = await bench.custodian.database.run(
            partial(standing.admissible, asked=[MODEL], borrower=BORROWER, refundable=refundable)
        )
        assert [error.reason for error in why.values()] == reasons
        assert found == ([model] if refundable else [])


async def test_a_copied_enclave_is_lent_one_request_at_a_time(bound: Enclave, bench: Bench) -> None:
    """And what it did not use of that is charged all the same."""
    await copied(bench, bound)
    lease = await granted(bound, msgspec.structs.replace(want(), request=REQUEST))
    await bound.renew(reports=(final(lease.lease_id, ZERO),))
    (row,) = (await views.show_budgets(bench.custodian)).budgets
    assert (row.posted, row.pending) == (1, 0)
