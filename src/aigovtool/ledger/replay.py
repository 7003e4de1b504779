"""The ledger as its log tells it: entries are applied one by one, and none that breaks a rule is taken.

This is the auditor's book. It shares the arithmetic of rows and the table of lease states with the custodian, and none
of its code that decides: what a grant may debit is checked here from the entries alone.

What two operators order must name two. That both signed is the log's word: it holds digests of orders, not orders.

What is known of parties, orders, budgets, models, stops, enclaves and witnesses is in lists of their own; here are the
leases, and what each entry means for which of these.
"""

from dataclasses import dataclass, field

from aigovtool.ids import Digest, LeaseId
from aigovtool.ledger.bad_entry import bad
from aigovtool.ledger.budget import RowKey, path
from aigovtool.ledger.budget_list import BudgetList
from aigovtool.ledger.checkpoint import parse_checkpoint
from aigovtool.ledger.enclave_list import EnclaveList
from aigovtool.ledger.entry import (
    AppraisalPolicySet,
    AttestationWithdrawn,
    Attested,
    BudgetSet,
    Charged,
    Command,
    Entry,
    EntryBody,
    Forked,
    GapFound,
    KeyReleased,
    LeaseClosed,
    LeaseExpired,
    LeaseGranted,
    LeaseWrittenOff,
    ModelAdded,
    ModelTermsSet,
    ModelWithdrawn,
    PartyAdded,
    PartyRevoked,
    PartyRole,
    Restored,
    Resumed,
    Stopped,
    StopTarget,
    Wiped,
    WitnessEnrolled,
    WitnessRetired,
)
from aigovtool.ledger.gap import may_follow_gap
from aigovtool.ledger.lease import LeaseEvent, LeaseState, next_state
from aigovtool.ledger.lease_ids import LeaseIds
from aigovtool.ledger.model_list import ModelList
from aigovtool.ledger.order_list import OrderList, ordered_by
from aigovtool.ledger.party_list import PartyList
from aigovtool.ledger.stop_list import EVERYTHING, StopList, of_borrower, of_consumer, of_enclave, of_model
from aigovtool.ledger.units import Dimension
from aigovtool.ledger.witness_list import WitnessList


@dataclass(slots=True)
class Held:
    """What a lease still weighs on its rows."""

    granted: LeaseGranted
    generation: int
    refundable: bool
    state: LeaseState = LeaseState.PENDING


