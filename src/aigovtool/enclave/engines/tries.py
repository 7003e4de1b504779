"""One run, tried in one lane after another until it is done or its own time is over (`lanes`)."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

from aigovtool.enclave.engines.ipc import Answered, Failed, Frame, Run
from aigovtool.enclave.engines.pending import Errand, Pending, Place
from aigovtool.errors import OverloadedError
from aigovtool.ids import ConsumerId

#: The reason of the child's refusal when a try has computed for as long as it may.
COMPUTE_LIMIT: Final = "compute_limit"


async def tried(
    pending: Pending,
    consumer: ConsumerId,
    wanted: Run,
    place: Place,
    send: Callable[[Run, int, Errand], Awaitable[Frame]],
) -> tuple[Frame, int]:
    """Return the child's last word on a run, and when it was asked for that.

    Args:
        pending: whose turns are taken.
        consumer: whose run it is.
        wanted: the run.
        place: what it takes; the caller gives it back.
        send: has the child try for so many milliseconds at most; the turn is the child's from then on.

    Raises:
        DeadlineError: its turn did not come in time.
        OverloadedError: `answers_not_taken`.
    """
    model, scheduler, habits = wanted.model, pending.scheduler, pending.habits
    lane = habits.lane(consumer, model)
    while True:
        turn = scheduler.at_once(consumer, lane)
        if turn is None:
            turn = await scheduler.enter(consumer, lane, (wanted.deadline_ns - time.monotonic_ns()) / 1e9)
        try:
            pending.unread.require_few(consumer)  # not before its turn: many may wait while few answers are there
        except OverloadedError:
            scheduler.leave(turn)
            raise
        try_ms = lane.try_ms(wanted.compute_ms)
        frame = await send(wanted, try_ms, Errand(place, turn, model))
        message = frame.message
        if isinstance(message, Answered):
            habits.learn(consumer, model, lane.after(message.compute_us))
        # Who has no longer lane to go to, or may compute for no longer, has been refused for good.
        if try_ms == wanted.compute_ms or not isinstance(message, Failed) or message.reason != COMPUTE_LIMIT:
            return frame, turn.began_ns
        lane = lane.longer
        habits.learn(consumer, model, lane)
