"""Reports of use, and leases that nobody closed: what moves a lease after it was granted.

The arithmetic is `ledger.book`; here its rows are loaded, its effects written, and each change recorded in the audit
log in the same transaction.
"""

from collections.abc import Iterable
from types import MappingProxyType
from typing import Final

import msgspec

from aigovtool.codec import encode
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.store import budgets, facts, instances, leases, stops
from aigovtool.custodian.store.records import Instance
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ids import ConsumerId, LeaseId, ModelId, digest_of
from aigovtool.ledger import book
from aigovtool.ledger.book import Book, Effects, Expire, Outcome, ReportUsage
from aigovtool.ledger.budget import BudgetRow
from aigovtool.ledger.entry import Forked, LeaseClosed, LeaseExpired, StopTarget
from aigovtool.ledger.lease import Lease, LeaseState
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol.messages import Report

#: Overdue leases charged per renewal: a bounded share of work for whoever comes first.
_SWEEP: Final = 100


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


class Taken:
    """What an instance's reports came to: whose units may have come back, and whether two copies of it are alive."""

    def __init__(self) -> None:
        self.paths: set[tuple[ModelId, ConsumerId]] = set()
        self.forked = False


def take_reports(custodian: Custodian, transaction: Transaction, instance: Instance, reports: list[Report]) -> Taken:
    """Apply an instance's reports."""
    taken = Taken()
    for report in reports:
        lease = leases.find(transaction, report.lease_id)
        if lease is None:
            continue
        event = ReportUsage(
            instance=instance.instance,
            lease_id=report.lease_id,
            seq=report.seq,
            used=report.used,
            ok=report.ok,
            err=report.err,
            final=report.final,
            digest=digest_of(encode(report)),
        )
        effects = book.apply(book_of(budgets.rows_of(transaction, lease.rows), lease), event)
        keep(transaction, lease, effects)
        taken.paths.add((lease.model, lease.consumer))
        if effects.outcome is Outcome.CLOSED:
            _record_close(custodian, transaction, effects.leases[0], report)
        elif effects.outcome is Outcome.FORKED:
            taken.forked = True
            _stop_fork(custodian, transaction, instance, report.lease_id)
    return taken


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
    instances.replace(transaction, msgspec.structs.replace(instance, state="forked"))
    custodian.record(transaction, Forked(instance=instance.instance, lease_id=lease_id, epoch=epoch))
