"""From nothing to a ready instance: fresh keys, evidence, admission, key release, load (spec: leases section 9)."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from aigovtool.attestation.binding import Binding, HpkePublicKey, IdentityPublicKey, SpkiHash
from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import Envelope, SigningKey, VerifyKey, open_by_any, seal
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.x509 import self_signed_server_certificate
from aigovtool.enclave.clock import ElapsedClock
from aigovtool.enclave.custodian_link import CustodianLink
from aigovtool.enclave.engines.process import EngineConfig, EngineProcess, LoadedModel
from aigovtool.errors import SignatureInvalidError, StoppedError
from aigovtool.ids import Digest, InstanceId, KeyId, MessageId, ModelId, Nonce, instance_id_of
from aigovtool.protocol import release
from aigovtool.protocol.metering import Meter
from aigovtool.protocol.party import BorrowerFile
from aigovtool.protocol.release import Admission, BootRequest, Challenge, ChallengeReply, ChallengeRequest, KeyRelease
from aigovtool.protocol.stop import STOP_STATE, StopState
from aigovtool.protocol.trust import KeySet, open_key_set
from aigovtool.transport.tls import ServerTls, server_context


class Attester(Protocol):
    """The port to a TEE: evidence whose report carries 64 bytes of report data."""

    def attest(self, report_data: bytes) -> Evidence:
        """Return evidence over `report_data`."""
        ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model and the terms of its lending."""

    offer: release.ModelOffer
    loaded: LoadedModel


@dataclass(frozen=True, slots=True)
class Instance:
    """One attested boot: its keys exist in this process's memory only."""

    instance: InstanceId
    identity: SigningKey
    tls: ServerTls
    engine: EngineProcess
    meter: Meter
    clock: ElapsedClock
    attester: Attester
    admission: Admission
    key_set: KeySet
    key_set_envelope: Envelope
    claims: Binding
    models: dict[ModelId, ServedModel]
    link: CustodianLink

    @property
    def simulated(self) -> bool:
        """Whether the TEE is the simulated one."""
        return self.admission.tee is TeeType.SIMULATED

    def custodian_time_ms(self) -> int:
        """Return the custodian's time as of admission, carried on by the elapsed clock."""
        return self.admission.server_time_ms + self.clock.now_ms()

    def open_stop_state(self, envelope: Envelope) -> StopState:
        """Verify a stop state."""
        return open_by_any(envelope, STOP_STATE, StopState, self.key_set.command_keys())

    def session_evidence(self, consumer: str, nonce: Nonce) -> tuple[Binding, Evidence]:
        """Return claims for a consumer's nonce and evidence over them."""
        manifests = tuple(sorted(model.offer.manifest for model in self.models.values()))
        claims = msgspec.structs.replace(
            self.claims,
            role="session",
            audience=release.session_audience(consumer),
            nonce=nonce,
            manifests=manifests,
        )
        return claims, self.attester.attest(claims.report_data())


async def boot(
    party: BorrowerFile, models: list[ModelId], attester: Attester, link: CustodianLink, cache: Path
) -> Instance:
    """Boot one instance. On failure the engine child is gone.

    Raises:
        AIGovToolError: who or what refused, or could not be reached.
    """
    clock = ElapsedClock()
    engine = await EngineProcess.start(EngineConfig())
    try:
        return await _Boot(party, models, attester, link, cache, clock, engine).run()
    except BaseException:
        await engine.kill_and_wait()
        raise


