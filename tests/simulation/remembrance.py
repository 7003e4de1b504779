"""What the witness knows of ledgers that were restored: what they forgot, who remembers, and what must follow.

It tells what a ledger has forgotten by the entries themselves, not by hashes.
"""

from collections import Counter
from dataclasses import dataclass, field

from tests.simulation.books import Admitted, Ledger, Transaction
from tests.simulation.scene import Violation

from aigovtool.custodian.store.transaction import Head, Settled
from aigovtool.ids import InstanceId, LeaseId
from aigovtool.ledger.budget import RowKey
from aigovtool.ledger.entry import Entry
from aigovtool.ledger.lease import Lease
from aigovtool.protocol.messages import Answer, Grant
from aigovtool.protocol.stop import StopState


@dataclass
class Remembrance:
    """Notes that were given away, leases that are forgotten, and settlements."""

    #: Somebody has shown what is forgotten, was heard, and operators have not settled it.
    noticed: bool = False
    #: Nobody who remembers has looked at the restored ledger yet.
    unnoticed: bool = False
    forgotten: dict[LeaseId, Lease] = field(default_factory=dict)
    #: Leases that a copy has as open, as they were closed in what is lost: nothing more can be used of them.
    closed: dict[LeaseId, Lease] = field(default_factory=dict)
    #: A ledger was settled whose clock was behind what it had forgotten: its windows cannot tell that any more.
    behind: bool = False
    #: What was granted by a restored ledger before anybody who remembers has looked: it may be granted twice.
    twice: Counter[RowKey] = field(default_factory=Counter)
    #: The leases of that.
    unseen: set[LeaseId] = field(default_factory=set)
    #: The newest stop state that was ever given out for each instance, in any life of the ledger.
    newest: dict[InstanceId, tuple[int, int]] = field(default_factory=dict)
    #: Every stop takes effect at enclaves that know what the ledger has forgotten.
    obeyed: bool = True
    _head: Head = field(default_factory=Head)
    #: The latest time of the ledger, in any life of it.
    _latest_ms: int = 0
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
            generation <= settled.generation and (settled.final or size <= settled.size) for settled in head.settled
        )

    def restored(self, head: Head, *, watched: bool) -> None:
        """The ledger is now an old copy."""
        self.unnoticed, self.noticed = not watched, False
        self.obeyed, self._head = False, head

    def committed(self, after: Head) -> None:
        """See what is found or settled: from then on stops must take effect, unless the clock is behind."""
        before, self._head = self._head, after
        self._latest_ms = max(self._latest_ms, after.clock_ms)
        found = after.gap is not None and after.gap != before.gap
        # Epochs do not outrun the clock, unless several are given out in no time, or it went back.
        outrun = max(self.newest.values(), default=(0, 0))[1]
        if (found or after.generation > before.generation) and after.clock_ms >= max(self._latest_ms, outrun):
            self.obeyed = True

    def issued(self, state: StopState) -> None:
        """A stop state was given out: one that is wider than a consumer is newer than all that its instance has."""
        before, this = self.newest.get(state.instance, (0, 0)), (state.scope_epoch, state.epoch)
        if self.obeyed and state.is_wide() and this < before:
            raise Violation("stop", f"the stop of epoch {this} is none to an instance that knows {before}")
        self.newest[state.instance] = max(before, this)

    def ordered(self, state: StopState) -> None:
        """What was just ordered is newer than all that an instance has, a consumer's stop as well."""
        if self.newest[state.instance] != (state.scope_epoch, state.epoch):
            raise Violation("stop", f"an instance that knows {self.newest[state.instance]} ignores an order: {state}")

    def place(self, note: str) -> tuple[int, int]:
        """Return generation and size of a checkpoint that was given away."""
        generation, size, _ = self._notes.get(note, (0, 0, []))
        return generation, size

    def heard(self, note: str, ledger: Ledger) -> None:
        """A checkpoint was shown, and the ledger works on."""
        if ledger.head.gap is None and self.is_forgotten(note, ledger):
            raise Violation("rollback", "a ledger was shown what it has forgotten, and works on")

    @staticmethod
    def refunded(lease: Lease, writes: Transaction) -> None:
        """A lease gives units back: not after a settlement, when they may have been given back in what is lost."""
        if writes.ledger.instances[lease.instance].generation < writes.head.generation:
            raise Violation("refund", f"lease {lease.lease_id} is of before a settlement, and is refunded")

    def notes_of(self, generation: int) -> list[str]:
        """Return every checkpoint of a generation, or one before, that was given away; the larger ones later."""
        return sorted((note for note, known in self._notes.items() if known[0] <= generation), key=self.place)

    def stopped_for(self, note: str, before: Head, ledger: Ledger) -> None:
        """A checkpoint was shown: it stops a ledger that has forgotten it, and no other."""
        if before.gap is None and ledger.head.gap is not None and not self.is_forgotten(note, ledger):
            raise Violation("lever", "a checkpoint that the ledger knows, or that was settled, ends all grants")

    def granted(self, lease: Lease, writes: Transaction) -> None:
        """Check what must hold when a lease is granted."""
        if self.noticed or writes.head.gap is not None:
            raise Violation("rollback", "a ledger that has forgotten something grants units")
        quiet_ms = self._quiet_until_ms.get(writes.head.settled, 0) - writes.now_ms
        if quiet_ms > 0:
            raise Violation("quiet", f"units are granted {quiet_ms} ms before forgotten leases are over")
        if self.unnoticed:
            self.unseen.add(lease.lease_id)
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
        self.behind |= any(lease.granted_at_ms > writes.now_ms for lease in self.forgotten.values())
        self._quiet_until_ms[writes.head.settled] = writes.now_ms + quiet_ms


def _begin_alike(entries: list[Entry], known: list[Entry], size: int) -> bool:
    """Return whether two logs have the same first entries; a restored one may have written the same ones once more."""
    return not size or entries[size - 1] is known[size - 1] or entries[:size] == known[:size]
