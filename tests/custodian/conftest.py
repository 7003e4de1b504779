"""A custodian in this process, with a clock in the test's hand, and the parties that speak to it.

Nothing is replaced: the keys, the ledger's file, the verifier and the sealed package are real. Only the HTTP server
is left out, except in `test_api.py`.
"""

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from onnx import TensorProto, helper
from tests.custodian.host_clock import told_by

from aigovtool.attestation.binding import Binding, HpkePublicKey, IdentityPublicKey, SpkiHash
from aigovtool.codec import decode
from aigovtool.crypto.identity import Identity, IdentityKind
from aigovtool.crypto.secret import ModelKey, Secret
from aigovtool.crypto.sign import Envelope, SigningKey, open_by_any, seal
from aigovtool.crypto.wrap import WrapKey, wrap
from aigovtool.custodian.app import initialise, open_custodian
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.service import boot, commands, key_release, renewal, views
from aigovtool.custodian.service.packages import path_of
from aigovtool.custodian.store import instances
from aigovtool.custodian.store.records import Instance
from aigovtool.ids import (
    BorrowerId,
    ConsumerId,
    Digest,
    InstanceId,
    LeaseId,
    MessageId,
    ModelId,
    Nonce,
    digest_of,
    instance_id_of,
)
from aigovtool.ledger.budget import Scope, Window
from aigovtool.ledger.entry import Entry, EntryBody, PartyRole
from aigovtool.ledger.policy import Dial, ServingPolicy, default_policy
from aigovtool.ledger.units import Dimension, UnitVector
from aigovtool.package.sealing import seal as seal_package
from aigovtool.package.source import SourceFile
from aigovtool.protocol import commands as acts
from aigovtool.protocol import messages, release
from aigovtool.protocol.commands import COMMAND, Act, Command, CommandResult
from aigovtool.protocol.messages import Answer, Renew, RenewReply, Report, Want
from aigovtool.protocol.party import OperatorFile
from aigovtool.protocol.release import Admission, BootRequest, Challenge, ChallengeRequest, KeyRelease
from aigovtool.protocol.stop import STOP_STATE, StopState
from aigovtool.testing.simulated_tee import wiring
from aigovtool.testing.simulated_tee.attester import SimulatedPlatform

MODEL = ModelId("sorter")
BORROWER, OTHER = BorrowerId("hospital"), BorrowerId("clinic")
CONSUMER, STRANGER = ConsumerId("ward7"), ConsumerId("lab1")
YEAR_MS = 365 * 86_400_000


def message_id() -> MessageId:
    return MessageId(secrets.token_hex(16))


def nothing_but_identity() -> bytes:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", tensors[:1], tensors[1:])
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


