"""Consumers that ask for one inference after another, each in a thread with a connection of its own."""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.e2e.model import one_digit
from tests.e2e.world import Connection, World


@dataclass
class Load:
    """What came back so far, with the time (monotonic) at which it had arrived."""

    answered_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    broken: int = 0
    pause_s: float = 0.0
    end: threading.Event = field(default_factory=threading.Event)

    def answered(self) -> int:
        """Return how many answers have arrived."""
        return len(self.answered_s)

    def ask(self, world: World, port: int | None = None) -> None:
        """Ask until it is ended; a broken connection is opened again."""
        connection: Connection | None = None
        body = one_digit()
        while not self.end.is_set():
            try:
                connection = connection or world.connect(port)
                status = connection.infer(body).status
            except (OSError, http.client.HTTPException):
                self.broken += 1
                connection = None
                self.end.wait(0.05)
                continue
            at_s = time.monotonic()
            (self.answered_s if status == 200 else self.refused_s).append(at_s)
            self.statuses[status] = self.statuses.get(status, 0) + 1
            self.end.wait(self.pause_s if status == 200 else 0.01)


@contextmanager
def load(world: World, consumers: int, pause_s: float = 0.0, ports: tuple[int | None, ...] = (None,)) -> Iterator[Load]:
    """Ask each enclave with so many consumers until the block ends; every answer has been read then."""
    asking = Load(pause_s=pause_s)
    threads = [
        threading.Thread(target=asking.ask, args=(world, port), daemon=True) for port in ports for _ in range(consumers)
    ]
    for thread in threads:
        thread.start()
    try:
        yield asking
    finally:
        asking.end.set()
        for thread in threads:
            thread.join(120)
