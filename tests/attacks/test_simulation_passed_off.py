"""A borrower whose enclaves are simulated, and a custodian that was never told to accept such: as each types it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from tests.attacks.host import LOOSE, Host
from tests.e2e.commandline import aigovtool, exported, serving
from tests.e2e.world import free_port, wait_for
from tests.observations import Observed
from tests.product_process import environment

from aigovtool.attestation.model import TeeType
from aigovtool.codec import encode
from aigovtool.testing.simulated_tee.wiring import development_policy


@dataclass
class Site:
    """A custodian as `aigovtool custodian init` makes it, and the borrower's file."""

    directory: Path

    @property
    def operator(self) -> Path:
        """The first operator's file."""
        return self.directory / "custodian" / "operator.json"

    @property
    def borrower(self) -> Path:
        """The file of the borrower."""
        return self.directory / "hospital.json"

    def enclave(self, *options: object, code: int) -> str | None:
        """Start an enclave that cannot start, and return why."""
        words = ("--borrower-file", self.borrower, "--model", "digits", "--listen", f"127.0.0.1:{free_port()}")
        cache = ("--cache", self.directory / "cache")
        done = aigovtool("enclave", "serve", *options, *words, *cache, "--json", code=code)
        error = json.loads(done.stdout)["error"]
        reason: str | None = error["reason"] or error["code"]
        return reason

    @contextmanager
    def trying(self, number: int) -> Iterator[Path]:
        """Have a simulated enclave try to boot while the block runs; its log."""
        log = self.directory / f"enclave{number}.log"
        words = ["enclave", "serve", "--tee", "simulated", "--allow-simulated", "--borrower-file", str(self.borrower)]
        words += ["--model", "digits", "--listen", f"127.0.0.1:{free_port()}", "--cache", str(self.directory / "cache")]
        with log.open("wb") as out:
            command = [sys.executable, "-m", "aigovtool", *words]
            process = subprocess.Popen(command, stdout=out, stderr=out, env=environment())
        try:
            yield log
        finally:
            process.kill()
            process.wait(20)

    def refused(self) -> list[str]:
        """Return what the borrower was refused, as the exported log tells it."""
        lines = exported(self.operator, self.directory, "attestation_refused")
        return [f"{one['code']}: {one['reason']}" for one in lines]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Served, with one borrower, and every variable set by which somebody might hope to loosen something."""
    for name in LOOSE:
        monkeypatch.setenv(name, "1")
    made = Site(tmp_path)
    aigovtool("custodian", "init", tmp_path / "custodian", "--url", f"https://localhost:{free_port()}")
    with serving(tmp_path / "custodian", tmp_path / "custodian.log"):
        aigovtool("borrower", "add", "hospital", "-o", made.borrower, operator=made.operator)
        yield made


@pytest.mark.attack(8)
@pytest.mark.fault(22)
def test_a_simulated_enclave_is_refused_by_who_never_said_otherwise(site: Site, observed: Observed) -> None:
    """Without a policy, and with one that an operator was talked into; under its own label and under every other."""
    assert site.enclave("--tee", "simulated", code=2) == "simulated_refused"
    assert site.enclave("--tee", "auto", "--allow-simulated", code=2) == "usage"
    with site.trying(1) as log:
        wait_for(lambda: "no_policy" in log.read_text(), "a boot is refused")
    policy = site.directory / "policy.json"
    policy.write_bytes(encode(development_policy()))
    aigovtool("appraisal", "set", policy, "--yes", operator=site.operator)
    with site.trying(2) as log:
        wait_for(lambda: "tee_unknown" in log.read_text(), "a boot is refused")
    host = Host.of(site.borrower)
    with host.connected() as client:
        for label in TeeType:
            claims = host.claims(host.challenge(client))
            evidence = msgspec.structs.replace(host.platform.attest(claims), tee=label)
            answer = host.send(client, host.sealed(claims, evidence))
            assert not answer.is_success
            observed.refusal(answer.json())
    refused = site.refused()
    assert refused[:2] == ["configuration: no_policy", "evidence_not_genuine: tee_unknown"]
    observed.entry("attestation_refused")
