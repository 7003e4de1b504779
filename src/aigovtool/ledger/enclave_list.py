"""The enclaves of a log: which are admitted, on which machines, and of which two copies were seen."""

from dataclasses import dataclass, field
from typing import Final

from aigovtool.ids import BorrowerId, InstanceId
from aigovtool.ledger.bad_entry import bad
from aigovtool.ledger.entry import Attested, LeaseGranted

#: A type of TEE and, where that tells, its chip.
Machine = tuple[str, str | None]
#: TEEs whose memory their host can copy, as the log names them: what a copy of one used is in nobody's report.
NEVER_REFUNDED: Final = frozenset({"tpm"})


@dataclass(frozen=True, slots=True)
class Admitted:
    """As what an enclave was admitted. That never changes, however often it attests again."""

    borrower: BorrowerId
    tee: str


@dataclass(slots=True)
class EnclaveList:
    """Those that were admitted in this generation and have not said, or been told, that they end."""

    admitted: dict[InstanceId, Admitted] = field(default_factory=dict)
    #: Those that are not admitted any more: none of them ever is again, as each boot is another one.
    over: set[InstanceId] = field(default_factory=set)
    forked: set[InstanceId] = field(default_factory=set)
    #: How often any was admitted, by its machine.
    machines: dict[Machine, int] = field(default_factory=dict)

    def admit(self, attested: Attested) -> None:
        """Take one that has attested, for the first time or again.

        Raises:
            LogError: two copies of it were seen before (`forked`), it had ended (`readmitted`), or it is another
                borrower's or TEE's than before (`another_instance`).
        """
        self.require_one(attested.instance)
        if attested.instance in self.over:
            raise bad("readmitted", "it admits an enclave that had ended, or was not accepted any more")
        now = Admitted(attested.borrower, attested.tee)
        if self.admitted.setdefault(attested.instance, now) != now:
            raise bad("another_instance", "it admits an enclave again, as another borrower's or on another TEE")
        machine = attested.tee, attested.chip
        self.machines[machine] = self.machines.get(machine, 0) + 1

    def end(self, instance: InstanceId) -> None:
        """Take note that one has ended, or is not accepted any more."""
        self.admitted.pop(instance, None)
        self.over.add(instance)

    def fork(self, instance: InstanceId) -> None:
        """Take note that two copies of one were seen: nothing of it counts from then on."""
        self.forked.add(instance)
        self.end(instance)

    def begin_generation(self) -> None:
        """After a restore all of them attest anew."""
        self.over.update(self.admitted)
        self.admitted.clear()

    def borrower_of(self, instance: InstanceId) -> BorrowerId:
        """Return whose enclave it is that is given a key.

        Raises:
            LogError: it is not admitted, or not any more (`not_admitted`).
        """
        return self._admitted(instance, "it hands a model's key to").borrower

    def refunds(self, granted: LeaseGranted) -> bool:
        """Return whether what is not used of a lease comes back.

        Raises:
            LogError: two copies of its enclave were seen before (`forked`), or that is not admitted, or not any more
                (`not_admitted`), or another borrower's (`wrong_holder`).
        """
        self.require_one(granted.instance)
        holder = self._admitted(granted.instance, "it grants a lease to")
        if holder.borrower != granted.borrower:
            raise bad("wrong_holder", f"it grants {granted.borrower} what an enclave of {holder.borrower} holds")
        return holder.tee not in NEVER_REFUNDED

    def _admitted(self, instance: InstanceId, what: str) -> Admitted:
        found = self.admitted.get(instance)
        if found is None:
            raise bad("not_admitted", f"{what} an enclave that is not admitted, or not any more")
        return found

    def require_one(self, instance: InstanceId) -> None:
        """Refuse whatever gives an enclave something, or takes its word, once two copies of it were seen.

        Raises:
            LogError: `forked`.
        """
        if instance in self.forked:
            raise bad("forked", "it is about an enclave of which two copies were seen before")
