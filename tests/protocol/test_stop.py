"""Stop states: which stop concerns whom, and which one means that the weights must go."""

import pytest

from aigovtool.codec import decode_signed, encode
from aigovtool.ids import BorrowerId, ConsumerId, InstanceId, ModelId
from aigovtool.ledger.entry import StopTarget
from aigovtool.protocol.stop import ActiveStop, StopState, concerns

INSTANCE, BORROWER, MODELS = InstanceId("a" * 64), BorrowerId("north"), [ModelId("digits"), ModelId("letters")]


def state(*stops: tuple[StopTarget, str]) -> StopState:
    active = [ActiveStop(target=target, value=value, epoch=1) for target, value in stops]
    return StopState(instance=INSTANCE, epoch=1, scope_epoch=1, stops=active)


@pytest.mark.parametrize("target", list(StopTarget))
def test_everything_but_a_consumer_stop_is_wide(target: StopTarget) -> None:
    """Only a stop of one consumer leaves the model loaded."""
    assert state((target, "anna")).is_wide() is (target is not StopTarget.CONSUMER)
    assert state((StopTarget.CONSUMER, "anna"), (target, "x")).is_wide() is (target is not StopTarget.CONSUMER)


def test_no_stop_stops_nobody() -> None:
    """An empty state is neither wide nor about a consumer."""
    assert not state().is_wide()
    assert not state().stops_consumer(ConsumerId("anna"))


def test_a_consumer_stop_is_about_that_name() -> None:
    """A consumer is stopped by a consumer stop of exactly its name, not by a borrower of the same name."""
    stopped = state((StopTarget.CONSUMER, "anna"), (StopTarget.BORROWER, "bert"))
    assert stopped.stops_consumer(ConsumerId("anna"))
    assert not stopped.stops_consumer(ConsumerId("ann"))
    assert not stopped.stops_consumer(ConsumerId("bert"))


@pytest.mark.parametrize(
    ("target", "value", "expected"),
    [
        (StopTarget.ALL, "", True),
        (StopTarget.MODEL, "digits", True),
        (StopTarget.MODEL, "letters", True),
        (StopTarget.MODEL, "numbers", False),
        (StopTarget.BORROWER, "north", True),
        (StopTarget.BORROWER, "south", False),
        (StopTarget.ENCLAVE, INSTANCE, True),
        (StopTarget.ENCLAVE, "b" * 64, False),
        (StopTarget.CONSUMER, "whoever", True),
    ],
)
def test_a_stop_concerns_those_it_is_aimed_at(target: StopTarget, value: str, expected: bool) -> None:  # noqa: FBT001
    """Everybody, the servers of a model, a borrower's enclaves, one enclave; consumer stops concern every instance."""
    assert concerns(target, value, instance=INSTANCE, borrower=BORROWER, models=MODELS) is expected


def test_a_stop_state_survives_its_encoding() -> None:
    """It is signed, so it has one encoding and is read back as it was."""
    before = state((StopTarget.ALL, ""), (StopTarget.CONSUMER, "anna"))
    assert decode_signed(encode(before), StopState) == before
