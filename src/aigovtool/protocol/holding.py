"""One lease as its holder, the enclave, keeps it: in memory only, never written anywhere.

```
open ── reserve / post / void ──> open      units move from free to reserved to used, or back
open ── close (nothing in flight) ─> closed  one way; the final report is built once, after this
```
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from aigovtool.errors import ConflictError
from aigovtool.ids import ConsumerId, Digest, LeaseId, ModelId
from aigovtool.ledger.receipt import Receipt, WrittenReceipt, chain, chain_leaves
from aigovtool.ledger.units import ZERO, UnitVector, total
from aigovtool.protocol.messages import Grant, Report

#: A budget path as one instance sees it: its borrower is always the same.
PathKey = tuple[ModelId, ConsumerId]


@dataclass(slots=True)
class Holding:
    """A lease in the enclave. `expires_ms` is on the enclave's elapsed clock."""

    lease_id: LeaseId
    model: ModelId
    consumer: ConsumerId
    units: UnitVector
    expires_ms: int
    #: What any request takes at least, and the one request that may take it (bound mode).
    least: UnitVector
    request: Digest | None = None
    used: UnitVector = ZERO
    reserved: UnitVector = ZERO
    in_flight: int = 0
    ok: int = 0
    err: int = 0
    sequence: int = 0
    head: str = ""
    closed: bool = False
    seq: int = 0
    dirty: bool = False
    final: Report | None = field(default=None)
    #: What `free` was reckoned from the last time, and what came of it.
    _free: tuple[UnitVector, UnitVector, UnitVector, UnitVector] = field(
        default=(ZERO, ZERO, ZERO, ZERO), compare=False, repr=False
    )

    @classmethod
    def of(cls, grant: Grant, sent_ms: int, least: UnitVector) -> Self:
        """Return a lease that was granted to a renewal sent at `sent_ms`: its time runs from then on."""
        return cls(
            lease_id=grant.lease_id,
            model=grant.model,
            consumer=grant.consumer,
            units=grant.units,
            expires_ms=sent_ms + grant.ttl_ms,
            least=least,
            request=grant.request,
        )

    @property
    def free(self) -> UnitVector:
        """Units that can still be reserved; none once closed."""
        if self.closed:
            return ZERO
        units, used, reserved, free = self._free
        if units is not self.units or used is not self.used or reserved is not self.reserved:
            free = self.units.minus(self.used).minus(self.reserved)
            self._free = self.units, self.used, self.reserved, free
        return free

    @property
    def path(self) -> PathKey:
        """Whose units these are."""
        return self.model, self.consumer

    def over(self, now_ms: int) -> bool:
        """Return whether nothing can be reserved now: too little is neither used nor reserved, or the time is over."""
        return now_ms >= self.expires_ms or not self.free.covers(self.least)

    def usable(self, now_ms: int) -> bool:
        """Return whether a new request may be served."""
        return not self.over(now_ms)

    def serves(self, now_ms: int, units: UnitVector) -> bool:
        """Return whether these units can be reserved: also less than a request needs, for the rest of one."""
        return now_ms < self.expires_ms and self.free.covers(units)

    def reserve(self, units: UnitVector) -> None:
        """Debit `units` before compute.

        Raises:
            ConflictError: when they are not free (callers check first; this is the wall).
        """
        if units.is_zero() or not (units.covers(ZERO) and self.free.covers(units)):
            raise ConflictError("a reservation exceeds its lease", reason="overspend")
        self.reserved = self.reserved.plus(units)
        self.in_flight += 1

    def advance(self, reserved: UnitVector, actual: UnitVector) -> None:
        """Turn a part of a reservation into use, for a chunk of a stream that leaves now.

        Raises:
            ConflictError: more than was reserved (`overspend`); nothing is charged.
        """
        self._require_reserved(reserved, actual)
        self.reserved = self.reserved.minus(actual)
        self.used = self.used.plus(actual)
        self.dirty = True

    def _require_reserved(self, reserved: UnitVector, actual: UnitVector) -> None:
        if self.closed or not (actual.covers(ZERO) and reserved.covers(actual) and self.reserved.covers(reserved)):
            raise ConflictError("a posting exceeds its reservation", reason="overspend")

    def post(self, reserved: UnitVector, actual: UnitVector, receipt: Receipt | None = None) -> int:
        """Turn a reservation into use and return its number in this lease's receipts.

        `receipt` extends the chain that the final report commits to. Either all of it happens or nothing.

        Raises:
            ConflictError: more than was reserved (`overspend`), or the receipt is not the next of this lease.
        """
        self._require_reserved(reserved, actual)
        if receipt is not None:
            if (receipt.lease_id, receipt.sequence) != (self.lease_id, self.sequence + 1):
                raise ConflictError("a receipt is not the next of its lease", reason="wrong_receipt")
            self.head = chain(self.head, receipt)
        self.reserved = self.reserved.minus(reserved)
        self.in_flight -= 1
        self.used = self.used.plus(actual)
        self.ok += 1
        self.sequence += 1
        self.dirty = True
        return self.sequence

    def post_several(self, reserved: UnitVector, written: Sequence[WrittenReceipt]) -> UnitVector:
        """Turn a reservation for several requests into the use that these receipts tell of, all of them or none.

        Returns:
            That use.

        Raises:
            ConflictError: as `post`; none of them is charged.
        """
        for number, one in enumerate(written, self.sequence + 1):
            if one.receipt.lease_id != self.lease_id or one.receipt.sequence != number:
                raise ConflictError("a receipt is not the next of its lease", reason="wrong_receipt")
        if not all(one.receipt.units.covers(ZERO) for one in written):
            raise ConflictError("a posting is of less than nothing", reason="overspend")
        actual = total([one.receipt.units for one in written])
        self._require_reserved(reserved, actual)
        self.head = chain_leaves(self.head, [one.leaf for one in written])
        self.reserved = self.reserved.minus(reserved)
        self.in_flight -= 1
        self.used = self.used.plus(actual)
        self.ok += len(written)
        self.sequence += len(written)
        self.dirty = True
        return actual

    def void(self, reserved: UnitVector, *, failed: bool) -> None:
        """Give a reservation back: nothing was released for it, nothing is charged."""
        self.reserved = self.reserved.minus(reserved)
        self.in_flight -= 1
        self.err += int(failed)
        self.dirty = self.dirty or failed

    def close(self) -> None:
        """Shut the counter for ever; only then is the final report built.

        Raises:
            ConflictError: while something is in flight.
        """
        if self.in_flight:
            raise ConflictError("a lease with work in flight cannot be closed", reason="in_flight")
        self.closed = True

    def report(self) -> Report:
        """Return the next cumulative report; the final one is always the same."""
        if self.final is not None:
            return self.final
        self.seq += 1
        self.dirty = False
        report = Report(
            lease_id=self.lease_id,
            seq=self.seq,
            used=self.used,
            ok=self.ok,
            err=self.err,
            final=self.closed,
            receipts=self.head,
        )
        if self.closed:
            self.final = report
        return report