@dataclass(slots=True)
class Replay:
    """The state of the ledger as far as it was read. Every refusal is a `LogError` without the entry's number."""

    budgets: BudgetList = field(default_factory=BudgetList)
    models: ModelList = field(default_factory=ModelList)
    stops: StopList = field(default_factory=StopList)
    enclaves: EnclaveList = field(default_factory=EnclaveList)
    witnesses: WitnessList = field(default_factory=WitnessList)
    parties: PartyList = field(default_factory=PartyList)
    orders: OrderList = field(default_factory=OrderList)
    #: Leases that are not over: pending, or expired and not yet closed or written off.
    leases: dict[LeaseId, Held] = field(default_factory=dict)
    #: Of a lease that is over only its identifier is kept: memory must not grow by a whole lease per lease.
    over: LeaseIds = field(default_factory=LeaseIds)
    generation: int = 0
    #: Whether the ledger knew at this point that it had forgotten something.
    gap: bool = False
    #: What must still be charged, before anything else follows, for the settlement that was read last to be final.
    remaining: dict[RowKey, int] = field(default_factory=dict)
    #: Version and digest of the appraisal policy in force; none was ever set where it is nothing.
    policy: tuple[int, Digest] | None = None

    def take(self, entry: Entry) -> None:
        """Apply one entry.

        Raises:
            LogError: it breaks a rule; the reason says which.
        """
        self._begin_generation(entry)
        self._require_gap_kept(entry.body)
        self._require_two(entry.body)
        self._require_orderly(entry.body)
        self._require_final(entry)
        match entry.body:
            case Stopped() | Resumed() | Forked() | PartyRevoked() | ModelWithdrawn() | ModelTermsSet() as order:
                self._order(order)
            case LeaseGranted() as granted:
                self._grant(granted, entry.at_ms)
            case LeaseClosed() as closed:
                self._close(closed)
            case LeaseExpired() | LeaseWrittenOff() as ended:
                self._end(ended)
            case Attested() as attested:
                self._admit(attested)
            case KeyReleased() as released:
                self._release(released)
            case _:
                self._know(entry)

    def finish(self) -> None:
        """Take note that the log ends here.

        Raises:
            LogError: it ends before all was charged that its last settlement was to charge (`not_final`).
        """
        if self.remaining:
            raise bad("not_final", "the log ends before all that remained was charged, as its last settlement says")

    def _know(self, entry: Entry) -> None:
        match entry.body:
            case ModelAdded() as added:
                self.models.add(added)
            case BudgetSet(limit=limit):
                self.budgets.limit(limit, entry.at_ms)
            case Charged(row=row, units=units):
                self.budgets.charge(row, units, entry.at_ms)
            case WitnessEnrolled() | WitnessRetired() as change:
                self.witnesses.take(change)
            case AttestationWithdrawn(instance=instance) | Wiped(instance=instance):
                self.enclaves.end(instance)
            case PartyAdded() as added:
                self.parties.add(added)
            case AppraisalPolicySet() as policy:
                self._judge_by(policy)
            case _:
                pass

    # -- Generations and orders -------------------------------------------------------------------

    def _begin_generation(self, entry: Entry) -> None:
        restored = entry.body if isinstance(entry.body, Restored) else None
        begins = self.generation if restored is None else restored.generation
        if entry.generation != begins or (restored is not None and begins <= self.generation):
            raise bad("generation", "a generation begins with the entry that says why, and only there")
        if restored is not None:
            lost = parse_checkpoint(restored.checkpoint)
            if lost.size != restored.lost_size or lost.generation >= begins:
                raise bad("wrong_restore", "it says that more or less was lost than the checkpoint that it shows")
            self.enclaves.begin_generation()
        self.generation = entry.generation

    def _require_gap_kept(self, body: EntryBody) -> None:
        if self.gap and not may_follow_gap(body):
            raise bad("gap", "the ledger knew that it had forgotten something, and went on before that was settled")
        if isinstance(body, GapFound):
            lost = parse_checkpoint(body.checkpoint)
            if (lost.size, lost.generation) != (body.lost_size, body.lost_generation):
                raise bad("wrong_gap", "it says that another state was lost than the checkpoint that it shows")
        self.gap = isinstance(body, GapFound) or (self.gap and not isinstance(body, Restored))

    def _require_final(self, entry: Entry) -> None:
        """Refuse a settlement that explains whatever is shown later, and leaves something that could be used twice."""
        if isinstance(entry.body, Charged):
            if entry.body.units >= self.remaining.get(entry.body.row, 0):
                self.remaining.pop(entry.body.row, None)
        elif self.remaining:
            raise bad("not_final", "it comes before all that remained was charged, as the settlement before it says")
        elif isinstance(entry.body, Restored) and entry.body.final:
            if EVERYTHING not in self.stops.in_force:
                raise bad("not_final", "it settles for good what was forgotten, and not everything is stopped")
            self.budgets.begin(entry.at_ms)
            self.remaining = dict(self.budgets.rooms(entry.at_ms))

    def _require_orderly(self, body: EntryBody) -> None:
        """Refuse what is ordered by somebody who is no operator now, or was carried out before."""
        self.orders.take(body)
        command = ordered_by(body)
        if command is not None:
            self.parties.require_operators(command)

    def _judge_by(self, policy: AppraisalPolicySet) -> None:
        """Take a policy that decides which enclaves are admitted: a later one or the same, ordered by somebody."""
        if policy.command is None and self.orders.carried_out:
            raise bad("not_ordered", "it sets which enclaves are accepted, and nobody ordered that")
        now = policy.version, policy.digest
        if self.policy is not None and now != self.policy and policy.version <= self.policy[0]:
            raise bad("policy_rollback", f"it puts another policy of version {now[0]} in the place of {self.policy[0]}")
        self.policy = now

    def _require_two(self, body: EntryBody) -> None:
        """Refuse an order of one operator where the custodian takes none but of two."""
        command: Command | None = None
        match body:
            case Restored() | Charged() | LeaseWrittenOff():
                command = body.command
            case PartyAdded(role=PartyRole.OPERATOR) if len(self.parties.operators) > 1:
                command = body.command  # none: from whoever holds the custodian's directory
            case AppraisalPolicySet() | Resumed() | ModelTermsSet(more_leaves=True) if len(self.parties.operators) > 1:
                command = body.command
            case _:
                pass
        if command is not None and command.second in {None, command.operator}:
            raise bad("needs_second", f"two operators must order it, and it names {command.operator} alone")

    def _order(self, order: Stopped | Resumed | Forked | PartyRevoked | ModelWithdrawn | ModelTermsSet) -> None:
        self.stops.advance(order.epoch)
        match order:
            case Stopped(target=target, value=value):
                self.stops.stop((target, value))
            case Resumed(target=target, value=value):
                self.stops.lift((target, value))
            case Forked(instance=instance):
                self.stops.stop(of_enclave(instance))
                self.enclaves.fork(instance)
            case PartyRevoked(role=role, name=name) as revoked:
                self.parties.revoke(revoked)
                if role is not PartyRole.OPERATOR:
                    self.stops.stop((StopTarget(role.value), name), for_good=True)
            case ModelWithdrawn(model=model):
                self.stops.stop(of_model(model), for_good=True)
            case ModelTermsSet() as terms:
                self.models.change(terms)

    # -- Enclaves -----------------------------------------------------------------------------------

    def _admit(self, attested: Attested) -> None:
        touching = (of_borrower(attested.borrower), of_enclave(attested.instance))
        self.stops.require_running(touching, "admitted_while_stopped", "it admits an enclave")
        self.parties.require_borrower(attested.borrower)
        self.enclaves.admit(attested)

    def _release(self, released: KeyReleased) -> None:
        borrower = self.enclaves.borrower_of(released.instance)
        self.models.require_package(released)
        touching = (of_model(released.model), of_borrower(borrower), of_enclave(released.instance))
        self.stops.require_running(touching, "released_while_stopped", "it hands out a model's key")
        self.models.require_lent(released.model, borrower)

    # -- Leases -------------------------------------------------------------------------------------

    def _grant(self, granted: LeaseGranted, at_ms: int) -> None:
        if granted.lease_id in self.leases or granted.lease_id in self.over:
            raise bad("lease_twice", "it grants a lease that was granted before")
        refundable = self._require_may_have(granted)
        metered = self.models.metered(granted.model)
        due = self.budgets.due(path(granted.model, granted.borrower, granted.consumer), metered)
        debited = [(key.scope, key.dimension, key.window) for key in granted.rows]
        if not debited or len(set(debited)) != len(debited) or set(debited) != due:
            raise bad("wrong_rows", "it does not debit exactly the limits on its path")
        counted = {key.dimension for key in granted.rows}
        if counted != metered or counted != {dimension for dimension, _ in granted.units.items()}:
            raise bad("wrong_rows", "it does not grant and debit exactly what its model meters")
        for key in granted.rows:
            self.budgets.hold(key, granted.units.get(key.dimension), at_ms)
        self.leases[granted.lease_id] = Held(granted, self.generation, refundable)

    def _require_may_have(self, granted: LeaseGranted) -> bool:
        """Refuse a lease to whom or of what nothing may be given now; return whether it can be refunded."""
        touching = (
            of_model(granted.model),
            of_borrower(granted.borrower),
            of_consumer(granted.consumer),
            of_enclave(granted.instance),
        )
        self.stops.require_running(touching, "granted_while_stopped", "it grants a lease")
        refundable = self.enclaves.refunds(granted)
        if not refundable and granted.request is None:
            raise bad("not_bound", "it grants more than one request to an enclave of which its host can make copies")
        self.parties.require_consumer(granted.consumer, granted.borrower)
        self.models.require_lent(granted.model, granted.borrower)
        return refundable

    def _end(self, ended: LeaseExpired | LeaseWrittenOff) -> None:
        held = self._known(ended.lease_id)
        if isinstance(ended, LeaseWrittenOff):
            next_state(held.state, LeaseEvent.WRITE_OFF)
            self._forget(ended.lease_id)
            return
        held.state = next_state(held.state, LeaseEvent.TIME_OVER)
        for key in held.granted.rows:
            units = held.granted.units.get(key.dimension)
            self.budgets.settle(key, units, units, late=False)

    def _close(self, closed: LeaseClosed) -> None:
        held = self._known(closed.lease_id)
        self.enclaves.require_one(held.granted.instance)
        was, units = held.state, held.granted.units
        next_state(was, LeaseEvent.FINAL_REPORT)
        if closed.late != (was is LeaseState.EXPIRED):
            raise bad("wrong_close", "it says wrongly whether the lease had expired")
        if not units.covers(closed.used):
            raise bad("wrong_close", "it reports more use than the lease had units")
        for dimension in Dimension:  # also those that the lease has not, of which nothing can have been used
            if closed.charged.get(dimension) not in {units.get(dimension), closed.used.get(dimension)}:
                raise bad("wrong_charge", "it charges neither what was used nor the whole lease")
        if held.generation < self.generation and closed.charged != units:
            raise bad(
                "wrong_charge", "it refunds a lease from before a restore, which may have been refunded in what is lost"
            )
        if not held.refundable and closed.charged != units:
            raise bad("wrong_charge", "it refunds a lease of an enclave of which its host can make copies")
        for key in held.granted.rows:
            granted, charged = units.get(key.dimension), closed.charged.get(key.dimension)
            self.budgets.settle(key, granted, charged, late=closed.late)
        self._forget(closed.lease_id)

    def _known(self, lease_id: LeaseId) -> Held:
        held = self.leases.get(lease_id)
        if held is None and lease_id in self.over:
            raise bad("inconsistent", "it is about a lease that was over before")
        if held is None:
            raise bad("unknown_lease", "it is about a lease that was never granted")
        return held

    def _forget(self, lease_id: LeaseId) -> None:
        del self.leases[lease_id]
        self.over.add(lease_id)
