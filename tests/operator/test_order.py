"""What a second operator signs, before anybody is asked."""

from typing import Any

import msgspec
import pytest

from aigovtool.crypto.sign import SigningKey, open_envelope, seal
from aigovtool.errors import AIGovToolError
from aigovtool.ids import InstanceId, KeyId, MessageId, ModelId, OperatorId
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.operator.order import Order, cosigned, require_cosignable
from aigovtool.protocol.commands import COMMAND, Command, SetModelTerms, Stop, WriteOff
from aigovtool.protocol.party import CustodianAddress, OperatorFile
from aigovtool.protocol.views import Parties, PartyView

ROOT, ALICE, BOB = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()
NOW_MS, DAY_MS = 10**12, 86_400_000
FILE = OperatorFile(
    operator=OperatorId("bob"),
    custodian=CustodianAddress(url="https://localhost:1", root=ROOT.public.raw, tls_ca=""),
    certificate="",
    key=BOB.to_secret().reveal(),
    keystore=bytes(32),
)
COMMAND_OF_ALICE = Command(
    custodian=ROOT.public.key_id,
    operator=OperatorId("alice"),
    command_id=MessageId("0" * 32),
    issued_at_ms=NOW_MS,
    act=WriteOff(instance=InstanceId("a" * 64), reason="host lost"),
)


def order(*keys: SigningKey, **changes: Any) -> Order:
    command = msgspec.structs.replace(COMMAND_OF_ALICE, **changes)
    return Order(envelope=seal(COMMAND, command, *(keys or (ALICE,))), command=command)


def party(name: str, key: SigningKey, **changes: Any) -> PartyView:
    made = PartyView(
        role=PartyRole.OPERATOR, name=name, borrower=None, key=key.public.key_id, not_after_ms=0, revoked=False
    )
    return msgspec.structs.replace(made, **changes)


PARTIES = Parties(parties=[party("alice", ALICE), party("bob", BOB)])


def refusal(signed: Order, *, parties: Parties = PARTIES, now_ms: int = NOW_MS) -> str | None:
    try:
        require_cosignable(signed, FILE, BOB, parties, now_ms=now_ms)
    except AIGovToolError as error:
        return error.reason
    return None


def test_both_operators_sign_the_same_bytes() -> None:
    """What the custodian opens with both keys is what the first one signed."""
    first = order()
    assert refusal(first) is None
    both = cosigned(first, BOB)
    assert both.envelope.payload == first.envelope.payload
    assert open_envelope(both.envelope, COMMAND, Command, [ALICE.public, BOB.public]) == COMMAND_OF_ALICE


@pytest.mark.parametrize(
    ("signed", "reason"),
    [
        (order(custodian=KeyId("0" * 64)), "other_custodian"),
        (order(act=Stop(target=StopTarget.ALL, value="", reason="x")), "needs_one"),
        (order(act=SetModelTerms(model=ModelId("x"), policy=default_policy(Dial.STRICT), borrowers=[])), "needs_one"),
        (order(act=SetModelTerms(model=ModelId("x"), policy=default_policy(Dial.ISLAND), borrowers=[])), None),
        (order(operator=OperatorId("bob")), "own_order"),
        (order(BOB), "own_order"),
        (order(ALICE, BOB), "own_order"),
        (order(ALICE, SigningKey.generate()), "cosigned_before"),
        (order(SigningKey.generate()), "wrong_key"),
        (order(operator=OperatorId("carol")), "wrong_key"),
        (order(issued_at_ms=NOW_MS - DAY_MS - 1), "stale_command"),
        (order(issued_at_ms=NOW_MS + 300_001), "stale_command"),
    ],
)
def test_an_order_that_must_not_be_cosigned_is_refused(signed: Order, reason: str | None) -> None:
    """Each with a reason of its own; the island dial is for two."""
    assert refusal(signed) == reason


def test_an_order_is_good_for_a_day_and_of_operators_who_are_enrolled() -> None:
    """To the last moment; a revoked operator's, or another role's of that name, is none."""
    assert refusal(order(issued_at_ms=NOW_MS - DAY_MS)) is None
    assert order().valid_until_ms == NOW_MS + DAY_MS
    for other in (
        party("alice", ALICE, revoked=True),
        party("alice", ALICE, role=PartyRole.BORROWER),
        party("alice", BOB),
        party("eve", ALICE),
    ):
        assert refusal(order(), parties=Parties(parties=[other])) == "wrong_key"
