"""Stop states: what is stopped for one instance, signed by the custodian, ordered by epochs.

The epoch is one integer per custodian that grows with every stop, resume, revocation and policy change.
`scope_epoch` is the last epoch that touched a scope of *this* instance, so a stop elsewhere disturbs
nobody. A stop state never replaces one with a higher scope epoch.
"""

from aigovtool.codec import Message
from aigovtool.ids import BorrowerId, ConsumerId, InstanceId, ModelId, Units
from aigovtool.ledger.entry import StopTarget

STOP_STATE = "stop-state.v1"


class ActiveStop(Message):
    """One stop in force. `value` is empty for `all`."""

    target: StopTarget
    value: str
    epoch: Units


class StopState(Message):
    """Every stop in force on the scopes of one instance."""

    instance: InstanceId
    epoch: Units
    scope_epoch: Units
    stops: list[ActiveStop]

    def is_wide(self) -> bool:
        """Return whether anything wider than a single consumer is stopped: the weights must go."""
        return any(stop.target is not StopTarget.CONSUMER for stop in self.stops)

    def stopped_consumers(self) -> frozenset[ConsumerId]:
        """Return the consumers that are stopped."""
        return frozenset(ConsumerId(stop.value) for stop in self.stops if stop.target is StopTarget.CONSUMER)

    def stops_consumer(self, consumer: ConsumerId) -> bool:
        """Return whether this consumer is stopped."""
        return any(stop.target is StopTarget.CONSUMER and stop.value == consumer for stop in self.stops)


def concerns(
    target: StopTarget, value: str, *, instance: InstanceId, borrower: BorrowerId, models: list[ModelId]
) -> bool:
    """Return whether a stop aimed at `target` concerns an instance.

    Every consumer stop concerns every instance: which consumers will come is not known beforehand.
    """
    return {
        StopTarget.ALL: True,
        StopTarget.MODEL: value in models,
        StopTarget.BORROWER: value == borrower,
        StopTarget.ENCLAVE: value == instance,
        StopTarget.CONSUMER: True,
    }[target]
