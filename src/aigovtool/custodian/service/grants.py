"""Grants: what one renewal's wants come to, and why not (spec: leases section 4).

Everything that the wants of one renewal share is read once; what one grant holds counts at the next.
"""

import secrets
from typing import Final

from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.service import asks
from aigovtool.custodian.service.reports import book_of
from aigovtool.custodian.store import budgets, leases, models, parties
from aigovtool.custodian.store.records import Instance, Model
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ids import BorrowerId, ConsumerId, LeaseId, ModelId
from aigovtool.ledger import book
from aigovtool.ledger.book import Draw, Effects, Outcome
from aigovtool.ledger.budget import path
from aigovtool.ledger.entry import LeaseGranted, PartyRole, Refusable, Refused
from aigovtool.ledger.policy import GRACE_MS, Dial, ServingPolicy
from aigovtool.ledger.units import ZERO, Dimension, UnitVector
from aigovtool.protocol.messages import RENEW, Deny, DenyCode, Grant, Want
from aigovtool.protocol.stop import StopState

_DENIALS: Final = {
    Outcome.EXHAUSTED: DenyCode.EXHAUSTED,
    Outcome.RESERVED: DenyCode.RESERVED,
    Outcome.CAPPED: DenyCode.CAPPED,
    Outcome.INSUFFICIENT: DenyCode.INSUFFICIENT,
    Outcome.NO_BUDGET_ROW: DenyCode.NO_BUDGET_ROW,
    Outcome.BUDGET_ENDED: DenyCode.BUDGET_ENDED,
}
#: How long an enclave need not ask again when others hold the units.
_RETRY_AFTER_MS: Final = 2_000


#: The state of an instance that would not be admitted any more (`reexamination`).
UNACCEPTED: Final = "unaccepted"


