"""Three books of the same thing: what the ledger charged, what enclaves reported, what consumers hold receipts for.

A `Reconciler` compares them lease by lease and lists every difference. It trusts nobody: the log is verified by
whoever reads it (`audit`), each receipt was verified by its signature, and what an enclave reported is in the log as
the custodian took it.

What can be told depends on what is at hand. Receipts of consumers who did not hand theirs in are missing, not wrong:
they are listed as missing, so that whoever collected them can say whether they should be there. A lease that nobody
closed is charged in full, and its receipts can only show how much of that was really used; so is one of a TEE whose
memory can be copied.

A log may have millions of leases. Each is compared when nothing can change it any more, and then forgotten: memory
grows with the receipts, with the leases that are not over and with the differences, not with the log. No number that
an enclave chose is walked through, only counted with.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from aigovtool.ids import BorrowerId, Digest, InstanceId, LeaseId, ModelId
from aigovtool.ledger.enclave_list import NEVER_REFUNDED
from aigovtool.ledger.entry import (
    Attested,
    Entry,
    Forked,
    LeaseClosed,
    LeaseExpired,
    LeaseGranted,
    LeaseWrittenOff,
    ModelAdded,
)
from aigovtool.ledger.receipt import Receipt, chain
from aigovtool.ledger.units import ZERO, UnitVector


class Difference(StrEnum):
    """What two books disagree about; the members of `GAPS` are no contradictions."""

    UNKNOWN_LEASE = "unknown_lease"
    UNKNOWN_INSTANCE = "unknown_instance"
    WRONG_HOLDER = "wrong_holder"
    WRONG_MANIFEST = "wrong_manifest"
    WRONG_TEE = "wrong_tee"
    WRONG_NUMBER = "wrong_number"
    OTHER_REQUEST = "other_request"
    SEQUENCE_TWICE = "sequence_twice"
    FORKED = "forked"
    UNPAID = "unpaid"
    BEYOND_LEASE = "beyond_lease"
    BEYOND_REPORT = "beyond_report"
    UNITS_DIFFER = "units_differ"
    CHAIN_DIFFERS = "chain_differs"
    UNDERCHARGED = "undercharged"
    REFUNDED = "refunded"
    CHARGED_IN_FULL = "charged_in_full"
    MISSING = "missing"
    UNCLOSED = "unclosed"


#: What is only not known, because something was not handed in or not reported, and what a TEE that is never refunded
#: explains.
GAPS: Final = frozenset({Difference.MISSING, Difference.UNCLOSED, Difference.CHARGED_IN_FULL})


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


@dataclass(frozen=True, slots=True)
class _Admitted:
    """As what an enclave was admitted."""

    borrower: BorrowerId
    tee: str


@dataclass(slots=True)
class _Lease:
    """What the log says of one lease. `holder` and `manifest` are as they were when it was granted.

    What is admitted or added later must not excuse what was signed before.
    """

    granted: LeaseGranted
    holder: _Admitted | None
    manifest: Digest | None
    expired: bool = False
    closed: LeaseClosed | None = None

    def differs(self, kind: Difference, what: str) -> Finding:
        return Finding(kind, self.granted.lease_id, what)


@dataclass(slots=True)
class _Shown:
    """The receipts of one lease by number. Two different ones with one number are both their enclave's word."""

    numbers: dict[int, list[Receipt]] = field(default_factory=dict)
    units: UnitVector = ZERO

    def add(self, receipt: Receipt) -> None:
        self.numbers.setdefault(receipt.sequence, []).append(receipt)
        self.units = self.units.plus(receipt.units)

    def receipts(self) -> Iterator[Receipt]:
        for same in self.numbers.values():
            yield from same

    def highest(self) -> int:
        return max(self.numbers, default=0)

    def here(self, answers: int) -> int:
        """Return how many of the numbers from 1 to `answers` receipts have."""
        return sum(1 <= number <= answers for number in self.numbers)

    def first_missing(self) -> int:
        return next(number for number in range(1, len(self.numbers) + 2) if number not in self.numbers)

    def sequence(self, answers: int) -> list[Receipt] | None:
        """Return receipts 1 to `answers` in order, unless one is missing or nobody can say which of two it is."""
        if self.here(answers) < answers:
            return None
        found = [self.numbers[number] for number in range(1, answers + 1)]
        return [same[0] for same in found] if all(len(same) == 1 for same in found) else None


