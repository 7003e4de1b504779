"""The orders of a log: each is carried out once, and all of its entries stand together."""

from dataclasses import dataclass, field
from typing import Final

from aigovtool.ids import MessageId
from aigovtool.ledger.bad_entry import bad
from aigovtool.ledger.entry import (
    AskDecided,
    BudgetSet,
    Charged,
    Command,
    CommandRefused,
    EntryBody,
    LeaseWrittenOff,
    Restored,
)

#: What may follow what as a part of the same order. Any other order has one entry.
_GOES_ON: Final = frozenset(
    {
        (BudgetSet, BudgetSet),
        (BudgetSet, AskDecided),
        (Restored, Charged),
        (Charged, Charged),
        (LeaseWrittenOff, LeaseWrittenOff),
    }
)


def ordered_by(body: EntryBody) -> Command | None:
    """Return the order that an entry carries out, if it is one."""
    if isinstance(body, CommandRefused):
        return None
    command: Command | None = getattr(body, "command", None)
    return command


@dataclass(slots=True)
class OrderList:
    """The identifiers of all orders that were carried out, and the entry before, if it was one's."""

    carried_out: set[MessageId] = field(default_factory=set)
    _before: tuple[type[EntryBody], Command] | None = None

    def take(self, body: EntryBody) -> None:
        """Take an entry, of an order or not.

        Raises:
            LogError: its order was carried out before (`order_twice`), or it charges what no settlement just before it
                was to charge (`no_restore`).
        """
        command, before = ordered_by(body), self._before
        self._before = None if command is None else (type(body), command)
        if command is None:
            return
        goes_on = before is not None and before[1] == command and (before[0], type(body)) in _GOES_ON
        if isinstance(body, Charged) and not goes_on:
            raise bad("no_restore", "it charges for what a restore lost, and none was settled just before it")
        if not goes_on and command.command_id in self.carried_out:
            raise bad("order_twice", f"it carries out an order of {command.operator} that was carried out before")
        self.carried_out.add(command.command_id)
