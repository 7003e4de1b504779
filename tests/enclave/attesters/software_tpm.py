"""A software TPM (swtpm) as a process of its own, with a certificate authority of its own. It protects nothing."""

import contextlib
import importlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from aigovtool.attestation.certificates import read_certificates

#: Everything is local, so what takes longer hangs: swtpm in failure mode answers nothing for ever.
TIMEOUT_S = 30.0


def missing() -> str | None:
    """Return what is not installed here, in words."""
    tools = [tool for tool in ("swtpm", "swtpm_setup", "swtpm_localca") if shutil.which(tool) is None]
    library = [] if find_spec("tpm2_pytss") else ["tpm2-pytss"]
    return ", ".join(tools + library) or None


@dataclass(frozen=True)
class SoftwareTpm:
    """A running TPM: how to reach it, the certificate that issued its own, and the root of both."""

    tcti: str
    issuer: bytes
    root: x509.Certificate

    def esapi(self) -> Any:
        tpm2_pytss = importlib.import_module("tpm2_pytss")

        return tpm2_pytss.ESAPI(tpm2_pytss.TCTILdr.parse(self.tcti))


@contextlib.contextmanager
def software_tpm(folder: Path) -> Iterator[SoftwareTpm]:
    """Manufacture a TPM in `folder`, which must be absolute, and run it until the end."""
    state, authority, configuration = folder / "state", folder / "authority", folder / "setup.conf"
    state.mkdir()
    authority.mkdir()
    (folder / "ca.conf").write_text(
        f"statedir = {authority}\nsigningkey = {authority}/signkey.pem\n"
        f"issuercert = {authority}/issuercert.pem\ncertserial = {authority}/certserial\n"
    )
    (folder / "ca.options").write_text("--platform-manufacturer T\n--platform-version 1\n--platform-model T\n")
    configuration.write_text(
        f"create_certs_tool = {shutil.which('swtpm_localca')}\ncreate_certs_tool_config = {folder}/ca.conf\n"
        f"create_certs_tool_options = {folder}/ca.options\nactive_pcr_banks = sha256,sha384\n"
    )
    setup = ["swtpm_setup", "--tpm2", "--tpmstate", str(state), "--config", str(configuration), "--create-ek-cert"]
    setup += ["--lock-nvram", "--overwrite", "--pcr-banks", "sha256,sha384"]
    subprocess.run(setup, check=True, capture_output=True, timeout=TIMEOUT_S)
    process, port = _started(state)
    try:
        yield SoftwareTpm(
            tcti=f"swtpm:host=127.0.0.1,port={port}",
            issuer=_first(authority / "issuercert.pem").public_bytes(Encoding.DER),
            root=_first(authority / "swtpm-localca-rootca-cert.pem"),
        )
    finally:
        process.kill()
        process.wait(TIMEOUT_S)


def _first(path: Path) -> x509.Certificate:
    return read_certificates(path.read_bytes())[0]


def _started(state: Path) -> tuple[subprocess.Popen[bytes], int]:
    for _ in range(5):  # another program may take one of the two ports first
        port = _free_pair()
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "not-need-init,startup-clear"]
        command += ["--server", f"type=tcp,port={port},bindaddr=127.0.0.1"]
        command += ["--ctrl", f"type=tcp,port={port + 1},bindaddr=127.0.0.1"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + TIMEOUT_S
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port + 1), 1):
                return process, port
            time.sleep(0.02)
        process.kill()
        process.wait(TIMEOUT_S)
    raise TimeoutError("swtpm does not start")


def _free_pair() -> int:
    """Return a port that is free, as the next one is: tpm2-tss looks for the control channel there."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port
