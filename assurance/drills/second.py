"""A second operator, who with the first gives up what died with killed enclaves, so that a deployment lives on."""

import secrets
import time
from dataclasses import dataclass, field

from tests.e2e.world import World

from aigovtool.codec import encode
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.ids import InstanceId, MessageId
from aigovtool.ledger.entry import PartyRole
from aigovtool.protocol import commands
from aigovtool.protocol.commands import COMMAND, Act, Command

#: An enclave with a ttl of one or two seconds is heard of more often than this while it lives.
_SILENT_MS = 8_000


@dataclass
class SecondOperator:
    """The second of two, and the units that both have given up so far."""

    world: World
    key: SigningKey = field(default_factory=SigningKey.generate)
    written_off: int = 0

    def __post_init__(self) -> None:
        year = 365 * 86_400_000
        self.world.command(
            commands.AddParty(
                role=PartyRole.OPERATOR, name="bob", key=self.key.public.raw, borrower=None, valid_for_ms=year
            )
        )
        self.world.seconds.append(self.key)

    def order(self, act: Act) -> int:
        """Have both sign an order; return the status."""
        world = self.world
        order = Command(
            custodian=world.custodian_id,
            operator=world.operator.operator,
            command_id=MessageId(secrets.token_hex(16)),
            issued_at_ms=time.time_ns() // 1_000_000,
            act=act,
        )
        envelope = seal(COMMAND, order, SigningKey.from_secret(Secret(world.operator.key)), self.key)
        headers = {"content-type": "application/json"}
        with world.custodian_client() as client:
            return client.post("/v1/commands", content=encode(envelope), headers=headers).status_code

    def write_off_dead(self) -> None:
        """Give up the expired leases of every enclave that is silent."""
        seen = self.world.view("/v1/enclaves")
        for enclave in seen["enclaves"]:
            silent_ms = seen["server_time_ms"] - enclave["last_contact_ms"]
            if not enclave["outstanding"] or silent_ms < _SILENT_MS:
                continue
            before = int(enclave["outstanding"].get("inferences", 0))
            act = commands.WriteOff(instance=InstanceId(enclave["instance"]), reason="killed in a drill")
            if self.order(act) == 200:
                self.written_off += before - self._outstanding(enclave["instance"])

    def _outstanding(self, instance: str) -> int:
        enclaves = self.world.view("/v1/enclaves")["enclaves"]
        return sum(int(one["outstanding"].get("inferences", 0)) for one in enclaves if one["instance"] == instance)
