"""A lent model: custodian, enclave and engine in processes of their own, everything on; and the gateway before it."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace as replaced
from pathlib import Path
from typing import Final

from msgspec.structs import replace
from tests.e2e.party_files import consumer_file
from tests.e2e.world import ENCLAVE_PROGRAM, MODEL, World, free_port, wait_for

from aigovtool.crypto.tlskey import key_to_pem
from aigovtool.ledger.inputs import InputTerms
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.protocol.session import REQUEST_ID_HEADER
from bench.graphs import Graph
from bench.inference_bodies import in_binary, write
from bench.peer import answers_on
from bench.served import Served

_BUDGET: Final = 10**12


@contextmanager
def lent(
    graph: Graph, name: str = "aigovtool", program: str = ENCLAVE_PROGRAM, *, ids: bool = True, batch: bool = True
) -> Iterator[Served]:
    """Lend a model, and ask for it as the SDK does: TLS 1.3, a certificate, a request id of its own each time.

    Without `ids` the enclave makes them. With `batch` small requests that come together are computed as one: rows of
    the models here do not depend on each other.
    """
    with _lent(graph, name, program, ids=ids, batch=batch) as (served, _):
        yield served


@contextmanager
def connected(graph: Graph, name: str, *, sealed: bool = False) -> Iterator[Served]:
    """Lend a model, and ask for it through `aigovtool connect`, over plain HTTP, as a program does that knows nothing.

    With `sealed` the gateway seals all to the enclave, as it does where somebody else ends TLS; nobody does here.
    Processor time and memory are those of gateway, enclave and engine together.
    """
    with _lent(graph, name, ENCLAVE_PROGRAM, ids=False, batch=True) as (served, world):
        credential, port = consumer_file(world), free_port()
        command = [
            *(sys.executable, "-m", "aigovtool", "connect", "--enclave", f"https://127.0.0.1:{world.enclave_port}"),
            *("--credential", str(credential), "--home", str(world.directory / "home")),
            *("--listen", f"127.0.0.1:{port}", "--allow-simulated"),
            *(("--sealed",) if sealed else ()),
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as gateway:
            try:
                wait_for(lambda: answers_on(port) or gateway.poll() is not None, "the gateway serves")
                head = world.directory / "head-of-a-program"  # the gateway answers to its own name alone
                head.write_bytes(served.head.read_bytes().replace(b"host: 127.0.0.1", b"host: 127.0.0.1:%d" % port))
                pids = lambda: [gateway.pid, *served.pids()]  # noqa: E731
                yield replaced(served, head=head, port=port, tls=False, certificate=None, pids=pids)
            finally:
                gateway.terminate()


@contextmanager
def _lent(graph: Graph, name: str, program: str, *, ids: bool, batch: bool) -> Iterator[tuple[Served, World]]:
    policy = replace(default_policy(Dial.BALANCED), inputs=InputTerms(batch=True) if batch else None)
    directory = Path(tempfile.mkdtemp(prefix="aigovtool-bench-"))
    world = World(directory)
    try:
        world.prepare(graph.content, policy)
        world.grant(_BUDGET)
        party, cache = str(directory / "borrower.json"), str(directory / "cache")
        world.spawn("enclave", program, party, str(world.enclave_port), cache, MODEL)
        wait_for(world.enclave_ready, "the enclave is ready", 120)
        headers, body = in_binary(graph.inputs)
        path = f"/v2/models/{MODEL}/infer"
        own = {REQUEST_ID_HEADER: "@" * 32} if ids else {}
        head, content = write(directory, path, headers | own, body)
        certificate = directory / "consumer.pem"
        with key_to_pem(world.consumer_key) as key:
            certificate.write_bytes(world.consumer_certificate.encode("ascii") + key.reveal())
        certificate.chmod(0o600)
        served = Served(
            name=name,
            model=graph.name,
            port=world.enclave_port,
            head=head,
            body=content,
            pids=lambda: [world.processes["enclave"].pid, world.engine_pid()],
            tls=True,
            certificate=certificate,
        )
        yield served, world
    finally:
        world.close()
        shutil.rmtree(directory)
