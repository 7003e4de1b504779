"""The clocks of the custodian's hosts, which are off, jump, and leap by up to an hour."""

from dataclasses import dataclass

from tests.simulation.custodian import Custodian
from tests.simulation.office import Replica
from tests.simulation.scene import Scene

from aigovtool.ledger.budget import ROLLING
from aigovtool.ledger.lease import Lease

_HOUR_MS, _MINUTE_MS = 3_600_000, 60_000


@dataclass
class Clocks:
    """What happens to them. The ledger's time follows the fastest host that serves."""

    scene: Scene
    custodian: Custodian

    def jump(self) -> None:
        """Let one of them jump, forwards or back."""
        self._move(self.custodian.any_replica(), self.scene.rng.choice((-200_000, 200_000, 40_000)))

    def leap(self) -> None:
        """Let one leap by up to an hour: mostly so that an hour's window begins with the minute of earlier units."""
        rng, replica = self.scene.rng, self.custodian.any_replica()
        earlier = [one.granted_at_ms for one in self.custodian.ledger.leases.values() if _rolls(one)]
        by_ms = rng.choice((600_000, 1_800_000, 0, 0, 0, 0))
        if not by_ms and earlier:
            begins_ms = rng.choice(earlier) // _MINUTE_MS * _MINUTE_MS
            by_ms = max(0, begins_ms + _HOUR_MS - self.custodian.now(replica))
        self._move(replica, by_ms)

    def _move(self, replica: Replica, by_ms: int) -> None:
        replica.offset_ms += by_ms
        self.scene.seen["leap"] += by_ms > 200_000
        self.scene.tell("custodian", "a clock is off by {} ms", replica.offset_ms)


def _rolls(lease: Lease) -> bool:
    return any(key.window in ROLLING for key in lease.rows)
