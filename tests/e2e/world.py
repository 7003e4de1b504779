"""A whole deployment in separate processes on loopback: custodian, enclave, and raw HTTP consumers.

Only the parties' files and the wire are shared; nothing of the product is patched or imported into its servers.
"""

import base64
import http.client
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
import msgspec
from tests.product_process import environment

from aigovtool.codec import decode, encode
from aigovtool.crypto.secret import ModelKey, Secret
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.crypto.wrap import wrap
from aigovtool.crypto.x509 import from_pem
from aigovtool.custodian.app import initialise
from aigovtool.ids import BorrowerId, ConsumerId, KeyId, MessageId, ModelId, digest_of, key_id_of
from aigovtool.ledger.budget import Scope, Window
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.policy import Dial, ServingPolicy
from aigovtool.ledger.units import Dimension
from aigovtool.package.sealing import seal as seal_package
from aigovtool.package.source import SourceFile
from aigovtool.protocol import commands
from aigovtool.protocol.commands import COMMAND, Act, Command, CommandResult
from aigovtool.protocol.cosigning import needs_two
from aigovtool.protocol.party import BorrowerFile, OperatorFile
from aigovtool.protocol.release import deposit_context
from aigovtool.transport.tls import client_context, unverified_context_for_attestation_only

MODEL = ModelId("digits")
BORROWER = BorrowerId("hospital")
CONSUMER = ConsumerId("ward7")
#: However a test run ends, its processes end with it (PR_SET_PDEATHSIG). They are started by its main thread.
_BOUND = f"""
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != {os.getpid()}: sys.exit(1)
"""
_CUSTODIAN = """
import sys, pathlib
from aigovtool.custodian.app import serve
serve(pathlib.Path(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]))
"""
ENCLAVE_PROGRAM = """
import sys, pathlib
from aigovtool.enclave.app import EnclaveOptions, serve
serve(EnclaveOptions(tee="simulated", allow_simulated=True, borrower_file=pathlib.Path(sys.argv[1]),
      models=tuple(sys.argv[4:]), host="127.0.0.1", port=int(sys.argv[2]), cache=pathlib.Path(sys.argv[3])))
"""


def free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Poll until `condition()` is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"not in {seconds} s: {what}")


