"""What every use case works with: the keys, the ledger, the clock, the verifiers and the push hub."""

import asyncio
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from aigovtool.attestation.verifier import VerifierSet
from aigovtool.codec import Message, encode
from aigovtool.crypto.sign import Envelope, SigningKey, seal
from aigovtool.custodian.clock import HostClock, clock_leapt
from aigovtool.custodian.endorsements.cache import EndorsementCache
from aigovtool.custodian.hub import Announcement, Hub
from aigovtool.custodian.keys import CustodianKeys
from aigovtool.custodian.refusals import Refusals
from aigovtool.custodian.senders import Senders
from aigovtool.custodian.store import facts, log, stops
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.records import Instance
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.custodian.witness_keys import WitnessKeys
from aigovtool.errors import LedgerRollbackError
from aigovtool.ids import KeyId, MessageId
from aigovtool.ledger.checkpoint import Checkpoint, sign_checkpoint
from aigovtool.ledger.entry import EntryBody
from aigovtool.ledger.gap import may_follow_gap, may_follow_leap
from aigovtool.protocol.stop import STOP_STATE


class Notice(Message):
    """An announcement on its way to other custodians on the same ledger."""

    origin: MessageId
    announcement: Announcement


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
    refusals: Refusals = field(default_factory=Refusals)
    #: What vendors say of platforms; None means that evidence must bring all that it needs.
    endorsements: EndorsementCache | None = None
    witness_keys: WitnessKeys = field(default_factory=WitnessKeys)
    #: The checkpoint that was signed last, by which key: renewals that change nothing share it.
    newest_note: tuple[tuple[Checkpoint, KeyId], str] | None = None
    #: Tells this process from the others that serve the same ledger.
    replica: MessageId = field(default_factory=lambda: MessageId(secrets.token_hex(16)))
    clock: HostClock = field(default_factory=HostClock)
    #: Whether the ledger is being copied: one copy at a time.
    copying: bool = False
    #: Held while all instances are judged again: two at once would write each other's evidence.
    judging: asyncio.Lock = field(default_factory=asyncio.Lock)

    def take_up(self, keys: CustodianKeys, verifiers: VerifierSet) -> None:
        """Sign, open and judge with other keys of the same custodian from now on."""
        self.keys, self.verifiers = keys, verifiers

    def time_ms(self) -> int:
        """Return what the host's clock shows, whether that is believed or not."""
        return self.clock.wall_ms()

    def now(self, transaction: Transaction) -> int:
        """Return the ledger's time, which never goes back even if the host's does, and does not leap with it.

        It is read once for each job. A machine may be suspended, or a database stall, within one: a grant that is
        logged as later than it was decided may not be of the window that it was debited from.
        """
        if transaction.now_ms is None:
            before_ms = transaction.head.clock_ms
            if not self.clock.has_met:
                self.clock.begin(before_ms, facts.server_time_ms(transaction))
            transaction.now_ms = facts.advance_clock(transaction, self.clock.read(before_ms))
        return transaction.now_ms

    def require_clock(self, transaction: Transaction) -> int:
        """Return the ledger's time, before something is given to somebody by it.

        Raises:
            ClockLeaptError: the host's clock is not believed.
        """
        now_ms = self.now(transaction)
        if self.clock.leapt_ms:
            raise clock_leapt(self.clock.leapt_ms)
        return now_ms

    def record(self, transaction: Transaction, body: EntryBody) -> int:
        """Append to the audit log in the running transaction.

        Every effect is recorded, so a ledger with a gap has none: only a stop, a refusal, and what settles the gap.

        Raises:
            LedgerRollbackError: the ledger was restored from a backup, and the gap is not settled.
            ClockLeaptError: the entry gives somebody something, and the host's clock is not believed.
        """
        if transaction.head.gap is not None and not may_follow_gap(body):
            raise rolled_back()
        now_ms = self.now(transaction) if may_follow_leap(body) else self.require_clock(transaction)
        return log.append(transaction, now_ms, body)

    def checkpoint(self, transaction: Transaction, key: SigningKey | None = None) -> str:
        """Return the log as it stands, signed. Whoever is given it can tell later that it was forgotten.

        With `key`: by this log key, of a key set that is shown beside it.
        """
        frontier = transaction.head.frontier
        checkpoint = Checkpoint(
            custodian=self.keys.custodian,
            size=frontier.size,
            root=frontier.root(),
            generation=transaction.head.generation,
        )
        # The root is part of the question: a job that was undone may have signed another tree of the same size.
        key, newest = key or self.keys.log, self.newest_note
        if newest is None or newest[0] != (checkpoint, key.public.key_id):
            newest = self.newest_note = (checkpoint, key.public.key_id), sign_checkpoint(checkpoint, key)
        return newest[1]

    def tell(self, transaction: Transaction, announcement: Announcement) -> None:
        """Have the other custodians on this ledger, if any, tell their enclaves once this transaction is durable."""
        transaction.notices.append(encode(Notice(origin=self.replica, announcement=announcement)))

    def stop_state(self, transaction: Transaction, instance: Instance) -> Envelope:
        """Return the signed stop state of an instance."""
        return seal(STOP_STATE, stops.state_for(transaction, instance), self.keys.commands)
