"""A lent model: custodian, enclave and engine in processes of their own, everything on."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from msgspec.structs import replace
from tests.e2e.world import ENCLAVE_PROGRAM, MODEL, World, wait_for

from aigovtool.crypto.tlskey import key_to_pem
from aigovtool.ledger.inputs import InputTerms
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.protocol.session import REQUEST_ID_HEADER
from bench.graphs import Graph
from bench.inference_bodies import in_binary, write
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
        yield Served(
            name=name,
            model=graph.name,
            port=world.enclave_port,
            head=head,
            body=content,
            pids=lambda: [world.processes["enclave"].pid, world.engine_pid()],
            tls=True,
            certificate=certificate,
        )
    finally:
        world.close()
        shutil.rmtree(directory)
