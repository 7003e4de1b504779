"""Accepting connections on a listening socket, and stopping in bounded time.

The server accepts by itself, one handshake task per connection, because the event loop's own acceptor neither
counts connections whose handshake is not over nor lets the certificate change. It installs no signal
handler, starts no thread, writes no access log, and does not own the socket: an enclave that attests again
stops one server and starts another, with a new certificate, on the same socket, and whoever connects
in between waits in the socket's queue.

Whoever connects has proven nothing until its handshake is over, so a handshake that is silent is worth least: where
there is no place left, of its address or in all, a new one takes the place of the oldest that has had its time, or of
an address that has more than its own. Only if there is none, the new one is closed at once.

```python
listener = bind("127.0.0.1", 0)
async with HttpServer(application, listener, tls):
    await stopped.wait()
```
"""

import asyncio
import asyncio.sslproto
import logging
import socket
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from aigovtool import limits
from aigovtool.errors import ConfigurationError
from aigovtool.transport.bounds import HttpLimits
from aigovtool.transport.connection import Tally, network_of
from aigovtool.transport.fast_path import FastPath
from aigovtool.transport.guard import Application, GuardedHttpProtocol
from aigovtool.transport.notices import Notices
from aigovtool.transport.rounds import Rounds
from aigovtool.transport.tls import ServerTls

