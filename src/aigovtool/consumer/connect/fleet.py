"""Several enclaves behind one gateway: which of them is asked, and when another one is.

A request is asked of the enclave that is verified, serves its model, was not short of units a moment ago, has the
fewest requests under way, and has answered the fastest of late, in this order. It is asked of the next one where the
first has certainly charged nothing (it was not reached, or has refused), under the same request id. Where that is not
certain, only the same enclave may be asked again, which knows the id: another one could charge a second time.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from typing import Final

from aigovtool.consumer.clock import Clock
from aigovtool.consumer.connect.member import Member, State
from aigovtool.consumer.outcomes import RETRY_MAY_CHARGE, Outcomes, repeat_advice
from aigovtool.consumer.patience import Deadline
from aigovtool.consumer.question import Question
from aigovtool.consumer.relay import Relayed
from aigovtool.errors import (
    AIGovToolError,
    BudgetExhaustedError,
    IdentityError,
    InputError,
    NotFoundError,
    NotServedError,
    ReceiptError,
    StoppedError,
    UnauthenticatedError,
    UnreachableError,
    VerificationError,
)
from aigovtool.ids import Digest, InstanceId, ModelId, RequestKey
from aigovtool.protocol.oip_metadata import ModelMetadata

_LOG: Final = logging.getLogger(__name__)
#: How long after enclaves were asked for a model that none serves, nobody asks them for such a one.
_ASK_AGAIN_S: Final = 10.0
#: From when one that does not answer, or is refused, is tried again, and at the most.
_RETRY_S: Final = 2.0
_LONGEST_RETRY_S: Final = 30.0
_MOST_FAILURES: Final = 8
#: Which of several refusals is told, the most telling last; before them all what passes by itself, and after them what
#: would be charged a second time.
_TELLING: Final[tuple[type[AIGovToolError], ...]] = (
    UnreachableError,
    UnauthenticatedError,
    VerificationError,
    NotFoundError,
    NotServedError,
    BudgetExhaustedError,
    StoppedError,
)


class Fleet:
    """The members, what is asked of them, and who keeps them verified."""

    def __init__(self, members: Sequence[Member], outcomes: Outcomes, *, clock: Clock) -> None:
        self.members: Final = tuple(members)
        self._outcomes: Final = outcomes
        self._clock: Final = clock
        #: When enclaves may be asked again for a model that none serves.
        self._ask_again_s = 0.0

    async def open(self) -> None:
        """Verify all of them at once.

        Raises:
            AIGovToolError: none is; why the first one is not.
        """
        tried = await asyncio.gather(*(member.verify() for member in self.members), return_exceptions=True)
        errors = [one for one in tried if isinstance(one, BaseException)]
        for error in errors:
            if not isinstance(error, AIGovToolError):
                raise error
        if len(errors) == len(self.members):
            raise errors[0]

    async def watch(self, every_s: float) -> None:
        """Verify each again so often, and those that are not accepted in all sooner; until it is cancelled."""
        await asyncio.gather(*(self._watch(member, every_s) for member in self.members))

    async def relay(self, question: Question, deadline: Deadline) -> Relayed:
        """Have one of them answer.

        Raises:
            AIGovToolError: the most telling of their refusals; nothing was charged unless its `fix` says otherwise.
        """
        refusals: list[AIGovToolError] = []
        for member in self._in_order(question.model, self._outcomes.instance_of(question.request_key)):
            try:
                return await member.relay(question, deadline)
            except AIGovToolError as error:
                if self._outcomes.is_bound(question.request_key) and error.reason != RETRY_MAY_CHARGE:
                    raise _with_name(error, question.request_key) from None
                if not _may_differ_elsewhere(error):
                    raise
                refusals.append(error)
        raise self._most_telling(refusals)

    async def metadata(self, model: ModelId, deadline: Deadline) -> ModelMetadata:
        """Return what one of them says of a model; raises as `relay`."""
        refusals: list[AIGovToolError] = []
        for member in self._in_order(model):
            try:
                return await member.metadata(model, deadline)
            except AIGovToolError as error:
                if not _may_differ_elsewhere(error):
                    raise
                refusals.append(error)
        raise self._most_telling(refusals)

    def models(self) -> dict[ModelId, Digest]:
        """Return the models that are served by those who are verified, with their manifests."""
        return {
            model: manifest
            for member in reversed(self.members)
            if member.state is State.VERIFIED and member.session is not None
            for model, manifest in sorted(member.session.models.items())
            if not member.has_changed(model)
        }

    def is_ready(self) -> bool:
        """Return whether any of them is verified."""
        return any(member.state is State.VERIFIED for member in self.members)

    async def close(self) -> None:
        """Close all connections."""
        for member in self.members:
            await member.close()

    def _in_order(self, model: ModelId, knows: InstanceId | None = None) -> list[Member]:
        """Return whom to ask, in turn: those that serve a model, and never one that is refused.

        Args:
            model: which.
            knows: an instance that may have answered the request already, and goes first.

        Raises:
            NotFoundError: `no_such_model`: none serves it, and one was asked a moment ago whether it does now.
        """
        asked = [member for member in self.members if member.state is not State.REFUSED]
        serving = [member for member in asked if member.serves(model)]
        if not serving and asked:
            self._require_worth_asking(model)
        return sorted(serving or asked, key=lambda member: (not member.is_instance(knows), member.rank(model)))

    def _require_worth_asking(self, model: ModelId) -> None:
        """Have enclaves be asked for what they do not serve now and then only: each such question costs a quote."""
        now_s = self._clock.monotonic_s()
        if now_s < self._ask_again_s:
            raise NotFoundError(
                f"no enclave serves model {model}",
                reason="no_such_model",
                fix="they serve " + (", ".join(sorted(self.models())) or "none"),
            )
        self._ask_again_s = now_s + _ASK_AGAIN_S

    def _most_telling(self, refusals: list[AIGovToolError]) -> AIGovToolError:
        if not refusals:
            refusals = [member.trouble for member in self.members if member.trouble is not None]
        if not refusals:
            return UnreachableError("no enclave is verified at this moment", reason="no_enclave", retry_after_s=1)
        return max(refusals, key=_how_telling)

    async def _watch(self, member: Member, every_s: float) -> None:
        failures = 0
        while True:
            if member.is_well:
                with suppress(TimeoutError):
                    async with asyncio.timeout(every_s):
                        await member.in_trouble.wait()
            if not member.is_well:
                await asyncio.sleep(min(_RETRY_S * 2**failures, _LONGEST_RETRY_S))
            try:
                await member.verify()
            except AIGovToolError as error:
                failures = min(failures + 1, _MOST_FAILURES)
                _LOG.info("not_verified enclave=%s code=%s reason=%s", member.url, error.code, error.reason)
            else:
                failures = 0 if member.is_well else min(failures + 1, _MOST_FAILURES)


def _with_name(error: AIGovToolError, key: RequestKey) -> AIGovToolError:
    """Return a copy that says how to ask again for what may have been charged; the member's own is shown to others."""
    told = copy(error)
    told.fix = repeat_advice(error.fix, f"the request id {key}")
    return told


def _may_differ_elsewhere(error: AIGovToolError) -> bool:
    """Return whether another enclave may answer what this one did not: a request is as wrong there as here."""
    if isinstance(error, NotFoundError | UnauthenticatedError) or error.reason == RETRY_MAY_CHARGE:
        return True  # another enclave has other models, another memory, and may take this consumer's certificate
    return not isinstance(error, InputError | IdentityError | ReceiptError)


def _how_telling(error: AIGovToolError) -> int:
    if error.reason == RETRY_MAY_CHARGE:
        return len(_TELLING) + 1
    return next((rank for rank, kind in enumerate(_TELLING, 1) if isinstance(error, kind)), 0)
