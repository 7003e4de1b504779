"""Three books of the same thing: what the ledger charged, what enclaves reported, what consumers hold receipts for.

`reconcile` compares them lease by lease and lists every difference. It trusts nobody: the log was verified before
(`audit`), each receipt was verified by its signature, and what an enclave reported is in the log as the custodian
took it.

What can be told depends on what is at hand. Receipts of consumers who did not hand theirs in are missing, not wrong:
they are listed as missing, so that whoever collected them can say whether they should be there. A lease that nobody
closed is charged in full, and its receipts can only show how much of that was really used.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from aigovtool.ids import InstanceId, LeaseId
from aigovtool.ledger.entry import Attested, Entry, LeaseClosed, LeaseExpired, LeaseGranted, LeaseWrittenOff
from aigovtool.ledger.receipt import Receipt, chain
from aigovtool.ledger.units import ZERO, UnitVector


class Difference(StrEnum):
    """What two books disagree about. `MISSING` and `UNCLOSED` are gaps in what was handed in, not contradictions."""

    UNKNOWN_LEASE = "unknown_lease"
    UNKNOWN_INSTANCE = "unknown_instance"
    WRONG_HOLDER = "wrong_holder"
    SEQUENCE_TWICE = "sequence_twice"
    BEYOND_LEASE = "beyond_lease"
    BEYOND_REPORT = "beyond_report"
    UNITS_DIFFER = "units_differ"
    CHAIN_DIFFERS = "chain_differs"
    UNDERCHARGED = "undercharged"
    MISSING = "missing"
    UNCLOSED = "unclosed"


#: What is only not known, because something was not handed in.
GAPS = frozenset({Difference.MISSING, Difference.UNCLOSED})


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference on one lease."""

    kind: Difference
    lease_id: LeaseId
    what: str


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What the three books say in all, and where they differ."""

    leases: int
    receipts: int
    charged: UnitVector
    reported: UnitVector
    receipted: UnitVector
    findings: tuple[Finding, ...]

    @property
    def contradicted(self) -> bool:
        """Whether two books contradict each other; gaps alone do not."""
        return any(finding.kind not in GAPS for finding in self.findings)


@dataclass(slots=True)
class _Lease:
    """What the log says of one lease."""

    granted: LeaseGranted
    closed: LeaseClosed | None = None
    ended: bool = False

    @property
    def charged(self) -> UnitVector:
        return self.granted.units if self.closed is None else self.closed.charged


def reconcile(entries: Iterable[Entry], receipts: Iterable[Receipt]) -> Reconciliation:
    """Compare a verified log with verified receipts.

    Args:
        entries: every entry of the log, in order.
        receipts: in any order; the same receipt twice counts once.
    """
    leases, instances = _leases(entries)
    found: list[Finding] = []
    held: dict[LeaseId, dict[int, Receipt]] = {}
    distinct = 0
    for receipt in receipts:
        lease = leases.get(receipt.lease_id)
        if lease is None:
            found.append(
                Finding(Difference.UNKNOWN_LEASE, receipt.lease_id, "a receipt names a lease that was never granted")
            )
            continue
        mine = held.setdefault(receipt.lease_id, {})
        before = mine.get(receipt.sequence)
        if before == receipt:
            continue
        distinct += 1
        found += _holder(receipt, lease, instances)
        if before is not None:
            what = f"two different receipts have number {receipt.sequence}"
            found.append(Finding(Difference.SEQUENCE_TWICE, receipt.lease_id, what))
            continue
        mine[receipt.sequence] = receipt
    for lease_id, lease in leases.items():
        found += _compared(lease, held.get(lease_id, {}))
    return Reconciliation(
        leases=len(leases),
        receipts=distinct,
        charged=_sum(lease.charged for lease in leases.values()),
        reported=_sum(lease.closed.used for lease in leases.values() if lease.closed is not None),
        receipted=_sum(receipt.units for mine in held.values() for receipt in mine.values()),
        findings=tuple(found),
    )


def _leases(entries: Iterable[Entry]) -> tuple[dict[LeaseId, _Lease], set[InstanceId]]:
    leases: dict[LeaseId, _Lease] = {}
    instances: set[InstanceId] = set()
    for entry in entries:
        match entry.body:
            case Attested(instance=instance):
                instances.add(instance)
            case LeaseGranted() as granted:
                leases[granted.lease_id] = _Lease(granted)
            case LeaseClosed() as closed:
                leases[closed.lease_id].closed = closed
            case LeaseExpired(lease_id=lease_id) | LeaseWrittenOff(lease_id=lease_id):
                leases[lease_id].ended = True
            case _:
                pass
    return leases, instances


def _holder(receipt: Receipt, lease: _Lease, instances: set[InstanceId]) -> list[Finding]:
    granted = lease.granted
    found = []
    if receipt.instance not in instances:
        what = f"receipt {receipt.sequence} is by an enclave that was never admitted"
        found.append(Finding(Difference.UNKNOWN_INSTANCE, receipt.lease_id, what))
    wanted = (granted.instance, granted.model, granted.consumer)
    if (receipt.instance, receipt.model, receipt.consumer) != wanted:
        what = f"receipt {receipt.sequence} is of another enclave, model or consumer than the lease"
        found.append(Finding(Difference.WRONG_HOLDER, receipt.lease_id, what))
    return found


def _compared(lease: _Lease, receipts: dict[int, Receipt]) -> list[Finding]:
    lease_id = lease.granted.lease_id
    receipted = _sum(receipt.units for receipt in receipts.values())
    found = []
    if not lease.granted.units.covers(receipted):
        what = f"receipts add up to {_text(receipted)}, the lease had {_text(lease.granted.units)}"
        found.append(Finding(Difference.BEYOND_LEASE, lease_id, what))
    if lease.closed is None:
        state = "nobody closed it: it is charged in full" if lease.ended else "it is still open"
        what = f"{state}; receipts show {_text(receipted)} of {_text(lease.granted.units)}"
        return [*found, Finding(Difference.UNCLOSED, lease_id, what)]
    return found + _against_report(lease_id, lease.closed, receipts, receipted)


def _against_report(
    lease_id: LeaseId, closed: LeaseClosed, receipts: dict[int, Receipt], receipted: UnitVector
) -> list[Finding]:
    found = []
    if not closed.charged.covers(closed.used):
        what = f"it is charged {_text(closed.charged)}, less than the {_text(closed.used)} that were reported"
        found.append(Finding(Difference.UNDERCHARGED, lease_id, what))
    beyond = sorted(number for number in receipts if number > closed.ok)
    if beyond or not closed.used.covers(receipted):
        what = f"its enclave reported {closed.ok} answers for {_text(closed.used)}; receipts show more"
        return [*found, Finding(Difference.BEYOND_REPORT, lease_id, what)]
    missing = [number for number in range(1, closed.ok + 1) if number not in receipts]
    if missing:
        what = f"{len(missing)} of {closed.ok} receipts were not handed in, the first is number {missing[0]}"
        return [*found, Finding(Difference.MISSING, lease_id, what)]
    if receipted != closed.used:
        what = f"all receipts are there and add up to {_text(receipted)}; reported were {_text(closed.used)}"
        found.append(Finding(Difference.UNITS_DIFFER, lease_id, what))
    head = ""
    for number in range(1, closed.ok + 1):
        head = chain(head, receipts[number])
    if head != closed.receipts:
        what = "all receipts are there, and are not the ones that its enclave's final report commits to"
        found.append(Finding(Difference.CHAIN_DIFFERS, lease_id, what))
    return found


def _sum(vectors: Iterable[UnitVector]) -> UnitVector:
    total = ZERO
    for vector in vectors:
        total = total.plus(vector)
    return total


def _text(units: UnitVector) -> str:
    return ", ".join(f"{count} {dimension.value}" for dimension, count in units.items()) or "nothing"
