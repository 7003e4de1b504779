"""A small enclave and custodian in this process: real TLS on free loopback ports, simulated evidence, real receipts.

Each attribute of `FakeEnclave` that begins with `forge_` is where an attack takes hold.
"""

import asyncio
import base64
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from starlette.responses import Response

from aigovtool.attestation.binding import Binding, HpkePublicKey, IdentityPublicKey, SpkiHash
from aigovtool.attestation.model import MeasurementHex
from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.codec import Message, encode
from aigovtool.consumer import Client
from aigovtool.consumer.clock import Clock
from aigovtool.crypto.identity import IdentityKind
from aigovtool.crypto.keyfile import write_secret_file
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import Envelope, SigningKey, seal
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.x509 import (
    issue_client_certificate,
    issue_server_certificate,
    new_authority,
    self_signed_server_certificate,
    to_pem,
)
from aigovtool.errors import AIGovToolError, NotFoundError
from aigovtool.ids import (
    BorrowerId,
    ConsumerId,
    Digest,
    LeaseId,
    MessageId,
    ModelId,
    Nonce,
    RequestKey,
    digest_of,
    instance_id_of,
)
from aigovtool.ledger.entry import PartyRole
from aigovtool.ledger.proof import EntryProof
from aigovtool.ledger.receipt import Receipt, SignedReceipt, salted_digest, sign_batch
from aigovtool.ledger.units import Dimension, UnitVector
from aigovtool.protocol.commands import AskRequest, AskState
from aigovtool.protocol.infer_body import HEADER_LENGTH_NAME
from aigovtool.protocol.oip import encode_infer_response, parse_infer_request
from aigovtool.protocol.oip_metadata import ModelMetadata, TensorMetadata
from aigovtool.protocol.party import ConsumerFile, CustodianAddress
from aigovtool.protocol.release import session_audience
from aigovtool.protocol.session import (
    ATTESTATION_PATH,
    MANIFEST_PATH,
    RECEIPT_HEADER,
    REQUEST_ID_HEADER,
    SALT_HEADER,
    ServedModel,
    SessionChallenge,
    SessionEvidence,
)
from aigovtool.protocol.tensor import Datatype, Tensor
from aigovtool.protocol.trust import KEY_SET, KeySet
from aigovtool.protocol.views import DimensionRoom, OwnBudget, OwnView
from aigovtool.testing.simulated_tee.attester import SimulatedPlatform
from aigovtool.testing.simulated_tee.verify import simulated_policy
from aigovtool.transport.body import read_body
from aigovtool.transport.bounds import HttpLimits
from aigovtool.transport.routes import Call, Caller, Route, application
from aigovtool.transport.server import HttpServer, bind_loopback
from aigovtool.transport.tls import ServerTls, server_context

T = TypeVar("T")

MEASUREMENT = MeasurementHex("ab" * 48)
MODEL = ModelId("doubler")
MANIFEST = digest_of(b"the doubler's manifest")
LIMITS = HttpLimits(linger_s=0.05, header_timeout_s=5.0)
CONSUMER = ConsumerId("radiology")
BORROWER = BorrowerId("hospital")
DOUBLER = ModelMetadata(
    name=MODEL,
    platform="onnx_onnxv1",
    inputs=(TensorMetadata(name="x", datatype=Datatype.FP32, shape=(-1, 2)),),
    outputs=(
        TensorMetadata(name="y", datatype=Datatype.FP32, shape=(-1, 2)),
        TensorMetadata(name="n", datatype=Datatype.INT64, shape=(1,)),
    ),
)


class ModelPath(Message):
    model: ModelId


class AskPath(Message):
    ask_id: MessageId


class LeasePath(Message):
    lease_id: LeaseId


def same(value: T) -> T:
    """Return the value as it is: what a hook does when nobody attacks."""
    return value


class Background:
    """An event loop in a thread, for servers that a blocking client talks to."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def close(self) -> None:
        """End the loop and its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(20)
        self.loop.close()


@dataclass
class TestClock:
    """Real time plus what a client has slept; nobody really sleeps."""

    __test__ = False
    slept: list[float] = field(default_factory=list)
    offset_s: float = 0.0
    wall_s: float = 0.0  # somebody sets the clock
    on_sleep: Callable[[], None] = lambda: None

    def clock(self) -> Clock:
        """Return what a client is given."""
        return Clock(
            now_ms=lambda: int((time.time() + self.offset_s + self.wall_s) * 1000),
            monotonic_s=lambda: time.monotonic() + self.offset_s,
            sleep=self.advance,
            sleep_async=self.advance_async,
        )

    def advance(self, seconds: float) -> None:
        """Pretend that `seconds` have passed."""
        self.slept.append(seconds)
        self.offset_s += seconds
        self.on_sleep()

    async def advance_async(self, seconds: float) -> None:
        """Pretend that `seconds` have passed."""
        self.advance(seconds)


