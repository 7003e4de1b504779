"""After a loss: acts that two operators sign (spec: leases sections 10 and 12)."""

import msgspec

from aigovtool.custodian.service.acting import Acting
from aigovtool.custodian.service.continuity import EVERYBODY, forget_orders
from aigovtool.custodian.service.reports import book_of, keep
from aigovtool.custodian.store import budgets, instances, leases, models
from aigovtool.custodian.store.transaction import Settled
from aigovtool.errors import ConflictError, InvalidValueError, NotFoundError
from aigovtool.ledger import book
from aigovtool.ledger.book import Charge, WriteOff
from aigovtool.ledger.entry import Charged, LeaseWrittenOff, Restored
from aigovtool.ledger.policy import GRACE_MS
from aigovtool.limits import MAX_INTEGER
from aigovtool.protocol import commands
from aigovtool.protocol.commands import CommandResult


def settle_gap(acting: Acting, act: commands.SettleGap) -> CommandResult:
    """Begin a new generation: charge what is known to be lost, and grant nothing until every old lease is over.

    That is, of those that were granted on terms which this ledger knows. A longer ttl that was ordered in the part that
    is lost is for the operators to wait for, before they settle.

    Raises:
        ConflictError: there is no gap, or a newer checkpoint was shown since (`gap_changed`).
        NotFoundError: a charge names a row that nobody has limited, or a window that has not begun (`no_budget_row`).
        InvalidValueError: a row would come to more than a message can say (`charge_too_large`), or is charged in two
            places (`charged_twice`), of which whoever reads the order may see one.
    """
    head = acting.transaction.head
    gap = head.gap
    if gap is None:
        raise ConflictError("this ledger has no gap", reason="no_gap")
    if len({charge.row for charge in act.charges}) != len(act.charges):
        raise InvalidValueError(
            "the order charges one budget in two places", reason="charged_twice", fix="charge each budget once"
        )
    if gap.checkpoint != act.checkpoint:
        raise ConflictError("a newer checkpoint was shown since", reason="gap_changed", fix="look again, then decide")
    ttl_ms = max([head.longest_ttl_ms, *(model.policy.ttl_ms for model in models.everything(acting.transaction))])
    generation = max(head.generation, gap.generation) + 1
    acting.transaction.head = msgspec.structs.replace(
        head,
        generation=generation,
        gap=None,
        settled=(*head.settled, Settled(generation=gap.generation, size=gap.size)),
        quiet_until_ms=max(head.quiet_until_ms, acting.now_ms + ttl_ms + GRACE_MS),
    )
    forget_orders(acting.transaction, gap.size)
    acting.announce(EVERYBODY)
    index = acting.record(
        Restored(generation=generation, checkpoint=gap.checkpoint, lost_size=gap.size, command=acting.mark)
    )
    for charge in act.charges:
        index = _charge(acting, charge)
    return acting.result(index)


def _charge(acting: Acting, charge: commands.RowCharge) -> int:
    row = budgets.row_at(acting.transaction, charge.row, acting.now_ms)
    if row is None:
        raise NotFoundError("there is no such budget row to charge", reason="no_budget_row")
    most = max(0, MAX_INTEGER - row.posted - row.pending)
    if charge.units > most:
        raise InvalidValueError(
            f"{charge.units:,} more units on this row come to a number that no message can hold",
            reason="charge_too_large",
            fix=f"charge at most {most:,}: that leaves nothing of any limit",
        )
    effects = book.apply(book_of([row]), Charge(key=charge.row, units=charge.units))
    budgets.write(acting.transaction, effects.rows)
    return acting.record(Charged(row=charge.row, units=charge.units, command=acting.mark))


def write_off(acting: Acting, act: commands.WriteOff) -> CommandResult:
    """Give up the expired leases of an instance.

    Raises:
        NotFoundError: there is no such instance, or it has no expired lease.
    """
    instances.require(acting.transaction, act.instance)
    expired = leases.expired_of(acting.transaction, act.instance)
    if not expired:
        raise NotFoundError("this enclave has no expired lease", reason="nothing_expired")
    index = 0
    for lease in expired:
        held = book_of(budgets.rows_of(acting.transaction, lease.rows), lease)
        keep(acting.transaction, lease, book.apply(held, WriteOff(lease_id=lease.lease_id)))
        index = acting.record(LeaseWrittenOff(lease_id=lease.lease_id, command=acting.mark))
    return acting.result(index)
