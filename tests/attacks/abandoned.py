"""A borrower whose enclaves boot, take all the units that they are given, and are never heard of again.

It plays enclaves on the simulated TEE, which anybody can, at a custodian that admits them: what it sends is genuine.
"""

import secrets
from dataclasses import dataclass, field

import httpx
from tests.attacks.deployments import JSON
from tests.attacks.host import Host
from tests.e2e.world import MODEL

from aigovtool.codec import decode, encode
from aigovtool.crypto.sign import Envelope, SigningKey, open_envelope, seal
from aigovtool.ids import ConsumerId, InstanceId, LeaseId, MessageId
from aigovtool.ledger.units import Dimension, of
from aigovtool.protocol import messages
from aigovtool.protocol.messages import Answer, Deny, DenyCode, Grant, Renew, RenewReply, Want
from aigovtool.protocol.party import BorrowerFile
from aigovtool.protocol.release import ADMISSION, Admission
from aigovtool.protocol.trust import open_key_set

#: More than any lease may have.
_ALL = 10**9
#: Wants of one renewal.
_AT_ONCE = 8


@dataclass
class Abandoned:
    """One instance that was admitted."""

    identity: SigningKey
    admission: Admission


@dataclass
class Looping:
    """The borrower, for one consumer of its own; `granted` are the units of each lease that it was given.

    Whoever may not boot any more has what was admitted before ask for more.
    """

    party: BorrowerFile
    consumer: ConsumerId
    instances: list[Abandoned] = field(default_factory=list)
    granted: dict[LeaseId, int] = field(default_factory=dict)
    held: dict[InstanceId, int] = field(default_factory=dict)
    denied: set[DenyCode] = field(default_factory=set)
    #: The refusal of one boot too many.
    refused: httpx.Response | None = None

    def loop(self, client: httpx.Client, number: int) -> None:
        """Boot, if that is allowed, take leases until there is none, and forget it."""
        if self.refused is None:
            self._boot(client)
        taking = self.instances[-1 if self.refused is None else number % len(self.instances)]
        while not self._take(client, taking):
            pass

    def _boot(self, client: httpx.Client) -> None:
        host = Host(self.party)
        answer = host.asked(client)
        if answer.status_code != 200:
            self.refused = answer
            return
        challenge, key_set = host.challenged(answer)
        admitted = host.send(client, host.sealed(host.claims(challenge)))
        assert admitted.status_code == 200, admitted.text
        commands = open_key_set(key_set, host.root).command_keys()
        admission = open_envelope(decode(admitted.content, Envelope), ADMISSION, Admission, commands)
        self.instances.append(Abandoned(host.identity, admission))

    def _take(self, client: httpx.Client, of_whom: Abandoned) -> bool:
        """Ask for several leases at once, and return whether one was refused."""
        admission = of_whom.admission
        want = Want(
            model=MODEL,
            consumer=self.consumer,
            minimum=of(Dimension.INFERENCES, 1),
            target=of(Dimension.INFERENCES, _ALL),
        )
        renew = Renew(
            instance=admission.instance,
            request_id=MessageId(secrets.token_hex(16)),
            epoch=admission.epoch,
            checkpoint_seen="",
            reports=[],
            wants=[want] * _AT_ONCE,
        )
        sealed = encode(seal(messages.RENEW, renew, of_whom.identity))
        answer = client.post("/v1/renew", content=sealed, headers=JSON)
        assert answer.status_code == 200, answer.text
        given = decode(decode(answer.content, RenewReply).answer.payload, Answer)
        for result in given.results:
            match result:
                case Grant():
                    self.granted[result.lease_id] = result.units.inferences
                    self.held[admission.instance] = self.held.get(admission.instance, 0) + result.units.inferences
                case Deny():
                    self.denied.add(result.code)
        return any(isinstance(result, Deny) for result in given.results)
