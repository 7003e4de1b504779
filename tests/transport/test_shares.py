"""Connections and handshakes are shared: nobody who takes all that one may have shuts others out."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from tests.transport.conftest import World, all_closed, ask, connected, exchange, served

from aigovtool.crypto.identity import IdentityKind
from aigovtool.transport.bounds import HttpLimits
from aigovtool.transport.connection import Connection, network_of
from aigovtool.transport.server import HttpServer

WHOAMI = b"GET /whoami HTTP/1.1\r\nHost: a\r\n\r\n"
CONSUMER, OPERATOR = IdentityKind.CONSUMER, IdentityKind.OPERATOR


# --- Connections of one client -----------------------------------------------------------------


@asynccontextmanager
async def open_connections(server: HttpServer, context: ssl.SSLContext, count: int) -> AsyncIterator[None]:
    """Hold connections that have been answered once, as a pool of a client does."""
    async with AsyncExitStack() as stack:
        for _ in range(count):
            reader, writer = await stack.enter_async_context(connected(server, context))
            writer.write(WHOAMI)
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        yield


async def test_a_client_with_too_many_connections_is_told_so(world: World) -> None:
    """Ann has her two, also with a second certificate; Ben, Ann the operator and strangers are served."""
    first, second = (world.client(world.credential(CONSUMER, "ann")) for _ in range(2))
    others = [world.client(world.credential(kind, name)) for kind, name in ((CONSUMER, "ben"), (OPERATOR, "ann"))]
    async with served(world, HttpLimits(max_connections_per_client=2, linger_s=0.05)) as server:
        async with open_connections(server, first, 1), open_connections(server, second, 1):
            for context in (first, second):
                (answer,) = await exchange(server, context)
                assert answer.status == 429
                assert b'"connections_of_client"' in answer.body
                assert answer.headers["retry-after"] == "1"
            for context in (*others, world.client()):
                assert (await ask(server, context, "/hello")).status == 200
        await all_closed(server)
        assert (await ask(server, first, "/whoami")).status == 200
        await all_closed(server)
        assert server._clients._counts == {}


async def test_a_crowd_with_credentials_does_not_keep_an_operator_out(world: World) -> None:
    """Each holds all that one may hold, and asks for nothing: revoked consumers can, too. A stop gets through."""
    crowd = [world.client(world.credential(CONSUMER, f"c{number}")) for number in range(7)]
    bounds = HttpLimits(max_connections=16, max_connections_per_client=2, linger_s=0.05)
    async with served(world, bounds) as server, AsyncExitStack() as stack:
        for one in crowd:
            await stack.enter_async_context(open_connections(server, one, 2))
        for kind, name in ((OPERATOR, "ann"), (CONSUMER, "late")):
            assert (await ask(server, world.client(world.credential(kind, name)), "/hello")).status == 200
        assert server.connections <= 14


async def test_a_refused_connection_takes_nobodys_place(world: World) -> None:
    """However often one asks while it has all that it may have."""
    ann = world.client(world.credential(CONSUMER, "ann"))
    async with served(world, HttpLimits(max_connections_per_client=1, linger_s=0.05)) as server:
        async with open_connections(server, ann, 1):
            for _ in range(3):
                assert (await exchange(server, ann))[0].status == 429
        await all_closed(server)
        async with open_connections(server, ann, 1):
            pass


def test_whose_connection_it_is_does_not_depend_on_the_time(world: World) -> None:
    """An expired credential proves a key as well; one that names nobody is counted with its like."""

    def client(certificate: bytes | None) -> str | None:
        return Connection(peer=None, peer_certificate=certificate, server_spki_sha256=None).client

    certificate, _ = world.credential(CONSUMER, "ann", offset_ms=-(10**8))
    assert client(certificate) == client(world.credential(CONSUMER, "ann")[0]) == "consumer:ann"
    assert client(None) is None
    assert client(b"no certificate") == client(world.server_certificate) == "unreadable"


# --- Handshakes of one address -----------------------------------------------------------------


@asynccontextmanager
async def silent(server: HttpServer, *addresses: str) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Hold sockets from these addresses that never begin TLS, once the server has them all."""
    async with AsyncExitStack() as stack:
        readers = []
        for address in addresses:
            reader, writer = await asyncio.open_connection(*server.address, local_addr=(address, 0))
            stack.callback(writer.close)
            readers.append(reader)
            await asyncio.sleep(0)
        yield readers


