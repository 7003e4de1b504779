"""What every use case works with: the keys, the ledger, the clock, the verifiers and the push hub."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection

from aigovtool.attestation.verifier import VerifierSet
from aigovtool.crypto.sign import Envelope, seal
from aigovtool.custodian.hub import Hub
from aigovtool.custodian.keys import CustodianKeys
from aigovtool.custodian.store import facts, log, stops
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.records import Instance
from aigovtool.ledger.entry import EntryBody
from aigovtool.protocol.stop import STOP_STATE


def system_time_ms() -> int:
    """Return the time of this host, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Custodian:
    """One serving custodian."""

    keys: CustodianKeys
    database: Database
    verifiers: VerifierSet
    packages: Path
    hub: Hub = field(default_factory=Hub)
    time_ms: Callable[[], int] = system_time_ms

    def now(self, connection: Connection) -> int:
        """Return the ledger's time, which never goes back even if the host's does."""
        return facts.advance_clock(connection, self.time_ms())

    def record(self, connection: Connection, body: EntryBody) -> int:
        """Append to the audit log in the running transaction."""
        return log.append(connection, self.now(connection), body)

    def stop_state(self, connection: Connection, instance: Instance) -> Envelope:
        """Return the signed stop state of an instance."""
        return seal(STOP_STATE, stops.state_for(connection, instance), self.keys.commands)
