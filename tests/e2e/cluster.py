"""Several custodians on one PostgreSQL ledger, each with an enclave of its own, all of them separate processes."""

import http.client
import os
import signal
from dataclasses import dataclass, field

import msgspec
from tests.e2e.world import ENCLAVE_PROGRAM, MODEL, World, free_port, wait_for

from aigovtool.codec import decode, encode
from aigovtool.protocol.party import BorrowerFile


@dataclass
class Cluster:
    """A deployment, and further custodians (1, 2, ...) with an enclave each; number 0 is the deployment's own."""

    world: World
    replicas: int
    custodian_ports: list[int] = field(init=False)
    enclave_ports: list[int] = field(init=False)

    def __post_init__(self) -> None:
        more = self.replicas - 1
        self.custodian_ports = [self.world.custodian_port, *(free_port() for _ in range(more))]
        self.enclave_ports = [self.world.enclave_port, *(free_port() for _ in range(more))]

    def start(self) -> None:
        """Start the further custodians and enclaves."""
        for number in range(1, self.replicas):
            self.start_custodian(number)
            self.start_enclave(number)

    def start_custodian(self, number: int) -> None:
        """Start one more custodian on the same ledger, with the same keys."""
        world, port = self.world, self.custodian_ports[number]
        world.spawn(f"custodian{number}", world.custodian_code, str(world.directory / "custodian"), str(port))
        with world.custodian_client(port) as client:
            wait_for(lambda: world.answers(client), f"custodian {number} answers")

    def start_enclave(self, number: int) -> None:
        """Start an enclave that knows custodian `number`, and wait until it serves."""
        world = self.world
        party = decode((world.directory / "borrower.json").read_bytes(), BorrowerFile)
        address = msgspec.structs.replace(party.custodian, url=f"https://127.0.0.1:{self.custodian_ports[number]}")
        path = world.directory / f"borrower{number}.json"
        path.touch(mode=0o600)
        path.write_bytes(encode(msgspec.structs.replace(party, custodian=address)))
        cache = world.directory / f"cache{number}"
        world.spawn(f"enclave{number}", ENCLAVE_PROGRAM, str(path), str(self.enclave_ports[number]), str(cache), MODEL)
        wait_for(lambda: self.is_ready(number), f"enclave {number} is ready")

    def is_ready(self, number: int) -> bool:
        """Return whether an enclave serves."""
        connection = self.world.connect(self.enclave_ports[number])
        try:
            return connection.request("GET", "/v2/health/ready").status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def signal(self, number: int, what: int) -> None:
        """Signal a custodian; after SIGKILL wait for its end."""
        process = self.world.processes["custodian" if number == 0 else f"custodian{number}"]
        os.kill(process.pid, what)
        if what == signal.SIGKILL:
            process.wait(20)
