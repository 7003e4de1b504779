"""A custodian of the simulation that also writes the audit log, as the real one does in the same transaction.

With its occasional paperwork (parties, models, asks) a history gives a log in which every kind of entry occurs.
"""

from collections.abc import Callable
from typing import Any

from tests.simulation.custodian import Custodian, Transaction
from tests.simulation.scene import CUSTODIAN, MANIFEST, MODEL, NORTH

from aigovtool.ids import (
    BorrowerId,
    Digest,
    InstanceId,
    KeyId,
    LeaseId,
    MessageId,
    ModelId,
    OperatorId,
)
from aigovtool.ledger import entry
from aigovtool.ledger.budget import Scope
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.lease import Lease, LeaseState
from aigovtool.ledger.units import Dimension, of
from aigovtool.protocol.messages import Answer, Deny, Grant, Renew, Report, Want, Wiped
from aigovtool.protocol.stop import StopState

_DIGEST = Digest("sha256:" + "1" * 64)


class LoggingCustodian(Custodian):
    """Keeps `entries`, one for each effect. `custodian` is the identifier of its root key."""

    custodian: KeyId = CUSTODIAN

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.entries: list[entry.Entry] = []
        self.record(entry.Genesis(custodian=self.custodian))
        for limit in self.limits:
            self.record(entry.BudgetSet(limit=limit, command=self.command()))

    def record(self, body: entry.EntryBody) -> None:
        """Append an entry."""
        self.entries.append(entry.Entry(index=len(self.entries), at_ms=self.now(), generation=0, body=body))

    def command(self) -> entry.Command:
        """Return the mark of an operator's command."""
        return entry.Command(operator=OperatorId("alice"), command_id=self._id(), digest=_DIGEST)

    def _id(self) -> MessageId:
        return MessageId(f"{self.scene.number():032x}")

    # -- Effects ----------------------------------------------------------------------------------

    def renew(self, request: Renew, borrower: BorrowerId, *, refundable: bool) -> tuple[Answer, StopState]:
        """Do some paperwork now and then, before a renewal."""
        if self.scene.chance(0.05):
            self.record(self.scene.rng.choice(self.paperwork())())
        return super().renew(request, borrower, refundable=refundable)

    def raise_limit(self) -> None:
        """Raise a limit, and log it."""
        before = list(self.limits)
        super().raise_limit()
        for limit in self.limits:
            if limit not in before:
                self.record(entry.BudgetSet(limit=limit, command=self.command()))

    def set_stop(self, target: StopTarget, value: str, *, active: bool) -> None:
        """Stop or resume, and log it."""
        super().set_stop(target, value, active=active)
        kind = entry.Stopped if active else entry.Resumed
        self.record(kind(target=target, value=value, epoch=self.epoch, command=self.command()))

    def wiped(self, statement: Wiped) -> None:
        """Take a statement, and log the first of an instance."""
        known = statement.instance in self.gone
        super().wiped(statement)
        if not known:
            self.record(entry.Wiped(instance=statement.instance, epoch=statement.epoch))

    def sweep(self, writes: Transaction, now_ms: int) -> None:
        """Expire what is overdue, and log it."""
        super().sweep(writes, now_ms)
        for lease in writes.leases.values():
            if lease.state is LeaseState.EXPIRED:
                self.record(entry.LeaseExpired(lease_id=lease.lease_id))

    def take_report(self, writes: Transaction, instance: InstanceId, report: Report) -> None:
        """Take a report, and log it if it closed a lease."""
        before = writes.lease(report.lease_id)
        super().take_report(writes, instance, report)
        after = writes.lease(report.lease_id)
        if before is not None and after is not None and before.unclosed() and not after.unclosed():
            self._closed(after, report)

    def _closed(self, lease: Lease, report: Report) -> None:
        charged = lease.seen if lease.refundable else lease.units
        self.record(
            entry.LeaseClosed(
                lease_id=lease.lease_id,
                late=lease.state is LeaseState.CLOSED_LATE,
                used=lease.seen,
                charged=of(Dimension.INFERENCES, charged.inferences),
                ok=lease.ok,
                err=lease.err,
                receipts=report.receipts,
            )
        )

    def draw(
        self,
        writes: Transaction,
        instance: InstanceId,
        borrower: BorrowerId,
        want: Want,
        state: StopState,
        *,
        refundable: bool,
    ) -> Grant | Deny:
        """Grant, and log it."""
        result = super().draw(writes, instance, borrower, want, state, refundable=refundable)
        if isinstance(result, Grant):
            lease = writes.leases[result.lease_id]
            self.record(
                entry.LeaseGranted(
                    lease_id=lease.lease_id,
                    instance=instance,
                    borrower=borrower,
                    model=MODEL,
                    consumer=want.consumer,
                    units=lease.units,
                    rows=lease.rows,
                )
            )
        return result

    # -- Paperwork --------------------------------------------------------------------------------

    def paperwork(self) -> list[Callable[[], entry.EntryBody]]:
        """Return what makes each kind of entry that moves no unit; nobody in it takes part in the history."""
        other = InstanceId("f" * 64)
        key, scope = KeyId("2" * 64), Scope(model=MODEL, borrower=NORTH)
        return [
            lambda: entry.KeySetPublished(version=self.scene.number(), digest=_DIGEST),
            lambda: entry.PartyAdded(
                role=PartyRole.CONSUMER,
                name="dora",
                key=key,
                borrower=NORTH,
                not_after_ms=self.now() + 1_000,
                command=self.command(),
            ),
            lambda: entry.PartyRevoked(role=PartyRole.CONSUMER, name="dora", epoch=self.epoch, command=self.command()),
            lambda: entry.ModelAdded(
                model=ModelId("faces"),
                manifest=MANIFEST,
                package=_DIGEST,
                package_bytes=4_096,
                sealer=key,
                policy=_DIGEST,
                command=self.command(),
            ),
            lambda: entry.ModelWithdrawn(model=ModelId("faces"), epoch=self.epoch, command=self.command()),
            lambda: entry.AppraisalPolicySet(version=self.scene.number(), digest=_DIGEST, command=self.command()),
            lambda: entry.Attested(
                instance=other, borrower=NORTH, tee="simulated", measurement="3" * 64, result=_DIGEST
            ),
            lambda: entry.AttestationRefused(borrower=NORTH, code="appraisal", reason="measurement"),
            lambda: entry.KeyReleased(instance=other, model=MODEL, manifest=MANIFEST),
            lambda: entry.Forked(instance=other, lease_id=LeaseId("e" * 32), epoch=self.epoch),
            lambda: entry.Asked(
                ask_id=self._id(), role=PartyRole.BORROWER, name="north", scope=scope, units=20, reason="more patients"
            ),
            lambda: entry.AskDecided(ask_id=self._id(), approved=self.scene.chance(0.5), command=self.command()),
        ]

    def complete(self) -> None:
        """Add what has not occurred yet, so that every kind of entry is there."""
        self.set_stop(StopTarget.MODEL, "faces", active=True)
        self.set_stop(StopTarget.MODEL, "faces", active=False)
        self.clock_ms += 60_000
        writes = self.begin()
        self.sweep(writes, self.clock_ms)
        self.commit(writes)
        if not any(isinstance(known.body, entry.Wiped) for known in self.entries):
            self.record(entry.Wiped(instance=InstanceId("d" * 64), epoch=self.epoch))
        for make in self.paperwork():
            body = make()
            if not any(isinstance(known.body, type(body)) for known in self.entries):
                self.record(body)
