"""The deployment that attacks are tried on: real processes, whatever model, terms and host a test wants.

Its parties are driven from here: orders are signed and sent by the test, which is quick. What is lent by the command
line alone, each verb a process of its own, is in `tests.attacks.lent`.
"""

import json
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.e2e.model import digits_model
from tests.e2e.orders import key_of, signed_order
from tests.e2e.party_files import consumer_file, private
from tests.e2e.world import BORROWER, CONSUMER, ENCLAVE_PROGRAM, MODEL, Connection, World

from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.x509 import from_pem
from aigovtool.ids import BorrowerId, ConsumerId
from aigovtool.ledger.budget import BudgetLimit, Scope, Window
from aigovtool.ledger.entry import PartyRole
from aigovtool.ledger.policy import Dial, ServingPolicy, default_policy
from aigovtool.ledger.units import Dimension
from aigovtool.protocol import commands
from aigovtool.protocol.commands import Act
from aigovtool.protocol.party import BorrowerFile, ConsumerFile, OperatorFile
from aigovtool.transport.tls import client_context, unverified_context_for_attestation_only

JSON = {"content-type": "application/json"}
YEAR_MS = 365 * 86_400_000
#: Beside the budget that a test gives its own consumer, that of everybody together shall limit nobody.
PLENTY = 10**9


@dataclass(frozen=True)
class Around:
    """What a process is started in: its first words, before the interpreter, and its environment.

    An engine child gets no environment of its parent: `python` is what it is started with.
    """

    words: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    python: str = sys.executable


@dataclass
class Consumer:
    """A consumer of a deployment that only one test uses."""

    world: "Deployment"
    name: ConsumerId
    borrower: BorrowerId
    key: SigningKey
    certificate: str

    def connect(self, port: int | None = None) -> Connection:
        """Open a raw connection to the enclave, or to another one (evidence is not looked at)."""
        context = unverified_context_for_attestation_only(credential=from_pem(self.certificate.encode()), key=self.key)
        return self.world.kept(Connection(port or self.world.enclave_port, context))

    def limit(self, units: int) -> None:
        """Let it use so many inferences, and no more."""
        scope = Scope(model=MODEL, borrower=self.borrower, consumer=self.name)
        limit = BudgetLimit(scope=scope, dimension=Dimension.INFERENCES, window=Window.LIFETIME, limit=units)
        self.world.command(commands.SetBudget(limit=limit))


