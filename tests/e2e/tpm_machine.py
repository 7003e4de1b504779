"""A deployment on a machine with a (software) TPM: a custodian that believes its maker, and an enclave on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding
from tests.e2e.world import MODEL, World
from tests.enclave.attesters.measured_boot import LOG
from tests.enclave.attesters.software_tpm import SoftwareTpm

from aigovtool.custodian.activation import ROOTS_DIRECTORY
from aigovtool.ledger.policy import Dial, default_policy

_ENCLAVE: Final = "import sys\nfrom aigovtool.cli import main\nmain()\n"


@contextmanager
def lent_by(directory: Path, tpm: SoftwareTpm, model: bytes) -> Iterator[World]:
    """Make a custodian that lends a model to whom the appraisal policy, which is not set yet, will admit."""
    made = World(directory)
    roots = made.directory / "custodian" / ROOTS_DIRECTORY
    for each in (made.directory, roots.parent, roots):
        each.mkdir(mode=0o700)
    (roots / "maker.pem").write_bytes(tpm.root.public_bytes(Encoding.PEM))
    try:
        made.prepare(model, default_policy(Dial.BOUND, ttl_ms=3_000))
        made.grant(20)
        yield made
    finally:
        made.close()


def start(world: World, tpm: SoftwareTpm) -> None:
    """Start an enclave on the machine of the TPM; it is not waited for."""
    log, issuers = world.directory / "event.log", world.directory / "issuers.der"
    log.write_bytes(LOG)
    issuers.write_bytes(tpm.issuer)
    words = ["enclave", "serve", "--tee", "tpm", "--tpm", tpm.tcti, "--tpm-event-log", str(log)]
    words += ["--tpm-issuers", str(issuers), "--borrower-file", str(world.directory / "borrower.json")]
    words += ["--model", MODEL, "--listen", f"127.0.0.1:{world.enclave_port}"]
    world.spawn("enclave", _ENCLAVE, *words, "--cache", str(world.directory / "cache"))