_NONE: Final = _Shown()


class Reconciler:
    """Takes the entries of a log, in their order, and compares what they say with receipts.

    Entries may be taken while the log is being verified; the result is worth something only once it is.

    Args:
        receipts: verified, in any order; the same receipt twice counts once.
    """

    def __init__(self, receipts: Iterable[Receipt]) -> None:
        self._shown: Final[dict[LeaseId, _Shown]] = {}
        self._receipts = 0
        for receipt in dict.fromkeys(receipts):
            self._shown.setdefault(receipt.lease_id, _Shown()).add(receipt)
            self._receipts += 1
        self._manifests: Final[dict[ModelId, Digest]] = {}
        self._admitted: Final[dict[InstanceId, _Admitted]] = {}
        #: Leases that something can still happen to.
        self._open: Final[dict[LeaseId, _Lease]] = {}
        #: Those of the leases that receipts name.
        self._granted: Final[set[LeaseId]] = set()
        self._forked: Final[set[LeaseId]] = set()
        #: Receipts by another enclave than the holder of their lease.
        self._strangers: Final[list[Receipt]] = []
        self._leases = 0
        self._charged = self._reported = ZERO
        self._found: Final[list[Finding]] = []

    def take(self, entry: Entry) -> None:
        """Take the next entry; those that are about no lease, enclave or model may be left out.

        What a verified log cannot say (a lease that is closed and was never granted) is passed over.
        """
        match entry.body:
            case ModelAdded(model=model, manifest=manifest):
                self._manifests[model] = manifest
            case Attested(instance=instance, borrower=borrower, tee=tee):
                self._admitted[instance] = _Admitted(borrower, tee)
            case LeaseGranted() as granted:
                self._grant(granted)
            case LeaseClosed(lease_id=lease_id) as closed:
                self._end(lease_id, closed)
            case LeaseExpired(lease_id=lease_id):
                if lease_id in self._open:
                    self._open[lease_id].expired = True
            case LeaseWrittenOff(lease_id=lease_id):
                self._end(lease_id, None)
            case Forked(lease_id=lease_id):
                self._fork(lease_id)
            case _:
                pass

    def result(self) -> Reconciliation:
        """Return what the books say, when the log has been read to its end."""
        found, charged = [*self._unknown_leases(), *self._found], self._charged
        for lease in self._open.values():
            found += _compared(lease, self._shown.get(lease.granted.lease_id, _NONE))
            charged = charged.plus(lease.granted.units)
        strangers = [*self._strangers, *self._strangers_of(self._open.values())]
        for receipt in strangers:
            if receipt.instance not in self._admitted:
                what = f"receipt {receipt.sequence} is by an enclave that was never admitted"
                found.append(Finding(Difference.UNKNOWN_INSTANCE, receipt.lease_id, what))
        return Reconciliation(
            leases=self._leases,
            receipts=self._receipts,
            charged=charged,
            reported=self._reported,
            receipted=_sum(shown.units for shown in self._shown.values()),
            findings=tuple(found),
        )

    def _grant(self, granted: LeaseGranted) -> None:
        self._leases += 1
        self._open[granted.lease_id] = _Lease(
            granted, self._admitted.get(granted.instance), self._manifests.get(granted.model)
        )
        if granted.lease_id in self._shown:
            self._granted.add(granted.lease_id)

    def _end(self, lease_id: LeaseId, closed: LeaseClosed | None) -> None:
        """Compare a lease that nothing can happen to any more, and forget it."""
        lease = self._open.pop(lease_id, None)
        if lease is None:
            return
        lease.closed = closed
        self._found.extend(_compared(lease, self._shown.get(lease_id, _NONE)))
        self._strangers.extend(self._strangers_of([lease]))
        self._charged = self._charged.plus(lease.granted.units if closed is None else closed.charged)
        if closed is not None:
            self._reported = self._reported.plus(closed.used)

    def _fork(self, lease_id: LeaseId) -> None:
        if lease_id not in self._forked:
            self._forked.add(lease_id)
            what = "the log says that two copies of its enclave are alive and used it"
            self._found.append(Finding(Difference.FORKED, lease_id, what))

    def _strangers_of(self, leases: Iterable[_Lease]) -> Iterator[Receipt]:
        for lease in leases:
            for receipt in self._shown.get(lease.granted.lease_id, _NONE).receipts():
                if receipt.instance != lease.granted.instance:
                    yield receipt

    def _unknown_leases(self) -> Iterator[Finding]:
        for lease_id, shown in self._shown.items():
            if lease_id not in self._granted:
                for receipt in shown.receipts():
                    what = f"receipt {receipt.sequence} names a lease that was never granted"
                    yield Finding(Difference.UNKNOWN_LEASE, lease_id, what)


