"""`python -m bench.sessions`: how many new consumer sessions an enclave takes, each with evidence of its own.

A session is what the SDK opens: TLS, the custodian's key set, a fresh nonce, a quote over it, all checks, and the
policy. Consumers are several, since each may wait for no more than so many quotes at once. It is measured with the
simulated TEE, whose quotes take no time, and with one whose quotes take as long as those of a TPM.
"""

import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.e2e.party_files import consumer_file
from tests.e2e.world import BORROWER, ENCLAVE_PROGRAM, MODEL, World, wait_for

from aigovtool.codec import Message, decode, encode
from aigovtool.consumer.client import Client
from aigovtool.crypto.sign import SigningKey
from aigovtool.ids import ConsumerId
from aigovtool.ledger.entry import PartyRole
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.protocol import commands
from bench.graphs import Graph, tiny
from bench.load import say
from bench.served import begun, processor_s

_YEAR_MS: Final = 365 * 86_400_000
CONSUMERS: Final = 8
#: Of each consumer: as many as may wait for a quote.
AT_ONCE: Final = 8
#: Seconds that a quote takes: of the simulated TEE, and of a TPM.
QUOTES_S: Final = (0.0, 1.0)

_SLOW: Final = """
import time
from aigovtool.enclave.session_quotes import SessionQuotes

real = SessionQuotes.__init__

def slow(self, quote):
    def waited(audience, nonce):
        time.sleep({seconds})
        return quote(audience, nonce)
    real(self, waited)

SessionQuotes.__init__ = slow
"""


class Work(Message):
    """Where to open sessions, with the files of which consumers, and for how long."""

    url: str
    files: tuple[str, ...]
    at_once: int
    seconds: float


class Opened(Message):
    """What came of it: how long each session took to open, and processor time of all of them; in seconds."""

    took_s: tuple[float, ...]
    seconds: float
    cpu_s: float


class Sessions(Message):
    """New sessions where a quote takes so long; processor time is of one, at the enclave and at the consumer."""

    quote_s: float
    at_once: int
    per_minute: float
    enclave_cpu_ms: float
    consumer_cpu_ms: float
    p50_s: float
    p99_s: float


def measure(quote_s: float, seconds: float = 10.0) -> Sessions:
    """Open sessions for some seconds, as many at once as all consumers may."""
    with _enclave(tiny(), quote_s) as (world, files):
        work = Work(
            url=f"https://127.0.0.1:{world.enclave_port}",
            files=tuple(map(str, files)),
            at_once=AT_ONCE,
            seconds=seconds,
        )
        with begun("bench.sessions", work) as process:
            pid = world.processes["enclave"].pid
            before_s = processor_s(pid)
            opened = process.go(Opened)
            cpu_s = processor_s(pid) - before_s
    took, count = sorted(opened.took_s), len(opened.took_s)
    return Sessions(
        quote_s=quote_s,
        at_once=AT_ONCE * len(files),
        per_minute=60 * count / opened.seconds,
        enclave_cpu_ms=1000 * cpu_s / count,
        consumer_cpu_ms=1000 * opened.cpu_s / count,
        p50_s=took[count // 2],
        p99_s=took[count * 99 // 100],
    )


@contextmanager
def _enclave(graph: Graph, quote_s: float) -> Iterator[tuple[World, list[Path]]]:
    directory = Path(tempfile.mkdtemp(prefix="aigovtool-bench-"))
    world = World(directory)
    try:
        world.prepare(graph.content, default_policy(Dial.BALANCED))
        files = [_consumer(world, ConsumerId(f"ward-{number}")) for number in range(CONSUMERS)]
        program = (_SLOW.format(seconds=quote_s) if quote_s else "") + ENCLAVE_PROGRAM
        party, cache = str(directory / "borrower.json"), str(directory / "cache")
        world.spawn("enclave", program, party, str(world.enclave_port), cache, MODEL)
        wait_for(world.enclave_ready, "the enclave is ready", 120)
        yield world, files
    finally:
        world.close()
        shutil.rmtree(directory)


def _consumer(world: World, name: ConsumerId) -> Path:
    world.consumer_key = SigningKey.generate()
    added = world.command(
        commands.AddParty(
            role=PartyRole.CONSUMER,
            name=name,
            key=world.consumer_key.public.raw,
            borrower=BORROWER,
            valid_for_ms=_YEAR_MS,
        )
    )
    world.consumer_certificate = added.certificate or ""
    return consumer_file(world, f"{name}.json", consumer=name)


def _open_all(work: Work) -> Opened:
    began_s, cpu_s = time.monotonic(), time.process_time()
    ends_s = began_s + work.seconds

    def one_after_another(file: str) -> list[float]:
        took = []
        while (since_s := time.monotonic()) < ends_s:
            with Client.connect(work.url, file, allow_simulated=True):
                took.append(time.monotonic() - since_s)
        return took

    lanes = [file for file in work.files for _ in range(work.at_once)]
    with ThreadPoolExecutor(len(lanes)) as executor:
        took = [one for lane in executor.map(one_after_another, lanes) for one in lane]
    return Opened(took_s=tuple(took), seconds=time.monotonic() - began_s, cpu_s=time.process_time() - cpu_s)


def main() -> None:
    """Do as told on the standard streams."""
    logging.disable(logging.WARNING)  # each session says that a simulated TEE protects nothing
    work = decode(sys.stdin.buffer.readline().strip(), Work)
    say(b"ready")
    sys.stdin.buffer.readline()
    say(encode(_open_all(work)))


if __name__ == "__main__":
    main()
