"""One boot of one enclave of the simulation, with the production meter, and the host that runs it."""

import copy
from collections.abc import Callable
from typing import Protocol

from tests.simulation.custodian import Custodian
from tests.simulation.grouped import post_several, shares
from tests.simulation.scene import CUSTODIAN, MODEL, Scene, Violation
from tests.simulation.witness import Witness
from tests.simulation.work import Job, comes_in

from aigovtool.errors import ConflictError, RefusalError
from aigovtool.ids import BorrowerId, InstanceId, MessageId
from aigovtool.ledger.policy import CLOCK_RATE_ERROR_PPM
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol.messages import Answer, PathRoom, Renew, Wiped
from aigovtool.protocol.metering import Meter
from aigovtool.protocol.reservation import Posted, Reservation
from aigovtool.protocol.stop import StopState

#: How long an enclave waits before it sends the same message again.
_RETRY_MS = 1_500
#: How many requests wait for units at one enclave; one more is turned away by the web server.
_MAX_WAITING = 6
_WANDER_MS = 20_000
#: How long the statements of a wipe are sent before an instance ends all the same.
_STATING_MS = 60_000


class Sender(Protocol):
    """The network, as one enclave sees it."""

    def renew(self, enclave: "Enclave", request: Renew) -> None:
        """Send a renewal."""

    def wiped(self, enclave: "Enclave", statement: Wiped) -> None:
        """Send the statement that all is gone."""


