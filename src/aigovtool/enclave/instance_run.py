"""The life of one instance after boot: renew, listen, stop, wipe.

One task renews (the heartbeat), one listens for pushes, and two watch engine and time. All end when the instance must
be wiped: on a stop wider than one consumer, on the death of the engine, on silence of the custodian for too long
(dead-man switch), on a clock that ran backwards, when it must attest again, when the custodian does not know it, or to
try once more what it does not serve.
Wiping means: no new work, the engine killed *and waited for*, results dropped, counters shut; only then is the
acknowledgement signed.

Time limits are `asyncio.timeout`, never `asyncio.wait_for`: before Python 3.12 that one can swallow the cancellation of
a task whose event comes in the same moment, and an instance that cannot end its heartbeat would never be wiped.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable
from contextlib import suppress
from enum import StrEnum
from typing import TypeVar

from aigovtool.crypto.sign import Envelope, open_by_any, seal
from aigovtool.enclave.again import attest_in_time
from aigovtool.enclave.boot import Instance
from aigovtool.enclave.charging import Charging
from aigovtool.enclave.failed_runs import FailedRuns
from aigovtool.enclave.listening import RETRY_S, listen, retry_s
from aigovtool.enclave.memory import MemoryBounds, memory_bounds
from aigovtool.enclave.results import ResultLimits, Results
from aigovtool.errors import AIGovToolError, ForbiddenError, UnreachableError
from aigovtool.ids import MessageId
from aigovtool.protocol import messages
from aigovtool.protocol.messages import Answer, Push, RenewReply, Wiped
from aigovtool.protocol.views import CheckpointSeen, LogHead
from aigovtool.transport.problem import unexpected
from aigovtool.transport.room import Room

_LOG = logging.getLogger(__name__)
_IDLE_S = 0.5
#: The least and the most time that one try of a renewal is given, whatever the ttl is.
_TRY_S = (1.0, 10.0)
#: How long an instance serves at least before the custodian's word that there is more to serve ends it.
_LEAST_LIFE_MS = 5_000
#: How long an orderly end waits for the answer to a renewal.
_SETTLE_S = 1.0

T = TypeVar("T")


class Ending(StrEnum):
    """Why an instance ended."""

    STOPPED = "stopped"
    ENGINE_DIED = "engine_died"
    SILENCE = "custodian_silent"
    CLOCK = "clock_tampered"
    REATTEST = "reattest"
    UNKNOWN = "unknown_instance"
    SHUTDOWN = "shutdown"
    MORE = "more_models"
    FAULT = "fault"


#: Nothing went wrong: what was leased is given back, as far as that takes no time.
_ORDERLY = frozenset({Ending.SHUTDOWN, Ending.MORE})


class InstanceRun:
    """Runs one instance. The gateway serves through it; `run` returns after the wipe."""

    def __init__(
        self, instance: Instance, memory: MemoryBounds | None = None, failed_runs: FailedRuns | None = None
    ) -> None:
        memory = memory or memory_bounds()
        self.instance = instance
        self.results = Results(ResultLimits.within(memory))
        self.failed_runs = failed_runs or FailedRuns()
        self.bodies = Room(memory.bodies_per_consumer, memory.bodies, "open_bodies")
        self._meter = instance.meter
        self._clock = instance.clock
        self.charging = Charging(instance.meter, instance.clock, lambda: self._finish(Ending.CLOCK))
        self._changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._end: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.ready = asyncio.Event()
        self.ending: Ending | None = None

    def _news(self) -> None:
        """Let everybody who waits try, and renew if it is due now."""
        changed, self._changed = self._changed, asyncio.get_running_loop().create_future()
        changed.set_result(None)
        self.charging.serve_all()

    # -- Life -----------------------------------------------------------------------------------

    def shut_down(self) -> None:
        """End the instance in good order: close leases, wipe, acknowledge."""
        self._finish(Ending.SHUTDOWN)

    def begin_anew(self) -> None:
        """End the instance in good order, so that the next boot tries the models that this one does not serve."""
        self._finish(Ending.MORE)

    def _finish(self, ending: Ending) -> None:
        if not self._end.done():
            self._end.set_result(ending)

    async def run(self) -> Ending:
        """Serve until the instance must end; return why, after the wipe was acknowledged or given up."""
        own = (self._renewing(), self._listening(), self._watching(), self._minding(), self._attesting())
        tasks = [asyncio.create_task(life) for life in (*own, self.instance.learning())]
        try:
            # Whichever task ends by itself, for whatever reason: an instance without its heartbeat is wiped.
            for task in tasks:
                task.add_done_callback(self._task_ended)
            self.ending = await self._end
            if self.ending in _ORDERLY:
                await self._settled()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._wipe()
        if self.ending is Ending.UNKNOWN:
            await self._show_checkpoint()
        return self.ending

    def _task_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            unexpected(error)
        self._finish(Ending.FAULT)

    async def _settled(self) -> None:
        """Wait a moment for the renewal under way: its grants can then be closed unused, not charged in full."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S):
                while self._meter.is_renewing:
                    await asyncio.wait([self._changed])

    async def _watching(self) -> None:
        await self.instance.engine.died.wait()
        self._finish(Ending.ENGINE_DIED)

    async def _minding(self) -> None:
        """Look at the time also while a renewal is tried, or waits between two tries."""
        while not (self._end.done() or self._is_over()):
            await asyncio.wait([self._end], timeout=_IDLE_S)

    def _is_over(self) -> bool:
        self.charging.look_at_clock()
        if over := self._meter.must_wipe(self._clock.now_ms()):
            self._finish(Ending.STOPPED if self._meter.stop_state.is_wide() else Ending.SILENCE)
        return over

    async def _renewing(self) -> None:
        failures = 0
        # At an orderly end the renewal under way is finished, and no other one begun.
        while self._meter.is_renewing or not self._end.done():
            if self._is_over():
                return
            now_ms = self._clock.now_ms()
            self.results.expire(now_ms)
            if not self._meter.renew_due(now_ms):
                await self._pause(_IDLE_S)
                continue
            try:
                await self._renew(now_ms)
                failures = 0
            except AIGovToolError as error:
                self._failed("renew_failed", error)
                await asyncio.sleep(retry_s(failures))
                failures += 1

    def _failed(self, what: str, error: AIGovToolError) -> None:
        _LOG.warning(what, extra={"code": error.code, "reason": error.reason})
        if _is_unknown(error):
            self._finish(Ending.UNKNOWN)

    async def _pause(self, seconds: float) -> None:
        self.charging.wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.charging.wake.wait()

    async def _renew(self, now_ms: int) -> None:
        message = self._meter.renew(now_ms, MessageId(secrets.token_hex(16)))
        envelope = seal(messages.RENEW, message, self.instance.identity)
        reply = await self._within_share(self.instance.link.post("/v1/renew", envelope, RenewReply))
        await self.instance.obey(reply.stop_state, reply.key_set, self._take_stop_state)
        await self.instance.learn_key_set(reply.key_set)
        answer = open_by_any(reply.answer, messages.ANSWER, Answer, self.instance.key_set.command_keys())
        self._meter.accept(self._clock.now_ms(), answer)
        if self._meter.must_reattest:
            self._finish(Ending.REATTEST)
        elif reply.more and self._clock.now_ms() >= _LEAST_LIFE_MS:
            self.begin_anew()
        self.ready.set()
        self._news()

    async def _within_share(self, answer: Awaitable[T]) -> T:
        """Give a try a third of the ttl: a connection that hangs must leave time for another one."""
        least_s, most_s = _TRY_S
        try:
            async with asyncio.timeout(min(most_s, max(least_s, self._meter.terms.ttl_ms / 3_000))):
                return await answer
        except TimeoutError:
            raise UnreachableError("the custodian did not answer in time", reason="custodian") from None

    async def _attesting(self) -> None:
        """Attest again in good time: an instance that serves is not ended by the calendar."""
        await attest_in_time(
            self.instance, self._take_stop_state, lambda error: self._failed("not_attested_again", error)
        )

    def _take_stop_state(self, envelope: Envelope) -> None:
        if self._meter.apply_stop_state(self.instance.open_stop_state(envelope)):
            self._finish(Ending.STOPPED)

    async def _listening(self) -> None:
        await listen(self.instance, self._pushed, lambda error: self._failed("listen_failed", error))

    async def _pushed(self, line: Push) -> None:
        self.instance.keys.hint(line.key_set)
        if line.stop_state is not None:
            await self.instance.obey(line.stop_state, line.key_set, self._take_stop_state)
        if line.granted or line.recall:
            self._meter.nudge(self._clock.now_ms(), granted=line.granted, recall=line.recall)
        self._news()

    async def _wipe(self) -> None:
        self._meter.end_authority()
        await self.instance.engine.kill_and_wait()
        self.results.clear()
        statements = self._meter.wipe()
        self._news()
        try:
            async with asyncio.timeout(5.0 if self.ending in _ORDERLY else 60.0):
                for statement in statements:
                    await self._acknowledged(statement)
        except TimeoutError:
            _LOG.error("wipe_not_acknowledged")

    async def _acknowledged(self, statement: Wiped) -> None:
        envelope = seal(messages.WIPED, statement, self.instance.identity)
        failures = 0
        while True:
            try:
                await self.instance.link.post("/v1/wiped", envelope, Envelope)
                break
            except AIGovToolError as error:
                self._failed("wiped_failed", error)
                if _is_unknown(error):
                    break  # nobody there to tell: the custodian has no leases of this instance either
                await asyncio.sleep(retry_s(failures))
                failures += 1
        self._meter.acknowledge_wipe(statement)

    async def _show_checkpoint(self) -> None:
        """Show a custodian that forgot this instance what it signed: it may have forgotten grants as well.

        After this nobody here remembers it. A refusal is what is hoped for: then it has noticed.
        """
        if not (note := self._meter.checkpoint):
            return
        for wait_s in RETRY_S:
            try:
                await self._within_share(
                    self.instance.link.post("/v1/checkpoints", CheckpointSeen(checkpoint=note), LogHead)
                )
            except UnreachableError:
                await asyncio.sleep(wait_s)
            except AIGovToolError as error:
                _LOG.warning("checkpoint_shown", extra={"code": error.code, "reason": error.reason})
                return
            else:
                return


def _is_unknown(error: AIGovToolError) -> bool:
    """Return whether the custodian does not know this instance: its ledger is another one than at admission."""
    return isinstance(error, ForbiddenError) and error.reason == "unknown_instance"
