"""The meter: units before compute, authority before release, and nothing that a replay or a late stop could stretch."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.codec import encode
from aigovtool.crypto.sign import SigningKey
from aigovtool.errors import (
    AIGovToolError,
    BudgetExhaustedError,
    BudgetReservedError,
    ConflictError,
    LeaseCappedError,
    LeaseExpiredError,
    LogError,
    NoBudgetError,
    ReattestRequiredError,
    StoppedError,
)
from aigovtool.ids import ConsumerId, Digest, InstanceId, KeyId, LeaseId, MessageId, ModelId, RequestKey
from aigovtool.ledger.checkpoint import Checkpoint, sign_checkpoint
from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.policy import Dial, ServingPolicy, default_policy
from aigovtool.ledger.receipt import Receipt, chain
from aigovtool.ledger.units import ZERO, Dimension, UnitVector, of
from aigovtool.protocol.messages import Ack, Answer, Deny, DenyCode, Grant, PathRoom, Renew, terms_of
from aigovtool.protocol.metering import Meter
from aigovtool.protocol.reservation import Posted, Reservation
from aigovtool.protocol.stop import ActiveStop, StopState

MODEL, ANNA, BERT = ModelId("digits"), ConsumerId("anna"), ConsumerId("bert")
INSTANCE, CUSTODIAN = InstanceId("a" * 64), KeyId("c" * 64)
POLICY = msgspec.structs.replace(default_policy(Dial.BALANCED), wipe_after_ms=90_000)
TTL_MS = POLICY.ttl_ms
LOG_KEY = SigningKey.generate()


def inferences(units: int) -> UnitVector:
    return of(Dimension.INFERENCES, units)


def stop_state(epoch: int, *stops: tuple[StopTarget, str], scope_epoch: int | None = None) -> StopState:
    return StopState(
        instance=INSTANCE,
        epoch=epoch,
        scope_epoch=epoch if scope_epoch is None else scope_epoch,
        stops=[ActiveStop(target=target, value=value, epoch=epoch) for target, value in stops],
    )


def grant(number: int, units: int, consumer: ConsumerId = ANNA, *, ttl_ms: int = TTL_MS) -> Grant:
    return Grant(
        lease_id=LeaseId(f"{number:032x}"),
        model=MODEL,
        consumer=consumer,
        units=inferences(units),
        ttl_ms=ttl_ms,
        policy=Digest("sha256:" + "e" * 64),
    )


#: Denials that say of what there is too little.
SHORT = {DenyCode.EXHAUSTED, DenyCode.INSUFFICIENT, DenyCode.RESERVED, DenyCode.CAPPED}


def deny(code: DenyCode, *, consumer: ConsumerId = ANNA, available: int = 0, retry_after_ms: int = 2_000) -> Deny:
    return Deny(
        model=MODEL,
        consumer=consumer,
        code=code,
        available=inferences(available),
        short=Dimension.INFERENCES if code in SHORT else None,
        retry_after_ms=retry_after_ms,
    )


def note(size: int, generation: int = 0) -> str:
    checkpoint = Checkpoint(custodian=CUSTODIAN, size=size, root=bytes(32), generation=generation)
    return sign_checkpoint(checkpoint, LOG_KEY)


def room(units: int, model: ModelId = MODEL, consumer: ConsumerId = ANNA) -> PathRoom:
    return PathRoom(model=model, consumer=consumer, dimension=Dimension.INFERENCES, units=units)


def answer(
    renew: Renew,
    *results: Grant | Deny,
    epoch: int = 1,
    ttl_ms: int = TTL_MS,
    left: int = 100,
    checkpoint: str | None = None,
    policy: ServingPolicy = POLICY,
) -> Answer:
    paths = {(one.model, one.consumer) for one in results}
    return Answer(
        custodian=CUSTODIAN,
        instance=INSTANCE,
        request_id=renew.request_id,
        generation=0,
        epoch=epoch,
        server_time_ms=0,
        checkpoint=checkpoint or note(1),
        ttl_ms=ttl_ms,
        results=list(results),
        acks=[Ack(lease_id=report.lease_id, seq=report.seq) for report in renew.reports],
        rooms=[room(left, model, consumer) for model, consumer in sorted(paths)],
        terms=(terms_of(MODEL, policy),),
    )


def receipt(posted: Posted) -> Receipt:
    digest = Digest("sha256:" + "f" * 64)
    return Receipt(
        request_key=RequestKey("k1"),
        request=digest,
        response=digest,
        model=MODEL,
        manifest=digest,
        consumer=ANNA,
        units=inferences(10),
        remaining=posted.remaining,
        lease_id=posted.lease_id,
        sequence=posted.sequence,
        instance=INSTANCE,
        tee="simulated",
        at_ms=0,
    )


@dataclass
class Exchange:
    """A meter, and a custodian that says what the test wants."""

    meter: Meter = field(
        default_factory=lambda: Meter(
            instance=INSTANCE,
            custodian=CUSTODIAN,
            policies={MODEL: POLICY},
            stop_state=stop_state(1),
            admitted_ms=0,
        )
    )
    sent: int = 0

    def renew(self, now_ms: int) -> Renew:
        self.sent += 1
        return self.meter.renew(now_ms, MessageId(f"{self.sent:032x}"))

    def round_trip(
        self, now_ms: int, *results: Grant | Deny, epoch: int = 1, ttl_ms: int = TTL_MS, left: int = 100
    ) -> Renew:
        renew = self.renew(now_ms)
        policy = self.meter.terms[MODEL]
        self.meter.accept(now_ms, answer(renew, *results, epoch=epoch, ttl_ms=ttl_ms, left=left, policy=policy))
        return renew

    def reserve(self, now_ms: int, units: int = 1, consumer: ConsumerId = ANNA) -> Reservation | None:
        return self.meter.reserve(now_ms, MODEL, consumer, inferences(units))

    def reserved(self, now_ms: int, units: int = 1, consumer: ConsumerId = ANNA) -> Reservation:
        reservation = self.reserve(now_ms, units, consumer)
        assert reservation is not None
        return reservation

    def serve(self, now_ms: int, units: int = 1) -> None:
        reservation = self.reserved(now_ms, units)
        self.meter.gate(now_ms, reservation)
        self.post(reservation, units)

    def post(self, reservation: Reservation, units: int, receipt: Receipt | None = None) -> Posted:
        return self.meter.post(reservation, inferences(units), receipt)


def in_parts(*units: int) -> Exchange:
    """An instance with several leases for Anna."""
    exchange = Exchange()
    exchange.round_trip(0, *(grant(number, part) for number, part in enumerate(units, 1)))
    return exchange


@pytest.fixture
def fresh() -> Exchange:
    return Exchange()


@pytest.fixture
def live() -> Exchange:
    """An instance with ten units for Anna, drawn at time 0."""
    exchange = Exchange()
    exchange.round_trip(0, grant(1, 10))
    return exchange


def refused(kind: type[AIGovToolError], exchange: Exchange, now_ms: int, units: int = 1) -> AIGovToolError:
    with pytest.raises(kind) as caught:
        exchange.reserve(now_ms, units)
    return caught.value


# --- Authority ---------------------------------------------------------------------------------


def test_a_fresh_instance_has_no_authority(fresh: Exchange) -> None:
    """Admission alone serves nobody: only an answer does."""
    assert refused(LeaseExpiredError, fresh, 0).retry_after_s
    assert fresh.meter.authority_left_ms(0) == 0


def test_authority_counts_from_the_first_sending(fresh: Exchange) -> None:
    """An answer that took 20 s leaves 10 s, however often the renewal was repeated in between."""
    first = fresh.renew(1_000)
    assert fresh.renew(11_000) is first
    assert fresh.renew(20_000) is first
    fresh.meter.accept(21_000, answer(first, grant(1, 10)))
    assert fresh.meter.authority_left_ms(21_000) == 1_000 + TTL_MS - 21_000
    fresh.reserved(1_000 + TTL_MS - 1)
    refused(LeaseExpiredError, fresh, 1_000 + TTL_MS)


def test_a_repeated_renewal_is_the_same_bytes(live: Exchange) -> None:
    """What happens between two sendings waits for the next renewal."""
    first = encode(live.renew(10_000))
    live.serve(10_500)
    assert encode(live.renew(11_000)) == first


def test_an_older_answer_never_shortens_and_never_extends(live: Exchange) -> None:
    """Authority is the latest of what accepted answers gave."""
    live.round_trip(5_000, ttl_ms=1_000)
    assert live.meter.authority_left_ms(5_000) == TTL_MS - 5_000


@pytest.mark.parametrize("change", ["request_id", "instance", "custodian"])
def test_foreign_answers_change_nothing(live: Exchange, change: str) -> None:
    """An answer to another renewal, instance or by another custodian is refused, and the right one still counts."""
    renew = live.renew(10_000)
    wrong = {"request_id": "f" * 32, "instance": "b" * 64, "custodian": "d" * 64}[change]
    bad = msgspec.structs.replace(answer(renew, grant(2, 99)), **{change: wrong})
    with pytest.raises(ConflictError) as caught:
        live.meter.accept(10_000, bad)
    assert caught.value.reason == ("not_outstanding" if change == "request_id" else "wrong_instance")
    assert live.meter.authority_left_ms(10_000) == TTL_MS - 10_000
    live.meter.accept(10_000, answer(renew))
    assert live.meter.authority_left_ms(10_000) == TTL_MS


def test_a_replayed_answer_gives_nothing_twice(live: Exchange) -> None:
    """Neither while its lease is held nor after that was closed and acknowledged do its units come back."""
    renew = live.renew(10_000)
    reply = answer(renew, grant(2, 5))
    live.meter.accept(10_000, reply)
    for _ in range(2):
        with pytest.raises(ConflictError) as caught:
            live.meter.accept(10_001, reply)
        assert caught.value.reason == "not_outstanding"
        live.serve(10_002, 10)
        live.serve(10_002, 5)
        live.round_trip(10_003)
        live.round_trip(10_004, grant(3, 10), grant(4, 5))
    assert live.reserve(10_005, 11) is None


def test_authority_that_was_ended_does_not_come_back(live: Exchange) -> None:
    """After a clock ran backwards an answer that was under way restores nothing."""
    renew = live.renew(10_000)
    live.meter.end_authority()
    live.meter.accept(10_100, answer(renew, grant(2, 10)))
    refused(LeaseExpiredError, live, 10_100)
    assert live.meter.authority_left_ms(10_100) == 0


# --- Units -------------------------------------------------------------------------------------


def test_units_are_debited_before_compute(live: Exchange) -> None:
    """Ten units serve ten, also when nothing was posted yet; the eleventh waits."""
    for _ in range(10):
        live.reserved(1_000)
    assert live.reserve(1_000) is None


def test_a_posting_charges_what_was_used(live: Exchange) -> None:
    """The rest of a reservation is free again, and receipts of a lease are numbered."""
    reservation = live.reserved(1_000, 8)
    posted = live.post(reservation, 3)
    assert (posted.lease_id, posted.sequence, posted.remaining) == (reservation.lease_id, 1, inferences(100 + 7))
    assert live.post(live.reserved(1_000, 7), 7).sequence == 2
    assert live.reserve(1_000) is None


def test_more_than_was_reserved_cannot_be_posted(live: Exchange) -> None:
    """The counter is a wall, not a hint."""
    with pytest.raises(ConflictError) as caught:
        live.post(live.reserved(1_000, 2), 3)
    assert caught.value.reason == "overspend"


ENDINGS = st.lists(st.tuples(st.sampled_from(["reserve", "post", "void"]), st.integers(0, 5)), max_size=40)


@given(ENDINGS)
def test_a_reservation_ends_once_whatever_the_caller_does(acts: list[tuple[str, int]]) -> None:
    """Posted or voided again, in any order: a posting is refused, a void changes nothing, no other request suffers."""
    exchange = Exchange()
    exchange.round_trip(0, grant(1, 12))
    made: list[Reservation] = []
    running: set[int] = set()
    used = ZERO
    for act, choice in acts:
        if act == "reserve":
            if (reservation := exchange.reserve(1, 1 + choice % 3)) is not None:
                made.append(reservation)
                running.add(reservation.number)
        elif made:
            chosen = made[choice % len(made)]
            ended = chosen.number not in running
            if act == "void":
                exchange.meter.void(chosen, failed=False)
            elif ended:
                with pytest.raises(ConflictError) as caught:
                    exchange.meter.post(chosen, chosen.units)
                assert caught.value.reason == "reservation_ended"
            else:
                exchange.meter.post(chosen, chosen.units)
                used = used.plus(chosen.units)
            running.discard(chosen.number)
        holding = exchange.meter._holdings[grant(1, 12).lease_id]
        assert holding.used == used
        reserved = sum(each.units.inferences for each in made if each.number in running)
        assert holding.reserved == inferences(reserved)
        assert holding.in_flight == len(running)


def test_what_was_posted_stays_posted(live: Exchange) -> None:
    """An error handler that voids after the posting takes nothing back, and frees nothing of its neighbour's."""
    done, neighbour = live.reserved(1_000, 4), live.reserved(1_000, 6)
    live.post(done, 4)
    live.meter.void(done, failed=True)
    assert live.reserve(1_000) is None
    live.post(neighbour, 6)
    (report,) = live.renew(1_001).reports
    assert (report.used.inferences, report.ok, report.err, report.final) == (10, 2, 0, True)


