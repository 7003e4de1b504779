"""A deployment whose custodian's keys are rotated while it is used, and what uses it meanwhile."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import msgspec
from tests.attacks.deployments import Deployment, deployed
from tests.e2e.commandline import aigovtool
from tests.e2e.world import Connection, free_port, wait_for

from aigovtool.codec import decode
from aigovtool.consumer.client import Client
from aigovtool.crypto.x509 import from_pem
from aigovtool.errors import AIGovToolError
from aigovtool.protocol.party import BorrowerFile, ConsumerFile, OperatorFile
from aigovtool.transport.tls import client_context

ROLES = ("commands", "log", "credentials", "keystore", "attestation")
#: Their logs tell why something was refused.
LOGGED = "import sys\nfrom aigovtool.cli.logs import log_to\nlog_to(sys.stderr)\n"
#: A custodian with stolen keys. The product's own refuses to serve keys that the ledger knows to be outdated.
THIEF = """
from aigovtool.custodian.service import key_sets
key_sets.require_not_behind = lambda transaction, keys: True
"""
PAUSE_S = 0.05


class LoggedDeployment(Deployment):
    """A deployment whose processes say in their logs why they refuse something."""

    def spawn(self, name: str, code: str, *arguments: str) -> None:
        """Start a process that logs."""
        super().spawn(name, LOGGED + code, *arguments)


@dataclass
class Site:
    """One deployment, and the files of its consumer."""

    world: Deployment
    consumer: Path

    def serve(self, directory: Path, first: str = "") -> None:
        """Start a custodian with the keys in `directory`, at the address where everybody looks for it."""
        code = first + self.world.custodian_code
        self.world.spawn("custodian", code, str(directory), str(self.world.custodian_port))
        wait_for(self._answers, "the custodian answers")

    def _answers(self) -> bool:
        """Return whether anybody gets an answer there: a thief's custodian knows no certificate of now."""
        custodian = self.world.operator.custodian
        context = client_context(from_pem(custodian.tls_ca.encode()))
        with httpx.Client(base_url=custodian.url, verify=context, trust_env=False) as client:
            return self.world.answers(client)

    @property
    def custodian(self) -> Path:
        """The custodian's directory."""
        return self.world.directory / "custodian"

    @property
    def operator(self) -> Path:
        """The operator's file."""
        return self.world.operator_file

    def steal(self, name: str, ledger: Path) -> Path:
        """Copy the custodian's private keys and a copy of its ledger, as a thief would, and return where they are."""
        stolen = self.world.directory / name
        stolen.mkdir(mode=0o700)
        shutil.copytree(self.custodian / "keys", stolen / "keys")
        for copied in ("custodian.json", "packages"):
            source = self.custodian / copied
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, stolen / copied)
        shutil.copy2(ledger, stolen / "ledger.db")
        return stolen

    @contextmanager
    def lent_by_thief(self, stolen: Path, consumer: Path) -> Iterator[str]:
        """Serve a custodian with stolen keys at an address of its own, and an enclave that boots there."""
        world, ports = self.world, (free_port(), free_port())
        told = decode((world.directory / "borrower.json").read_bytes(), BorrowerFile)
        elsewhere = msgspec.structs.replace(told.custodian, url=f"https://127.0.0.1:{ports[0]}")
        party = world.private("misled.json", msgspec.structs.replace(told, custodian=elsewhere))
        try:
            world.spawn("thief", THIEF + world.custodian_code, str(stolen), str(ports[0]))
            world.another_enclave("misled", ports[1], borrower_file=party)
            url = f"https://127.0.0.1:{ports[1]}"
            wait_for(lambda: _attests(url, consumer), "an enclave serves what the thief lends")
            yield url
        finally:
            for name in ("misled", "thief"):
                if name in world.processes:
                    world.kill(name)

    def keys(self, *words: object) -> dict[str, Any]:
        """Run a verb of `custodian keys`."""
        verb, *more = words
        found: dict[str, Any] = json.loads(aigovtool("custodian", "keys", verb, self.custodian, *more, "--json").stdout)
        return found

    def in_use(self) -> dict[str, str]:
        """Return the key of each role that is used now."""
        return {one["role"]: one["key"] for one in self.keys("list")["keys"] if one["state"] == "in_use"}

    def lines(self, name: str, event: str) -> list[dict[str, Any]]:
        """Return the lines of a process's log about one event."""
        found = [json.loads(line) for line in self.world.log_of(name).splitlines() if line.startswith("{")]
        return [line for line in found if line["event"] == event]

    def wait_until_enclave_knows(self, version: int) -> None:
        """Wait until a consumer who attests the enclave is shown this key set."""

        def shown() -> bool:
            with Client.connect(self.url, self.consumer, allow_simulated=True) as client:
                return client.key_set_version == version

        wait_for(shown, f"the enclave has learnt key set {version}", 20)

    @property
    def url(self) -> str:
        """Where the enclave is."""
        return f"https://127.0.0.1:{self.world.enclave_port}"

    def renew_files(self) -> None:
        """Have every party renew its certificate, and use the new ones from now on."""
        for file in (self.consumer, self.operator, self.world.directory / "borrower.json"):
            aigovtool("renew", file)
        self.world.operator = decode(self.operator.read_bytes(), OperatorFile)
        self.world.consumer_certificate = decode(self.consumer.read_bytes(), ConsumerFile).certificate


