"""Several threads or tasks share a client, and one of them attests another enclave while others wait for answers."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import urlsplit

import numpy as np
import pytest
from tests.consumer.conftest import MODEL, FakeEnclave, World

from aigovtool.consumer import AsyncClient, Client

X = np.ones((1, 2), dtype=np.float32)


class Switch:
    """One address with several enclaves behind it; the host chooses which, and holds answers of the first one back."""

    def __init__(self, first: FakeEnclave) -> None:
        self.enclave = first
        self._first = first
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self.answers_pass = threading.Event()
        self.answers_pass.set()
        self.held_one = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Cut every connection, and wait for the threads."""
        self.answers_pass.set()
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                url = urlsplit(self.enclave.url)
                server = socket.create_connection((url.hostname, url.port))
                self._sockets += [client, server]
                held = self.enclave is self._first
                for source, sink, is_held in ((client, server, False), (server, client, held)):
                    self._threads.append(
                        threading.Thread(target=self._pass_on, args=(source, sink), kwargs={"held": is_held})
                    )
                    self._threads[-1].start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, *, held: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if held and not self.answers_pass.is_set():
                    self.held_one.set()
                    self.answers_pass.wait()
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def switch(enclave: FakeEnclave) -> Iterator[Switch]:
    """Return the address of an enclave that its host can lead to another one."""
    switch = Switch(enclave)
    yield switch
    switch.close()


def test_an_answer_on_its_way_is_not_lost_when_another_thread_attests(world: World, switch: Switch) -> None:
    """What one thread replaces, another still reads from: its answer was paid for, and comes."""
    with Client.connect(switch.url, world.file, allow_simulated=True) as client, ThreadPoolExecutor(1) as threads:
        first = client.models() and client.instance
        switch.answers_pass.clear()
        slow = threads.submit(client.infer, MODEL, X, request_id="slow", deadline_s=15.0)
        assert switch.held_one.wait(10)
        switch.enclave = world.enclave()
        assert client.infer(MODEL, X).statement.instance == client.instance != first
        switch.answers_pass.set()
        assert slow.result(20).statement.instance == first


async def test_an_answer_on_its_way_is_not_lost_when_another_task_attests(world: World, switch: Switch) -> None:
    """The two drivers agree."""
    async with await AsyncClient.connect(switch.url, world.file, allow_simulated=True) as client:
        first = await client.models() and client.instance
        switch.answers_pass.clear()
        slow = asyncio.create_task(client.infer(MODEL, X, request_id="slow", deadline_s=15.0))
        assert await asyncio.to_thread(switch.held_one.wait, 10)
        switch.enclave = world.enclave()
        assert (await client.infer(MODEL, X)).statement.instance == client.instance != first
        switch.answers_pass.set()
        assert (await slow).statement.instance == first


def test_closing_a_client_leaves_nobody_with_a_descriptor_of_somebody_else(world: World, switch: Switch) -> None:
    """A number that is given up while a thread reads from it would be that of the next file which is opened."""
    with ThreadPoolExecutor(1) as threads:
        client = Client.connect(switch.url, world.file, allow_simulated=True)
        client.models()
        switch.answers_pass.clear()
        slow = threads.submit(client.infer, MODEL, X, request_id="slow", deadline_s=15.0)
        assert switch.held_one.wait(10)
        client.close()
        switch.answers_pass.set()
        assert slow.result(20).units_remaining == 9