class Served:
    """One HTTP server on a free port."""

    def __init__(self, background: Background, routes: list[Route], tls: ServerTls) -> None:
        self._background = background
        listener = bind_loopback()
        self.server = HttpServer(application(routes, clock_ms=lambda: int(time.time() * 1000)), listener, tls, LIMITS)
        self._listener = listener
        background.run(self.server.start())
        host, port = self.server.address
        self.url = f"https://{host}:{port}"

    def drop_connections(self) -> None:
        """Cut every connection; called in the loop."""
        for connection in self.server._open():
            connection.transport.abort()

    def stop(self) -> None:
        """Stop serving."""
        self._background.run(self.server.stop(0.0))
        self._listener.close()


class FakeEnclave:
    """Doubles `x` into `y` and counts rows into `n`; one unit per inference."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.platform = SimulatedPlatform(MEASUREMENT)
        self.models = {MODEL: DOUBLER}
        self.manifests: dict[ModelId, Digest] = {MODEL: MANIFEST}
        self.manifest_bytes: dict[ModelId, bytes] = {}
        self.covered: tuple[Digest, ...] | None = None
        self.remaining = 10
        self.charged: list[RequestKey] = []
        self.challenges: list[Nonce] = []
        self.kept: dict[RequestKey, Response] = {}
        self.refusals: list[AIGovToolError] = []
        self.lose_answers = 0
        self.key_set = world.key_set(7)
        self.warning: str | None = "SIMULATED TEE: protects nothing"
        self.forge_session: Callable[[SessionEvidence], SessionEvidence] = same
        self.forge_claims: Callable[[Binding], Binding] = same
        self.forge_receipt: Callable[[Receipt], Receipt] = same
        self.forge_signed: Callable[[SignedReceipt], SignedReceipt] = same
        self.forge_tensors: Callable[[list[Tensor]], list[Tensor]] = same
        self.forge_answer: Callable[[Response], Response] = same
        self.forge_metadata: Callable[[ModelMetadata], object] = same
        self.new_keys()
        self.served = Served(world.background, self._routes(), self.tls)
        self.url = self.served.url

    def new_keys(self) -> None:
        """Take fresh keys, as each boot does."""
        self.tls_key, self.identity = TlsKey.generate(), SigningKey.generate()
        self.instance = instance_id_of(self.identity.public.raw, bytes(32), bytes(32))
        self.tls = server_context(
            [self_signed_server_certificate(self.tls_key)], self.tls_key, [self.world.credentials_authority]
        )
        self.kept.clear()

    def reboot(self) -> None:
        """Lose everything, and come back on the same port as another instance."""
        self.new_keys()
        self.served.server.replace_tls(self.tls)
        self.world.background.run(self._dropped())

    async def _dropped(self) -> None:
        self.served.drop_connections()

    def attest(self, consumer: str, nonce: Nonce) -> SessionEvidence:
        """Return evidence for `nonce`, as this enclave's TEE makes it."""
        claims = self.forge_claims(
            Binding(
                role="session",
                audience=session_audience(consumer),
                nonce=nonce,
                tls_spki=SpkiHash(self.tls_key.spki_sha256()),
                hpke_key=HpkePublicKey(bytes(32)),
                identity_key=IdentityPublicKey(self.identity.public.raw),
                instance=self.instance,
                custodian_root=self.world.root.public.key_id,
                configuration=digest_of(b"configuration"),
                appraisal_policy=digest_of(b"policy"),
                manifests=self.covered or tuple(sorted(self.manifests.values())),
            )
        )
        return self.forge_session(
            SessionEvidence(
                evidence=self.platform.attest(claims),
                claims=claims,
                key_set=self.key_set,
                models=[ServedModel(model=model, manifest=digest) for model, digest in self.manifests.items()],
                warning=self.warning,
            )
        )

    def _routes(self) -> list[Route]:
        who = (Caller.CONSUMER,)
        return [
            Route(
                method="POST",
                path=ATTESTATION_PATH,
                handler=self._attestation,
                who=who,
                summary="evidence",
                body=SessionChallenge,
                answer=SessionEvidence,
            ),
            Route(
                method="GET",
                path="/v2/models/{model}",
                handler=self._metadata,
                who=who,
                summary="metadata",
                path_type=ModelPath,
                answer=ModelMetadata,
            ),
            Route(
                method="GET",
                path=MANIFEST_PATH,
                handler=self._manifest,
                who=who,
                summary="manifest",
                path_type=ModelPath,
            ),
            Route(
                method="POST",
                path="/v2/models/{model}/infer",
                handler=self._infer,
                who=who,
                summary="inference",
                path_type=ModelPath,
                stream_body=True,
            ),
        ]

    async def _attestation(self, call: Call) -> SessionEvidence:
        nonce = call.body(SessionChallenge).nonce
        self.challenges.append(nonce)
        return self.attest(call.caller().name, nonce)

    async def _metadata(self, call: Call) -> object:
        return self.forge_metadata(self.models[call.path(ModelPath).model])

    async def _manifest(self, call: Call) -> Response:
        content = self.manifest_bytes.get(call.path(ModelPath).model)
        if content is None:  # as enclaves were before they gave any
            raise NotFoundError("there is nothing at this path", reason="no_route")
        return Response(content)

    async def _infer(self, call: Call) -> Response:
        body = await read_body(call.request, 1 << 20)
        headers = call.request.headers
        key = RequestKey(headers[REQUEST_ID_HEADER])
        if self.refusals:
            raise self.refusals.pop(0)
        if key not in self.kept:
            self.kept[key] = self._compute(call, key, body)
        if self.lose_answers:
            self.lose_answers -= 1
            self.served.drop_connections()
        return self.forge_answer(self.kept[key])

    def _compute(self, call: Call, key: RequestKey, body: bytes) -> Response:
        headers, model = call.request.headers, call.path(ModelPath).model
        request = parse_infer_request(body, headers.get(HEADER_LENGTH_NAME))
        x = np.frombuffer(request.inputs[0].data, dtype="<f4").reshape(request.inputs[0].shape)
        tensors = [
            Tensor("y", Datatype.FP32, x.shape, (x * 2).tobytes()),
            Tensor("n", Datatype.INT64, (1,), np.array([len(x)], dtype="<i8").tobytes()),
        ]
        answer = encode_infer_response(model, None, self.forge_tensors(tensors), request)
        self.remaining -= 1
        self.charged.append(key)
        salt = bytes.fromhex(headers[SALT_HEADER])
        receipt = self.forge_receipt(
            Receipt(
                request_key=key,
                request=salted_digest(salt, "request", [body]),
                response=salted_digest(salt, "response", [answer.joined()]),
                model=model,
                manifest=self.manifests[model],
                consumer=ConsumerId(call.caller().name),
                units=UnitVector(inferences=1),
                remaining=UnitVector(inferences=self.remaining),
                lease_id=LeaseId("ab" * 16),
                sequence=len(self.charged),
                instance=self.instance,
                tee="simulated",
                at_ms=call.now_ms,
            )
        )
        signed = self.forge_signed(sign_batch([receipt], receipt.instance, self.identity)[0])
        return Response(
            answer.joined(),
            media_type=answer.content_type,
            headers={
                RECEIPT_HEADER: base64.b64encode(encode(signed)).decode(),
                HEADER_LENGTH_NAME: str(answer.header_length),
            },
        )


