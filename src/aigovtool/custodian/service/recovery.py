"""After a loss: acts that two operators sign (spec: leases sections 10 and 12)."""

from aigovtool.custodian.service.acting import Acting
from aigovtool.custodian.service.continuity import EVERYBODY, forget_orders, names_gap, settled_at
from aigovtool.custodian.service.reports import book_of, keep
from aigovtool.custodian.store import budgets, instances, leases, models, stops
from aigovtool.errors import ConflictError, InvalidValueError, NotFoundError
from aigovtool.ledger import book
from aigovtool.ledger.book import Charge, WriteOff
from aigovtool.ledger.entry import Charged, LeaseWrittenOff, Restored, StopTarget
from aigovtool.ledger.policy import GRACE_MS
from aigovtool.limits import MAX_INTEGER
from aigovtool.protocol import commands
from aigovtool.protocol.commands import CommandResult


def settle_gap(acting: Acting, act: commands.SettleGap) -> CommandResult:
    """Begin a new generation: charge what is known to be lost, and grant nothing until every old lease is over.

    That is, of those that were granted on terms which this ledger knows. A longer ttl that was ordered in the part that
    is lost is for the operators to wait for, before they settle.

    Raises:
        ConflictError: there is no gap, or a newer checkpoint was shown since (`gap_changed`); or it is to be final, and
            not everything is stopped (`not_stopped`).
        NotFoundError: a charge names a row that nobody has limited, or a window that has not begun (`no_budget_row`).
        InvalidValueError: a row would come to more than a message can say (`charge_too_large`), or is charged in two
            places (`charged_twice`), of which whoever reads the order may see one; a final one names charges.
    """
    head = acting.transaction.head
    gap = head.gap
    if gap is None:
        raise ConflictError("this ledger has no gap", reason="no_gap")
    if len({charge.row for charge in act.charges}) != len(act.charges) or (act.final and act.charges):
        raise InvalidValueError(
            "the order charges one budget in two places", reason="charged_twice", fix="charge each budget once"
        )
    if not names_gap(gap, act.checkpoint, final=act.final):
        raise ConflictError("a newer checkpoint was shown since", reason="gap_changed", fix="look again, then decide")
    if act.final and stops.epoch_of(acting.transaction, StopTarget.ALL, "") is None:
        raise ConflictError(
            "after a final settlement nobody is asked again what was forgotten, and not everything is stopped",
            reason="not_stopped",
            fix="stop everything (`aigovtool stop --all`), settle, order again what is forgotten, and lift the stop",
        )
    ttl_ms = max([head.longest_ttl_ms, *(model.policy.ttl_ms for model in models.everything(acting.transaction))])
    quiet_until_ms = acting.now_ms + ttl_ms + GRACE_MS
    acting.transaction.head = settled_at(head, gap, final=act.final, quiet_until_ms=quiet_until_ms)
    forget_orders(acting.transaction, gap.size)
    acting.announce(EVERYBODY)
    restored = Restored(
        generation=acting.transaction.head.generation,
        checkpoint=gap.checkpoint,
        lost_size=gap.size,
        command=acting.mark,
        final=act.final,
    )
    index = acting.record(restored)
    for charge in _all_that_remains(acting) if act.final else act.charges:
        index = _charge(acting, charge)
    return acting.result(index)


def _all_that_remains(acting: Acting) -> list[commands.RowCharge]:
    rows = ((row.key, row.room()) for row in budgets.current_rows(acting.transaction, acting.now_ms))
    return [commands.RowCharge(row=key, units=room) for key, room in rows if room]


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
