"""Ledgers and custodians with one rule removed."""

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

import msgspec
from tests.simulation.books import Admitted, Transaction
from tests.simulation.custodian import Custodian, total

from aigovtool.ids import ConsumerId, InstanceId
from aigovtool.ledger import book as ledger
from aigovtool.ledger.book import Book, Draw, Effects, Event, Outcome, ReportUsage
from aigovtool.ledger.budget import BudgetRow, Window, bucket_of
from aigovtool.ledger.lease import LeaseState
from aigovtool.ledger.units import ZERO
from aigovtool.protocol.messages import Answer, Renew, Want
from aigovtool.protocol.stop import StopState

# --- Events ------------------------------------------------------------------------------------------


def adds_differences(book: Book, event: Event) -> Effects:
    """Take each report for what was used since the last."""
    if isinstance(event, ReportUsage) and (lease := book.leases.get(event.lease_id)) and event.seq > lease.seq:
        event = replace(event, used=lease.seen.plus(event.used))
    return ledger.apply(book, event)


def alarms_at_late_reports(book: Book, event: Event) -> Effects:
    """Take a report that was overtaken for a fork."""
    if isinstance(event, ReportUsage) and (lease := book.leases.get(event.lease_id)) and event.seq < lease.seq:
        return Effects(Outcome.FORKED)
    return ledger.apply(book, event)


def refunds_on_timeout(book: Book, event: Event) -> Effects:
    """Give back what was not reported as used when a lease expires."""
    effects = ledger.apply(book, event)
    if effects.outcome is not Outcome.EXPIRED:
        return effects
    (lease,) = effects.leases
    unused = lease.units.minus(lease.seen)
    return replace(effects, rows=tuple(row.refund(unused.get(row.key.dimension)) for row in effects.rows))


def refunds_every_late_close(book: Book, event: Event) -> Effects:
    """Refund what an expired lease did not use each time that its final report comes."""
    lease = book.leases.get(event.lease_id) if isinstance(event, ReportUsage) else None
    if lease is None or lease.state is not LeaseState.CLOSED_LATE:
        return ledger.apply(book, event)
    unused = lease.units.minus(lease.seen)
    rows = tuple(book.rows[key].refund(unused.get(key.dimension)) for key in lease.rows)
    return Effects(Outcome.CLOSED, rows=rows, leases=(lease,))


def settles_late_closes(book: Book, event: Event) -> Effects:
    """Treat the close of an expired lease like that of a pending one."""
    effects = ledger.apply(book, event)
    if effects.outcome is not Outcome.CLOSED or effects.leases[0].state is not LeaseState.CLOSED_LATE:
        return effects
    (lease,) = effects.leases
    held, used = lease.units, lease.seen
    rows = tuple(book.rows[key].settle(held.get(key.dimension), used.get(key.dimension)) for key in lease.rows)
    return replace(effects, rows=rows)


def refunds_no_late_close(book: Book, event: Event) -> Effects:
    """Never refund a lease that has expired."""
    effects = ledger.apply(book, event)
    if effects.outcome is not Outcome.CLOSED or effects.leases[0].state is not LeaseState.CLOSED_LATE:
        return effects
    lease = msgspec.structs.replace(effects.leases[0], refundable=False)
    return replace(effects, rows=tuple(book.rows[key] for key in lease.rows), leases=(lease,))


def refunds_clones(book: Book, event: Event) -> Effects:
    """Refund a lease whose holder may have been copied."""
    lease = book.leases.get(event.lease_id) if isinstance(event, ReportUsage) else None
    if lease is None or lease.refundable:
        return ledger.apply(book, event)
    trusted = MappingProxyType({lease.lease_id: msgspec.structs.replace(lease, refundable=True)})
    effects = ledger.apply(Book(rows=book.rows, leases=trusted), event)
    leases = tuple(msgspec.structs.replace(one, refundable=False) for one in effects.leases)
    return replace(effects, leases=leases)


# --- Draws -------------------------------------------------------------------------------------------


def _with_rows(book: Book, event: Event, seen: Callable[[BudgetRow], BudgetRow]) -> Effects:
    """Draw on rows as `seen`, and debit the real ones."""
    effects = ledger.apply(Book(rows=MappingProxyType({k: seen(r) for k, r in book.rows.items()})), event)
    if effects.outcome is not Outcome.GRANTED:
        return effects
    return replace(effects, rows=tuple(_debited(book.rows[row.key], effects) for row in effects.rows))


def _debited(row: BudgetRow, effects: Effects) -> BudgetRow:
    units = effects.leases[0].units.get(row.key.dimension)
    return msgspec.structs.replace(row, pending=row.pending + units)


def ignores_what_is_held(book: Book, event: Event) -> Effects:
    """Compare a limit with what is spent, and forget what is held."""
    if not isinstance(event, Draw):
        return ledger.apply(book, event)
    return _with_rows(book, event, lambda row: msgspec.structs.replace(row, pending=0))


