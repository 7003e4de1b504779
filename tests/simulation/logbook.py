"""A custodian of the simulation that also does its paperwork, so that every kind of entry is in its log.

Parties, models and asks move no unit, and nobody in them takes part in the history.
"""

from collections.abc import Callable

import msgspec
from tests.simulation.books import Admitted, Stop, Transaction
from tests.simulation.custodian import Custodian
from tests.simulation.office import DIGEST, party
from tests.simulation.scene import MANIFEST, MODEL, NORTH, WEST

from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey
from aigovtool.ids import InstanceId, KeyId, LeaseId, MessageId, ModelId
from aigovtool.ledger import entry
from aigovtool.ledger.book import Charge, WriteOff
from aigovtool.ledger.budget import Scope
from aigovtool.ledger.cosignature import WitnessKey
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.lease import LeaseState
from aigovtool.protocol.messages import Answer, Renew
from aigovtool.protocol.stop import StopState

_FACES = ModelId("faces")
#: Stopped and resumed; the other one is withdrawn, and what is withdrawn is never resumed.
_LETTERS = ModelId("letters")
_NEWCOMER = InstanceId("c" * 64)
_WITNESS = SigningKey.from_secret(Secret(b"TEST-ONLY signing key of witness"))


class LoggingCustodian(Custodian):
    """Keeps a log with entries of every kind."""

    @property
    def entries(self) -> list[entry.Entry]:
        """The audit log."""
        return self.ledger.entries

    def answer(self, writes: Transaction, instance: Admitted, request: Renew, state: StopState) -> Answer:
        """Do some paperwork now and then, with a renewal."""
        if self.scene.chance(0.05):
            body = self.scene.rng.choice(self.paperwork(writes))()
            if not isinstance(body, entry.KeyReleased):
                writes.record(body)
            elif not (self.is_gone(writes, request.instance) or self.is_outdated(writes, instance) or state.is_wide()):
                writes.record(msgspec.structs.replace(body, instance=request.instance))
        return super().answer(writes, instance, request, state)

    def _newcomer(self) -> entry.PartyAdded:
        return party(PartyRole.CONSUMER, f"dora-{self.scene.number()}", WEST, self.command())

    def _leaver(self, writes: Transaction) -> entry.PartyRevoked | entry.PartyAdded:
        """Return the end of somebody of whom nothing is heard; there is a newcomer where all are gone."""
        bodies = [known.body for known in (*self.entries, *writes.entries)]
        gone = {body.name for body in bodies if isinstance(body, entry.PartyRevoked)}
        there = [
            body.name
            for body in bodies
            if isinstance(body, entry.PartyAdded) and body.borrower == WEST and body.name not in gone
        ]
        if not there:
            return self._newcomer()
        role, epoch = PartyRole.CONSUMER, writes.head.epoch
        return entry.PartyRevoked(role=role, name=there[0], epoch=epoch, command=self.command())

    def paperwork(self, writes: Transaction) -> list[Callable[[], entry.EntryBody]]:
        """Return what makes each kind of entry that moves no unit."""
        other, key, epoch = InstanceId("f" * 64), KeyId("2" * 64), writes.head.epoch
        scope = Scope(model=MODEL, borrower=NORTH)
        return [
            lambda: entry.KeySetPublished(version=self.scene.number(), digest=DIGEST),
            self._newcomer,
            lambda: self._leaver(writes),
            lambda: entry.ModelAdded(
                model=_FACES,
                manifest=MANIFEST,
                package=DIGEST,
                package_bytes=4_096,
                sealer=key,
                policy=DIGEST,
                command=self.command(),
            ),
            lambda: entry.ModelTermsSet(
                model=_FACES, policy=DIGEST, borrowers=[NORTH], epoch=epoch, command=self.command()
            ),
            lambda: entry.ModelWithdrawn(model=_FACES, epoch=epoch, command=self.command()),
            lambda: entry.AppraisalPolicySet(version=self.scene.number(), digest=DIGEST, command=self.command("bob")),
            lambda: entry.AttestationRefused(borrower=NORTH, code="appraisal", reason="measurement"),
            lambda: entry.AttestationWithdrawn(
                instance=other, borrower=NORTH, code="evidence_unacceptable", reason="measurements"
            ),
            lambda: entry.KeyReleased(instance=_NEWCOMER, model=MODEL, manifest=MANIFEST),
            lambda: entry.ReleaseRefused(instance=other, model=MODEL, code="reattest_required", reason=""),
            lambda: entry.CommandRefused(command=self.command(), code="conflict", reason="unlimited"),
            lambda: entry.Refused(
                role=entry.Refusable.ENCLAVE, name=other, act="renew", code="log_invalid", reason="checkpoint", times=7
            ),
            lambda: entry.Forked(instance=other, lease_id=LeaseId("e" * 32), epoch=epoch),
            lambda: entry.Asked(
                ask_id=self._id(), role=PartyRole.BORROWER, name="north", scope=scope, units=20, reason="more patients"
            ),
            lambda: entry.AskDecided(ask_id=self._id(), approved=self.scene.chance(0.5), command=self.command()),
        ]

    def _id(self) -> MessageId:
        return MessageId(f"{self.scene.number():032x}")

    # -- What has not occurred yet ----------------------------------------------------------------

    def complete(self) -> None:
        """Add what has not occurred yet, so that every kind of entry is there."""
        writes = self.begin(self.replicas[0])
        writes.head = msgspec.structs.replace(writes.head, gap=None, clock_ms=writes.now_ms + 60_000)
        writes.now_ms += 60_000
        for active in (True, False):
            epoch = writes.next_epoch()
            writes.stops[StopTarget.MODEL, _LETTERS] = Stop(StopTarget.MODEL, _LETTERS, epoch, active, self.scene.ms)
            kind = entry.Stopped if active else entry.Resumed
            writes.record(kind(target=StopTarget.MODEL, value=_LETTERS, epoch=epoch, command=self.command("bob")))
        self.sweep(writes)
        self._recover(writes)
        present = {type(known.body) for known in (*self.entries, *writes.entries)}
        if entry.Wiped not in present:
            writes.record(entry.Wiped(instance=InstanceId("d" * 64), epoch=writes.head.epoch))
        for make in self.paperwork(writes):
            body = make()
            if type(body) not in {*present, entry.KeyReleased}:
                writes.record(body)
        self._release(writes)
        writes.record(entry.ClockAccepted(before_ms=writes.now_ms - 60_000))
        witness = WitnessKey(name="witness.example/w1", key=_WITNESS.public)
        writes.record(entry.WitnessEnrolled(witness=witness.text(), command=self.command()))
        writes.record(entry.WitnessRetired(name=witness.name, command=self.command()))
        self.commit(writes)

    def _release(self, writes: Transaction) -> None:
        """Hand a key to an enclave that nobody has heard of before, once nothing is stopped that it is of."""
        found = {**self.ledger.stops, **writes.stops}
        for stop in [one for one in found.values() if one.active and one.target in {StopTarget.ALL, StopTarget.MODEL}]:
            epoch = writes.next_epoch()
            writes.stops[stop.target, stop.value] = Stop(stop.target, stop.value, epoch, False, self.scene.ms)
            writes.record(entry.Resumed(target=stop.target, value=stop.value, epoch=epoch, command=self.command("bob")))
        writes.record(
            entry.Attested(
                instance=_NEWCOMER,
                borrower=WEST,
                tee="simulated",
                measurement="3" * 64,
                result=DIGEST,
            )
        )
        writes.record(entry.KeyReleased(instance=_NEWCOMER, model=MODEL, manifest=MANIFEST))

    def _recover(self, writes: Transaction) -> None:
        """Write one lease off, and begin a new generation with a charge."""
        known = {**self.ledger.unclosed, **writes.leases}
        expired = [lease for lease in known.values() if lease.state is LeaseState.EXPIRED]
        for lease in expired[:1]:
            effects = self.take(writes.book_of(lease.lease_id), WriteOff(lease_id=lease.lease_id))
            writes.write(effects)
            writes.record(entry.LeaseWrittenOff(lease_id=lease.lease_id, command=self.command("bob")))
        head = writes.head
        note = self.memory.note(head)
        writes.record(entry.GapFound(checkpoint=note, lost_generation=head.generation, lost_size=head.frontier.size))
        writes.head = msgspec.structs.replace(writes.head, generation=head.generation + 1)
        restored = entry.Restored(
            generation=writes.head.generation,
            checkpoint=note,
            lost_size=head.frontier.size,
            command=self.command("bob"),
        )
        writes.record(restored)
        row = next(iter(self.ledger.rows.values()))
        charge = Charge(key=row.key, units=1)
        writes.write(self.take(self.book_with(writes.row(row.key) or row), charge))
        writes.record(entry.Charged(row=charge.key, units=charge.units, command=restored.command))
        writes.charges[charge.key] += charge.units