_LOG: Final = logging.getLogger(__name__)
_BACKLOG: Final = 512
_GRACE_S: Final = 5.0
# What asyncio keeps of memory for each TLS connection, to read into: its 256 KiB were nine tenths of what a connection
# took here. Two records of TLS fit, and uploads are no slower. It is for all connections of the process.
_TLS_READ_BYTES: Final = 32 << 10
asyncio.sslproto.SSLProtocol.max_size = _TLS_READ_BYTES
# When descriptors run out, accepting is tried again after this pause instead of spinning.
_ACCEPT_PAUSE_S: Final = 0.2


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises:
        ConfigurationError: `cannot_bind`.
    """
    if not 0 <= port <= 65535:  # the C library would quietly take it modulo 65536
        raise ConfigurationError(f"there is no port {port}", reason="cannot_bind")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _cannot_bind(host, port, error) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_bind(host, port, error) from None
    return listener


def bind_loopback() -> socket.socket:
    """Return a socket that listens on a free port of 127.0.0.1."""
    return bind("127.0.0.1", 0)


class Handshakes:
    """Handshakes under way, of each network the oldest first."""

    def __init__(self, bounds: HttpLimits, notices: Notices) -> None:
        self._bounds: Final = bounds
        self._notices: Final = notices
        self._networks: Final[dict[str, dict[asyncio.Task[None], float]]] = {}
        self._count = 0

    def make_room(self, network: str) -> bool:
        """Return whether one more may begin, if need be in the place of one that is ended here."""
        own = len(self._networks.get(network, ()))
        if own >= self._bounds.max_handshakes_per_address:
            return self._end_one([network], own)
        if self._count >= self._bounds.max_handshakes:
            return self._end_one(sorted(self._networks, key=lambda one: -len(self._networks[one])), own)
        return True

    def began(self, network: str, handshake: "asyncio.Task[None]") -> None:
        """Count a handshake, until it is done."""
        self._networks.setdefault(network, {})[handshake] = asyncio.get_running_loop().time()
        self._count += 1
        handshake.add_done_callback(partial(self._ended, network))

    def _ended(self, network: str, handshake: "asyncio.Task[None]") -> None:
        begun = self._networks.get(network, {})
        if begun.pop(handshake, None) is not None:
            self._count -= 1
        if not begun:
            self._networks.pop(network, None)

    def _end_one(self, networks: list[str], own: int) -> bool:
        """End one for an address that has `own`: one that has had its time, or whose address has more even then."""
        late = asyncio.get_running_loop().time() - self._bounds.handshake_patience_s
        for network in networks:
            oldest, began = next(iter(self._networks[network].items()))
            if began <= late or len(self._networks[network]) > own + 1:
                oldest.cancel()
                self._ended(network, oldest)
                self._notices.note(network, "handshake_ended_for_another")
                return True
        return False


class HttpServer:
    """Serves one ASGI application on one listening socket, from `start` to `stop`; not to be used again.

    Without `tls` it speaks plain HTTP, for a listener that only this machine reaches.
    """

    def __init__(
        self,
        application: Application,
        listener: socket.socket,
        tls: ServerTls | None,
        bounds: HttpLimits | None = None,
        *,
        fast_path: FastPath | None = None,
    ) -> None:
        self._fast_path: Final = fast_path
        self._listener: Final = listener
        self._tls = tls
        self._bounds: Final = bounds or HttpLimits()
        self._config: Final = http_config(application)
        self._state: Final = ServerState()
        self._notices: Final = Notices(_LOG, period_s=self._bounds.notice_period_s)
        self._clients: Final = Tally(
            self._bounds.max_connections_per_client,
            in_all=self._bounds.max_connections,
            strangers=self._bounds.max_strangers,
            strangers_of_address=self._bounds.max_strangers_per_address,
            told=self._bounds.max_refusals_told,
            notices=self._notices,
        )
        self._rounds: Final = Rounds(limits.MAX_REQUESTS_IN_A_ROUND)
        self._handshakes: Final = Handshakes(self._bounds, self._notices)
        #: All handshakes, also those that were ended and do not know it yet.
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._accepting = False
        self._changed: Final = asyncio.Event()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that the server listens on."""
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    @property
    def connections(self) -> int:
        """How many connections are open, without handshakes."""
        return len(self._state.connections)

    def replace_tls(self, tls: ServerTls) -> None:
        """Use `tls` for connections accepted from now on: new certificate, new authorities.

        Who has shown a certificate of an authority that is not accepted any more gets the answer under way, no other.
        """
        if self._tls is None:
            raise ConfigurationError("a server without TLS cannot rotate certificates", reason="no_tls")
        before, self._tls = self._tls, tls
        if tls.accepts_fewer(before):
            for connection in self._open():
                self._end_unless_accepted(connection, tls)

    @staticmethod
    def _end_unless_accepted(connection: GuardedHttpProtocol, tls: ServerTls) -> None:
        if not tls.accepts(connection.peer_certificate):
            connection.shutdown()

    async def start(self) -> None:
        """Begin to accept; returns at once."""
        self._listener.setblocking(False)
        self._accepting = True
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    async def stop(self, grace_s: float = _GRACE_S) -> None:
        """Stop accepting, let answers under way end within `grace_s` seconds, then cut off the rest."""
        if self._accepting:
            self._accepting = False
            asyncio.get_running_loop().remove_reader(self._listener)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in self._open():
            connection.shutdown()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while self._state.connections:
                    self._changed.clear()
                    await self._changed.wait()
        await self._cut_off()
        self._notices.close()

    async def _cut_off(self) -> None:
        tasks = list(self._state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in self._open():
            connection.transport.abort()
        while self._state.connections:  # each tells us through connection_lost, in the next turn of the loop
            self._changed.clear()
            await self._changed.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def _open(self) -> list[GuardedHttpProtocol]:
        return cast("list[GuardedHttpProtocol]", list(self._state.connections))

    def _accept(self) -> None:
        # A callback, not a task in `sock_accept`: one that is cancelled in the moment in which a connection comes loses
        # it unclosed, and whoever connected would wait for ever. The next server finds it in the queue instead.
        try:
            peer, address = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:  # too many open files, for example: what is queued can wait
            _LOG.warning("accept_failed errno=%s", error.errno)
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener)
            loop.call_later(_ACCEPT_PAUSE_S, self._accept_again)
            return
        peer.setblocking(False)
        network = network_of(address[0])
        if not self._handshakes.make_room(network):
            self._notices.note(network, "handshake_refused")
            peer.close()
            return
        task = asyncio.create_task(self._shake_hands(peer, network), name="handshake")
        self._handshakes.began(network, task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A task that is cancelled before its first step never sees its socket.
        task.add_done_callback(partial(_close_if_cancelled, peer))

    def _accept_again(self) -> None:
        if self._accepting:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    async def _shake_hands(self, peer: socket.socket, network: str) -> None:
        tls = self._tls

        def protocol() -> GuardedHttpProtocol:
            return GuardedHttpProtocol(
                self._config,
                self._state,
                bounds=self._bounds,
                server_spki_sha256=None if tls is None else tls.spki_sha256,
                clients=self._clients,
                rounds=self._rounds,
                notices=self._notices,
                on_lost=self._changed.set,
                fast_path=self._fast_path,
            )

        try:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _, accepted = await asyncio.get_running_loop().connect_accepted_socket(
                protocol,
                peer,
                ssl=None if tls is None else tls.context,
                ssl_handshake_timeout=None if tls is None else self._bounds.handshake_timeout_s,
            )
            if tls is not None and self._tls is not None and self._tls.accepts_fewer(tls):
                self._end_unless_accepted(accepted, self._tls)  # its authority was given up meanwhile
        except OSError:  # ssl.SSLError is one: a foreign authority, another protocol, a reset
            self._notices.note(network, "handshake_failed")
            peer.close()


def _close_if_cancelled(peer: socket.socket, handshake: asyncio.Task[None]) -> None:
    if handshake.cancelled():
        peer.close()


def http_config(application: Application) -> Config:
    """Return how connections speak HTTP: one version of it, no other protocol, no header that we did not write."""
    config = Config(
        cast("Any", application),
        interface="asgi3",
        http=GuardedHttpProtocol,
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )
    config.load()
    return config


def _cannot_bind(host: str, port: int, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"cannot listen on {host} port {port}: {error.strerror}",
        reason="cannot_bind",
    )
