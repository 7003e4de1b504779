"""All who may come to a deployment's servers, each with what it can show: owners, others, and those who may no more."""

import base64
import json
import secrets
import ssl
import time
from dataclasses import dataclass, field

from tests.attacks.lent import MODEL, Lent, numbers
from tests.attacks.raw import context_of, key_in
from tests.e2e.world import Answer, Connection

from aigovtool.codec import decode, encode
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.crypto.x509 import from_pem
from aigovtool.ids import BorrowerId, MessageId, key_id_of
from aigovtool.ledger.entry import PartyRole
from aigovtool.protocol import commands
from aigovtool.protocol.commands import COMMAND, Act, Command, CommandResult
from aigovtool.protocol.party import OperatorFile
from aigovtool.protocol.session import RECEIPT_HEADER
from aigovtool.transport.tls import unverified_context_for_attestation_only

_DAY_MS = 86_400_000


def lease_of(header: str) -> str:
    """Return the lease that a receipt in a header was charged to."""
    signed = json.loads(base64.b64decode(header))
    return str(signed["receipt"]["lease_id"])


@dataclass
class Callers:
    """Who comes, and what belongs to the consumer `ward7` and its borrower."""

    made: Lent
    contexts: dict[str, ssl.SSLContext] = field(default_factory=dict)
    ask: str = ""
    lease: str = ""

    def __post_init__(self) -> None:
        made = self.made
        made.run("borrower", "add", "clinic", "-o", "clinic.json")
        made.run("consumer", "add", "ward8", "--borrower", "hospital", "-o", "ward8.json", "--allow-simulated")
        made.run("consumer", "add", "desk1", "--borrower", "clinic", "-o", "desk1.json", "--allow-simulated")
        self.contexts = {
            "nobody": context_of(None),
            "consumer": context_of(made.path("ward7.json")),
            "consumer of the same borrower": context_of(made.path("ward8.json")),
            "consumer of another borrower": context_of(made.path("desk1.json")),
            "borrower": context_of(made.path("hospital.json")),
            "another borrower": context_of(made.path("clinic.json")),
            "operator": context_of(made.path("custodian/operator.json")),
        }
        # Once there was a second operator, enrolling a third one takes two.
        bob = self.enrolled("revoked operator", PartyRole.OPERATOR, "bob")
        self.enrolled("operator whose time is over", PartyRole.OPERATOR, "carol", bob, valid_for_ms=1)
        self.command(commands.RevokeParty(role=PartyRole.OPERATOR, name="bob"))
        self.enrolled("revoked consumer", PartyRole.CONSUMER, "ward10")
        self.command(commands.RevokeParty(role=PartyRole.CONSUMER, name="ward10"))
        self.enrolled("consumer whose time is over", PartyRole.CONSUMER, "ward11", valid_for_ms=1)
        self.ask = secrets.token_hex(16)
        answer = self.send("custodian", "consumer", "POST", "/v1/asks", self.wish(self.ask))
        assert answer.status == 200, answer.body
        answer = self.send("enclave", "consumer", "POST", f"/v2/models/{MODEL}/infer", self.question())
        assert answer.status == 200, answer.body
        self.lease = lease_of(answer.headers[RECEIPT_HEADER])

    def enrolled(
        self, caller: str, role: PartyRole, name: str, *signers: SigningKey, valid_for_ms: int = _DAY_MS
    ) -> SigningKey:
        """Enrol a party whose certificate a caller will show; return its key."""
        key = SigningKey.generate()
        borrower = BorrowerId("hospital") if role is PartyRole.CONSUMER else None
        act = commands.AddParty(role=role, name=name, key=key.public.raw, borrower=borrower, valid_for_ms=valid_for_ms)
        certificate = from_pem((self.command(act, *signers).certificate or "").encode())
        self.contexts[caller] = unverified_context_for_attestation_only(credential=certificate, key=key)
        return key

    def order(self, act: Act, *signers: SigningKey) -> bytes:
        """Return an operator's signed command."""
        path = self.made.path("custodian/operator.json")
        party, (key, _) = decode(path.read_bytes(), OperatorFile), key_in(path)
        order = Command(
            custodian=key_id_of(party.custodian.root),
            operator=party.operator,
            command_id=MessageId(secrets.token_hex(16)),
            issued_at_ms=time.time_ns() // 1_000_000,
            act=act,
        )
        return encode(seal(COMMAND, order, key, *signers))

    def command(self, act: Act, *signers: SigningKey) -> CommandResult:
        """Have the operator carry something out."""
        answer = self.send("custodian", "operator", "POST", "/v1/commands", self.order(act, *signers))
        assert answer.status == 200, answer.body
        return decode(answer.body, CommandResult)

    @staticmethod
    def wish(ask: str) -> bytes:
        """Return the owner's request for budget."""
        scope = {"model": MODEL, "borrower": "hospital", "consumer": "ward7"}
        return json.dumps({"ask_id": ask, "scope": scope, "units": 1, "reason": "matrix"}).encode()

    @staticmethod
    def question() -> bytes:
        """Return an inference."""
        tensor = {"name": "x", "shape": [1, 64], "datatype": "FP32", "data": numbers(4).ravel().tolist()}
        return json.dumps({"inputs": [tensor]}).encode()

    def send(self, server: str, caller: str, method: str, path: str, body: bytes | None = None) -> Answer:
        """Send a request as one of the callers, on a connection of its own."""
        connection = Connection(self.made.ports[server], self.contexts[caller])
        try:
            return connection.request(method, path, body)
        finally:
            connection.close()
