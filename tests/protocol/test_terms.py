"""The terms of an instance's models: as the newest answer with authority tells them, whole."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from tests.protocol.test_metering import (
    ANNA,
    CUSTODIAN,
    INSTANCE,
    MODEL,
    TTL_MS,
    Exchange,
    answer,
    deny,
    grant,
    stop_state,
)

from aigovtool.codec import encode
from aigovtool.errors import ConflictError, LeaseExpiredError
from aigovtool.ids import ModelId
from aigovtool.ledger.answers import AnswerTerms, OutputRule
from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.inputs import InputTerms
from aigovtool.ledger.policy import Dial, ServingPolicy, default_policy
from aigovtool.ledger.units import Dimension, UnitVector
from aigovtool.protocol.messages import Answer, Deny, DenyCode, Grant, terms_of
from aigovtool.protocol.metering import Meter

HIDDEN = AnswerTerms(outputs=(OutputRule(name="logits", hide=True),))
NAMED = AnswerTerms(outputs=(OutputRule(name="label"),), only_named=True)
POLICY = msgspec.structs.replace(default_policy(Dial.BALANCED, compute_ms=100), wipe_after_ms=90_000)


def changed(policy: ServingPolicy = POLICY, **members: Any) -> ServingPolicy:
    return msgspec.structs.replace(policy, **members)


@dataclass
class Told:
    """An instance, and a custodian whose every answer is on the policy that the test names."""

    policy: ServingPolicy = POLICY
    exchange: Exchange = field(init=False)

    def __post_init__(self) -> None:
        meter = Meter(
            instance=INSTANCE,
            custodian=CUSTODIAN,
            policies={MODEL: self.policy},
            stop_state=stop_state(1),
            admitted_ms=0,
        )
        self.exchange = Exchange(meter)

    @property
    def meter(self) -> Meter:
        return self.exchange.meter

    def tell(
        self, sent_ms: int, policy: ServingPolicy, *results: Grant | Deny, come_ms: int | None = None, epoch: int = 1
    ) -> Answer:
        """Renew, and be answered on these terms."""
        renew = self.exchange.renew(sent_ms)
        told = answer(renew, *results, epoch=epoch, ttl_ms=policy.ttl_ms, policy=policy)
        self.meter.accept(sent_ms if come_ms is None else come_ms, told)
        return told


def units(inferences: int, compute_ms: int) -> UnitVector:
    return UnitVector(inferences=inferences, compute_ms=compute_ms)


def lease(number: int, held: UnitVector) -> Grant:
    return msgspec.structs.replace(grant(number, 1), units=held)


def denied(code: DenyCode, short: Dimension, available: UnitVector) -> Deny:
    return msgspec.structs.replace(deny(code), available=available, short=short)


# --- As the newest answer says ---------------------------------------------------------------------------


def test_each_answer_says_what_holds_from_then_on() -> None:
    """Stricter, other and no terms: whatever the answer has, also that it has none."""
    made = Told(changed(answers=HIDDEN))
    assert made.meter.terms[MODEL].answers == HIDDEN
    policies = (
        changed(answers=NAMED, max_run_ms=2_000),
        changed(inputs=InputTerms(finite=True), ttl_ms=5_000),
        changed(request_max=UnitVector(compute_ms=7), wipe_after_ms=20_000),
        POLICY,
    )
    for number, policy in enumerate(policies, 1):
        made.tell(number * 1_000, policy)
        assert made.meter.terms[MODEL] == policy
    assert len(made.meter.terms) == 1


def test_of_other_models_nothing_is_kept() -> None:
    """What an answer tells of a model that is not here says nothing."""
    made, other = Told(), ModelId("other")
    renew = made.exchange.renew(1_000)
    told = answer(renew, policy=POLICY)
    strict = terms_of(other, changed(ttl_ms=1_000, wipe_after_ms=1_000))
    made.meter.accept(1_000, msgspec.structs.replace(told, terms=(strict, *told.terms)))
    assert list(made.meter.terms) == [MODEL]
    assert (made.meter.terms.ttl_ms, made.meter.terms.wipe_after_ms) == (TTL_MS, 90_000)


def test_an_answer_without_authority_changes_nothing() -> None:
    """One that is older than a stop of this instance: looser terms could be played out with it."""
    made = Told(changed(answers=HIDDEN))
    renew = made.exchange.renew(1_000)
    made.meter.apply_stop_state(stop_state(2, (StopTarget.CONSUMER, "anna")))
    made.meter.accept(1_000, answer(renew, epoch=1, policy=POLICY))
    assert made.meter.terms[MODEL].answers == HIDDEN


def test_an_answer_that_leaves_out_a_model_is_refused() -> None:
    """There is no authority on terms that nobody knows: nothing changes, and the same renewal is sent again."""
    made = Told()
    renew = made.exchange.renew(1_000)
    whole = answer(renew, lease(1, units(9, 900)), policy=POLICY)
    for terms in ((), (terms_of(ModelId("other"), POLICY),)):
        with pytest.raises(ConflictError) as caught:
            made.meter.accept(1_000, msgspec.structs.replace(whole, terms=terms))
        assert caught.value.reason == "terms_missing"
        assert (made.meter.authority_left_ms(1_000), made.meter.has_unreported()) == (0, False)
        assert made.exchange.renew(1_000) is renew
    made.meter.accept(1_000, whole)
    assert made.meter.authority_left_ms(1_000) == TTL_MS


def test_terms_at_their_defaults_are_left_out() -> None:
    """There is one encoding, and most models cost an answer little."""
    plain = terms_of(MODEL, default_policy(Dial.BALANCED))
    assert encode(plain) == b'{"model":"digits","ttl_ms":30000,"wipe_after_ms":600000}'
    bound = encode(terms_of(MODEL, default_policy(Dial.BOUND)))
    assert bound == b'{"model":"digits","ttl_ms":30000,"wipe_after_ms":600000,"bound":true}'


# --- Silence ---------------------------------------------------------------------------------------------


def test_a_shorter_silence_counts_at_once() -> None:
    """From the sending of the renewal that brought it: if that is too long ago already, the instance is wiped."""
    made = Told()
    made.tell(0, POLICY)
    made.tell(10_000, changed(wipe_after_ms=5_000), come_ms=12_000)
    assert not made.meter.must_wipe(14_999)
    assert made.meter.must_wipe(15_000)
    late = Told()
    late.tell(0, changed(wipe_after_ms=5_000), come_ms=5_000)
    assert late.meter.must_wipe(5_000)


def test_a_longer_silence_holds_from_the_answer_that_brings_it() -> None:
    """And the least of several models counts."""
    made = Told()
    made.tell(1_000, changed(wipe_after_ms=200_000))
    assert not made.meter.must_wipe(200_999)
    assert made.meter.must_wipe(201_000)


@pytest.mark.parametrize("looked", [True, False], ids=["noticed", "not noticed yet"])
def test_no_answer_takes_a_silence_back(looked: bool) -> None:  # noqa: FBT001 -- case
    """Whoever withholds an answer with looser terms until the instance must wipe itself gains nothing with it."""
    made = Told()
    made.tell(0, POLICY)
    renew = made.exchange.renew(80_000)
    if looked:
        assert made.meter.must_wipe(90_000)
    late = answer(renew, lease(1, units(9, 900)), policy=changed(wipe_after_ms=600_000))
    made.meter.accept(90_000, late)
    assert made.meter.must_wipe(90_000)
    assert (made.meter.authority_left_ms(90_000), made.meter.terms.wipe_after_ms) == (0, 90_000)
    made.tell(90_100, POLICY)
    assert made.meter.must_wipe(90_100)
    with pytest.raises(LeaseExpiredError):
        made.meter.check(90_100, ANNA)


def test_the_heartbeat_comes_in_time_for_a_short_silence() -> None:
    """Three in the time after which the instance would wipe itself, also where authority lasts for longer."""
    made = Told()
    made.tell(0, changed(wipe_after_ms=6_000))
    assert made.meter.next_renew_ms() == 2_000
    made.tell(2_000, POLICY)
    assert made.meter.next_renew_ms() == 2_000 + TTL_MS // 3


# --- Authority ---------------------------------------------------------------------------------------------


def test_a_shorter_ttl_shortens_the_authority_that_there_is() -> None:
    """Also what a longer one gave before: then it is as long as usual, and no answer shortens it."""
    made = Told(changed(ttl_ms=14_400_000, dial=Dial.ISLAND, wipe_after_ms=28_800_000))
    made.tell(0, made.policy)
    assert made.meter.authority_left_ms(1_000) == 14_399_000
    short = changed(made.policy, ttl_ms=10_000)
    made.tell(1_000, short)
    assert (made.meter.authority_left_ms(1_000), made.meter.terms.ttl_ms) == (10_000, 10_000)
    renew = made.exchange.renew(2_000)
    made.meter.accept(3_000, answer(renew, ttl_ms=4_000, policy=short))  # the attestation has so long left
    assert made.meter.authority_left_ms(3_000) == 8_000
    made.tell(4_000, made.policy)
    assert made.meter.authority_left_ms(4_000) == 14_400_000


# --- What a request may take -------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "asked"), [(20, 20), (500, 500)], ids=["less", "more"])
def test_wishes_are_for_what_a_request_may_take_now(most: int, asked: int) -> None:
    """What is asked for at least follows the terms: too much would be denied where less would do."""
    made = Told()
    made.tell(0, POLICY)
    assert made.meter.reserve(1, MODEL, ANNA, units(1, 100)) is None
    made.meter.waiting(MODEL, ANNA, 1, None, units(1, 100))
    policy = changed(request_max=UnitVector(compute_ms=most))
    made.tell(2, policy, denied(DenyCode.INSUFFICIENT, Dimension.COMPUTE_MS, units(90, 60)))
    made.meter.waiting(MODEL, ANNA, -1, None)
    assert made.meter.reserve(3_000, MODEL, ANNA, units(1, most)) is None
    made.meter.waiting(MODEL, ANNA, 1, None, units(1, most))
    (want,) = made.exchange.renew(3_000).wants
    assert want.minimum == units(1, asked)


def test_a_lease_is_used_up_by_the_terms_of_now() -> None:
    """One of which a request takes more than is left is given back; one of which it takes less serves on."""
    made = Told()
    made.tell(0, POLICY, lease(1, units(9, 150)))
    reservation = made.meter.reserve(1, MODEL, ANNA, units(1, 50))
    assert reservation is not None
    made.meter.post(reservation, units(1, 50))
    assert not any(report.final for report in made.exchange.renew(2).reports)
    renew = made.exchange.renew(2)
    made.meter.accept(3, answer(renew, policy=changed(request_max=UnitVector(compute_ms=120))))
    assert any(report.final for report in made.exchange.renew(4).reports)
    other = Told()
    other.tell(0, POLICY, lease(1, units(9, 80)))
    other.tell(1, changed(request_max=UnitVector(compute_ms=50)), lease(2, units(9, 80)))
    assert other.meter.reserve(2, MODEL, ANNA, units(1, 50)) is not None
    assert not any(report.final and report.lease_id.endswith("2") for report in other.exchange.renew(3).reports)


def test_work_under_way_keeps_what_it_reserved() -> None:
    """It is charged up to that, and the rest comes back."""
    made = Told()
    made.tell(0, POLICY, lease(1, units(9, 900)))
    reservation = made.meter.reserve(1, MODEL, ANNA, units(1, 100))
    assert reservation is not None
    made.tell(2, changed(request_max=UnitVector(compute_ms=10)))
    made.meter.gate(3, reservation)
    assert made.meter.post(reservation, units(1, 90)).remaining.compute_ms >= 810


# --- What takes a new boot -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "told",
    [
        default_policy(Dial.BOUND, compute_ms=100),
        default_policy(Dial.BALANCED),
        changed(
            also=(Dimension.COMPUTE_MS, Dimension.OUTPUT_TOKENS), request_max=UnitVector(output_tokens=5, compute_ms=5)
        ),
    ],
    ids=["bound", "metered less", "metered more"],
)
def test_what_an_instance_cannot_become_ends_it(told: ServingPolicy) -> None:
    """Neither ignored nor guessed: it gets no authority on such terms, and attests anew."""
    made = Told()
    made.tell(0, POLICY)
    made.tell(1_000, told)
    assert made.meter.must_reattest
    assert made.meter.terms[MODEL] == POLICY
    assert made.meter.authority_left_ms(1_000) == TTL_MS - 1_000  # and the gate refuses all the same
    with pytest.raises(Exception, match="attest again"):
        made.meter.check(1_000, ANNA)


def test_who_was_admitted_in_bound_mode_stays_so() -> None:
    """Other dials let it do more: until it boots anew it asks for each request, as before."""
    made = Told(changed(default_policy(Dial.BOUND), wipe_after_ms=90_000))
    made.tell(0, default_policy(Dial.BALANCED))
    assert not made.meter.must_reattest
    assert made.meter.terms[MODEL].dial is Dial.BOUND
    with pytest.raises(ConflictError):
        made.meter.reserve(1, MODEL, ANNA, UnitVector(inferences=1))