def _attests(url: str, consumer: Path) -> bool:
    try:
        Client.connect(url, consumer, allow_simulated=True).close()
    except AIGovToolError:
        return False
    return True


@contextmanager
def rotating(directory: Path) -> Iterator[Site]:
    """Yield a deployment whose processes say in their logs why they refuse something."""
    with deployed(directory, ttl_ms=6_000, kind=LoggedDeployment) as world:
        yield Site(world, world.consumer_file())


class Traffic:
    """Consumers and an operator that go on asking, and note whatever is no answer."""

    def __init__(self, site: Site, body: bytes) -> None:
        self._site, self._body = site, body
        self._over = Event()
        #: Set when whoever connects has to use the renewed files.
        self._renewed = Event()
        self.answered = 0
        self.attested = 0
        self.failures: list[str] = []
        works = (self._raw, self._sdk, self._operate)
        self._threads = [Thread(target=self._watched, args=(work,)) for work in works]
        for thread in self._threads:
            thread.start()

    def use_renewed(self) -> None:
        """Have everybody connect anew, with the files as they are now."""
        self._renewed.set()
        wait_for(lambda: not self._renewed.is_set(), "the consumer has connected anew")

    def go_on(self, answers: int) -> None:
        """Wait until so many more were answered."""
        wanted = self.answered + answers
        wait_for(lambda: self.answered >= wanted or bool(self.failures), f"{answers} more answers")

    def end(self) -> None:
        """Stop asking."""
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _watched(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a failure of a request
            self.failures.append(f"{work.__name__}: {error!r}")

    def _raw(self) -> None:
        """Ask on one connection that stays open over every change but that of the certificate."""
        connection = self._site.world.connect()
        while not self._over.is_set():
            if self._renewed.is_set():
                connection = self._anew(connection)
            answer = connection.infer(self._body)
            if answer.status != 200:
                self.failures.append(f"{answer.status} {answer.body[:200]!r}")
            self.answered += 1
            time.sleep(PAUSE_S)

    def _anew(self, connection: Connection) -> Connection:
        connection.close()
        self._renewed.clear()
        return self._site.world.connect()

    def _sdk(self) -> None:
        """Attest again and again with one client, which refuses a key set that is older than the one before."""
        client, certificate = None, ""
        while not self._over.is_set():
            file = decode(self._site.consumer.read_bytes(), ConsumerFile)
            if client is None or file.certificate != certificate:
                if client is not None:
                    client.close()
                client = Client.connect(self._site.url, self._site.consumer, allow_simulated=True)
                certificate = file.certificate
            client.attest()
            self.attested += 1
            time.sleep(4 * PAUSE_S)
        if client is not None:
            client.close()

    def _operate(self) -> None:
        while not self._over.is_set():
            self._site.world.view("/v1/usage")
            time.sleep(6 * PAUSE_S)
