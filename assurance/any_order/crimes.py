"""What a custodian that is dishonest, and has its log key, could write in place of what happened: no auditor takes it.

A crime is put into an honest log, in the place of an entry or after it; all that comes later stays, numbered anew.
Whatever changes nothing but what the log's word is good for (an order's content, what an enclave reported) is no crime
here: nobody who has the log alone can tell.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from aigovtool.errors import AIGovToolError
from aigovtool.ids import BorrowerId, ConsumerId, InstanceId, LeaseId, MessageId, OperatorId
from aigovtool.ledger.entry import (
    AppraisalPolicySet,
    AttestationWithdrawn,
    Attested,
    BudgetSet,
    Charged,
    Entry,
    EntryBody,
    KeyReleased,
    LeaseClosed,
    LeaseGranted,
    PartyAdded,
    PartyRevoked,
    PartyRole,
    Restored,
    Wiped,
)
from aigovtool.ledger.order_list import ordered_by
from aigovtool.ledger.replay import Replay
from aigovtool.limits import MAX_INTEGER

#: A name, and what the log says then.
Crime = tuple[str, list[Entry]]
_NOBODY, _NEVER = "nobody-at-all", InstanceId("e" * 64)


def verifies(entries: Sequence[Entry]) -> bool:
    """Return whether an auditor takes these entries, whose numbers and times are looked after."""
    replay = Replay()
    try:
        for number, entry in enumerate(entries):
            replay.take(replace(entry, index=number))
        replay.finish()
    except AIGovToolError:
        return False
    return True


def crimes(log: Sequence[Entry], at: int, chance: random.Random) -> Iterator[Crime]:
    """Yield what can be done to one entry of an honest log."""
    entry = log[at]
    for name, body in (*_orders(log, at), *_given(log, at, chance)):
        yield name, [*log[:at], replace(entry, body=body), *log[at + 1 :]]
    for name, body in _repeated(log, at) if at + 2 <= len(log) else ():
        later = chance.randrange(at + 2, len(log) + 1)
        before = log[later - 1]
        added = replace(entry, at_ms=before.at_ms, generation=before.generation, body=body)
        yield name, [*log[:later], added, *log[later:]]
    charged = any(isinstance(one.body, Charged) for one in log[at + 1 : at + 2])
    if isinstance(entry.body, Restored) and entry.body.final and charged:
        yield "ends within a final settlement", [*log[: at + 1]]


def _orders(log: Sequence[Entry], at: int) -> Iterator[tuple[str, EntryBody]]:
    """Say that somebody ordered it who cannot have."""
    body: Any = log[at].body
    command = ordered_by(body)
    if command is None:
        return
    for name in (_NOBODY, *_gone(log[:at])):
        who = OperatorId(name)
        yield "ordered by whoever is none", replace(body, command=replace(command, operator=who))
        if command.second is not None:
            yield "signed by whoever is none", replace(body, command=replace(command, second=who))
    if isinstance(body, AppraisalPolicySet) or (isinstance(body, PartyAdded) and body.role is not PartyRole.OPERATOR):
        yield "ordered by nobody", replace(body, command=None)


def _gone(before: Sequence[Entry]) -> list[str]:
    """Return operators that were revoked."""
    revoked = (entry.body for entry in before if isinstance(entry.body, PartyRevoked))
    return [one.name for one in revoked if one.role is PartyRole.OPERATOR]


def _given(log: Sequence[Entry], at: int, chance: random.Random) -> Iterator[tuple[str, EntryBody]]:
    """Say that it was given to somebody else, or that more was given, or less taken."""
    body: Any = log[at].body
    ended = [one.body.instance for one in log[:at] if isinstance(one.body, Wiped | AttestationWithdrawn)]
    if isinstance(body, LeaseGranted | KeyReleased):
        for instance in (_NEVER, *chance.sample(ended, k=min(1, len(ended)))):
            yield "given to an enclave that is not admitted", replace(body, instance=instance)
    if isinstance(body, LeaseGranted):
        others = [one.body for one in log[:at] if isinstance(one.body, PartyAdded) and one.body.borrower]
        foreign = [one.name for one in others if one.borrower != body.borrower]
        for consumer in (_NOBODY, *chance.sample(foreign, k=min(1, len(foreign)))):
            yield "given for somebody else's consumer", replace(body, consumer=ConsumerId(consumer))
        yield "given to another borrower", replace(body, borrower=BorrowerId(_NOBODY))
        yield "debited from fewer budgets", replace(body, rows=body.rows[1:])
        past = [replace(row, bucket_ms=max(0, row.bucket_ms - 40 * 86_400_000)) for row in body.rows]
        if past != body.rows:
            yield "debited from a window that is over", replace(body, rows=past)
    if isinstance(body, LeaseClosed):
        yield "late or not", replace(body, late=not body.late)
        for dimension, units in body.charged.items():
            yield "charged less", replace(body, charged=replace(body.charged, **{dimension.value: units - 1}))
    if isinstance(body, Attested):
        yield "admitted for who is not enrolled", replace(body, borrower=BorrowerId(_NOBODY))


def _repeated(log: Sequence[Entry], at: int) -> Iterator[tuple[str, EntryBody]]:
    """Say later that it happened again."""
    body: Any = log[at].body
    if isinstance(body, LeaseGranted | LeaseClosed):
        yield "twice", body
    if isinstance(body, PartyAdded):
        yield "another key of one name", replace(body, key="d" * 64)
    command = ordered_by(body)
    if command is not None:
        if not any(ordered_by(one.body) == command for one in log[at + 1 : at + 2]):
            yield "carried out twice", body
        forged = replace(command, command_id=MessageId("a" * 32), second=OperatorId(_NOBODY))
        yield "carried out again by one and nobody", replace(body, command=forged)
    if isinstance(body, LeaseGranted) and all(row.window.value == "lifetime" for row in body.rows):
        more: Any = {dimension.value: MAX_INTEGER for dimension, _ in body.units.items()}
        if _limited(log[:at], body):
            yield "beyond its budget", replace(body, lease_id=LeaseId("b" * 32), units=replace(body.units, **more))


def _limited(before: Sequence[Entry], body: LeaseGranted) -> bool:
    set_ = [one.body.limit for one in before if isinstance(one.body, BudgetSet)]
    limits = {(limit.scope, limit.dimension, limit.window): limit.limit for limit in set_}
    return all(limits[row.scope, row.dimension, row.window] is not None for row in body.rows)
