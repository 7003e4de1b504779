"""A model lent by the command line alone: each party a process of its own, and everything they write in one directory.

Nobody's environment, home or temporary directory is used, so that a test may look at all that was left behind. Between
the parties are recorders, which note every byte that passes.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tests.e2e.world import free_port, wait_for
from tests.product_process import environment

MODEL: Final = "adder"
#: So many numbers go in, are added to as many weights, and come out.
SIZE: Final = 64
Floats = NDArray[np.float32]


def numbers(seed: int) -> Floats:
    """Return numbers by which whoever has seen them is known."""
    return np.random.default_rng(seed).random((1, SIZE), np.float32) + np.float32(0.25)


def adding(weights: Floats) -> bytes:
    """Return a model that adds `weights` to what it is given."""
    node = helper.make_node("Add", ["x", "w"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, SIZE]) for name in ("x", "y")]
    graph = helper.make_graph([node], MODEL, ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


class Recorder:
    """Passes bytes on between a free port and a server, and keeps a copy."""

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        """Listen in front of the port `target` of a host."""
        self.target, self.host = target, host
        self.passed = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: Final = int(self._listener.getsockname()[1])
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Pass nothing on any more."""
        self._ended.set()
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            if select.select([self._listener], [], [], 0.1)[0]:
                thread = threading.Thread(target=self._pass, args=(self._listener.accept()[0],), daemon=True)
                thread.start()
                self._threads.append(thread)

    def _pass(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection((self.host, self.target)) as server:
            while not self._ended.is_set():
                for source in select.select([client, server], [], [], 0.1)[0]:
                    piece = source.recv(1 << 16)
                    if not piece:
                        return
                    self.passed += piece
                    (server if source is client else client).sendall(piece)


@dataclass
class Lent:
    """One custodian, borrower, consumer and model, made and used by the command line."""

    directory: Path
    weights: Floats
    ttl_s: int = 30
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    #: In front of the custodian, and in front of the enclave.
    recorders: dict[str, Recorder] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    #: Put before each command: what it starts must be a child of this process, or become one.
    before: tuple[str, ...] = ()
    #: Where the custodian serves, and what its command begins with there.
    custodian_host: str = "127.0.0.1"
    custodian_before: tuple[str, ...] = ()

    def path(self, name: str) -> Path:
        """Return a file of the deployment."""
        return self.directory / name

    def environment(self) -> dict[str, str]:
        """Return what a process is given; `HOME` and `TMPDIR` are inside of the directory."""
        kept = {name: value for name, value in environment().items() if name in {"PATH", "PYTHONOPTIMIZE"}}
        places = {name: str(self.path(name.lower())) for name in ("HOME", "TMPDIR", "XDG_STATE_HOME")}
        operator = str(self.path("custodian/operator.json"))
        return {**kept, **places, "AIGOVTOOL_OPERATOR": operator, "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    def words(self, *words: object) -> list[str]:
        """Return the command line of a verb."""
        return [sys.executable, "-m", "aigovtool", *map(str, words)]

    def run(self, *words: object, code: int = 0) -> dict[str, Any]:
        """Run a verb to its end; return its document."""
        done = subprocess.run(
            [*self.before, *self.words(*words, "--json")],
            cwd=self.directory,
            env=self.environment(),
            capture_output=True,
            check=False,
        )
        with self.path("verbs.log").open("ab") as log:
            log.write(done.stderr)
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def start(self, name: str, *words: object, before: tuple[str, ...] = ()) -> None:
        """Start a verb that serves, with what it says on standard error in a file."""
        with self.path(f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*before, *self.before, *self._bound(), *map(str, words)],
                cwd=self.directory,
                env=self.environment(),
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        process = self.processes[name]
        wait_for(lambda: "serving" in self.log(name) or process.poll() is not None, f"{name} serves")
        assert process.poll() is None, self.log(name)

    def _bound(self) -> list[str]:
        """Return the beginning of a command that ends when the tests end, however they do."""
        return [sys.executable, "-m", "aigovtool.cli.demo.child", str(os.getpid())]

    def log(self, name: str) -> str:
        """Return what a server has said so far."""
        return self.path(f"{name}.log").read_text(encoding="utf-8")

    def prepare(self) -> Self:
        """Make all parties and lend the model; nobody serves it yet."""
        for place in ("home", "tmpdir", "xdg_state_home"):
            self.path(place).mkdir(mode=0o700, parents=True)
        for name in ("custodian", "enclave"):
            self.ports[name] = free_port()
            host = self.custodian_host if name == "custodian" else "127.0.0.1"
            self.recorders[name] = Recorder(self.ports[name], host)
        url = f"https://127.0.0.1:{self.recorders['custodian'].port}"
        names = ("--name", "alice", "--host", self.custodian_host)
        self.run("custodian", "init", "custodian", "--url", url, *names, "--allow-simulated")
        self.start_custodian()
        self.run("borrower", "add", "hospital", "-o", "hospital.json")
        self.run("consumer", "add", "ward7", "--borrower", "hospital", "-o", "ward7.json", "--allow-simulated")
        self.path("adder.onnx").write_bytes(adding(self.weights))
        self.run("model", "seal", "adder.onnx", "--name", MODEL, "-o", "adder.aigov")
        self.run("model", "add", "adder.aigov", "--borrower", "hospital", "--ttl", self.ttl_s)
        self.run("budget", "grant", 1_000, "--model", MODEL)
        return self

    def start_custodian(self) -> None:
        """Serve the custodian."""
        listen = f"{self.custodian_host}:{self.ports['custodian']}"
        self.start("custodian", "custodian", "serve", "custodian", "--listen", listen, before=self.custodian_before)

    def start_enclave(self) -> None:
        """Serve the model."""
        fixed = ("--tee", "simulated", "--allow-simulated", "--borrower-file", "hospital.json", "--model", MODEL)
        listen = f"127.0.0.1:{self.ports['enclave']}"
        self.start("enclave", "enclave", "serve", *fixed, "--listen", listen, "--cache", "cache")

    @property
    def url(self) -> str:
        """Where consumers find the enclave."""
        return f"https://127.0.0.1:{self.recorders['enclave'].port}"

    def infer(self, given: Floats, *more: object, code: int = 0) -> dict[str, Any]:
        """Ask once, as the consumer."""
        self.path("given.json").write_text(json.dumps(given.tolist()))
        fixed = ("--credential", "ward7.json", "--allow-simulated", "--input", "given.json")
        return self.run("infer", MODEL, "--enclave", self.url, *fixed, *more, code=code)

    def engine(self) -> int:
        """Return the process id of the engine."""
        parent = self.processes["enclave"].pid
        return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])

    def end(self, name: str) -> int:
        """End a server in an orderly way; return its exit code."""
        process = self.processes[name]
        process.terminate()
        return process.wait(20)

    def close(self) -> None:
        """End everything at once."""
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        for recorder in self.recorders.values():
            recorder.close()


@contextmanager
def lent(directory: Path, **more: Any) -> Iterator[Lent]:
    """A deployment that is prepared, and gone afterwards."""
    made = Lent(directory, weights=numbers(1), **more)
    try:
        yield made.prepare()
    finally:
        made.close()
