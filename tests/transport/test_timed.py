"""A connection is given up in time, however many addresses a name has."""

import socket
import time
from collections.abc import Iterator

import httpcore
import pytest

from aigovtool.transport import timed

#: Loopback addresses at which nobody takes a connection: a listener whose queue is full drops what comes.
PLACES = [f"127.0.0.{number}" for number in range(2, 10)]


@pytest.fixture
def full() -> Iterator[int]:
    """Return a port on which each of `PLACES` neither takes a connection nor refuses one."""
    opened = [socket.create_server((PLACES[0], 0), backlog=0)]
    port = int(opened[0].getsockname()[1])
    opened += [socket.create_server((place, port), backlog=0) for place in PLACES[1:]]
    for place in PLACES:
        for _ in range(2):
            opened.append(socket.socket())
            opened[-1].setblocking(False)
            opened[-1].connect_ex((place, port))
    yield port
    for each in opened:
        each.close()


def test_addresses_of_a_name_share_the_time(full: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: whoever answers for a name gives eight addresses that are silent; each had the time of one."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, full)) for place in PLACES]
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *args, **kwargs: found if host == "many.example" else resolve(host, *args, **kwargs),
    )
    began = time.monotonic()
    with pytest.raises(httpcore.ConnectTimeout):
        timed._TimedBackend().connect_tcp("many.example", full, timeout=0.5)
    assert time.monotonic() - began < 2


def test_the_next_address_is_tried_when_one_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was: a name leads to whichever address answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, port)) for place in ("127.0.0.9", "127.0.0.1")]
        resolve = socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *a, **k: found if host == "two.example" else resolve(host, *a, **k)
        )
        timed._TimedBackend().connect_tcp("two.example", port, timeout=2.0).close()


def test_a_silent_address_leaves_time_for_the_next(full: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a network has no way for IPv6: the first address takes its share, and no more."""
    resolve = socket.getaddrinfo
    with socket.create_server(("127.0.1.1", full)):
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, full)) for place in (PLACES[0], "127.0.1.1")]
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *a, **k: found if host == "two.example" else resolve(host, *a, **k)
        )
        timed._TimedBackend().connect_tcp("two.example", full, timeout=1.0).close()


def test_a_name_that_nobody_knows_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the transport, as for an address that refuses."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(httpcore.ConnectError):
        timed._TimedBackend().connect_tcp("nobody.example", 1, timeout=1.0)