async def closed(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(10):
        return await reader.read(-1) == b""


HERE, THERE = "127.0.0.1", "127.0.0.2"


async def test_silent_sockets_of_one_address_shut_nobody_else_out(world: World) -> None:
    """Beyond its share a new one is closed at once; from elsewhere everything works."""
    bounds = HttpLimits(max_handshakes=4, max_handshakes_per_address=2, handshake_patience_s=100)
    async with served(world, bounds) as server, silent(server, THERE, THERE, THERE) as readers:
        assert await closed(readers[2])
        assert not any(reader.at_eof() for reader in readers[:2])
        assert (await ask(server, world.client(), "/hello")).status == 200


@pytest.mark.parametrize("bounds", [{"max_handshakes_per_address": 2}, {"max_handshakes": 2}])
async def test_whoever_comes_takes_the_place_of_one_that_is_silent(bounds: dict[str, int], world: World) -> None:
    """Many clients may share an address with one that sends nothing: it loses its place, and they are served."""
    limits = HttpLimits(handshake_patience_s=0, handshake_timeout_s=100, **bounds)
    async with served(world, limits) as server, silent(server, HERE, HERE) as readers:
        assert (await ask(server, world.client(), "/hello")).status == 200
        assert await closed(readers[0])
        assert not readers[1].at_eof()


async def test_when_all_is_full_the_greediest_address_loses_first(world: World) -> None:
    """One that waits for its only handshake is not thrown out for one that has many."""
    limits = HttpLimits(max_handshakes=3, handshake_patience_s=0, handshake_timeout_s=100)
    async with served(world, limits) as server, silent(server, THERE, HERE, HERE, "127.0.0.3") as readers:
        assert await closed(readers[1])
        assert not any(readers[index].at_eof() for index in (0, 2, 3))


async def test_whoever_has_fewer_need_not_wait_until_others_have_had_their_time(world: World) -> None:
    """Two addresses that open sockets as fast as they can and send nothing shut nobody out for a moment."""
    limits = HttpLimits(max_handshakes=4, handshake_patience_s=100, handshake_timeout_s=100)
    async with (
        served(world, limits) as server,
        silent(server, THERE, THERE, "127.0.0.3", "127.0.0.3") as readers,
    ):
        assert (await ask(server, world.client(), "/hello")).status == 200
        assert await closed(readers[0])
        assert not any(reader.at_eof() for reader in readers[1:])


async def test_addresses_that_have_as_many_do_not_end_each_others_handshakes(world: World) -> None:
    """Else two of them would take turns, and none would ever end."""
    limits = HttpLimits(max_handshakes=4, handshake_patience_s=100, handshake_timeout_s=100)
    sources = [THERE, "127.0.0.3", THERE, "127.0.0.3", "127.0.0.4", "127.0.0.4"]
    async with served(world, limits) as server, silent(server, *sources) as readers:
        assert await closed(readers[0])
        assert await closed(readers[5])
        assert not any(reader.at_eof() for reader in readers[1:5])


async def test_what_waits_is_ended_with_the_server(world: World) -> None:
    """Handshakes under way, and those that have just lost their place: of none anything is left."""
    limits = HttpLimits(max_handshakes=2, handshake_patience_s=0, handshake_timeout_s=100)
    async with served(world, limits) as server, silent(server, HERE, HERE, HERE) as readers:
        await server.stop()
        for reader in readers:
            assert await closed(reader)
        assert (server._handshakes._networks, server._tasks) == ({}, set())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_an_address_is_what_one_subscriber_has(one: str, other: str, same: bool) -> None:  # noqa: FBT001 -- case
    """Of IPv6 everybody has 2**64 addresses at least."""
    assert (network_of(one) == network_of(other)) is same
