"""A borrower's host that speaks to the custodian itself, with all that its owner has: everything outside of a TEE.

It has the borrower's file, makes keys as an enclave would, and pretends to be the simulated TEE, which anybody can. So
it gets as far as the evidence lets it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
from tests.attacks.deployments import JSON
from tests.e2e.world import MODEL

from aigovtool.attestation.binding import Binding, HpkePublicKey, IdentityPublicKey, SpkiHash
from aigovtool.attestation.model import Evidence
from aigovtool.codec import decode, encode
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import Envelope, SigningKey, VerifyKey, open_by_any, seal
from aigovtool.crypto.wrap import WrapKey
from aigovtool.crypto.x509 import from_pem
from aigovtool.ids import Nonce, instance_id_of
from aigovtool.protocol import release
from aigovtool.protocol.party import BorrowerFile
from aigovtool.protocol.release import BootRequest, Challenge, ChallengeReply, ChallengeRequest
from aigovtool.protocol.trust import open_key_set
from aigovtool.testing.simulated_tee import wiring
from aigovtool.testing.simulated_tee.attester import SimulatedPlatform
from aigovtool.transport.tls import client_context

#: Variables by which somebody might hope to loosen something; none of them means anything.
LOOSE = (
    "AIGOVTOOL_ALLOW_SIMULATED",
    "AIGOVTOOL_CUSTODIAN_INIT_ALLOW_SIMULATED",
    "AIGOVTOOL_DEBUG",
    "AIGOVTOOL_ENCLAVE_SERVE_ALLOW_SIMULATED",
    "AIGOVTOOL_INFER_ALLOW_SIMULATED",
    "AIGOVTOOL_INSECURE",
    "AIGOVTOOL_SIMULATED",
)


@dataclass
class Host:
    """One boot as its host plays it."""

    party: BorrowerFile
    identity: SigningKey = field(default_factory=SigningKey.generate)
    hpke: WrapKey = field(default_factory=WrapKey.generate)
    boot_nonce: bytes = field(default_factory=lambda: os.urandom(32))
    platform: SimulatedPlatform = field(default_factory=wiring.platform)

    @classmethod
    def of(cls, path: Path) -> "Host":
        """Take the borrower's file and make new keys."""
        return cls(decode(path.read_bytes(), BorrowerFile))

    @property
    def enrolment(self) -> SigningKey:
        """The borrower's key."""
        return SigningKey.from_secret(Secret(self.party.enrolment_key))

    @contextmanager
    def connected(self) -> Iterator[httpx.Client]:
        """A TLS connection to the custodian, kept open for all requests of the block."""
        context = client_context(from_pem(self.party.custodian.tls_ca.encode()))
        url = self.party.custodian.url
        with httpx.Client(base_url=url, verify=context, timeout=30, trust_env=False) as client:
            yield client

    @property
    def root(self) -> VerifyKey:
        """The custodian's root key."""
        return VerifyKey(self.party.custodian.root)

    def asked(self, client: httpx.Client) -> httpx.Response:
        """Ask for a nonce, as an enclave does, and return what the custodian answers."""
        request = ChallengeRequest(borrower=self.party.borrower, models=[MODEL])
        sealed = encode(seal(release.CHALLENGE_REQUEST, request, self.enrolment))
        return client.post("/v1/boot/challenge", content=sealed, headers=JSON)

    def challenged(self, answer: httpx.Response) -> tuple[Challenge, Envelope]:
        """Return what an answer asks for, and the key set that came with it."""
        assert answer.status_code == 200, answer.text
        reply = decode(answer.content, ChallengeReply)
        key_set = open_key_set(reply.key_set, self.root)
        return open_by_any(reply.challenge, release.CHALLENGE, Challenge, key_set.command_keys()), reply.key_set

    def challenge(self, client: httpx.Client) -> Challenge:
        """Ask for a nonce, and return the challenge."""
        return self.challenged(self.asked(client))[0]

    def claims(self, challenge: Challenge, **changes: Any) -> Binding:
        """What an honest enclave would claim, or something else."""
        honest = Binding(
            role="boot",
            audience=release.boot_audience(challenge.custodian),
            nonce=challenge.nonce,
            tls_spki=SpkiHash(bytes(32)),
            hpke_key=HpkePublicKey(self.hpke.public),
            identity_key=IdentityPublicKey(self.identity.public.raw),
            instance=instance_id_of(self.identity.public.raw, self.hpke.public, self.boot_nonce),
            custodian_root=challenge.custodian,
            configuration=self.party.configuration(),
            appraisal_policy=challenge.appraisal_policy,
            manifests=(),
        )
        return msgspec.structs.replace(honest, **changes)

    def sealed(self, claims: Binding, evidence: Evidence | None = None, *signers: SigningKey) -> bytes:
        """A boot request with evidence over the claims, or with other evidence; signed as it must be, or by others."""
        request = BootRequest(
            borrower=self.party.borrower,
            models=[MODEL],
            boot_nonce=Nonce(self.boot_nonce.hex()),
            claims=claims,
            evidence=evidence or self.platform.attest(claims),
        )
        return encode(seal(release.BOOT, request, *(signers or (self.enrolment, self.identity))))

    @staticmethod
    def send(client: httpx.Client, body: bytes) -> httpx.Response:
        """Send a boot request."""
        return client.post("/v1/boot", content=body, headers=JSON)

    def admitted(self, answer: httpx.Response) -> bool:
        """Return whether an answer is an admission of somebody."""
        return answer.status_code == 200 and decode(answer.content, Envelope) is not None
