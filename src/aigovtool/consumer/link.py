"""The consumer's link to one enclave: attested once, pinned after, and attested again when that is needed.

Steps 1 to 7 of trusting an enclave are in `attest`. Here:

8. Everything but the challenge uses connections pinned to exactly the attested certificate.
9. One fresh attestation replaces the session when the enclave proves another certificate (it rebooted), when the
   attestation is too old, and when it does not cover a model that is asked for. A model without a pin of the caller
   stays at the digest that was seen first.

An exchange that fails is repeated once, with the same bytes, if the connection was refused or lost; a timeout is not
repeated, because the time is gone.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from aigovtool.consumer.attest import Moment, Session, Trust, fetch_session, read_session
from aigovtool.consumer.clock import Clock
from aigovtool.consumer.exchange import Call, Failure, FailureKind, Flow, Reply, exchange
from aigovtool.consumer.patience import Deadline
from aigovtool.consumer.problems import error_of
from aigovtool.consumer.sealed import Sealing
from aigovtool.errors import (
    AIGovToolError,
    ConfigurationError,
    EvidenceError,
    NotFoundError,
    NotServedError,
    ReattestRequiredError,
    StoppedError,
    VerificationError,
)
from aigovtool.ids import Digest, ModelId, Nonce
from aigovtool.limits import MAX_CONTROL_BODY_BYTES
from aigovtool.protocol.trust import KeySet

_LOG: Final = logging.getLogger(__name__)
ENCLAVE: Final = "the enclave"
REPEATABLE: Final = frozenset({FailureKind.UNREACHED, FailureKind.HUNG_UP, FailureKind.LOST})
#: Another instance answers than the attested one.
_ANOTHER_ENCLAVE: Final = frozenset({FailureKind.OTHER_CERTIFICATE, FailureKind.OTHER_BODY_KEY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One request for whichever session is current: how it is made, and whom to tell.

    `sending` is told the session before each try and may refuse it by raising; `failed` is told each failure.
    """

    model: ModelId | None
    call: Callable[[Session, float], Call]
    sending: Callable[[Session], None] = lambda _: None
    failed: Callable[[Failure], None] = lambda _: None


