"""A balancer of connections: each goes to the next of several servers, and none lasts for long."""

import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count

_BYTES = 1 << 16


class Turns:
    """Takes connections, and gives each to the server whose turn it is, for so long at most."""

    def __init__(self, ports: list[int], lasting_s: float) -> None:
        self.ports = ports
        #: How often each server answered something.
        self.served: Counter[int] = Counter()
        self._lasting_s = lasting_s
        self._turn = count()
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._take, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """End it, and every connection."""
        self._over.set()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _take(self) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError):
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._carry, args=(client,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _carry(self, client: socket.socket) -> None:
        port = self.ports[next(self._turn) % len(self.ports)]
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", port)) as server:
            until_s = time.monotonic() + self._lasting_s
            while not self._over.is_set() and (left_s := until_s - time.monotonic()) > 0:
                for one in select.select([client, server], [], [], min(left_s, 0.1))[0]:
                    data = one.recv(_BYTES)
                    if not data:
                        return
                    self.served[port] += one is server
                    (client if one is server else server).sendall(data)


@contextmanager
def turns(ports: list[int], lasting_s: float) -> Iterator[Turns]:
    """Yield a balancer over these ports, to which more may be added."""
    balancer = Turns(ports, lasting_s)
    try:
        yield balancer
    finally:
        balancer.close()
