"""What every use case works with: the keys, the ledger, the clock, the verifiers and the push hub."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aigovtool.attestation.verifier import VerifierSet
from aigovtool.codec import Message, encode
from aigovtool.crypto.sign import Envelope, seal
from aigovtool.custodian.hub import Announcement, Hub
from aigovtool.custodian.keys import CustodianKeys
from aigovtool.custodian.senders import Senders
from aigovtool.custodian.store import facts, log, stops
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.records import Instance
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.custodian.witness_keys import WitnessKeys
from aigovtool.errors import AIGovToolError, LedgerRollbackError
from aigovtool.ids import MessageId
from aigovtool.ledger.checkpoint import Checkpoint, sign_checkpoint
from aigovtool.ledger.entry import CommandRefused, EntryBody, Restored, Stopped
from aigovtool.protocol.stop import STOP_STATE


def system_time_ms() -> int:
    """Return the time of this host, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


#: What may be recorded while the ledger has a gap.
_WITH_GAP: Final = (Stopped, CommandRefused, Restored)


class Notice(Message):
    """An announcement on its way to other custodians on the same ledger."""

    origin: MessageId
    announcement: Announcement


def refusal_of(error: AIGovToolError) -> dict[str, str]:
    """Return what the audit log says of a refusal: its code and reason, never a message with a caller's values."""
    return {"code": error.code, "reason": (error.reason or "")[:80]}


def rolled_back() -> LedgerRollbackError:
    """Return the refusal of a custodian whose ledger has a gap."""
    return LedgerRollbackError(
        "this ledger was restored from a backup: others hold a newer state of it; nothing is granted",
        fix="two operators settle the gap with `aigovtool custodian settle`",
        retry_after_s=5,
    )


@dataclass(slots=True)
class Custodian:
    """One serving custodian."""

    keys: CustodianKeys
    database: Database
    verifiers: VerifierSet
    packages: Path
    hub: Hub = field(default_factory=Hub)
    senders: Senders = field(default_factory=Senders)
    witness_keys: WitnessKeys = field(default_factory=WitnessKeys)
    #: The checkpoint that was signed last: renewals that change nothing share it.
    newest_note: tuple[Checkpoint, str] | None = None
    #: Tells this process from the others that serve the same ledger.
    replica: MessageId = field(default_factory=lambda: MessageId(secrets.token_hex(16)))
    time_ms: Callable[[], int] = system_time_ms
    #: Whether the ledger is being copied: one copy at a time.
    copying: bool = False

    def now(self, transaction: Transaction) -> int:
        """Return the ledger's time, which never goes back even if the host's does."""
        return facts.advance_clock(transaction, self.time_ms())

    def record(self, transaction: Transaction, body: EntryBody) -> int:
        """Append to the audit log in the running transaction.

        Every effect is recorded, so a ledger with a gap has no effect: only a stop, and what settles the gap.

        Raises:
            LedgerRollbackError: the ledger was restored from a backup, and the gap is not settled.
        """
        if transaction.head.gap is not None and not isinstance(body, _WITH_GAP):
            raise rolled_back()
        return log.append(transaction, self.now(transaction), body)

    def checkpoint(self, transaction: Transaction) -> str:
        """Return the log as it stands, signed. Whoever is given it can tell later that it was forgotten."""
        frontier = transaction.head.frontier
        checkpoint = Checkpoint(
            custodian=self.keys.custodian,
            size=frontier.size,
            root=frontier.root(),
            generation=transaction.head.generation,
        )
        # The root is part of the question: a job that was undone may have signed another tree of the same size.
        if self.newest_note is None or self.newest_note[0] != checkpoint:
            self.newest_note = checkpoint, sign_checkpoint(checkpoint, self.keys.log)
        return self.newest_note[1]

    def tell(self, transaction: Transaction, announcement: Announcement) -> None:
        """Have the other custodians on this ledger, if any, tell their enclaves once this transaction is durable."""
        transaction.notices.append(encode(Notice(origin=self.replica, announcement=announcement)))

    def stop_state(self, transaction: Transaction, instance: Instance) -> Envelope:
        """Return the signed stop state of an instance."""
        return seal(STOP_STATE, stops.state_for(transaction, instance), self.keys.commands)
