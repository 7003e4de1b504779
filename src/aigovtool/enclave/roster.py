"""Which of its models an enclave tries to serve, and which it sets aside so that the others are served.

An enclave is started for several models. One of them may be damaged, be refused by the engine, or end the engine: when
it is loaded, or whenever it is run. Rules:

1. What happens while one model is fetched, released or loaded is that model's failure, unless it says nothing of that
   model (the custodian is away, this instance is refused). After the second in a row it is set aside: the first may be
   chance, and what was damaged is fetched anew. What would come out the same again, was tried several times, or took
   longest, counts at once.
2. An engine that ends with runs under way is the failure of a model only if it ended several times within a short time,
   and of all models that had runs under way one alone had them each time. Whom that says nothing of goes on.
3. The last model that is left is never set aside: then the enclave fails with the reason, as one for a single model.
4. What is set aside is tried again after a time, which grows each time and with how long a boot takes, because a boot
   interrupts the others; what the engine refuses is tried again by an enclave that is started anew.

It is all in memory, and times may be the host's: whoever sets models aside so could end the enclave as well.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from aigovtool.enclave.custodian_link import DOWNLOAD_STUCK
from aigovtool.errors import (
    AIGovToolError,
    ClockLeaptError,
    LedgerRollbackError,
    ModelError,
    NotServedError,
    OverloadedError,
    RefusalError,
    StoppedError,
    StorageError,
    UnauthenticatedError,
    UnreachableError,
)
from aigovtool.ids import ModelId
from aigovtool.protocol.release import NotServed

_LOG: Final = logging.getLogger(__name__)
#: Failures in a row after which a model is set aside.
TRIES: Final = 2
#: Ends of the engine, and within which time (or so many boots' time, if that is longer: each end costs a boot), after
#: which the model that was always run is set aside.
DEATHS: Final = 3
DEATHS_WITHIN_S: Final = 600.0
_DEATHS_WITHIN_BOOTS: Final = 10
#: What took longest, or was tried more than once before it is called that.
_AT_ONCE: Final = frozenset({"load_too_long", DOWNLOAD_STUCK})
#: For how long a model is set aside the first time: so many boots' time, and at least this; then longer by a factor.
LEAST_S: Final = 600.0
_BOOTS: Final = 50
_FACTOR: Final = 4
MOST_S: Final = 7 * 86_400.0
#: What says nothing of the model that is asked for: nobody answers, or all of this borrower is refused, or everybody.
_OF_ALL: Final = (
    OverloadedError,
    RefusalError,
    UnauthenticatedError,
    LedgerRollbackError,
    ClockLeaptError,
)


def is_of_one(error: AIGovToolError) -> bool:
    """Return whether an error says something of the one model that was fetched, released or loaded meanwhile.

    A package that the custodian cannot read is that one's; a ledger that it cannot write is everybody's. A network that
    breaks is everybody's as well, but for one download that does again and again, with all before it answered.
    """
    if isinstance(error, UnreachableError):
        return error.reason == DOWNLOAD_STUCK
    if isinstance(error, StorageError):
        return error.reason == "package_unreadable"
    return not isinstance(error, _OF_ALL)


def error_of(missing: NotServed) -> AIGovToolError:
    """Return what whoever asks for a model that is not served is told: of a stop the same as ever."""
    if missing.code == StoppedError.code:
        return StoppedError("the custodian has stopped this model", fix="ask the custodian to resume")
    return NotServedError(
        f"this enclave serves without {missing.model}: {missing.code}",
        reason=missing.reason or missing.code,
        fix="ask whoever runs the enclave: it tries again by itself, or when it is started anew",
    )


def _is_certain(error: AIGovToolError) -> bool:
    """Return whether the same package with the same engine fails in the same way."""
    return isinstance(error, ModelError)


@dataclass(slots=True)
class _Record:
    """What became of one model. It is set aside while `aside` is there, and tried again from `until_s` on."""

    failures: int = 0
    aside: NotServed | None = None
    until_s: float = 0.0
    #: How long it was set aside the last time, and since when it is served again.
    last_s: float = 0.0
    served_s: float = 0.0


@dataclass(slots=True)
class Roster:
    """The models of one enclave, in the order in which they were named."""

    models: list[ModelId]
    now_s: Callable[[], float] = time.monotonic
    boot_s: float = 0.0
    _records: dict[ModelId, _Record] = field(default_factory=dict)
    _deaths: "deque[tuple[float, frozenset[ModelId]]]" = field(default_factory=deque)

    def wanted(self) -> list[ModelId]:
        """Return the models to boot with: those that are not set aside, or have been for long enough."""
        now_s = self.now_s()
        return [model for model in self.models if not self._is_aside(model, now_s)]

    def aside(self) -> tuple[NotServed, ...]:
        """Return the others, and why."""
        wanted = set(self.wanted())
        records = [self._records[model] for model in self.models if model not in wanted]
        return tuple(record.aside for record in records if record.aside is not None)

    def due_s(self) -> float | None:
        """Return in how many seconds a model that is set aside is to be tried again; None if there is none."""
        ends = [record.until_s for record in self._records.values() if record.aside is not None]
        left_s = min(ends, default=float("inf")) - self.now_s()
        return None if left_s == float("inf") else max(0.0, left_s)

    def failed(self, model: ModelId, error: AIGovToolError) -> bool:
        """Take note that a boot failed of this model; return whether it is worth to boot again at once.

        It is not if there is no other model: then it is up to the caller whether and when the enclave ends.
        """
        if not self._has_others(model):
            return False
        record = self._record(model)
        record.failures += 1
        at_once = _is_certain(error) or error.reason in _AT_ONCE or record.aside is not None
        if record.failures >= TRIES or at_once:
            self._set_aside(model, error.code, error.reason, for_good=_is_certain(error))
        return True

    def booted(self, models: Iterable[ModelId], boot_s: float) -> None:
        """Take note of a boot that took so long, and of the models that were loaded, or that the custodian refused."""
        self.boot_s = boot_s
        for model in models:
            record = self._record(model)
            record.failures = 0
            if record.aside is not None:
                record.aside, record.served_s = None, self.now_s()

    def engine_died(self, running: Collection[ModelId]) -> None:
        """Take note that the engine ended by itself while these models had runs under way."""
        now_s = self.now_s()
        self._deaths.append((now_s, frozenset(running)))
        while self._deaths[0][0] < now_s - max(DEATHS_WITHIN_S, self.boot_s * _DEATHS_WITHIN_BOOTS):
            self._deaths.popleft()
        suspect = self._suspect(now_s)
        if suspect is not None and self._has_others(suspect):
            self._deaths.clear()
            self._set_aside(suspect, "engine_failed", "engine_died")

    def _suspect(self, now_s: float) -> ModelId | None:
        """Return the one model that had runs under way each time, of as many of the last deaths as it takes."""
        sets = [running for _, running in reversed(self._deaths)]
        common = sets[0]
        for number, running in enumerate(sets, 1):
            common &= running
            if len(common) == 1:
                (model,) = common
                # One that was set aside lately and is served again has not to prove it anew; with others it has.
                if number >= DEATHS or (self._is_on_probation(model, now_s) and sets[0] == common):
                    return model
        return None

    def _is_on_probation(self, model: ModelId, now_s: float) -> bool:
        record = self._record(model)
        return bool(record.last_s) and now_s < record.served_s + record.last_s

    def _set_aside(self, model: ModelId, code: str, reason: str | None, *, for_good: bool = False) -> None:
        record, now_s = self._record(model), self.now_s()
        least_s = max(LEAST_S, self.boot_s * _BOOTS)
        again = self._is_on_probation(model, now_s) or record.aside is not None
        record.last_s = min(MOST_S, max(least_s, record.last_s * _FACTOR) if again else least_s)
        record.until_s = float("inf") if for_good else now_s + record.last_s
        record.aside = NotServed(model=model, code=code, reason=reason or "")
        _LOG.error(
            "model_set_aside",
            extra={
                "model": model,
                "code": code,
                "reason": reason,
                "tried_again_in_s": None if for_good else round(record.last_s),
            },
        )

    def _has_others(self, model: ModelId) -> bool:
        return any(other != model for other in self.wanted())

    def _is_aside(self, model: ModelId, now_s: float) -> bool:
        record = self._records.get(model)
        return record is not None and record.aside is not None and now_s < record.until_s

    def _record(self, model: ModelId) -> _Record:
        return self._records.setdefault(model, _Record())
