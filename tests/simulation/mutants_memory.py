"""Custodians that are restored, operators that settle it, and enclaves that remember: with one rule removed each."""

from collections import Counter

import msgspec
from tests.simulation.books import Admitted, Transaction
from tests.simulation.custodian import Custodian
from tests.simulation.enclave import Enclave
from tests.simulation.memory import Memory
from tests.simulation.operators import Operators

from aigovtool.custodian.service.continuity import leapt
from aigovtool.custodian.store.transaction import Head
from aigovtool.ledger.budget import RowKey, Window
from aigovtool.ledger.checkpoint import Checkpoint, parse_checkpoint
from aigovtool.ledger.lease import Lease
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol.messages import Answer
from aigovtool.protocol.metering import Meter
from aigovtool.protocol.reservation import Posted, Reservation

# --- The custodian -----------------------------------------------------------------------------------


class NoticesNothing(Custodian):
    """Does not look at checkpoints."""

    def has_gap(self, writes: Transaction, note: str) -> bool:
        return False


class _Sizes(Memory):
    def remembered(self, writes: Transaction, seen: Checkpoint) -> bool:
        return seen.generation <= writes.head.generation and seen.size <= writes.head.frontier.size


class ComparesSizes(Custodian):
    """Compares how long the log is, and not what is in it."""

    memory_kind: type[Memory] = _Sizes


class _Lenient(Memory):
    def note_gap(self, writes: Transaction, note: str) -> bool:
        head = writes.head
        if note and head.settled and parse_checkpoint(note).generation < head.generation:
            return head.gap is not None
        return super().note_gap(writes, note)


class ExplainsAnything(Custodian):
    """Takes every checkpoint from before a settlement for explained by it, however much more was lost."""

    memory_kind: type[Memory] = _Lenient


class _Unsettled(Memory):
    def finally_settled(self, head: Head, seen: Checkpoint) -> bool:
        return False


class NeverEnds(Custodian):
    """Opens a gap again for each larger checkpoint of what was settled for good."""

    memory_kind: type[Memory] = _Unsettled


class _Generous(Memory):
    def counted(self, head: Head, generation: int, lease: Lease) -> Lease:
        return lease


class RefundsAfterAll(Custodian):
    """Refunds leases of before a settlement: it may have been given back, and used, in what is lost."""

    memory_kind: type[Memory] = _Generous


class WritesNoGapDown(Custodian):
    """Refuses whoever shows what is forgotten, and serves the next one."""

    def has_gap(self, writes: Transaction, note: str) -> bool:
        found = super().has_gap(writes, note)
        writes.head = msgspec.structs.replace(writes.head, gap=self.ledger.head.gap)
        return found


class _Timid(Memory):
    def leap(self, writes: Transaction, size: int) -> None:
        pass


class OrdersFromThePast(Custodian):
    """Goes on with the epoch that a restored ledger remembers."""

    memory_kind: type[Memory] = _Timid


class _Half(Memory):
    def leap(self, writes: Transaction, size: int) -> None:
        writes.head = leapt(writes.head, size)


class KeepsOldStops(Custodian):
    """Brings the epoch of a restored ledger to its time, and leaves the stops that it has as old as they are."""

    memory_kind: type[Memory] = _Half


class KeepsOldGenerations(Custodian):
    """Goes on with instances that were admitted before a restore."""

    def is_outdated(self, writes: Transaction, instance: Admitted) -> bool:
        return False


# --- The operators -----------------------------------------------------------------------------------


class SettlesWithoutQuiet(Operators):
    """Grants again at once."""

    def quiet_ms(self) -> int:
        return 0


class SettlesWithoutCharges(Operators):
    """Begins a new generation, and charges nothing for what is lost."""

    def _lost(self, writes: Transaction) -> Counter[RowKey]:
        return Counter()


class ChargesLifetimesOnly(Operators):
    """Charges nothing of what is lost to budgets per hour or day."""

    def _lost(self, writes: Transaction) -> Counter[RowKey]:
        found = super()._lost(writes)
        return Counter({key: units for key, units in found.items() if key.window is Window.LIFETIME})


class SettlesForNothing(Operators):
    """Says that a settlement is final, and charges nothing."""

    def _remaining(self, writes: Transaction) -> Counter[RowKey]:
        return Counter()


# --- The enclave -------------------------------------------------------------------------------------


class ShowsNothing(Meter):
    """Does not return the checkpoints that it is given."""

    def _remember(self, note: str) -> None:
        pass


class ForgetsHints(Meter):
    """Takes the answer to a renewal for the answer to a hint that came after it was sent."""

    def accept(self, now_ms: int, answer: Answer) -> None:
        self._nudged = False
        super().accept(now_ms, answer)


class WritesWrongReceipts(Meter):
    """Does not count the reservation itself when it says what a posting will leave."""

    def preview(self, reservation: Reservation, actual: UnitVector) -> Posted:
        posted = super().preview(reservation, actual)
        return Posted(lease_id=posted.lease_id, sequence=posted.sequence, remaining=posted.remaining.plus(actual))


class WaitsForWhoForgotIt(Enclave):
    """Goes on asking a custodian that does not know it."""

    def take_unknown(self) -> None:
        pass
