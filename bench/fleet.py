"""Enclaves that only attest and renew, over real HTTPS: the load of a custodian, without models or consumers."""

import asyncio
import os
import secrets
import time
from dataclasses import dataclass, field
from typing import Self

import httpx

from aigovtool.attestation.binding import Binding, HpkePublicKey, IdentityPublicKey, SpkiHash
from aigovtool.codec import Message, decode, encode
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey, VerifyKey, open_by_any, seal
from aigovtool.crypto.wrap import WrapKey
from aigovtool.crypto.x509 import from_pem
from aigovtool.ids import ConsumerId, LeaseId, MessageId, ModelId, Nonce, digest_of, instance_id_of
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol import messages, release
from aigovtool.protocol.messages import Answer, Deny, Grant, Renew, RenewReply, Report, Want
from aigovtool.protocol.party import BorrowerFile
from aigovtool.protocol.release import BootRequest, Challenge, ChallengeReply, ChallengeRequest
from aigovtool.protocol.trust import KeySet, open_key_set
from aigovtool.testing.simulated_tee import wiring
from aigovtool.transport.tls import client_context

_HEADERS = {"content-type": "application/json"}


@dataclass
class Latencies:
    """Seconds per renewal, as the enclave saw them."""

    seconds: list[float] = field(default_factory=list)

    def quantile_ms(self, share: float) -> float:
        """Return the latency in milliseconds that `share` of the renewals did not exceed."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class FleetEnclave:
    """One admitted instance."""

    def __init__(self, party: BorrowerFile, client: httpx.AsyncClient, model: ModelId, consumer: ConsumerId) -> None:
        self._party = party
        self._client = client
        self._model = model
        self._consumer = consumer
        self._identity, self._hpke, self._boot_nonce = SigningKey.generate(), WrapKey.generate(), os.urandom(32)
        self._instance = instance_id_of(self._identity.public.raw, self._hpke.public, self._boot_nonce)
        self._keys: KeySet | None = None
        self._checkpoint = ""
        self._lease: LeaseId | None = None

    async def _post(self, path: str, message: Message) -> bytes:
        response = await self._client.post(path, content=encode(message), headers=_HEADERS)
        if response.status_code != httpx.codes.OK:
            raise RuntimeError(response.text)
        return response.content

    async def boot(self) -> None:
        """Attest and be admitted."""
        enrolment = SigningKey.from_secret(Secret(self._party.enrolment_key))
        asked = ChallengeRequest(borrower=self._party.borrower, models=[self._model])
        raw = await self._post("/v1/boot/challenge", seal(release.CHALLENGE_REQUEST, asked, enrolment))
        reply = decode(raw, ChallengeReply)
        self._keys = open_key_set(reply.key_set, VerifyKey(self._party.custodian.root))
        challenge = open_by_any(reply.challenge, release.CHALLENGE, Challenge, self._keys.command_keys())
        claims = Binding(
            role="boot",
            audience=release.boot_audience(challenge.custodian),
            nonce=challenge.nonce,
            tls_spki=SpkiHash(bytes(32)),
            hpke_key=HpkePublicKey(self._hpke.public),
            identity_key=IdentityPublicKey(self._identity.public.raw),
            instance=self._instance,
            custodian_root=challenge.custodian,
            configuration=digest_of(b"configuration"),
            appraisal_policy=challenge.appraisal_policy,
            manifests=(),
        )
        request = BootRequest(
            borrower=self._party.borrower,
            models=[self._model],
            boot_nonce=Nonce(self._boot_nonce.hex()),
            claims=claims,
            evidence=wiring.platform().attest(claims),
        )
        await self._post("/v1/boot", seal(release.BOOT, request, enrolment, self._identity))

    async def renew(self, *, trading: bool) -> None:
        """Renew once. `trading`: give back the lease that it holds and draw another, the most that a renewal does."""
        reports, wants = [], []
        if trading:
            wants = [
                Want(
                    model=self._model,
                    consumer=self._consumer,
                    minimum=UnitVector(inferences=1),
                    target=UnitVector(inferences=8),
                )
            ]
        if trading and self._lease is not None:
            used = UnitVector(inferences=1)
            reports = [Report(lease_id=self._lease, seq=1, used=used, ok=1, err=0, final=True, receipts="")]
        message = Renew(
            instance=self._instance,
            request_id=MessageId(secrets.token_hex(16)),
            epoch=0,
            checkpoint_seen=self._checkpoint,
            reports=reports,
            wants=wants,
        )
        reply = decode(await self._post("/v1/renew", seal(messages.RENEW, message, self._identity)), RenewReply)
        if self._keys is None:
            raise RuntimeError("boot first")
        answer = open_by_any(reply.answer, messages.ANSWER, Answer, self._keys.command_keys())
        self._checkpoint = answer.checkpoint
        for result in answer.results:
            self._lease = _granted(result).lease_id


def _granted(result: Grant | Deny) -> Grant:
    if isinstance(result, Deny):
        raise RuntimeError(f"no units: {result.code}")  # noqa: TRY004 - it is no type that is wrong
    return result


class Fleet:
    """Some enclaves of one borrower, each with a connection of its own. To be used as an async context."""

    def __init__(self, party: BorrowerFile, model: ModelId, consumer: ConsumerId, size: int) -> None:
        limits = httpx.Limits(max_connections=size, max_keepalive_connections=size)
        context = client_context(from_pem(party.custodian.tls_ca.encode()))
        self._client = httpx.AsyncClient(
            base_url=party.custodian.url, verify=context, timeout=60, trust_env=False, limits=limits
        )
        self._enclaves = [FleetEnclave(party, self._client, model, consumer) for _ in range(size)]

    async def __aenter__(self) -> Self:
        for enclave in self._enclaves:
            await enclave.boot()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def drive(self, renewals: int, *, trading: bool) -> Latencies:
        """Renew `renewals` times in all, as fast as answers come."""
        latencies = Latencies()

        async def beat(enclave: FleetEnclave) -> None:
            for _ in range(renewals // len(self._enclaves)):
                began = time.perf_counter()
                await enclave.renew(trading=trading)
                latencies.seconds.append(time.perf_counter() - began)

        await asyncio.gather(*(beat(enclave) for enclave in self._enclaves))
        return latencies
