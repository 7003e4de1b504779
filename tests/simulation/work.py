"""What consumers ask of a simulated enclave: plain requests, and streams that leave in chunks."""

import random
from dataclasses import dataclass

from tests.simulation.scene import CONSUMERS, Scene

from aigovtool.ids import BorrowerId, ConsumerId, Digest
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.ledger.units import Dimension, UnitVector, of
from aigovtool.protocol.reservation import Reservation


@dataclass
class Job:
    """One request: so many inferences and, if tokens are metered, `tokens` that leave in chunks.

    A stream holds one reservation after another, one for each segment. `begun`: something of it has left. `together`:
    of several rows without tokens, each is a request of its own.
    """

    consumer: ConsumerId
    rows: int
    tokens: int
    request: Digest
    speed: float
    together: bool = False
    reservation: Reservation | None = None
    begun: bool = False

    @property
    def is_group(self) -> bool:
        """Whether these are requests of one row each, which are charged together."""
        return self.together and self.rows > 1 and not self.tokens

    def need(self, policy: ServingPolicy) -> UnitVector:
        """Return what must be reserved before it can go on: at the worst all of it, or the next segment."""
        return policy.request_max if self.begun else policy.request_max.plus(of(Dimension.INFERENCES, self.rows))

    def chunk(self, reservation: Reservation, rng: random.Random) -> UnitVector:
        """Return what leaves next, and was used for it."""
        held = reservation.units
        tokens = min(self.tokens, rng.randint(1, max(1, held.output_tokens // 2))) if self.tokens else 0
        return UnitVector(
            inferences=0 if self.begun else self.rows,
            output_tokens=tokens,
            compute_ms=rng.randint(0 if self.begun else 1, held.compute_ms) if held.compute_ms else 0,
        )

    def ends(self, reservation: Reservation, chunk: UnitVector) -> bool:
        """Return whether this chunk is the last, of the whole or of its segment."""
        return chunk.output_tokens in {self.tokens, reservation.units.output_tokens}


def comes_in(scene: Scene, borrower: BorrowerId, policy: ServingPolicy) -> Job:
    """Return a request of anybody who may ask this borrower's enclaves."""
    rng = scene.rng
    return Job(
        consumer=rng.choice(CONSUMERS[borrower]),
        rows=rng.choice((1, 1, 1, 2, 5)),
        tokens=rng.choice((1, 9, 30, 30)) if Dimension.OUTPUT_TOKENS in policy.counts else 0,
        request=Digest(f"sha256:{scene.number():064x}"),
        speed=rng.choice(scene.weather.speeds),
        together=rng.random() < 0.5,
    )
