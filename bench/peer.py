"""Other servers with the same model, each in its own environment (`make bench-peers`), set up as its documents say."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.e2e.world import free_port

from bench.graphs import Graph
from bench.inference_bodies import in_binary, in_json, write
from bench.processes import family
from bench.served import ROOT, Served

WHERE: Final = ROOT / ".peers"
_PATIENCE_S: Final = 90.0
_PATH: Final = "/v2/models/m/infer"
Body = tuple[dict[str, str], bytes]


@dataclass(frozen=True)
class Peer:
    """Another server: its name, what it is asked, and what is to be said of the way in which it runs."""

    name: str
    ask: Callable[[Graph], Body]
    path: str
    words: str

    def command(self, model: Path, port: int, threads: int) -> list[str]:
        """Return how it is started."""
        python = WHERE / self.name / "bin" / "python"
        program = ROOT / "bench" / "peers" / f"{self.name}_server.py"
        if self.name == "bentoml":
            where = ["--working-dir", str(program.parent), "--host", "127.0.0.1", "--port", str(port)]
            return [str(python), "-m", "bentoml", "serve", "bentoml_server:Onnx", *where]
        return [str(python), str(program), str(model), str(port), str(threads)]

    def installed(self) -> bool:
        """Return whether its environment is there."""
        return (WHERE / self.name / ".ready").exists()


def _by_name(graph: Graph) -> Body:
    """Return a body as BentoML takes it: inputs by their names."""
    inputs = {name: array.tolist() for name, array in graph.inputs.items()}
    return {"content-type": "application/json"}, json.dumps(inputs).encode()


PEERS: Final = (
    Peer("fastapi", lambda graph: in_json(graph.inputs), _PATH, "plain HTTP, JSON, uvicorn with uvloop"),
    Peer(
        "mlserver",
        lambda graph: in_json(graph.inputs),
        _PATH,
        "plain HTTP, JSON (its REST takes no binary tensors), in its own process, adaptive batching of small models",
    ),
    Peer("kserve", lambda graph: in_binary(graph.inputs), _PATH, "plain HTTP, binary tensors"),
    Peer(
        "bentoml",
        _by_name,
        "/infer",
        "plain HTTP, JSON, adaptive batching; a lone request waits",
    ),
    Peer(
        "pytriton",
        lambda graph: in_binary(graph.inputs),
        _PATH,
        "plain HTTP, binary tensors, Triton's dynamic batching for up to 1 ms",
    ),
)


@contextmanager
def served(peer: Peer, graph: Graph, threads: int) -> Iterator[Served]:
    """Serve a model by another server.

    Raises:
        RuntimeError: it does not answer.
    """
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="aigovtool-bench-"))
        stack.callback(shutil.rmtree, directory)
        model, port = directory / "model.onnx", free_port()
        model.write_bytes(graph.content)
        headers, body = peer.ask(graph)
        head, content = write(directory, peer.path, headers, body)
        log = stack.enter_context((directory / "log").open("wb"))
        process = subprocess.Popen(
            peer.command(model, port, threads),
            cwd=directory,
            env=_environment(model, threads),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        stack.callback(_end, process)
        _wait(lambda: _answers(port, peer.path, headers, body), process, directory / "log")
        yield Served(
            name=peer.name,
            model=graph.name,
            port=port,
            head=head,
            body=content,
            pids=lambda: family(process.pid),
            may_fail=True,
        )


def _environment(model: Path, threads: int) -> dict[str, str]:
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return keep | {"BENCH_MODEL": str(model), "BENCH_THREADS": str(threads), "BENTOML_DO_NOT_TRACK": "true"}


def _wait(answers: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _PATIENCE_S
    while not answers():
        if time.monotonic() > until or process.poll() is not None:
            raise RuntimeError(f"no answer; its log ends: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.2)


def _answers(port: int, path: str, headers: Mapping[str, str], body: bytes) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", path, body, dict(headers))
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def answers_on(port: int) -> bool:
    """Return whether anybody accepts connections."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    pids = family(process.pid) if process.poll() is None else []
    for pid in reversed(pids):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait(20)
