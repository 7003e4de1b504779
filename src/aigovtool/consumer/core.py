"""The SDK's behaviour, once, without sockets: the flows that `Client` and `AsyncClient` drive.

`link` trusts and reaches the enclave, `inference` makes requests and judges answers, `outcomes` decides what may be
repeated, `patience` what is waited for, `budget` speaks with the custodian; here they are put together.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from aigovtool.attestation.model import ResultBody
from aigovtool.codec import convert, decode, decode_signed
from aigovtool.consumer.asking import Asking
from aigovtool.consumer.attest import Session, Trust
from aigovtool.consumer.budget import CustodianDesk, LeaseProof
from aigovtool.consumer.clock import Clock
from aigovtool.consumer.exchange import Call, Failure, Flow, Reply, Wait
from aigovtool.consumer.inference import PreparedRequest, prepare, read_answer
from aigovtool.consumer.link import ENCLAVE, EnclaveLink, Letter
from aigovtool.consumer.outcomes import Outcomes, Retry, Sent, repeat_advice
from aigovtool.consumer.patience import Deadline, passes, pause_s
from aigovtool.consumer.problems import NO_PROBLEM, error_of
from aigovtool.consumer.question import Question
from aigovtool.consumer.relay import Relayed, read_relayed
from aigovtool.consumer.result import ModelInfo, Result
from aigovtool.consumer.standing import explain
from aigovtool.errors import (
    AIGovToolError,
    DeadlineError,
    EvidenceError,
    FaultError,
    IdentityError,
    InputError,
    InvalidValueError,
    NoBudgetError,
    ReattestRequiredError,
    RefusalError,
)
from aigovtool.ids import REQUEST_KEY_PATTERN, InstanceId, ModelId, RequestKey, digest_of, parse_name
from aigovtool.ledger.receipt import Receipt
from aigovtool.ledger.units import Dimension
from aigovtool.limits import MAX_CONTROL_BODY_BYTES, MAX_MANIFEST_BYTES
from aigovtool.package.manifest import Manifest
from aigovtool.protocol.commands import AskState
from aigovtool.protocol.oip_metadata import ModelMetadata
from aigovtool.protocol.session import MANIFEST_PATH
from aigovtool.protocol.views import OwnView

#: For one inference; an answer that a connection still carries may take this long.
DEFAULT_DEADLINE_S: Final = 60.0
#: With `wait`: people decide about budgets.
DEFAULT_WAIT_S: Final = 3600.0
#: While people decide, they are looked after so often: from the first pause between two looks to the longest.
FIRST_LOOK_S: Final = 1.0
LAST_LOOK_S: Final = 15.0
#: Why there is no answer, and nobody to say what became of the request.
_NO_ANSWER: Final = frozenset(
    {"answer_timeout", "connect", "connect_timeout", "connection_lost", "deadline", "hung_up", NO_PROBLEM}
    # And what whoever ends TLS can bring about, after it has passed the request on.
    | {"altered_answer", "answered_between", "other_body_key", "sealed_at_another_time", "sealed_twice"}
)
_REQUEST_KEY_RE: Final = re.compile(REQUEST_KEY_PATTERN)


class ConsumerCore:
    """The flows of one client; see `aigovtool.consumer.Client` for what each does."""

    def __init__(
        self,
        trust: Trust,
        *,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        timeout_s: float,
        retry: Retry,
        key_set_at_least: int,
        outcomes: Outcomes | None = None,
    ) -> None:
        """Put together the flows of one enclave; `outcomes` are shared by those of several that answer one program."""
        self._credential: Final = trust.credential
        self._clock: Final = clock
        self._random_bytes: Final = random_bytes
        self._timeout_s: Final = timeout_s
        self._link: Final = EnclaveLink(
            trust, clock=clock, random_bytes=random_bytes, timeout_s=timeout_s, key_set_at_least=key_set_at_least
        )
        self._outcomes: Final = outcomes or Outcomes(retry, clock)
        self._metadata: Final[dict[tuple[InstanceId, ModelId], ModelMetadata]] = {}
        self.desk: Final = CustodianDesk(trust.credential, clock=clock, random_bytes=random_bytes, timeout_s=timeout_s)

    def session(self) -> Session:
        """Return the current session; raises as `EnclaveLink.session`."""
        return self._link.session()

    def evidence(self) -> ResultBody:
        """Return the attestation result of the current session."""
        return self.session().result.body

    def told(self) -> str:
        """Return in words which enclave is believed, for whoever looks at a client."""
        try:
            session = self.session()
        except ReattestRequiredError:
            return "no enclave is attested"
        models = ", ".join(sorted(session.models)) or "no model"
        return f"{session.result.body.tee} instance {session.instance[:12]}, {models}"

    def attest(self) -> Flow[Session]:
        """Attest afresh."""
        return self._link.attest(Deadline.after(self._clock, self._timeout_s))

    def infer(
        self,
        model: str,
        inputs: object,
        *,
        outputs: Sequence[str] | None,
        request_id: str | None,
        wait: bool,
        deadline_s: float | None,
    ) -> Flow[Result]:
        """Ask `model`, and wait for units if that is wanted."""
        key = self._request_key(request_id)
        try:
            return (yield from self._infer(model, inputs, key, outputs=outputs, wait=wait, deadline_s=deadline_s))
        except AIGovToolError as error:
            if self._outcomes.is_unknown(key):
                self._tell_how_to_repeat(error, key)
            raise

    def _tell_how_to_repeat(self, error: AIGovToolError, key: RequestKey) -> None:
        """Say of what may have been charged how it is not charged again; a refusal may be that of another try."""
        if error.reason in _NO_ANSWER or isinstance(error, RefusalError):
            error.fix = repeat_advice(error.fix, f"request_id {key}")

    def _infer(
        self,
        model: str,
        inputs: object,
        key: RequestKey,
        *,
        outputs: Sequence[str] | None,
        wait: bool,
        deadline_s: float | None,
    ) -> Flow[Result]:
        name = ModelId(parse_name(model, "model"))
        seconds = deadline_s if deadline_s is not None else DEFAULT_WAIT_S if wait else DEFAULT_DEADLINE_S
        deadline = Deadline.after(self._clock, seconds)
        prepared = partial(
            prepare,
            inputs,
            outputs,
            consumer=self._credential.consumer,
            model=name,
            request_key=key,
            salt=self._credential.salt(key),
        )
        request = prepared(metadata=(yield from self._describe(name, deadline)))
        asking = Asking(self.desk, name)
        while True:
            try:
                return (yield from self._attempt(request, deadline))
            except AIGovToolError as error:
                if error.reason == "output_withheld" and outputs is None:  # the model's terms changed: all is less now
                    self._forget(name)
                    fresh = prepared(metadata=(yield from self._describe(name, deadline)))
                    if fresh.outputs != request.outputs:
                        request = fresh
                        continue
                if not (wait and passes(error)):
                    raise
                refused = error
            yield from asking.require_hope(refused, deadline)
            yield Wait(pause_s(refused, deadline))

    def relay(self, question: Question, deadline: Deadline) -> Flow[Relayed]:
        """Pass on what another program asks; raises as `infer`, but for what only a parsed request or answer tells."""
        session, reply = yield from self._answer(question, deadline)
        relayed = read_relayed(reply, question, session)
        self._outcomes.settled(question.request_key)
        return relayed

    def metadata(self, model: ModelId, deadline: Deadline) -> Flow[ModelMetadata]:
        """Return what the enclave says of a model now: which outputs leave may have changed."""
        self._forget(model)
        return self._describe(model, deadline)

    def manifest(self, model: str) -> Flow[Manifest]:
        """Return the manifest of a served model; it is believed because its digest is attested.

        Raises:
            EvidenceError: `wrong_manifest`: it is another one than the enclave has proven to hold.
        """
        name, deadline = ModelId(parse_name(model, "model")), Deadline.after(self._clock, self._timeout_s)
        session, reply = yield from self._link.send(Letter(model=name, call=_manifest_call(name)), deadline)
        if reply.status != 200:
            raise error_of(reply, ENCLAVE)
        if digest_of(reply.body) != session.models[name]:
            raise EvidenceError(
                f"the manifest of {name} is not the one whose digest is attested", reason="wrong_manifest"
            )
        try:
            return decode_signed(reply.body, Manifest, max_bytes=MAX_MANIFEST_BYTES)
        except InputError as error:
            raise FaultError(f"the manifest cannot be read: {error.message}", reason="bad_answer") from None

    def models(self) -> Flow[tuple[ModelInfo, ...]]:
        """Describe every served model, sorted by name."""
        deadline = Deadline.after(self._clock, self._timeout_s)
        session = yield from self._link.current(deadline)
        found = []
        for model in sorted(session.models):
            self._forget(model)  # which outputs leave may have changed
            metadata = yield from self._describe(model, deadline)
            found.append(
                ModelInfo(
                    model=model,
                    manifest=session.models[model],
                    platform=metadata.platform,
                    inputs=metadata.inputs,
                    outputs=metadata.outputs,
                )
            )
        return tuple(found)

    def request_budget(self, units: int, reason: str, model: str | None, dimension: str) -> Flow[AskState]:
        """Ask the custodian for more units on `model`, or on the only model there is."""
        named = self._only_model() if model is None else ModelId(parse_name(model, "model"))
        return self.desk.ask(units, reason, named, convert(dimension, Dimension))

    def ask_state(self, ask_id: str) -> Flow[AskState]:
        """Return what became of a request for more budget."""
        return self.desk.state(ask_id)

    def decision(self, ask_id: str, deadline_s: float) -> Flow[AskState]:
        """Wait until a request for more budget is decided, and return what was decided.

        Raises:
            DeadlineError: `not_decided`.
        """
        deadline, pause_s = Deadline.after(self._clock, deadline_s), FIRST_LOOK_S
        while True:
            state = yield from self.desk.state(ask_id)
            if state.state != "open":
                return state
            if self._clock.monotonic_s() + pause_s >= deadline.at_s:
                raise DeadlineError(
                    "nobody has decided on the request for more budget yet",
                    reason="not_decided",
                    fix=f"look again later: the request is {state.ask_id}",
                )
            yield Wait(pause_s)
            pause_s = min(2 * pause_s, LAST_LOOK_S)

    def budget(self) -> Flow[OwnView]:
        """Return the consumer's own view at the custodian."""
        return self.desk.own()

    def prove(self, receipt: Receipt) -> Flow[LeaseProof]:
        """Return the proof that the lease of a receipt was debited."""
        return self.desk.prove(receipt, key_set_at_least=self._link.key_set_version())

    def _attempt(self, request: PreparedRequest, deadline: Deadline) -> Flow[Result]:
        session, reply = yield from self._answer(request, deadline)
        result = read_answer(reply, request, session)
        self._outcomes.settled(request.request_key)
        return result

    def _answer(self, question: Question, deadline: Deadline) -> Flow[tuple[Session, Reply]]:
        """Ask once, and return an answer that is no refusal; its outcome is unknown until somebody has read it."""
        tries = _Tries(self._outcomes, question.request_key)
        letter = Letter(model=question.model, call=question.call, sending=tries.sending, failed=tries.failed)
        session, reply = yield from self._link.send(letter, deadline)
        if reply.status != 200:
            error = self._explained(error_of(reply, ENCLAVE))
            # Whoever ends TLS may have passed the same request on before. Who asks, and when, is judged before it is
            # found out that it was taken then: such a refusal says nothing of what became of it.
            if session.certificate is not None or not isinstance(error, IdentityError):
                tries.refused(error)
            raise error
        return session, reply

    def _explained(self, error: AIGovToolError) -> AIGovToolError:
        """Return `error`, with what only the consumer knows: whose it is. An enclave serves its own borrower's only."""
        if isinstance(error, NoBudgetError):
            error.fix = (
                f"ask the custodian for a budget, and check that this is an enclave of {self._credential.borrower}: "
                "consumers of another borrower have none here"
            )
        return explain(error, self._credential, self._clock.now_ms())

    def _forget(self, model: ModelId) -> None:
        """Have a model described anew when it is asked next."""
        for known in [pair for pair in self._metadata if pair[1] == model]:
            del self._metadata[known]

    def _describe(self, model: ModelId, deadline: Deadline) -> Flow[ModelMetadata]:
        session = yield from self._link.current(deadline, model)
        known = self._metadata.get((session.instance, model))
        if known is not None:
            return known
        limit = deadline.earlier(self._timeout_s)
        session, reply = yield from self._link.send(Letter(model=model, call=_metadata_call(model)), limit)
        if reply.status != 200:
            raise self._explained(error_of(reply, ENCLAVE))
        try:
            metadata = decode(reply.body, ModelMetadata)
        except InputError as error:
            raise FaultError(f"the model's metadata cannot be read: {error.message}", reason="bad_answer") from None
        if metadata.name != model:
            raise FaultError("the enclave describes another model than was asked for", reason="bad_answer")
        self._metadata[session.instance, model] = metadata
        return metadata

    def _request_key(self, request_id: str | None) -> RequestKey:
        if request_id is None:
            return RequestKey(self._random_bytes(16).hex())
        if _REQUEST_KEY_RE.match(request_id) is None:
            raise InvalidValueError(
                "a request id has 1 to 64 of A-Z, a-z, 0-9, '.', '_', ':' and '-'", reason="bad_request_id"
            )
        return RequestKey(request_id)

    def _only_model(self) -> ModelId:
        models = sorted(self.session().models)
        if len(models) != 1:
            raise InvalidValueError(
                f"the enclave serves {len(models)} models", reason="which_model", fix="name the model"
            )
        return models[0]