def test_a_preview_is_what_the_posting_comes_to(live: Exchange) -> None:
    """The receipt is signed before the charge: number and balance must be right all the same."""
    live.serve(1_000)
    reservation = live.reserved(1_000, 3)
    preview = live.meter.preview(reservation, inferences(1))
    assert live.post(reservation, 1) == preview
    assert (preview.sequence, preview.remaining) == (2, inferences(100 + 8))
    with pytest.raises(ConflictError) as caught:
        live.meter.preview(reservation, ZERO)
    assert caught.value.reason == "reservation_ended"


@pytest.mark.parametrize("change", [{"sequence": 2}, {"lease_id": LeaseId("f" * 32)}], ids=["number", "lease"])
def test_a_receipt_that_is_not_the_next_posts_nothing(live: Exchange, change: dict[str, Any]) -> None:
    """The chain in the final report is of exactly the receipts that left; a refused posting can be voided."""
    reservation = live.reserved(1_000, 10)
    right = receipt(live.meter.preview(reservation, inferences(10)))
    with pytest.raises(ConflictError) as caught:
        live.post(reservation, 10, msgspec.structs.replace(right, **change))
    assert caught.value.reason == "wrong_receipt"
    live.meter.void(reservation, failed=True)
    again = live.reserved(1_000, 10)
    live.post(again, 10, right)
    (report,) = live.renew(1_001).reports
    assert (report.used.inferences, report.err, report.receipts) == (10, 1, chain("", right))


