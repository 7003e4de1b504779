"""Which acts two operators must sign."""

from typing import get_args

import msgspec
import pytest

from aigovtool.ids import InstanceId, ModelId, digest_of
from aigovtool.ledger.policy import Dial, ServingPolicy, default_policy
from aigovtool.protocol.commands import Act, AddModel, SetModelTerms, SettleGap, WithdrawModel, WriteOff
from aigovtool.protocol.cosigning import LONE_TTL_MAX_MS, needs_two

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
    assert [needs_two(act) for act in lending(policy)] == [operators == 2] * 2


def test_what_two_operators_sign_is_a_short_list() -> None:
    """The gap and writing off always; withdrawing never, because it only takes away."""
    assert needs_two(WriteOff(instance=InstanceId("a" * 64), reason="x"))
    assert needs_two(SettleGap(checkpoint="", charges=[], reason="x"))
    assert not needs_two(WithdrawModel(model=ModelId("x")))
    assert {AddModel, SetModelTerms, SettleGap, WriteOff} <= set(get_args(Act))
