"""One enclave behind the gateway: verified, verified again, and known for how it has answered of late.

It is in one of three states:

1. *Verified*: requests go to it.
2. *Unreachable*: nobody answers at its address, or whoever does takes nothing from this consumer. What was verified
   stays so, and it is tried again soon.
3. *Refused*: whoever answers there proves something that is not accepted. No request goes to it until it proves better.

A verified one may serve a model with another digest than before. Nothing is asked of that model then, and it is
verified again as soon as one that is refused.
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
from aigovtool.consumer.question import Question
from aigovtool.consumer.relay import Relayed
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
    UnauthenticatedError,
    UnreachableError,
    VerificationError,
)
from aigovtool.ids import Digest, InstanceId, ModelId
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
OF_ONE_MODEL: Final = frozenset({"model_changed"})
#: Of how many of the last answers it is told how long they took.
_RECENT: Final = 1_000
_AVOIDED_S: Final = 2.0
_LONGEST_AVOIDED_S: Final = 30.0


class State(StrEnum):
    """See the module."""

    VERIFIED = "verified"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"


#: Is told each outcome of an attestation: the session, or why there is none; and why one model is not accepted.
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
        #: Why it, or a model of it, is not accepted.
        self.trouble: AIGovToolError | None = None
        #: Whether it, or a model of it, is not accepted; set as soon as that is known.
        self.in_trouble: Final = asyncio.Event()
        self._core: Final = core
        self._driver: Final = driver
        self._clock: Final = clock
        self._noted: Final = noted
        #: Per model, until when the others are asked first.
        self._avoided: Final[dict[ModelId, float]] = {}
        #: Models that it has with another digest than before: with which, and the refusal.
        self._changed: Final[dict[ModelId, tuple[Digest, AIGovToolError]]] = {}
        self._session: Session | None = None
        self._verifying: Final = asyncio.Lock()

    @property
    def session(self) -> Session | None:
        """The session in which it is believed, if it is."""
        return self._session if self.state is not State.REFUSED else None

    @property
    def is_well(self) -> bool:
        """Whether it is verified, and all its models are those of before."""
        return self.state is State.VERIFIED and not self._changed

    def has_changed(self, model: ModelId) -> bool:
        """Return whether it has a model with another digest than before."""
        return model in self._changed

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
            self.has_changed(model),
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

    async def relay(self, question: Question, deadline: Deadline) -> Relayed:
        """Pass on one inference; raises as `ConsumerCore.relay`."""
        began_s = self._clock.monotonic_s()
        self.tally.under_way += 1
        try:
            relayed = await self._driver.run(self._core.relay(question, deadline))
        except AIGovToolError as error:
            self._count(question.model, error)
            self._look()
            self._judge(error, question.model)
            raise
        finally:
            self.tally.under_way -= 1
        self.tally.took(self._clock.monotonic_s() - began_s)
        self.tally.remaining[question.model] = relayed.saved.signed.receipt.remaining
        self._avoided.pop(question.model, None)
        self._believe()
        return relayed

    async def metadata(self, model: ModelId, deadline: Deadline) -> ModelMetadata:
        """Return what it says of a model; raises as `ConsumerCore.metadata`."""
        try:
            found = await self._driver.run(self._core.metadata(model, deadline))
        except AIGovToolError as error:
            self._look()
            self._judge(error, model)
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
            self.state = State.VERIFIED
            self.trouble = next((error for _, error in self._changed.values()), None)
            if self.trouble is None:
                self.in_trouble.clear()

    def _look(self) -> bool:
        """Take over a session that the core has come to since; return whether it has any."""
        try:
            session = self._core.session()
        except ReattestRequiredError:
            return False
        if session is not self._session:
            self._session = session
            for model, (digest, _) in tuple(self._changed.items()):
                if session.models.get(model) != digest:
                    del self._changed[model]
            self._noted(self, session, None)
        return True

    def _judge(self, error: AIGovToolError, model: ModelId | None = None) -> None:
        """Have an error change the state, if it says something of who answers there."""
        if error.reason in OF_ONE_MODEL:
            self._judge_model(model, error)
            return
        if isinstance(error, VerificationError | ConfigurationError):
            state = State.REFUSED
        elif isinstance(error, UnreachableError | UnauthenticatedError) or (
            isinstance(error, DeadlineError) and error.reason != "deadline"
        ):
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

    def _judge_model(self, model: ModelId | None, error: AIGovToolError) -> None:
        """Have nothing more be asked of a model, until it has another digest than now."""
        digest = None if self._session is None or model is None else self._session.models.get(model)
        if model is None or digest is None or self._changed.get(model, (None,))[0] == digest:
            return
        self._changed[model] = digest, error
        self.trouble = error
        self.in_trouble.set()
        self._noted(self, None, error)