@pytest.mark.parametrize("failed", [False, True])
def test_work_that_is_not_released_costs_nothing(live: Exchange, failed: bool) -> None:  # noqa: FBT001 -- case
    """Refused and failed work gives its units back; only failures are counted, and reported."""
    live.meter.void(live.reserved(1_000, 10), failed=failed)
    live.reserved(1_000, 10)
    reports = live.renew(10_000).reports
    assert [(report.used.inferences, report.err) for report in reports] == ([(0, 1)] if failed else [])


def test_one_consumer_cannot_use_the_lease_of_another(live: Exchange) -> None:
    """Units belong to a model and a consumer."""
    assert live.reserve(1_000, 1, BERT) is None


def test_a_batch_waits_for_a_lease_that_holds_all_of_it(live: Exchange) -> None:
    """Sixteen rows do not fit ten units: the next renewal asks for at least sixteen in one lease."""
    assert live.reserve(1_000, 16) is None
    live.meter.waiting(MODEL, ANNA, 1)
    assert live.meter.renew_due(1_000)
    (want,) = live.round_trip(1_000, grant(2, 16)).wants
    assert want.minimum == inferences(16)
    assert want.target.inferences >= 16
    assert live.reserved(1_001, 16).lease_id == grant(2, 16).lease_id


def test_a_lease_ends_by_itself(live: Exchange) -> None:
    """Units cannot be reserved after the lease's own ttl, though newer authority is there."""
    live.round_trip(20_000)
    live.reserved(TTL_MS - 1)
    assert live.reserve(TTL_MS) is None
    assert live.meter.authority_left_ms(TTL_MS) > 0


# --- Gate, stop, wipe --------------------------------------------------------------------------


def test_the_gate_closes_when_authority_ends(live: Exchange) -> None:
    """Work that was started in time is not released too late."""
    reservation = live.reserved(TTL_MS - 1)
    live.meter.gate(TTL_MS - 1, reservation)
    with pytest.raises(LeaseExpiredError):
        live.meter.gate(TTL_MS, reservation)


