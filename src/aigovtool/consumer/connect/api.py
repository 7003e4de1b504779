"""What programs ask the gateway: the Open Inference Protocol V2, as any server of it answers, and its own status.

A program says of itself what it likes: content types that are not quite right, versions, header fields of its maker's.
What decides is the body, which goes on as it came. Whatever is refused, here or by the enclave, is answered with the
status of the refusal and problem+json, in which `error` is what clients of the protocol show.
"""

import secrets
from dataclasses import dataclass
from typing import Annotated, Final

from starlette.requests import Request
from starlette.responses import Response

from aigovtool import __version__
from aigovtool.codec import Message, convert, encode, text_like
from aigovtool.consumer.clock import Clock
from aigovtool.consumer.connect.evidence_log import EvidenceLog
from aigovtool.consumer.connect.fleet import Fleet
from aigovtool.consumer.connect.kept_receipts import KeptReceipts
from aigovtool.consumer.connect.status import Status, page_routes, status_of
from aigovtool.consumer.credential import Credential
from aigovtool.consumer.patience import Deadline
from aigovtool.consumer.question import Question
from aigovtool.ids import ModelId, RequestKey
from aigovtool.limits import MAX_INFER_BODY_BYTES
from aigovtool.protocol.infer_body import HEADER_LENGTH_NAME
from aigovtool.protocol.oip_metadata import ModelMetadata, ModelReady, ServerLive, ServerMetadata, ServerReady
from aigovtool.protocol.session import REQUEST_ID_HEADER
from aigovtool.transport.body import check_declared, read_body
from aigovtool.transport.room import Room
from aigovtool.transport.routes import Call, Caller, Handler, Route

#: For one inference, all tries together; a little less than what clients of the protocol wait by themselves.
DEADLINE_S: Final = 60.0
#: Bodies that are being passed on: of all programs together, since they are one consumer's.
MAX_BODIES_BYTES: Final = 4 * MAX_INFER_BODY_BYTES
_ANYONE: Final = (Caller.ANYONE,)
_PROGRAMS: Final = "programs"


class ModelPath(Message):
    """Which model."""

    model: ModelId


class VersionPath(Message):
    """Which model, and which of its versions: there is one, called 1."""

    model: ModelId
    version: Annotated[str, text_like("^1$(?!\n)", "1")]


class _Headers(Message):
    key: RequestKey


class Indexed(Message):
    """A model in the index."""

    name: ModelId
    version: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """What the routes answer from."""

    fleet: Fleet
    credential: Credential
    receipts: KeptReceipts
    log: EvidenceLog
    clock: Clock

    def status(self) -> Status:
        """Return the present state of everything."""
        return status_of(self.fleet, self.credential, self.receipts, self.log.recent, now_ms=self.clock.now_ms())


class _Served:
    def __init__(self, gateway: Gateway) -> None:
        self._fleet: Final = gateway.fleet
        self._credential: Final = gateway.credential
        self._receipts: Final = gateway.receipts
        self._clock: Final = gateway.clock
        self._status: Final = gateway.status
        self._bodies: Final = Room(MAX_BODIES_BYTES, MAX_BODIES_BYTES, "open_bodies")

    async def live(self, _call: Call) -> ServerLive:
        return ServerLive(live=True)

    async def ready(self, _call: Call) -> Response:
        ready = self._fleet.is_ready()
        body = b'{"ready":true}' if ready else b'{"ready":false}'
        return Response(body, status_code=200 if ready else 503, media_type="application/json")

    async def server(self, _call: Call) -> ServerMetadata:
        return ServerMetadata(
            name="aigovtool-connect", version=__version__, extensions=("binary_tensor_data", "model_repository")
        )

    async def metadata(self, call: Call) -> ModelMetadata:
        return await self._fleet.metadata(_model(call), self._deadline())

    async def model_ready(self, call: Call) -> ModelReady:
        model = _model(call)
        await self._fleet.metadata(model, self._deadline())
        return ModelReady(name=model, ready=True)

    async def index(self, call: Call) -> Response:
        await read_body(call.request, 4096)
        found = [Indexed(name=model, version="1", state="READY", reason="") for model in sorted(self._fleet.models())]
        return _json(found)

    async def infer(self, call: Call) -> Response:
        chosen = call.request.headers.get(REQUEST_ID_HEADER)
        key = convert({"key": secrets.token_hex(16) if chosen is None else chosen}, _Headers).key
        with self._bodies.take(_PROGRAMS, _declared(call.request)) as share:
            body = await read_body(call.request, MAX_INFER_BODY_BYTES)
            share.shrink_to(len(body))
            question = Question(
                consumer=self._credential.consumer,
                model=_model(call),
                request_key=key,
                salt=self._credential.salt(key),
                body=body,
                header_length=call.request.headers.get(HEADER_LENGTH_NAME),
            )
            relayed = await self._fleet.relay(question, self._deadline())
        self._receipts.keep(relayed.saved)
        response = Response(relayed.body)
        for name, value in relayed.headers:
            response.headers[name] = value
        return response

    async def status(self, _call: Call) -> Status:
        return self._status()

    def _deadline(self) -> Deadline:
        return Deadline.after(self._clock, DEADLINE_S)


def routes(gateway: Gateway) -> list[Route]:
    """Return the table of the gateway."""
    served = _Served(gateway)
    table = [
        _get("/v2/health/live", served.live, "Live", answer=ServerLive),
        _get("/v2/health/ready", served.ready, "Whether an enclave is verified", answer=ServerReady),
        _get("/v2", served.server, "Server", answer=ServerMetadata),
        _get("/aigovtool/status", served.status, "What the gateway knows of its enclaves", answer=Status),
        Route(
            method="POST",
            path="/v2/repository/index",
            handler=served.index,
            who=_ANYONE,
            summary="Models that are served",
            stream_body=True,
            answer_media="application/json",
        ),
        *page_routes(),
    ]
    for path, kind in (("/v2/models/{model}", ModelPath), ("/v2/models/{model}/versions/{version}", VersionPath)):
        table += [
            _get(path, served.metadata, "Model metadata", answer=ModelMetadata, path_type=kind),
            _get(f"{path}/ready", served.model_ready, "Model readiness", answer=ModelReady, path_type=kind),
            Route(
                method="POST",
                path=f"{path}/infer",
                handler=served.infer,
                who=_ANYONE,
                summary="One governed inference, by a verified enclave",
                path_type=kind,
                stream_body=True,
                answer_media="application/json",
                max_body_bytes=MAX_INFER_BODY_BYTES,
            ),
        ]
    return table


def _get(
    path: str, handler: Handler, summary: str, *, answer: type[Message], path_type: type[Message] | None = None
) -> Route:
    return Route(
        method="GET", path=path, handler=handler, who=_ANYONE, summary=summary, answer=answer, path_type=path_type
    )


def _model(call: Call) -> ModelId:
    return convert({"model": call.request.path_params["model"]}, ModelPath).model


def _declared(request: Request) -> int:
    """Return how large a body may become; whoever does not say takes the room of the largest until it is read."""
    check_declared(request, MAX_INFER_BODY_BYTES)
    return int(request.headers.get("content-length", MAX_INFER_BODY_BYTES))


def _json(value: object) -> Response:
    return Response(encode(value), headers={"content-type": "application/json", "cache-control": "no-store"})
