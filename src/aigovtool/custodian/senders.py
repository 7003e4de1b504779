"""Who sent this: an instance's signature is verified before a byte of its payload is parsed.

Also how often the enclaves of a borrower ask for keys: each time is a line of the log, for ever, whatever it comes to.

The `keyid` of a DSSE envelope says under which admitted key to look; it proves nothing by itself. Verifying happens
outside the ledger's writer, so a stranger can cost it one indexed look-up at most, and an instance that is known here
none at all.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from aigovtool.crypto.sign import Envelope, VerifyKey, open_envelope
from aigovtool.custodian.store import instances
from aigovtool.custodian.store.database import Database
from aigovtool.errors import ForbiddenError, OverloadedError, SignatureInvalidError
from aigovtool.ids import BorrowerId, InstanceId, KeyId

#: Instances whose keys are remembered: ten times as many as one custodian is measured to sustain.
_MAX_KEPT: Final = 50_000
#: Requests for keys that the enclaves of a borrower may send at once, and how long each counts: as many as of all boots
#: that they may have in ten minutes, with several models each; and then one a second.
_RELEASES: Final = 2_000
_RELEASE_MS: Final = 1_000
#: Larger payloads are parsed in a thread, so that one long report does not delay everybody's heartbeat.
_LARGE_BYTES: Final = 64 << 10


M = TypeVar("M")


def _elapsed_ms() -> int:
    return time.monotonic_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Sender:
    """An instance that was admitted, whose it is, and the key by which it signs."""

    instance: InstanceId
    borrower: BorrowerId
    key: VerifyKey


class Senders:
    """The keys of admitted instances. They never change, so what was looked up once stays true.

    Args:
        elapsed_ms: a clock that only passes: the host's may be put back by years, and nobody must wait so long.
    """

    def __init__(self, elapsed_ms: Callable[[], int] = _elapsed_ms) -> None:
        self._elapsed_ms: Final = elapsed_ms
        self._kept: OrderedDict[KeyId, Sender] = OrderedDict()
        #: Of each borrower, when all of its requests for keys will have been long enough ago.
        self._released_ms: dict[BorrowerId, int] = {}

    async def opened(self, database: Database, envelope: Envelope, kind: str, message: type[M]) -> tuple[Sender, M]:
        """Return the instance that signed, and its message, whoever that speaks for.

        Raises:
            ForbiddenError: no instance with this key was ever admitted here (`unknown_instance`).
            SignatureInvalidError: not signed by it.
        """
        sender = await self._sender(database, envelope)
        if len(envelope.payload) > _LARGE_BYTES:
            opened = await asyncio.to_thread(open_envelope, envelope, kind, message, [sender.key])
        else:
            opened = open_envelope(envelope, kind, message, [sender.key])
        return sender, opened

    def count_release(self, borrower: BorrowerId) -> None:
        """Count a request for a key by an enclave of a borrower.

        Raises:
            OverloadedError: its enclaves ask too often (`releases`).
        """
        now_ms = self._elapsed_ms()
        until_ms = max(now_ms, self._released_ms.get(borrower, 0)) + _RELEASE_MS
        if until_ms > now_ms + _RELEASES * _RELEASE_MS:
            raise OverloadedError(
                "the enclaves of this borrower ask for keys too often",
                reason="releases",
                fix="see in their logs why they ask again",
                retry_after_s=1,
            )
        self._released_ms[borrower] = until_ms

    async def _sender(self, database: Database, envelope: Envelope) -> Sender:
        if len(envelope.signatures) != 1:
            raise SignatureInvalidError("an instance's message has one signature", reason="wrong_key")
        key_id = envelope.signatures[0].keyid
        kept = self._kept.get(key_id)
        if kept is None:
            found = await database.run_open(lambda transaction: instances.by_key(transaction, key_id))
            if found is None:
                raise ForbiddenError("this instance was never admitted here", reason="unknown_instance")
            kept = self._kept[key_id] = Sender(found.instance, found.borrower, VerifyKey(found.identity_key))
            if len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        return kept