def _compared(lease: _Lease, shown: _Shown) -> Iterator[Finding]:
    yield from _holder(lease)
    for receipt in shown.receipts():
        yield from _receipt(receipt, lease)
    yield from _together(lease, shown)
    if lease.closed is None:
        state = "nobody closed it: it is charged in full" if lease.expired else "it is still open"
        what = f"{state}; receipts show {shown.units} of {lease.granted.units}"
        yield lease.differs(Difference.UNCLOSED, what)
        yield from _missing(lease, shown, shown.highest(), lease.granted.units)
    else:
        yield from _charge(lease, lease.closed)
        yield from _report(lease, lease.closed, shown)


def _holder(lease: _Lease) -> Iterator[Finding]:
    """What the log itself says of the enclave that holds a lease."""
    if lease.holder is None:
        what = "it was granted to an enclave that had not been admitted"
        yield lease.differs(Difference.UNKNOWN_INSTANCE, what)
    elif lease.holder.borrower != lease.granted.borrower:
        what = f"it was granted to {lease.granted.borrower}, and its enclave is of {lease.holder.borrower}"
        yield lease.differs(Difference.WRONG_HOLDER, what)


def _receipt(receipt: Receipt, lease: _Lease) -> Iterator[Finding]:
    """What a receipt says of itself, against its lease."""
    granted, name = lease.granted, f"receipt {receipt.sequence}"
    wanted = (granted.instance, granted.model, granted.consumer)
    if (receipt.instance, receipt.model, receipt.consumer) != wanted:
        yield lease.differs(Difference.WRONG_HOLDER, f"{name} is of another enclave, model or consumer than the lease")
    if receipt.model == granted.model and receipt.manifest != lease.manifest:
        yield lease.differs(Difference.WRONG_MANIFEST, f"{name} is of another manifest than the model that was added")
    holder = lease.holder if receipt.instance == granted.instance else None
    if holder is not None and receipt.tee != holder.tee:
        what = f"{name} names the TEE {receipt.tee}, and its enclave was admitted as {holder.tee}"
        yield lease.differs(Difference.WRONG_TEE, what)
    if receipt.sequence < 1:
        yield lease.differs(Difference.WRONG_NUMBER, f"{name}: the receipts of a lease are numbered from 1")
    if receipt.units.inferences < 1:
        yield lease.differs(Difference.UNPAID, f"{name} charges no inference, and each answer costs at least one")