class Granting:
    """The wants of one renewal, in one transaction."""

    def __init__(
        self,
        custodian: Custodian,
        transaction: Transaction,
        instance: Instance,
        *,
        state: StopState,
        now_ms: int,
        wants: list[Want],
    ) -> None:
        self._custodian: Final = custodian
        self._transaction: Final = transaction
        self._instance: Final = instance
        self._state: Final = state
        self._now_ms: Final = now_ms
        wanted = {want.model for want in wants} & set(instance.models)
        self._models: Final = {model.model: model for model in models.among(transaction, sorted(wanted))}
        names = sorted({want.consumer for want in wants})
        # Whose credential has ended is not listed as stopped any more, and the log would say that it was.
        self._consumers: Final = {
            party.name: party
            for party in parties.among(transaction, PartyRole.CONSUMER, names)
            if not party.revoked and now_ms <= party.not_after_ms
        }
        self._borrower: Final = parties.find(transaction, PartyRole.BORROWER, instance.borrower) if wants else None
        self._held: Final[dict[ModelId, tuple[UnitVector, UnitVector]]] = {}
        #: What is left to grant on each path that was wanted, where it is limited.
        self.rooms: Final[dict[tuple[ModelId, ConsumerId], dict[Dimension, int]]] = {}
        #: What the audit log should say beside the grants.
        self.refused: Final[list[Refused]] = []

    def grant(self, want: Want) -> Grant | Deny:
        """Return a lease or the reason why there is none."""
        refusal = self._refusal(want)
        model = self._models.get(want.model)
        if refusal is not None or model is None:
            return _deny(want, refusal or DenyCode.STOPPED)
        quiet_ms = self._transaction.head.quiet_until_ms - self._now_ms
        if quiet_ms > 0:  # leases that the ledger has forgotten may still be in use
            return _deny(want, DenyCode.RESERVED, retry_after_ms=quiet_ms)
        if self._custodian.clock.leapt_ms:  # it may be over soon: what runs stays loaded, and hears of stops
            return _deny(want, DenyCode.RESERVED, retry_after_ms=_RETRY_AFTER_MS)
        scopes = path(want.model, self._instance.borrower, want.consumer)
        rows = budgets.rows_on(self._transaction, scopes, self._now_ms)
        effects = book.apply(book_of(rows), self._draw(want, model))
        self.rooms[want.model, want.consumer] = effects.rooms
        if effects.outcome is not Outcome.GRANTED:
            return self._denied(want, effects)
        return self._granted(effects)

    def _refusal(self, want: Want) -> DenyCode | None:
        instance, state = self._instance, self._state
        if instance.state == UNACCEPTED:
            return DenyCode.REATTEST
        if instance.state != "live" or state.is_wide() or state.stops_consumer(want.consumer):
            return DenyCode.STOPPED
        if self._is_over() or instance.generation < self._transaction.head.generation:
            return DenyCode.REATTEST
        consumer = self._consumers.get(want.consumer)
        if consumer is None or consumer.borrower != instance.borrower:
            if consumer is not None:
                self._note_foreign()
            return DenyCode.NO_BUDGET_ROW
        model = self._models.get(want.model)
        if self._borrower is None or self._borrower.revoked or not _is_lent(model, instance.borrower):
            return DenyCode.STOPPED
        return DenyCode.REATTEST if model is not None and self._on_other_terms(want, model.policy) else None

    def _note_foreign(self) -> None:
        """An enclave serves its own borrower's consumers only: one that wants units for another's is not sound."""
        code = DenyCode.NO_BUDGET_ROW.value
        name, reason = self._instance.instance, "foreign_consumer"
        self.refused.append(Refused(role=Refusable.ENCLAVE, name=name, act=RENEW, code=code, reason=reason))

    def _is_over(self) -> bool:
        """Return whether the attestation has ended, or the credential of the borrower who is to renew it."""
        ended = self._borrower is not None and self._now_ms > self._borrower.not_after_ms
        return ended or self._now_ms >= self._instance.valid_until_ms

    def _on_other_terms(self, want: Want, policy: ServingPolicy) -> bool:
        """Return whether the instance was admitted on terms that are no longer in force (a boot tells the new ones)."""
        if policy.dial is Dial.BOUND:
            return want.request is None
        return not self._instance.refundable

    def _draw(self, want: Want, model: Model) -> Draw:
        by_instance, by_borrower = self._held_now(want.model)
        return Draw(
            lease_id=LeaseId(secrets.token_hex(16)),
            instance=self._instance.instance,
            borrower=self._instance.borrower,
            model=want.model,
            manifest=model.manifest_digest,
            consumer=want.consumer,
            minimum=want.minimum,
            target=want.target,
            policy=model.policy,
            refundable=self._instance.refundable,
            held_by_instance=by_instance,
            held_by_borrower=by_borrower,
            ttl_ms=min(model.policy.ttl_ms, self._instance.valid_until_ms - self._now_ms),
            grace_ms=GRACE_MS,
            now_ms=self._now_ms,
            request=want.request,
        )

    def _held_now(self, model: ModelId) -> tuple[UnitVector, UnitVector]:
        if model not in self._held:
            self._held[model] = (
                leases.held_by_instance(self._transaction, self._instance.instance, model),
                leases.held_by_borrower(self._transaction, self._instance.borrower, model),
            )
        return self._held[model]

    def _denied(self, want: Want, effects: Effects) -> Deny:
        code = _DENIALS[effects.outcome]
        if code is DenyCode.EXHAUSTED and want.ask and effects.short is not None:
            asks.file_by_enclave(self._custodian, self._transaction, self._instance, want, effects.short)
        retry_after_ms = 0 if code is DenyCode.EXHAUSTED else _RETRY_AFTER_MS
        return _deny(want, code, retry_after_ms=retry_after_ms, effects=effects)

    def _granted(self, effects: Effects) -> Grant:
        (lease,) = effects.leases
        by_instance, by_borrower = self._held[lease.model]
        self._held[lease.model] = (by_instance.plus(lease.units), by_borrower.plus(lease.units))
        budgets.write(self._transaction, effects.rows)
        index = self._custodian.record(
            self._transaction,
            LeaseGranted(
                lease_id=lease.lease_id,
                instance=lease.instance,
                borrower=lease.borrower,
                model=lease.model,
                consumer=lease.consumer,
                units=lease.units,
                rows=lease.rows,
                request=lease.request,
            ),
        )
        leases.add(self._transaction, lease, entry=index)
        return Grant(
            lease_id=lease.lease_id,
            model=lease.model,
            consumer=lease.consumer,
            units=lease.units,
            ttl_ms=lease.ttl_ms,
            policy=lease.policy,
            request=lease.request,
        )


def _is_lent(model: Model | None, borrower: BorrowerId) -> bool:
    return model is not None and not model.withdrawn and borrower in model.borrowers


def _deny(want: Want, code: DenyCode, *, retry_after_ms: int = 0, effects: Effects | None = None) -> Deny:
    return Deny(
        model=want.model,
        consumer=want.consumer,
        code=code,
        available=ZERO if effects is None else effects.available,
        short=None if effects is None else effects.short,
        retry_after_ms=retry_after_ms,
        request=want.request,
    )