@pytest.mark.parametrize("target", [target for target in StopTarget if target is not StopTarget.CONSUMER])
def test_a_wide_stop_closes_the_gate_at_once_and_demands_a_wipe(live: Exchange, target: StopTarget) -> None:
    """Whatever is wider than one consumer ends release, renewal and reservation."""
    reservation = live.reserved(1_000)
    assert live.meter.apply_stop_state(stop_state(2, (target, "x")))
    with pytest.raises(StoppedError):
        live.meter.gate(1_000, reservation)
    refused(StoppedError, live, 1_000)
    assert live.meter.must_wipe(1_000)
    assert not live.meter.renew_due(10**9)


def test_a_consumer_stop_refuses_that_consumer_only(live: Exchange) -> None:
    """Anna's answer in flight is held, nothing more is drawn for her, and Bert is served on."""
    reservation = live.reserved(1_000)
    assert not live.meter.apply_stop_state(stop_state(2, (StopTarget.CONSUMER, ANNA)))
    with pytest.raises(StoppedError) as caught:
        live.meter.gate(1_000, reservation)
    assert caught.value.reason == "consumer_stopped"
    assert refused(StoppedError, live, 1_000).reason == "consumer_stopped"
    assert live.reserve(1_000, 1, BERT) is None
    assert [want.consumer for want in live.renew(10_000).wants] == [BERT]
    assert not live.meter.must_wipe(1_000)


def test_a_resume_lets_the_consumer_in_again(live: Exchange) -> None:
    """A newer state without the stop lifts it."""
    live.meter.apply_stop_state(stop_state(2, (StopTarget.CONSUMER, ANNA)))
    live.meter.apply_stop_state(stop_state(3))
    live.reserved(1_000)


def test_an_older_stop_state_cannot_lift_a_stop(live: Exchange) -> None:
    """A host that plays back a state from before the stop changes nothing."""
    live.meter.apply_stop_state(stop_state(5, (StopTarget.CONSUMER, ANNA)))
    live.meter.apply_stop_state(stop_state(4))
    live.meter.apply_stop_state(stop_state(9, scope_epoch=4))
    refused(StoppedError, live, 1_000)


def test_a_stop_state_of_another_instance_is_refused(live: Exchange) -> None:
    """Nobody is stopped or resumed by a neighbour's state."""
    with pytest.raises(ConflictError) as caught:
        live.meter.apply_stop_state(msgspec.structs.replace(stop_state(2), instance=InstanceId("b" * 64)))
    assert caught.value.reason == "wrong_instance"


def test_an_answer_from_before_a_stop_counts_only_for_its_acknowledgements(live: Exchange) -> None:
    """Its authority does not count, its units are closed unused, its acknowledgements do count."""
    live.serve(1_000, 10)
    renew = live.renew(20_000)
    live.meter.apply_stop_state(stop_state(7, (StopTarget.CONSUMER, BERT)))
    live.meter.accept(20_100, answer(renew, grant(2, 10), epoch=6))
    assert live.meter.authority_left_ms(20_100) == TTL_MS - 20_100
    assert live.reserve(20_100) is None
    reports = live.renew(20_200).reports
    assert [(report.lease_id, report.used.inferences, report.final) for report in reports] == [
        (grant(2, 10).lease_id, 0, True)
    ]


def test_a_stale_answer_denies_nothing_and_leaves_no_rooms(live: Exchange) -> None:
    """What it refused may be allowed since, and what it says is left may be gone: who waits is asked for again."""
    assert live.reserve(20_000, 11) is None
    live.meter.waiting(MODEL, ANNA, 1)
    renew = live.renew(20_000)
    live.meter.apply_stop_state(stop_state(7))
    live.meter.accept(20_100, answer(renew, deny(DenyCode.STOPPED), epoch=6, left=7))
    assert live.meter.remaining(MODEL, ANNA) == inferences(100 + 10)
    assert live.reserve(20_100, 11) is None
    assert not live.meter.renew_due(20_199)  # a custodian that answers like this for ever is not asked without pause
    assert live.meter.renew_due(20_200)
    assert [want.minimum.inferences for want in live.renew(20_200).wants] == [11]


def test_a_stale_answer_is_no_reason_to_hope(live: Exchange) -> None:
    """Nothing is under way any more: until the next wish is sent, the denial of before stands again."""
    assert live.reserve(1, 11) is None
    live.meter.waiting(MODEL, ANNA, 1)
    live.round_trip(1, deny(DenyCode.RESERVED, retry_after_ms=20_000))
    assert live.reserve(2, 11) is None
    renew = live.renew(2)
    live.meter.apply_stop_state(stop_state(7))
    live.meter.accept(3, answer(renew, deny(DenyCode.RESERVED), epoch=6))
    refused(BudgetReservedError, live, 4, 11)


@pytest.mark.parametrize(("results", "ttl_ms"), [([deny(DenyCode.REATTEST)], TTL_MS), ([], 0)], ids=["denied", "ttl-0"])
def test_a_stale_answer_does_not_end_service(live: Exchange, results: list[Deny], ttl_ms: int) -> None:
    """It was given under a stop of everything that is over: the instance is served on, and asks again."""
    renew = live.renew(20_000)
    live.meter.apply_stop_state(stop_state(8))
    live.meter.accept(20_100, answer(renew, *results, epoch=7, ttl_ms=ttl_ms))
    assert not live.meter.must_reattest
    assert live.meter.next_renew_ms() == 20_000 + TTL_MS // 3
    live.reserved(20_100)