@dataclass
class Enclave:
    """The keys of one boot, and what an enclave says with them."""

    bench: "Bench"
    borrower: BorrowerId = BORROWER
    identity: SigningKey = field(default_factory=SigningKey.generate)
    hpke: WrapKey = field(default_factory=WrapKey.generate)
    boot_nonce: bytes = field(default_factory=lambda: os.urandom(32))
    platform: SimulatedPlatform = field(default_factory=wiring.platform)
    models: list[ModelId] = field(default_factory=lambda: [MODEL])
    #: What it shows with each renewal; `renew` keeps the newest that it was given.
    checkpoint_seen: str = ""

    @property
    def instance(self) -> InstanceId:
        return instance_id_of(self.identity.public.raw, self.hpke.public, self.boot_nonce)

    def challenge_request(self, *, by: SigningKey | None = None) -> Envelope:
        request = ChallengeRequest(borrower=self.borrower, models=self.models)
        return seal(release.CHALLENGE_REQUEST, request, by or self.bench.enrolment[self.borrower])

    async def challenge(self) -> Challenge:
        reply = await boot.challenge(self.bench.custodian, self.challenge_request())
        return open_by_any(reply.challenge, release.CHALLENGE, Challenge, self.bench.command_keys)

    def claims(self, challenge: Challenge) -> Binding:
        custodian = self.bench.custodian.keys.custodian
        return Binding(
            role="boot",
            audience=release.boot_audience(custodian),
            nonce=challenge.nonce,
            tls_spki=SpkiHash(bytes(32)),
            hpke_key=HpkePublicKey(self.hpke.public),
            identity_key=IdentityPublicKey(self.identity.public.raw),
            instance=self.instance,
            custodian_root=custodian,
            configuration=digest_of(b"configuration"),
            appraisal_policy=challenge.appraisal_policy,
            manifests=(),
        )

    def request(self, claims: Binding, *, evidence_of: Binding | None = None) -> BootRequest:
        return BootRequest(
            borrower=self.borrower,
            models=self.models,
            boot_nonce=Nonce(self.boot_nonce.hex()),
            claims=claims,
            evidence=self.platform.attest(evidence_of or claims),
        )

    def sealed(self, request: BootRequest, *keys: SigningKey) -> Envelope:
        return seal(release.BOOT, request, *(keys or (self.bench.enrolment[self.borrower], self.identity)))

    async def admit(self, envelope: Envelope) -> Admission:
        answer = await boot.admit(self.bench.custodian, envelope)
        return open_by_any(answer, release.ADMISSION, Admission, self.bench.command_keys)

    async def boot(self) -> Admission:
        return await self.admit(self.sealed(self.request(self.claims(await self.challenge()))))

    def release_request(self, *, manifest: Digest | None = None, by: SigningKey | None = None) -> Envelope:
        request = release.ReleaseRequest(
            instance=self.instance, request_id=message_id(), model=MODEL, manifest=manifest or self.bench.manifest
        )
        return seal(release.RELEASE_REQUEST, request, by or self.identity)

    async def release(self, envelope: Envelope | None = None) -> KeyRelease:
        answer = await key_release.release_key(self.bench.custodian, envelope or self.release_request())
        return open_by_any(answer, release.RELEASE, KeyRelease, self.bench.command_keys)

    def renewal(self, *wants: Want, reports: tuple[Report, ...] = (), request_id: MessageId | None = None) -> Envelope:
        message = Renew(
            instance=self.instance,
            request_id=request_id or message_id(),
            epoch=0,
            checkpoint_seen=self.checkpoint_seen,
            reports=list(reports),
            wants=list(wants),
        )
        return seal(messages.RENEW, message, self.identity)

    async def record(self) -> Instance:
        return await self.bench.custodian.database.run(
            lambda transaction: instances.require(transaction, self.instance)
        )

    async def renew(self, *wants: Want, reports: tuple[Report, ...] = ()) -> Answer:
        answer = self.opened(await renewal.renew(self.bench.custodian, self.renewal(*wants, reports=reports)))
        self.checkpoint_seen = answer.checkpoint
        return answer

    def opened(self, reply: RenewReply) -> Answer:
        return open_by_any(reply.answer, messages.ANSWER, Answer, self.bench.command_keys)

    def stop_state(self, envelope: Envelope) -> StopState:
        return open_by_any(envelope, STOP_STATE, StopState, self.bench.command_keys)


def want(units: int = 1, *, consumer: ConsumerId = CONSUMER, ask: bool = False, model: ModelId = MODEL) -> Want:
    return Want(
        model=model,
        consumer=consumer,
        minimum=UnitVector(inferences=1),
        target=UnitVector(inferences=units),
        ask=ask,
    )


def report(lease_id: str, *, seq: int, used: int, final: bool = False) -> Report:
    vector = UnitVector(inferences=used)
    return Report(lease_id=LeaseId(lease_id), seq=seq, used=vector, ok=used, err=0, final=final, receipts="")


