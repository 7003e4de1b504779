"""What a log says is stopped, and what is stopped for good."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from aigovtool.ids import BorrowerId, ConsumerId, InstanceId, ModelId
from aigovtool.ledger.bad_entry import bad
from aigovtool.ledger.entry import StopTarget

Stop = tuple[StopTarget, str]
EVERYTHING: Stop = (StopTarget.ALL, "")


def of_borrower(borrower: BorrowerId) -> Stop:
    """Return what stops all enclaves of a borrower."""
    return StopTarget.BORROWER, borrower


def of_consumer(consumer: ConsumerId) -> Stop:
    """Return what stops a consumer."""
    return StopTarget.CONSUMER, consumer


def of_enclave(instance: InstanceId) -> Stop:
    """Return what stops one boot of an enclave."""
    return StopTarget.ENCLAVE, instance


def of_model(model: ModelId) -> Stop:
    """Return what stops a model."""
    return StopTarget.MODEL, model


@dataclass(slots=True)
class StopList:
    """The stops in force, and those of them that nobody can lift: what is revoked or withdrawn."""

    in_force: set[Stop] = field(default_factory=set)
    for_good: set[Stop] = field(default_factory=set)
    epoch: int = 0

    def advance(self, epoch: int) -> None:
        """Take the epoch of an order.

        Raises:
            LogError: it is before that of an order before (`epoch`).
        """
        if epoch < self.epoch:
            raise bad("epoch", f"its epoch {epoch} is before {self.epoch}")
        self.epoch = epoch

    def stop(self, what: Stop, *, for_good: bool = False) -> None:
        """Stop something, until it is lifted or for good."""
        self.in_force.add(what)
        if for_good:
            self.for_good.add(what)

    def lift(self, what: Stop) -> None:
        """Lift a stop.

        Raises:
            LogError: it is one for good (`for_good`).
        """
        if what in self.for_good:
            target, value = what
            raise bad("for_good", f"it resumes {target} {value}, which was revoked or withdrawn for good")
        self.in_force.discard(what)

    def require_running(self, touching: Iterable[Stop], reason: str, what: str) -> None:
        """Refuse what is done, told as `what`, while anything that it touches is stopped, or everything.

        Raises:
            LogError: with the given reason.
        """
        if found := {EVERYTHING, *touching} & self.in_force:
            target, value = min(found)
            raise bad(reason, f"{what} while {target} {value} is stopped")