def test_an_answer_of_a_later_generation_ends_service_whatever_its_epoch(live: Exchange) -> None:
    """A ledger that was restored may have forgotten a stop: its epochs cannot be compared, and it admits anew."""
    renew = live.renew(20_000)
    live.meter.apply_stop_state(stop_state(8))
    reply = msgspec.structs.replace(answer(renew, epoch=7, ttl_ms=0, checkpoint=note(1, 1)), generation=1)
    live.meter.accept(20_100, reply)
    assert live.meter.must_reattest


def test_a_stop_elsewhere_disturbs_nobody(live: Exchange) -> None:
    """An answer older than the custodian's epoch, but not than a stop on our own scopes, is a full answer."""
    renew = live.renew(20_000)
    live.meter.apply_stop_state(stop_state(7, scope_epoch=1))
    live.meter.accept(20_100, answer(renew, epoch=6))
    assert live.meter.authority_left_ms(20_100) == TTL_MS - 100


def test_a_wipe_closes_everything_and_reports_once(live: Exchange) -> None:
    """Work in flight is charged nothing and can never be released; the statement is the same each time."""
    live.serve(1_000, 4)
    reservation = live.reserved(1_000, 2)
    (statement,) = live.meter.wipe()
    assert [(report.used.inferences, report.final) for report in statement.reports] == [(4, True)]
    assert live.meter.wipe() == [statement]
    with pytest.raises(LeaseExpiredError):
        live.meter.gate(1_000, reservation)
    with pytest.raises(ConflictError):
        live.post(reservation, 2)
    live.meter.void(reservation, failed=False)
    refused(LeaseExpiredError, live, 1_000)
    assert live.meter.has_unreported()
    live.meter.acknowledge_wipe(statement)
    assert not live.meter.has_unreported()


def test_a_consumer_that_was_stopped_stays_stopped_at_the_end(live: Exchange) -> None:
    """What of an answer leaves an instance that has ended is not for a consumer that was stopped before."""
    live.meter.apply_stop_state(stop_state(2, (StopTarget.CONSUMER, ANNA)))
    live.meter.wipe()
    with pytest.raises(StoppedError):
        live.meter.check(1_000, ANNA)
    with pytest.raises(LeaseExpiredError):
        live.meter.check(1_000, BERT)


def test_a_wipe_says_all_however_many_leases_there_are() -> None:
    """More final reports than one statement takes are in several, of one epoch, each acknowledged by itself."""
    exchange = Exchange()
    exchange.round_trip(0, *(grant(number, 2, ConsumerId(f"c{number}")) for number in range(2_500)))
    exchange.post(exchange.reserved(1, 1, ConsumerId("c2400")), 1)
    statements = exchange.meter.wipe()
    assert [len(statement.reports) for statement in statements] == [1_000, 1_000, 500]
    assert {statement.epoch for statement in statements} == {1}
    reports = {report.lease_id: report for statement in statements for report in statement.reports}
    assert len(reports) == 2_500
    assert all(report.final for report in reports.values())
    assert sum(report.used.inferences for report in reports.values()) == 1
    for statement in statements:
        assert exchange.meter.has_unreported()
        exchange.meter.acknowledge_wipe(statement)
    assert not exchange.meter.has_unreported()


def test_a_wipe_without_leases_is_stated_all_the_same(fresh: Exchange) -> None:
    """The custodian waits for it: one statement, without reports."""
    (statement,) = fresh.meter.wipe()
    assert (statement.instance, statement.reports) == (INSTANCE, [])


def test_the_dead_man_switch_counts_from_the_last_contact(live: Exchange) -> None:
    """Silence is measured from when the last accepted answer's renewal was first sent."""
    renew = live.renew(40_000)
    live.meter.accept(60_000, answer(renew))
    assert not live.meter.must_wipe(40_000 + 89_999)
    assert live.meter.must_wipe(40_000 + 90_000)


def test_stale_and_unauthorised_answers_are_no_contact(live: Exchange) -> None:
    """A host cannot keep the dead-man switch off with answers from before a stop."""
    renew = live.renew(80_000)
    live.meter.apply_stop_state(stop_state(7, (StopTarget.CONSUMER, BERT)))
    live.meter.accept(80_000, answer(renew, epoch=6))
    assert live.meter.must_wipe(90_000)


@pytest.mark.parametrize(("results", "ttl_ms"), [([deny(DenyCode.REATTEST)], TTL_MS), ([], 0)], ids=["denied", "ttl-0"])
def test_an_attestation_that_is_too_old_serves_nobody(live: Exchange, results: list[Deny], ttl_ms: int) -> None:
    """Denied, or answered without any ttl: the instance must attest again, and does not renew in a hot loop."""
    live.round_trip(10_000, *results, ttl_ms=ttl_ms)
    assert live.meter.must_reattest
    assert live.meter.authority_left_ms(10_000) == TTL_MS - 10_000
    refused(ReattestRequiredError, live, 10_000)
    assert live.meter.next_renew_ms() > 10_000


# --- Denials -----------------------------------------------------------------------------------


def test_exhaustion_is_asked_about_once() -> None:
    """The first renewal after exhaustion files a request for more; later ones only look again."""
    exchange = Exchange()
    exchange.round_trip(0)
    assert exchange.reserve(1) is None
    asks = []
    for now_ms in (1, 2, 12_000, 24_000):
        renew = exchange.round_trip(now_ms, deny(DenyCode.EXHAUSTED))
        asks.append([want.ask for want in renew.wants])
        assert refused(BudgetExhaustedError, exchange, now_ms + 1).retry_after_s
    assert asks == [[False], [True], [False], [False]]


