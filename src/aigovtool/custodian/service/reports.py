"""Reports of use, and leases that nobody closed: what moves a lease after it was granted.

The arithmetic is `ledger.book`; here its rows are loaded, its effects written, and each change recorded in the audit
log in the same transaction.

Once two copies of an instance were seen, its reports count no more: one copy could report on what the other goes on
using. What it holds expires in full, and can be written off.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import msgspec

from aigovtool.codec import encode
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.hub import Announcement
from aigovtool.custodian.service.continuity import without_refund
from aigovtool.custodian.store import budgets, facts, instances, leases, stops
from aigovtool.custodian.store.records import Instance
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ids import ConsumerId, InstanceId, LeaseId, ModelId, digest_of
from aigovtool.ledger import book
from aigovtool.ledger.book import Book, Effects, Expire, Outcome, ReportUsage, shows_fork
from aigovtool.ledger.budget import BudgetRow
from aigovtool.ledger.entry import Forked, LeaseClosed, LeaseExpired, StopTarget
from aigovtool.ledger.lease import Lease, LeaseState
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol.messages import Report

#: Overdue leases charged per renewal: a bounded share of work for whoever comes first.
_SWEEP: Final = 100
#: The state of an instance of which two copies contradicted each other. It never leaves it.
FORKED: Final = "forked"


def sweep(custodian: Custodian, transaction: Transaction, now_ms: int) -> None:
    """Charge overdue leases in full; not while the ledger has a gap, when nothing may change."""
    if transaction.head.gap is not None:
        return
    for lease in leases.overdue(transaction, now_ms, _SWEEP):
        held = book_of(budgets.rows_of(transaction, lease.rows), lease)
        effects = book.apply(held, Expire(lease_id=lease.lease_id, now_ms=now_ms))
        if effects.outcome is Outcome.EXPIRED:
            keep(transaction, lease, effects)
            custodian.record(transaction, LeaseExpired(lease_id=lease.lease_id))


def book_of(rows: Iterable[BudgetRow], *held: Lease) -> Book:
    """Return the part of the ledger that an event touches."""
    return Book(
        rows=MappingProxyType({row.key: row for row in rows}),
        leases=MappingProxyType({lease.lease_id: lease for lease in held}),
    )


def keep(transaction: Transaction, before: Lease, effects: Effects) -> None:
    """Write what a transition did to a lease and its rows."""
    budgets.write(transaction, effects.rows)
    for after in effects.leases:
        leases.change(transaction, before, after, refunded=_charge(before).minus(_charge(after)))


def _charge(lease: Lease) -> UnitVector:
    """What the ledger holds against a lease: all of it until it is closed, then what was used."""
    in_full = lease.unclosed() or lease.state is LeaseState.WRITTEN_OFF or not lease.refundable
    return lease.units if in_full else lease.seen


@dataclass(frozen=True, slots=True)
class Taken:
    """What an instance's reports came to: on whose units they were, and whether they showed a fork."""

    paths: set[tuple[ModelId, ConsumerId]]
    forked: bool


def take_reports(custodian: Custodian, transaction: Transaction, instance: Instance, reports: list[Report]) -> Taken:
    """Apply an instance's reports, unless two copies of it are alive: then none of them counts."""
    held = _held(transaction, instance, reports)
    paths = {(lease.model, lease.consumer) for lease in held.values()}
    if instance.state == FORKED:
        return Taken(paths, forked=False)
    # A contradiction counts for the whole message: an enclave puts its final reports first, and they would be refunded.
    lie = _contradiction(instance, held, reports)
    for report in reports if lie is None else ():
        lease = held.get(report.lease_id)
        if lease is None:
            continue
        effects = book.apply(book_of(budgets.rows_of(transaction, lease.rows), lease), _event(instance, report))
        if effects.outcome is Outcome.FORKED:  # it contradicts another report of this very message
            lie = report
            break
        keep(transaction, lease, effects)
        held.update((after.lease_id, after) for after in effects.leases)
        if effects.outcome is Outcome.CLOSED:
            _record_close(custodian, transaction, held[report.lease_id], report)
    if lie is not None:
        _stop_fork(custodian, transaction, instance, lie.lease_id)
    return Taken(paths, forked=lie is not None)


def _held(transaction: Transaction, instance: Instance, reports: list[Report]) -> dict[LeaseId, Lease]:
    found = (leases.find(transaction, report.lease_id) for report in reports)
    known = (without_refund(transaction.head, instance.generation, lease) for lease in found if lease is not None)
    return {lease.lease_id: lease for lease in known}


def _contradiction(instance: Instance, held: dict[LeaseId, Lease], reports: list[Report]) -> Report | None:
    lies = (one for one in reports if shows_fork(held.get(one.lease_id), _event(instance, one)))
    return next(lies, None)


def find_fork(custodian: Custodian, transaction: Transaction, instance: Instance, reports: list[Report]) -> bool:
    """Stop an instance if one of these reports contradicts what is known of its lease; nothing else of them counts.

    An older renewal that is refused is looked at for this too: one that an honest enclave sent says nothing new.
    """
    lie = None if instance.state == FORKED else _contradiction(instance, _held(transaction, instance, reports), reports)
    if lie is not None:
        _stop_fork(custodian, transaction, instance, lie.lease_id)
    return lie is not None


def _event(instance: Instance, report: Report) -> ReportUsage:
    return ReportUsage(
        instance=instance.instance,
        lease_id=report.lease_id,
        seq=report.seq,
        used=report.used,
        ok=report.ok,
        err=report.err,
        final=report.final,
        digest=digest_of(encode(report)),
    )


def _record_close(custodian: Custodian, transaction: Transaction, lease: Lease, report: Report) -> None:
    custodian.record(
        transaction,
        LeaseClosed(
            lease_id=lease.lease_id,
            late=lease.state is LeaseState.CLOSED_LATE,
            used=lease.seen,
            charged=_charge(lease),
            ok=lease.ok,
            err=lease.err,
            receipts=report.receipts,
        ),
    )


def _stop_fork(custodian: Custodian, transaction: Transaction, instance: Instance, lease_id: LeaseId) -> None:
    epoch = facts.next_epoch(transaction)
    stops.put(transaction, StopTarget.ENCLAVE, instance.instance, epoch, active=True)
    instances.replace(transaction, msgspec.structs.replace(instance, state=FORKED))
    custodian.record(transaction, Forked(instance=instance.instance, lease_id=lease_id, epoch=epoch))
    custodian.tell(transaction, fork_of(instance.instance))


def fork_of(instance: InstanceId) -> Announcement:
    """Return what is announced when a fork is found: whichever copy listens learns that it is stopped."""
    return Announcement(stop=StopTarget.ENCLAVE, value=instance)