def _together(lease: _Lease, shown: _Shown) -> Iterator[Finding]:
    """What the receipts of a lease say together, whatever its enclave reported."""
    for number, same in shown.numbers.items():
        if len(same) > 1:
            what = f"{len(same)} different receipts have number {number}"
            yield lease.differs(Difference.SEQUENCE_TWICE, what)
    # The lease names its request by another digest than receipts do, which needs the consumer's salt and the body to
    # compute. But equal requests with equal salts, and no others, are equal in both.
    requests = len({receipt.request for receipt in shown.receipts()})
    if lease.granted.request is not None and requests > 1:
        what = f"it is for one request, and its receipts are of {requests} different ones"
        yield lease.differs(Difference.OTHER_REQUEST, what)
    if not lease.granted.units.covers(shown.units):
        what = f"receipts add up to {shown.units}, the lease had {lease.granted.units}"
        yield lease.differs(Difference.BEYOND_LEASE, what)


def _charge(lease: _Lease, closed: LeaseClosed) -> Iterator[Finding]:
    """What a closed lease was charged, against its report."""
    if not lease.granted.units.covers(closed.charged):
        what = f"it is charged {closed.charged}, the lease had {lease.granted.units}"
        yield lease.differs(Difference.BEYOND_LEASE, what)
    if not closed.charged.covers(closed.used):
        what = f"it is charged {closed.charged}, less than the {closed.used} that were reported"
        yield lease.differs(Difference.UNDERCHARGED, what)
    elif lease.holder is not None and lease.holder.tee in NEVER_REFUNDED and closed.charged != lease.granted.units:
        what = f"it is charged {closed.charged} of {lease.granted.units}, and a {lease.holder.tee} is refunded nothing"
        yield lease.differs(Difference.REFUNDED, what)
    elif closed.charged != closed.used:
        what = f"it is charged {closed.charged}, {closed.used} were reported: the rest was not refunded"
        yield lease.differs(Difference.CHARGED_IN_FULL, what)


def _report(lease: _Lease, closed: LeaseClosed, shown: _Shown) -> Iterator[Finding]:
    """What an enclave reported when it closed a lease, against its receipts."""
    if shown.highest() > closed.ok or not closed.used.covers(shown.units):
        what = f"its enclave reported {closed.ok} answers for {closed.used}; receipts show more"
        yield lease.differs(Difference.BEYOND_REPORT, what)
    yield from _missing(lease, shown, closed.ok, closed.used)
    receipts = shown.sequence(closed.ok)
    if receipts is None:
        return
    units = _sum(receipt.units for receipt in receipts)
    if closed.used.covers(units) and closed.used != units:
        what = f"all receipts are there and add up to {units}; reported were {closed.used}"
        yield lease.differs(Difference.UNITS_DIFFER, what)
    head = ""
    for receipt in receipts:
        head = chain(head, receipt)
    if head != closed.receipts:
        what = "all receipts are there, and are not the ones that its enclave's final report commits to"
        yield lease.differs(Difference.CHAIN_DIFFERS, what)


def _missing(lease: _Lease, shown: _Shown, answers: int, units: UnitVector) -> Iterator[Finding]:
    """Which of so many answers have no receipt here, and whether `units` can pay for them all.

    `answers` may be any number, because an enclave chose it.
    """
    missing, charged = answers - shown.here(answers), shown.units.inferences
    if answers > units.inferences or (missing and missing + charged > units.inferences):
        what = (
            f"{units} cannot pay for {answers} answers of at least 1 inference each, "
            f"of which receipts show {answers - missing} for {charged}"
        )
        yield lease.differs(Difference.UNPAID, what)
    if missing:
        what = f"{missing} of {answers} receipts were not handed in, the first is number {shown.first_missing()}"
        yield lease.differs(Difference.MISSING, what)


def _sum(vectors: Iterable[UnitVector]) -> UnitVector:
    total = ZERO
    for vector in vectors:
        total = total.plus(vector)
    return total
