"""What one consumer of one model asks of the meter: how fast, who waits, and what was last refused."""

from dataclasses import dataclass, field

from aigovtool.protocol.messages import DenyCode

#: Draw a little more than the rate suggests, so that the lease outlives its renewal.
_HEADROOM_PERCENT = 120
#: Never ask again sooner than this after a denial, whatever the custodian says.
_RETRY_FLOOR_MS = 1_000
#: Units to ask for before any rate is known.
_FIRST_TARGET = 8


@dataclass(slots=True)
class Demand:
    """Demand for one (model, consumer), on the enclave's elapsed clock.

    `minimum` is the most that anybody who waits needs, said since the last answer; whoever still waits after an answer
    says it again. `path_remaining` is what the custodian could still grant, as of its last answer. `asked`: it was
    asked for more budget. `asking`: a renewal under way asks for who waits.
    """

    since_ms: int
    taken: int = 0
    waiting: int = 0
    minimum: int = 0
    available: int = 0
    wanted_ms: int | None = None
    denied: DenyCode | None = None
    retry_at_ms: int = 0
    asked: bool = False
    asking: bool = False
    path_remaining: int = 0
    rate_per_s: float = field(default=0.0)

    @property
    def pressing(self) -> bool:
        """Whether somebody waits who has said what it needs since the last answer."""
        return self.waiting > 0 and self.minimum > 0

    def take(self, now_ms: int, units: int) -> None:
        """Count units that were reserved."""
        self.taken += units
        self.wanted_ms = now_ms

    def refused(self, now_ms: int, code: DenyCode, retry_after_ms: int, available: int) -> None:
        """Remember a denial until it is worth asking again."""
        self.denied, self.available, self.minimum = code, available, 0
        self.asking = False
        self.retry_at_ms = now_ms + max(retry_after_ms, _RETRY_FLOOR_MS)

    def granted(self, now_ms: int) -> None:
        """Forget denials and measure the rate since the last grant."""
        elapsed_ms = max(1, now_ms - self.since_ms)
        self.rate_per_s = self.taken * 1000 / elapsed_ms
        self.since_ms, self.taken = now_ms, 0
        self.denied, self.asked, self.asking, self.minimum = None, False, False, 0

    def target(self, now_ms: int, ttl_ms: int) -> int:
        """Return about one ttl of traffic, or what is waiting if that is more."""
        elapsed_ms = max(1, now_ms - self.since_ms)
        rate = max(self.rate_per_s, self.taken * 1000 / elapsed_ms if elapsed_ms >= 1000 else 0.0)
        by_rate = int(rate * ttl_ms * _HEADROOM_PERCENT / 100_000)
        return max(self.minimum, self.waiting, by_rate, _FIRST_TARGET)
