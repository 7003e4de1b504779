"""An enclave at its limit for long: does it slow down, does it grow?

One consumer asks for the tiny model as fast as answers come, over as many connections as make the enclave busy. Request
ids are the enclave's: those that a consumer chooses are remembered for ten minutes, which is growth that has an end.
"""

from collections.abc import Sequence
from typing import Final

from aigovtool.codec import Message
from bench.graphs import Graph, tiny
from bench.lent import lent
from bench.memory import watched
from bench.served import Point

CONNECTIONS: Final = 32
#: Memory is looked at so many times, however long it takes.
_LOOKS: Final = 120
NAMES: Final = ("gateway", "engine")


class Hold(Message):
    """What was measured in all of the time, and what each process held, at even distances, in bytes."""

    minutes: float
    point: Point
    held_bytes: tuple[tuple[int, ...], ...]

    def growth(self) -> float:
        """Return the most that a process held in the last third of the time, against the third before it.

        The first third is for what fills: the allocator's heaps, and what is kept for ten minutes.
        """
        return max(max(_third(held, 2)) / max(_third(held, 1)) for held in self.held_bytes)


def _third(held: Sequence[int], number: int) -> Sequence[int]:
    third = max(1, len(held) // 3)
    return held[number * third : (number + 1) * third] or held[-1:]


def hold(minutes: float, graph: Graph | None = None) -> Hold:
    """Ask for so long, and look at both processes meanwhile."""
    with lent(graph or tiny(), ids=False) as enclave:
        every_s = minutes * 60 / _LOOKS
        gateway, engine = enclave.pids()
        with watched([gateway], every_s) as outer, watched([engine], every_s) as inner:
            point = enclave.measure(CONNECTIONS, minutes * 60)
    return Hold(minutes=minutes, point=point, held_bytes=(tuple(outer), tuple(inner)))
