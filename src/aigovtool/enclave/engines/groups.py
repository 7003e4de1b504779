"""Groups on their way to the child and back: their places, their turns, and what comes of them.

A group is one try, in the short lane; where a consumer's runs of a model are known to take longer, a group is a single
run, in the middle lane. It has one turn, for which it does not wait long, and one deadline. The child answers its runs
in order, and several in a frame. What it sends is looked at as any answer is; a group that it keeps for too long is
given up, and a child that never answers it is ended.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from aigovtool.enclave.engines.group import Form, Group
from aigovtool.enclave.engines.interface import ModelInterface, check_answer
from aigovtool.enclave.engines.ipc import (
    MAX_GROUP,
    Failed,
    Frame,
    GroupAnswered,
    RunGroup,
    error_of,
    unpack_tensors,
)
from aigovtool.enclave.engines.lanes import MIDDLE_MS, Lane
from aigovtool.enclave.engines.link import Link
from aigovtool.enclave.engines.pending import Pending, Place
from aigovtool.enclave.engines.scheduling import Turn
from aigovtool.enclave.engines.tries import COMPUTE_LIMIT
from aigovtool.errors import AIGovToolError, EngineError, MalformedError, OverloadedError
from aigovtool.ids import ConsumerId
from aigovtool.protocol.tensor import Datatype

# How long after its time a run may still answer before whoever asked is told that it is late.
OVERDUE_MS: Final = 1_000
# A single operator cannot be ended from inside. This much later the child is held to be stuck for good.
STUCK_MS: Final = 30_000
#: Whose turn does not come in this time is given up, and waits as one of all others.
PATIENCE_S: Final = 5.0
#: Of these not every sequence of bytes is a tensor.
_LOOKED_AT: Final = frozenset({Datatype.BOOL, Datatype.BYTES})


class Groups:
    """The groups of one child. `condemn` ends it: why, and with which model."""

    def __init__(self, pending: Pending, link: Link, condemn: Callable[[str, int], None]) -> None:
        self._pending: Final = pending
        self._link: Final = link
        self._condemn: Final = condemn
        self._closed = False

    def lane(self, consumer: ConsumerId, model: int) -> Lane:
        """Return where runs of a model are tried for this consumer; only in the short one several together."""
        return self._pending.habits.lane(consumer, model)

    def place(self, consumer: ConsumerId, form: Form, count: int) -> Place | None:
        """Return what so many runs take of the engine, or None where they had better be tried in another way."""
        lane = self.lane(consumer, form.model)
        if self._closed or count > (MAX_GROUP if lane is Lane.SHORT else 1) or lane is Lane.LONG:
            return None
        try:
            self._pending.unread.require_few(consumer)
            return self._pending.place(consumer, count * form.size_bytes, count)
        except OverloadedError:
            return None

    def run(self, group: Group, consumer: ConsumerId, lane: Lane, deadline_ns: int) -> None:
        """Send a group that has a place when its turn comes; it is told what comes of it, whatever happens."""
        scheduler = self._pending.scheduler
        turn = scheduler.at_once(consumer, lane)
        if turn is not None:
            self._send(group, turn, deadline_ns)
            return

        loop = asyncio.get_running_loop()

        def give_up() -> None:
            if scheduler.give_up(consumer, lane, waiting):
                group.give_up()

        def granted(turn: Turn) -> None:
            timer.cancel()
            self._send(group, turn, deadline_ns)

        timer = loop.call_later(PATIENCE_S, give_up)
        waiting = scheduler.line_up(consumer, lane, granted)

    def _send(self, group: Group, turn: Turn, deadline_ns: int) -> None:
        group.turn = turn
        if self._closed:
            asyncio.get_running_loop().call_soon(self._pending.scheduler.leave, turn)  # whoever is next is told so too
            group.give_up()
            return
        # A longer run waits for no company: a thread of the engine has nothing to do until it comes.
        form, count, alone = group.form, len(group.data), turn.lane is not Lane.SHORT or not self._pending
        first = self._pending.begin_group(group)
        what = (form.inputs, form.outputs, form.compute_ms, form.limits, form.finite, form.together)
        try:
            self._link.send(RunGroup(first, form.model, deadline_ns, count, *what), group.data, alone=alone)
        except AIGovToolError:  # it fits no frame
            self._pending.answered(first, count, 0)
            group.give_up()
            return
        loop, late_s = asyncio.get_running_loop(), (MIDDLE_MS + OVERDUE_MS) / 1000
        group.timer = loop.call_later(late_s, self._overdue, group)

    def received(self, frame: Frame) -> bool:
        """Take a frame of the child's; return whether it concerns a group."""
        message = frame.message
        if isinstance(message, Failed):
            return self._failed(message)
        return isinstance(message, GroupAnswered) and self._answered(message, frame.payload)

    def _answered(self, message: GroupAnswered, payload: memoryview) -> bool:
        count, took_us = len(message.compute_us), sum(message.compute_us)
        group = self._pending.answered(message.id, count, took_us)
        if group is None:
            return False
        try:
            asked_ns = time.monotonic_ns() - group.turn.began_ns - 1_000 * group.claimed_us
            payloads = payloads_of(group.interface, group.form.outputs, message, payload, asked_ns)
        except (EngineError, MalformedError) as error:
            group.give_up()
            self._condemn(error.message, group.form.model)
        else:
            group.claimed_us += took_us
            self._learn(group, group.turn.lane.after(took_us))
            if not group.over:
                group.take(count, message.outputs, payloads, message.compute_us)
        return True

    def _failed(self, message: Failed) -> bool:
        if error_of(message) is None:  # no error of a child's
            return False
        group = self._pending.answered(message.id, 1, None)
        if group is None:
            return False
        if message.reason == COMPUTE_LIMIT:
            group.late = True
            if group.form.compute_ms == group.turn.lane.try_ms(0):
                self._learn(group, group.turn.lane.longer)
        if not group.over:
            group.take(1)
        return True

    def _learn(self, group: Group, lane: Lane) -> None:
        """Remember where the next such run begins; of several together in the short lane nothing is to be learned."""
        if group.turn.lane is not Lane.SHORT:
            self._pending.habits.learn(group.turn.consumer, group.form.model, lane)

    def close(self) -> None:
        """Send nothing more: the child is of no more use."""
        self._closed = True

    def _overdue(self, group: Group) -> None:
        group.give_up()
        asyncio.get_running_loop().call_later(STUCK_MS / 1000, self._condemn_if_pending, group)

    def _condemn_if_pending(self, group: Group) -> None:
        if self._pending.has_group(group):
            self._condemn("it was stuck in a run", group.form.model)


def payloads_of(
    interface: ModelInterface, names: tuple[str, ...], frame: GroupAnswered, payload: memoryview, asked_ns: int
) -> list[memoryview]:
    """Return the payload of each run that an answer is for; what is the same for all of them is looked at once.

    Args:
        interface: the model's.
        names: of the outputs that were asked for; none for all.
        frame: the message.
        payload: the data beside it.
        asked_ns: how long ago the child was asked.

    Raises:
        EngineError, MalformedError: an honest child does not send this.
    """
    if sum(frame.compute_us) * 1_000 > asked_ns:
        raise MalformedError("it claims to have worked before it was asked", reason="bad_frame")
    count = len(frame.compute_us)
    size, rest = divmod(len(payload), count)
    if rest:
        raise MalformedError("the tensors of a frame do not fill its payload", reason="bad_frame")
    payloads = [payload[number * size : (number + 1) * size] for number in range(count)]
    plain = all(header.datatype not in _LOOKED_AT for header in frame.outputs)
    for each in payloads[:1] if plain else payloads:
        check_answer(interface, names, unpack_tensors(frame.outputs, each))
    return payloads