class FakeCustodian:
    """Keeps requests for more budget."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.proofs: dict[LeaseId, EntryProof] = {}
        self.asks: dict[MessageId, AskState] = {}
        self.posts = 0
        self.looks = 0
        self.lose_answers = 0
        self.key_set = world.key_set(7)
        key = TlsKey.generate()
        chain = [
            issue_server_certificate(world.tls_authority_key, world.tls_authority, key, ["127.0.0.1"], **world.validity)
        ]
        self.served = Served(
            world.background, self._routes(), server_context(chain, key, [world.credentials_authority])
        )

    def _routes(self) -> list[Route]:
        who = (Caller.CONSUMER,)
        return [
            Route(
                method="POST",
                path="/v1/asks",
                handler=self._ask,
                who=who,
                summary="ask",
                body=AskRequest,
                answer=AskState,
            ),
            Route(
                method="GET",
                path="/v1/asks/{ask_id}",
                handler=self._state,
                who=who,
                summary="state",
                path_type=AskPath,
                answer=AskState,
            ),
            Route(method="GET", path="/v1/self", handler=self._self, who=who, summary="self", answer=OwnView),
            Route(method="GET", path="/v1/key-set", handler=self._key_set, who=who, summary="keys", answer=Envelope),
            Route(
                method="GET",
                path="/v1/leases/{lease_id}/proof",
                handler=self._proof,
                who=who,
                summary="proof",
                path_type=LeasePath,
                answer=EntryProof,
            ),
        ]

    async def _key_set(self, _call: Call) -> Envelope:
        return self.key_set

    async def _proof(self, call: Call) -> EntryProof:
        return self.proofs[call.path(LeasePath).lease_id]

    async def _ask(self, call: Call) -> AskState:
        self.posts += 1
        ask = call.body(AskRequest)
        state = AskState(
            ask_id=ask.ask_id,
            role=PartyRole.CONSUMER,
            name=call.caller().name,
            scope=ask.scope,
            units=ask.units,
            reason=ask.reason,
            at_ms=call.now_ms,
            state="open",
        )
        self.asks.setdefault(ask.ask_id, state)
        if self.lose_answers:
            self.lose_answers -= 1
            self.served.drop_connections()
        return self.asks[ask.ask_id]

    async def _state(self, call: Call) -> AskState:
        return self.asks[call.path(AskPath).ask_id]

    async def _self(self, call: Call) -> OwnView:
        self.looks += 1
        if self.lose_answers:
            self.lose_answers -= 1
            self.served.drop_connections()
        left = [DimensionRoom(dimension=Dimension.INFERENCES, units=10)]
        budget = OwnBudget(model=MODEL, manifest=MANIFEST, rooms=left, withdrawn=False, stopped=False)
        return OwnView(
            name=call.caller().name, role=PartyRole.CONSUMER, budgets=[budget], asks=list(self.asks.values())
        )


class World:
    """Keys of one custodian, a consumer's file, and servers that are stopped at the end."""

    def __init__(self, directory: Path) -> None:
        self.background = Background()
        self.directory = directory
        now = int(time.time() * 1000)
        self.validity = {"not_before_ms": now - 3_600_000, "not_after_ms": now + 3_600_000}
        self.root = SigningKey.generate()
        self.log_key = SigningKey.generate()
        self.credentials_key = SigningKey.generate()
        self.credentials_authority = new_authority(self.credentials_key, "credentials", **self.validity)
        self.tls_authority_key = TlsKey.generate()
        self.tls_authority = new_authority(self.tls_authority_key, "custodian", **self.validity)
        self.clock = TestClock()
        self._open: list[Served | Client] = []
        self.custodian = FakeCustodian(self)
        self._open.append(self.custodian.served)
        self.policy = simulated_policy(MEASUREMENT)
        self.file = self.consumer_file()

    def key_set(self, version: int, *, issued_at_ms: int = 1, root: SigningKey | None = None) -> Envelope:
        """Return a key set, signed by the custodian's root or another one."""
        signer = root or self.root
        return seal(
            KEY_SET,
            KeySet(
                custodian=signer.public.key_id,
                version=version,
                issued_at_ms=issued_at_ms,
                commands=[],
                log=[self.log_key.public.raw],
                credentials=[],
                keystore=bytes(32),
            ),
            signer,
        )

    def consumer_file(
        self,
        name: str = "consumer.json",
        *,
        policy: AppraisalPolicy | None = None,
        authority: tuple[SigningKey, bytes] | None = None,
        consumer: str = CONSUMER,
        tls_authority: bytes | None = None,
    ) -> Path:
        """Write a consumer file and return its path."""
        key = SigningKey.generate()
        signer, certificate = authority or (self.credentials_key, self.credentials_authority)
        leaf = issue_client_certificate(
            signer, certificate, key.public, IdentityKind.CONSUMER, consumer, borrower=BORROWER, **self.validity
        )
        file = ConsumerFile(
            consumer=ConsumerId(consumer),
            borrower=BORROWER,
            custodian=CustodianAddress(
                url=self.custodian.served.url,
                root=self.root.public.raw,
                tls_ca=to_pem(tls_authority or self.tls_authority).decode(),
            ),
            certificate=to_pem(leaf).decode(),
            key=key.to_secret().reveal(),
            policy=policy or self.policy,
        )
        path = self.directory / name
        write_secret_file(path, Secret(encode(file)), replace=True)
        return path

    def enclave(self) -> FakeEnclave:
        """Start an enclave."""
        enclave = FakeEnclave(self)
        self._open.append(enclave.served)
        return enclave

    def connect(self, enclave: FakeEnclave, **options: Any) -> Client:
        """Connect as a development consumer does, unless `options` say otherwise."""
        arguments: dict[str, Any] = {"allow_simulated": True, "clock": self.clock.clock(), "timeout_s": 5.0, **options}
        path = arguments.pop("credential_path", self.file)
        client = Client.connect(enclave.url, path, **arguments)
        self._open.append(client)
        return client

    def close(self) -> None:
        """Close clients and servers."""
        for each in reversed(self._open):
            each.close() if isinstance(each, Client) else each.stop()
        self.background.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def enclave(world: World) -> FakeEnclave:
    return world.enclave()


@pytest.fixture
def client(world: World, enclave: FakeEnclave) -> Client:
    return world.connect(enclave)
