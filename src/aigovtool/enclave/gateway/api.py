"""The enclave's routes: Open Inference Protocol V2, health, and evidence for consumers."""

import secrets
from collections.abc import Callable
from typing import Annotated, Final

from msgspec import structs
from starlette.requests import Request
from starlette.responses import Response

from aigovtool import __version__
from aigovtool.codec import Message, convert, encode, text_like
from aigovtool.crypto.identity import Identity
from aigovtool.crypto.sign import seal
from aigovtool.enclave.boot import ServedModel
from aigovtool.enclave.gateway.asked import LENGTH_HEADER, Asked
from aigovtool.enclave.gateway.inference import infer
from aigovtool.enclave.gateway.sealed import MAX_SEALED_BYTES, SealedRoutes
from aigovtool.enclave.gateway.sealed_callers import SealedCallers
from aigovtool.enclave.gateway.sending import Leave, response_of
from aigovtool.enclave.instance_run import InstanceRun
from aigovtool.enclave.roster import error_of
from aigovtool.enclave.session_quotes import SessionQuotes
from aigovtool.errors import ForbiddenError, InvalidValueError, LeaseExpiredError, NotFoundError, StoppedError
from aigovtool.ids import ConsumerId, ModelId, Nonce, RequestKey, digest_of
from aigovtool.ledger.receipt import MAX_SALT_BYTES
from aigovtool.limits import MAX_INFER_BODY_BYTES
from aigovtool.package.manifest import TensorSpec
from aigovtool.protocol.leaving import leaving
from aigovtool.protocol.oip_metadata import (
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
    TensorMetadata,
)
from aigovtool.protocol.release import session_audience
from aigovtool.protocol.sealed import (
    MEDIA_TYPE,
    SEALED_EVIDENCE_PATH,
    SEALED_PATH,
    STATEMENT,
    SealedChallenge,
    Statement,
)
from aigovtool.protocol.session import (
    ATTESTATION_PATH,
    MANIFEST_PATH,
    REQUEST_ID_HEADER,
    SALT_HEADER,
    WARNING_HEADER,
    SessionChallenge,
    SessionEvidence,
)
from aigovtool.protocol.session import ServedModel as ServedModelView
from aigovtool.protocol.tensor import Datatype
from aigovtool.transport.body import check_declared, read_body
from aigovtool.transport.routes import Call, Caller, Route, application, check_content_type

_CONSUMER = (Caller.CONSUMER,)
_ANYONE = (Caller.ANYONE,)


class ModelPath(Message):
    """Which model."""

    model: ModelId


class VersionPath(Message):
    """Which model, and which of its versions: there is one, called 1."""

    model: ModelId
    version: Annotated[str, text_like("^1$", "1")]


class _Headers(Message):
    key: RequestKey


def authorize(run: InstanceRun) -> Callable[[Identity, Route], None]:
    """Return what refuses whom this enclave will never answer: there is nothing here for them to see.

    A consumer is told by its certificate whose it is; one of an earlier version of the custodian does not say it, and
    then the custodian refuses each lease. A consumer that is revoked is stopped, which the enclave hears at once.

    First contact needs none of that: any other consumer of this borrower may ask for evidence, and has no lease yet.
    """

    def check(identity: Identity, route: Route) -> None:
        if Caller.ANYONE in route.who:
            return
        if identity.borrower not in {None, run.instance.admission.borrower}:
            raise ForbiddenError("this enclave serves another borrower's consumers", reason="foreign_consumer")
        if identity.name in run.instance.meter.stopped:
            raise StoppedError("the custodian has stopped this consumer", reason="consumer_stopped")

    return check


def routes(run: InstanceRun) -> list[Route]:
    """Return the table of an instance: its own routes, and those by which sealed requests come to them."""
    served = _Served(run)
    table = _own_routes(served)
    inner = application(table, clock_ms=run.instance.custodian_time_ms, authorize=authorize(run))
    return [*table, *_sealed_routes(served, SealedRoutes(run, served.callers, inner))]


