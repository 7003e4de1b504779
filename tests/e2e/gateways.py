"""The consumer's gateway as a process of its own, and a program that asks it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tests.e2e.world import MODEL, free_port, wait_for
from tests.product_process import environment

from aigovtool.consumer.connect.evidence_log import Event, Line, read_log
from aigovtool.consumer.connect.kept_receipts import KeptReceipt, read_receipts


@dataclass(frozen=True)
class Gateway:
    """One that serves."""

    url: str
    home: Path
    process: subprocess.Popen[bytes]
    program: httpx.Client

    def infer(self, body: bytes, request_id: str = "") -> httpx.Response:
        """Ask for one inference, as any program."""
        headers = {"aigovtool-request-id": request_id} if request_id else {}
        return self.program.post(f"/v2/models/{MODEL}/infer", content=body, headers=headers)

    def is_ready(self) -> bool:
        """Return whether it says that it can serve."""
        return self.program.get("/v2/health/ready").status_code == 200

    def enclave(self) -> dict[str, Any]:
        """Return what it says of its first enclave."""
        found: dict[str, Any] = self.program.get("/aigovtool/status").json()["enclaves"][0]
        return found

    def told(self) -> list[Line]:
        """Return the lines of the evidence log that are about enclaves."""
        return told(self.home)

    def wait_for_event(self, event: Event, reason: str = "", seconds: float = 30.0) -> Line:
        """Wait until the newest line tells of `event`, and for this reason if one is given; return it."""

        def is_told() -> bool:
            newest = self.told()[-1]
            return newest.event is event and reason in {"", newest.reason}

        wait_for(is_told, f"the log tells: {event} {reason}", seconds)
        return self.told()[-1]

    def receipts(self) -> list[KeptReceipt]:
        """Return the records of all answers."""
        return list(read_receipts(self.home / "receipts"))


def told(home: Path) -> list[Line]:
    """Return the lines of an evidence log that are about enclaves."""
    return [line for line, _ in read_log(home / "evidence.jsonl") if line.enclave]


@contextmanager
def connecting(
    directory: Path, credential: Path, *enclaves: str, options: tuple[object, ...] = ("--allow-simulated",)
) -> Iterator[Gateway]:
    """Run `aigovtool connect` in front of these enclaves, with its home and what it says in a directory."""
    port, log, home = free_port(), directory / "connect.log", directory / "home"
    named = [word for url in enclaves for word in ("--enclave", url)]
    command = [
        *(sys.executable, "-m", "aigovtool", "connect", *named, "--credential", str(credential)),
        *("--listen", f"127.0.0.1:{port}", "--home", str(home), *map(str, options)),
    ]
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment(), start_new_session=True)
    try:
        wait_for(lambda: f":{port}" in log.read_text() or process.poll() is not None, "the gateway serves")
        assert process.poll() is None, log.read_text()
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, trust_env=False, timeout=90) as program:
            yield Gateway(url, home, process, program)
    finally:
        process.terminate()
        process.wait(20)
