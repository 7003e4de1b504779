"""`python -m bench.fresh`: ask as the predecessor's enclave did.

For each inference there were two requests, each on a connection of its own, with a TLS handshake of its own. It is told
what to do, and tells what it saw, as `bench.load` does.
"""

import asyncio
import sys
import time

import uvloop

from aigovtool.codec import Message, decode, encode
from bench.load import Seen, client_tls, processor_s, say


class Fresh(Message):
    """Where to ask, and how many ask at once."""

    port: int
    connections: int
    seconds: float


_ASK = b"GET /model HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
_CONSUME = b"POST /consume HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


async def _load(fresh: Fresh) -> Seen:
    took: list[float] = []
    failures: list[str] = []
    context = client_tls()

    async def once(request: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", fresh.port, ssl=context)
        try:
            writer.write(request)
            answer = await reader.read()
        finally:
            writer.close()
        if not answer.startswith(b"HTTP/1.1 200"):
            failures.append(answer[:200].decode("latin-1"))

    async def go_on(until: float) -> None:
        now = time.perf_counter()
        while now < until:
            await once(_ASK)
            await once(_CONSUME)
            then, now = now, time.perf_counter()
            took.append(now - then)

    await once(_ASK)
    say(b"ready")
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.readline)
    began, cpu_s = time.perf_counter(), processor_s()
    await asyncio.gather(*(go_on(began + fresh.seconds) for _ in range(fresh.connections)))
    # Answers of 500 are counted: its counter tore under load, and it answered on.
    return Seen.of(
        took,
        seconds=time.perf_counter() - began,
        cpu_s=processor_s() - cpu_s,
        failed=len(failures),
        first_failure="".join(failures[:1]),
    )


def main() -> None:
    """Run."""
    say(encode(uvloop.run(_load(decode(sys.stdin.buffer.readline().strip(), Fresh)))))


if __name__ == "__main__":
    main()
