"""The operators of a simulated history, and whoever else remembers: limits, stops, write-offs, backups and restores."""

from collections import Counter
from dataclasses import replace

import msgspec
from tests.simulation.books import Ledger, Stop, Transaction, kept
from tests.simulation.custodian import Custodian
from tests.simulation.scene import ALSO, TTL_MS, Scene
from tests.simulation.witness import Witness

from aigovtool.custodian.store.transaction import Gap
from aigovtool.errors import LedgerRollbackError
from aigovtool.ledger import entry
from aigovtool.ledger.book import Charge, WriteOff
from aigovtool.ledger.budget import RowKey
from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.lease import LeaseState
from aigovtool.ledger.policy import GRACE_MS

_LONGER_MS = 120_000
#: How often a ledger is restored in one history.
_RESTORES = 2


class Operators:
    """What people order, each order one transaction; and what they know that the ledger may have forgotten."""

    def __init__(self, scene: Scene, witness: Witness, custodian: Custodian) -> None:
        self.scene = scene
        self.witness = witness
        self.custodian = custodian
        #: The first copy is from before anybody was admitted.
        self.backups = [custodian.ledger.copy()]
        self.restores = 0
        #: The newest checkpoint that somebody outside has.
        self.watched = ""

    def _begin(self) -> Transaction:
        return self.custodian.begin(self.custodian.any_replica())

    # -- Limits and leases ------------------------------------------------------------------------

    def raise_limits(self) -> None:
        """Raise every limit."""
        for place in range(len(self.custodian.ledger.limits)):
            self.raise_limit(place)

    def raise_limit(self, place: int) -> None:
        """Grant more budget; one whose time is over gets a new end."""
        custodian = self.custodian
        limits = custodian.ledger.limits
        limit = limits[place]
        if limit.limit is None or custodian.ledger.head.gap is not None:
            return
        writes = self._begin()
        end_ms = limit.not_after_ms
        if end_ms is not None and end_ms <= writes.now_ms:
            end_ms = writes.now_ms + _LONGER_MS
        more = 20 * ALSO.get(limit.dimension, 1)
        raised = msgspec.structs.replace(limit, limit=limit.limit + more, not_after_ms=end_ms)
        limits[place] = raised
        row = custodian.row_now(writes, raised)
        writes.rows[row.key] = kept(row)
        writes.record(entry.BudgetSet(limit=raised, command=custodian.command()))
        custodian.commit(writes)
        self.scene.tell("operator", "raises the limit of {} to {}", limit.scope, raised.limit)

    def write_off(self) -> None:
        """Give up the expired leases of one instance, whether it is gone or only seems so."""
        custodian = self.custodian
        expired = [one for one in custodian.ledger.unclosed.values() if one.state is LeaseState.EXPIRED]
        if not expired or custodian.ledger.head.gap is not None:
            return
        instance = self.scene.rng.choice(sorted({one.instance for one in expired}))
        writes = self._begin()
        for lease in expired:
            if lease.instance == instance:
                event = WriteOff(lease_id=lease.lease_id)
                custodian.write(writes, custodian.take(writes.book_of(lease.lease_id), event))
                writes.record(entry.LeaseWrittenOff(lease_id=lease.lease_id, command=custodian.command("bob")))
        custodian.commit(writes)

    # -- Stops ------------------------------------------------------------------------------------

    def order(self, target: StopTarget, value: str, *, active: bool, since_ms: int | None = None) -> bool:
        """Stop or resume; return whether that was taken. A ledger with a gap can be stopped, and not resumed."""
        writes = self._begin()
        epoch = writes.next_epoch()
        kind = entry.Stopped if active else entry.Resumed
        try:
            writes.record(kind(target=target, value=value, epoch=epoch, command=self.custodian.command("bob")))
        except LedgerRollbackError:
            return False
        since = self.scene.ms if since_ms is None else since_ms
        writes.stops[target, value] = Stop(target, value, epoch, active, since)
        self.custodian.commit(writes)
        for instance, admitted in self.custodian.ledger.instances.items():
            if self.witness.memory.obeyed and any(
                stop.epoch == epoch for stop in self.custodian.touching(instance, admitted.borrower)
            ):
                self.witness.memory.ordered(self.custodian.stop_state(instance, admitted.borrower))
        self.scene.tell("operator", "{} {} {}, epoch {}", "stops" if active else "resumes", target, value, epoch)
        return True

    # -- Backups ----------------------------------------------------------------------------------

    def back_up(self) -> None:
        """Copy the ledger; the first and the last two copies are kept."""
        self.backups = [*self.backups[:1], *self.backups[1:][-1:], self.custodian.ledger.copy()]

    def watch(self) -> None:
        """Ask for the newest checkpoint, from outside."""
        ledger = self.custodian.ledger
        self.watched = self.custodian.memory.note(ledger.head)
        self.witness.memory.noted(self.watched, ledger)

    def restore(self, *, oldest: bool = False) -> None:
        """Put an old copy in the place of the ledger.

        Often somebody who remembers more looks before it serves. Where nobody does, only enclaves can tell, and what is
        granted until then may be granted twice.
        """
        if self.restores >= _RESTORES and not oldest:
            return
        self.restores += 1
        before, ledger = self.custodian.ledger, (self.backups[0] if oldest else self._backup()).copy()
        self.custodian.ledger = ledger
        self.custodian.changes += 1
        self.scene.seen["restore"] += 1
        lost = len(before.entries) - len(ledger.entries)
        self.scene.tell("operator", "restores a backup: {} entries of {} are gone", lost, len(before.entries))
        shown = self.witness.memory.is_forgotten(self.watched, ledger) and self.scene.chance(0.6)
        self.witness.restored(ledger, watched=shown or ledger.head.gap is not None)
        for replica in self.custodian.replicas:
            replica.down_until_ms = self.scene.ms + self.scene.rng.choice((0, 5_000))
        if shown:
            self.show(self.watched)
        self._order_again(before)

    def _backup(self) -> Ledger:
        first, *later = self.backups
        return self.scene.rng.choice((first, *later, *later))

    def show(self, note: str) -> None:
        """Show a checkpoint to the ledger, as anybody may."""
        writes, before = self._begin(), self.custodian.ledger.head
        found = self.custodian.has_gap(writes, note)
        self.custodian.commit(writes)
        self.custodian.announced()
        self.witness.memory.noticed = found
        self.scene.tell("auditor", "shows a checkpoint, gap: {}", found)
        self.witness.memory.stopped_for(note, before, self.custodian.ledger)
        self.witness.memory.heard(note, self.custodian.ledger)

    def _order_again(self, before: Ledger) -> None:
        """Repeat the stops that the ledger has forgotten; those that it has forgotten to lift are in force again."""
        stops = self.custodian.ledger.stops
        for key, stop in before.stops.items():
            if stop.active and (key not in stops or not stops[key].active):
                self.order(*key, active=True, since_ms=stop.since_ms)
        for key, stop in list(stops.items()):
            known = before.stops.get(key)
            since_ms = known.since_ms if known is not None and known.active else self.scene.ms
            if stop.active:
                stops[key] = replace(stop, since_ms=since_ms)

    # -- Settlement -------------------------------------------------------------------------------

    def settle(self) -> bool:
        """Settle the gap, if there is one: charge every lease that was granted and is forgotten, as the log would say.

        Returns whether there was one.
        """
        custodian, ledger = self.custodian, self.custodian.ledger
        gap = ledger.head.gap
        if gap is None:
            return False
        final = self._is_final(gap)
        stopped = final and not self._all_stopped() and self.order(StopTarget.ALL, "", active=True)
        writes = self._begin()
        command = custodian.command("bob")
        custodian.memory.settle(writes, gap.checkpoint, self.quiet_ms(), command, final=final)
        for key, units in (self._remaining(writes) if final else self._lost(writes)).items():
            row = custodian.row_at(writes, key)
            custodian.write(writes, custodian.take(custodian.book_with(row), Charge(key=key, units=units)))
            writes.record(entry.Charged(row=key, units=units, command=command))
            writes.charges[key] += units
        custodian.commit(writes)
        custodian.announced()
        self.witness.memory.settled(writes, TTL_MS + GRACE_MS)
        self.scene.seen["settled"] += 1
        self.scene.tell("operator", "settles the gap: generation {}, final: {}", writes.head.generation, final)
        if stopped:
            self.order(StopTarget.ALL, "", active=False)
        if final:
            self.scene.seen["final"] += 1
            self._show_all(gap)
        return True

    def _all_stopped(self) -> bool:
        stop = self.custodian.ledger.stops.get((StopTarget.ALL, ""))
        return stop is not None and stop.active

    def _is_final(self, gap: Gap) -> bool:
        """Settle for good every second time, where no limit was raised in what is lost: that would be granted anew."""
        raised = any(
            most > limit.limit
            for key, most in self.witness.most.items()
            for limit in self.custodian.ledger.limits
            if limit.limit is not None
            and (limit.scope, limit.dimension, limit.window) == (key.scope, key.dimension, key.window)
        )
        return not raised and gap.size % 2 == 0

    def _remaining(self, writes: Transaction) -> Counter[RowKey]:
        """Return what remains of each row from which anything could be granted."""
        writes.charged_for.update(self.witness.memory.forgotten)
        rows = (self.custodian.row_now(writes, limit) for limit in self.custodian.ledger.limits)
        return Counter({row.key: room for row in rows if (room := row.room())})

    def _show_all(self, gap: Gap) -> None:
        """Let a stranger show every checkpoint of what is lost, the larger ones later: the ledger works on."""
        for note in self.witness.memory.notes_of(gap.generation):
            if self.custodian.ledger.head.gap is None:
                self.show(note)

    def quiet_ms(self) -> int:
        """Return how long nothing is granted after a settlement."""
        return TTL_MS + GRACE_MS

    def _lost(self, writes: Transaction) -> Counter[RowKey]:
        """Return what each row is to be charged: leases that the ledger does not know, each once.

        The clock of a restored ledger may be behind one of them; then its bucket has not begun, and cannot be charged.
        """
        found: Counter[RowKey] = Counter()
        for lease in self.witness.memory.forgotten.values():
            if lease.lease_id not in self.custodian.ledger.charged_for:
                writes.charged_for.add(lease.lease_id)
                for key in lease.rows:
                    if key.bucket_ms <= writes.now_ms:
                        found[key] += lease.units.get(key.dimension)
        return found
