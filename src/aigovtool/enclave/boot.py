"""From nothing to a ready instance: fresh keys, evidence, admission, key release, load (spec: leases section 9).

All ciphertext is fetched before the first key is asked for: that may take hours, and there is nothing to wipe yet. From
then on the dead-man switch holds, as it does for an instance that serves: each answered release is a contact with the
custodian, counted from when it was asked for, and a model that is not loaded when silence has lasted too long is wiped
with the engine. Booting again would take as long, so this is told as what it is: an operator's terms do not fit.

An instance is admitted for what it serves: each model alone is allowed or refused by the custodian, and an instance of
which one model cannot be loaded is gone, with its engine, which has had that model's key. The next boot asks for the
others (`roster`).
"""

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from aigovtool.attestation.attester import Attester
from aigovtool.attestation.binding import Audience, Binding
from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.attestation.tee.supplement import supplemented
from aigovtool.crypto.sign import Envelope, SigningKey, open_by_any, seal
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.wrap import WrapKey
from aigovtool.crypto.x509 import self_signed_server_certificate
from aigovtool.enclave.attestation import Attestation, Attested, refused_in
from aigovtool.enclave.clock import ElapsedClock
from aigovtool.enclave.computing import runs_at_once, stack_bytes
from aigovtool.enclave.custodian_link import CustodianLink
from aigovtool.enclave.engines.pending import Shares
from aigovtool.enclave.engines.process import EngineConfig, EngineProcess, LoadedModel
from aigovtool.enclave.kept_package import discard_damaged, manifest_of
from aigovtool.enclave.memory import MemoryBounds, memory_bounds
from aigovtool.enclave.package_download import logged
from aigovtool.enclave.roster import is_of_one
from aigovtool.enclave.trusted_keys import TrustedKeys
from aigovtool.errors import (
    AIGovToolError,
    ConfigurationError,
    EngineError,
    ReattestRequiredError,
    SignatureInvalidError,
    StoppedError,
    VerificationError,
)
from aigovtool.ids import InstanceId, MessageId, ModelId, Nonce
from aigovtool.protocol import release
from aigovtool.protocol.metering import Meter
from aigovtool.protocol.party import BorrowerFile
from aigovtool.protocol.release import Admission, KeyRelease, NotServed
from aigovtool.protocol.session import NO_MEMORY_ENCRYPTION
from aigovtool.protocol.stop import STOP_STATE, StopState
from aigovtool.protocol.trust import KeySet
from aigovtool.regular_file import open_regular
from aigovtool.transport.tls import ServerTls, server_context

_LOG: Final = logging.getLogger(__name__)
#: Told to whoever uses an enclave on the simulated TEE.
SIMULATED_WARNING: Final = "SIMULATED TEE: protects nothing; for development only"