@dataclass(slots=True)
class _Boot:
    party: BorrowerFile
    models: list[ModelId]
    attester: Attester
    link: CustodianLink
    cache: Path
    clock: ElapsedClock
    engine: EngineProcess

    async def run(self) -> Instance:
        identity, tls_key, boot_nonce = SigningKey.generate(), TlsKey.generate(), os.urandom(32)
        certificate = self_signed_server_certificate(tls_key)
        root = VerifyKey(self.party.custodian.root)
        reply = await self.link.post(
            "/v1/boot/challenge",
            seal(
                release.CHALLENGE_REQUEST,
                ChallengeRequest(borrower=self.party.borrower, models=self.models),
                SigningKey.from_secret(Secret(self.party.enrolment_key)),
            ),
            ChallengeReply,
        )
        key_set = open_key_set(reply.key_set, root)
        tls = server_context([certificate], tls_key, key_set.credentials)
        challenge = open_by_any(reply.challenge, release.CHALLENGE, Challenge, key_set.command_keys())
        if (challenge.custodian, challenge.borrower) != (root.key_id, self.party.borrower):
            raise SignatureInvalidError("the challenge is for another party", reason="wrong_challenge")
        instance = instance_id_of(identity.public.raw, self.engine.hpke_public_key, boot_nonce)
        claims = self._claims(challenge, tls, identity, instance)
        sent_ms = self.clock.now_ms()
        admission = await self._attest(claims, boot_nonce, identity, key_set)
        state = open_by_any(admission.stop_state, STOP_STATE, StopState, key_set.command_keys())
        served = {
            offer.model: ServedModel(offer, await self._load(offer, identity, instance, root.key_id, key_set))
            for offer in admission.models
        }
        return Instance(
            instance=instance,
            identity=identity,
            tls=tls,
            engine=self.engine,
            meter=Meter(
                instance=instance,
                custodian=root.key_id,
                policies={offer.model: offer.policy for offer in admission.models},
                stop_state=state,
                admitted_ms=sent_ms,
            ),
            clock=self.clock,
            attester=self.attester,
            admission=admission,
            key_set=key_set,
            key_set_envelope=reply.key_set,
            claims=claims,
            models=served,
            link=self.link,
        )

    def _claims(self, challenge: Challenge, tls: ServerTls, identity: SigningKey, instance: InstanceId) -> Binding:
        return Binding(
            role="boot",
            audience=release.boot_audience(challenge.custodian),
            nonce=challenge.nonce,
            tls_spki=SpkiHash(tls.spki_sha256),
            hpke_key=HpkePublicKey(self.engine.hpke_public_key),
            identity_key=IdentityPublicKey(identity.public.raw),
            instance=instance,
            custodian_root=challenge.custodian,
            configuration=self.party.configuration(),
            appraisal_policy=challenge.appraisal_policy,
            manifests=(),
        )

    async def _attest(self, claims: Binding, boot_nonce: bytes, identity: SigningKey, key_set: KeySet) -> Admission:
        request = BootRequest(
            borrower=self.party.borrower,
            models=self.models,
            boot_nonce=Nonce(boot_nonce.hex()),
            claims=claims,
            evidence=self.attester.attest(claims.report_data()),
        )
        enrolment = SigningKey.from_secret(Secret(self.party.enrolment_key))
        answer = await self.link.post("/v1/boot", seal(release.BOOT, request, enrolment, identity), Envelope)
        admission = open_by_any(answer, release.ADMISSION, Admission, key_set.command_keys())
        fits = (
            admission.instance == claims.instance
            and admission.nonce == claims.nonce
            and admission.custodian == claims.custodian_root
            and [offer.model for offer in admission.models] == self.models
        )
        if not fits:
            raise SignatureInvalidError("the admission is for another boot", reason="wrong_admission")
        return admission

    async def _load(
        self, offer: release.ModelOffer, identity: SigningKey, instance: InstanceId, custodian: KeyId, key_set: KeySet
    ) -> LoadedModel:
        path = await self.link.fetch(offer.package, offer.package_bytes, self.cache)
        request = release.ReleaseRequest(
            instance=instance,
            request_id=MessageId(secrets.token_hex(16)),
            model=offer.model,
            manifest=offer.manifest,
        )
        answer = await self.link.post("/v1/release", seal(release.RELEASE_REQUEST, request, identity), Envelope)
        released = open_by_any(answer, release.RELEASE, KeyRelease, key_set.command_keys())
        expected: tuple[object, ...] = (instance, request.request_id, offer.model, offer.manifest, custodian)
        given = (released.instance, released.request_id, released.model, released.manifest, released.custodian)
        if given != expected:
            raise SignatureInvalidError("the released key is for another request", reason="wrong_release")
        if open_by_any(released.stop_state, STOP_STATE, StopState, key_set.command_keys()).is_wide():
            raise StoppedError("the custodian has stopped this")
        return await self._open_package(path, released, offer.sealer, offer.manifest)

    async def _open_package(self, path: Path, released: KeyRelease, sealer: bytes, manifest: Digest) -> LoadedModel:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return await self.engine.load(
                descriptor,
                wrapped_key=released.wrapped_key,
                info=release.release_context(released.custodian, released.instance, released.model, manifest),
                manifest_digest=manifest,
                sealer=sealer,
            )
        finally:
            os.close(descriptor)