def test_a_raised_budget_is_used_at_once() -> None:
    """The push that says so takes the denial back, and the next renewal is due."""
    exchange = Exchange()
    exchange.round_trip(0)
    assert exchange.reserve(1) is None
    exchange.round_trip(1, deny(DenyCode.EXHAUSTED))
    exchange.round_trip(2, deny(DenyCode.EXHAUSTED))
    assert not exchange.meter.renew_due(100)
    exchange.meter.nudge(100, granted=True, recall=False)
    assert exchange.meter.renew_due(100)
    assert exchange.reserve(100) is None
    exchange.round_trip(101, grant(1, 5))
    exchange.reserved(102)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (DenyCode.RESERVED, BudgetReservedError),
        (DenyCode.CAPPED, LeaseCappedError),
        (DenyCode.INSUFFICIENT, BudgetExhaustedError),
        (DenyCode.NO_BUDGET_ROW, NoBudgetError),
        (DenyCode.STOPPED, StoppedError),
    ],
)
def test_a_denial_is_passed_on_and_asked_again_later(code: DenyCode, kind: type[AIGovToolError]) -> None:
    """Each denial has its own refusal; after the time that the custodian named it is worth asking again."""
    exchange = Exchange()
    exchange.round_trip(0)
    assert exchange.reserve(1, 4) is None
    exchange.round_trip(1, deny(code, retry_after_ms=5_000))
    refused(kind, exchange, 5_000, 4)
    assert not exchange.meter.renew_due(5_000)
    assert exchange.reserve(5_001, 4) is None
    assert exchange.meter.renew_due(5_001)


def test_fewer_units_than_were_denied_are_asked_for_at_once() -> None:
    """A batch of nine finds two left: a request of two waits for them, one of three is refused."""
    exchange = Exchange()
    exchange.round_trip(0)
    assert exchange.reserve(1, 9) is None
    exchange.round_trip(1, deny(DenyCode.INSUFFICIENT, available=2))
    assert refused(BudgetExhaustedError, exchange, 2, 3).reason == "insufficient"
    assert exchange.reserve(2, 2) is None


@pytest.mark.parametrize("code", [DenyCode.RESERVED, DenyCode.CAPPED])
def test_units_that_our_own_work_holds_are_waited_for(live: Exchange, code: DenyCode) -> None:
    """While this instance's own requests hold the units, more requests wait instead of failing."""
    reservation = live.reserved(1_000, 10)
    assert live.reserve(1_001) is None
    live.round_trip(1_001, deny(code, retry_after_ms=20_000))
    assert live.reserve(1_002) is None
    live.meter.waiting(MODEL, ANNA, 1)
    assert not live.meter.renew_due(1_003)
    live.post(reservation, 10)
    assert live.meter.renew_due(1_004)
    (report,) = live.round_trip(1_004, grant(2, 1)).reports
    assert (report.used.inferences, report.final) == (10, True)
    live.reserved(1_005)


@pytest.mark.parametrize("code", [DenyCode.RESERVED, DenyCode.CAPPED])
def test_leases_that_are_too_small_are_given_back_and_drawn_as_one(code: DenyCode) -> None:
    """Three and three units do not serve a batch of five, and nobody else can have them: six in one lease do."""
    exchange = in_parts(3, 3)
    assert exchange.reserve(1, 5) is None
    exchange.meter.waiting(MODEL, ANNA, 1)
    exchange.round_trip(1, deny(code, available=0, retry_after_ms=20_000))
    assert exchange.reserve(2, 5) is None
    assert exchange.meter.renew_due(2)
    renew = exchange.round_trip(2, grant(9, 6))
    assert [(report.used.inferences, report.final) for report in renew.reports] == [(0, True), (0, True)]
    assert [want.minimum for want in renew.wants] == [inferences(5)]
    exchange.reserved(3, 5)


def test_a_batch_larger_than_all_that_is_left_is_told_so() -> None:
    """Once its own leases are given back, the custodian can say that nobody holds the rest: the refusal is final."""
    exchange = in_parts(1)
    assert exchange.reserve(1, 4) is None
    exchange.meter.waiting(MODEL, ANNA, 1)
    exchange.round_trip(1, deny(DenyCode.RESERVED, available=1))
    assert exchange.reserve(2, 4) is None
    exchange.round_trip(2, deny(DenyCode.INSUFFICIENT, available=2))
    assert refused(BudgetExhaustedError, exchange, 3, 4).reason == "insufficient"
    assert exchange.reserve(3, 2) is None


def test_units_that_others_hold_are_not_said_to_be_gone() -> None:
    """All own leases are given back and the answer is the same: others may bring theirs back, a retry is worth it."""
    exchange = in_parts(1)
    assert exchange.reserve(1, 4) is None
    exchange.meter.waiting(MODEL, ANNA, 1)
    exchange.round_trip(1, deny(DenyCode.RESERVED, available=1))
    assert exchange.reserve(2, 4) is None
    exchange.round_trip(2, deny(DenyCode.RESERVED, available=2))
    assert refused(BudgetReservedError, exchange, 3, 4).retry_after_s
    exchange.meter.waiting(MODEL, ANNA, -1)
    assert not exchange.meter.renew_due(3)


def test_a_denial_does_not_stand_while_the_custodian_is_asked_again() -> None:
    """Woken by anything else meanwhile, who waits goes on waiting: the leases that were given back may be enough."""
    exchange = in_parts(3, 3)
    assert exchange.reserve(1, 5) is None
    exchange.meter.waiting(MODEL, ANNA, 1)
    exchange.round_trip(1, deny(DenyCode.RESERVED, retry_after_ms=20_000))
    assert exchange.reserve(2, 5) is None
    renew = exchange.renew(2)
    exchange.meter.nudge(3, granted=False, recall=True)
    assert exchange.reserve(3, 5) is None
    exchange.meter.accept(4, answer(renew, deny(DenyCode.RESERVED, available=0, retry_after_ms=20_000)))
    refused(BudgetReservedError, exchange, 4, 5)


