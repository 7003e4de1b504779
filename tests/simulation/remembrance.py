"""What the witness knows of ledgers that were restored: what they forgot, who remembers, and what must follow.

It tells what a ledger has forgotten by the entries themselves, not by hashes.
"""

from collections import Counter
from dataclasses import dataclass, field

from tests.simulation.books import Admitted, Ledger, Transaction
from tests.simulation.scene import Violation

from aigovtool.custodian.store.transaction import Settled
from aigovtool.ids import LeaseId
from aigovtool.ledger.budget import RowKey
from aigovtool.ledger.entry import Entry
from aigovtool.ledger.lease import Lease
from aigovtool.protocol.messages import Answer, Grant


@dataclass
class Remembrance:
    """Notes that were given away, leases that are forgotten, and settlements."""

    restores: int = 0
    #: Somebody has shown what is forgotten, was heard, and operators have not settled it.
    noticed: bool = False
    #: Nobody who remembers has looked at the restored ledger yet.
    unnoticed: bool = False
    forgotten: dict[LeaseId, Lease] = field(default_factory=dict)
    #: What was granted by a restored ledger before anybody who remembers has looked: it may be granted twice.
    twice: Counter[RowKey] = field(default_factory=Counter)
    #: Each with its generation and size, and the log that it is of: entries are only ever added to one.
    _notes: dict[str, tuple[int, int, list[Entry]]] = field(default_factory=dict)
    _quiet_until_ms: dict[tuple[Settled, ...], int] = field(default_factory=dict)

    def noted(self, note: str, ledger: Ledger) -> None:
        """Somebody was given a checkpoint of the ledger as it is."""
        if note not in self._notes:
            self._notes[note] = (ledger.head.generation, ledger.head.frontier.size, ledger.entries)

    def is_forgotten(self, note: str, ledger: Ledger) -> bool:
        """Return whether a ledger has forgotten a checkpoint that was given away, and nobody has settled that."""
        if note not in self._notes:
            return False
        generation, size, known = self._notes[note]
        head, entries = ledger.head, ledger.entries
        if generation <= head.generation and size <= len(entries) and _begin_alike(entries, known, size):
            return False
        return generation >= head.generation or not any(
            generation <= settled.generation and size <= settled.size for settled in head.settled
        )

    def restored(self, *, watched: bool) -> None:
        """The ledger is now an old copy."""
        self.restores += 1
        self.unnoticed, self.noticed = not watched, False

    def place(self, note: str) -> tuple[int, int]:
        """Return generation and size of a checkpoint that was given away."""
        generation, size, _ = self._notes.get(note, (0, 0, []))
        return generation, size

    def heard(self, note: str, ledger: Ledger) -> None:
        """A checkpoint was shown, and the ledger works on."""
        if ledger.head.gap is None and self.is_forgotten(note, ledger):
            raise Violation("rollback", "a ledger was shown what it has forgotten, and works on")

    def granted(self, lease: Lease, writes: Transaction) -> None:
        """Check what must hold when a lease is granted."""
        if self.noticed or writes.head.gap is not None:
            raise Violation("rollback", "a ledger that has forgotten something grants units")
        quiet_ms = self._quiet_until_ms.get(writes.head.settled, 0) - writes.now_ms
        if quiet_ms > 0:
            raise Violation("quiet", f"units are granted {quiet_ms} ms before forgotten leases are over")
        if self.unnoticed:
            for key in lease.rows:
                self.twice[key] += lease.units.get(key.dimension)

    @staticmethod
    def answered(answer: Answer, instance: Admitted, ledger: Ledger) -> None:
        """Check that nobody who was admitted before a restore is kept in service after it was settled."""
        served = answer.ttl_ms > 0 or any(isinstance(result, Grant) for result in answer.results)
        if served and instance.generation < ledger.head.generation:
            raise Violation("generation", f"an instance of generation {instance.generation} is kept in service")

    def settled(self, writes: Transaction, quiet_ms: int) -> None:
        """Two operators have settled a gap."""
        self.noticed = False
        self._quiet_until_ms[writes.head.settled] = writes.now_ms + quiet_ms


def _begin_alike(entries: list[Entry], known: list[Entry], size: int) -> bool:
    """Return whether two logs have the same first entries; a restored one may have written the same ones once more."""
    return not size or entries[size - 1] is known[size - 1] or entries[:size] == known[:size]