class _Tries:
    """The tries of one request, as `Outcomes` must hear of them."""

    def __init__(self, outcomes: Outcomes, key: RequestKey) -> None:
        self._outcomes: Final = outcomes
        self._key: Final = key
        self._before: Sent | None = None

    def sending(self, session: Session) -> None:
        self._before = self._outcomes.sending(self._key, session.instance)

    def failed(self, failure: Failure) -> None:
        if not failure.maybe_received:
            self._outcomes.not_received(self._key, self._before)

    def refused(self, error: AIGovToolError) -> None:
        self._outcomes.refused(self._key, self._before, error)


def _manifest_call(model: ModelId) -> Callable[[Session, float], Call]:
    def call(session: Session, timeout_s: float) -> Call:
        return Call(
            channel=session.channel,
            method="GET",
            path=MANIFEST_PATH.format(model=model),
            max_bytes=MAX_MANIFEST_BYTES,
            timeout_s=timeout_s,
        )

    return call


def _metadata_call(model: ModelId) -> Callable[[Session, float], Call]:
    def call(session: Session, timeout_s: float) -> Call:
        return Call(
            channel=session.channel,
            method="GET",
            path=f"/v2/models/{model}",
            max_bytes=MAX_CONTROL_BODY_BYTES,
            timeout_s=timeout_s,
        )

    return call