def test_nothing_is_asked_for_before_who_waits_has_seen_the_denial() -> None:
    """A custodian that has one unit left is not asked for it in place of the four that were needed, again and again."""
    exchange = in_parts()
    assert exchange.reserve(1, 4) is None
    exchange.meter.waiting(MODEL, ANNA, 1)
    exchange.round_trip(1, deny(DenyCode.RESERVED, available=1))
    assert not exchange.meter.renew_due(1)
    refused(BudgetReservedError, exchange, 2, 4)
    assert exchange.reserve(2, 1) is None
    assert exchange.meter.renew_due(2)


def test_a_lease_with_work_in_flight_is_not_given_back_for_a_batch() -> None:
    """The batch waits for that work, then for what it leaves."""
    exchange = in_parts(3)
    busy = exchange.reserved(1, 1)
    assert exchange.reserve(1, 5) is None
    exchange.meter.waiting(MODEL, ANNA, 1)
    exchange.round_trip(1, deny(DenyCode.RESERVED))
    assert exchange.reserve(2, 5) is None
    assert not exchange.meter.renew_due(2)
    exchange.post(busy, 1)
    assert exchange.meter.renew_due(3)
    assert exchange.reserve(3, 5) is None
    (report,) = exchange.renew(3).reports
    assert (report.used.inferences, report.final) == (1, True)


def test_nothing_is_given_back_while_it_is_not_known_to_be_short() -> None:
    """The first answer may grant the whole batch; what serves small requests is kept until it does not."""
    exchange = in_parts(3)
    assert exchange.reserve(1, 5) is None
    exchange.meter.waiting(MODEL, ANNA, 1)
    assert exchange.round_trip(1, grant(9, 5)).reports == []
    exchange.reserved(2, 3)
    exchange.reserved(2, 5)


def test_an_exhausted_budget_with_a_unit_at_hand_is_insufficient() -> None:
    """A batch of four is refused, and told that a smaller one would do."""
    exchange = in_parts(1)
    assert exchange.reserve(1, 4) is None
    exchange.round_trip(1, deny(DenyCode.EXHAUSTED))
    assert refused(BudgetExhaustedError, exchange, 2, 4).reason == "insufficient"
    exchange.serve(3)
    assert refused(BudgetExhaustedError, exchange, 4, 4).reason is None


# --- Renewal -----------------------------------------------------------------------------------


