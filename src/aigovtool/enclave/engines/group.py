"""Short runs of one consumer and one model that go to the engine child in one frame, as one short try.

The parent takes one turn and one deadline for all of them. What is not answered within it, or is refused, is nothing to
anybody: its requests go the way of all others, and are tried one by one.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from aigovtool.enclave.engines.interface import ModelInterface
from aigovtool.enclave.engines.ipc import Limit, TensorHeader
from aigovtool.enclave.engines.pending import Place
from aigovtool.enclave.engines.scheduling import Turn
from aigovtool.protocol.tensor import Buffer


@dataclass(frozen=True, slots=True)
class Form:
    """What runs of a group have in common: as `ipc.RunGroup`."""

    model: int
    inputs: tuple[TensorHeader, ...]
    outputs: tuple[str, ...]
    compute_ms: int
    limits: tuple[Limit, ...]
    finite: bool
    together: bool = False

    @property
    def size_bytes(self) -> int:
        """Bytes of the inputs of one run."""
        return sum(header.size_bytes for header in self.inputs)


class Came(NamedTuple):
    """What came of `runs` in a row, from number `first` on: of each its outputs' bytes and its time, or nothing.

    `headers` say of all of them how the bytes are to be read (`unpack_tensors`); times are in microseconds.
    """

    first: int
    runs: int
    headers: tuple[TensorHeader, ...] = ()
    payloads: Sequence[memoryview] = ()
    compute_us: Sequence[int] = ()


class Group:
    """Runs that are under way; `told` is called in the event loop's next turn with what has come, piece by piece."""

    __slots__ = (
        "_came",
        "_left",
        "_next",
        "_told",
        "claimed_us",
        "data",
        "form",
        "interface",
        "late",
        "place",
        "timer",
        "turn",
    )

    turn: Turn

    def __init__(
        self,
        interface: ModelInterface,
        form: Form,
        data: Sequence[Buffer],
        place: Place,
        told: Callable[["Group", list[Came]], None],
    ) -> None:
        self.interface: Final = interface
        self.form: Final = form
        self.data: Final = data
        self.place: Final = place
        self.timer: asyncio.TimerHandle | None = None
        self._told: Final = told
        self._came: list[Came] = []
        self._next = 0
        self._left = len(data)
        #: Time that the child has claimed for its runs.
        self.claimed_us = 0
        #: Whether the time of the try was over before all were done.
        self.late = False

    @property
    def over(self) -> bool:
        """Whether all was answered, or nothing more is waited for."""
        return not self._left

    def take(
        self,
        count: int,
        headers: tuple[TensorHeader, ...] = (),
        payloads: Sequence[memoryview] = (),
        compute_us: Sequence[int] = (),
    ) -> None:
        """Take what came of the next `count` runs."""
        if not self._came:
            asyncio.get_running_loop().call_soon(self._tell)
        self._came.append(Came(self._next, count, headers, payloads, compute_us))
        self._next += count
        self._left -= count
        if not self._left and self.timer is not None:
            self.timer.cancel()

    def give_up(self) -> None:
        """Wait for no more."""
        if self._left:
            self.take(self._left)

    def _tell(self) -> None:
        came, self._came = self._came, []
        self._told(self, came)