def _sealed_routes(served: "_Served", sealed: SealedRoutes) -> list[Route]:
    """Return the routes for whoever comes through somebody who ends TLS; what is asked says by whom, and is signed."""
    return [
        Route(
            method="POST",
            path=SEALED_EVIDENCE_PATH,
            handler=served.attest_sealed,
            who=_ANYONE,
            summary="Evidence for the nonce of a signed challenge, with the key for sealed requests",
            body=SealedChallenge,
            answer=SessionEvidence,
        ),
        Route(
            method="POST",
            path=SEALED_PATH,
            handler=sealed.exchange,
            who=_ANYONE,
            summary="A sealed request to another route",
            stream_body=True,
            answer_media=MEDIA_TYPE,
            max_body_bytes=MAX_SEALED_BYTES,
        ),
    ]


def _own_routes(served: "_Served") -> list[Route]:
    table = [
        Route(
            method="GET", path="/v2/health/live", handler=served.live, who=_ANYONE, summary="Live", answer=ServerLive
        ),
        Route(
            method="GET",
            path="/v2/health/ready",
            handler=served.ready,
            who=_ANYONE,
            summary="Ready",
            answer=ServerReady,
        ),
        Route(method="GET", path="/v2", handler=served.server, who=_CONSUMER, summary="Server", answer=ServerMetadata),
        _attestation_route(served),
    ]
    table.append(
        Route(
            method="GET",
            path=MANIFEST_PATH,
            handler=served.manifest,
            who=_CONSUMER,
            summary="The manifest of a model, whose digest the evidence covers",
            path_type=ModelPath,
            answer_media="application/json",
        )
    )
    for path, kind in (("/v2/models/{model}", ModelPath), ("/v2/models/{model}/versions/{version}", VersionPath)):
        table += _model_routes(served, path, kind)
    return table


def _attestation_route(served: "_Served") -> Route:
    return Route(
        method="POST",
        path=ATTESTATION_PATH,
        handler=served.attest,
        who=_CONSUMER,
        summary="Evidence for the caller's nonce, bound to this connection",
        body=SessionChallenge,
        answer=SessionEvidence,
    )


def _model_routes(served: "_Served", path: str, kind: type[Message]) -> list[Route]:
    return [
        Route(
            method="GET",
            path=path,
            handler=served.metadata,
            who=_CONSUMER,
            summary="Model metadata",
            path_type=kind,
            answer=ModelMetadata,
        ),
        Route(
            method="GET",
            path=f"{path}/ready",
            handler=served.model_ready,
            who=_CONSUMER,
            summary="Model readiness",
            path_type=kind,
            answer=ModelReady,
        ),
        Route(
            method="POST",
            path=f"{path}/infer",
            handler=served.infer,
            who=_CONSUMER,
            summary="One governed inference",
            path_type=kind,
            stream_body=True,
            answer_media="application/json",
            max_body_bytes=MAX_INFER_BODY_BYTES,
        ),
    ]


