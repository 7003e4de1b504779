"""Which requests may have been acted on without an answer, and where (`RetryMayCharge`).

An instance recognises its own request ids, so a repetition there is charged once. Another instance, also the same host
after a reboot, cannot know them and would charge again. A request whose outcome is unknown is therefore repeated on the
same instance only, unless the caller accepted `may-charge`. A refusal says that the try which it answers was not
charged; of one before that got no answer it says nothing.

What it does not do: it does not outlive the process, and it forgets the oldest beyond a bound.
"""

from collections import OrderedDict
from enum import StrEnum
from typing import Final

from aigovtool.errors import (
    AIGovToolError,
    ConflictError,
    EngineError,
    IdentityError,
    InputError,
    InvalidValueError,
    OverloadedError,
    RefusalError,
)
from aigovtool.ids import InstanceId, RequestKey

#: A client that meets this many lost connections in a row has other worries.
MAX_UNKNOWN_OUTCOMES: Final = 4096
#: Refusals after which it is certain that the try which they answer was not charged (leases spec section 5).
_NOT_CHARGED: Final = (RefusalError, IdentityError, OverloadedError, EngineError, InputError)


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


class Outcomes:
    """Remembers, per request id, the instance that may have acted on it."""

    def __init__(self, retry: Retry) -> None:
        self._retry: Final = retry
        self._unknown: Final[OrderedDict[RequestKey, InstanceId]] = OrderedDict()

    def sending(self, key: RequestKey, instance: InstanceId) -> InstanceId | None:
        """Note that `key` is about to be sent to `instance`; return where it may have been received before.

        Raises:
            ConflictError: with reason `retry_may_charge`.
        """
        before = self._unknown.get(key)
        if before not in (None, instance) and self._retry is not Retry.MAY_CHARGE:
            raise ConflictError(
                "the outcome of this request is unknown, and another instance now answers: repeating it there can be "
                "charged a second time",
                reason="retry_may_charge",
                fix='accept that with retry="may-charge", or ask anew with another request_id',
            )
        self._unknown[key] = instance
        if len(self._unknown) > MAX_UNKNOWN_OUTCOMES:
            self._unknown.popitem(last=False)
        return before

    def not_received(self, key: RequestKey, before: InstanceId | None) -> None:
        """Note that what `sending` announced was certainly not received, or not acted on."""
        if before is None:
            self._unknown.pop(key, None)
        else:
            self._unknown[key] = before

    def refused(self, key: RequestKey, before: InstanceId | None, error: AIGovToolError) -> None:
        """Note the refusal of what `sending` announced; some refusals say for certain that this try was not charged."""
        if isinstance(error, _NOT_CHARGED) and not isinstance(error, ConflictError):
            self.not_received(key, before)

    def is_unknown(self, key: RequestKey) -> bool:
        """Return whether a try of `key` got no answer, so that it may have been charged."""
        return key in self._unknown

    def settled(self, key: RequestKey) -> None:
        """Note that the outcome is known."""
        self._unknown.pop(key, None)
