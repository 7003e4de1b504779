"""How an instance attests to its custodian: when it boots, and again, with the same keys, before that runs out.

Where nobody has certified the key that the platform attests with (a TPM), the custodian's challenge has a credential
for it, which is activated before anything is attested. Platforms are slow, so nothing of this holds up the event loop.
"""

import asyncio
from dataclasses import dataclass, replace

from msgspec import UNSET

from aigovtool.attestation.attester import ActivatedAttester, Attester
from aigovtool.attestation.binding import Binding, HpkePublicKey, IdentityPublicKey, SpkiHash
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import Envelope, SigningKey, VerifyKey, open_by_any, seal
from aigovtool.enclave.custodian_link import CustodianLink
from aigovtool.enclave.trusted_keys import TrustedKeys
from aigovtool.errors import SignatureInvalidError
from aigovtool.ids import InstanceId, ModelId, Nonce, instance_id_of
from aigovtool.protocol import release
from aigovtool.protocol.party import BorrowerFile
from aigovtool.protocol.release import (
    Admission,
    BootRequest,
    Challenge,
    ChallengeReply,
    ChallengeRequest,
    NotServed,
)
from aigovtool.protocol.trust import KeySet


@dataclass(slots=True)
class Attested:
    """What an instance was admitted with last; replaced whole when it attests again."""

    claims: Binding
    admission: Admission


def refused_in(admission: Admission) -> tuple[NotServed, ...]:
    """Return the models that were asked for and are not admitted, and why."""
    return () if admission.refused is UNSET else admission.refused


@dataclass(frozen=True, slots=True)
class Attestation:
    """The keys of one instance, and the way to its custodian; what refuses it, or keeps it away, is raised.

    `models` are asked for; `aside` are others that the enclave was started for, which it only tells of.
    """

    party: BorrowerFile
    models: list[ModelId]
    aside: tuple[NotServed, ...]
    attester: Attester
    link: CustodianLink
    identity: SigningKey
    hpke_key: bytes
    boot_nonce: bytes

    @property
    def instance(self) -> InstanceId:
        """The name of the instance: it follows from its keys."""
        return instance_id_of(self.identity.public.raw, self.hpke_key, self.boot_nonce)

    @property
    def root(self) -> VerifyKey:
        """The root key of the custodian."""
        return VerifyKey(self.party.custodian.root)

    async def ask(self) -> ChallengeReply:
        """Ask for a challenge, with the keys that are to be activated, where the platform has such."""
        activation = None
        if isinstance(self.attester, ActivatedAttester):
            activation = await asyncio.to_thread(self.attester.keys)
        request = ChallengeRequest(borrower=self.party.borrower, models=self.models, activation=activation)
        return await self.link.post(
            "/v1/boot/challenge", seal(release.CHALLENGE_REQUEST, request, self._enrolment()), ChallengeReply
        )

    async def first(self, reply: ChallengeReply, key_set: KeySet, tls_spki: bytes) -> Attested:
        """Attest for the first time, which makes an instance of this boot."""
        return await self._attested(reply, key_set, tls_spki, "/v1/boot", release.BOOT)

    async def again(self, tls_spki: bytes, keys: TrustedKeys) -> Attested:
        """Attest once more, as of now: the same instance goes on, with the models that it was admitted for."""
        reply = await self.ask()
        keys.take(reply.key_set)
        return await self._attested(reply, keys.key_set, tls_spki, "/v1/boot/again", release.BOOT_AGAIN)

    def admitted(self, admission: Admission) -> "Attestation":
        """Return how the instance attests from its admission on: for the models that are in it."""
        return replace(self, models=[offer.model for offer in admission.models])

    async def _attested(
        self, reply: ChallengeReply, key_set: KeySet, tls_spki: bytes, path: str, kind: str
    ) -> Attested:
        challenge = open_by_any(reply.challenge, release.CHALLENGE, Challenge, key_set.command_keys())
        if (challenge.custodian, challenge.borrower) != (self.root.key_id, self.party.borrower):
            raise SignatureInvalidError("the challenge is for another party", reason="wrong_challenge")
        # A custodian that sends no credential says later what it misses.
        if isinstance(self.attester, ActivatedAttester) and challenge.credential is not None:
            await asyncio.to_thread(self.attester.activate, challenge.credential)
        claims = self._claims(challenge, tls_spki)
        request = BootRequest(
            borrower=self.party.borrower,
            models=self.models,
            boot_nonce=Nonce(self.boot_nonce.hex()),
            claims=claims,
            evidence=await asyncio.to_thread(self.attester.attest, claims),
            not_served=self.aside,
        )
        answer = await self.link.post(path, seal(kind, request, self._enrolment(), self.identity), Envelope)
        admission = open_by_any(answer, release.ADMISSION, Admission, key_set.command_keys())
        self._require_ours(admission, claims)
        if isinstance(self.attester, ActivatedAttester) and admission.certificate is not UNSET:
            self.attester.certify(admission.certificate)
        return Attested(claims, admission)

    def _claims(self, challenge: Challenge, tls_spki: bytes) -> Binding:
        return Binding(
            role="boot",
            audience=release.boot_audience(challenge.custodian),
            nonce=challenge.nonce,
            tls_spki=SpkiHash(tls_spki),
            hpke_key=HpkePublicKey(self.hpke_key),
            identity_key=IdentityPublicKey(self.identity.public.raw),
            instance=self.instance,
            custodian_root=challenge.custodian,
            configuration=self.party.configuration(),
            appraisal_policy=challenge.appraisal_policy,
            manifests=(),
        )

    def _require_ours(self, admission: Admission, claims: Binding) -> None:
        refused = {one.model for one in refused_in(admission)}
        admitted = [model for model in self.models if model not in refused]
        fits = (
            admission.instance == claims.instance
            and admission.nonce == claims.nonce
            and admission.custodian == claims.custodian_root
            and [offer.model for offer in admission.models] == admitted
            and refused <= set(self.models)
            and admitted
        )
        if not fits:
            raise SignatureInvalidError("the admission is for another boot", reason="wrong_admission")

    def _enrolment(self) -> SigningKey:
        return SigningKey.from_secret(Secret(self.party.enrolment_key))
