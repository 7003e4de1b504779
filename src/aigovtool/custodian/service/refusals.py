"""The trace that a refusal leaves in the audit log: of whom the ledger knows, and who has proved to be that.

A refusal is written after the act was undone, in a transaction of its own, and before the refused hears of it. A
stranger leaves no trace, because it could leave any number; neither do faults of ours, inputs that cannot be read, and
questions for what does not exist.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aigovtool.crypto.identity import Identity
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.store import parties
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.custodian.store.turns import in_line_of, party
from aigovtool.errors import (
    AIGovToolError,
    ConfigurationError,
    ConflictError,
    FaultError,
    IdentityError,
    LedgerRollbackError,
    RefusalError,
    StorageError,
    VerificationError,
)
from aigovtool.ledger.entry import PartyRole, Refusable, Refusal, Refused
from aigovtool.transport.routes import Noter, Route

_LOG: Final = logging.getLogger(__name__)
#: What an enrolled party may cause by mistake, or because others were faster, and means nothing.
_INNOCENT: Final = {"request_superseded", "listen_superseded"}


def reason_of(error: AIGovToolError) -> str:
    """Return what the audit log says beside an error's code: never its message, which has a caller's values."""
    return (error.reason or "")[:80]


def is_refusal(error: AIGovToolError) -> bool:
    """Return whether an act was refused for what it was; else the custodian was not able to carry it out.

    What the ledger's schema did not take, a ledger with a gap and a policy that is not there count as refusals.
    """
    if isinstance(error, StorageError):
        return error.reason == "constraint"
    return not isinstance(error, FaultError) or isinstance(error, LedgerRollbackError | ConfigurationError)


def leaves_trace(error: AIGovToolError) -> bool:
    """Return whether a refusal says that somebody tried what it may not, or contradicted what is recorded."""
    kinds = (IdentityError, VerificationError, RefusalError, ConflictError)
    return isinstance(error, kinds) and error.reason not in _INNOCENT


async def note(custodian: Custodian, refusal: Refusal) -> None:
    """Write or count a refusal. One that cannot be written now is kept for later: the refused is refused anyway."""
    await _write(custodian, custodian.refusals.count(refusal, custodian.time_ms()))


async def write_due(custodian: Custodian) -> None:
    """Write how often refusals of more than an hour ago were repeated."""
    await _write(custodian, custodian.refusals.due(custodian.time_ms()))


async def write_all(custodian: Custodian) -> None:
    """Write how often refusals were repeated, before the custodian ends."""
    await _write(custodian, custodian.refusals.everything())


async def _write(custodian: Custodian, lines: list[Refusal]) -> None:
    def job(transaction: Transaction) -> None:
        for line in lines:
            if _is_known(transaction, line):
                custodian.record(transaction, line)

    if not lines:
        return
    try:
        await custodian.database.run(job)
    except FaultError as error:
        custodian.refusals.not_written(lines)
        _LOG.error("refusal_not_written", extra={"code": error.code, "lines": len(lines)})


def _is_known(transaction: Transaction, line: Refusal) -> bool:
    """A certificate of ours may name a party that a restored ledger has forgotten."""
    if not isinstance(line, Refused) or line.role in {Refusable.ENCLAVE, Refusable.WITNESS}:
        return True
    return parties.find(transaction, PartyRole(line.role.value), line.name) is not None


@asynccontextmanager
async def noted(custodian: Custodian, role: Refusable, name: str, act: str) -> AsyncIterator[None]:
    """Note what is refused within, to somebody whose signature was verified."""
    try:
        yield
    except AIGovToolError as error:
        if leaves_trace(error) and not error.recorded:
            await note(custodian, Refused(role=role, name=name, act=act, code=error.code, reason=reason_of(error)))
        raise


def noting(custodian: Custodian) -> Noter:
    """Return what notes the refusals of all routes that need a credential."""

    async def refused(identity: Identity, route: Route, error: AIGovToolError) -> None:
        if error.recorded or not leaves_trace(error):
            return
        role, act = Refusable(identity.kind.value), f"{route.method} {route.path}"
        line = Refused(role=role, name=identity.name, act=act, code=error.code, reason=reason_of(error))
        with in_line_of(party(identity.kind.value, identity.name)):
            await note(custodian, line)

    return refused
