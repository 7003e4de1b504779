"""What may leave in answers, at the custodian: terms that can be kept, told with each renewal, loosened by two."""

import msgspec
import pytest
from tests.custodian.conftest import BORROWER, MODEL, Bench, Enclave

from aigovtool.codec import encode
from aigovtool.crypto.sign import SigningKey
from aigovtool.custodian.service import renewal, views
from aigovtool.errors import ConflictError, InvalidValueError
from aigovtool.ids import ModelId
from aigovtool.ledger.answers import AnswerTerms, Fill, OutputRule
from aigovtool.ledger.entry import ModelTermsSet, PartyRole
from aigovtool.ledger.inputs import InputTerms
from aigovtool.ledger.policy import Dial, ServingPolicy, default_policy
from aigovtool.limits import MAX_ROOMS_PER_ANSWER
from aigovtool.protocol import commands as acts
from aigovtool.protocol.messages import terms_of
from aigovtool.protocol.release import MAX_MODELS

LARGEST = AnswerTerms(outputs=(OutputRule(name="y", top_k=1),))
ROUNDED = AnswerTerms(outputs=(OutputRule(name="y", top_k=1, decimals=1),))


def terms(bench: Bench, answers: AnswerTerms | None, version: int) -> acts.SetModelTerms:
    policy: ServingPolicy = msgspec.structs.replace(bench.policy, version=version, answers=answers)
    return acts.SetModelTerms(model=MODEL, policy=policy, borrowers=[BORROWER])


async def test_each_renewal_tells_the_terms_in_force(admitted: Enclave, lent: Bench) -> None:
    """From the next answer on, whether the renewal wants anything or not; nothing where nothing is restricted."""
    assert [told.answers for told in (await admitted.renew()).terms] == [None]
    for version, answers in enumerate([LARGEST, ROUNDED, None], 2):
        await lent.command(terms(lent, answers, version))
        assert [told.answers for told in (await admitted.renew()).terms] == [answers]


async def test_each_renewal_tells_all_that_an_enclave_acts_on(admitted: Enclave, lent: Bench) -> None:
    """Silence, ttl, limits of a request and of its inputs: of the policy in force, whole each time."""
    assert (await admitted.renew()).terms == (terms_of(MODEL, lent.policy),)
    policy: ServingPolicy = msgspec.structs.replace(
        lent.policy, version=2, ttl_ms=5_000, wipe_after_ms=7_000, max_run_ms=2_000, inputs=InputTerms(finite=True)
    )
    await lent.command(acts.SetModelTerms(model=MODEL, policy=policy, borrowers=[BORROWER]))
    answer = await admitted.renew()
    assert (answer.terms, answer.ttl_ms) == ((terms_of(MODEL, policy),), 5_000)
    (told,) = answer.terms
    assert (told.ttl_ms, told.wipe_after_ms, told.max_run_ms) == (5_000, 7_000, 2_000)
    assert told.inputs == InputTerms(finite=True)


async def test_an_answer_that_is_given_again_tells_the_terms_of_its_time(admitted: Enclave, lent: Bench) -> None:
    """It has the same bytes, and gives authority from when it was asked for, as long as it always did."""
    envelope = admitted.renewal()
    first = await renewal.renew(lent.custodian, envelope)
    await lent.command(terms(lent, LARGEST, 2))
    again = await renewal.renew(lent.custodian, envelope)
    assert again.answer == first.answer


async def test_an_instance_is_admitted_on_the_terms_in_force(lent: Bench) -> None:
    """And so is one that attests again."""
    await lent.command(terms(lent, LARGEST, 2))
    (offer,) = (await Enclave(lent).boot()).models
    assert offer.policy.answers == LARGEST
    (shown,) = (await views.show_models(lent.custodian)).models
    assert shown.policy.answers == LARGEST


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (OutputRule(name="z", hide=True), "no_such_output"),
        (OutputRule(name="y", hide=True), "nothing_leaves"),
    ],
)
async def test_rules_that_the_model_cannot_keep_are_refused(rule: OutputRule, reason: str, bench: Bench) -> None:
    """When it is lent, and when its terms are changed: the model is lent as before, or not at all."""
    await bench.add_borrower(BORROWER)
    answers = AnswerTerms(outputs=(rule,))
    act = bench.upload()
    with pytest.raises(InvalidValueError) as caught:
        await bench.command(msgspec.structs.replace(act, policy=msgspec.structs.replace(act.policy, answers=answers)))
    assert caught.value.reason == reason
    await bench.command(act)
    with pytest.raises(InvalidValueError) as caught:
        await bench.command(terms(bench, answers, 2))
    assert caught.value.reason == reason
    (shown,) = (await views.show_models(bench.custodian)).models
    assert shown.policy.answers is None


async def test_letting_more_leave_takes_two_operators_where_there_are_two(lent: Bench) -> None:
    """One alone may make terms stricter, as stopping is for one; the refusal is in the log."""
    for version, answers in enumerate([LARGEST, None, ROUNDED], 2):  # there is one operator: whatever it wants
        await lent.command(terms(lent, answers, version))
    await lent.add_party(PartyRole.OPERATOR, "bob", SigningKey.generate())
    looser = [None, LARGEST, AnswerTerms(outputs=(OutputRule(name="y", decimals=1),))]
    for answers in looser:
        with pytest.raises(ConflictError) as caught:
            await lent.command(terms(lent, answers, 5))
        assert caught.value.reason == "needs_second"
    assert (await lent.kinds()).count("CommandRefused") == len(looser)
    other = AnswerTerms(outputs=(OutputRule(name="y", top_k=1, decimals=1, fill=Fill.LOWEST),), pad_bytes=1_024)
    await lent.command(terms(lent, other, 5))
    with pytest.raises(ConflictError) as caught:
        await lent.command(terms(lent, ROUNDED, 6))  # answers of more sizes
    assert caught.value.reason == "needs_second"
    await lent.command_of_two(terms(lent, None, 6))
    told = [body.more_leaves for body in await lent.log() if isinstance(body, ModelTermsSet)]
    assert told == [False, True, False, False, True]
    (shown,) = (await views.show_models(lent.custodian)).models
    assert shown.policy.answers is None


def test_beside_terms_there_is_less_room_for_other_things() -> None:
    """What they take, of 64 models with as much as terms may say, is taken from the rooms of paths."""
    many = tuple(OutputRule(name=f"{number:02}{'n' * 20}", hide=True) for number in range(20))
    policy: ServingPolicy = msgspec.structs.replace(default_policy(Dial.BALANCED), answers=AnswerTerms(outputs=many))
    one, plain = (terms_of(ModelId("m" * 63), each) for each in (policy, default_policy(Dial.BALANCED)))
    assert renewal._most_paths((plain,)) == MAX_ROOMS_PER_ANSWER - 1
    assert renewal._most_paths((one,)) == MAX_ROOMS_PER_ANSWER - 3
    everything = (one,) * MAX_MODELS
    assert 0 < renewal._most_paths(everything) <= MAX_ROOMS_PER_ANSWER - len(encode(everything)) // 400
