"""An instance whose keys its host has read, as the host of a TPM can, and whoever breaks a TEE: it says what it likes.

It was admitted like any other, and keeps to the protocol only as far as a test wants.
"""

import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.attacks.deployments import Deployment
from tests.e2e.world import BORROWER, MODEL, Answer, Connection

from aigovtool.attestation.binding import Binding, HpkePublicKey, IdentityPublicKey, SpkiHash
from aigovtool.codec import decode, encode
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import Envelope, SigningKey, seal
from aigovtool.crypto.wrap import WrapKey
from aigovtool.crypto.x509 import from_pem
from aigovtool.ids import ConsumerId, Digest, InstanceId, MessageId, Nonce, digest_of, instance_id_of
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol import messages, release
from aigovtool.protocol.messages import Answer as Answered
from aigovtool.protocol.messages import Renew, RenewReply, Want
from aigovtool.protocol.party import BorrowerFile
from aigovtool.protocol.release import BootRequest, Challenge, ChallengeReply, ChallengeRequest, ReleaseRequest
from aigovtool.testing.simulated_tee import wiring
from aigovtool.transport.tls import client_context


@dataclass
class Rogue:
    """One instance, by its keys, and its connections to the custodian."""

    world: Deployment
    identity: SigningKey = field(default_factory=SigningKey.generate)
    hpke: WrapKey = field(default_factory=WrapKey.generate)
    boot_nonce: bytes = field(default_factory=lambda: os.urandom(32))
    checkpoint_seen: str = ""

    @property
    def instance(self) -> InstanceId:
        """Its identifier."""
        return instance_id_of(self.identity.public.raw, self.hpke.public, self.boot_nonce)

    def connect(self) -> Connection:
        """Open a connection to the custodian, without a credential, as enclaves do."""
        context = client_context(from_pem(self.world.operator.custodian.tls_ca.encode()))
        return self.world.kept(Connection(self.world.custodian_port, context))

    def boot(self) -> None:
        """Be admitted."""
        party = decode((self.world.directory / "borrower.json").read_bytes(), BorrowerFile)
        enrolment = SigningKey.from_secret(Secret(party.enrolment_key))
        connection = self.connect()
        asked = ChallengeRequest(borrower=BORROWER, models=[MODEL])
        found = posted(connection, "/v1/boot/challenge", seal(release.CHALLENGE_REQUEST, asked, enrolment))
        challenge = decode(decode(found.body, ChallengeReply).challenge.payload, Challenge)
        claims = self._claims(challenge)
        request = BootRequest(
            borrower=BORROWER,
            models=[MODEL],
            boot_nonce=Nonce(self.boot_nonce.hex()),
            claims=claims,
            evidence=wiring.platform().attest(claims),
        )
        posted(connection, "/v1/boot", seal(release.BOOT, request, enrolment, self.identity))

    def _claims(self, challenge: Challenge) -> Binding:
        return Binding(
            role="boot",
            audience=release.boot_audience(self.world.custodian_id),
            nonce=challenge.nonce,
            tls_spki=SpkiHash(bytes(32)),
            hpke_key=HpkePublicKey(self.hpke.public),
            identity_key=IdentityPublicKey(self.identity.public.raw),
            instance=self.instance,
            custodian_root=self.world.custodian_id,
            configuration=digest_of(b"configuration"),
            appraisal_policy=challenge.appraisal_policy,
            manifests=(),
        )

    def renewal(self, wants: Sequence[Want] = ()) -> Envelope:
        """Return a renewal with these wishes, which it has signed."""
        message = Renew(
            instance=self.instance,
            request_id=MessageId(secrets.token_hex(16)),
            epoch=0,
            checkpoint_seen=self.checkpoint_seen,
            reports=[],
            wants=list(wants),
        )
        return seal(messages.RENEW, message, self.identity)

    def renew(self, *wants: Want) -> Answered:
        """Renew on a connection of its own, and keep the checkpoint that the answer shows."""
        connection = self.connect()
        found = posted(connection, "/v1/renew", self.renewal(wants))
        connection.close()
        answer = decode(decode(found.body, RenewReply).answer.payload, Answered)
        self.checkpoint_seen = answer.checkpoint
        return answer

    def release_request(self, manifest: Digest) -> Envelope:
        """Return a request for the model's key, which it has signed."""
        request_id = MessageId(secrets.token_hex(16))
        asked = ReleaseRequest(instance=self.instance, request_id=request_id, model=MODEL, manifest=manifest)
        return seal(release.RELEASE_REQUEST, asked, self.identity)


def want(consumer: str, units: int = 1) -> Want:
    """Return a wish for so many inferences."""
    wished = UnitVector(inferences=units)
    return Want(model=MODEL, consumer=ConsumerId(consumer), minimum=wished, target=wished)


def sent(connection: Connection, path: str, envelope: Envelope) -> Answer:
    """Send what was signed, and return the answer, whatever it is."""
    return connection.request("POST", path, encode(envelope))


def posted(connection: Connection, path: str, envelope: Envelope) -> Answer:
    """Send what was signed, and return the answer to it, which must be one."""
    answer = sent(connection, path, envelope)
    assert answer.status == 200, json.loads(answer.body)
    return answer
