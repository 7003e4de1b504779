"""The enclave's meter: leases, authority, stop and dead-man switch, as a pure state machine.

Two things are needed to serve, and they are separate (leases spec section 5):

* *units*, debited from an unclosed lease before compute; no clock is involved in never over-spending;
* *authority*, which lasts ttl from when the newest accepted answer's request was **first sent**. It ends by
  itself, so a host that withholds a stop gains at most one ttl.

Times are milliseconds of the enclave's elapsed clock and always arguments. The caller serialises calls:
nothing here waits, sends or draws randomness. Order of use for one inference:
`reserve` -> compute -> `preview` -> `gate` -> `post` (or `void`), with no await between `preview` and the release.
A stream reserves segment after segment, and `gate` and `advance` come before each chunk; its last act is a `post`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aigovtool.errors import ConflictError, LeaseExpiredError, ReattestRequiredError, StoppedError
from aigovtool.ids import ConsumerId, Digest, InstanceId, KeyId, LeaseId, MessageId, ModelId
from aigovtool.ledger.checkpoint import parse_checkpoint
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.ledger.receipt import Receipt, WrittenReceipt
from aigovtool.ledger.units import ZERO, UnitVector, vector
from aigovtool.limits import MAX_REPORTS_PER_RENEWAL
from aigovtool.protocol.holding import Holding
from aigovtool.protocol.messages import Answer, Deny, DenyCode, Grant, Renew, Wiped
from aigovtool.protocol.reservation import Posted, Reservation
from aigovtool.protocol.running import Running
from aigovtool.protocol.shelf import Shelf
from aigovtool.protocol.stop import StopState
from aigovtool.protocol.terms import Terms
from aigovtool.protocol.wishes import Wishes

#: Shortest time between two heartbeats, however little of the attestation's validity is left.
_RENEW_FLOOR_MS = 100
#: Leases that end one after another are given back together, well within the custodian's grace.
_GIVE_BACK_MS = 1_000


@dataclass(frozen=True, slots=True)
class _Outstanding:
    renew: Renew
    sent_ms: int


class Meter:
    """All leases of one instance. Create one per boot; it is never restored from anything."""

    def __init__(
        self,
        *,
        instance: InstanceId,
        custodian: KeyId,
        policies: Mapping[ModelId, ServingPolicy],
        stop_state: StopState,
        admitted_ms: int,
    ) -> None:
        self.instance, self._custodian = instance, custodian
        self.terms = Terms(policies)
        self._stop_state = stop_state
        self._wide = stop_state.is_wide()
        self.stopped = stop_state.stopped_consumers()
        self._contact_ms = admitted_ms
        self._authority_until_ms = admitted_ms
        self._wiped = self._ended = self._reattest = False
        self._holdings = Shelf()
        self._running = Running(self._holdings)
        self._wishes = Wishes(self._holdings, self.terms)
        self._outstanding: _Outstanding | None = None
        self._next_renew_ms = self._renewed_ms = admitted_ms
        self._recalled = self._nudged = False
        self._checkpoint, self._seen = "", (0, 0)
        self._wishes.stop(self.stopped)

    # -- Serving ------------------------------------------------------------------------------

    def reserve(
        self, now_ms: int, model: ModelId, consumer: ConsumerId, units: UnitVector, request: Digest | None = None
    ) -> Reservation | None:
        """Debit `units`, or return `None` when the caller should wait for a change and try again: they are asked for.

        `request` is the salted digest of what is asked: in bound mode a lease serves that request alone.

        Raises:
            RefusalError: stopped, no authority, exhausted, reserved, capped, or no budget row.
            ConflictError: a model is lent in bound mode, and this is no certain request (`unbound`).
        """
        reservation = self.attempt(now_ms, model, consumer, units, request)
        if reservation is None:
            self._wishes.of((model, consumer), now_ms).need(units)
        return reservation

    def attempt(
        self, now_ms: int, model: ModelId, consumer: ConsumerId, units: UnitVector, request: Digest | None = None
    ) -> Reservation | None:
        """Do as `reserve`, for somebody who may not be let wait: what is not at hand is not asked for.

        Raises:
            RefusalError, ConflictError: as `reserve`.
        """
        self.check(now_ms, consumer)
        path = (model, consumer)
        demand = self._wishes.of(path, now_ms)
        demand.wanted_ms = now_ms
        for holding in self._holdings.of_request(path, self._wishes.bound_to(model, request)):
            if holding.serves(now_ms, units):
                demand.take(now_ms, units)
                return self._running.start(holding, units)
        self._wishes.refuse(now_ms, path, units, self._next_renew_ms)
        return None

    def check(self, now_ms: int, consumer: ConsumerId) -> None:
        """Raise unless this instance may serve this consumer right now (the gate's condition)."""
        if self._wide:
            raise StoppedError("the custodian has stopped this", fix="ask the custodian to resume")
        if consumer in self.stopped:
            raise StoppedError("the custodian has stopped this consumer", reason="consumer_stopped")
        if self._wiped:  # for another reason: a dead engine, an orderly end, an attestation that is over
            raise LeaseExpiredError("this instance has ended", reason="instance_ended", retry_after_s=2)
        if self._reattest:
            raise ReattestRequiredError("the custodian asks this enclave to attest again", retry_after_s=5)
        if self.authority_left_ms(now_ms) == 0:
            raise LeaseExpiredError(
                "the custodian's authority has run out",
                fix="the enclave must reach its custodian; it tries by itself",
                retry_after_s=max(1, self.terms.ttl_ms // 3_000),
            )

    def gate(self, now_ms: int, reservation: Reservation) -> None:
        """Raise unless the answer to `reservation` may be released at this moment."""
        self.check(now_ms, reservation.consumer)

    def advance(self, now_ms: int, reservation: Reservation, actual: UnitVector) -> Reservation:
        """Charge a part of a reservation for a chunk that leaves now, and return the rest of it: a stream's next step.

        The returned reservation takes the place of the given one, which has ended.

        Raises:
            RefusalError: the chunk must not be released; nothing was charged.
            ConflictError: this reservation has ended, or more than it is used (`overspend`).
        """
        self.gate(now_ms, reservation)
        return self._running.advance(reservation, actual)

    def preview(self, reservation: Reservation, actual: UnitVector) -> Posted:
        """Return what `post` will return, if nothing comes between: what the receipt must say.

        Raises:
            ConflictError: this reservation has ended (`reservation_ended`).
        """
        holding = self._running.lease_of(reservation)
        spared = reservation.units.minus(actual)
        remaining = self.remaining(reservation.model, reservation.consumer).plus(spared)
        return Posted(lease_id=holding.lease_id, sequence=holding.sequence + 1, remaining=remaining)

    def post_several(self, reservation: Reservation, written: Sequence[WrittenReceipt]) -> UnitVector:
        """Charge, and return, what these receipts tell of, of a reservation for several requests: all or nothing.

        Raises:
            ConflictError: as `post`; nothing is charged.
        """
        holding, actual = self._running.post_several(reservation, written)
        self._wishes.spared(holding.path, reservation.units.minus(actual))
        return actual

    def post(self, reservation: Reservation, actual: UnitVector, receipt: Receipt | None = None) -> Posted:
        """Charge `actual` units of a reservation, for which `receipt` will leave; the rest of it is free again.

        It is the last step before the release that can fail: what was posted stays posted.

        Raises:
            ConflictError: this reservation has ended (`reservation_ended`), or as `Holding.post`; nothing is charged.
        """
        holding, sequence = self._running.post(reservation, actual, receipt)
        self._wishes.spared(holding.path, reservation.units.minus(actual))
        remaining = self.remaining(reservation.model, reservation.consumer)
        return Posted(lease_id=reservation.lease_id, sequence=sequence, remaining=remaining)

    def void(self, reservation: Reservation, *, failed: bool) -> None:
        """Charge nothing (more): the work failed, was refused at the gate, or was discarded.

        What has ended already, by `post`, `void` or `wipe`, is left as it is.
        """
        holding = self._running.void(reservation, failed=failed)
        if holding is not None:
            self._wishes.spared(holding.path, reservation.units)

    def remaining(self, model: ModelId, consumer: ConsumerId) -> UnitVector:
        """Return the units left on the path, as far as this enclave knows."""
        demand = self._wishes.get((model, consumer))
        told = ZERO if demand is None else vector(demand.path_remaining)
        return self._holdings.free((model, consumer)).plus(told)

    def waiting(
        self, model: ModelId, consumer: ConsumerId, change: int, request: Digest | None = None, units: UnitVector = ZERO
    ) -> None:
        """Count requests that wait for `units` (`change` is +1 or -1); `request` as for `reserve`."""
        self._wishes.wait((model, consumer), change, request, units)

    # -- Renewal ------------------------------------------------------------------------------

    def renew_due(self, now_ms: int) -> bool:
        """Return whether a renewal should be sent (or the outstanding one sent again)."""
        if self._wiped or self._wide:
            return False
        due = self._outstanding is not None or now_ms >= self._next_renew_ms or self._wishes.urgent(now_ms)
        return due or (now_ms - self._renewed_ms >= _GIVE_BACK_MS and self._holdings.has_ended(now_ms))

    @property
    def checkpoint(self) -> str:
        """The newest signed note of the custodian's log; empty before the first answer."""
        return self._checkpoint

    @property
    def is_renewing(self) -> bool:
        """Whether a renewal is outstanding."""
        return self._outstanding is not None

    def next_renew_ms(self) -> int:
        """Return when the next renewal is due if nothing happens before."""
        return self._next_renew_ms

    def renew(self, now_ms: int, request_id: MessageId) -> Renew:
        """Return the renewal to send: the outstanding one unchanged, or a new one with `request_id`.

        A repeated renewal keeps its first sending time: an answer gives authority from then on.
        """
        if self._outstanding is not None:
            return self._outstanding.renew
        self._recalled, was_recalled = False, self._recalled
        for holding in self._closable(now_ms, recalled=was_recalled):
            holding.close()
            self._holdings.note(holding)
            self._wishes.look(holding.path)
        self._wishes.forget_idle(now_ms)
        # Final reports first: they free units, and one of an open lease comes again.
        reported = sorted((h for h in self._holdings.values() if h.closed or h.dirty), key=lambda h: not h.closed)
        renew = Renew(
            instance=self.instance,
            request_id=request_id,
            epoch=self._stop_state.epoch,
            checkpoint_seen=self._checkpoint,
            reports=[holding.report() for holding in reported[:MAX_REPORTS_PER_RENEWAL]],
            wants=self._wishes.wants(now_ms),
        )
        self._outstanding = _Outstanding(renew=renew, sent_ms=now_ms)
        self._renewed_ms, self._nudged = now_ms, False
        return renew

    def _closable(self, now_ms: int, *, recalled: bool) -> list[Holding]:
        closable = [*self._holdings.returnable(now_ms), *self._wishes.gathered(now_ms), *self._wishes.unwanted()]
        return [*closable, *self._wishes.recalled(now_ms)] if recalled else closable

    def accept(self, now_ms: int, answer: Answer) -> None:
        """Take the (already verified) answer to the outstanding renewal.

        Raises:
            ConflictError: not for this instance (`wrong_instance`), a replay (`not_outstanding`), `terms_missing`.
            LogError: its checkpoint is none. What is refused changes nothing.
        """
        outstanding = self._outstanding
        if answer.instance != self.instance or answer.custodian != self._custodian:
            raise ConflictError("an answer is for another instance", reason="wrong_instance")
        if outstanding is None or answer.request_id != outstanding.renew.request_id:
            raise ConflictError("an answer is for no outstanding renewal", reason="not_outstanding")
        terms = self.terms.told(answer)
        restored = answer.generation > self._seen[0]
        self._remember(answer.checkpoint)
        self._outstanding = None
        # Older than a stop on our own scopes, or too late for the dead-man switch: only its acknowledgements count.
        stale = answer.epoch < self._stop_state.scope_epoch or self._is_silent(now_ms)
        codes = set() if stale else {result.code for result in answer.results if isinstance(result, Deny)}
        # An answer without a stop gives no authority only when the attestation has come to its end. A restored ledger
        # may have forgotten stops, so that its epochs say nothing; it gives none to whom it did not admit itself.
        over = answer.ttl_ms == 0 and not self._wide and (restored or not stale)
        self._reattest = self._reattest or over or DenyCode.REATTEST in codes or (terms is None and not stale)
        if terms is not None and not stale and not self._reattest:
            self._authorise(outstanding.sent_ms, answer.ttl_ms, terms)
        # What was hinted at after this renewal was built is not in its answer: it is asked for at once.
        third_ms = min(self.terms.ttl_ms if stale else answer.ttl_ms, self.terms.wipe_after_ms) // 3
        self._next_renew_ms = now_ms if self._nudged else outstanding.sent_ms + max(third_ms, _RENEW_FLOOR_MS)
        for ack in answer.acks:
            self._acknowledge(ack.lease_id, ack.seq)
        for result in answer.results:
            self._take(now_ms, outstanding.sent_ms, result, stale=stale)
        if stale:
            self._wishes.unanswered(now_ms + _RENEW_FLOOR_MS)
        else:
            self._wishes.tell_rooms(answer)

    def _authorise(self, sent_ms: int, ttl_ms: int, terms: Terms) -> None:
        """Take authority since `sent_ms`, and the terms that it is on. A shorter ttl shortens what there was before."""
        before_ms = 0 if terms.ttl_ms < self.terms.ttl_ms else self._authority_until_ms
        self._contact_ms = max(self._contact_ms, sent_ms)
        self._authority_until_ms = max(before_ms, sent_ms + ttl_ms)
        if self.terms.take(terms):
            self._wishes.reckon()

    def _remember(self, note: str) -> None:
        """Keep the newest checkpoint: a custodian that forgets what it signed is shown it."""
        checkpoint = parse_checkpoint(note)
        if (checkpoint.generation, checkpoint.size) >= self._seen:
            self._checkpoint, self._seen = note, (checkpoint.generation, checkpoint.size)

    def _acknowledge(self, lease_id: LeaseId, seq: int) -> None:
        holding = self._holdings.get(lease_id)
        if holding is not None and holding.final is not None and seq >= holding.final.seq:
            self._holdings.drop(lease_id)

    def _take(self, now_ms: int, sent_ms: int, result: Grant | Deny, *, stale: bool) -> None:
        if isinstance(result, Deny):
            if not stale:
                self._wishes.of((result.model, result.consumer), now_ms).refused(now_ms, result)
            return
        policy = self.terms.get(result.model)
        if policy is None or result.lease_id in self._holdings:
            return
        holding = Holding.of(result, sent_ms, policy.least)
        if stale or now_ms >= holding.expires_ms:
            holding.close()
        self._holdings.put(holding)
        if not stale:
            self._wishes.of(holding.path, now_ms).granted(now_ms)

    def nudge(self, now_ms: int, *, granted: bool, recall: bool) -> None:
        """A hint from the custodian: renew now. Hints carry no authority and no units."""
        if granted:
            self._wishes.allow()
        self._recalled = self._recalled or recall
        self._next_renew_ms = now_ms
        self._nudged = True

    # -- Stop and dead-man switch -----------------------------------------------------------------

    def apply_stop_state(self, state: StopState) -> bool:
        """Take a (verified) stop state; return whether it demands a wipe. Older ones are ignored.

        Raises:
            ConflictError: for another instance.
        """
        if state.instance != self.instance:
            raise ConflictError("a stop state is for another instance", reason="wrong_instance")
        if (state.scope_epoch, state.epoch) >= (self._stop_state.scope_epoch, self._stop_state.epoch):
            self._stop_state = state
            self._wide = state.is_wide()
            self.stopped = state.stopped_consumers()
            self._wishes.stop(self.stopped)
        return self._wide

    @property
    def stop_state(self) -> StopState:
        """The newest stop state seen."""
        return self._stop_state

    @property
    def must_reattest(self) -> bool:
        """Whether the custodian refused a lease because the attestation is too old."""
        return self._reattest

    def authority_left_ms(self, now_ms: int) -> int:
        """Return how long this instance may still release answers without hearing from its custodian."""
        return 0 if self._ended else max(0, self._authority_until_ms - now_ms)

    def must_wipe(self, now_ms: int) -> bool:
        """Return whether the custodian has been silent for so long that everything must be wiped."""
        return self._wide or self._is_silent(now_ms)

    def _is_silent(self, now_ms: int) -> bool:
        return now_ms - self._contact_ms >= self.terms.wipe_after_ms

    def end_authority(self) -> None:
        """End authority for good: a clock ran backwards, or the engine died. No later answer brings it back."""
        self._ended = True

    def wipe(self) -> list[Wiped]:
        """Shut every lease for ever and return the statements that say so, with all final reports.

        To be called once the engine is dead: whatever was in flight can never be released, so it is
        charged nothing.
        """
        self._wiped = True
        self._running.forget()
        for holding in self._holdings.values():
            if not holding.closed:
                holding.reserved, holding.in_flight = ZERO, 0
                holding.close()
                self._holdings.note(holding)
        reports = [holding.report() for holding in self._holdings.values()]
        starts = range(0, max(1, len(reports)), MAX_REPORTS_PER_RENEWAL)
        parts = [reports[start : start + MAX_REPORTS_PER_RENEWAL] for start in starts]
        return [Wiped(instance=self.instance, epoch=self._stop_state.epoch, reports=part) for part in parts]

    def acknowledge_wipe(self, statement: Wiped) -> None:
        """The custodian has these final reports."""
        for report in statement.reports:
            self._acknowledge(report.lease_id, report.seq)

    def has_unreported(self) -> bool:
        """Return whether any lease is not yet acknowledged as closed."""
        return len(self._holdings) > 0
