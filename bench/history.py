"""Years of use, made in minutes: instances, leases and audit entries as a custodian would have written them.

What a lease goes through is done once by the ledger's own arithmetic (`ledger.book`): drawn, closed, and, for one in a
hundred, expired and closed late. All others are copies of these with an identity, a holder and a time of their own.
Entries are encoded by the product's codec and hashed by its tree, so that indices, roots and subtrees are those of a
real log, and `aigovtool audit verify` accepts every entry. Only signatures and evidence of the older enclaves are
copies of one enclave's, which was really admitted.

Here rows are made, in bounded batches; `bench.laying` writes them.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import msgspec

from aigovtool.codec import encode
from aigovtool.custodian.store.log import EVERYDAY, NODE_LEVEL, kind_of
from aigovtool.custodian.store.records import Instance, Model
from aigovtool.ids import ConsumerId, InstanceId, LeaseId, digest_of, key_id_of
from aigovtool.ledger import book
from aigovtool.ledger.book import Book, Draw, Effects, Event, Expire, ReportUsage
from aigovtool.ledger.budget import BudgetRow
from aigovtool.ledger.entry import Attested, Entry, EntryBody, KeyReleased, LeaseClosed, LeaseExpired, LeaseGranted
from aigovtool.ledger.lease import Lease
from aigovtool.ledger.merkle import Frontier, leaf_hash
from aigovtool.ledger.policy import GRACE_MS
from aigovtool.ledger.units import ZERO, Dimension, UnitVector, of
from aigovtool.protocol.messages import Report

#: An enclave that renews every ten seconds, for three hours. Then another one takes its place.
LEASES_OF_A_LIFE: Final = 1_000
#: One lease in so many expires and is closed late.
_LATE: Final = 100
#: Leases that one instance holds and has not closed.
LEASES_HELD: Final = 10
_DRAWN, _USED = 8, 5

Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a ledger holds already: its log, an enclave that was admitted, and whom a model is lent to."""

    log: Frontier
    generation: int
    clock_ms: int
    instance: Instance
    model: Model
    consumer: ConsumerId
    rows: tuple[BudgetRow, ...]


@dataclass(slots=True)
class Batch:
    """Rows of five tables, each in the order of its columns."""

    log: list[Row] = field(default_factory=list)
    log_nodes: list[Row] = field(default_factory=list)
    log_kinds: list[Row] = field(default_factory=list)
    leases: list[Row] = field(default_factory=list)
    instances: list[Row] = field(default_factory=list)


class Pattern:
    """One lease, as the ledger's own transitions make it."""

    def __init__(self, origin: Origin) -> None:
        self.dimension: Final[Dimension] = origin.model.policy.dimension
        policy, now_ms = origin.model.policy, origin.clock_ms
        before = Book(rows=MappingProxyType({row.key: row for row in origin.rows}))
        draw = Draw(
            lease_id=LeaseId("0" * 32),
            instance=origin.instance.instance,
            borrower=origin.instance.borrower,
            model=origin.model.model,
            manifest=origin.model.manifest_digest,
            consumer=origin.consumer,
            minimum=of(self.dimension, 1),
            target=of(self.dimension, _DRAWN),
            policy=policy,
            refundable=origin.instance.refundable,
            held_by_instance=ZERO,
            held_by_borrower=ZERO,
            ttl_ms=policy.ttl_ms,
            grace_ms=GRACE_MS,
            now_ms=now_ms,
        )
        drawn = _applied(before, draw)
        self.drawn: Final[Lease] = drawn.leases[0]
        self.used: Final[UnitVector] = of(self.dimension, _USED)
        final = ReportUsage(
            instance=origin.instance.instance,
            lease_id=draw.lease_id,
            seq=1,
            used=self.used,
            ok=_USED,
            err=0,
            final=True,
            digest=digest_of(b""),
        )
        held = before.after(drawn)
        closed = _applied(held, final)
        expired = _applied(held, Expire(lease_id=draw.lease_id, now_ms=now_ms + policy.ttl_ms + GRACE_MS + 1))
        late = _applied(held.after(expired), final)
        self.closed: Final[Lease] = closed.leases[0]
        self.closed_late: Final[Lease] = late.leases[0]
        #: Charged in the end, in time or late.
        self.charged: Final[UnitVector] = of(self.dimension, closed.rows[0].posted - origin.rows[0].posted)

    @property
    def units(self) -> int:
        """Units of one lease."""
        return self.drawn.units.get(self.dimension)


def _applied(held: Book, event: Event) -> Effects:
    effects = book.apply(held, event)
    if not effects.leases:
        raise RuntimeError(f"no history can be made here: {effects.outcome}")
    return effects