#: Is told of which model alone an error is that the boot ends with.
Blame = Callable[[ModelId, AIGovToolError], None]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model, the terms of its lending, and its manifest as its sealer signed it (the payload)."""

    offer: release.ModelOffer
    loaded: LoadedModel
    manifest: bytes = b""


@dataclass(frozen=True, slots=True)
class Instance:
    """One attested boot: its keys exist in this process's memory only."""

    instance: InstanceId
    identity: SigningKey
    tls_key: TlsKey
    #: Its own certificate (DER), which consumers pin after they have attested it.
    certificate: bytes
    engine: EngineProcess
    meter: Meter
    clock: ElapsedClock
    attestation: Attestation
    attested: Attested
    #: The custodian's time when `clock` began, which no later admission changes.
    began_ms: int
    keys: TrustedKeys
    models: dict[ModelId, ServedModel]
    #: The other models that the enclave was started for, by their names.
    not_served: dict[ModelId, NotServed]
    link: CustodianLink
    #: What requests are sealed to that come through somebody who ends TLS (`gateway.sealed`).
    body_key: WrapKey = field(default_factory=WrapKey.generate)

    @property
    def key_set(self) -> KeySet:
        """The custodian's key set that is believed now."""
        return self.keys.key_set

    @property
    def tls_spki(self) -> bytes:
        """What the instance attests of its TLS key: the SHA-256 of its public half."""
        return self.tls_key.spki_sha256()

    def server_tls(self) -> ServerTls:
        """Return what the instance serves with: its own certificate, and the authorities of the key set."""
        return server_context([self.certificate], self.tls_key, self.key_set.credentials)

    @property
    def admission(self) -> Admission:
        """What the custodian said last."""
        return self.attested.admission

    @property
    def claims(self) -> Binding:
        """The claims of the newest attestation."""
        return self.attested.claims

    @property
    def simulated(self) -> bool:
        """Whether the TEE is the simulated one."""
        return self.admission.tee is TeeType.SIMULATED

    @property
    def warning(self) -> str | None:
        """What whoever uses this enclave is told of its TEE; None for one that encrypts its memory."""
        if self.simulated:
            return SIMULATED_WARNING
        return NO_MEMORY_ENCRYPTION if self.admission.tee is TeeType.TPM else None

    def custodian_time_ms(self) -> int:
        """Return the custodian's time as of admission, carried on by the elapsed clock."""
        return self.began_ms + self.clock.now_ms()

    async def learn_key_set(self, version: int) -> None:
        """Fetch the custodian's key set, if it has a newer one than is believed; what it signed is judged after."""
        await self.keys.learn(version, self._fetch_key_set)

    async def learning(self) -> None:
        """Fetch, for ever, the key sets that are hinted at: nobody who has something more urgent waits for one."""
        await self.keys.learning(self._fetch_key_set)

    async def obey(self, stop_state: Envelope, version: int, take: Callable[[Envelope], None]) -> None:
        """Take a stop state at once, or, if no key that is believed signed it, after learning key set `version`.

        Raises:
            SignatureInvalidError: no key of that set signed it either.
        """
        try:
            take(stop_state)
        except SignatureInvalidError:
            await self.learn_key_set(version)
            take(stop_state)

    async def _fetch_key_set(self) -> Envelope:
        return await self.link.get("/v1/key-set", Envelope)

    def open_stop_state(self, envelope: Envelope) -> StopState:
        """Verify a stop state."""
        return open_by_any(envelope, STOP_STATE, StopState, self.key_set.command_keys())

    def session_evidence(self, audience: Audience, nonce: Nonce) -> tuple[Binding, Evidence]:
        """Return claims for an audience and its nonce, and evidence over them; it may block."""
        manifests = tuple(sorted(model.offer.manifest for model in self.models.values()))
        claims = msgspec.structs.replace(
            self.claims,
            role="session",
            audience=audience,
            nonce=nonce,
            manifests=manifests,
        )
        evidence = self.attestation.attester.attest(claims)
        # The custodian knew more of this platform than it could say itself: consumers need that, too.
        return claims, supplemented(evidence, self.admission.endorsements)


async def boot(
    party: BorrowerFile,
    models: list[ModelId],
    attester: Attester,
    link: CustodianLink,
    cache: Path,
    *,
    aside: tuple[NotServed, ...] = (),
    blame: Blame = lambda _model, _error: None,
    memory: MemoryBounds | None = None,
    at_once: int | None = None,
    run_threads: int = 1,
) -> Instance:
    """Boot one instance, with those of `models` that the custodian allows. On failure the engine child is gone.

    Args:
        party: whose enclave it is.
        models: what to ask for.
        attester: makes the evidence.
        link: the way to the custodian.
        cache: where ciphertext is kept.
        aside: other models that it was started for, and why they are not asked for.
        blame: is told, before it is raised, of an error that is one model's alone.
        memory: what the engine may take; None for this machine's.
        at_once: how many runs it computes at once; None for as many as this machine has cores for.
        run_threads: how many threads compute one of them.

    Raises:
        AIGovToolError: who or what refused, or could not be reached.
    """
    clock, memory = ElapsedClock(), memory or memory_bounds()
    runs = at_once or runs_at_once(memory.engine_addresses)
    engine = await EngineProcess.start(_engine_config(memory, runs, run_threads, len(models)))
    try:
        return await _Boot(party, models, attester, link, cache, aside, blame, clock, engine).run()
    except BaseException:
        await engine.kill_and_wait()
        raise


def _engine_config(memory: MemoryBounds, at_once: int, run_threads: int, models: int) -> EngineConfig:
    shares = Shares(
        size_bytes=memory.bodies,
        size_bytes_per_consumer=memory.bodies_per_consumer,
        unread_bytes=memory.unread,
        unread_bytes_per_consumer=memory.unread_per_consumer,
    )
    addresses = memory.engine_addresses + stack_bytes(at_once, run_threads, models)
    return EngineConfig(workers=at_once, intra_op_threads=run_threads, memory_bytes=addresses, shares=shares)


