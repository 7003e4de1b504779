"""What an instance says: opened once its signature holds, and what it is refused for it is noted.

From then on it waits for the ledger in the line of its borrower's enclaves.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from aigovtool.crypto.sign import Envelope
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.service.refusals import noted
from aigovtool.custodian.store.turns import enclaves_of, in_line_of
from aigovtool.errors import SignatureInvalidError
from aigovtool.ids import InstanceId
from aigovtool.ledger.entry import Refusable
from aigovtool.protocol.release import RELEASE_REQUEST


class _FromInstance(Protocol):
    @property
    def instance(self) -> InstanceId: ...


M = TypeVar("M", bound=_FromInstance)


@asynccontextmanager
async def heard(custodian: Custodian, envelope: Envelope, kind: str, message: type[M]) -> AsyncIterator[M]:
    """Yield the message of the instance that signed it.

    Raises:
        ForbiddenError: no instance with this key was ever admitted here (`unknown_instance`).
        SignatureInvalidError: not signed by it, or it speaks for another instance (`wrong_sender`).
        OverloadedError: it asks for a key, and its borrower's enclaves did so too often (`releases`).
    """
    sender, opened = await custodian.senders.opened(custodian.database, envelope, kind, message)
    with in_line_of(enclaves_of(sender.borrower)):
        if kind == RELEASE_REQUEST:
            custodian.senders.count_release(sender.borrower)
        async with noted(custodian, Refusable.ENCLAVE, sender.instance, kind):
            if opened.instance != sender.instance:
                raise SignatureInvalidError("an instance speaks for itself only", reason="wrong_sender")
            yield opened