def always_grants_the_minimum(book: Book, event: Event) -> Effects:
    """Let nobody go away empty-handed."""
    effects = ledger.apply(book, event)
    if not isinstance(event, Draw) or effects.outcome not in {Outcome.RESERVED, Outcome.INSUFFICIENT}:
        return effects
    return _with_rows(book, replace(event, target=event.minimum), lambda row: msgspec.structs.replace(row, limit=None))


def looks_at_the_narrowest_row(book: Book, event: Event) -> Effects:
    """Debit the whole path, but look for room in the consumer's rows only."""
    if not isinstance(event, Draw):
        return ledger.apply(book, event)
    return _with_rows(
        book,
        event,
        lambda row: row if row.key.scope.consumer is not None else msgspec.structs.replace(row, pending=0, posted=0),
    )


def debits_the_narrowest_row(book: Book, event: Event) -> Effects:
    """Look at the whole path, but debit one row."""
    effects = ledger.apply(book, event)
    if effects.outcome is not Outcome.GRANTED:
        return effects
    return replace(effects, rows=(*(book.rows[row.key] for row in effects.rows[:-1]), effects.rows[-1]))


def looks_at_one_dimension(book: Book, event: Event) -> Effects:
    """Look for room in what is metered first, and debit everything."""
    if not isinstance(event, Draw):
        return ledger.apply(book, event)
    first = event.policy.dimension
    return _with_rows(
        book, event, lambda row: row if row.key.dimension is first else msgspec.structs.replace(row, limit=None)
    )


def debits_one_dimension(book: Book, event: Event) -> Effects:
    """Look at everything that is metered, and debit what is metered first."""
    effects = ledger.apply(book, event)
    if not isinstance(event, Draw) or effects.outcome is not Outcome.GRANTED:
        return effects
    first = event.policy.dimension
    return replace(
        effects, rows=tuple(row if row.key.dimension is first else book.rows[row.key] for row in effects.rows)
    )


# --- The transaction ---------------------------------------------------------------------------------


class RepliesBeforeCommit(Custodian):
    """Now and then loses what it has already answered."""

    def commit(self, writes: Transaction) -> None:
        if not writes.answers or not self.scene.chance(0.05):
            super().commit(writes)


class GrantsWhileStopped(Custodian):
    """Does not look at stops when it grants."""

    def refused(self, state: StopState, consumer: ConsumerId) -> bool:
        return False


class HasNoCap(Custodian):
    """Lets a borrower hold as much as there is."""

    def drawn(self, writes: Transaction, instance: InstanceId, admitted: Admitted, want: Want) -> Draw:
        event = super().drawn(writes, instance, admitted, want)
        return replace(event, held_by_instance=ZERO, held_by_borrower=ZERO)


class ForgetsExpired(Custodian):
    """Counts only pending leases as outstanding, so that a crash loop can burn a budget."""

    def drawn(self, writes: Transaction, instance: InstanceId, admitted: Admitted, want: Want) -> Draw:
        event = super().drawn(writes, instance, admitted, want)
        held = [
            one for one in self.held(writes) if one.state is LeaseState.PENDING and one.borrower == admitted.borrower
        ]
        mine = total(one.units for one in held if one.instance == instance)
        return replace(event, held_by_instance=mine, held_by_borrower=total(one.units for one in held))


class RefundsPresentWindow(Custodian):
    """Gives units back to the window of now instead of the one that was debited."""

    def write(self, writes: Transaction, effects: Effects) -> None:
        rows = [
            row for row in effects.rows if effects.outcome is Outcome.CLOSED and row.key.window is not Window.LIFETIME
        ]
        for row in rows:
            present = msgspec.structs.replace(row.key, bucket_ms=bucket_of(row.key.window, writes.now_ms))
            before, other = writes.row(row.key), writes.row(present)
            if present == row.key or before is None or other is None:
                continue
            back = before.posted + before.pending - row.posted - row.pending
            moved = (
                msgspec.structs.replace(row, posted=row.posted + back),
                msgspec.structs.replace(other, posted=other.posted - min(back, other.posted)),
            )
            effects = replace(effects, rows=(*(one for one in effects.rows if one.key != row.key), *moved))
        super().write(writes, effects)


class RefundsForks(Custodian):
    """Takes the reports of an instance of which two copies were seen like any other's."""

    def is_forked(self, writes: Transaction, instance: InstanceId) -> bool:
        return False


class CarriesOutOldRenewals(Custodian):
    """Remembers the newest renewal of an instance only: a late copy of an older one is carried out again."""

    def is_superseded(self, request: Renew, shown: tuple[int, int]) -> bool:
        return False


class AnswersAfresh(Custodian):
    """Forgets which requests it has answered."""

    def is_superseded(self, request: Renew, shown: tuple[int, int]) -> bool:
        return False

    def answered(self, request: Renew) -> Answer | None:
        return None