@dataclass(slots=True)
class _Boot:
    party: BorrowerFile
    models: list[ModelId]
    attester: Attester
    link: CustodianLink
    cache: Path
    aside: tuple[NotServed, ...]
    blame: Blame
    clock: ElapsedClock
    engine: EngineProcess
    #: When the last message was sent that the custodian has answered under its signature.
    heard_ms: int = 0

    async def run(self) -> Instance:
        tls_key = TlsKey.generate()
        attestation = Attestation(
            party=self.party,
            models=self.models,
            aside=self.aside,
            attester=self.attester,
            link=self.link,
            identity=SigningKey.generate(),
            hpke_key=self.engine.hpke_public_key,
            boot_nonce=os.urandom(32),
        )
        reply = await attestation.ask()
        keys = TrustedKeys(attestation.root, reply.key_set)
        key_set = keys.key_set
        self.heard_ms = self.clock.now_ms()
        attested = await attestation.first(reply, key_set, tls_key.spki_sha256())
        admission = attested.admission
        state = open_by_any(admission.stop_state, STOP_STATE, StopState, key_set.command_keys())
        served = await self._load_all(admission, attestation.identity, key_set)
        return Instance(
            instance=attestation.instance,
            identity=attestation.identity,
            tls_key=tls_key,
            certificate=self_signed_server_certificate(tls_key),
            engine=self.engine,
            meter=Meter(
                instance=attestation.instance,
                custodian=attestation.root.key_id,
                policies={offer.model: offer.policy for offer in admission.models},
                stop_state=state,
                admitted_ms=self.heard_ms,
            ),
            clock=self.clock,
            attestation=attestation.admitted(admission),
            attested=attested,
            began_ms=admission.server_time_ms,
            keys=keys,
            models=served,
            not_served={one.model: one for one in (*refused_in(admission), *self.aside)},
            link=self.link,
        )

    async def _load_all(
        self, admission: Admission, identity: SigningKey, key_set: KeySet
    ) -> dict[ModelId, ServedModel]:
        paths = [await self._fetch(offer) for offer in admission.models]
        silence_ms = min((offer.policy.wipe_after_ms for offer in admission.models), default=0)
        served: dict[ModelId, ServedModel] = {}
        for offer, path in zip(admission.models, paths, strict=True):
            with self._blaming(offer.model):
                sent_ms = self.clock.now_ms()
                _LOG.info("model_loading", extra={"model": offer.model, "mib": offer.package_bytes >> 20})
                released = await self._release(offer, identity, admission, key_set)
                self.heard_ms = sent_ms
                served[offer.model] = await self._load(path, released, offer, silence_ms)
                _LOG.info("model_loaded", extra={"model": offer.model, "ms": self.clock.now_ms() - sent_ms})
        return served

    async def _fetch(self, offer: release.ModelOffer) -> Path:
        with self._blaming(offer.model):
            told = logged(offer.model, offer.package_bytes)
            return await self.link.fetch(offer.package, offer.package_bytes, self.cache, told)

    @contextmanager
    def _blaming(self, model: ModelId) -> Iterator[None]:
        try:
            yield
        except AIGovToolError as error:
            if is_of_one(error):
                self.blame(model, error)
            raise

    async def _release(
        self, offer: release.ModelOffer, identity: SigningKey, admission: Admission, key_set: KeySet
    ) -> KeyRelease:
        instance, custodian = admission.instance, admission.custodian
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
        if released.policy != offer.policy.digest():
            raise ReattestRequiredError(
                f"{offer.model} is lent on other terms than when this enclave was admitted",
                reason="terms_changed",
                fix="start it again",
            )
        return released

    async def _load(self, path: Path, released: KeyRelease, offer: release.ModelOffer, silence_ms: int) -> ServedModel:
        """Load a model before the custodian has been silent for too long."""
        left_ms = self.heard_ms + silence_ms - self.clock.now_ms()
        if left_ms <= 0:
            raise _too_long(offer.model, silence_ms)
        try:
            return await self._open_package(path, released, offer, left_ms)
        except EngineError:
            if self.clock.now_ms() - self.heard_ms >= silence_ms:
                raise _too_long(offer.model, silence_ms) from None
            raise

    async def _open_package(
        self, path: Path, released: KeyRelease, offer: release.ModelOffer, within_ms: int
    ) -> ServedModel:
        custodian, instance = released.custodian, released.instance
        try:
            descriptor = open_regular(path)
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be opened: {error.strerror}", reason="cache") from None
        try:
            loaded = await self.engine.load(
                descriptor,
                wrapped_key=released.wrapped_key,
                info=release.release_context(
                    custodian, instance, released.model, offer.manifest, offer.policy.digest()
                ),
                manifest_digest=offer.manifest,
                sealer=offer.sealer,
                timeout_ms=within_ms,
            )
            return ServedModel(offer, loaded, await asyncio.to_thread(manifest_of, descriptor, offer.manifest))
        except VerificationError:  # damaged, or another package that somebody put there
            await asyncio.to_thread(discard_damaged, path, descriptor, offer.package)
            raise
        finally:
            os.close(descriptor)


def _too_long(model: ModelId, silence_ms: int) -> ConfigurationError:
    return ConfigurationError(
        f"model {model!r} was not loaded within {silence_ms // 1000} s, after which an enclave that does not hear its"
        " custodian wipes itself",
        reason="load_too_long",
        fix="use faster storage or a smaller model, or have an operator lend it under terms with a longer silence",
    )
