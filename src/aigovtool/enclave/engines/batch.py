"""Short runs that go to the engine child together, and come back together or a few at a time."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from aigovtool.enclave.engines.ipc import Frame, Limit, Run, TensorHeader
from aigovtool.enclave.engines.pending import Place
from aigovtool.enclave.engines.scheduling import Turn
from aigovtool.ids import ConsumerId
from aigovtool.protocol.tensor import Buffer


class Slot:
    """One of the runs; to `Pending` it is an answer to be, as a future is."""

    __slots__ = (
        "batch", "compute_ms", "consumer", "data", "deadline_ns", "entry", "finite", "frame", "headers", "limits",
        "model", "names", "over", "place", "turn",
    )

    batch: "Batch"
    turn: Turn

    def __init__(
        self, consumer: ConsumerId, model: int, headers: tuple[TensorHeader, ...], data: Sequence[Buffer],
        names: tuple[str, ...], compute_ms: int, deadline_ns: int, limits: tuple[Limit, ...], finite: bool,
        place: Place, entry: object,
    ) -> None:
        self.consumer, self.model, self.headers, self.data, self.names = consumer, model, headers, data, names
        self.compute_ms, self.deadline_ns, self.limits, self.finite = compute_ms, deadline_ns, limits, finite
        self.place, self.entry = place, entry
        self.frame: Frame | None = None
        self.over = False

    def run(self, id_: int) -> Run:
        return Run(
            id_, self.model, self.deadline_ns, self.headers, self.names, self.compute_ms, self.limits, self.finite
        )

    def done(self) -> bool:
        return self.over

    def set_result(self, frame: Frame) -> None:
        self.frame, self.over = frame, True
        self.batch.ended(self)

    def set_exception(self, _error: BaseException) -> None:
        self.over = True
        self.batch.ended(self)


class Batch:
    """The runs of one frame."""

    def __init__(self, slots: list[Slot], on_ended: Callable[[list[Slot]], None]) -> None:
        self.slots: Final = slots
        self.timer: asyncio.TimerHandle | None = None
        self._left = len(slots)
        self._on_ended: Final = on_ended
        self._ready: list[Slot] = []
        for slot in slots:
            slot.batch = self

    def ended(self, slot: Slot) -> None:
        if not self._ready:
            asyncio.get_running_loop().call_soon(self._tell)
        self._ready.append(slot)
        self._left -= 1
        if not self._left and self.timer is not None:
            self.timer.cancel()

    def _tell(self) -> None:
        ready, self._ready = self._ready, []
        self._on_ended(ready)

    def overdue(self) -> None:
        for slot in self.slots:
            if not slot.over:
                slot.set_exception(TimeoutError())