@dataclass
class Deployment(World):
    """A custodian, an enclave, their operator and a consumer; `around` says by name in what processes are started."""

    around: dict[str, Around] = field(default_factory=dict)
    consumers: int = 0

    # -- Processes --------------------------------------------------------------------------------

    def spawn(self, name: str, code: str, *arguments: str) -> None:
        """Start a process as its host likes; it keeps the process id that the test knows."""
        if around := self.around.get(name):
            begun = f"import sys\nsys.executable = {around.python!r}\n"
            command = [*around.words, sys.executable, "-c", begun + code]
            become = f"os.execvp({command[0]!r}, {command!r} + sys.argv[1:])"
            code = f"import os\nos.environ.update({around.environment!r})\n{become}"
        super().spawn(name, code, *arguments)

    def another_enclave(self, name: str, port: int, *, borrower_file: Path | None = None) -> None:
        """Start one more enclave from the same files; it is not waited for."""
        party = borrower_file or self.directory / "borrower.json"
        self.spawn(name, ENCLAVE_PROGRAM, str(party), str(port), str(self.directory / f"cache-{name}"), MODEL)

    def end(self, name: str) -> None:
        """End a process in an orderly way, and wait for it."""
        self.kill(name, 15)
        self.processes[name].wait(30)

    def log_of(self, name: str) -> str:
        """Return what a process printed."""
        return (self.directory / f"{name}.log").read_text()

    # -- Parties ----------------------------------------------------------------------------------

    def new_consumer(self, units: int) -> tuple[Consumer, Connection]:
        """Return a consumer that nobody else uses, and its connection to the enclave."""
        self.consumers += 1
        consumer = self.add_consumer(f"c{self.consumers}", units)
        return consumer, consumer.connect()

    def add_consumer(self, name: str, units: int | None = None, *, borrower: BorrowerId = BORROWER) -> Consumer:
        """Enrol a consumer, and let it use so many units, or as many as there are."""
        key = SigningKey.generate()
        certificate = self._enrolled(PartyRole.CONSUMER, name, key, borrower)
        consumer = Consumer(self, ConsumerId(name), borrower, key, certificate)
        if units is not None:
            consumer.limit(units)
        return consumer

    def add_borrower(self, name: BorrowerId) -> BorrowerFile:
        """Enrol a borrower, and return its file."""
        key = SigningKey.generate()
        return BorrowerFile(
            borrower=name,
            custodian=self.operator.custodian,
            certificate=self._enrolled(PartyRole.BORROWER, name, key, None),
            enrolment_key=key.to_secret().reveal(),
        )

    def _enrolled(self, role: PartyRole, name: str, key: SigningKey, borrower: BorrowerId | None) -> str:
        act = commands.AddParty(role=role, name=name, key=key.public.raw, borrower=borrower, valid_for_ms=YEAR_MS)
        return self.command(act).certificate or ""

    def private(self, name: str, content: BorrowerFile | ConsumerFile | OperatorFile) -> Path:
        """Write a party's file, which nobody else may read."""
        return private(self.directory / name, content)

    def consumer_file(
        self, name: str = "ward7.json", policy: AppraisalPolicy | None = None, *, consumer: ConsumerId = CONSUMER
    ) -> Path:
        """Write the file of the deployment's consumer, with the development policy or another one."""
        return consumer_file(self, name, policy, consumer=consumer)

    # -- The custodian ----------------------------------------------------------------------------

    @property
    def operator_file(self) -> Path:
        """The first operator's file."""
        return self.directory / "custodian" / "operator.json"

    @property
    def operator_key(self) -> SigningKey:
        """The first operator's key."""
        return key_of(self.operator)

    def kept(self, connection: Connection) -> Connection:
        """Close a connection with the deployment."""
        self.connections.append(connection)
        return connection

    def to_custodian(self, certificate: str | None = None, key: SigningKey | None = None) -> Connection:
        """Open a raw connection to the custodian, as the operator unless another credential is given."""
        return self.kept(Connection(self.custodian_port, self.custodian_context(certificate, key)))

    def custodian_context(self, certificate: str | None = None, key: SigningKey | None = None) -> ssl.SSLContext:
        """Return how the operator, or whoever has another credential, connects to the custodian."""
        return client_context(
            from_pem(self.operator.custodian.tls_ca.encode()),
            credential=from_pem((certificate or self.operator.certificate).encode()),
            key=key or self.operator_key,
        )

    def order(self, act: Act, *signers: SigningKey) -> bytes:
        """Return an order in the first operator's name, signed by that one alone, or by others."""
        return signed_order(self, act, *(signers or (self.operator_key,)))

    def send(self, order: bytes) -> httpx.Response:
        """Send an order over the operator's connection: whoever does that has more than an attacker has."""
        with self.custodian_client() as client:
            return client.post("/v1/commands", content=order, headers=JSON)

    def row_of(self, consumer: Consumer) -> dict[str, Any]:
        """Return the budget row of a consumer."""
        rows = self.view("/v1/budgets")["budgets"]
        (row,) = [row for row in rows if row["key"]["scope"]["consumer"] == consumer.name]
        found: dict[str, Any] = row
        return found

    def charged_to(self, consumer: Consumer) -> int:
        """Return the units that the ledger counts as spent or held by a consumer."""
        row = self.row_of(consumer)
        return int(row["posted"]) + int(row["pending"])

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """Return the bodies of all audit entries of a kind."""
        bodies = [json.loads(entry)["body"] for entry in self.log_entries()]
        return [body for body in bodies if body["kind"] == kind]

    def instance(self) -> str:
        """Return the newest instance of an enclave."""
        newest: str = self.view("/v1/enclaves")["enclaves"][0]["instance"]
        return newest


@contextmanager
def deployed(
    directory: Path,
    *,
    budget: int = PLENTY,
    ttl_ms: int = 3_000,
    model: bytes | None = None,
    policy: ServingPolicy | None = None,
    prepare: Callable[[Deployment], None] = lambda _: None,
    enclave: bool = True,
    kind: type[Deployment] = Deployment,
) -> Iterator[Deployment]:
    """Yield a deployment; its processes end with the block.

    It lends the classifier of digits on the usual terms, unless another model or other terms are given. `prepare` may
    change it before anything is started. Its enclave is ready, or not started yet.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    made = kind(directory)
    try:
        prepare(made)
        made.prepare(model or digits_model(), policy or default_policy(Dial.BALANCED, ttl_ms=ttl_ms))
        if budget:
            made.grant(budget)
        if enclave:
            made.start_enclave()
        yield made
    finally:
        made.close()


def answered_until_refused(connection: Connection, body: bytes, most: int) -> tuple[int, Any]:
    """Ask until refused, `most` times at most; return how many were answered, and the refusal if there was one."""
    for number in range(most):
        answer = connection.infer(body)
        if answer.status != 200:
            return number, answer
    return most, None


#: Refusals that end without anybody's doing.
_PASSING = ("budget_reserved", "lease_expired")


def answered_until_used_up(connection: Connection, body: bytes, most: int) -> tuple[int, Any]:
    """As `answered_until_refused`, but what comes back by itself is waited for.

    Units that are reserved are used or given back soon, and an enclave that a busy machine kept from its custodian for
    a ttl has authority again when it hears from it.
    """
    answered, refusal = answered_until_refused(connection, body, most)
    deadline_s = time.monotonic() + 20
    while refusal is not None and refusal.json()["code"] in _PASSING and time.monotonic() < deadline_s:
        time.sleep(0.1)
        more, refusal = answered_until_refused(connection, body, most - answered)
        answered += more
    return answered, refusal
