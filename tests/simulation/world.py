"""The world of a simulated history: the network, the faults, and the order of things in one step."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec
from tests.simulation.clocks import Clocks
from tests.simulation.custodian import Custodian
from tests.simulation.enclave import Enclave
from tests.simulation.office import Apply, Replica
from tests.simulation.operators import Operators
from tests.simulation.scene import (
    CALM,
    CONSUMERS,
    HOSTS,
    MODEL,
    STOP_BOUND_MS,
    STORM,
    TTL_MS,
    Scene,
    Violation,
    Weather,
)
from tests.simulation.witness import Witness

from aigovtool.errors import AIGovToolError, ConflictError, ForbiddenError, LedgerRollbackError
from aigovtool.ids import BorrowerId, ConsumerId
from aigovtool.ledger import book as ledger
from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.policy import Dial
from aigovtool.protocol.messages import Deny, DenyCode, Renew, Wiped
from aigovtool.protocol.metering import Meter

STEPS = 300
#: Service is back this long after the last fault.
RECOVERY_MS = 2 * TTL_MS
_MAX_ENCLAVES = len(HOSTS) + 2


@dataclass(frozen=True)
class Rules:
    """The rules in force; a mutant replaces one."""

    meter: type[Meter] = Meter
    apply: Apply = ledger.apply
    custodian: type[Custodian] = Custodian
    enclave: type[Enclave] = Enclave
    operators: type[Operators] = Operators
    recalls: bool = True
    #: The memory of an enclave comes back as it was earlier, as if its state had been sealed and rolled back.
    restores_state: bool = False


PRODUCTION = Rules()


@dataclass
class World:
    """One history. `run` gives the storm, `recover` the calm after it."""

    seed: int
    rules: Rules = PRODUCTION
    weather: Weather = STORM
    tracing: bool = False
    scene: Scene = field(init=False)
    network: list[tuple[int, Enclave, Callable[[], None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scene = Scene(self.seed, self.weather, self.tracing)
        self.rng, self.seen = self.scene.rng, self.scene.seen
        self.witness = Witness(self.scene)
        self.custodian = self.rules.custodian(self.scene, self.witness, self.rules.apply)
        self.clocks = Clocks(self.scene, self.custodian)
        self.operators = self.rules.operators(self.scene, self.witness, self.custodian)
        self.leap, self.restore = self.rng.choice(self.weather.leaps), self.rng.choice(self.weather.restores)
        self.enclaves = [self._boot(place, borrower) for place, borrower in enumerate(HOSTS)]
        self.snapshots: dict[int, Meter] = {}

    def _boot(self, place: int, borrower: BorrowerId) -> Enclave:
        return self.rules.enclave(
            self.scene, self.witness, self.custodian, self, place=place, borrower=borrower, meter=self.rules.meter
        )

    # -- Time -------------------------------------------------------------------------------------

    def run(self, steps: int = STEPS) -> "World":
        """Let so many steps pass in the weather of this world; check after each, and everything at the end."""
        for _ in range(steps):
            self.step((0, 40, 300, 900, 3_000))
        self.witness.check_everything()
        return self

    def step(self, elapsed_ms: tuple[int, ...]) -> None:
        """Let one step pass."""
        elapsed = self.rng.choice(elapsed_ms)
        self.scene.ms += elapsed
        self.witness.passed(elapsed)
        due: list[Callable[[], None]] = []
        held: list[tuple[int, Enclave, Callable[[], None]]] = []
        for entry in self.network:
            at_ms, enclave, message = entry
            if at_ms <= self.scene.ms and not enclave.is_frozen():
                due.append(message)
            else:
                held.append(entry)
        self.network = held
        self.rng.shuffle(due)
        try:
            for message in due:
                message()
            for enclave in list(self.enclaves):
                enclave.act(self.reboot)
        except AIGovToolError as error:
            raise Violation("wall", f"the code's own last check was reached: {error.reason}, {error}") from None
        self.faults()
        self.witness.check()

    # -- Network ----------------------------------------------------------------------------------

    def carry(self, enclave: Enclave, message: Callable[[], None]) -> None:
        """Lose, repeat and delay a message to or from an enclave."""
        weather = self.scene.weather
        copies = 0 if self.scene.chance(weather.loss) else self.rng.choice(weather.repeats)
        delays_ms = (15_000, 25_000, 40_000) if enclave.held_back else weather.delays_ms
        for _ in range(copies):
            delay_ms = 40_000 if self.scene.chance(weather.straggler) else self.rng.choice(delays_ms)
            self.network.append((self.scene.ms + delay_ms, enclave, message))
        self.seen["lost" if copies == 0 else "repeated" if copies > 1 else "carried"] += 1

    def to_enclave(self, enclave: Enclave, message: Callable[[], None]) -> None:
        """Carry a message to an enclave, unless its host withholds everything."""
        if enclave.censored:
            self.seen["censored"] += 1
        else:
            self.carry(enclave, message)

    def renew(self, enclave: Enclave, request: Renew) -> None:
        """Carry a renewal to the custodian."""
        self.carry(enclave, partial(self._take_renewal, enclave, request))

    def _take_renewal(self, enclave: Enclave, request: Renew) -> None:
        replica = self.custodian.any_replica()
        if self.custodian.is_down(replica):
            self.seen["unreachable"] += 1
            return
        try:
            answer, state = self.custodian.renew(replica, request)
        except LedgerRollbackError:
            self.seen["gap"] += 1
            return
        except ConflictError:  # of an older renewal: whoever sent it does not wait for it any more
            return
        except ForbiddenError:
            self.to_enclave(enclave, enclave.take_unknown)
            return
        if self.scene.chance(self.scene.weather.restart):  # committed, and then killed before it replied
            self.restart_custodian(replica)
            return
        if any(isinstance(result, Deny) and result.code is DenyCode.RESERVED for result in answer.results):
            self.recall()
        self.to_enclave(enclave, partial(enclave.take_answer, answer, state))
        for twin in self.enclaves:
            if twin is not enclave and twin.instance == enclave.instance:
                self.to_enclave(twin, partial(twin.take_answer, answer, state))
        if self.scene.chance(self.scene.weather.misdelivery):
            other = self.rng.choice(self.enclaves)
            self.to_enclave(other, partial(other.take_answer, answer, state))

    def wiped(self, enclave: Enclave, statement: Wiped) -> None:
        """Carry a statement to the custodian."""
        self.carry(enclave, partial(self._take_wiped, enclave, statement))

    def _take_wiped(self, enclave: Enclave, statement: Wiped) -> None:
        replica = self.custodian.any_replica()
        if self.custodian.is_down(replica):
            return
        try:
            self.custodian.wiped(replica, statement)
        except LedgerRollbackError:
            self.seen["gap"] += 1
        except ForbiddenError:
            self.to_enclave(enclave, enclave.take_unknown)
        else:
            self.to_enclave(enclave, partial(enclave.take_acknowledgement, statement))

    def recall(self) -> None:
        """Ask everybody to return idle leases, at most once a second."""
        if self.rules.recalls and self.scene.ms - self.custodian.recalled_ms >= 1_000:
            self.custodian.recalled_ms = self.scene.ms
            self.seen["recall"] += 1
            self.hint(granted=False, recall=True)

    def hint(self, *, granted: bool, recall: bool) -> None:
        """Push a hint to every enclave."""
        for enclave in self.enclaves:
            self.to_enclave(enclave, partial(enclave.take_nudge, granted=granted, recall=recall))

    def announce(self) -> None:
        """Push the present stop state to every enclave."""
        for enclave in self.enclaves:
            state = self.custodian.stop_state(enclave.instance, enclave.borrower)
            self.to_enclave(enclave, partial(enclave.take_push, state))

    # -- Faults -----------------------------------------------------------------------------------

    def faults(self) -> None:
        """Let happen what may happen in one step."""
        chance, weather = self.scene.chance, self.scene.weather
        if chance(weather.crash):
            self.crash(self.rng.choice(self.enclaves))
        if chance(weather.held_back):
            self.rng.choice(self.enclaves).held_back = chance(0.4)
        if chance(weather.suspend):
            self.suspend(self.rng.choice(self.enclaves))
        if chance(weather.clone) and self.custodian.policy.dial is Dial.BOUND:
            self.clone(self.rng.choice(self.enclaves))
        if chance(weather.clock_jump):
            self.clocks.jump()
        if chance(self.leap * bool(weather.clock_jump)):
            self.clocks.leap()
            self.hint(granted=True, recall=False)  # whoever knows that another hour has begun asks again
        self.hosts()
        self.orders()
        self.loss()
        if self.rules.restores_state:
            self.snapshots.update({e.place: copy.deepcopy(e.meter) for e in self.enclaves if chance(0.1)})

    def hosts(self) -> None:
        """Let limits be raised, and hosts say what nobody said, or what was said before."""
        chance, weather = self.scene.chance, self.scene.weather
        if chance(weather.raised_limit):
            if chance(0.5):
                self.operators.raise_limits()
            else:
                self.operators.raise_limit(self.rng.randrange(len(self.custodian.ledger.limits)))
            self.hint(granted=True, recall=False)
        if chance(weather.replayed_state):
            enclave = self.rng.choice(self.enclaves)
            self.network.append((self.scene.ms, enclave, partial(enclave.take_push, self.rng.choice(enclave.states))))
        if chance(weather.stray_hint):
            self.hint(granted=chance(0.5), recall=chance(0.5))

    def orders(self) -> None:
        """Let an operator stop something, and resume what has been stopped for longer than its bound."""
        chance = self.scene.chance
        if chance(self.scene.weather.stop):
            self.stop()
        for stop in list(self.custodian.ledger.stops.values()):
            if stop.active and self.scene.ms - stop.since_ms > STOP_BOUND_MS + 15_000 and chance(0.1):
                self.resume(stop.target, stop.value)

    def loss(self) -> None:
        """Let operators give enclaves up, copy the ledger, lose it, and settle what that did."""
        chance, weather, operators = self.scene.chance, self.scene.weather, self.operators
        if chance(weather.write_off):
            operators.write_off()
        if chance(weather.backup):
            operators.back_up()
        if chance(weather.watched):
            operators.watch()
        if chance(self.restore * bool(weather.backup)):
            operators.restore()
        if chance(weather.settled):
            operators.settle()

    def clone(self, enclave: Enclave) -> None:
        """Copy a running enclave, if its memory can be copied: both go on, with the same keys and leases."""
        if enclave.refundable or not enclave.hears() or len(self.enclaves) >= _MAX_ENCLAVES:
            return
        self.scene.seen["clone"] += 1
        self.scene.cloned.add(enclave.instance)
        self.scene.tell(enclave.name, "is copied")
        self.enclaves.append(enclave.twin(len(self.enclaves)))

    def suspend(self, enclave: Enclave) -> None:
        """Freeze an enclave's machine for up to a minute."""
        enclave.frozen_until_ms = self.scene.ms + self.rng.choice((5_000, 31_000, 60_000))
        self.seen["suspend"] += 1
        self.scene.tell(enclave.name, "is frozen for {} ms", enclave.frozen_until_ms - self.scene.ms)

    def restart_custodian(self, replica: Replica) -> None:
        """End a process of the custodian; a new one is there after a while. Only what was committed lives on."""
        replica.down_until_ms = self.scene.ms + self.rng.choice((0, 500, 5_000, 20_000))
        self.seen["restart"] += 1
        self.scene.tell("custodian", "is killed before it replies")

    def stop(self) -> None:
        """Stop something, preferably where work is under way.

        Some hosts withhold everything from then on, and play out earlier messages late.
        """
        enclave = self.rng.choice([one for one in self.enclaves if one.jobs] or self.enclaves)
        served = [job.consumer for job in enclave.jobs] or CONSUMERS[enclave.borrower]
        consumer = (StopTarget.CONSUMER, str(self.rng.choice(served)))
        target, value = self.rng.choice(
            [
                (StopTarget.ALL, ""),
                (StopTarget.MODEL, str(MODEL)),
                (StopTarget.BORROWER, str(enclave.borrower)),
                (StopTarget.ENCLAVE, str(enclave.instance)),
                *[consumer] * 4,  # the only stop that leaves the model in service
            ]
        )
        stops = self.custodian.ledger.stops
        if (target, value) in stops and stops[target, value].active:
            return
        self.operators.order(target, value, active=True)
        self.seen["stop"] += 1
        for each in self.enclaves:
            each.censored = each.censored or self.scene.chance(0.6)
        self.announce()
        # What was sent before the stop, a censoring host plays out as late as is useful to it.
        self.network = [
            (max(at_ms, self.scene.ms + self.rng.choice((0, 15_000, 28_000)) * of.censored), of, message)
            for at_ms, of, message in self.network
        ]

    def resume(self, target: StopTarget, value: str) -> None:
        """Lift a stop; the hosts let messages through again."""
        if not self.operators.order(target, value, active=False):
            return
        self.seen["resume"] += 1
        for enclave in self.enclaves:
            enclave.censored = False
        self.announce()

    def crash(self, enclave: Enclave) -> None:
        """End an enclave without warning."""
        self.seen["crash"] += 1
        self.scene.tell(enclave.name, "crashes")
        if self.rules.restores_state and enclave.place in self.snapshots:
            enclave.jobs.clear()
            enclave.waiting.clear()
            enclave.hinted = False
            enclave.meter = copy.deepcopy(self.snapshots[enclave.place])
            enclave.newest = self.witness.memory.place(enclave.meter._checkpoint)
            return
        self.reboot(enclave)

    def reboot(self, enclave: Enclave) -> None:
        """Boot the host of an enclave anew, with new keys and an empty memory."""
        if not enclave.alive:
            return
        enclave.alive = False
        self.snapshots.pop(enclave.place, None)
        self.enclaves[enclave.place] = self._boot(enclave.place, enclave.borrower)

    # -- Recovery ---------------------------------------------------------------------------------

    def recover(self) -> dict[ConsumerId, int]:
        """End all faults, and return how long (ms) each consumer with budget waited for its next answer.

        Raises:
            Violation: `dead`, when one that had budget all along was not served within two ttl.
        """
        scene, custodian = self.scene, self.custodian
        scene.weather = CALM
        for replica in custodian.replicas:
            replica.down_until_ms = 0
        for enclave in self.enclaves:
            enclave.censored = enclave.held_back = False
            enclave.frozen_until_ms = 0
        if scene.chance(self.restore and 0.3):
            self.operators.restore(oldest=True)
        self._settle()
        for stop in list(custodian.ledger.stops.values()):
            if stop.active:
                self.resume(stop.target, stop.value)
        if scene.chance(0.7):
            self.operators.raise_limits()
            self.hint(granted=True, recall=False)
        scene.tell("-", "all faults are over")
        since_ms, entitled = scene.ms, self._entitled()
        self.witness.served_ms.clear()
        while scene.ms - since_ms <= RECOVERY_MS:
            self.step((40, 300, 900))
            if custodian.ledger.head.gap is not None:  # an old message has shown what is forgotten: it begins anew
                self._settle()
                since_ms, entitled = scene.ms, self._entitled()
                self.witness.served_ms.clear()
        self.witness.check_everything()
        served_ms = self.witness.served_ms
        for consumer in sorted((entitled & self._entitled()) - set(served_ms)):
            raise Violation("dead", f"{consumer} has budget, and got no answer for {scene.ms - since_ms} ms")
        return {consumer: served_ms[consumer] - since_ms for consumer in entitled if consumer in served_ms}

    def _settle(self) -> None:
        """Let operators settle whatever is forgotten, and wait until the ledger grants again."""
        head = self.custodian.ledger.head
        while self.operators.settle() or self.custodian.ledger.head.quiet_until_ms > head.clock_ms:
            self.step((300, 900))
            head = msgspec.structs.replace(head, clock_ms=self.custodian.now(self.custodian.replicas[0]))

    def _entitled(self) -> set[ConsumerId]:
        """Return the consumers to whom any of their enclaves would be granted a unit at this moment."""
        return {
            consumer
            for enclave in self.enclaves
            for consumer in CONSUMERS[enclave.borrower]
            if self.custodian.would_grant(enclave.instance, enclave.borrower, consumer)
        }
