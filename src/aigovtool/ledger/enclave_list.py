"""The enclaves of a log: which are admitted, on which machines, and of which two copies were seen."""

from dataclasses import dataclass, field

from aigovtool.ids import BorrowerId, InstanceId
from aigovtool.ledger.bad_entry import bad
from aigovtool.ledger.entry import Attested

#: A type of TEE and, where that tells, its chip.
Machine = tuple[str, str | None]


@dataclass(slots=True)
class EnclaveList:
    """Whose those are that were admitted in this generation and have not said, or been told, that they end."""

    admitted: dict[InstanceId, BorrowerId] = field(default_factory=dict)
    forked: set[InstanceId] = field(default_factory=set)
    #: How often any was admitted, by its machine.
    machines: dict[Machine, int] = field(default_factory=dict)

    def admit(self, attested: Attested) -> None:
        """Take one that has attested.

        Raises:
            LogError: two copies of it were seen before (`forked`).
        """
        self.require_one(attested.instance)
        self.admitted[attested.instance] = attested.borrower
        machine = attested.tee, attested.chip
        self.machines[machine] = self.machines.get(machine, 0) + 1

    def end(self, instance: InstanceId) -> None:
        """Take note that one has ended, or is not accepted any more."""
        self.admitted.pop(instance, None)

    def fork(self, instance: InstanceId) -> None:
        """Take note that two copies of one were seen: nothing of it counts from then on."""
        self.forked.add(instance)
        self.end(instance)

    def begin_generation(self) -> None:
        """After a restore all of them attest anew."""
        self.admitted.clear()

    def borrower_of(self, instance: InstanceId) -> BorrowerId:
        """Return whose enclave it is that is given a key.

        Raises:
            LogError: it is not admitted, or not any more (`not_admitted`).
        """
        borrower = self.admitted.get(instance)
        if borrower is None:
            raise bad("not_admitted", "it hands a model's key to an enclave that is not admitted, or not any more")
        return borrower

    def require_one(self, instance: InstanceId) -> None:
        """Refuse whatever gives an enclave something, or takes its word, once two copies of it were seen.

        Raises:
            LogError: `forked`.
        """
        if instance in self.forked:
            raise bad("forked", "it is about an enclave of which two copies were seen before")