@dataclass
class Answer:
    """What came back over raw HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """Return the body as JSON."""
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Connection:
    """One raw HTTPS connection of a consumer."""

    port: int
    context: ssl.SSLContext
    link: http.client.HTTPSConnection = field(init=False)

    def __post_init__(self) -> None:
        self.link = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context, timeout=90)

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Send one request and read its answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            named.setdefault("content-type", "application/json")
        self.link.request(method, path, body=body, headers=named)
        response = self.link.getresponse()
        content = response.read()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, content)

    def infer(self, body: bytes, **headers: str) -> Answer:
        """Ask for one inference."""
        return self.request("POST", f"/v2/models/{MODEL}/infer", body, **headers)

    def close(self) -> None:
        """Close the connection."""
        self.link.close()


@dataclass
class World:
    """One deployment. Its processes are real and are gone when the test ends."""

    directory: Path
    custodian_port: int = field(default_factory=free_port)
    enclave_port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    operator: OperatorFile = field(init=False)
    consumer_key: SigningKey = field(default_factory=SigningKey.generate)
    consumer_certificate: str = ""
    connections: list[Connection] = field(default_factory=list)
    #: Where the enclave believes its custodian to be, if not where it is.
    custodian_seen_at: int | None = None
    #: Address of a PostgreSQL database for the ledger; none means SQLite.
    ledger: str | None = None
    #: Keys of operators that were enrolled after the first.
    seconds: list[SigningKey] = field(default_factory=list)

    # -- Processes --------------------------------------------------------------------------------

    def spawn(self, name: str, code: str, *arguments: str) -> None:
        """Start a process that leads a group of its own, with its log in a file."""
        log = (self.directory / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-c", _BOUND + code, *arguments],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment(PYTHONUNBUFFERED="1"),
        )
        log.close()

    def start_custodian(self) -> None:
        """Start the custodian and wait until it answers."""
        self.spawn("custodian", _CUSTODIAN, str(self.directory / "custodian"), str(self.custodian_port))
        wait_for(self.custodian_answers, "the custodian answers")

    def custodian_answers(self) -> bool:
        """Return whether the custodian is up."""
        with self.custodian_client() as client:
            return self.answers(client)

    @staticmethod
    def answers(client: httpx.Client) -> bool:
        """Return whether a custodian answers."""
        try:
            return client.get("/v1/health", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def start_enclave(self, *, wait: bool = True) -> None:
        """Start the enclave and wait until it is ready."""
        self.spawn(
            "enclave",
            ENCLAVE_PROGRAM,
            str(self.directory / "borrower.json"),
            str(self.enclave_port),
            str(self.directory / "cache"),
            MODEL,
        )
        if wait:
            wait_for(self.enclave_ready, "the enclave is ready")

    def enclave_ready(self) -> bool:
        """Return whether the enclave serves."""
        try:
            connection = self.connect()
            try:
                return connection.request("GET", "/v2/health/ready").status == 200
            finally:
                connection.close()
        except (OSError, http.client.HTTPException):
            return False

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Signal a process; after SIGKILL wait for its end."""
        process = self.processes[name]
        process.send_signal(number)
        if number == signal.SIGKILL:
            process.wait(20)

    def close(self) -> None:
        """End everything."""
        for connection in self.connections:
            connection.close()
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait(20)

    def wait_ready(self) -> None:
        """Wait until the enclave serves (again)."""
        wait_for(self.enclave_ready, "the enclave is ready")

    @staticmethod
    def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
        """Poll until `condition()` is true."""
        wait_for(condition, what, seconds)

    @property
    def custodian_code(self) -> str:
        """The program of a custodian process."""
        return _CUSTODIAN

    def engine_pid(self) -> int:
        """Return the process id of the engine child."""
        parent = self.processes["enclave"].pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return int(children[0])

    def kill_engine(self) -> None:
        """Kill -9 the engine child, and wait until the enclave has noticed."""
        victim = self.engine_pid()
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{victim}").exists(), "the engine is gone")

    def log_entries(self) -> list[bytes]:
        """Return the audit log."""
        entries: list[bytes] = []
        while found := self.view(f"/v1/log/entries?start={len(entries)}&limit=1000")["entries"]:
            entries += [base64.b64decode(entry) for entry in found]
        return entries

    # -- Operator -----------------------------------------------------------------------------------

    def custodian_client(self, port: int | None = None, *, operator: OperatorFile | None = None) -> httpx.Client:
        """Return an operator's HTTP client of the custodian, or of another one on the same ledger."""
        who = operator or self.operator
        context = client_context(
            from_pem(who.custodian.tls_ca.encode()),
            credential=from_pem(who.certificate.encode()),
            key=SigningKey.from_secret(Secret(who.key)),
        )
        url = self.operator.custodian.url if port is None else f"https://127.0.0.1:{port}"
        return httpx.Client(base_url=url, verify=context, timeout=20, trust_env=False)

    def command(self, act: Act) -> CommandResult:
        """Carry out an operator's command, with a second operator where it takes two."""
        keys = [SigningKey.from_secret(Secret(self.operator.key))]
        if needs_two(act, operators=len(self.seconds) + 1):
            keys.append(self.second_operator())
        order = Command(
            custodian=self.custodian_id,
            operator=self.operator.operator,
            command_id=MessageId(secrets.token_hex(16)),
            issued_at_ms=time.time_ns() // 1_000_000,
            act=act,
        )
        with self.custodian_client() as client:
            response = client.post(
                "/v1/commands",
                content=encode(seal(COMMAND, order, *keys)),
                headers={"content-type": "application/json"},
            )
        assert response.status_code == 200, response.text
        return decode(response.content, CommandResult)

    def second_operator(self) -> SigningKey:
        """Return the key of a second operator, who is enrolled when the first one asks."""
        if not self.seconds:
            key, role, year = SigningKey.generate(), PartyRole.OPERATOR, 365 * 86_400_000
            self.command(
                commands.AddParty(role=role, name="second", key=key.public.raw, borrower=None, valid_for_ms=year)
            )
            self.seconds.append(key)
        return self.seconds[0]

    @property
    def custodian_id(self) -> KeyId:
        """The custodian's identifier."""
        return key_id_of(self.operator.custodian.root)

    def view(self, path: str) -> dict[str, Any]:
        """Return one of the operator's views."""
        with self.custodian_client() as client:
            response = client.get(path)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    def grant(self, units: int) -> None:
        """Add units to the model's budget."""
        self.command(
            commands.GrantBudget(
                scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.LIFETIME, units=units
            )
        )

    def posted(self) -> int:
        """Return the units charged for good, with every overdue lease settled."""
        (row,) = self.view("/v1/budgets")["budgets"]
        return int(row["posted"])

    def charged(self) -> int:
        """Return the units that the ledger counts as spent or held."""
        (row,) = self.view("/v1/budgets")["budgets"]
        return int(row["posted"]) + int(row["pending"])

    def outstanding(self) -> int:
        """Return the units of all leases that nobody has closed: as far as the ledger knows, they may be in use."""
        enclaves = self.view("/v1/enclaves")["enclaves"]
        return sum(int(enclave["outstanding"].get("inferences", 0)) for enclave in enclaves)

    def stop(self, target: StopTarget = StopTarget.ALL, value: str = "") -> None:
        """Stop something."""
        self.command(commands.Stop(target=target, value=value, reason="drill"))

    def resume(self, target: StopTarget = StopTarget.ALL, value: str = "") -> None:
        """Lift a stop."""
        in_force = self.view("/v1/stops")["stops"]
        (epoch,) = [stop["epoch"] for stop in in_force if (stop["target"], stop["value"]) == (target.value, value)]
        self.command(commands.Resume(target=target, value=value, reason="drill over", epoch=epoch))

    # -- Set-up ---------------------------------------------------------------------------------------

    def prepare(self, model: bytes, policy: ServingPolicy) -> None:
        """Make a custodian with one model, one borrower and one consumer; grant nothing."""
        self.found()
        self.operator = decode((self.directory / "custodian" / "operator.json").read_bytes(), OperatorFile)
        self.start_custodian()
        enrolment = SigningKey.generate()
        year = 365 * 86_400_000
        added = self.command(
            commands.AddParty(
                role=PartyRole.BORROWER, name=BORROWER, key=enrolment.public.raw, borrower=None, valid_for_ms=year
            )
        )
        seen_at = self.custodian_seen_at or self.custodian_port
        party = BorrowerFile(
            borrower=BORROWER,
            custodian=msgspec.structs.replace(self.operator.custodian, url=f"https://127.0.0.1:{seen_at}"),
            certificate=added.certificate or "",
            enrolment_key=enrolment.to_secret().reveal(),
        )
        path = self.directory / "borrower.json"
        path.write_bytes(encode(party))
        path.chmod(0o600)
        added = self.command(
            commands.AddParty(
                role=PartyRole.CONSUMER,
                name=CONSUMER,
                key=self.consumer_key.public.raw,
                borrower=BORROWER,
                valid_for_ms=year,
            )
        )
        self.consumer_certificate = added.certificate or ""
        self._add_model(model, policy)

    def found(self) -> None:
        """Make the custodian's keys and its ledger."""
        initialise(
            self.directory / "custodian",
            url=f"https://127.0.0.1:{self.custodian_port}",
            hosts=["127.0.0.1"],
            operator="alice",
            allow_simulated=True,
            ledger=self.ledger,
        )

    def _add_model(self, model: bytes, policy: ServingPolicy) -> None:
        plain, sealed = self.directory / "model.onnx", self.directory / "model.aigov"
        plain.write_bytes(model)
        key = SigningKey.from_secret(Secret(self.operator.key))
        model_key = ModelKey(Secret(os.urandom(32)))
        with plain.open("rb") as source, sealed.open("wb") as out:
            made = seal_package(
                [SourceFile("model.onnx", source)],
                out,
                model=MODEL,
                model_key=model_key,
                salt=os.urandom(32),
                sealer=key,
                now_ms=time.time_ns() // 1_000_000,
            )
        package = digest_of(sealed.read_bytes())
        with self.custodian_client() as client:
            response = client.put(f"/v1/packages/{package}", content=sealed.read_bytes())
        assert response.status_code == 200, response.text
        context = deposit_context(self.custodian_id, made.manifest_digest)
        self.command(
            commands.AddModel(
                model=MODEL,
                manifest=made.manifest_digest,
                package=package,
                wrapped_key=wrap(model_key.secret, self.operator.keystore, context),
                policy=policy,
                borrowers=[BORROWER],
            )
        )

    # -- Consumer ---------------------------------------------------------------------------------------

    def connect(self, port: int | None = None) -> Connection:
        """Open a raw connection to an enclave with the consumer's credential (evidence is not looked at)."""
        if not self.consumer_certificate:
            raise OSError("no credential yet")
        context = unverified_context_for_attestation_only(
            credential=from_pem(self.consumer_certificate.encode()), key=self.consumer_key
        )
        connection = Connection(port or self.enclave_port, context)
        self.connections.append(connection)
        return connection


class MakeWorld(Protocol):
    """Makes a deployment with a model, a budget in inferences and a ttl."""

    def __call__(
        self, *, budget: int, ttl_ms: int = 3_000, dial: Dial = Dial.BALANCED, prepare: Callable[[World], None] = ...
    ) -> World:
        """Return a deployment whose enclave is ready; `prepare` may change it before anything is started."""
        ...
