"""Custodian, borrower and consumers on one machine, set up by the verbs of the command line alone."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

AIGOVTOOL = [sys.executable, "-m", "aigovtool"]


class Machine:
    """A directory with everybody's files, and the processes that serve."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.enclave = ""
        self._serving: list[subprocess.Popen[bytes]] = []

    def path(self, name: str) -> Path:
        """Return a file of this machine."""
        return self.directory / name

    def run(self, *words: str, expect: int = 0) -> dict[str, Any]:
        """Run a verb to its end, and return the JSON document that it prints."""
        print("$ aigovtool", *words, flush=True)
        done = subprocess.run(
            [*AIGOVTOOL, *words, "--json"],
            cwd=self.directory,
            env=self._environment(),
            capture_output=True,
            check=False,
        )
        if done.returncode != expect:
            raise SystemExit(f"ended with {done.returncode}: {done.stdout.decode()}{done.stderr.decode()}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def serve(self, *words: str, documents: bool = True) -> None:
        """Start a verb that serves, and wait until it says so: in a document, or to people."""
        print("$ aigovtool", *words, "&", flush=True)
        log = self.path(f"{words[0]}.log")
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*AIGOVTOOL, *words, *(["--json"] if documents else [])],
                cwd=self.directory,
                env=self._environment(),
                stdout=out,
                stderr=out,
            )
        self._serving.append(process)
        until = time.monotonic() + 60
        while b"://" not in log.read_bytes():
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(log.read_text())
            time.sleep(0.1)

    def lend(self, model: Path, name: str, *, budget: int = 0, description: dict[str, Any] | None = None) -> None:
        """Seal a model, lend it to the hospital, and have the hospital's enclave serve it."""
        port = free_port()
        url = f"https://127.0.0.1:{port}"
        self.run("custodian", "init", "custodian", "--url", url, "--name", "alice", "--allow-simulated")
        self.serve("custodian", "serve", "custodian", "--listen", f"127.0.0.1:{port}")
        self.run("borrower", "add", "hospital", "-o", "hospital.json")
        self.path("description.json").write_text(json.dumps(description or {}))
        sealing = ("model", "seal", str(model), "--name", name, "-o", f"{name}.aigov")
        self.run(*sealing, "--description", "description.json")
        self.run("model", "add", f"{name}.aigov", "--borrower", "hospital", "--ttl", "3")
        if budget:
            self.run("budget", "grant", str(budget), "--model", name)
        listen = f"127.0.0.1:{free_port()}"
        self.enclave = f"https://{listen}"
        words = ("--tee", "simulated", "--allow-simulated", "--borrower-file", "hospital.json", "--model", name)
        self.serve("enclave", "serve", *words, "--listen", listen)

    def consumer(self, name: str) -> Path:
        """Enrol a consumer of the hospital's, and return its file."""
        self.run("consumer", "add", name, "--borrower", "hospital", "-o", f"{name}.json", "--allow-simulated")
        return self.path(f"{name}.json")

    def connect(self, credential: Path) -> str:
        """Run the consumer's gateway, and return its address."""
        port = free_port()
        words = ("--enclave", self.enclave, "--credential", str(credential), "--allow-simulated")
        self.serve("connect", *words, "--listen", f"127.0.0.1:{port}")
        return f"127.0.0.1:{port}"

    def close(self) -> None:
        """End all that serves."""
        for process in reversed(self._serving):
            process.send_signal(signal.SIGTERM)
        for process in self._serving:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "AIGOVTOOL_OPERATOR": str(self.path("custodian") / "operator.json"), "NO_COLOR": "1"}


@contextmanager
def machine() -> Iterator[Machine]:
    """Return a machine of your own; nothing is left of it afterwards."""
    with tempfile.TemporaryDirectory(prefix="aigovtool-example-") as directory:
        made = Machine(Path(directory))
        try:
            yield made
        finally:
            made.close()


def free_port() -> int:
    """Return a port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
