"""Which acts two operators must sign."""

from typing import get_args

import msgspec
import pytest

from aigovtool.ids import InstanceId, ModelId, digest_of
from aigovtool.ledger.answers import AnswerTerms, OutputRule
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.policy import Dial, ServingPolicy, default_policy
from aigovtool.protocol.commands import (
    Act,
    AddModel,
    AddParty,
    Resume,
    SetAppraisalPolicy,
    SetModelTerms,
    SettleGap,
    Stop,
    WithdrawModel,
    WriteOff,
)
from aigovtool.protocol.cosigning import LONE_TTL_MAX_MS, needs_two
from aigovtool.testing.simulated_tee import wiring

BALANCED = default_policy(Dial.BALANCED)


def lending(policy: ServingPolicy) -> list[AddModel | SetModelTerms]:
    digest = digest_of(b"")
    return [
        AddModel(model=ModelId("x"), manifest=digest, package=digest, wrapped_key=b"", policy=policy, borrowers=[]),
        SetModelTerms(model=ModelId("x"), policy=policy, borrowers=[]),
    ]


@pytest.mark.parametrize(
    ("policy", "operators"),
    [
        (default_policy(Dial.STRICT), 1),
        (BALANCED, 1),
        (default_policy(Dial.BALANCED, ttl_ms=LONE_TTL_MAX_MS), 1),
        (default_policy(Dial.ISLAND), 2),
        (default_policy(Dial.ISLAND, ttl_ms=1_000), 2),
        (msgspec.structs.replace(BALANCED, ttl_ms=LONE_TTL_MAX_MS + 1), 2),
    ],
)
def test_lending_needs_two_where_a_stop_can_be_withheld_for_long(policy: ServingPolicy, operators: int) -> None:
    """Under the island dial, and with a ttl longer than the other dials allow: new models and new terms."""
    assert [needs_two(act, operators=9) for act in lending(policy)] == [operators == 2] * 2


@pytest.mark.parametrize(("operators", "two"), [(1, False), (2, True), (3, True)])
def test_letting_more_leave_is_not_for_one_of_several(operators: int, *, two: bool) -> None:
    """Whoever wants to copy a model by its answers would begin with that; stricter terms are for one, as a stop is."""
    strict = AnswerTerms(outputs=(OutputRule(name="y", top_k=1),))
    tight = msgspec.structs.replace(BALANCED, answers=strict)
    adding, changing = lending(BALANCED)
    assert needs_two(changing, operators=operators, present=tight) is two
    assert not needs_two(changing, operators=operators, present=BALANCED)
    assert not needs_two(adding, operators=operators, present=tight)
    for present in (BALANCED, tight):
        assert not needs_two(lending(tight)[1], operators=operators, present=present)


def test_what_two_operators_sign_is_a_short_list() -> None:
    """The gap and writing off always; withdrawing never, because it only takes away."""
    assert needs_two(WriteOff(instance=InstanceId("a" * 64), reason="x"), operators=1)
    assert needs_two(SettleGap(checkpoint="", charges=[], reason="x"), operators=1)
    assert not needs_two(WithdrawModel(model=ModelId("x")), operators=9)
    assert {AddModel, SetModelTerms, SettleGap, WriteOff} <= set(get_args(Act))


@pytest.mark.parametrize(
    ("role", "operators", "two"),
    [
        (PartyRole.OPERATOR, 1, False),
        (PartyRole.OPERATOR, 2, True),
        (PartyRole.OPERATOR, 3, True),
        (PartyRole.BORROWER, 3, False),
        (PartyRole.CONSUMER, 3, False),
    ],
)
def test_who_signs_with_another_cannot_make_that_other(role: PartyRole, operators: int, *, two: bool) -> None:
    """The first operator enrols the second alone; every further one takes two."""
    act = AddParty(role=role, name="x", key=bytes(32), borrower=None, valid_for_ms=1)
    assert needs_two(act, operators=operators) is two


@pytest.mark.parametrize(("operators", "two"), [(1, False), (2, True), (3, True)])
def test_which_enclaves_are_accepted_is_not_for_one_of_several_to_say(operators: int, *, two: bool) -> None:
    """Whoever could admit a program of their own would be handed every model's key."""
    assert needs_two(SetAppraisalPolicy(policy=wiring.development_policy()), operators=operators) is two


@pytest.mark.parametrize(("operators", "two"), [(1, False), (2, True), (3, True)])
def test_a_stop_is_for_one_and_lifting_it_is_not(operators: int, *, two: bool) -> None:
    """Whoever could lift a stop alone would undo what another had to do at once."""
    assert needs_two(Resume(target=StopTarget.ALL, value="", reason=""), operators=operators) is two
    assert not needs_two(Stop(target=StopTarget.ALL, value="", reason=""), operators=operators)
