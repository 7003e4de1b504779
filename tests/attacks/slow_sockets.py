"""A program that holds thousands of slow connections to a server: `python slow_sockets.py PORT COUNT SOURCES`.

By turns they send nothing, a head byte by byte, a body byte by byte, or take their answer byte by byte. One that is
ended is opened again after a while. Once all were opened it prints a line, and goes on until its
input ends. It runs apart from whoever measures, so as not to slow it down.
"""

import asyncio
import resource
import ssl
import sys
from contextlib import suppress

_HEAD = b"POST /v1/boot HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
_KINDS = (b"", _HEAD[:20], _HEAD, b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
_PAUSE_S = 3.0
#: Opening them anew without a rest would be a flood of handshakes, which is not what is tried here.
_REST_S = 15.0


class Slow:
    """All connections, and how many of them were opened so far."""

    def __init__(self, port: int, count: int, sources: int) -> None:
        self.port = port
        self.count = count
        self.all_opened = asyncio.Event()
        self.sources = sources
        self.opened = 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        self.gate = asyncio.Semaphore(64)

    async def one(self, number: int) -> None:
        """Be one slow connection after another."""
        source = f"127.0.1.{1 + number % self.sources}"
        first = True
        while True:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with self.gate:
                    opening = asyncio.open_connection(
                        "127.0.0.1", self.port, ssl=self.context, local_addr=(source, 0), limit=64
                    )
                    reader, writer = await asyncio.wait_for(opening, 20)
                if first:
                    self.opened, first = self.opened + 1, False
                    if self.opened == self.count:
                        self.all_opened.set()
                await self._drip(reader, writer, _KINDS[number % len(_KINDS)])
            await asyncio.sleep(_REST_S)

    async def _drip(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begun: bytes) -> None:
        try:
            writer.write(begun)
            while not reader.at_eof():
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), 0.01)
                if begun in _KINDS[1:3]:
                    writer.write(b"x")
                await asyncio.sleep(_PAUSE_S)
        finally:
            writer.transport.abort()


async def hold(port: int, count: int, sources: int) -> None:
    """Hold them until the input ends."""
    slow = Slow(port, count, sources)
    tasks = [asyncio.create_task(slow.one(number)) for number in range(count)]
    await slow.all_opened.wait()
    sys.stdout.write("all were opened\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    asyncio.run(hold(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
