"""Which requests may have been acted on without an answer, and where (`RetryMayCharge`).

An instance recognises its own request ids for ten minutes, so a repetition there is charged once. Another instance,
also the same host after a reboot, cannot know them and would charge again. A request whose outcome is unknown is
therefore repeated on the same instance only, and within half of that time, unless the caller accepted `may-charge`:
the other half is for what a host can hold a repetition back. A refusal says that the try which it answers was not
charged. Of one before that got no answer it says nothing, or, for want of units, that it was not charged until then.

What it does not do: it does not outlive the process, and it forgets the oldest beyond a bound.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from aigovtool.consumer.clock import Clock
from aigovtool.errors import (
    AIGovToolError,
    BudgetExhaustedError,
    BudgetReservedError,
    ConflictError,
    EngineError,
    IdentityError,
    InputError,
    InvalidValueError,
    LeaseCappedError,
    OverloadedError,
    RefusalError,
)
from aigovtool.ids import InstanceId, RequestKey
from aigovtool.limits import RESULT_RETENTION_MS

#: A client that meets this many lost connections in a row has other worries.
MAX_UNKNOWN_OUTCOMES: Final = 4096
#: Refusals after which it is certain that the try which they answer was not charged (leases spec section 5).
_NOT_CHARGED: Final = (RefusalError, IdentityError, OverloadedError, EngineError, InputError)
#: Those of an enclave that has looked for the request id, and found none that was charged.
_NOT_FOUND: Final = (BudgetExhaustedError, BudgetReservedError, LeaseCappedError)
#: The reason of our own refusal to ask where it could be charged again.
RETRY_MAY_CHARGE: Final = "retry_may_charge"
#: For so long the same instance may be asked again.
REPEATABLE_MS: Final = RESULT_RETENTION_MS // 2


class Retry(StrEnum):
    """Where a request with an unknown outcome may be repeated."""

    SAME_INSTANCE_ONLY = "same-instance-only"
    MAY_CHARGE = "may-charge"


def parse_retry(text: str) -> Retry:
    """Return the mode called `text`; raises `InvalidValueError` (`bad_retry`)."""
    try:
        return Retry(text)
    except ValueError:
        raise InvalidValueError(
            f"{text[:40]!r} is no retry mode", reason="bad_retry", fix="use " + " or ".join(Retry)
        ) from None


@dataclass(frozen=True, slots=True)
class Sent:
    """Where a request may have been acted on, and since when.

    By both clocks: one stands still in a suspended machine, and the other one can be set.
    """

    instance: InstanceId
    at_ms: int
    at_s: float


class Outcomes:
    """Remembers, per request id, the instance that may have acted on it."""

    def __init__(self, retry: Retry, clock: Clock) -> None:
        self._retry: Final = retry
        self._clock: Final = clock
        self._unknown: Final[OrderedDict[RequestKey, Sent]] = OrderedDict()

    def sending(self, key: RequestKey, instance: InstanceId) -> Sent | None:
        """Note that `key` is about to be sent to `instance`; return where it may have been received before.

        Raises:
            ConflictError: with reason `retry_may_charge`.
        """
        before = self._unknown.get(key)
        if before is None:
            self._unknown[key] = self._now(instance)
            if len(self._unknown) > MAX_UNKNOWN_OUTCOMES:
                self._unknown.popitem(last=False)
            return None
        if self._retry is Retry.MAY_CHARGE:
            if before.instance != instance:
                self._unknown[key] = self._now(instance)
        elif before.instance != instance:
            raise _may_charge("another instance now answers")
        elif self._age_ms(before) >= REPEATABLE_MS:
            raise _may_charge("the enclave may have forgotten it by now")
        return before

    def not_received(self, key: RequestKey, before: Sent | None) -> None:
        """Note that what `sending` announced was certainly not received, or not acted on."""
        if before is None:
            self._unknown.pop(key, None)
        else:
            self._unknown[key] = before

    def refused(self, key: RequestKey, before: Sent | None, error: AIGovToolError) -> None:
        """Note the refusal of what `sending` announced; some refusals say for certain that this try was not charged."""
        if isinstance(error, _NOT_CHARGED) and not isinstance(error, ConflictError):
            if before is not None and isinstance(error, _NOT_FOUND):
                before = self._now(before.instance)  # what may come of the try before comes after this
            self.not_received(key, before)

    def is_unknown(self, key: RequestKey) -> bool:
        """Return whether a try of `key` got no answer, so that it may have been charged."""
        return key in self._unknown

    def is_bound(self, key: RequestKey) -> bool:
        """Return whether `key` may have been charged where it was asked, so that nobody else may be asked."""
        return self._retry is not Retry.MAY_CHARGE and self.is_unknown(key)

    def instance_of(self, key: RequestKey) -> InstanceId | None:
        """Return where a try of `key` may have been acted on without an answer; None if nowhere."""
        sent = self._unknown.get(key)
        return None if sent is None else sent.instance

    def settled(self, key: RequestKey) -> None:
        """Note that the outcome is known."""
        self._unknown.pop(key, None)

    def _now(self, instance: InstanceId) -> Sent:
        return Sent(instance, self._clock.now_ms(), self._clock.monotonic_s())

    def _age_ms(self, sent: Sent) -> float:
        return max(self._clock.now_ms() - sent.at_ms, (self._clock.monotonic_s() - sent.at_s) * 1000)


def repeat_advice(fix: str | None, name: str) -> str:
    """Return how to ask again for what may have been charged, under its `name`, after what else is to be done."""
    why = "" if fix is None else f"{fix}. It may have been charged already: "
    return f"{why}repeat it with {name}: the same enclave charges that once, and answers again, within ten minutes"


def _may_charge(why: str) -> ConflictError:
    return ConflictError(
        f"the outcome of this request is unknown, and {why}: repeating it can be charged a second time",
        reason=RETRY_MAY_CHARGE,
        fix='accept that with retry="may-charge", or ask anew with another request_id',
    )
