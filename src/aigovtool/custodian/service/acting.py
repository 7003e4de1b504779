"""One operator command being carried out in a transaction: what its act reads, writes, records and announces."""

from dataclasses import dataclass
from typing import Any

from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.hub import Announcement
from aigovtool.custodian.store import facts, stops
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ledger import entry
from aigovtool.ledger.entry import StopTarget
from aigovtool.protocol.commands import Command, CommandResult


@dataclass(frozen=True, slots=True)
class Acting:
    """One command being carried out in a transaction."""

    custodian: Custodian
    transaction: Transaction
    command: Command
    mark: entry.Command
    now_ms: int
    announced: list[Announcement]

    def stop(self, target: StopTarget, value: str, *, active: bool) -> int:
        """Set or lift a stop; return its epoch."""
        epoch = facts.next_epoch(self.transaction)
        stops.put(self.transaction, target, value, epoch, active=active)
        self.announce(Announcement(stop=target, value=value))
        return epoch

    def announce(self, announcement: Announcement) -> None:
        """Tell enclaves once the command is durable: those that listen here, and those of the other custodians."""
        self.announced.append(announcement)
        self.custodian.tell(self.transaction, announcement)

    def record(self, body: entry.EntryBody) -> int:
        """Append to the audit log; return the entry's index."""
        return self.custodian.record(self.transaction, body)

    def result(self, index: int, **more: Any) -> CommandResult:  # noqa: ANN401 - passed on to a typed struct
        """Return the command's result, whose (last) line in the log is `index`."""
        return CommandResult(command_id=self.command.command_id, entry=index, **more)
