"""Deployments beside the real one: of its custodian with another ledger, or of another; their enclaves are measured.

The host leads consumers to one or the other; each is made of real processes, and has all that its own custodian gives.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from tests.e2e.world import World

from aigovtool.attestation.model import MeasurementHex
from aigovtool.codec import decode, encode
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.protocol.party import OperatorFile
from aigovtool.testing.fault_proxy import FaultProxy, fault_proxy
from aigovtool.testing.simulated_tee.attester import measure

#: A build that nobody has.
ANOTHER_BUILD: Final = MeasurementHex("cd" * 48)
#: An enclave whose platform measures what a file says, at the moment of each quote.
_CHOSEN: Final = """
import pathlib
from aigovtool.attestation.model import MeasurementHex
from aigovtool.testing.simulated_tee import wiring
from aigovtool.testing.simulated_tee.attester import SimulatedPlatform

class Chosen(SimulatedPlatform):
    __slots__ = ()

    def attest(self, claims):
        chosen = MeasurementHex(pathlib.Path({file!r}).read_text())
        return SimulatedPlatform(chosen).attest(claims)

wiring.platform = lambda: Chosen(wiring.measure())
"""


@dataclass
class Twin(World):
    """A deployment; `of` is one of the same custodian, whose keys it has, with a ledger of its own.

    So it lends another model under the same name, and its enclaves prove the same custodian.
    """

    of: World | None = None

    def found(self) -> None:
        """Make keys and ledger, and keep them for twins as they are before anything is lent."""
        if self.of is None:
            super().found()
            shutil.copytree(self.directory / "custodian", self.directory / "founded")
            return
        shutil.copytree(self.of.directory / "founded", self.directory / "custodian")
        path = self.directory / "custodian" / "operator.json"
        operator = decode(path.read_bytes(), OperatorFile)
        here = msgspec.structs.replace(operator.custodian, url=f"https://127.0.0.1:{self.custodian_port}")
        path.write_bytes(encode(msgspec.structs.replace(operator, custodian=here)))

    def spawn(self, name: str, code: str, *arguments: str) -> None:
        """Start a process; of an enclave, one that measures what was chosen."""
        if name == "enclave":
            if not self.measured.exists():
                self.measured.write_text(measure())
            code = _CHOSEN.format(file=str(self.measured)) + code
        super().spawn(name, code, *arguments)

    @property
    def measured(self) -> Path:
        """The file that says what the enclave's platform measures."""
        return self.directory / "measured"

    @property
    def url(self) -> str:
        """Where its enclave is."""
        return f"https://127.0.0.1:{self.enclave_port}"

    def lend(self, model: bytes, units: int = 1_000, ttl_ms: int = 3_000) -> None:
        """Lend a model, and have an enclave serve it."""
        self.prepare(model, default_policy(Dial.BALANCED, ttl_ms=ttl_ms))
        self.grant(units)
        self.start_enclave()


@dataclass
class Replaceable:
    """A deployment, and the address at which consumers find its enclave, or whichever one its host leads them to."""

    world: Twin
    proxy: FaultProxy

    @property
    def url(self) -> str:
        """What consumers are told."""
        return f"https://127.0.0.1:{self.proxy.port}"

    def lead_to(self, other: World) -> None:
        """Have whoever connects reach another deployment's enclave, and end the connections that are open."""
        self.proxy.lead_to(other.enclave_port)
        self.proxy.cut()


@contextmanager
def replaceable(directory: Path, model: bytes) -> Iterator[Replaceable]:
    """A deployment that lends a model."""
    directory.mkdir(mode=0o700)
    with ExitStack() as stack:
        world = Twin(directory)
        stack.callback(world.close)
        world.lend(model)
        yield Replaceable(world, stack.enter_context(fault_proxy("127.0.0.1", world.enclave_port)))


@contextmanager
def beside(directory: Path, other: World, model: bytes, *, same_custodian: bool) -> Iterator[Twin]:
    """A deployment for the same consumer, of the same custodian or of one of its own."""
    directory.mkdir(mode=0o700)
    twin = Twin(directory, of=other if same_custodian else None, consumer_key=other.consumer_key)
    try:
        twin.lend(model)
        yield twin
    finally:
        twin.close()