class EnclaveLink:
    """The current session, and what was seen in earlier ones of this process."""

    def __init__(
        self,
        trust: Trust,
        *,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        timeout_s: float,
        key_set_at_least: int,
    ) -> None:
        self._trust: Final = trust
        self._clock: Final = clock
        self._random_bytes: Final = random_bytes
        self._timeout_s: Final = timeout_s
        self._key_set_at_least: Final = key_set_at_least
        self._sealing: Final = Sealing(trust.credential, clock, random_bytes)
        self._key_set: KeySet | None = None
        self._known: Final[dict[ModelId, Digest]] = dict(trust.pins)
        self._session: Session | None = None

    def session(self) -> Session:
        """Return the current session.

        Raises:
            ReattestRequiredError: `not_attested` when there is none, because the last attestation failed.
        """
        if self._session is None:
            raise ReattestRequiredError("no enclave is attested at this moment", reason="not_attested")
        return self._session

    def key_set_version(self) -> int:
        """Return the lowest version of the custodian's key set that is believed now: no older one than was seen."""
        seen = 0 if self._key_set is None else self._key_set.version
        return max(seen, self._key_set_at_least)

    def attest(self, deadline: Deadline) -> Flow[Session]:
        """Attest afresh and make the outcome the current session; raises as `read_session`, and `Failure.error`.

        Where whoever answers proves something else than an enclave that is accepted, there is no session any more: what
        was believed before is not believed now. Where nobody answers, nothing new is known.
        """
        limit = deadline.earlier(self._timeout_s)
        nonce = Nonce(self._random_bytes(32).hex())
        event = yield from self._fetch_session(nonce, limit.left_s())
        if isinstance(event, Failure) and event.kind in REPEATABLE:
            nonce = Nonce(self._random_bytes(32).hex())
            event = yield from self._fetch_session(nonce, limit.left_s())
        if isinstance(event, Failure):
            raise event.error(ENCLAVE)
        try:
            session = read_session(
                event,
                nonce=nonce,
                trust=self._trust,
                seen=self._key_set,
                at_least=self._key_set_at_least,
                moment=Moment(now_ms=self._clock.now_ms(), monotonic_s=self._clock.monotonic_s()),
            )
        except (VerificationError, ConfigurationError):
            self._session = None
            raise
        self._adopt(session)
        return session

    def current(self, deadline: Deadline, model: ModelId | None = None) -> Flow[Session]:
        """Return a session that is valid now and covers `model`.

        Raises:
            NotFoundError: `no_such_model`.
            NotServedError, StoppedError: the enclave is there for it, and says why it serves without it.
            EvidenceError: `model_changed`, and as `attest`.
        """
        session = self._session
        if session is None or not session.is_current(self._clock.now_ms(), self._clock.monotonic_s()):
            self._session = None
            session = yield from self.attest(deadline)
        if model is None:
            return session
        if model not in session.models:
            session = yield from self.attest(deadline)
        if model not in session.models:
            raise (yield from self._why_absent(session, model, deadline))
        if session.models[model] != self._known[model]:
            raise EvidenceError(
                f"model {model} now has the digest {session.models[model]}, and had {self._known[model]} when this "
                "client connected",
                reason="model_changed",
                fix="ask the custodian which of the two is right (`aigovtool model show`), and connect again with that "
                "one pinned: --model NAME=DIGEST, or models={NAME: DIGEST}",
            )
        return session

    def send(self, letter: Letter, deadline: Deadline) -> Flow[tuple[Session, Reply]]:
        """Send `letter` over a pinned connection, and return the answer with the session that gave it.

        Raises:
            AIGovToolError: those of `current`, of `letter.sending`, and `Failure.error`.
        """
        repeated = attested = False
        while True:
            session = yield from self.current(deadline, letter.model)
            letter.sending(session)
            event = yield from self._exchange(session, letter.call(session, deadline.left_s()))
            if isinstance(event, Reply):
                return session, event
            letter.failed(event)
            if event.kind in _ANOTHER_ENCLAVE and not attested:
                attested = True
                self._forget(session)
            elif event.kind in REPEATABLE and not repeated:
                repeated = True
            else:
                raise event.error(ENCLAVE)

    def _fetch_session(self, nonce: Nonce, timeout_s: float) -> Flow[Reply | Failure]:
        fetch = self._sealing.fetch_session if self._trust.sealed else fetch_session
        return fetch(nonce, timeout_s)

    def _exchange(self, session: Session, call: Call) -> Flow[Reply | Failure]:
        """Make an exchange with the enclave of `session`: over its own connection, or sealed."""
        return exchange(call) if session.certificate is not None else self._sealing.exchange(call, session)

    def _forget(self, session: Session) -> None:
        if self._session is session:  # another thread may have attested meanwhile
            self._session = None

    def _adopt(self, session: Session) -> None:
        if self._key_set is None or session.key_set.version >= self._key_set.version:
            self._key_set = session.key_set  # another thread may have seen a newer one meanwhile
        for model, manifest in session.models.items():
            self._known.setdefault(model, manifest)
        self._session = session
        _LOG.info("attested instance=%s tee=%s", session.instance, session.result.body.tee)
        for warning in session.warnings:
            _LOG.warning("attestation_warning instance=%s text=%s", session.instance, warning)

    def _why_absent(self, session: Session, model: ModelId, deadline: Deadline) -> Flow[AIGovToolError]:
        """Return why an attested enclave does not serve a model; what it is not there for, it knows nothing of."""
        event = yield from self._exchange(
            session,
            Call(
                channel=session.channel,
                method="GET",
                path=f"/v2/models/{model}/ready",
                max_bytes=MAX_CONTROL_BODY_BYTES,
                timeout_s=deadline.left_s(),
            ),
        )
        if isinstance(event, Reply) and event.status >= HTTPStatus.BAD_REQUEST:
            error = error_of(event, ENCLAVE)
            if isinstance(error, NotServedError | StoppedError):
                return error
        return NotFoundError(
            f"the enclave does not serve model {model}",
            reason="no_such_model",
            fix="it serves " + (", ".join(sorted(session.models)) or "none"),
        )
