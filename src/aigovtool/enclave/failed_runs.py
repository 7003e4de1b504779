"""Runs that failed by what was asked: how many of them one consumer may cause, of one model.

Such a run is charged nothing, and whether it fails can follow from the model's weights: an index out of bounds, a
division by zero, a bound on its time. So it tells a bit, and without a bound whoever has one unit could ask for as many
as the machine computes. Failures of the engine itself, and refusals before anything ran, tell nothing of the model and
do not count.

Each failure is made up for by a second. Whoever has caused so many that the time they take is longer than allowed is
refused before anything runs, until enough of it has passed. One number per consumer and model is kept, as long as it
matters; by a clock of its own, because it outlives instances: whoever can end the engine has it booted anew. A process
that is started anew begins with nothing; that is the host's doing, and each of its boots is in the custodian's log.
"""

from typing import Final

from aigovtool.enclave.clock import ElapsedClock
from aigovtool.errors import AIGovToolError, OverloadedError
from aigovtool.ids import ConsumerId, ModelId
from aigovtool.limits import FAILED_RUN_MS, MAX_FAILED_RUNS, MAX_FAILED_RUNS_KEPT

#: Why a run can fail that follows from its input and the model.
_TELLING: Final = frozenset(
    {
        "answer_too_large",
        "compute_limit",
        "model_refused_input",
        "out_of_memory",
        "output_mismatch",
        "output_too_large",
        "run_failed",
    }
)
_Path = tuple[ConsumerId, ModelId]


class FailedRuns:
    """What is remembered of an enclave's failed runs; at most `kept` paths have caused some at a time."""

    def __init__(self, kept: int = MAX_FAILED_RUNS_KEPT) -> None:
        #: By which the times are that its functions take.
        self.clock: Final = ElapsedClock()
        self._kept: Final = kept
        #: When all failures so far will have been made up for.
        self._until_ms: Final[dict[_Path, int]] = {}

    def require_few(self, consumer: ConsumerId, model: ModelId, now_ms: int) -> None:
        """Refuse a request of whoever has caused too many failures of this model of late.

        Raises:
            OverloadedError: `too_many_failed`, with the time after which one more is allowed.
        """
        over_ms = self._until_ms.get((consumer, model), now_ms) - now_ms - MAX_FAILED_RUNS * FAILED_RUN_MS
        if over_ms > -FAILED_RUN_MS:
            raise OverloadedError(
                "too many runs of this consumer failed by what it asked, which is charged nothing",
                reason="too_many_failed",
                fix="find out what is wrong with the inputs, and ask more slowly",
                retry_after_s=-(-(over_ms + FAILED_RUN_MS) // 1_000),
            )

    def has_any(self, consumer: ConsumerId, model: ModelId) -> bool:
        """Return whether this consumer has caused some of this model that are not made up for yet."""
        until_ms = self._until_ms.get((consumer, model))
        return until_ms is not None and until_ms > self.clock.now_ms()

    def note(self, consumer: ConsumerId, model: ModelId, error: AIGovToolError, now_ms: int) -> None:
        """Count a failure, if it is one that can tell something of the model."""
        if error.reason not in _TELLING:
            return
        path = consumer, model
        if path not in self._until_ms and len(self._until_ms) >= self._kept:
            self._make_place(now_ms)
        self._until_ms[path] = max(now_ms, self._until_ms.get(path, now_ms)) + FAILED_RUN_MS

    def _make_place(self, now_ms: int) -> None:
        """Forget what is made up for, or else who has caused the fewest."""
        for path in [path for path, until_ms in self._until_ms.items() if until_ms <= now_ms]:
            del self._until_ms[path]
        if len(self._until_ms) >= self._kept:
            del self._until_ms[min(self._until_ms, key=self._until_ms.__getitem__)]