@dataclass
class Bench:
    """One custodian. `now_ms` is the time of its host, which stands still until a test moves it."""

    directory: Path
    custodian: Custodian
    operator: OperatorFile
    now_ms: int
    enrolment: dict[BorrowerId, SigningKey] = field(default_factory=dict)
    consumers: dict[ConsumerId, SigningKey] = field(default_factory=dict)
    model_key: bytes = field(default_factory=lambda: os.urandom(32))
    manifest: Digest = field(default_factory=lambda: digest_of(b"nothing uploaded"))
    package: Digest = field(default_factory=lambda: digest_of(b"nothing uploaded"))
    graph: bytes = field(default_factory=nothing_but_identity)
    policy: ServingPolicy = field(default_factory=lambda: default_policy(Dial.BALANCED))
    #: Of the second operator, once there is one.
    second: SigningKey | None = None

    @property
    def key(self) -> SigningKey:
        return SigningKey.from_secret(Secret(self.operator.key))

    @property
    def command_keys(self) -> list[Any]:
        return self.custodian.keys.key_set.command_keys()

    def identity(self, kind: IdentityKind, name: str, key: SigningKey) -> Identity:
        return Identity(
            kind=kind, name=name, public_key=key.public, not_before_ms=0, not_after_ms=self.now_ms + YEAR_MS, serial=1
        )

    @property
    def alice(self) -> Identity:
        return self.identity(IdentityKind.OPERATOR, "alice", self.key)

    def order(self, act: Act, **changes: Any) -> Command:
        order = Command(
            custodian=self.custodian.keys.custodian,
            operator=self.operator.operator,
            command_id=message_id(),
            issued_at_ms=self.now_ms,
            act=act,
        )
        return msgspec.structs.replace(order, **changes)

    async def command(self, act: Act) -> CommandResult:
        return await commands.execute(self.custodian, self.alice, seal(COMMAND, self.order(act), self.key))

    async def command_of_two(self, act: Act) -> CommandResult:
        """Carry out what needs a second operator: the first that was added, or one who is enrolled for it."""
        if self.second is None:
            await self.add_party(PartyRole.OPERATOR, "second", SigningKey.generate())
        assert self.second is not None
        signed = seal(COMMAND, self.order(act), self.key, self.second)
        return await commands.execute(self.custodian, self.alice, signed)

    async def add_party(
        self, role: PartyRole, name: str, key: SigningKey, borrower: BorrowerId | None = None
    ) -> CommandResult:
        act = acts.AddParty(role=role, name=name, key=key.public.raw, borrower=borrower, valid_for_ms=YEAR_MS)
        if role is not PartyRole.OPERATOR:
            return await self.command(act)
        if self.second is not None:
            return await self.command_of_two(act)
        self.second = key
        return await self.command(act)

    async def add_borrower(self, name: BorrowerId) -> CommandResult:
        self.enrolment[name] = SigningKey.generate()
        return await self.add_party(PartyRole.BORROWER, name, self.enrolment[name])

    async def add_consumer(self, name: ConsumerId, borrower: BorrowerId) -> CommandResult:
        self.consumers[name] = SigningKey.generate()
        return await self.add_party(PartyRole.CONSUMER, name, self.consumers[name], borrower)

    def upload(self) -> acts.AddModel:
        """Seal a model, put it where uploads go, and return the command that lends it."""
        out = BytesIO()
        made = seal_package(
            [SourceFile("model.onnx", BytesIO(self.graph))],
            out,
            model=MODEL,
            model_key=ModelKey(Secret(self.model_key)),
            salt=os.urandom(32),
            sealer=self.key,
            now_ms=self.now_ms,
        )
        self.manifest, self.package = made.manifest_digest, digest_of(out.getvalue())
        path_of(self.custodian, self.package).write_bytes(out.getvalue())
        context = release.deposit_context(self.custodian.keys.custodian, self.manifest)
        return acts.AddModel(
            model=MODEL,
            manifest=self.manifest,
            package=self.package,
            wrapped_key=wrap(Secret(self.model_key), self.operator.keystore, context),
            policy=self.policy,
            borrowers=[BORROWER],
        )

    async def grant(self, units: int) -> CommandResult:
        return await self.command(
            acts.GrantBudget(
                scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.LIFETIME, units=units
            )
        )

    async def log(self) -> list[EntryBody]:
        page = await views.show_log(self.custodian, 0, 1000)
        return [decode(entry, Entry).body for entry in page.entries]

    async def kinds(self) -> list[str]:
        return [type(body).__name__ for body in await self.log()]


def make_bench(directory: Path, *, allow_simulated: bool = True, ledger: str | None = None) -> Bench:
    initialise(
        directory,
        url="https://127.0.0.1:7443",
        hosts=["127.0.0.1"],
        operator="alice",
        allow_simulated=allow_simulated,
        ledger=ledger,
    )
    custodian = open_custodian(directory)
    operator = decode((directory / "operator.json").read_bytes(), OperatorFile)
    bench = Bench(directory, custodian, operator, custodian.time_ms())
    custodian.clock = told_by(lambda: bench.now_ms)
    return bench


@pytest.fixture
def bench(tmp_path: Path, ledger: str | None) -> Iterator[Bench]:
    """A fresh custodian that allows the simulated TEE, with its first operator and nobody else; on each store."""
    made = make_bench(tmp_path / "custodian", ledger=ledger)
    yield made
    made.custodian.database.close()


async def lend(bench: Bench) -> Bench:
    """Have the custodian lend one model to one of two borrowers, each of which has a consumer; no budget."""
    await bench.add_borrower(BORROWER)
    await bench.add_borrower(OTHER)
    await bench.add_consumer(CONSUMER, BORROWER)
    await bench.add_consumer(STRANGER, OTHER)
    await bench.command(bench.upload())
    return bench


@pytest.fixture
async def lent(bench: Bench) -> Bench:
    """The custodian lends one model to one of two borrowers, each of which has a consumer; no budget."""
    return await lend(bench)


@pytest.fixture
async def admitted(lent: Bench) -> Enclave:
    """One admitted enclave, without any budget."""
    enclave = Enclave(lent)
    await enclave.boot()
    return enclave
