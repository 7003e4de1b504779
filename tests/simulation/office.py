"""The custodian's office in the simulation: processes, their clocks and transactions, stops, and who is admitted."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import msgspec
from tests.simulation.books import Admitted, Ledger, Stop, Transaction
from tests.simulation.budgets import limits_of, on_path
from tests.simulation.memory import Memory
from tests.simulation.scene import (
    ALSO,
    CONSUMERS,
    CUSTODIAN,
    MANIFEST,
    MODEL,
    REPLICAS,
    TTL_MS,
    WEST,
    WIPE_AFTER_MS,
    Scene,
)
from tests.simulation.witness import Witness

from aigovtool.custodian.store.transaction import Head
from aigovtool.errors import ForbiddenError
from aigovtool.ids import BorrowerId, ConsumerId, Digest, InstanceId, KeyId, MessageId, OperatorId, key_id_of
from aigovtool.ledger import entry
from aigovtool.ledger.book import Book, Effects, Event
from aigovtool.ledger.budget import BudgetLimit, BudgetRow, RowKey, key_now, row_for, row_now
from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.policy import default_policy
from aigovtool.ledger.units import vector
from aigovtool.protocol.messages import Answer
from aigovtool.protocol.stop import ActiveStop, StopState, concerns

Apply = Callable[[Book, Event], Effects]
DIGEST = Digest("sha256:" + "1" * 64)
#: Until when credentials last: longer than any history.
_NEVER_MS = 10**15


@dataclass
class Replica:
    """One process."""

    offset_ms: int
    down_until_ms: int = 0


class Office:
    """What every transaction needs. `custodian` is the identifier of its root key."""

    custodian: KeyId = CUSTODIAN
    memory_kind: type[Memory] = Memory

    def __init__(self, scene: Scene, witness: Witness, apply: Apply) -> None:
        self.scene = scene
        self.witness = witness
        self.apply = apply
        self.memory = self.memory_kind(self.custodian)
        self.replicas = [Replica(scene.rng.choice((0, -1_500, 2_000))) for _ in range(REPLICAS)]
        self.recalled_ms = -1_000
        #: How often units have moved, at all and when each answer was made.
        self.changes = 0
        self.changes_at: dict[MessageId, tuple[Answer, int]] = {}
        chosen = default_policy(scene.rng.choice(scene.weather.dials), ttl_ms=TTL_MS)
        also = scene.rng.choice(scene.weather.also)
        self.policy = msgspec.structs.replace(
            chosen,
            also=also,
            request_max=vector({dimension: ALSO[dimension] for dimension in also}),
            wipe_after_ms=WIPE_AFTER_MS,
            max_unclosed_percent_per_instance=scene.rng.choice((10, 60)),
            max_unclosed_percent_per_borrower=80,
        )
        self.ledger = Ledger(head=Head(epoch=1), limits=limits_of(scene, self.policy.also))
        writes = self.begin(self.replicas[0])
        writes.record(entry.Genesis(custodian=self.custodian))
        self._enrol(writes)
        writes.record(
            entry.ModelAdded(
                model=MODEL,
                manifest=MANIFEST,
                package=DIGEST,
                package_bytes=4_096,
                sealer=self.custodian,
                policy=self.policy.digest(),
                command=self.command(),
                also=self.policy.also,
            )
        )
        for limit in self.ledger.limits:
            writes.rows[key_now(limit, writes.now_ms)] = msgspec.structs.replace(
                row_for(limit, writes.now_ms), not_after_ms=None
            )
            writes.record(entry.BudgetSet(limit=limit, command=self.command()))
        self.commit(writes)

    def _enrol(self, writes: Transaction) -> None:
        """Enrol two operators, the borrowers and their consumers, and some of whom nothing is heard."""
        roles = entry.PartyRole
        enrolled: list[tuple[entry.PartyRole, str, BorrowerId | None]] = [
            (roles.OPERATOR, "alice", None),
            (roles.OPERATOR, "bob", None),
            *((roles.BORROWER, borrower, None) for borrower in (*CONSUMERS, WEST)),
            *((roles.CONSUMER, name, borrower) for borrower, names in CONSUMERS.items() for name in names),
            (roles.CONSUMER, "dora", WEST),
        ]
        for role, name, borrower in enrolled:
            command = None if name == "alice" else self.command()
            writes.record(party(role, name, borrower, command))

    @property
    def rows(self) -> dict[RowKey, BudgetRow]:
        """The budget rows that were ever used or set."""
        return self.ledger.rows

    # -- Transactions -----------------------------------------------------------------------------

    def now(self, replica: Replica) -> int:
        """Return the ledger's time, which never goes back."""
        return max(self.ledger.head.clock_ms, self.scene.ms + replica.offset_ms)

    def any_replica(self) -> Replica:
        """Return the process that a message or an order goes to."""
        return self.scene.rng.choice(self.replicas)

    def is_down(self, replica: Replica) -> bool:
        """Return whether a process is being restarted."""
        return self.scene.ms < replica.down_until_ms

    def begin(self, replica: Replica) -> Transaction:
        """Begin a transaction."""
        return Transaction(self.ledger, self.now(replica))

    def commit(self, writes: Transaction) -> None:
        """Make a transaction's writes durable."""
        self.ledger.take(writes)
        self.changes += bool(writes.rows or writes.leases)
        self.witness.committed(writes)

    def command(self, second: str | None = None) -> entry.Command:
        """Return the mark of an operator's command."""
        return entry.Command(
            operator=OperatorId("alice"),
            command_id=MessageId(f"{self.scene.number():032x}"),
            digest=DIGEST,
            second=None if second is None else OperatorId(second),
        )

    @staticmethod
    def book_with(row: BudgetRow) -> Book:
        """Return a book with one row."""
        return Book(rows=MappingProxyType({row.key: row}))

    def rows_now(self, writes: Transaction, borrower: BorrowerId, consumer: ConsumerId) -> dict[RowKey, BudgetRow]:
        """Return the rows that a grant to a consumer would debit now."""
        rows = (self.row_now(writes, limit) for limit in on_path(self.ledger.limits, borrower, consumer))
        return {row.key: row for row in rows}

    def row_at(self, writes: Transaction, key: RowKey) -> BudgetRow:
        """Return a row of any bucket, fresh if nothing was debited there."""
        limits = (one for one in self.ledger.limits if key_now(one, key.bucket_ms) == key)
        return writes.row(key) or row_for(next(limits), key.bucket_ms)

    def row_now(self, writes: Transaction, limit: BudgetLimit) -> BudgetRow:
        """Return the row of a limit that a grant would debit now."""
        return row_now(limit, writes.rows_under(limit), writes.now_ms)

    # -- Stops ------------------------------------------------------------------------------------

    def touching(self, instance: InstanceId, borrower: BorrowerId) -> list[Stop]:
        """Return every stop, in force or lifted, that concerns an instance."""
        return [stop for (t, v), stop in self.ledger.stops.items() if _concerns(t, v, instance, borrower)]

    def stop_state(self, instance: InstanceId, borrower: BorrowerId) -> StopState:
        """Return the signed stop state of an instance."""
        touching = self.touching(instance, borrower)
        state = StopState(
            instance=instance,
            epoch=self.ledger.head.epoch,
            scope_epoch=max((stop.epoch for stop in touching), default=0),
            stops=[ActiveStop(target=s.target, value=s.value, epoch=s.epoch) for s in touching if s.active],
        )
        self.witness.memory.issued(state)
        return state

    def announced(self) -> None:
        """Give out the stop state of every instance, as it is pushed to those that listen after the epoch has leapt.

        Whether it arrives is not played: a push only saves time.
        """
        for instance, admitted in self.ledger.instances.items():
            self.stop_state(instance, admitted.borrower)

    # -- Admission --------------------------------------------------------------------------------

    def admit(self, instance: InstanceId, borrower: BorrowerId, *, refundable: bool) -> bool:
        """Admit an instance, unless it is stopped or nobody is there."""
        replica = self.any_replica()
        if self.is_down(replica) or self.ledger.head.gap is not None:
            return False
        if self.stop_state(instance, borrower).is_wide():
            return False
        writes = self.begin(replica)
        writes.instances[instance] = Admitted(borrower, writes.head.generation, refundable)
        writes.record(
            entry.Attested(instance=instance, borrower=borrower, tee="simulated", measurement="3" * 64, result=DIGEST)
        )
        self.commit(writes)
        return True

    def is_as_of(self, answer: Answer) -> bool:
        """Return whether no units have moved since an answer was made."""
        made, changes = self.changes_at[answer.request_id]
        return made is answer and changes == self.changes

    def require(self, instance: InstanceId) -> Admitted:
        """Return an instance that was admitted.

        Raises:
            ForbiddenError: it never was, as far as this ledger knows.
        """
        admitted = self.ledger.instances.get(instance)
        if admitted is None:
            raise ForbiddenError("this instance was never admitted here", reason="unknown_instance")
        return admitted


def party(
    role: entry.PartyRole, name: str, borrower: BorrowerId | None, command: entry.Command | None
) -> entry.PartyAdded:
    """Return the enrolment of somebody."""
    key = key_id_of(f"{role} {name}".encode())
    return entry.PartyAdded(role=role, name=name, key=key, borrower=borrower, not_after_ms=_NEVER_MS, command=command)


@lru_cache(maxsize=1 << 12)
def _concerns(target: StopTarget, value: str, instance: InstanceId, borrower: BorrowerId) -> bool:
    return concerns(target, value, instance=instance, borrower=borrower, models=[MODEL])