class _Served:
    def __init__(self, run: InstanceRun) -> None:
        self._run: Final = run
        self._instance: Final = run.instance
        self._quotes: Final = SessionQuotes(run.instance.session_evidence)
        check, attest = authorize(run), _attestation_route(self)
        self.callers: Final = SealedCallers(run.instance, lambda identity: check(identity, attest))

    async def live(self, _call: Call) -> ServerLive:
        return ServerLive(live=True)

    async def ready(self, _call: Call) -> Response:
        ready = self._run.ready.is_set() and self._run.ending is None
        body = b'{"ready":true}' if ready else b'{"ready":false}'
        return Response(body, status_code=200 if ready else 503, media_type="application/json")

    async def server(self, _call: Call) -> ServerMetadata:
        return ServerMetadata(name="aigovtool", version=__version__, extensions=("binary_tensor_data",))

    async def attest(self, call: Call) -> SessionEvidence:
        return await self._evidence(ConsumerId(call.caller().name), call.body(SessionChallenge).nonce)

    async def attest_sealed(self, call: Call) -> SessionEvidence:
        asked = call.body(SealedChallenge)
        stated = self.callers.of_challenge(asked)
        call.connection.prove(asked.challenge.signatures[0].keyid)
        session, instance = await self._evidence(stated.consumer, stated.nonce), self._instance
        statement = Statement(
            instance=instance.instance,
            nonce=stated.nonce,
            body_key=instance.body_key.public,
            key_set=digest_of(encode(session.key_set)),
            models=session.models,
            warning=session.warning,
        )
        return structs.replace(session, statement=seal(STATEMENT, statement, instance.identity))

    async def _evidence(self, consumer: ConsumerId, nonce: Nonce) -> SessionEvidence:
        quoted = await self._quotes.evidence_for(session_audience(consumer), nonce)
        return SessionEvidence(
            evidence=quoted.evidence,
            claims=quoted.claims,
            share=quoted.share,
            key_set=self._instance.keys.envelope,
            models=[
                ServedModelView(model=model.offer.model, manifest=model.offer.manifest)
                for model in self._instance.models.values()
            ],
            warning=self._instance.warning,
        )

    def _model(self, call: Call) -> ServedModel:
        name = convert(dict(call.request.path_params)["model"], ModelId)
        if (model := self._instance.models.get(name)) is not None:
            return model
        if (missing := self._instance.not_served.get(name)) is not None:
            raise error_of(missing)
        raise NotFoundError("this enclave does not serve such a model", reason="no_such_model")

    async def metadata(self, call: Call) -> ModelMetadata:
        model = self._model(call)
        interface, terms = model.loaded.interface, self._run.charging.terms(model.offer.model).answers
        return ModelMetadata(
            name=model.offer.model,
            platform="onnx_onnxv1",
            inputs=tuple(map(_tensor, interface.inputs)),
            outputs=tuple(map(_tensor, leaving(terms, interface.outputs))),
            versions=("1",),
        )

    async def manifest(self, call: Call) -> Response:
        model = self._model(call)
        return Response(model.manifest, headers={"content-type": "application/json", "cache-control": "no-store"})

    async def model_ready(self, call: Call) -> Response:
        name = self._model(call).offer.model
        if self._run.ending is not None:
            raise LeaseExpiredError("this instance has ended", retry_after_s=5)
        return Response(b'{"name":"%s","ready":true}' % name.encode(), media_type="application/json")

    async def infer(self, call: Call) -> Response:
        model = self._model(call)
        check_content_type(call.request, ("application/json", "application/octet-stream"))
        consumer = ConsumerId(call.caller().name)
        self._run.charging.check(consumer)
        headers = call.request.headers
        chosen = headers.get(REQUEST_ID_HEADER)
        key = convert({"key": secrets.token_hex(16) if chosen is None else chosen}, _Headers).key
        salt = _salt(headers.get(SALT_HEADER))
        with self._run.bodies.take(consumer, _declared(call.request)) as share:
            body = await read_body(call.request, MAX_INFER_BODY_BYTES)
            share.shrink_to(len(body))
            asked = Asked(
                model=model,
                consumer=consumer,
                key=key,
                repeatable=chosen is not None,
                salt=salt,
                body=body,
                header_length=headers.get(LENGTH_HEADER),
            )
            answered = await infer(self._run, asked)
        held = self._instance.engine.unread.hold(consumer, len(answered.body))
        response = response_of(answered, held, Leave(self._run, consumer))
        if self._instance.warning is not None:
            response.headers[WARNING_HEADER] = self._instance.warning
        return response


def _declared(request: Request) -> int:
    """Return how large a body may become; whoever does not say takes the room of the largest until it is read."""
    check_declared(request, MAX_INFER_BODY_BYTES)
    return int(request.headers.get("content-length", MAX_INFER_BODY_BYTES))


def _salt(text: str | None) -> bytes:
    try:
        salt = bytes.fromhex(text or "")
    except ValueError:
        salt = bytes(MAX_SALT_BYTES + 1)
    if len(salt) > MAX_SALT_BYTES:
        raise InvalidValueError("a salt is at most 64 bytes in hexadecimal", reason="bad_salt")
    return salt


def _tensor(spec: TensorSpec) -> TensorMetadata:
    axes = spec.shape or ()
    shape = tuple(-1 if isinstance(axis, str) else axis for axis in axes)
    return TensorMetadata(name=spec.name, datatype=Datatype(spec.datatype.value), shape=shape)
