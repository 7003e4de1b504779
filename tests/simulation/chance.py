"""The chance of a simulated history: Python's own generator, with a shorter way to what is asked of it most."""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Chance(random.Random):
    """Chooses in one call instead of two: thousands of choices are made in each history."""

    def choice(self, seq: Sequence[T]) -> T:  # type: ignore[override] # what may be chosen from is always a sequence
        """Return one of them, the same one that `random.Random` returns."""
        number = len(seq)
        bits = number.bit_length()
        while (place := self.getrandbits(bits)) >= number:
            pass
        return seq[place]