def test_the_heartbeat_comes_three_times_per_ttl(live: Exchange) -> None:
    """Nobody needs anything: the next renewal is due after a third of the ttl."""
    live.serve(0)
    assert not live.meter.renew_due(TTL_MS // 3 - 1)
    assert live.meter.renew_due(TTL_MS // 3)
    assert live.meter.next_renew_ms() == TTL_MS // 3


def test_the_next_lease_is_drawn_ahead(live: Exchange) -> None:
    """Half of the lease is used: another one is drawn before anybody waits, and never a third."""
    live.serve(1_000, 4)
    assert not live.meter.renew_due(1_000)
    live.serve(1_000, 1)
    assert live.meter.renew_due(1_000)
    assert len(live.round_trip(1_000, grant(2, 10)).wants) == 1
    live.serve(1_100, 4)
    live.serve(1_100, 3)  # 8 of 20 units are left in two open leases
    assert live.round_trip(10_100).wants == []


def test_a_grant_that_came_too_late_is_closed_unused(fresh: Exchange) -> None:
    """Its units go back with the next renewal."""
    renew = fresh.renew(0)
    fresh.meter.accept(TTL_MS, answer(renew, grant(1, 10)))
    (report,) = fresh.renew(TTL_MS + 1).reports
    assert (report.seq, report.used.inferences, report.final) == (1, 0, True)


def test_the_same_lease_is_never_taken_twice(live: Exchange) -> None:
    """A custodian that repeats a grant in another answer adds no units."""
    live.serve(0, 10)
    renew = live.renew(1)
    live.meter.accept(1, answer(msgspec.structs.replace(renew, reports=[]), grant(1, 10)))
    assert live.reserve(2) is None


def test_reports_are_cumulative_and_final_ones_repeat_until_acknowledged(live: Exchange) -> None:
    """Numbers grow with each report; the final one is the same bytes until the custodian has it."""
    live.serve(0, 3)
    first = live.round_trip(10_000).reports
    live.serve(10_001, 7)
    second = live.renew(10_002).reports
    assert [(r.seq, r.used.inferences, r.final) for r in first + second] == [(1, 3, False), (2, 10, True)]
    unacknowledged = msgspec.structs.replace(answer(live.renew(10_002)), acks=[])
    live.meter.accept(10_003, unacknowledged)
    assert live.round_trip(20_000).reports == second
    assert live.round_trip(30_000).reports == []
    assert not live.meter.has_unreported()


def test_a_lease_with_work_in_flight_is_not_closed(live: Exchange) -> None:
    """Expired or recalled, a lease stays open until its last request ended; then it is closed with the truth."""
    reservation = live.reserved(1_000, 2)
    live.meter.nudge(40_000, granted=False, recall=True)
    assert live.round_trip(40_000).reports == []
    live.post(reservation, 2)
    (report,) = live.round_trip(41_000).reports
    assert (report.used.inferences, report.final) == (2, True)


def test_a_lease_whose_time_is_over_is_given_back_at_once() -> None:
    """Not with the next heartbeat: in island mode that comes an hour after the custodian has charged it in full."""
    exchange = Exchange()
    exchange.round_trip(0, grant(1, 10, ttl_ms=60_000))
    exchange.serve(1, 1)
    exchange.round_trip(55_000)
    assert not exchange.meter.renew_due(59_999)
    assert exchange.meter.renew_due(60_000)
    (report,) = exchange.round_trip(60_000).reports
    assert (report.used.inferences, report.final) == (1, True)
    assert not exchange.meter.renew_due(60_001)


def test_a_lease_whose_time_is_over_while_work_is_in_flight_is_given_back_after_it() -> None:
    """Until then there is nothing to send; a renewal that brings no acknowledgement is not followed by another."""
    exchange = Exchange()
    exchange.round_trip(0, grant(1, 10, ttl_ms=60_000))
    running = exchange.reserved(1, 1)
    exchange.round_trip(55_000)
    assert not exchange.meter.renew_due(61_000)
    exchange.post(running, 1)
    assert exchange.meter.renew_due(61_000)
    renew = exchange.renew(61_000)
    exchange.meter.accept(61_000, msgspec.structs.replace(answer(renew), acks=[]))
    assert not exchange.meter.renew_due(62_001)


def test_leases_that_end_one_after_another_are_given_back_once_a_second() -> None:
    """A thousand consumers' leases that end within a second are one renewal more, and not a thousand."""
    exchange = Exchange()
    ends = [grant(1 + n, 10, ConsumerId(f"c{n}"), ttl_ms=20_000 + n) for n in range(1_000)]
    exchange.round_trip(0, *ends)
    exchange.round_trip(15_000)
    sent_ms = []
    for now_ms in range(19_000, 22_000):
        if exchange.meter.renew_due(now_ms):
            exchange.round_trip(now_ms)
            sent_ms.append(now_ms)
    assert sent_ms == [20_000, 21_000]
    assert not exchange.meter.has_unreported()


def test_a_recall_returns_idle_leases_only(live: Exchange) -> None:
    """Another enclave needs the units: Bert's unused lease is closed, Anna's busy one is kept."""
    live.round_trip(0, grant(2, 10, BERT))
    live.serve(12_000)
    live.meter.nudge(12_000, granted=False, recall=True)
    assert live.meter.renew_due(12_000)
    reports = live.round_trip(12_000).reports
    assert [(report.lease_id, report.final) for report in reports] == [
        (grant(2, 1).lease_id, True),
        (grant(1, 1).lease_id, False),
    ]
    assert live.round_trip(22_000).reports == []


def test_a_lease_for_a_model_that_is_not_served_is_not_used(live: Exchange) -> None:
    """A grant or a wish for another model is ignored."""
    strange = msgspec.structs.replace(grant(2, 10), model=ModelId("letters"))
    live.round_trip(1_000, strange)
    assert live.meter.reserve(1_001, ModelId("letters"), ANNA, inferences(1)) is None
    assert all(want.model == MODEL for want in live.renew(11_000).wants)


def test_remaining_is_what_is_held_and_what_is_left(live: Exchange) -> None:
    """The balance that a consumer sees counts its open leases and the path, and nothing once exhausted."""
    assert live.meter.remaining(MODEL, ANNA) == inferences(110)
    assert live.meter.remaining(MODEL, BERT) == inferences(0)
    live.serve(0, 10)
    live.round_trip(1, deny(DenyCode.EXHAUSTED), left=0)
    assert live.meter.remaining(MODEL, ANNA) == inferences(0)


def test_what_came_back_counts_as_left_with_the_next_answer(live: Exchange) -> None:
    """After a lease was given back the custodian says what the path has now, whether or not more was granted."""
    live.round_trip(10, grant(1, 10), left=90)
    assert live.meter.remaining(MODEL, ANNA) == inferences(100)
    live.meter.nudge(20, granted=False, recall=False)
    renew = live.renew(20)
    live.meter.accept(20, msgspec.structs.replace(answer(renew), rooms=[room(70)]))
    assert live.meter.remaining(MODEL, ANNA) == inferences(80)


def test_a_hint_that_comes_during_a_renewal_is_followed_after_it(live: Exchange) -> None:
    """The answer under way does not know of it: it is asked for again at once, and not with the next heartbeat."""
    renew = live.renew(TTL_MS)
    live.meter.nudge(TTL_MS + 1, granted=True, recall=False)
    live.meter.accept(TTL_MS + 2, answer(renew))
    assert live.meter.renew_due(TTL_MS + 2)
    live.round_trip(TTL_MS + 2)
    assert not live.meter.renew_due(TTL_MS + 3)


def test_the_newest_checkpoint_is_shown_with_every_renewal(live: Exchange) -> None:
    """A custodian that was restored from a backup is shown what it forgot; an older note replaces no newer one."""
    seen = []
    for at, signed in enumerate([note(5), note(3), note(9), note(2, generation=1), note(9)], start=1):
        renew = live.renew(at * TTL_MS)
        seen.append(renew.checkpoint_seen)
        live.meter.accept(at * TTL_MS, answer(renew, checkpoint=signed))
    seen.append(live.renew(6 * TTL_MS).checkpoint_seen)
    assert seen[1:] == [note(5), note(5), note(9), note(2, generation=1), note(2, generation=1)]


def test_an_answer_without_a_checkpoint_is_not_accepted(live: Exchange) -> None:
    """It gives no authority: whoever sends it does not want to be held to what it signed."""
    renew = live.renew(TTL_MS)
    with pytest.raises(LogError):
        live.meter.accept(TTL_MS, answer(renew, checkpoint="nothing"))
    assert live.meter.authority_left_ms(TTL_MS) == 0
