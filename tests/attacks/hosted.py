"""Deployments whose host may put something around each process, with consumers that are for one test each."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.model import digits_model
from tests.e2e.world import BORROWER, ENCLAVE_PROGRAM, MODEL, Connection, World, wait_for

from aigovtool.codec import encode
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.x509 import from_pem
from aigovtool.ids import BorrowerId, ConsumerId
from aigovtool.ledger.budget import BudgetLimit, Scope, Window
from aigovtool.ledger.entry import PartyRole
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.ledger.units import Dimension
from aigovtool.protocol import commands
from aigovtool.protocol.party import BorrowerFile
from aigovtool.transport.tls import unverified_context_for_attestation_only

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
    """A consumer with a key, a credential, and a budget of its own."""

    name: ConsumerId
    key: SigningKey
    certificate: str

    def connect(self, port: int) -> Connection:
        """Open a raw connection to an enclave (evidence is not looked at)."""
        context = unverified_context_for_attestation_only(credential=from_pem(self.certificate.encode()), key=self.key)
        return Connection(port, context)


@dataclass
class Hosted(World):
    """A deployment; `around` says by name in what its processes are started."""

    around: dict[str, Around] = field(default_factory=dict)
    consumers: int = 0

    def new_consumer(self, units: int) -> tuple[Consumer, Connection]:
        """Return a consumer that nobody else uses, and its connection to the enclave."""
        self.consumers += 1
        consumer = self.add_consumer(f"c{self.consumers}", units)
        connection = consumer.connect(self.enclave_port)
        self.connections.append(connection)
        return consumer, connection

    def spawn(self, name: str, code: str, *arguments: str) -> None:
        """Start a process as its host likes; it keeps the process id that the test knows."""
        around = self.around.get(name, Around())
        begun = f"import sys\nsys.executable = {around.python!r}\n"
        command = [*around.words, sys.executable, "-c", begun + code]
        become = f"os.execvp({command[0]!r}, {command!r} + sys.argv[1:])"
        super().spawn(name, f"import os\nos.environ.update({around.environment!r})\n{become}", *arguments)

    def another_enclave(self, name: str, port: int, *, borrower_file: Path | None = None) -> None:
        """Start one more enclave from the same files; it is not waited for."""
        party = borrower_file or self.directory / "borrower.json"
        self.spawn(name, ENCLAVE_PROGRAM, str(party), str(port), str(self.directory / f"cache-{name}"), MODEL)

    def add_consumer(self, name: str, units: int, *, borrower: BorrowerId = BORROWER) -> Consumer:
        """Enrol a consumer, and let it use so many units."""
        consumer = ConsumerId(name)
        key = SigningKey.generate()
        added = self.command(
            commands.AddParty(
                role=PartyRole.CONSUMER, name=name, key=key.public.raw, borrower=borrower, valid_for_ms=YEAR_MS
            )
        )
        scope = Scope(model=MODEL, borrower=borrower, consumer=consumer)
        limit = BudgetLimit(scope=scope, dimension=Dimension.INFERENCES, window=Window.LIFETIME, limit=units)
        self.command(commands.SetBudget(limit=limit))
        return Consumer(consumer, key, added.certificate or "")

    def add_borrower(self, name: BorrowerId, file: Path) -> SigningKey:
        """Enrol a borrower, write its file, and return the key that it boots enclaves with."""
        enrolment = SigningKey.generate()
        added = self.command(
            commands.AddParty(
                role=PartyRole.BORROWER, name=name, key=enrolment.public.raw, borrower=None, valid_for_ms=YEAR_MS
            )
        )
        party = BorrowerFile(
            borrower=name,
            custodian=self.operator.custodian,
            certificate=added.certificate or "",
            enrolment_key=enrolment.to_secret().reveal(),
        )
        file.touch(mode=0o600)
        file.write_bytes(encode(party))
        return enrolment

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

    def log_of(self, name: str) -> str:
        """Return what a process printed."""
        return (self.directory / f"{name}.log").read_text()


@contextmanager
def hosted(
    directory: Path,
    *,
    ttl_ms: int = 1_000,
    dial: Dial = Dial.BALANCED,
    prepare: Callable[[Hosted], None] = lambda _: None,
) -> Iterator[Hosted]:
    """Yield a deployment with a ready enclave and a budget that limits nobody; `prepare` comes before it starts."""
    world = Hosted(directory)
    directory.mkdir(mode=0o700, exist_ok=True)
    try:
        prepare(world)
        world.prepare(digits_model(), default_policy(dial, ttl_ms=ttl_ms))
        world.grant(PLENTY)
        world.start_enclave()
        yield world
    finally:
        world.close()


def answered_until_used_up(connection: Connection, body: bytes, most: int) -> tuple[int, Any]:
    """As `answered_until_refused`, but units that are reserved are waited for, until they are used or back."""
    answered, refusal = answered_until_refused(connection, body, most)
    deadline_s = time.monotonic() + 20
    while refusal is not None and refusal.json()["code"] == "budget_reserved" and time.monotonic() < deadline_s:
        time.sleep(0.1)
        more, refusal = answered_until_refused(connection, body, most - answered)
        answered += more
    return answered, refusal


def answered_until_refused(connection: Connection, body: bytes, most: int) -> tuple[int, Any]:
    """Ask until refused, `most` times at most; return how many were answered, and the refusal if there was one."""
    for number in range(most):
        answer = connection.infer(body)
        if answer.status != 200:
            return number, answer
    return most, None


__all__ = [
    "MODEL",
    "Around",
    "Connection",
    "Consumer",
    "Hosted",
    "answered_until_refused",
    "answered_until_used_up",
    "hosted",
    "wait_for",
]