class Past:
    """Makes a history that follows on `origin`, whose last entry is at `origin.clock_ms`."""

    def __init__(self, origin: Origin) -> None:
        self.pattern: Final = Pattern(origin)
        self._origin: Final = origin
        #: The tree as it stands, and what was made so far.
        self.tree = origin.log
        self.begun_at: Final = origin.log.size
        self.closed = 0
        self.held = 0
        self._batch = Batch()

    def used_up(self, entries: int) -> Iterator[Batch]:
        """Make lives of instances that drew and closed leases, until the log has `entries` in all."""
        while self.tree.size < entries:
            instance = self._admit()
            for number in range(LEASES_OF_A_LIFE):
                self._live(instance, late=number % _LATE == _LATE - 1)
                if self.tree.size >= entries:
                    break
            yield self._made()

    def in_use(self, leases: int) -> Iterator[Batch]:
        """Make instances that hold leases which they have not closed."""
        done = 0
        while done < leases:
            instance = self._admit()
            for _ in range(min(LEASES_HELD, leases - done)):
                self._hold(instance)
                done += 1
            if done % LEASES_OF_A_LIFE == 0 or done >= leases:
                yield self._made()

    def _made(self) -> Batch:
        batch, self._batch = self._batch, Batch()
        return batch

    def _record(self, body: EntryBody) -> int:
        origin, index = self._origin, self.tree.size
        data = encode(Entry(index=index, at_ms=origin.clock_ms, generation=origin.generation, body=body))
        leaf = leaf_hash(data)
        self.tree, completed = self.tree.grow(leaf)
        self._batch.log.append((index, leaf, self.tree.root(), data))
        if not isinstance(body, EVERYDAY):
            self._batch.log_kinds.append((kind_of(type(body)), index))
        for tree in completed:
            if tree.level >= NODE_LEVEL:
                self._batch.log_nodes.append((tree.level, tree.index, tree.hash))
        return index

    def _admit(self) -> InstanceId:
        like, model = self._origin.instance, self._origin.model
        instance = InstanceId(secrets.token_hex(32))
        one = msgspec.structs.replace(like, instance=instance, identity_key=secrets.token_bytes(32))
        now_ms = self._origin.clock_ms
        self._batch.instances.append(
            (instance, key_id_of(one.identity_key), one.borrower, one.state, now_ms, now_ms, encode(one))
        )
        self._record(
            Attested(
                instance=instance,
                borrower=one.borrower,
                tee=one.tee.value,
                measurement=" ".join(f"{part.name}={part.digest}" for part in one.result.measurements),
                result=digest_of(encode(one.result)),
            )
        )
        self._record(KeyReleased(instance=instance, model=model.model, manifest=model.manifest_digest))
        return instance

    def _grant(self, instance: InstanceId) -> tuple[LeaseId, int]:
        lease_id, drawn = LeaseId(secrets.token_hex(16)), self.pattern.drawn
        granted = LeaseGranted(
            lease_id=lease_id,
            instance=instance,
            borrower=drawn.borrower,
            model=drawn.model,
            consumer=drawn.consumer,
            units=drawn.units,
            rows=drawn.rows,
        )
        return lease_id, self._record(granted)

    def _live(self, instance: InstanceId, *, late: bool) -> None:
        lease_id, index = self._grant(instance)
        pattern = self.pattern
        if late:
            self._record(LeaseExpired(lease_id=lease_id))
        receipts = secrets.token_hex(32)
        closed = LeaseClosed(
            lease_id=lease_id,
            late=late,
            used=pattern.used,
            charged=pattern.charged,
            ok=_USED,
            err=0,
            receipts=receipts,
        )
        self._record(closed)
        report = Report(lease_id=lease_id, seq=1, used=pattern.used, ok=_USED, err=0, final=True, receipts=receipts)
        ended = msgspec.structs.replace(
            pattern.closed_late if late else pattern.closed,
            lease_id=lease_id,
            instance=instance,
            report=digest_of(encode(report)),
        )
        self._keep(ended, index)
        self.closed += 1

    def _hold(self, instance: InstanceId) -> None:
        lease_id, index = self._grant(instance)
        self._keep(msgspec.structs.replace(self.pattern.drawn, lease_id=lease_id, instance=instance), index)
        self.held += 1

    def _keep(self, lease: Lease, entry: int) -> None:
        deadline_ms = lease.granted_at_ms + lease.ttl_ms + lease.grace_ms
        self._batch.leases.append(
            (
                lease.lease_id,
                lease.instance,
                lease.borrower,
                lease.model,
                lease.consumer,
                lease.state.value,
                deadline_ms,
                *(lease.units.get(dimension) for dimension in Dimension),
                entry,
                encode(lease),
            )
        )
