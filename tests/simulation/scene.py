"""What every part of a simulated history shares: time, chance, names, the weather, and what was seen.

A history is determined by its seed, its rules and its weather. Nothing here knows the protocol.
"""

import random
from collections import Counter
from dataclasses import dataclass, field, replace

from tests.simulation.chance import Chance

from aigovtool.ids import BorrowerId, ConsumerId, Digest, InstanceId, KeyId, ModelId
from aigovtool.ledger.policy import CLOCK_RATE_ERROR_PPM, Dial
from aigovtool.ledger.units import Dimension

# Two minutes before an hour begins, so that windows change during a history.
START_MS = 1_700_000_000_000 // 3_600_000 * 3_600_000 - 120_000
TTL_MS = 30_000
STOP_BOUND_MS = TTL_MS + TTL_MS * CLOCK_RATE_ERROR_PPM // 1_000_000 + 2  # and two for rounding
WIPE_AFTER_MS = 90_000
WIPE_BOUND_MS = WIPE_AFTER_MS + WIPE_AFTER_MS * CLOCK_RATE_ERROR_PPM // 1_000_000 + 2

MODEL = ModelId("digits")
NORTH, SOUTH = BorrowerId("north"), BorrowerId("south")
#: Of whom nothing is heard.
WEST = BorrowerId("west")
CONSUMERS = {NORTH: [ConsumerId("anna"), ConsumerId("bert")], SOUTH: [ConsumerId("carl")]}
#: Several enclaves per borrower share its budgets, its consumers and its share of what may be outstanding.
HOSTS = (NORTH, NORTH, NORTH, SOUTH, SOUTH)
CUSTODIAN = KeyId("c" * 64)
#: Processes that serve one ledger.
REPLICAS = 3
MANIFEST = Digest("sha256:" + "d" * 64)
#: What one request may take of dimensions that are known only afterwards: of tokens, one segment of a stream.
ALSO = {Dimension.COMPUTE_MS: 40, Dimension.OUTPUT_TOKENS: 4}


class Violation(Exception):  # noqa: N818 -- it is what was looked for, not an error of the simulation
    """Something that must never happen did.

    `kind` is overspend, window (more in a span than its limit), ended (units of a budget whose time is over), ledger,
    cap, time (the ledger's went back), rooms (more is told to be left than there is), receipt (it says something else
    than what was posted), hint (one was forgotten), stop, silence, fork, rollback (a restored ledger works on although
    somebody has shown what it forgot), quiet (it grants too soon after), generation (it keeps what was admitted before
    in service), dead (a consumer with budget is not served again), or wall (the code under test refused to go on,
    although no rule had been broken before).
    """

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.kind = kind


@dataclass(frozen=True)
class Weather:
    """How often, per step or per message, something bad happens."""

    loss: float = 0.25
    repeats: tuple[int, ...] = (1, 1, 1, 2, 3)
    delays_ms: tuple[int, ...] = (0, 20, 200, 500, 3_000, 8_000)
    straggler: float = 0.05
    misdelivery: float = 0.05
    crash: float = 0.01
    engine_death: float = 0.011
    held_back: float = 0.03
    suspend: float = 0.008
    clock_jump: float = 0.01
    #: The host's clock leaps by much of an hour; one is chosen per history.
    leaps: tuple[float, ...] = (0, 0.02, 0.03)
    restart: float = 0.03
    raised_limit: float = 0.01
    #: A hint that nobody gave: hosts may make them up, or repeat old ones.
    stray_hint: float = 0.02
    #: A stop state that an enclave has had already.
    replayed_state: float = 0.1
    stop: float = 0.012
    write_off: float = 0.03
    backup: float = 0.03
    #: The ledger is restored from a backup; one is chosen per history.
    restores: tuple[float, ...] = (0, 0.012, 0.012)
    #: Somebody outside (an auditor, a witness) asks for the newest checkpoint.
    watched: float = 0.15
    #: Operators settle a gap that was found.
    settled: float = 0.1
    clonable: float = 0.2
    #: A host copies the memory of a running enclave, where it can; models are lent in bound mode then.
    clone: float = 0.02
    failed_work: float = 0.05
    #: How likely work ends in one step; one is chosen per request. The first is a very long computation.
    speeds: tuple[float, ...] = (0.02, 0.3, 0.9)
    impatience: float = 0.15
    #: Budgets of this many times the usual size; one is chosen per history.
    scales: tuple[float, ...] = (0.5, 1, 1, 2)
    dials: tuple[Dial, ...] = tuple(Dial)
    #: What is metered beside inferences; one is chosen per history.
    also: tuple[tuple[Dimension, ...], ...] = ((), (Dimension.COMPUTE_MS,), (Dimension.OUTPUT_TOKENS,), tuple(ALSO))
    #: Rolling windows and budgets that end, in some histories.
    windows: bool = True
    #: Traffic of a consumer moves from enclave to enclave instead of coming to all at once.
    wandering: bool = False


STORM = Weather()
#: Faults are over: nothing is lost, nobody crashes, nothing is stopped.
CALM = Weather(
    loss=0,
    repeats=(1,),
    delays_ms=(0, 20, 200),
    straggler=0,
    misdelivery=0,
    crash=0,
    engine_death=0,
    held_back=0,
    suspend=0,
    clock_jump=0,
    leaps=(0,),
    restart=0,
    raised_limit=0,
    stray_hint=0,
    replayed_state=0,
    stop=0,
    write_off=0,
    backup=0,
    restores=(0,),
    watched=0,
    settled=0,
    clone=0,
    failed_work=0,
    speeds=(0.3, 0.9),
    impatience=0,
)
_LEASES = (Dial.STRICT, Dial.BALANCED, Dial.ISLAND)
#: An ordinary network and demand that moves about: what is wasted here is wasted by the protocol.
WORKDAY = Weather(
    loss=0.05,
    repeats=(1, 1, 1, 2),
    delays_ms=(0, 20, 200, 500),
    straggler=0,
    misdelivery=0,
    crash=0,
    engine_death=0.004,
    held_back=0,
    suspend=0,
    clock_jump=0,
    leaps=(0,),
    restart=0.02,
    raised_limit=0,
    stray_hint=0,
    replayed_state=0,
    stop=0,
    write_off=0,
    backup=0,
    restores=(0,),
    watched=0,
    clonable=0,
    clone=0,
    windows=False,
    scales=(1, 20),
    dials=_LEASES,
    also=((),),
    wandering=True,
)
#: So little budget that what one enclave holds idle is what another one lacks; nothing else goes wrong.
SCARCITY = replace(WORKDAY, loss=0, engine_death=0, restart=0, scales=(0.25,), dials=(Dial.ISLAND,))


@dataclass
class Scene:
    """Time, chance and the record of one history."""

    seed: int
    weather: Weather
    tracing: bool = False
    ms: int = START_MS
    rng: random.Random = field(init=False)
    seen: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)
    #: Instances of which there is more than one.
    cloned: set[InstanceId] = field(default_factory=set)
    _numbers: int = 0

    def __post_init__(self) -> None:
        self.rng = Chance(self.seed)

    def number(self) -> int:
        """Return the next of 1, 2, 3, ..."""
        self._numbers += 1
        return self._numbers

    def chance(self, probability: float) -> bool:
        """Return whether something of this probability happens now."""
        return self.rng.random() < probability

    def tell(self, who: str, template: str, *values: object) -> None:
        """Add a line to the trace, if one is kept."""
        if self.tracing:
            self.lines.append(f"{(self.ms - START_MS) / 1000:9.3f} s  {who:<10} {template.format(*values)}")
