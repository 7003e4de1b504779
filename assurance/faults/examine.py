"""What must hold when a ledger is opened again, whatever happened to the process or the disk before.

Everything that was answered is there; what was not answered happened as a whole or not at all, and happens once when
the same bytes are sent again; rows are the sum of their leases, counted here by plain addition; no row is above its
limit; the log verifies against its own head, continues what was shown before, and gives the same balances.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select, text
from tests.custodian.conftest import CONSUMER, Enclave, want
from tests.custodian.host_clock import told_by

from aigovtool.codec import decode, decode_signed, encode
from aigovtool.custodian.app import open_custodian
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.store import log
from aigovtool.custodian.store.renewals import newest_answer
from aigovtool.custodian.store.schema import budget_rows, leases, usage, usage_units
from aigovtool.custodian.store.transaction import Head, Transaction
from aigovtool.errors import AIGovToolError
from aigovtool.ids import digest_of
from aigovtool.ledger.audit import LoggedEntry, verify_log
from aigovtool.ledger.budget import RowKey
from aigovtool.ledger.checkpoint import parse_checkpoint
from aigovtool.ledger.entry import BudgetSet, Entry
from aigovtool.ledger.lease import Lease
from aigovtool.ledger.merkle import leaf_hash, root_of
from aigovtool.protocol.messages import Answer, RenewReply
from assurance.faults.life import Life, Told, repeat

_UNKNOWN = "StorageError"
#: Of a lease on its rows: is it held, and is all of it spent or what was reported.
_HELD, _IN_FULL = {"pending"}, {"expired", "written_off"}
#: The running totals, in each dimension: granted, charged, used and held; then what was counted.
TOTALS: Final = select(
    *(usage.c.model, usage.c.borrower, usage.c.consumer, usage_units.c.dimension),
    *(usage_units.c.granted, usage_units.c.charged, usage_units.c.used, usage_units.c.held),
    *(usage.c.ok, usage.c.err, usage.c.open_leases),
).join_from(
    usage,
    usage_units,
    (usage.c.model == usage_units.c.model)
    & (usage.c.borrower == usage_units.c.borrower)
    & (usage.c.consumer == usage_units.c.consumer),
)


@dataclass(frozen=True)
class Ledger:
    """Everything in a ledger that is compared."""

    head: Head
    leases: dict[str, Lease]
    states: dict[str, str]
    rows: dict[str, tuple[int | None, int, int]]
    usage: dict[tuple[str, ...], tuple[int, ...]]
    entries: list[bytes]
    note: str
    integrity: str


def read(custodian: Custodian, transaction: Transaction) -> Ledger:
    """Read it all in one transaction."""
    found = list(transaction.execute(select(leases.c.lease_id, leases.c.state, leases.c.body)))
    rows = transaction.execute(select(budget_rows))
    sqlite = transaction.connection.dialect.name == "sqlite"
    integrity = str(transaction.execute(text("PRAGMA integrity_check")).scalar_one()) if sqlite else "ok"
    return Ledger(
        head=transaction.head,
        leases={one.lease_id: decode(one.body, Lease) for one in found},
        states={one.lease_id: one.state for one in found},
        rows={row.key: (row.unit_limit, row.posted, row.pending) for row in rows},
        usage={tuple(one[:4]): tuple(one[4:]) for one in transaction.execute(TOTALS)},
        entries=log.page(transaction, 0, 1 << 30),
        note=custodian.checkpoint(transaction),
        integrity=integrity,
    )


# --- The ledger by itself ------------------------------------------------------------------------------


def _summed(ledger: Ledger) -> tuple[Counter[tuple[str, str]], dict[tuple[str, ...], tuple[int, ...]]]:
    """Add up leases: what is posted and pending on each row, and what was granted, charged and used."""
    rows: Counter[tuple[str, str]] = Counter()
    totals: dict[tuple[str, ...], tuple[int, ...]] = {}
    for lease in ledger.leases.values():
        state = lease.state.value
        spent = lease.units if state in _IN_FULL or not lease.refundable else lease.seen
        charged = lease.units if state in _HELD else spent
        for key in lease.rows:
            rows[encode(key).decode(), "pending" if state in _HELD else "posted"] += charged.get(key.dimension)
        still = int(state in {"pending", "expired"})
        for dimension, units in lease.units.items():
            more = (units, charged.get(dimension), lease.seen.get(dimension), still * units)
            place = (str(lease.model), str(lease.borrower), str(lease.consumer), dimension.value)
            new = (*more, lease.ok, lease.err, still)
            totals[place] = tuple(a + b for a, b in zip(totals.get(place, (0,) * 7), new, strict=True))
    return rows, totals


def _sums(ledger: Ledger) -> list[str]:
    rows, totals = _summed(ledger)
    wrong = []
    for name, (_, posted, pending) in ledger.rows.items():
        due = (rows[name, "posted"], rows[name, "pending"])
        if (posted, pending) != due:
            wrong.append(f"row {name} has posted {posted}, pending {pending}; its leases sum to {due}")
    wrong += [f"no row {name} for units of a lease" for name, _ in rows if name not in ledger.rows]
    if ledger.usage != totals:
        wrong.append(f"usage {ledger.usage} is not what leases sum to: {totals}")
    if any(ledger.states[lease_id] != lease.state.value for lease_id, lease in ledger.leases.items()):
        wrong.append("the state beside a lease is not the one in it")
    return wrong


def _limits(ledger: Ledger) -> list[str]:
    """Compare each row with the highest limit that ever stood for it: lowering one later takes nothing back."""
    highest: dict[tuple[Any, ...], float] = {}
    for data in ledger.entries:
        if b'"kind":"budget_set"' in data and isinstance(body := decode(data, Entry).body, BudgetSet):
            limit = body.limit
            place = (limit.scope, limit.dimension, limit.window)
            value = float("inf") if limit.limit is None else limit.limit
            highest[place] = max(highest.get(place, 0), value)
    wrong = []
    for name, (_, posted, pending) in ledger.rows.items():
        key = decode(name.encode(), RowKey)
        if posted + pending > highest.get((key.scope, key.dimension, key.window), 0):
            wrong.append(f"row {name} is over-spent: posted {posted}, pending {pending}")
    return wrong


def _log(ledger: Ledger, custodian: Custodian) -> list[str]:
    lines = [LoggedEntry(data=data, leaf=leaf_hash(data)) for data in ledger.entries]
    keys = custodian.keys
    try:
        report = verify_log(lines, ledger.note, keys.key_set.log_keys(), keys.custodian)
    except AIGovToolError as error:
        return [f"the log does not verify: {error}"]
    told = {encode(row.key).decode(): (row.posted, row.pending) for row in report.rows if row.posted or row.pending}
    kept = {name: (posted, pending) for name, (_, posted, pending) in ledger.rows.items() if posted or pending}
    wrong = [] if told == kept else [f"the log gives the balances {told}, the rows are {kept}"]
    if report.leases != len(ledger.leases):
        wrong.append(f"the log has {report.leases} leases, the table {len(ledger.leases)}")
    if report.last_ms > ledger.head.clock_ms:
        wrong.append("the ledger's clock is before its last entry")
    return wrong


def contradictions(ledger: Ledger, custodian: Custodian) -> list[str]:
    """Return what is wrong with a ledger in itself."""
    wrong = [] if ledger.integrity == "ok" else [f"integrity: {ledger.integrity}"]
    return [*wrong, *_sums(ledger), *_limits(ledger), *_log(ledger, custodian)]


# --- The ledger and what was promised --------------------------------------------------------------------


def answered(told: Iterable[Told]) -> list[Told]:
    """Return the answers that were given and that said something for certain."""
    return [one for one in told if one.begins is None and not one.refused.startswith(_UNKNOWN)]


def unanswered(told: Iterable[Told]) -> list[Told]:
    """Return the acts whose outcome their sender does not know."""
    lines = list(told)
    known = {one.number for one in answered(lines)}
    return [one for one in lines if one.begins is not None and one.number not in known]


def forgotten(ledger: Ledger, told: list[Told]) -> list[str]:
    """Return everything that was answered and is not in the ledger."""
    began = {one.number: one for one in told if one.begins is not None}
    leaves = [leaf_hash(data) for data in ledger.entries]
    wrong: list[str] = []
    for one in answered(told):
        for lease_id, units in one.granted.items():
            kept = ledger.leases.get(lease_id)
            if kept is None or kept.units.inferences != units:
                wrong.append(f"lease {lease_id} of {units} units was granted to {one.sender} and is not there")
        for lease_id, seq in one.reported.items():
            kept = ledger.leases.get(lease_id)
            if kept is None or (kept.seq < seq and kept.state.value != "written_off"):
                wrong.append(f"report {seq} on lease {lease_id} was acknowledged and is not there")
        if one.epoch > ledger.head.epoch or one.clock_ms > ledger.head.clock_ms:
            wrong.append(f"epoch or clock went back: told {one.epoch}, {one.clock_ms}; now {ledger.head}")
        envelope = began[one.number].begins if one.number in began else None
        if one.entry is not None and envelope is not None and not _has(ledger, one.entry, digest_of(envelope.payload)):
            wrong.append(f"{one.what} was answered with entry {one.entry}, which is not there")
    notes = [parse_checkpoint(one.note) for one in answered(told) if one.note]
    return wrong + [
        f"a checkpoint of {note.size} entries was shown, which is none of this log"
        for note in notes[-3:]
        if note.size > len(leaves) or root_of(leaves[: note.size]) != note.root
    ]


def _has(ledger: Ledger, index: int, digest: str) -> bool:
    return index < len(ledger.entries) and digest.encode() in ledger.entries[index]


@dataclass(frozen=True)
class Finding:
    """What is wrong, and how many of the unanswered acts had happened all the same."""

    wrong: list[str]
    repeated: int = 0
    happened: int = 0
    leases: int = 0


def examine(life: Life, directory: Path, told: list[Told], before: set[str]) -> Finding:
    """Open the ledger in `directory` as the custodian does after a restart, and look at everything.

    `before` are the leases that the ledger had when what was told began.
    """
    bench = life.bench
    kept = (bench.custodian, bench.now_ms, life.tell)
    try:
        bench.custodian = open_custodian(directory)
    except AIGovToolError as error:
        return Finding([f"the ledger cannot be opened: {error}"])
    try:
        bench.custodian.clock = told_by(lambda: bench.now_ms)
        return asyncio.run(_examine(life, told, before))
    except Exception as error:  # noqa: BLE001 - a damaged file gives nothing where something must be, and all that follows
        return Finding([f"the ledger cannot be read: {error!r}"])
    finally:
        bench.custodian.database.close()
        bench.custodian, bench.now_ms, life.tell = kept


async def _newest_checkpoint(custodian: Custodian, enclave: Enclave) -> str:
    """Return the checkpoint of the newest answer to an enclave, which was given to it in the process that was ended."""
    newest = await custodian.database.run(lambda transaction: newest_answer(transaction, enclave.instance))
    if newest is None:
        return enclave.checkpoint_seen
    return decode_signed(decode(newest.body, RenewReply).answer.payload, Answer).checkpoint


async def _examine(life: Life, told: list[Told], before: set[str]) -> Finding:
    custodian, bench = life.custodian, life.bench
    opened = await custodian.database.run(lambda transaction: read(custodian, transaction))
    wrong = forgotten(opened, told)
    bench.now_ms = max(bench.now_ms, opened.head.clock_ms, *(one.clock_ms for one in told), 0)
    again = [await repeat(life, one) for one in unanswered(told)]
    wrong += [f"{one.what} of {one.sender}, sent again: {one.refused}" for one in again if _unexpected(one)]
    # A copy, for the next ledger that is looked at may know less.
    enclave = copy(life.enclaves[0])
    enclave.checkpoint_seen = await _newest_checkpoint(custodian, enclave)
    fresh = enclave.renewal(want(1, consumer=CONSUMER))
    further = await repeat(life, Told(number=-1, sender="enclave 0", begins=fresh))
    wrong += [f"a fresh renewal after the restart: {further.refused}"] if further.refused else []
    ledger = await custodian.database.run(lambda transaction: read(custodian, transaction))
    wrong += contradictions(ledger, custodian)
    wrong += forgotten(ledger, [*told, *again, further])
    promised = {lease_id for one in (*answered(told), *again, further) for lease_id in one.granted}
    if surplus := set(ledger.leases) - before - promised:
        wrong.append(f"{len(surplus)} leases that nobody was told of, though everybody asked again: {min(surplus)}")
    happened = sum(bool(one.granted) and set(one.granted) <= set(opened.leases) for one in again)
    return Finding(wrong, repeated=len(again), happened=happened, leases=len(ledger.leases))


def _unexpected(one: Told) -> bool:
    """A command that was refused before its outcome was told is refused again; a renewal never is."""
    return bool(one.refused) and (one.sender != "operator" or one.refused.startswith(_UNKNOWN))
