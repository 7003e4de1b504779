"""A copy of the ledger for an operator: of one moment, with a checkpoint of the log signed for that very moment.

An operator sees all that is in the ledger anyway; the private keys are not in it. So a copy is no use without them, and
the keys of models that it holds are wrapped to the custodian's keystore.
"""

import asyncio
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from aigovtool.crypto.identity import Identity
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.service.asks import party_of
from aigovtool.errors import OverloadedError

_CHUNK: Final = 1 << 20
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LedgerCopy:
    """A copy in a file that has no name; it is gone when it is closed."""

    custodian: Custodian
    file: BinaryIO
    size_bytes: int
    checkpoint: str

    def close(self) -> None:
        """Free its space, and let another one be made."""
        self.file.close()
        self.custodian.copying = False

    def chunks(self) -> Iterator[bytes]:
        """Yield the copy; whoever asked for it closes it."""
        while chunk := self.file.read(_CHUNK):
            yield chunk


async def copy_ledger(custodian: Custodian, identity: Identity) -> LedgerCopy:
    """Copy the ledger while it is served; one copy at a time, until it is closed: each takes the disk's space.

    Raises:
        ForbiddenError: the operator was revoked.
        OverloadedError: one is being made or sent.
        ConflictError: the ledger is on PostgreSQL (`backup_postgres`).
        StorageError: it could not be written (`copy_failed`).
    """
    await custodian.database.run(lambda transaction: party_of(transaction, identity))
    if custodian.copying:
        raise OverloadedError("a copy of the ledger is being made or sent already", reason="copying", retry_after_s=10)
    custodian.copying = True
    try:
        file, checkpoint = await asyncio.wrap_future(custodian.database.copy(custodian.checkpoint))
    except BaseException:
        custodian.copying = False
        raise
    size = os.fstat(file.fileno()).st_size
    _LOG.info("ledger_copied", extra={"operator": identity.name, "bytes": size})
    return LedgerCopy(custodian=custodian, file=file, size_bytes=size, checkpoint=checkpoint)
