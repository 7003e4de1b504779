"""One enclave behind the gateway: verified, verified again, and known for how it has answered of late.

It is in one of three states:

1. *Verified*: requests go to it.
2. *Unreachable*: nobody answers at its address. What was verified stays so, and it is tried again soon.
3. *Refused*: whoever answers there proves something that is not accepted. No request goes to it until it proves better.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from aigovtool.consumer.async_driver import AsyncDriver
from aigovtool.consumer.attest import Session
from aigovtool.consumer.clock import Clock
from aigovtool.consumer.core import ConsumerCore
from aigovtool.consumer.patience import Deadline
from aigovtool.consumer.relay import Relay, Relayed
from aigovtool.errors import (
    AIGovToolError,
    BudgetExhaustedError,
    BudgetReservedError,
    ConfigurationError,
    DeadlineError,
    LeaseCappedError,
    LeaseExpiredError,
    NoBudgetError,
    OverloadedError,
    ReattestRequiredError,
    UnreachableError,
    VerificationError,
)
from aigovtool.ids import InstanceId, ModelId
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol.oip_metadata import ModelMetadata

#: How much the last answer counts in the mean of how long answers take.
_LAST_COUNTS: Final = 0.2
#: Refusals after which the others are asked first for a while.
_SHORT_OF: Final = (
    BudgetExhaustedError,
    BudgetReservedError,
    LeaseCappedError,
    LeaseExpiredError,
    NoBudgetError,
    OverloadedError,
)
#: What does not fit says nothing of the other models.
_OF_ONE_MODEL: Final = frozenset({"model_changed"})
#: Of how many of the last answers it is told how long they took.
_RECENT: Final = 1_000
_AVOIDED_S: Final = 2.0
_LONGEST_AVOIDED_S: Final = 30.0


class State(StrEnum):
    """See the module."""

    VERIFIED = "verified"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"


#: Is told each outcome of an attestation: the session, or why there is none.
Noted = Callable[["Member", Session | None, AIGovToolError | None], None]


@dataclass(slots=True)
class Tally:
    """What a member has done since the gateway began; times in seconds."""

    answered: int = 0
    refused: int = 0
    failed: int = 0
    under_way: int = 0
    latency_s: float | None = None
    recent_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    #: What was left of each model's units, as its last receipt says.
    remaining: dict[ModelId, UnitVector] = field(default_factory=dict)

    def took(self, seconds: float) -> None:
        """Count an answer."""
        self.answered += 1
        before = seconds if self.latency_s is None else self.latency_s
        self.latency_s = (1 - _LAST_COUNTS) * before + _LAST_COUNTS * seconds
        self.recent_s.append(seconds)

    def within_s(self, percent: int) -> float | None:
        """Return within how long so many percent of the last answers came; None before the first."""
        found = sorted(self.recent_s)
        return found[-(-percent * len(found) // 100) - 1] if found else None


class Member:
    """One enclave, by its address."""

    def __init__(self, url: str, core: ConsumerCore, driver: AsyncDriver, *, clock: Clock, noted: Noted) -> None:
        self.url: Final = url
        self.tally: Final = Tally()
        self.state = State.UNREACHABLE
        #: Why it is not verified.
        self.trouble: AIGovToolError | None = None
        #: Whether it is not verified; set as soon as that is known.
        self.in_trouble: Final = asyncio.Event()
        self._core: Final = core
        self._driver: Final = driver
        self._clock: Final = clock
        self._noted: Final = noted
        #: Per model, until when the others are asked first.
        self._avoided: Final[dict[ModelId, float]] = {}
        self._session: Session | None = None
        self._verifying: Final = asyncio.Lock()

    @property
    def session(self) -> Session | None:
        """The session in which it is believed, if it is."""
        return self._session if self.state is not State.REFUSED else None

    def serves(self, model: ModelId) -> bool:
        """Return whether it said that it serves a model when it was verified last."""
        return self._session is not None and model in self._session.models

    def is_instance(self, instance: InstanceId | None) -> bool:
        """Return whether it was this instance when it was verified last."""
        return self._session is not None and self._session.instance == instance

    def rank(self, model: ModelId) -> tuple[object, ...]:
        """Return by what members are sorted: the least is asked first."""
        avoided = self._avoided.get(model, 0.0) > self._clock.monotonic_s()
        return (
            self.state is not State.VERIFIED,
            not self.serves(model),
            avoided,
            self.tally.under_way,
            self.tally.latency_s or 0.0,
        )

    async def verify(self) -> Session:
        """Attest afresh, with a nonce of its own; the outcome is its state.

        Raises:
            AIGovToolError: why it is not verified.
        """
        async with self._verifying:
            try:
                session = await self._driver.run(self._core.attest())
            except AIGovToolError as error:
                self._judge(error)
                raise
            self._believe()
            return session

    async def relay(self, relay: Relay, deadline: Deadline) -> Relayed:
        """Pass on one inference; raises as `ConsumerCore.relay`."""
        began_s = self._clock.monotonic_s()
        self.tally.under_way += 1
        try:
            relayed = await self._driver.run(self._core.relay(relay, deadline))
        except AIGovToolError as error:
            self._count(relay.model, error)
            self._look()
            self._judge(error)
            raise
        finally:
            self.tally.under_way -= 1
        self.tally.took(self._clock.monotonic_s() - began_s)
        self.tally.remaining[relay.model] = relayed.saved.signed.receipt.remaining
        self._avoided.pop(relay.model, None)
        self._believe()
        return relayed

    async def metadata(self, model: ModelId, deadline: Deadline) -> ModelMetadata:
        """Return what it says of a model; raises as `ConsumerCore.metadata`."""
        try:
            found = await self._driver.run(self._core.metadata(model, deadline))
        except AIGovToolError as error:
            self._judge(error)
            raise
        self._believe()
        return found

    async def close(self) -> None:
        """Close its connections."""
        await self._driver.close()

    def _count(self, model: ModelId, error: AIGovToolError) -> None:
        if isinstance(error, UnreachableError | DeadlineError | VerificationError):
            self.tally.failed += 1
            return
        self.tally.refused += 1
        if isinstance(error, _SHORT_OF):
            pause_s = _AVOIDED_S if error.retry_after_s is None else float(error.retry_after_s)
            self._avoided[model] = self._clock.monotonic_s() + min(max(pause_s, _AVOIDED_S), _LONGEST_AVOIDED_S)

    def _believe(self) -> None:
        """It has answered: what the core believes is believed."""
        if self._look():
            self.state, self.trouble = State.VERIFIED, None
            self.in_trouble.clear()

    def _look(self) -> bool:
        """Take over a session that the core has come to since; return whether it has any."""
        try:
            session = self._core.session()
        except ReattestRequiredError:
            return False
        if session is not self._session:
            self._session = session
            self._noted(self, session, None)
        return True

    def _judge(self, error: AIGovToolError) -> None:
        """Have an error change the state, if it says something of who answers there."""
        if error.reason in _OF_ONE_MODEL:
            return
        if isinstance(error, VerificationError | ConfigurationError):
            state = State.REFUSED
        elif isinstance(error, UnreachableError) or (isinstance(error, DeadlineError) and error.reason != "deadline"):
            state = State.UNREACHABLE
        else:
            return
        changed = (state, error.reason) != (self.state, None if self.trouble is None else self.trouble.reason)
        self.state, self.trouble = state, error
        self.in_trouble.set()
        if state is State.REFUSED:
            self._session = None
        if changed:
            self._noted(self, None, error)
