"""What one consumer of one model asks of the meter: how fast, who waits, and what was last refused."""

from dataclasses import dataclass, field

from aigovtool.ids import Digest
from aigovtool.ledger.units import ZERO, Dimension, UnitVector, vector
from aigovtool.protocol.messages import Deny, DenyCode

#: Draw a little more than the rate suggests, so that the lease outlives its renewal.
_HEADROOM_PERCENT = 120
#: Never ask again sooner than this after a denial, whatever the custodian says.
_RETRY_FLOOR_MS = 1_000
#: Requests to ask for before any rate is known.
_FIRST_REQUESTS = 8
#: More than any lease may be; a wish is a number that its reader can read.
_MOST = 10**12


@dataclass(slots=True)
class Demand:
    """Demand for one (model, consumer), on the enclave's elapsed clock.

    `least` is what any request takes at least. `minimum` is the most that anybody who waits needs, said since the last
    answer; whoever still waits after an answer says it again. `fitting` is the same of those alone who fit into what
    was `available` when others were denied. `path_remaining` is what the custodian could still grant, as of its last
    answer, where it is limited. `asked`: dimensions of which it was asked for more budget. `asking`: a renewal under
    way asks for who waits, and `asks` for more budget; `asked_ms` is when one last asked for anything; none is sent
    before `again_ms` for this. `told`: the last answer has denied something. `requests` are those that wait for leases
    of their own (bound mode), by their digests: what each needs, and how many wait for it.
    """

    since_ms: int
    least: UnitVector
    taken: UnitVector = ZERO
    waiting: int = 0
    minimum: UnitVector = ZERO
    fitting: UnitVector = ZERO
    available: UnitVector = ZERO
    wanted_ms: int | None = None
    denied: DenyCode | None = None
    short: Dimension | None = None
    retry_at_ms: int = 0
    again_ms: int = 0
    asked_ms: int = -1
    asked: frozenset[Dimension | None] = frozenset()
    asks: bool = False
    asking: bool = False
    told: bool = False
    path_remaining: dict[Dimension, int] = field(default_factory=dict)
    rate_per_s: dict[Dimension, float] = field(default_factory=dict)
    requests: dict[Digest, tuple[UnitVector, int]] = field(default_factory=dict)

    @property
    def pressing(self) -> bool:
        """Whether somebody waits who has said what it needs since the last answer."""
        return self.waiting > 0 and not self.minimum.is_zero()

    def need(self, units: UnitVector) -> None:
        """Somebody cannot have these units yet."""
        self.minimum = self.minimum.highest(units)
        if self.denied is not None and self.available.covers(units):
            self.fitting = self.fitting.highest(units)

    def wait(self, change: int) -> None:
        """Count those who wait; when nobody does any more, nothing is needed."""
        self.waiting += change
        if not self.waiting:
            self.minimum, self.fitting = ZERO, ZERO

    @property
    def wished(self) -> UnitVector:
        """What the next wish is for: all who wait; or, while a denial stands, those who fit into what was available.

        A grant takes the denial back, and then the others have their turn. So a large request neither keeps small ones
        out nor is kept out by them. And what was denied does not fit: wishes that follow at once become ever smaller.
        """
        return self.minimum if self.denied is None or self.fitting.is_zero() else self.fitting

    def expect(self, request: Digest, units: UnitVector) -> None:
        """Somebody waits for a lease of this request."""
        _, waiting = self.requests.get(request, (ZERO, 0))
        self.requests[request] = units, waiting + 1

    def give_up(self, request: Digest) -> None:
        """One of those who wait for a lease of this request does so no more."""
        units, waiting = self.requests.pop(request, (ZERO, 0))
        if waiting > 1:
            self.requests[request] = units, waiting - 1

    def turn(self, request: Digest) -> None:
        """This request was asked for: where there is not room for all, others have their turn now."""
        if request in self.requests:
            self.requests[request] = self.requests.pop(request)

    def take(self, now_ms: int, units: UnitVector) -> None:
        """Count units that were reserved."""
        self.taken = self.taken.plus(units)
        self.wanted_ms = now_ms

    def spare(self, units: UnitVector) -> None:
        """Count units that were reserved, and turned out not to be used."""
        self.taken = vector({d: max(0, self.taken.get(d) - units.get(d)) for d in Dimension})

    def sent(self, now_ms: int, *, ask: bool) -> None:
        """A renewal asks for something, and with `ask` for more budget."""
        self.asked_ms, self.asks, self.asking, self.told = now_ms, ask, self.pressing, False

    def refused(self, now_ms: int, denial: Deny) -> None:
        """Remember a denial until it is worth asking again."""
        # Of several denials in one answer none says that another one's request would fit.
        self.available = self.available.lowest(denial.available) if self.told else denial.available
        self.denied, self.short, self.told = denial.code, denial.short, True
        if self.asks and denial.code is DenyCode.EXHAUSTED:
            self.asked |= {denial.short}
        self.minimum, self.fitting, self.asking = ZERO, ZERO, False
        self.retry_at_ms = now_ms + max(denial.retry_after_ms, _RETRY_FLOOR_MS)

    def granted(self, now_ms: int) -> None:
        """Forget denials and measure the rate since the last grant."""
        elapsed_ms = max(1, now_ms - self.since_ms)
        self.rate_per_s = {dimension: units * 1000 / elapsed_ms for dimension, units in self.taken.items()}
        self.since_ms, self.taken = now_ms, ZERO
        self.denied, self.short, self.asked, self.asking = None, None, frozenset(), False
        self.minimum, self.fitting = ZERO, ZERO

    def unanswered(self, again_ms: int) -> None:
        """What a renewal asked for was answered by nothing that counts; it may be asked again from then on."""
        self.asking, self.again_ms = False, again_ms

    def target(self, now_ms: int, ttl_ms: int) -> UnitVector:
        """Return about one ttl of traffic, or what is waiting if that is more; of each dimension that is metered."""
        elapsed_ms, wished = max(1, now_ms - self.since_ms), self.wished
        scarce = wished != self.minimum  # nothing is drawn ahead of what somebody waits for in vain
        targets = {}
        for dimension in Dimension:
            taken, least, needed = self.taken.get(dimension), self.least.get(dimension), wished.get(dimension)
            if not (least or taken or needed or dimension in self.rate_per_s):
                continue
            rate = max(self.rate_per_s.get(dimension, 0.0), taken * 1000 / elapsed_ms if elapsed_ms >= 1000 else 0.0)
            by_rate = int(rate * ttl_ms * _HEADROOM_PERCENT / 100_000)
            ahead = 0 if scarce else max(by_rate, _FIRST_REQUESTS * max(1, least))
            targets[dimension] = max(needed, min(max(ahead, self.waiting * least), _MOST))
        return vector(targets)
