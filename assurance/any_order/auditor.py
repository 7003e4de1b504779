"""What an auditor makes of the log: the copy that an operator would export, verified and compared with the ledger."""

from sqlalchemy import select

from aigovtool.codec import decode, encode
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.service import views
from aigovtool.custodian.store import stops
from aigovtool.custodian.store.schema import budget_rows
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import AIGovToolError, LedgerRollbackError, LogError
from aigovtool.ledger.audit import AuditReport
from aigovtool.ledger.entry import Entry
from aigovtool.ledger.reconcile import Difference, Reconciler
from aigovtool.operator.audit_file import verify_audit_file, write_audit_file
from aigovtool.protocol.views import CheckpointSeen
from assurance.any_order.crimes import crimes, verifies
from assurance.any_order.office import Defect, Office

_PAGE = 1_000
#: Entries of a log into which crimes are put: each takes the time of an audit.
_ACCUSED = 20
#: A copy of an enclave that contradicts itself is told so; nothing else may differ where nobody lies otherwise.
_TRUE = frozenset({Difference.FORKED, Difference.UNPAID})


async def show_notes(office: Office) -> list[str]:
    """Show the custodian what others were given, and return what it remembers or explains, as long as it has no gap."""
    known = []
    for note in office.chance.sample(office.notes, k=min(len(office.notes), 12)):
        try:
            await views.compare(office.bench.custodian, CheckpointSeen(checkpoint=note))
        except LedgerRollbackError:
            return []
        except LogError:  # what a key that was taken back has signed of a ledger that was lost
            continue
        known.append(note)
    return known


async def audit(office: Office, *, seen: list[str]) -> AuditReport:
    """Export the log, verify it as whoever holds the notes `seen`, and compare what follows from it with the ledger.

    Raises:
        Defect: it does not verify, or says something else than the ledger.
    """
    custodian = office.bench.custodian
    head, entries = await views.show_head(custodian), await _entries(custodian)
    path = office.directory / "audit.jsonl"
    write_audit_file(path, head, entries, replace=True)
    books = Reconciler(())
    try:
        report = verify_audit_file(
            path, custodian.keys.root, seen=seen, keep=lambda data: books.take(decode(data, Entry))
        )
    except AIGovToolError as error:
        raise Defect(f"the log does not verify: {error.reason}: {error}") from error
    wrong = await custodian.database.run(lambda transaction: _differences(transaction, report))
    wrong += [f"{one.kind}: {one.what}" for one in books.result().findings if _is_lie(one.kind)]
    if wrong:
        raise Defect("; ".join(wrong[:3]))
    office.notes.append(head.checkpoint)
    return report


async def _entries(custodian: Custodian) -> list[bytes]:
    found: list[bytes] = []
    while page := (await views.show_log(custodian, len(found), _PAGE)).entries:
        found += page
    return found


async def accuse(office: Office) -> None:
    """Put crimes of a custodian that is dishonest into the log, here and there.

    Raises:
        Defect: an auditor takes one.
    """
    log = [decode(data, Entry) for data in await _entries(office.bench.custodian)]
    for at in office.chance.sample(range(len(log)), k=min(len(log), _ACCUSED)):
        for name, forged in crimes(log, at, office.chance):
            office.counts["crimes"] += 1
            office.counts[f"crime: {name}"] += 1
            if verifies(forged):
                raise Defect(f"an auditor takes a log with a crime at entry {at}: {name}")


def _is_lie(kind: Difference) -> bool:
    return kind not in {Difference.MISSING, Difference.UNCLOSED, Difference.CHARGED_IN_FULL} | _TRUE


def _differences(transaction: Transaction, report: AuditReport) -> list[str]:
    told = {encode(row.key).decode(): (row.posted, row.pending) for row in report.rows if row.posted or row.pending}
    kept = {
        row.key: (row.posted, row.pending)
        for row in transaction.execute(select(budget_rows))
        if row.posted or row.pending
    }
    wrong = [] if told == kept else [f"the log gives the balances {told}, the rows are {kept}"]
    in_force = {(stop.target, stop.value) for stop in stops.active(transaction)}
    if set(report.stops) != in_force:
        wrong.append(f"the log says that {report.stops} are stopped, the ledger {in_force}")
    return wrong


def size_of(custodian: Custodian) -> int:
    """Return how many entries the log has."""
    return custodian.database.submit(lambda transaction: transaction.head.frontier.size).result()
