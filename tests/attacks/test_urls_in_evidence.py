"""Certificates in evidence name addresses; whoever verifies asks none of them, and opens no file that they name.

Every call of the product's processes that connects or opens is watched from outside (strace), and none of them gets
through to anybody.
"""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.attacks.host import Host
from tests.e2e.commandline import aigovtool
from tests.e2e.world import free_port, wait_for
from tests.observations import Observed
from tests.product_process import environment

from aigovtool.attestation.model import Evidence
from aigovtool.codec import decode

pytestmark = [pytest.mark.attack(10), pytest.mark.needs("strace")]
ROOT = Path(__file__).resolve().parents[2]
#: Nothing that is connected to answers: the network is unreachable, whatever is asked for.
_WATCHED = ("-f", "--seccomp-bpf", "-e", "trace=connect,openat", "-e", "inject=connect:error=ENETUNREACH")
_INTERNET = re.compile(r'connect\(.*sa_family=AF_INET6?,.*?htons\((\d+)\).*?"([^"]+)"')


@dataclass
class Site:
    """The evidence, a listener that its URLs name, and a file that they name."""

    folder: Path
    listener: socket.socket
    secret: Path

    @property
    def evidence(self) -> list[Path]:
        """One file for each kind of TEE."""
        found = sorted((self.folder / "evidence").glob("*.json"))
        assert len(found) == 5
        return found

    def asked(self) -> bool:
        """Return whether anybody has connected to the listener."""
        self.listener.settimeout(0)
        try:
            self.listener.accept()
        except BlockingIOError:
            return False
        return True


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Evidence that names a listener of ours, the metadata service of clouds, and a file."""
    folder = tmp_path_factory.mktemp("urls")
    secret = folder / "secret-file"
    secret.write_bytes(b"")
    (folder / "evidence").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        urls = [f"http://127.0.0.1:{listener.getsockname()[1]}/crl", "http://169.254.169.254/latest/meta-data/"]
        urls += [f"http://localhost:{listener.getsockname()[1]}/ocsp", secret.as_uri(), "ldap://127.0.0.1/cn=ca"]
        command = [sys.executable, "-m", "tests.attacks.urls", str(folder / "evidence"), *urls]
        subprocess.run(command, cwd=ROOT, check=True)
        yield Site(folder, listener, secret)


def watched(site: Site, trace: Path) -> list[tuple[str, int]]:
    """Return which addresses were to be connected to, having seen that no file was opened that evidence names."""
    lines = trace.read_text(encoding="latin-1").splitlines()
    assert any("openat(" in line for line in lines)
    assert [line for line in lines if site.secret.name in line] == []
    return [(match[2], int(match[1])) for line in lines if (match := _INTERNET.search(line))]


def test_a_verifier_on_the_command_line_connects_to_nobody(site: Site, observed: Observed) -> None:
    """All of it is genuine, so that every certificate was read and every chain followed to its end."""
    for file in site.evidence:
        trace = site.folder / f"{file.stem}.strace"
        words = [str(file), "--at", file.with_suffix(".at").read_text(), "--root", str(file.with_suffix(".roots"))]
        command = [sys.executable, "-m", "aigovtool", "evidence", "verify", *words]
        done = subprocess.run(
            ["strace", *_WATCHED, "-o", str(trace), *command],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (file.name, done.returncode) == (file.name, 0), done.stdout + done.stderr
        assert watched(site, trace) == []
    assert not site.asked()
    observed.figure("kinds of evidence with URLs in each certificate", len(site.evidence))
    observed.figure("connections", 0)


@contextmanager
def serving(home: Path, trace: Path) -> Iterator[None]:
    """Serve a custodian while all that it connects to and opens is written down."""
    log = home.parent / "custodian.log"
    command = [sys.executable, "-m", "aigovtool", "custodian", "serve", str(home)]
    with log.open("wb") as out:
        tracer = subprocess.Popen(
            ["strace", *_WATCHED, "-o", str(trace), *command], stdout=out, stderr=out, env=environment()
        )
    try:
        wait_for(lambda: "serving on" in log.read_text() or tracer.poll() is not None, "the custodian serves")
        yield
    finally:
        os.kill(int(trace.read_text(encoding="latin-1").split()[0]), signal.SIGTERM)
        tracer.wait(20)


def test_a_custodian_connects_to_nobody_but_its_vendors(site: Site, observed: Observed) -> None:
    """It would ask the vendors of TEEs, whose names it knows; of what a borrower's evidence names it asks nobody."""
    home, borrower, trace = site.folder / "custodian", site.folder / "hospital.json", site.folder / "custodian.strace"
    aigovtool("custodian", "init", home, "--url", f"https://localhost:{free_port()}", "--allow-simulated")
    with serving(home, trace):
        aigovtool("borrower", "add", "hospital", "-o", borrower, operator=home / "operator.json")
        host = Host.of(borrower)
        with host.connected() as client:
            for file in site.evidence:
                claims = host.claims(host.challenge(client))
                answer = host.send(client, host.sealed(claims, decode(file.read_bytes(), Evidence)))
                assert observed.refusal(answer.json()).startswith(("evidence_not_genuine: ", "unreachable: "))
    # A name is looked up at port 53, and nobody answers.
    assert {port for _, port in watched(site, trace)} <= {53}
    assert "169.254.169.254" not in {address for address, _ in watched(site, trace)}
    assert not site.asked()