class Enclave:
    """One boot of one instance; `place` numbers its host."""

    def __init__(
        self,
        scene: Scene,
        witness: Witness,
        custodian: Custodian,
        sender: Sender,
        *,
        place: int,
        borrower: BorrowerId,
        meter: type[Meter],
    ) -> None:
        self.scene = scene
        self.rng = scene.rng
        self.witness = witness
        self.custodian = custodian
        self.sender = sender
        self.place = place
        self.borrower = borrower
        number = scene.number()
        self.name = f"{borrower}{place}#{number}"
        self.instance = InstanceId(f"{number:064x}")
        self.refundable = not scene.chance(scene.weather.clonable)
        self.boot_ms = scene.ms
        self.rate = 1 - self.rng.random() * CLOCK_RATE_ERROR_PPM / 1_000_000
        self.alive = True
        self.censored = False
        self.held_back = False
        self.frozen_until_ms = 0
        self.jobs: list[Job] = []
        self.waiting: list[Job] = []
        self.sent_ms = -10_000
        self.asked_ms: dict[MessageId, int] = {}
        self.contact_ms = scene.ms
        self.statements: list[Wiped] | None = None
        self.wiped_ms = 0
        self.hinted = False
        self.newest = (0, 0)
        self.known = custodian.stop_state(self.instance, borrower)
        #: Signed for this instance: a host can play them out once more.
        self.states = [self.known]
        self.meter = meter(
            instance=self.instance,
            custodian=CUSTODIAN,
            policies={MODEL: custodian.policy},
            stop_state=self.known,
            admitted_ms=0,
        )
        self.refused = not custodian.admit(self.instance, borrower, refundable=self.refundable)
        scene.tell(self.name, "is {}", "not admitted" if self.refused else "admitted")

    def twin(self, place: int) -> "Enclave":
        """Return a copy of this enclave, memory and all, on another machine."""
        copied = copy.copy(self)
        copied.place, copied.name = place, f"{self.name}'{place}"
        copied.meter = copy.deepcopy(self.meter)
        copied.jobs = [copy.copy(job) for job in self.jobs]
        copied.waiting = [copy.copy(job) for job in self.waiting]
        copied.asked_ms = dict(self.asked_ms)
        return copied

    def now(self) -> int:
        """Return the elapsed time by a clock that may be slow by the stated error; it counts suspensions."""
        return int((self.scene.ms - self.boot_ms) * self.rate)

    def is_frozen(self) -> bool:
        """Return whether the host has suspended the machine."""
        return self.scene.ms < self.frozen_until_ms

    # -- One step ---------------------------------------------------------------------------------

    def act(self, start_again: Callable[["Enclave"], None]) -> None:
        """Do what an enclave does in one step of time."""
        if self.is_frozen():
            return
        if self.refused:  # it was stopped, nobody was there to admit it, or the ledger has a gap: it tries again
            start_again(self)
            return
        now_ms = self.now()
        if self.statements is None and (self.scene.chance(self.scene.weather.engine_death) or self.must_wipe(now_ms)):
            self.wipe()
        if self.statements is not None:
            self.after_wipe(now_ms, self.statements, start_again)
            return
        self.witness.silent_for(self.name, self.scene.ms - self.contact_ms)
        if self.meter.renew_due(now_ms) and now_ms - self.sent_ms > _RETRY_MS:
            self.sent_ms = now_ms
            request = self.meter.renew(now_ms, MessageId(f"{self.scene.number():032x}"))
            self.asked_ms.setdefault(request.request_id, self.scene.ms)
            if self.witness.memory.place(request.checkpoint_seen) != self.newest:
                raise Violation("rollback", f"{self.name} does not show the newest checkpoint that it was given")
            self.sender.renew(self, request)
        self.finish_jobs()
        self.start_jobs()

    def must_wipe(self, now_ms: int) -> bool:
        """Return whether the meter demands a wipe."""
        return self.meter.must_wipe(now_ms)

    def wipe(self) -> None:
        """Kill the engine, and only then shut every counter and build the final reports."""
        self.jobs.clear()
        self.waiting.clear()
        self.wiped_ms, self.sent_ms = self.now(), -10_000  # said at once: it may overtake a renewal that is under way
        self.statements = self.meter.wipe()
        self.scene.seen["wipe"] += 1
        self.scene.tell(self.name, "wipes: {} final reports", sum(len(one.reports) for one in self.statements))

    def after_wipe(self, now_ms: int, statements: list[Wiped], start_again: Callable[["Enclave"], None]) -> None:
        """Send the statements until they are acknowledged, or for a minute; then begin anew."""
        if not statements or now_ms - self.wiped_ms > _STATING_MS:
            self.scene.seen["unacknowledged"] += bool(statements)
            start_again(self)
        elif now_ms - self.sent_ms > 2_000:
            self.sent_ms = now_ms
            self.sender.wiped(self, statements[0])

    # -- Requests of consumers --------------------------------------------------------------------

    def fresh_requests(self) -> list[Job]:
        """Return the requests that come in now."""
        weather = self.scene.weather
        if weather.wandering and (self.scene.ms // _WANDER_MS + self.place) % 3:
            return []
        return [
            comes_in(self.scene, self.borrower, self.custodian.policy) for _ in range(self.rng.choice((0, 0, 1, 4)))
        ]

    def start_jobs(self) -> None:
        """Reserve units for whoever waits and whoever comes."""
        fresh = self.fresh_requests()
        tried, self.waiting = [(job, True) for job in self.waiting] + [(job, False) for job in fresh], []
        for job, waited in tried:
            if (waited and self.scene.chance(self.scene.weather.impatience)) or len(self.waiting) >= _MAX_WAITING:
                if waited:  # its deadline has passed
                    self.meter.waiting(MODEL, job.consumer, -1, job.request)
                continue
            self.start(job, waited=waited)

    def start(self, job: Job, *, waited: bool) -> None:
        """Reserve what a request needs to begin or to go on; one that is refused ends."""
        units = job.need(self.custodian.policy)
        try:
            reservation = self.meter.reserve(self.now(), MODEL, job.consumer, units, job.request)
        except RefusalError as refusal:
            self.scene.seen[refusal.code] += 1
            if waited:
                self.meter.waiting(MODEL, job.consumer, -1, job.request)
            return
        job.reservation = reservation
        (self.waiting if reservation is None else self.jobs).append(job)
        if waited != (reservation is None):
            self.meter.waiting(MODEL, job.consumer, 1 if reservation is None else -1, job.request, units)

    def finish_jobs(self) -> None:
        """Let some of the work in flight go on, or end."""
        working, self.jobs = self.jobs, []
        for job in working:
            if not self.scene.chance(max(job.speed, self.scene.weather.speeds[0])):
                self.jobs.append(job)
            elif self.scene.chance(self.scene.weather.failed_work):
                self.meter.void(_reserved(job), failed=True)
            elif self.release(job):
                self.start(job, waited=False)

    def release(self, job: Job) -> bool:
        """Gate, charge and release an answer or the next chunk of it; return whether it needs another segment."""
        reservation = _reserved(job)
        chunk = job.chunk(reservation, self.rng)
        try:
            if not job.ends(reservation, chunk):
                job.reservation = self.meter.advance(self.now(), reservation, chunk)
                self.scene.seen["chunk"] += 1
            else:
                written = self.meter.preview(reservation, chunk)
                self.meter.gate(self.now(), reservation)
                self.post(job, reservation, chunk, written)
        except RefusalError:
            self.meter.void(reservation, failed=False)
            self.scene.seen["cut" if job.begun else "discarded"] += 1
            return False
        stops = self.custodian.touching(self.instance, self.borrower)
        self.witness.released(self.name, reservation, chunk, request=job.request, borrower=self.borrower, stops=stops)
        self.witness.knew(self.name, self.known, reservation.consumer)
        return self.goes_on(job, reservation, chunk)

    def post(self, job: Job, reservation: Reservation, chunk: UnitVector, written: Posted) -> None:
        """Charge what leaves: rows of one request, or of as many that came together."""
        if job.is_group:
            self.scene.seen["group"] += 1
            if post_several(self.meter, reservation, shares(chunk, job.rows), written) != chunk:
                raise Violation("receipt", f"receipts of {self.name} say {chunk}, and not what was posted")
        elif self.meter.post(reservation, chunk) != written:
            raise Violation("receipt", f"a receipt of {self.name} says {written}, and not what was posted")

    def goes_on(self, job: Job, reservation: Reservation, chunk: UnitVector) -> bool:
        """Note what has left of a job; return whether it needs another segment."""
        ended = job.ends(reservation, chunk)
        job.begun, job.tokens = True, job.tokens - chunk.output_tokens
        if not ended:
            self.jobs.append(job)
        self.scene.seen["segment"] += ended and job.tokens > 0
        return ended and job.tokens > 0

    # -- Messages ---------------------------------------------------------------------------------

    def learns(self, state: StopState) -> None:
        """Keep the newest stop state that has arrived here, for the witness."""
        newer = (state.scope_epoch, state.epoch) >= (self.known.scope_epoch, self.known.epoch)
        if state.instance == self.instance and newer:
            self.known = state
            self.states.append(state)

    def hears(self) -> bool:
        """Return whether there is still somebody who takes messages."""
        return self.alive and self.statements is None and not self.refused

    def take_answer(self, answer: Answer, state: StopState) -> None:
        """Take the reply to a renewal; it may be a replay, or another enclave's."""
        if not self.hears():
            return
        self.learns(state)
        try:
            self.meter.apply_stop_state(state)
            self.meter.accept(self.now(), answer)
        except ConflictError as refusal:
            self.scene.seen[f"refused_{refusal.reason}"] += 1
            return
        self.accepted(answer)
        asked_ms = self.asked_ms.get(answer.request_id, self.scene.ms)
        # Unless it came too late to count as one. A stop that it brings may be lifted before anything is wiped for it.
        if not self.meter._is_silent(self.now()):
            self.contact_ms = max(self.contact_ms, asked_ms)
        self.scene.tell(self.name, "takes the answer to what it asked {} ms ago", self.scene.ms - asked_ms)
        if self.meter.must_reattest:
            self.wipe()

    def accepted(self, answer: Answer) -> None:
        """Check what must hold right after an answer was accepted."""
        self.sent_ms = -10_000
        self.newest = max(self.newest, self.witness.memory.place(answer.checkpoint))
        if self.hinted and not self.meter.must_reattest and not self.meter.renew_due(self.now()):
            wide = self.meter.stop_state.is_wide()
            if not wide:
                raise Violation("hint", f"{self.name} has forgotten a hint that came while it was renewing")
        self.scene.seen["hinted"] += self.hinted
        self.hinted = False
        # What an older answer says is left does not count, nor what comes to an enclave that is to wipe.
        stale = answer.epoch < self.meter.stop_state.scope_epoch or self.meter.must_wipe(self.now())
        if not stale and self.custodian.is_as_of(answer):
            told = {(room.consumer, room.dimension): self.left(room) for room in answer.rooms}
            self.witness.told_rooms(self.name, answer, self.borrower, told, self.custodian.ledger)

    def left(self, room: PathRoom) -> int:
        """Return what consumers are told to be left, beside what is held here."""
        path = (MODEL, room.consumer)
        held = sum(holding.free.get(room.dimension) for holding in self.meter._holdings.open(path))
        return self.meter.remaining(*path).get(room.dimension) - held

    def take_unknown(self) -> None:
        """The custodian does not know this instance: wipe, and begin anew; there is nobody to tell."""
        if self.alive and not self.refused:
            self.scene.seen["unknown"] += 1
            self.scene.tell(self.name, "is not known to the custodian")
            if self.statements is None:
                self.wipe()
            self.statements = []

    def take_push(self, state: StopState) -> None:
        """Take a pushed stop state, which also hints to renew."""
        if self.hears():
            self.learns(state)
            self.meter.apply_stop_state(state)
            self.take_nudge(granted=True, recall=False)
            self.scene.tell(self.name, "takes a stop state of epoch {}, wide: {}", state.epoch, state.is_wide())

    def take_nudge(self, *, granted: bool, recall: bool) -> None:
        """Take a hint to renew."""
        if self.hears():
            self.hinted = self.hinted or self.meter.is_renewing
            self.meter.nudge(self.now(), granted=granted, recall=recall)

    def take_acknowledgement(self, statement: Wiped) -> None:
        """These final reports have arrived."""
        self.meter.acknowledge_wipe(statement)
        if self.statements is not None:
            self.statements = [one for one in self.statements if one != statement]


def _reserved(job: Job) -> Reservation:
    if job.reservation is None:
        raise Violation("wall", "something runs without a reservation")
    return job.reservation
